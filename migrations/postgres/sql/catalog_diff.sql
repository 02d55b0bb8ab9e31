-- name: lines
-- What the catalog says of a table, a line for each property that a change of another property must not take away. Runs with
-- an empty search_path, so that what is deparsed is always written in the same way.
WITH one AS (
    SELECT c.* FROM pg_class c WHERE c.oid = %(oid)s::bigint::oid
), attributes AS (
    -- PostgreSQL's own options, which it writes since its minor releases of November 2026, differ for each table (pg_attver).
    SELECT a.*, d.adbin, d.adrelid,
           ARRAY(SELECT o FROM unnest(a.attoptions) o WHERE o NOT LIKE 'pg\_%%') AS options FROM one
    JOIN pg_attribute a ON a.attrelid = one.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
), relations AS (
    SELECT DISTINCT r.ev_class AS oid FROM one
    JOIN pg_depend e ON e.refclassid = 'pg_class'::regclass AND e.refobjid = one.oid AND e.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = e.objid WHERE r.ev_class <> one.oid
)
SELECT 'column' AS kind, a.attname::text AS name,
       format('%%s, identity %%L, generated %%L, collation %%s, storage %%s, compression %%L', format_type(a.atttypid, a.atttypmod),
              a.attidentity, a.attgenerated, a.attcollation::regcollation, a.attstorage, a.attcompression) AS definition
FROM attributes a
UNION ALL SELECT 'default', a.attname, pg_get_expr(a.adbin, a.adrelid) FROM attributes a WHERE a.adbin IS NOT NULL
UNION ALL SELECT 'not null', a.attname, '' FROM attributes a WHERE a.attnotnull
UNION ALL SELECT 'column grant', a.attname, g.acl::text FROM attributes a CROSS JOIN LATERAL unnest(a.attacl) g(acl)
UNION ALL SELECT 'column comment', a.attname, col_description(a.attrelid, a.attnum)
    FROM attributes a WHERE col_description(a.attrelid, a.attnum) IS NOT NULL
UNION ALL SELECT 'column options', a.attname, concat_ws(' ', nullif(a.attstattarget, -1), nullif(a.options, '{}')::text)
    FROM attributes a WHERE nullif(a.attstattarget, -1) IS NOT NULL OR a.options <> '{}'
UNION ALL SELECT 'constraint', c.conname,
       concat_ws(' ', pg_get_constraintdef(c.oid), CASE WHEN NOT c.convalidated THEN 'not validated' END,
                 'comment ' || quote_literal(obj_description(c.oid, 'pg_constraint')))
    FROM one JOIN pg_constraint c ON c.conrelid = one.oid WHERE c.contype <> 'n'
UNION ALL SELECT 'inbound foreign key', format('%%s of %%s', c.conname, c.conrelid::regclass),
       concat_ws(' ', pg_get_constraintdef(c.oid), CASE WHEN NOT c.convalidated THEN 'not validated' END)
    FROM one JOIN pg_constraint c ON c.confrelid = one.oid AND c.contype = 'f' AND c.conrelid <> one.oid
UNION ALL SELECT 'index', x.relname,
       concat_ws(' ', pg_get_indexdef(i.indexrelid), CASE WHEN NOT i.indisvalid THEN 'invalid' END,
                 CASE WHEN i.indisclustered THEN 'clustered' END, CASE WHEN i.indisreplident THEN 'replica identity' END,
                 'comment ' || quote_literal(obj_description(x.oid, 'pg_class')))
    FROM one JOIN pg_index i ON i.indrelid = one.oid JOIN pg_class x ON x.oid = i.indexrelid
UNION ALL SELECT 'trigger', t.tgname,
       concat_ws(' ', pg_get_triggerdef(t.oid), 'enabled ' || t.tgenabled::text, 'comment ' || quote_literal(obj_description(t.oid, 'pg_trigger')))
    FROM one JOIN pg_trigger t ON t.tgrelid = one.oid AND NOT t.tgisinternal
UNION ALL SELECT 'rule', r.rulename, pg_get_ruledef(r.oid)
    FROM one JOIN pg_rewrite r ON r.ev_class = one.oid WHERE one.relkind <> 'v'
UNION ALL SELECT 'policy', p.polname,
       concat_ws(' ', CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END, 'for ' || p.polcmd::text,
                 'to ' || (SELECT string_agg(CASE WHEN r.oid = 0 THEN 'public' ELSE quote_ident(pg_get_userbyid(r.oid)) END, ', '
                                             ORDER BY r.oid) FROM unnest(p.polroles) r(oid)),
                 'using (' || pg_get_expr(p.polqual, p.polrelid) || ')',
                 'with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')',
                 'comment ' || quote_literal(obj_description(p.oid, 'pg_policy')))
    FROM one JOIN pg_policy p ON p.polrelid = one.oid
UNION ALL SELECT 'grant', '', g.acl::text
    FROM one CROSS JOIN LATERAL unnest(coalesce(one.relacl, acldefault('r', one.relowner))) g(acl)
UNION ALL SELECT 'table', '',
       concat_ws(' ', 'owner ' || one.relowner::regrole::text, 'row security ' || one.relrowsecurity::text, 'forced ' || one.relforcerowsecurity::text,
                 'replica identity ' || one.relreplident::text, 'persistence ' || one.relpersistence::text,
                 'access method ' || one.relam::text, 'options ' || one.reloptions::text,
                 'comment ' || quote_literal(obj_description(one.oid, 'pg_class')))
    FROM one
UNION ALL SELECT 'publication', p.pubname,
       concat_ws(' ', 'columns ' || (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM attributes a
                                     WHERE a.attnum::text = ANY (string_to_array(trim(regexp_replace(
                                         to_jsonb(r) ->> 'prattrs', '[^0-9]+', ' ', 'g')), ' '))),
                 -- Not by name: PostgreSQL 14 has no such column.
                 'where ' || (SELECT to_jsonb(t) ->> 'rowfilter' FROM pg_publication_tables t
                              WHERE t.pubname = p.pubname AND t.tablename = one.relname
                                AND t.schemaname = (SELECT n.nspname FROM pg_namespace n WHERE n.oid = one.relnamespace)))
    FROM one JOIN pg_publication_rel r ON r.prrelid = one.oid JOIN pg_publication p ON p.oid = r.prpubid
UNION ALL SELECT 'statistics', s.stxname, pg_get_statisticsobjdef(s.oid)
    FROM one JOIN pg_statistic_ext s ON s.stxrelid = one.oid
UNION ALL SELECT 'sequence', a.attname, d.objid::regclass::text
    FROM attributes a JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid
        AND d.refobjsubid = a.attnum AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
UNION ALL SELECT 'parent', i.inhparent::regclass::text, coalesce(pg_get_expr(one.relpartbound, one.oid), '')
    FROM one JOIN pg_inherits i ON i.inhrelid = one.oid
UNION ALL SELECT 'security label', l.provider, l.objsubid || ' ' || l.label
    FROM one JOIN pg_seclabel l ON l.objoid = one.oid AND l.classoid = 'pg_class'::regclass
UNION ALL SELECT 'view', v.oid::regclass::text,
       concat_ws(' ', 'owner ' || v.relowner::regrole::text, 'options ' || v.reloptions::text,
                 'grants ' || (SELECT string_agg(g.acl::text, ', ' ORDER BY g.acl::text) FROM unnest(v.relacl) g(acl)),
                 'comment ' || quote_literal(obj_description(v.oid, 'pg_class')))
    FROM relations JOIN pg_class v ON v.oid = relations.oid
UNION ALL SELECT DISTINCT 'dependent', pg_describe_object(d.classid, d.objid, 0), ''
    FROM one JOIN pg_depend d ON d.classid IN ('pg_proc'::regclass, 'pg_policy'::regclass)
        AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = one.oid
             OR d.refclassid = 'pg_type'::regclass AND d.refobjid = one.reltype)
    WHERE d.deptype = 'n'
      AND NOT EXISTS (SELECT FROM pg_policy p WHERE d.classid = 'pg_policy'::regclass AND p.oid = d.objid AND p.polrelid = one.oid)
ORDER BY 1, 2, 3
