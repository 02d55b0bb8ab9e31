-- name: of_table
-- What hangs on a table, and on which of its columns. Functions whose bodies are text are found by the words in them.
WITH one AS (
    SELECT c.*, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %(oid)s::bigint::oid
), columns AS (
    SELECT a.* FROM one JOIN pg_attribute a ON a.attrelid = one.oid AND a.attnum > 0 AND NOT a.attisdropped
), used AS (
    SELECT d.classid, d.objid, array_agg(DISTINCT a.attname::text) FILTER (WHERE a.attnum IS NOT NULL) AS columns
    FROM one JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = one.oid
    LEFT JOIN columns a ON a.attnum = d.refobjsubid
    GROUP BY d.classid, d.objid
), relations AS (
    SELECT r.ev_class AS oid, array_agg(DISTINCT k.name) FILTER (WHERE k.name IS NOT NULL) AS columns
    FROM used u JOIN pg_rewrite r ON u.classid = 'pg_rewrite'::regclass AND r.oid = u.objid
    CROSS JOIN one LEFT JOIN LATERAL unnest(u.columns) k(name) ON true
    WHERE r.ev_class <> one.oid GROUP BY r.ev_class
), spelled AS (
    -- A name as a pattern: whole, in any case, with or without quotes.
    SELECT '(^|\W)' || regexp_replace(one.relname, '(\W)', '\\\1', 'g') || '(\W|$)' AS pattern FROM one
)
SELECT CASE v.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END AS kind, v.oid::regclass::text AS name,
       coalesce(r.columns, '{}') AS columns, '' AS detail
FROM relations r JOIN pg_class v ON v.oid = r.oid
UNION ALL
SELECT 'rule', w.rulename, coalesce(u.columns, '{}'), ''
FROM one JOIN pg_rewrite w ON w.ev_class = one.oid AND one.relkind IN ('r', 'p')
LEFT JOIN used u ON u.classid = 'pg_rewrite'::regclass AND u.objid = w.oid
UNION ALL
SELECT 'function', p.oid::regprocedure::text, coalesce(u.columns, '{}'), 'parsed'
FROM used u JOIN pg_proc p ON u.classid = 'pg_proc'::regclass AND p.oid = u.objid
UNION ALL
SELECT 'function', p.oid::regprocedure::text,
       coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM columns a
                 WHERE p.prosrc ~* ('(^|\W)' || regexp_replace(a.attname, '(\W)', '\\\1', 'g') || '(\W|$)')), '{}'), 'text'
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('c', 'internal')
JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'backfilld')
CROSS JOIN spelled
WHERE p.prosrc ~* spelled.pattern
   OR p.oid IN (SELECT t.tgfoid FROM one JOIN pg_trigger t ON t.tgrelid = one.oid AND NOT t.tgisinternal)
UNION ALL
SELECT 'policy', p.polname, coalesce(u.columns, '{}'), ''
FROM one JOIN pg_policy p ON p.polrelid = one.oid
LEFT JOIN used u ON u.classid = 'pg_policy'::regclass AND u.objid = p.oid
UNION ALL
SELECT 'policy', format('%%s of %%s', p.polname, p.polrelid::regclass), coalesce(u.columns, '{}'), 'of another table'
FROM one CROSS JOIN used u JOIN pg_policy p ON u.classid = 'pg_policy'::regclass AND p.oid = u.objid AND p.polrelid <> one.oid
UNION ALL
SELECT 'index', x.relname,
       (SELECT coalesce(array_agg(DISTINCT a.attname::text), '{}') FROM columns a
        WHERE a.attnum = ANY (i.indkey::smallint[]) OR a.attname = ANY (u.columns)),
       CASE WHEN NOT i.indisvalid THEN 'invalid' ELSE '' END
FROM one JOIN pg_index i ON i.indrelid = one.oid JOIN pg_class x ON x.oid = i.indexrelid
LEFT JOIN used u ON u.classid = 'pg_class'::regclass AND u.objid = x.oid
UNION ALL
SELECT CASE c.contype WHEN 'f' THEN 'foreign key' ELSE 'constraint' END, c.conname,
       (SELECT coalesce(array_agg(a.attname::text), '{}') FROM columns a WHERE a.attnum = ANY (c.conkey)), pg_get_constraintdef(c.oid)
FROM one JOIN pg_constraint c ON c.conrelid = one.oid AND c.contype <> 'n'
UNION ALL
SELECT 'inbound foreign key', format('%%s of %%s', c.conname, c.conrelid::regclass),
       (SELECT coalesce(array_agg(a.attname::text), '{}') FROM columns a WHERE a.attnum = ANY (c.confkey)), ''
FROM one JOIN pg_constraint c ON c.confrelid = one.oid AND c.contype = 'f' AND c.conrelid <> one.oid AND c.conparentid = 0
UNION ALL
SELECT 'trigger', t.tgname, coalesce(u.columns, '{}'),
       concat_ws(' ', CASE WHEN t.tgtype & 4 <> 0 THEN 'insert' END, CASE WHEN t.tgtype & 8 <> 0 THEN 'delete' END,
                 CASE WHEN t.tgtype & 16 <> 0 THEN 'update' END)
FROM one JOIN pg_trigger t ON t.tgrelid = one.oid AND NOT t.tgisinternal
LEFT JOIN used u ON u.classid = 'pg_trigger'::regclass AND u.objid = t.oid
UNION ALL
SELECT 'grant', g.grantee::regrole::text, '{}', string_agg(g.privilege_type, ', ' ORDER BY g.privilege_type)
FROM one CROSS JOIN LATERAL aclexplode(one.relacl) g WHERE g.grantee NOT IN (0, one.relowner) GROUP BY g.grantee
UNION ALL
SELECT 'grant', 'public', '{}', string_agg(g.privilege_type, ', ' ORDER BY g.privilege_type)
FROM one CROSS JOIN LATERAL aclexplode(one.relacl) g WHERE g.grantee = 0 HAVING count(*) > 0
UNION ALL
SELECT 'column grant', format('%%s to %%s', a.attname, coalesce(nullif(g.grantee, 0)::regrole::text, 'public')), ARRAY[a.attname::text],
       string_agg(g.privilege_type, ', ' ORDER BY g.privilege_type)
FROM columns a CROSS JOIN LATERAL aclexplode(a.attacl) g GROUP BY a.attname, g.grantee
UNION ALL
SELECT 'publication', p.pubname,
       (SELECT coalesce(array_agg(a.attname::text), '{}') FROM columns a
        WHERE a.attnum::text = ANY (string_to_array(trim(regexp_replace(to_jsonb(r) ->> 'prattrs', '[^0-9]+', ' ', 'g')), ' '))), ''
FROM one CROSS JOIN pg_publication p LEFT JOIN pg_publication_rel r ON r.prrelid = one.oid AND r.prpubid = p.oid
WHERE p.puballtables OR r.prrelid IS NOT NULL
UNION ALL
SELECT 'statistics', s.stxname, (SELECT coalesce(array_agg(a.attname::text), '{}') FROM columns a
       WHERE a.attnum = ANY (s.stxkeys::smallint[]) OR a.attname = ANY (u.columns)), ''
FROM one JOIN pg_statistic_ext s ON s.stxrelid = one.oid
LEFT JOIN used u ON u.classid = 'pg_statistic_ext'::regclass AND u.objid = s.oid
UNION ALL
SELECT 'comment', a.attname, ARRAY[a.attname::text], '' FROM columns a WHERE col_description(a.attrelid, a.attnum) IS NOT NULL
UNION ALL
SELECT CASE WHEN a.attgenerated <> '' THEN 'generated column' ELSE 'default' END, a.attname,
       ARRAY[a.attname::text] || coalesce(u.columns, '{}') || coalesce(b.columns, '{}'), pg_get_expr(d.adbin, d.adrelid)
FROM columns a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN used u ON u.classid = 'pg_attrdef'::regclass AND u.objid = d.oid
-- Before PostgreSQL 15 it is the generated column itself that depends on the columns it reads, not its expression.
LEFT JOIN LATERAL (
    SELECT array_agg(DISTINCT s.attname::text) AS columns
    FROM pg_depend e JOIN columns s ON s.attnum = e.refobjsubid
    WHERE e.classid = 'pg_class'::regclass AND e.objid = a.attrelid AND e.objsubid = a.attnum
      AND e.refclassid = 'pg_class'::regclass AND e.refobjid = a.attrelid
) b ON a.attgenerated <> ''
UNION ALL
SELECT 'sequence', s.oid::regclass::text, ARRAY[a.attname::text], ''
FROM columns a JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
    AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
UNION ALL
SELECT 'replica identity', CASE one.relreplident WHEN 'f' THEN 'full' WHEN 'n' THEN 'nothing' ELSE 'an index' END, '{}', ''
FROM one WHERE one.relreplident <> 'd'
ORDER BY 1, 2
