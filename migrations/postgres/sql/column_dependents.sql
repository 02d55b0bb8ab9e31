-- name: column
-- What belongs to one column itself.
SELECT a.attnum::integer AS number,
       format_type(a.atttypid, a.atttypmod) AS type,
       (SELECT quote_ident(pg_get_userbyid(c.relowner)) FROM pg_class c WHERE c.oid = a.attrelid) AS owner,
       (SELECT quote_ident(n.nspname) || '.' || quote_ident(l.collname) FROM pg_collation l
        JOIN pg_namespace n ON n.oid = l.collnamespace
        WHERE l.oid = a.attcollation AND a.attcollation <> t.typcollation) AS collation,
       a.attnotnull AS not_null,
       a.attgenerated <> '' AS generated,
       CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END AS default,
       coalesce((to_jsonb(a) ->> 'attstattarget')::integer, -1) AS statistics_target,
       -- PostgreSQL's own, which it writes since its minor releases of November 2026, differ for each table (pg_attver).
       nullif(array_to_string(ARRAY(SELECT o FROM unnest(a.attoptions) o WHERE o NOT LIKE 'pg\_%%'), ', '), '') AS options,
       col_description(a.attrelid, a.attnum) AS comment,
       a.attnum = (SELECT max(o.attnum) FROM pg_attribute o WHERE o.attrelid = a.attrelid AND NOT o.attisdropped) AS last,
       coalesce((SELECT json_agg(json_build_object(
                      'privilege', x.privilege_type, 'grantable', x.is_grantable,
                      'grantee', CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END) ORDER BY r.rolname, x.privilege_type)
                 FROM aclexplode(a.attacl) x LEFT JOIN pg_roles r ON r.oid = x.grantee), '[]') AS grants
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %(table)s::text::regclass AND a.attname = %(column)s::text AND NOT a.attisdropped

-- name: of_column
-- Everything that hangs on a column, with its definition: what must be made anew when another column takes its place.
-- `level` tells views apart that read others: 1 reads the table itself. Definitions are those of an empty search_path.
WITH RECURSIVE col AS (
    SELECT a.attrelid AS rel, a.attnum AS num FROM pg_attribute a
    WHERE a.attrelid = %(table)s::text::regclass AND a.attname = %(column)s::text AND NOT a.attisdropped
), direct AS (
    SELECT DISTINCT d.classid, d.objid, d.deptype FROM pg_depend d JOIN col ON d.refobjid = col.rel AND d.refobjsubid = col.num
    WHERE d.refclassid = 'pg_class'::regclass AND NOT (d.classid = 'pg_class'::regclass AND d.objid = col.rel)
), generated AS (
    -- Before PostgreSQL 15 it is the generated column itself that depends on the columns it reads, not its expression.
    SELECT f.oid FROM direct JOIN pg_attrdef f ON direct.classid = 'pg_attrdef'::regclass AND f.oid = direct.objid
    UNION
    SELECT f.oid FROM col
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = col.rel AND d.refobjsubid = col.num
        AND d.classid = 'pg_class'::regclass AND d.objid = col.rel
    JOIN pg_attrdef f ON f.adrelid = d.objid AND f.adnum = d.objsubid
), views AS (
    SELECT r.ev_class AS view, 1 AS level
    FROM direct JOIN pg_rewrite r ON direct.classid = 'pg_rewrite'::regclass AND r.oid = direct.objid
    WHERE r.rulename = '_RETURN'
    UNION
    SELECT r.ev_class, v.level + 1
    FROM views v JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.view
    JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    WHERE r.ev_class <> v.view AND r.rulename = '_RETURN'
), on_views AS (
    SELECT DISTINCT d.classid, d.objid, d.deptype
    FROM (SELECT DISTINCT v.view FROM views v) v
    JOIN pg_type t ON t.typrelid = v.view
    JOIN pg_depend d ON (d.refclassid = 'pg_class'::regclass AND d.refobjid = v.view
                         OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray))
    LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    WHERE NOT (r.oid IS NOT NULL AND r.rulename = '_RETURN')
      AND NOT (d.classid = 'pg_type'::regclass AND d.deptype = 'i')
      -- Statistics and indexes of a materialized view, and its values out of line.
      AND d.classid <> 'pg_statistic_ext'::regclass
      AND NOT EXISTS (SELECT FROM pg_class c WHERE d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('i', 't'))
)
SELECT 'index' AS kind, i.indexrelid::bigint AS oid, x.relname::text AS name, pg_get_indexdef(i.indexrelid) AS definition, 0 AS level
FROM col JOIN pg_index i ON i.indrelid = col.rel JOIN pg_class x ON x.oid = i.indexrelid
WHERE col.num = ANY (i.indkey::smallint[])
   OR EXISTS (SELECT FROM direct WHERE direct.classid = 'pg_class'::regclass AND direct.objid = i.indexrelid)
UNION ALL
SELECT CASE WHEN n.confrelid = col.rel AND col.num = ANY (n.confkey) THEN 'inbound' WHEN n.contype = 'c' THEN 'check'
            WHEN n.contype = 'f' THEN 'foreign key' WHEN n.contype = 'u' THEN 'unique' WHEN n.contype = 'p' THEN 'primary key'
            ELSE 'constraint' END,
       n.oid::bigint,
       -- A name is the only one on its own table.
       concat(n.conname, CASE WHEN n.conrelid <> col.rel THEN ' of ' || n.conrelid::regclass::text END), pg_get_constraintdef(n.oid), 0
FROM direct JOIN pg_constraint n ON direct.classid = 'pg_constraint'::regclass AND n.oid = direct.objid CROSS JOIN col
WHERE n.contype <> 'n'
UNION ALL
SELECT 'generated', d.oid::bigint, a.attname::text, pg_get_expr(d.adbin, d.adrelid), 0
FROM generated JOIN pg_attrdef d ON d.oid = generated.oid
JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum CROSS JOIN col
WHERE d.adrelid <> col.rel OR d.adnum <> col.num
UNION ALL
SELECT CASE WHEN direct.deptype = 'i' THEN 'identity' ELSE 'sequence' END, c.oid::bigint,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname), format_type(s.seqtypid, NULL), 0
FROM direct JOIN pg_class c ON direct.classid = 'pg_class'::regclass AND c.oid = direct.objid AND c.relkind = 'S'
JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence s ON s.seqrelid = c.oid
UNION ALL
SELECT CASE WHEN c.relkind = 'v' THEN 'view' ELSE 'materialized view' END, c.oid::bigint,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname), pg_get_viewdef(c.oid), v.level
FROM (SELECT view, max(level) AS level FROM views GROUP BY view) v
JOIN pg_class c ON c.oid = v.view JOIN pg_namespace n ON n.oid = c.relnamespace
UNION ALL
SELECT 'rule', r.oid::bigint, r.rulename::text, pg_get_ruledef(r.oid), 0
FROM direct JOIN pg_rewrite r ON direct.classid = 'pg_rewrite'::regclass AND r.oid = direct.objid AND r.rulename <> '_RETURN'
UNION ALL
SELECT 'function', p.oid::bigint, p.oid::regprocedure::text, CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END, 0
FROM direct JOIN pg_proc p ON direct.classid = 'pg_proc'::regclass AND p.oid = direct.objid
UNION ALL
SELECT 'policy', p.oid::bigint, p.polname::text || ' on ' || p.polrelid::regclass::text,
       concat_ws(' / ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)), 0
FROM direct JOIN pg_policy p ON direct.classid = 'pg_policy'::regclass AND p.oid = direct.objid
UNION ALL
SELECT CASE WHEN t.tgrelid = col.rel THEN 'trigger' ELSE 'other' END, t.oid::bigint, t.tgname::text, pg_get_triggerdef(t.oid), 0
FROM direct JOIN pg_trigger t ON direct.classid = 'pg_trigger'::regclass AND t.oid = direct.objid CROSS JOIN col
WHERE NOT t.tgisinternal
UNION ALL
SELECT 'statistics', s.oid::bigint, quote_ident(n.nspname) || '.' || quote_ident(s.stxname), pg_get_statisticsobjdef(s.oid), 0
FROM direct JOIN pg_statistic_ext s ON direct.classid = 'pg_statistic_ext'::regclass AND s.oid = direct.objid
JOIN pg_namespace n ON n.oid = s.stxnamespace
UNION ALL
SELECT 'publication', r.oid::bigint, pg_describe_object('pg_publication_rel'::regclass, r.oid, 0),
       -- Not by name: PostgreSQL 14 has neither.
       concat_ws(' ', to_jsonb(r) ->> 'prattrs', regexp_replace(to_jsonb(r) ->> 'prqual', ':location -?[0-9]+', '', 'g')), 0
FROM pg_publication_rel r
WHERE EXISTS (SELECT FROM direct WHERE direct.classid = 'pg_publication_rel'::regclass AND direct.objid = r.oid)
UNION ALL
SELECT 'other', o.objid::bigint, pg_describe_object(o.classid, o.objid, 0), NULL, 0
FROM (SELECT DISTINCT direct.classid, direct.objid FROM direct
      WHERE direct.classid NOT IN ('pg_constraint'::regclass, 'pg_attrdef'::regclass, 'pg_rewrite'::regclass, 'pg_proc'::regclass,
                                   'pg_policy'::regclass, 'pg_trigger'::regclass, 'pg_statistic_ext'::regclass,
                                   'pg_publication_rel'::regclass)
        AND NOT (direct.classid = 'pg_class'::regclass
                 AND EXISTS (SELECT FROM pg_class c WHERE c.oid = direct.objid AND c.relkind IN ('i', 'I', 'S')))
      UNION
      SELECT on_views.classid, on_views.objid FROM on_views) o
ORDER BY 5, 1, 3

-- name: of_dropped
-- What depends on a column, and on how many columns of the table it depends in all; its default is not among them, and neither
-- is a NOT NULL constraint, which the column itself tells of.
SELECT e.kind, e.name, e.definition, e.valid, e.what, e.columns
FROM (
    SELECT CASE WHEN c.conname IS NOT NULL AND c.conrelid = d.refobjid THEN 'constraint ' || c.contype::text
                WHEN i.indexrelid IS NOT NULL THEN 'index'
                WHEN s.relkind = 'S' THEN 'sequence'
                ELSE 'other' END AS kind,
           coalesce(c.conname, s.relname)::text AS name,
           coalesce(pg_get_constraintdef(c.oid), CASE WHEN i.indexrelid IS NOT NULL THEN pg_get_indexdef(i.indexrelid) END)
               AS definition,
           coalesce(c.convalidated, i.indisvalid AND NOT (i.indisreplident OR i.indisclustered)) AS valid,
           pg_describe_object(d.classid, d.objid, d.objsubid) AS what,
           (SELECT count(DISTINCT o.refobjsubid) FROM pg_depend o
            WHERE o.classid = d.classid AND o.objid = d.objid AND o.refclassid = 'pg_class'::regclass
              AND o.refobjid = d.refobjid AND o.refobjsubid > 0) AS columns
    FROM (SELECT DISTINCT classid, objid, objsubid, refobjid, refobjsubid FROM pg_depend
          WHERE refclassid = 'pg_class'::regclass AND refobjid = %(oid)s::bigint::oid AND refobjsubid = %(number)s::integer) d
    LEFT JOIN pg_constraint c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid
    LEFT JOIN pg_class s ON d.classid = 'pg_class'::regclass AND s.oid = d.objid
    LEFT JOIN pg_index i ON i.indexrelid = s.oid
    WHERE NOT EXISTS (SELECT FROM pg_attrdef f WHERE d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
                        AND f.adnum = d.refobjsubid)
      AND c.contype IS DISTINCT FROM 'n'
) e
ORDER BY e.kind, e.what

-- name: indexes
-- The indexes of a table by their oid, which is the order in which LIKE copies them, and what stands in the way of a successor.
SELECT i.indexrelid::bigint AS oid, x.relname::text AS name, i.indisvalid AND i.indisready AS is_valid,
       i.indisexclusion AS is_exclusion, i.indisreplident AS is_identity, i.indisclustered AS is_clustered,
       i.indisunique OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL AS may_fail, i.indisprimary AS is_primary,
       (SELECT string_agg(pg_describe_object(d.classid, d.objid, 0), ', ' ORDER BY d.objid) FROM pg_depend d
        WHERE (d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indexrelid
               OR d.refclassid = 'pg_constraint'::regclass AND d.refobjid = n.oid)
          AND (d.classid = 'pg_proc'::regclass
               OR EXISTS (SELECT FROM pg_constraint f WHERE d.classid = 'pg_constraint'::regclass AND f.oid = d.objid AND f.contype = 'f'
                          AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = f.confrelid AND a.attnum = ANY (f.confkey)
                                          AND a.attname = %(column)s::text)))) AS held_by,
       CASE WHEN n.oid IS NULL THEN NULL ELSE concat(CASE WHEN n.condeferrable THEN ' DEFERRABLE' END,
                                                     CASE WHEN n.condeferred THEN ' INITIALLY DEFERRED' END) END AS constraint,
       obj_description(n.oid, 'pg_constraint') AS constraint_comment
FROM pg_index i
JOIN pg_class x ON x.oid = i.indexrelid
LEFT JOIN pg_constraint n ON n.conindid = i.indexrelid AND n.contype IN ('p', 'u', 'x') AND n.conrelid = i.indrelid
WHERE i.indrelid = %(table)s::text::regclass AND i.indislive
ORDER BY i.indexrelid

-- name: checks
-- The CHECK constraints of a table.
SELECT n.oid::bigint AS oid, n.conname::text AS name, pg_get_constraintdef(n.oid) AS definition, n.convalidated AS is_valid,
       obj_description(n.oid, 'pg_constraint') AS comment
FROM pg_constraint n WHERE n.conrelid = %(table)s::text::regclass AND n.contype = 'c'
ORDER BY n.conname

-- name: foreign_keys
-- The foreign keys of a table and those that refer to it, each also as it reads when one of the table's columns has another name:
-- what stands before and after the table it refers to. `referring` are the columns that refer to that column, with their types.
SELECT n.oid::bigint AS oid, n.conname::text AS name, n.convalidated AS is_valid, pg_get_constraintdef(n.oid) AS definition,
       obj_description(n.oid, 'pg_constraint') AS comment,
       s.nspname::text AS schema, r.relname::text AS table_name,
       f.nspname::text AS from_schema, o.relname::text AS from_table, o.relkind = 'p' AS from_partitioned,
       pg_has_role(current_user, o.relowner, 'USAGE') AS owned,
       coalesce((SELECT json_agg(json_build_array(a.attname, format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL)))
                 FROM unnest(n.conkey, n.confkey) k(own, other)
                 JOIN pg_attribute a ON a.attrelid = n.conrelid AND a.attnum = k.own
                 JOIN pg_type t ON t.oid = a.atttypid
                 JOIN pg_attribute b ON b.attrelid = n.confrelid AND b.attnum = k.other
                 WHERE n.confrelid = %(table)s::text::regclass AND b.attname = %(column)s::text), '[]') AS referring,
       format('FOREIGN KEY (%%s) REFERENCES ',
              (SELECT string_agg(quote_ident(CASE WHEN a.attrelid = %(table)s::text::regclass AND a.attname = %(column)s::text
                                                  THEN %(named)s::text ELSE a.attname::text END), ', ' ORDER BY k.n)
               FROM unnest(n.conkey) WITH ORDINALITY k(num, n) JOIN pg_attribute a ON a.attrelid = n.conrelid AND a.attnum = k.num)) AS head,
       format(' (%%s)%%s%%s%%s%%s%%s',
              (SELECT string_agg(quote_ident(CASE WHEN a.attrelid = %(table)s::text::regclass AND a.attname = %(column)s::text
                                                  THEN %(named)s::text ELSE a.attname::text END), ', ' ORDER BY k.n)
               FROM unnest(n.confkey) WITH ORDINALITY k(num, n) JOIN pg_attribute a ON a.attrelid = n.confrelid AND a.attnum = k.num),
              CASE n.confmatchtype WHEN 'f' THEN ' MATCH FULL' WHEN 'p' THEN ' MATCH PARTIAL' ELSE '' END,
              CASE n.confupdtype WHEN 'c' THEN ' ON UPDATE CASCADE' WHEN 'n' THEN ' ON UPDATE SET NULL'
                                 WHEN 'd' THEN ' ON UPDATE SET DEFAULT' WHEN 'r' THEN ' ON UPDATE RESTRICT' ELSE '' END,
              CASE n.confdeltype WHEN 'c' THEN ' ON DELETE CASCADE' WHEN 'n' THEN ' ON DELETE SET NULL'
                                 WHEN 'd' THEN ' ON DELETE SET DEFAULT' WHEN 'r' THEN ' ON DELETE RESTRICT' ELSE '' END,
              (SELECT ' (' || string_agg(quote_ident(CASE WHEN a.attrelid = %(table)s::text::regclass AND a.attname = %(column)s::text
                                                          THEN %(named)s::text ELSE a.attname::text END), ', ') || ')'
               FROM jsonb_array_elements_text(CASE WHEN jsonb_typeof(to_jsonb(n) -> 'confdelsetcols') = 'array'
                                                   THEN to_jsonb(n) -> 'confdelsetcols' END) k
               JOIN pg_attribute a ON a.attrelid = n.conrelid AND a.attnum = k.value::smallint),
              CASE WHEN n.condeferrable THEN ' DEFERRABLE' ELSE '' END
              || CASE WHEN n.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END
              -- Not by name: PostgreSQL knows it from 18 on.
              || CASE WHEN to_jsonb(n) ->> 'conenforced' = 'false' THEN ' NOT ENFORCED' ELSE '' END) AS tail
FROM pg_constraint n
JOIN pg_class r ON r.oid = n.confrelid JOIN pg_namespace s ON s.oid = r.relnamespace
JOIN pg_class o ON o.oid = n.conrelid JOIN pg_namespace f ON f.oid = o.relnamespace
WHERE %(table)s::text::regclass IN (n.conrelid, n.confrelid) AND n.contype = 'f' AND n.conparentid = 0
ORDER BY n.conname, f.nspname, o.relname

-- name: identity
-- The sequence of a column, with all that makes it what it is, and what else depends on that: of an identity (`i`), or one that the
-- column owns (`a`).
SELECT n.nspname::text AS schema, c.relname::text AS name, a.attidentity::text AS kind,
       s.seqtypid::regtype::text AS type, s.seqstart AS start, s.seqincrement AS increment, s.seqmin AS min, s.seqmax AS max,
       s.seqcache AS cache, s.seqcycle AS cycles, obj_description(c.oid, 'pg_class') AS comment, c.relacl IS NOT NULL AS has_grants,
       CASE WHEN pg_get_userbyid(c.relowner) <> current_user THEN quote_ident(pg_get_userbyid(c.relowner)) END AS owner,
       coalesce((SELECT json_agg(json_build_object(
                      'privilege', x.privilege_type, 'grantable', x.is_grantable,
                      'grantee', CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END) ORDER BY r.rolname, x.privilege_type)
                 FROM aclexplode(c.relacl) x LEFT JOIN pg_roles r ON r.oid = x.grantee), '[]') AS grants,
       (SELECT string_agg(pg_describe_object(o.classid, o.objid, o.objsubid), ', ') FROM pg_depend o
        WHERE o.refclassid = 'pg_class'::regclass AND o.refobjid = c.oid AND o.deptype IN ('n', 'a')
          AND NOT EXISTS (SELECT FROM pg_attrdef f WHERE o.classid = 'pg_attrdef'::regclass AND f.oid = o.objid
                          AND f.adrelid = a.attrelid AND f.adnum = a.attnum)) AS held_by
FROM pg_attribute a
JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
    AND d.classid = 'pg_class'::regclass AND d.deptype = %(deptype)s::text::"char"
JOIN pg_sequence s ON s.seqrelid = d.objid
JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE a.attrelid = %(table)s::text::regclass AND a.attname = %(column)s::text AND NOT a.attisdropped

-- name: ids_used
-- How far the sequence of a column has come, and how many rows a day were inserted since the statistics began, where they are old
-- enough to tell. From PostgreSQL 15 on a database has a moment of its own only once its statistics were reset.
SELECT pg_sequence_last_value(s.seqrelid) AS last, s.seqincrement AS increment, s.seqmax AS max, s.seqcycle AS cycles,
       CASE WHEN b.seconds > %(least_seconds)s::float8 THEN pg_stat_get_tuples_inserted(a.attrelid) * 86400.0 / b.seconds END::float8 AS rows_a_day
FROM pg_attribute a
JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
    AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
JOIN pg_sequence s ON s.seqrelid = d.objid
CROSS JOIN (
    SELECT extract(epoch FROM now() - coalesce(
        (SELECT o.stats_reset FROM pg_stat_database o WHERE o.datname = current_database()),
        (SELECT least(w.stats_reset, r.stats_reset) FROM pg_stat_wal w CROSS JOIN pg_stat_archiver r)))::float8 AS seconds
) b
WHERE a.attrelid = %(table)s::text::regclass AND a.attname = %(column)s::text AND NOT a.attisdropped

-- name: narrow_namesakes
-- Columns of other tables that are called as what refers to this column would be, are narrower than its new type, and have no
-- foreign key to the table.
SELECT n.nspname::text AS schema, c.relname::text AS table_name, a.attname::text AS name
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p') AND NOT c.relispartition
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typlen = -1
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'backfilld') AND n.nspname NOT LIKE 'pg_t%%' AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attname = ANY (%(names)s::text[]) AND c.oid <> %(table)s::text::regclass
  AND coalesce(e.oid, t.oid) IN ('smallint'::regtype, 'integer'::regtype) AND coalesce(e.typlen, t.typlen) < %(bytes)s::integer
  AND NOT EXISTS (SELECT FROM pg_constraint f WHERE f.conrelid = c.oid AND f.confrelid = %(table)s::text::regclass
                    AND f.contype = 'f' AND a.attnum = ANY (f.conkey))
ORDER BY 1, 2, 3

-- name: statistics
-- The extended statistics of a table by their oid: LIKE copies them in this order.
SELECT s.oid::bigint AS oid, n.nspname::text AS schema, s.stxname::text AS name,
       pg_get_statisticsobjdef_columns(s.oid) AS columns,
       (SELECT string_agg(CASE k WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies' WHEN 'm' THEN 'mcv' END, ', ')
        FROM unnest(s.stxkind) k WHERE k <> 'e') AS kinds,
       obj_description(s.oid, 'pg_statistic_ext') AS comment
FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
WHERE s.stxrelid = %(table)s::text::regclass
ORDER BY s.oid

-- name: view
-- One view, with all that CREATE VIEW does not bring back.
SELECT n.nspname::text AS schema, c.relname::text AS name, pg_get_viewdef(c.oid) AS definition,
       array_to_string(c.reloptions, ', ') AS options,
       quote_ident(pg_get_userbyid(c.relowner)) AS owner, pg_has_role(current_user, c.relowner, 'USAGE') AS owned,
       c.relacl IS NOT NULL AS has_grants,
       obj_description(c.oid, 'pg_class') AS comment,
       coalesce((SELECT json_agg(json_build_array(a.attname, col_description(c.oid, a.attnum)) ORDER BY a.attnum)
                 FROM pg_attribute a WHERE a.attrelid = c.oid AND col_description(c.oid, a.attnum) IS NOT NULL), '[]') AS column_comments,
       coalesce((SELECT json_agg(json_build_object(
                      'privilege', x.privilege_type, 'grantable', x.is_grantable,
                      'grantee', CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END) ORDER BY r.rolname, x.privilege_type)
                 FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x
                 LEFT JOIN pg_roles r ON r.oid = x.grantee), '[]') AS grants,
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL) AS has_column_grants,
       EXISTS (SELECT FROM pg_attrdef d WHERE d.adrelid = c.oid) AS has_defaults,
       EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid) AS has_triggers
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %(oid)s::bigint::oid

-- name: policy
-- One policy.
SELECT p.polname::text AS name, n.nspname::text AS schema, c.relname::text AS table_name,
       pg_get_expr(p.polqual, p.polrelid) AS using_, pg_get_expr(p.polwithcheck, p.polrelid) AS with_check,
       pg_has_role(current_user, c.relowner, 'USAGE') AS owned
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.oid = %(oid)s::bigint::oid

-- name: function
-- One function whose body the catalog understands.
SELECT p.oid::regprocedure::text AS name, CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END AS definition,
       p.prosqlbody IS NOT NULL AS atomic,
       pg_has_role(current_user, p.proowner, 'USAGE') AS owned
FROM pg_proc p WHERE p.oid = %(oid)s::bigint::oid

-- name: trigger
-- One trigger.
SELECT t.tgname::text AS name, pg_get_triggerdef(t.oid) AS definition, t.tgenabled::text AS enabled,
       obj_description(t.oid, 'pg_trigger') AS comment
FROM pg_trigger t WHERE t.oid = %(oid)s::bigint::oid

-- name: copied_views
-- Which of some views are materialized, or read by one that is.
WITH RECURSIVE copied AS (
    SELECT c.oid FROM pg_class c WHERE c.oid = ANY (%(oids)s::bigint[]) AND c.relkind = 'm'
    UNION
    SELECT d.refobjid FROM copied p JOIN pg_rewrite r ON r.ev_class = p.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> p.oid
    WHERE d.refobjid = ANY (%(oids)s::bigint[])
)
SELECT copied.oid::bigint AS oid FROM copied

-- name: publication
-- A table in a publication: the columns and the rows that it sends; none where it sends all. Not by name: PostgreSQL 14 has neither.
SELECT p.pubname::text AS name, pg_has_role(current_user, p.pubowner, 'USAGE') AS owned,
       CASE WHEN to_jsonb(r) ->> 'prattrs' IS NOT NULL THEN to_jsonb(t) -> 'attnames' END AS columns,
       to_jsonb(t) ->> 'rowfilter' AS condition
FROM pg_publication_rel r
JOIN pg_publication p ON p.oid = r.prpubid
JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_publication_tables t ON t.pubname = p.pubname AND t.schemaname = n.nspname AND t.tablename = c.relname
WHERE r.oid = %(oid)s::bigint::oid

-- name: own_of_partitions
-- What partitions have on a column that their table has not, or has otherwise: it would not come along with what the table has.
WITH parts AS (
    SELECT a.attrelid, a.attnum, a.attacl, pg_get_expr(d.adbin, d.adrelid) AS default,
           (SELECT pg_get_expr(o.adbin, o.adrelid) FROM pg_attribute p JOIN pg_attrdef o ON o.adrelid = p.attrelid AND o.adnum = p.attnum
            WHERE p.attrelid = t.root AND p.attname = a.attname) AS default_of_table
    FROM (SELECT %(table)s::text::regclass AS root) t
    JOIN pg_partition_tree(t.root) n ON n.level > 0
    JOIN pg_attribute a ON a.attrelid = n.relid AND a.attname = %(column)s::text AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
)
SELECT found.what FROM (
    SELECT concat('the DEFAULT of ', p.attrelid::regclass) AS what FROM parts p WHERE p.default IS DISTINCT FROM p.default_of_table
    UNION ALL
    SELECT concat('privileges on the column of ', p.attrelid::regclass) FROM parts p WHERE p.attacl IS NOT NULL
    UNION ALL
    SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0)
    FROM parts p
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = p.attrelid AND d.refobjsubid = p.attnum
    LEFT JOIN pg_constraint c ON d.classid = 'pg_constraint'::regclass AND c.oid = d.objid
    LEFT JOIN pg_trigger g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
    WHERE d.classid <> 'pg_attrdef'::regclass AND NOT (d.classid = 'pg_class'::regclass AND d.objid = p.attrelid)
      AND NOT (d.classid = 'pg_class'::regclass AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = d.objid))
      AND c.contype IS DISTINCT FROM 'n' AND coalesce(c.coninhcount = 0 AND c.conparentid = 0, true) AND coalesce(g.tgparentid = 0, true)
) found ORDER BY 1

-- name: sends_otherwise
-- Whether a publication sends other columns of a table than these, in the order of their names and as JSON, or the table no more.
SELECT p.name FROM (SELECT %(publication)s::text AS name) p
WHERE NOT EXISTS (
    SELECT FROM pg_publication_tables t
    WHERE t.pubname = p.name AND format('%%I.%%I', t.schemaname, t.tablename)::regclass = %(table)s::text::regclass
      AND %(columns)s::text::jsonb IN (
          'null', (SELECT jsonb_agg(c.name ORDER BY c.name COLLATE "C")
                   FROM jsonb_array_elements_text(to_jsonb(t) -> 'attnames') c (name))))

-- name: view_within
-- One view, to be made once more. This and the next three are asked with the table's schema on the search_path, in which anybody
-- may have put a function: each function has its schema, and each operator the exact types that pg_catalog has it for.
SELECT c.relname::text AS name, pg_catalog.pg_get_viewdef(c.oid) AS definition
FROM pg_catalog.pg_class c WHERE c.oid = %(oid)s::bigint::oid

-- name: policy_within
-- One policy, as above.
SELECT n.nspname::text AS schema, c.relname::text AS table_name,
       pg_catalog.pg_get_expr(p.polqual, p.polrelid) AS using_, pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) AS with_check
FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE p.oid = %(oid)s::bigint::oid

-- name: function_within
-- One function, as above.
SELECT CASE WHEN p.prokind <> 'a'::"char" THEN pg_catalog.pg_get_functiondef(p.oid) END AS definition
FROM pg_catalog.pg_proc p WHERE p.oid = %(oid)s::bigint::oid

-- name: trigger_within
-- One trigger, as above; its table is named without the schema.
SELECT pg_catalog.pg_get_triggerdef(t.oid, true) AS definition
FROM pg_catalog.pg_trigger t WHERE t.oid = %(oid)s::bigint::oid

-- name: mentions
-- Functions whose body is a text that holds the column's name as a word: they go by names, and nobody else knows them.
SELECT p.oid::regprocedure::text AS name
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
WHERE l.lanname IN ('sql', 'plpgsql') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'backfilld')
  AND p.prosqlbody IS NULL
  AND strpos(p.prosrc, %(column)s::text) > 0 AND strpos(p.prosrc, %(name)s::text) > 0
ORDER BY 1

-- name: files
-- The files of a table and of its indexes, which are others once it was written anew.
SELECT pg_relation_filenode(%(table)s::text::regclass)::bigint AS heap,
       (SELECT string_agg(pg_relation_filenode(i.indexrelid)::text, ' ' ORDER BY pg_relation_filenode(i.indexrelid)) FROM pg_index i
        WHERE i.indrelid = %(table)s::text::regclass) AS indexes
