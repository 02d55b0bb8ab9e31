-- name: columns
-- The columns of a table in order, each with all that CREATE TABLE says of it. To be asked under an empty search_path.
SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type,
       CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation::text ELSE '' END AS collation,
       a.attnotnull AS not_null,
       -- Not before 18.
       coalesce((SELECT k.conname::text FROM pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]), '')
           AS not_null_name,
       coalesce(pg_get_expr(d.adbin, d.adrelid), '') AS expression, a.attgenerated::text AS generated, a.attidentity::text AS identity,
       a.attidentity <> '' OR s.oid IS NOT NULL AS has_sequence,
       coalesce(s.relname::text, '') AS sequence, coalesce(n.nspname::text, '') AS sequence_schema,
       coalesce(q.seqtypid::regtype::text, '') AS sequence_type,
       coalesce(format('START %%s INCREMENT %%s CACHE %%s%%s', q.seqstart, q.seqincrement, q.seqcache,
                       CASE WHEN q.seqcycle THEN ' CYCLE' ELSE '' END), '') AS sequence_options,
       -- The limits of the type itself go with the type.
       coalesce(concat(CASE WHEN q.seqmin NOT IN (1, -32768, -2147483648, -9223372036854775808) THEN format(' MINVALUE %%s', q.seqmin) END,
                       CASE WHEN q.seqmax NOT IN (-1, 32767, 2147483647, 9223372036854775807) THEN format(' MAXVALUE %%s', q.seqmax) END),
                '') AS sequence_limits
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_depend o ON o.refclassid = 'pg_class'::regclass AND o.refobjid = a.attrelid AND o.refobjsubid = a.attnum
    AND o.classid = 'pg_class'::regclass AND o.deptype IN ('a', 'i')
    AND EXISTS (SELECT FROM pg_class k WHERE k.oid = o.objid AND k.relkind = 'S')
LEFT JOIN pg_class s ON s.oid = o.objid LEFT JOIN pg_namespace n ON n.oid = s.relnamespace
LEFT JOIN pg_sequence q ON q.seqrelid = s.oid
WHERE a.attrelid = %(oid)s::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum

-- name: as_a_whole
-- What CREATE TABLE says of a table behind its columns, and who owns it.
SELECT quote_ident(pg_get_userbyid(c.relowner)) AS owner, c.relowner = quote_ident(current_user)::regrole AS owned_directly,
       coalesce(s.spcname::text, '') AS tablespace, coalesce(m.amname::text, 'heap') AS method,
       ARRAY(SELECT o FROM unnest(c.reloptions) o UNION ALL SELECT 'toast.' || o FROM pg_class x CROSS JOIN unnest(x.reloptions) o
             WHERE x.oid = c.reltoastrelid) AS options,
       c.relacl IS NOT NULL AS has_grants, coalesce(pg_get_partkeydef(c.oid), '') AS partition_key
FROM pg_class c LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace LEFT JOIN pg_am m ON m.oid = c.relam
WHERE c.oid = %(oid)s::bigint::oid

-- name: belongings
-- All that belongs to a table and is made by a statement of its own: when it is made, what it is, its name, the columns that it is
-- about, and the statement, in which chr(1) stands for the table and chr(2) for its schema. Of a partition what is its own alone, and
-- not its table's. To be asked under an empty search_path.
WITH one AS (
    SELECT c.oid, c.relname, n.nspname, format('%%I.%%I', n.nspname, c.relname) AS full_name, c.relreplident, c.relrowsecurity, c.relforcerowsecurity,
           c.relowner, c.relacl
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %(oid)s::bigint::oid
), attributes AS (
    -- PostgreSQL's own options, which it writes since its minor releases of November 2026, differ for each table (pg_attver).
    SELECT a.*, t.typstorage, ARRAY(SELECT o FROM unnest(a.attoptions) o WHERE o NOT LIKE 'pg\_%%') AS options FROM one JOIN pg_attribute a ON a.attrelid = one.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
), indexes AS (
    SELECT i.*, x.relname AS name, x.reltablespace, k.oid AS constraint_oid, k.contype,
           ARRAY(SELECT DISTINCT a.attname::text FROM attributes a
                 WHERE a.attnum = ANY (i.indkey::smallint[])
                    OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                               AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum)) AS columns,
           -- Of a partitioned table PostgreSQL writes ON ONLY, which is the index without the partitions'.
           replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ' || one.full_name || ' ', ' ON ' || one.full_name || ' ') AS definition
    FROM one JOIN pg_index i ON i.indrelid = one.oid JOIN pg_class x ON x.oid = i.indexrelid
    LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = one.oid AND k.contype IN ('p', 'u', 'x')
    WHERE NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
), constraints AS (
    SELECT k.*, ARRAY(SELECT a.attname::text FROM attributes a WHERE a.attnum = ANY (k.conkey)) AS columns
    FROM one JOIN pg_constraint k ON k.conrelid = one.oid AND k.coninhcount = 0
), triggers AS (
    SELECT t.* FROM one JOIN pg_trigger t ON t.tgrelid = one.oid AND NOT t.tgisinternal AND t.tgparentid = 0
), made AS (
    SELECT 'early' AS moment, 'storage' AS kind, a.attname::text AS name, ARRAY[a.attname::text] AS columns, 0 AS place,
           format('ALTER TABLE %%s ALTER COLUMN %%I SET STORAGE %%s', chr(1), a.attname,
                  CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END) AS statement
    FROM attributes a WHERE a.attstorage <> a.typstorage
    UNION ALL SELECT 'early', 'compression', a.attname, ARRAY[a.attname::text], 0,
           format('ALTER TABLE %%s ALTER COLUMN %%I SET COMPRESSION %%s', chr(1), a.attname,
                  CASE a.attcompression WHEN 'l' THEN 'lz4' ELSE 'pglz' END)
    FROM attributes a WHERE a.attcompression <> ''
    UNION ALL SELECT 'early', 'column options', a.attname, ARRAY[a.attname::text], 0,
           format('ALTER TABLE %%s ALTER COLUMN %%I SET STATISTICS %%s', chr(1), a.attname, a.attstattarget)
    FROM attributes a WHERE nullif(a.attstattarget, -1) IS NOT NULL
    UNION ALL SELECT 'early', 'column options', a.attname, ARRAY[a.attname::text], 1,
           format('ALTER TABLE %%s ALTER COLUMN %%I SET (%%s)', chr(1), a.attname, array_to_string(a.options, ', '))
    FROM attributes a WHERE a.options <> '{}'
    UNION ALL SELECT 'early', 'constraint', k.conname, k.columns, 2,
           format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', chr(1), k.conname, pg_get_constraintdef(k.oid))
    FROM constraints k WHERE k.contype = 'c' AND k.convalidated
    UNION ALL SELECT CASE WHEN i.name = %(key)s::text THEN 'key' WHEN i.indisunique OR i.contype IS NOT NULL THEN 'unique' ELSE 'index' END,
           CASE WHEN i.contype IS NULL THEN 'index' ELSE 'constraint' END, i.name, i.columns, 0,
           CASE WHEN i.contype IS NULL
                THEN overlay(i.definition placing ' ON ' || chr(1) || ' '
                             from position(' ON ' || one.full_name || ' ' in i.definition)
                             for length(' ON ' || one.full_name || ' '))
                ELSE format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', chr(1), i.name, pg_get_constraintdef(i.constraint_oid)) END
    FROM one CROSS JOIN indexes i
    UNION ALL SELECT CASE WHEN i.name = %(key)s::text THEN 'key' WHEN i.indisunique OR i.contype IS NOT NULL THEN 'unique' ELSE 'index' END,
           'tablespace', i.name, i.columns, 1, format('ALTER INDEX %%s.%%I SET TABLESPACE %%I', chr(2), i.name, s.spcname)
    FROM indexes i JOIN pg_tablespace s ON s.oid = i.reltablespace
    UNION ALL SELECT 'late', 'index options', i.name, i.columns, 0,
           format('ALTER INDEX %%s.%%I ALTER COLUMN %%s SET STATISTICS %%s', chr(2), i.name, e.attnum, e.attstattarget)
    FROM indexes i JOIN pg_attribute e ON e.attrelid = i.indexrelid AND nullif(e.attstattarget, -1) IS NOT NULL
    UNION ALL SELECT 'late', 'constraint', k.conname, k.columns, 0,
           format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', chr(1), k.conname, pg_get_constraintdef(k.oid))
    FROM constraints k WHERE k.contype = 'c' AND NOT k.convalidated
    UNION ALL SELECT 'late', 'cluster', i.name, i.columns, 1, format('ALTER TABLE %%s CLUSTER ON %%I', chr(1), i.name)
    FROM indexes i WHERE i.indisclustered
    UNION ALL SELECT 'late', 'replica identity', '', '{}', 1,
           format('ALTER TABLE %%s REPLICA IDENTITY %%s', chr(1),
                  CASE one.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING'
                       ELSE 'USING INDEX ' || (SELECT quote_ident(i.name) FROM indexes i WHERE i.indisreplident) END)
    FROM one WHERE one.relreplident <> 'd' AND (one.relreplident <> 'i' OR EXISTS (SELECT FROM indexes i WHERE i.indisreplident))
    UNION ALL SELECT 'late', 'statistics', format('%%I.%%I', n.nspname, s.stxname),
           ARRAY(SELECT DISTINCT a.attname::text FROM attributes a JOIN pg_depend d ON d.classid = 'pg_statistic_ext'::regclass
                 AND d.objid = s.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum), 1,
           regexp_replace(left(pg_get_statisticsobjdef(s.oid), -length(one.full_name)) || chr(1),
                          '^CREATE STATISTICS (?:"(?:[^"]|"")*"|[^ ".]+)\.', 'CREATE STATISTICS ' || chr(2) || '.')
    FROM one JOIN pg_statistic_ext s ON s.stxrelid = one.oid JOIN pg_namespace n ON n.oid = s.stxnamespace
    UNION ALL SELECT 'late', 'statistics target', format('%%I.%%I', n.nspname, s.stxname), '{}', 2,
           format('ALTER STATISTICS %%s.%%I SET STATISTICS %%s', chr(2), s.stxname, s.stxstattarget)
    FROM one JOIN pg_statistic_ext s ON s.stxrelid = one.oid AND nullif(s.stxstattarget, -1) IS NOT NULL JOIN pg_namespace n ON n.oid = s.stxnamespace
    UNION ALL SELECT 'late', 'row security', '', '{}', 1, format('ALTER TABLE %%s ENABLE ROW LEVEL SECURITY', chr(1)) FROM one WHERE one.relrowsecurity
    UNION ALL SELECT 'late', 'row security', '', '{}', 2, format('ALTER TABLE %%s FORCE ROW LEVEL SECURITY', chr(1)) FROM one WHERE one.relforcerowsecurity
    UNION ALL SELECT 'late', 'trigger', t.tgname, ARRAY(SELECT a.attname::text FROM attributes a JOIN pg_depend d ON d.classid = 'pg_trigger'::regclass
                 AND d.objid = t.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum), 1,
           overlay(pg_get_triggerdef(t.oid) placing ' ON ' || chr(1) || ' '
                   from position(' ON ' || one.full_name || ' ' in pg_get_triggerdef(t.oid)) for length(' ON ' || one.full_name || ' '))
    FROM one CROSS JOIN triggers t
    UNION ALL SELECT 'late', 'trigger off', t.tgname, '{}', 2, format('ALTER TABLE %%s DISABLE TRIGGER %%I', chr(1), t.tgname)
    FROM triggers t
    UNION ALL SELECT 'late', 'grant', '', '{}', 3,
           format('GRANT %%s ON %%s TO %%s%%s', x.privilege_type, chr(1),
                  CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
                  CASE WHEN x.is_grantable AND x.grantee <> one.relowner THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM one CROSS JOIN LATERAL aclexplode(one.relacl) x
    UNION ALL SELECT 'late', 'column grant', a.attname, ARRAY[a.attname::text], 3,
           format('GRANT %%s (%%I) ON %%s TO %%s%%s', x.privilege_type, a.attname, chr(1),
                  CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
                  CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM attributes a CROSS JOIN LATERAL aclexplode(a.attacl) x
    UNION ALL SELECT 'late', 'sequence grant', s.relname, ARRAY[a.attname::text], 3,
           format('GRANT %%s ON SEQUENCE %%s.%%I TO %%s%%s', x.privilege_type, chr(2), s.relname,
                  CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
                  CASE WHEN x.is_grantable AND x.grantee <> s.relowner THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM attributes a JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
        AND d.classid = 'pg_class'::regclass AND d.deptype = 'i'
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' CROSS JOIN LATERAL aclexplode(s.relacl) x
    UNION ALL SELECT 'late', 'comment', '', '{}', 4, format('COMMENT ON TABLE %%s IS %%L', chr(1), obj_description(one.oid, 'pg_class'))
    FROM one WHERE obj_description(one.oid, 'pg_class') IS NOT NULL
    UNION ALL SELECT 'late', 'comment', a.attname, ARRAY[a.attname::text], 4,
           format('COMMENT ON COLUMN %%s.%%I IS %%L', chr(1), a.attname, col_description(a.attrelid, a.attnum))
    FROM attributes a WHERE col_description(a.attrelid, a.attnum) IS NOT NULL
    UNION ALL SELECT CASE k.contype WHEN 'f' THEN 'foreign key comment' ELSE 'late' END, 'comment', k.conname, k.columns, 4,
           format('COMMENT ON CONSTRAINT %%I ON %%s IS %%L', k.conname, chr(1), obj_description(k.oid, 'pg_constraint'))
    FROM constraints k WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND obj_description(k.oid, 'pg_constraint') IS NOT NULL
    UNION ALL SELECT 'late', 'comment', i.name, i.columns, 4,
           format('COMMENT ON INDEX %%s.%%I IS %%L', chr(2), i.name, obj_description(i.indexrelid, 'pg_class'))
    FROM indexes i WHERE obj_description(i.indexrelid, 'pg_class') IS NOT NULL
    UNION ALL SELECT 'late', 'comment', t.tgname, '{}', 4, format('COMMENT ON TRIGGER %%I ON %%s IS %%L', t.tgname, chr(1), obj_description(t.oid, 'pg_trigger'))
    FROM triggers t WHERE obj_description(t.oid, 'pg_trigger') IS NOT NULL
    UNION ALL SELECT 'late', 'comment', s.stxname, '{}', 4, format('COMMENT ON STATISTICS %%s.%%I IS %%L', chr(2), s.stxname, obj_description(s.oid, 'pg_statistic_ext'))
    FROM one JOIN pg_statistic_ext s ON s.stxrelid = one.oid WHERE obj_description(s.oid, 'pg_statistic_ext') IS NOT NULL
    UNION ALL SELECT 'late', 'comment', s.relname, ARRAY[a.attname::text], 4,
           format('COMMENT ON SEQUENCE %%s.%%I IS %%L', chr(2), s.relname, obj_description(s.oid, 'pg_class'))
    FROM attributes a JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
        AND d.classid = 'pg_class'::regclass AND d.deptype = 'i'
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' WHERE obj_description(s.oid, 'pg_class') IS NOT NULL
    UNION ALL SELECT 'policy', 'policy', p.polname,
           ARRAY(SELECT DISTINCT a.attname::text FROM attributes a JOIN pg_depend d ON d.classid = 'pg_policy'::regclass
                 AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum), 0,
           concat(format('CREATE POLICY %%I ON %%s AS %%s FOR %%s TO ', p.polname, chr(1),
                         CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                         CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END),
                  (SELECT string_agg(CASE r.oid WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.oid)) END, ', ') FROM unnest(p.polroles) r(oid)),
                  ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
    FROM one JOIN pg_policy p ON p.polrelid = one.oid
    UNION ALL SELECT 'policy', 'comment', p.polname, '{}', 1, format('COMMENT ON POLICY %%I ON %%s IS %%L', p.polname, chr(1), obj_description(p.oid, 'pg_policy'))
    FROM one JOIN pg_policy p ON p.polrelid = one.oid WHERE obj_description(p.oid, 'pg_policy') IS NOT NULL
)
SELECT m.moment, m.kind, m.name::text AS name, m.columns, m.statement FROM made m ORDER BY m.moment, m.place, m.kind, m.name, m.statement

-- name: partitions
-- The partitions of a table, the default one at the end, each with what CREATE TABLE says of it.
SELECT c.oid::bigint AS oid, c.relname::text AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds,
       coalesce(s.spcname::text, '') AS tablespace, coalesce(m.amname::text, 'heap') AS method,
       ARRAY(SELECT o FROM unnest(c.reloptions) o UNION ALL SELECT 'toast.' || o FROM pg_class x CROSS JOIN unnest(x.reloptions) o
             WHERE x.oid = c.reltoastrelid) AS options
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace LEFT JOIN pg_am m ON m.oid = c.relam
WHERE i.inhparent = %(oid)s::bigint::oid AND c.relispartition
ORDER BY pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT', c.oid

-- name: partitions_kept_out
-- What a partition cannot be, or have of its own, where its table is made anew: which one, and what that is, in words.
WITH parent AS (
    SELECT c.* FROM pg_class c WHERE c.oid = %(oid)s::bigint::oid
), one AS (
    SELECT c.* FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = %(oid)s::bigint::oid
), attributes AS (
    SELECT a.attrelid, a.attname, a.attnotnull, coalesce(pg_get_expr(d.adbin, d.adrelid), '') AS expression
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attnum > 0 AND NOT a.attisdropped
      AND a.attrelid IN (SELECT one.oid FROM one UNION SELECT parent.oid FROM parent)
)
SELECT DISTINCT k.name::text AS name, k.what FROM (
    SELECT one.relname AS name, CASE one.relkind WHEN 'p' THEN 'is partitioned itself' ELSE 'is a foreign table' END AS what
    FROM one WHERE one.relkind <> 'r'
    UNION ALL SELECT one.relname, 'is in another schema' FROM one CROSS JOIN parent WHERE one.relnamespace <> parent.relnamespace
    UNION ALL SELECT one.relname, 'has another owner' FROM one CROSS JOIN parent WHERE one.relowner <> parent.relowner
    UNION ALL SELECT one.relname, 'is unlogged' FROM one WHERE one.relpersistence <> 'p'
    UNION ALL SELECT one.relname, 'has an index as its replica identity' FROM one WHERE one.relreplident = 'i'
    UNION ALL SELECT one.relname, format('has the trigger %%s of its own', t.tgname)
    FROM one JOIN pg_trigger t ON t.tgrelid = one.oid AND NOT t.tgisinternal AND t.tgparentid = 0
    UNION ALL SELECT one.relname, format('has a foreign key of its own, or is referred to by one: %%s', f.conname)
    FROM one JOIN pg_constraint f ON f.contype = 'f' AND f.conparentid = 0 AND one.oid IN (f.conrelid, f.confrelid)
    UNION ALL SELECT one.relname, format('is in the publication %%s', p.pubname)
    FROM one JOIN pg_publication_rel r ON r.prrelid = one.oid JOIN pg_publication p ON p.oid = r.prpubid
    UNION ALL SELECT one.relname, 'has extended statistics of its own' FROM one JOIN pg_statistic_ext s ON s.stxrelid = one.oid
    UNION ALL SELECT one.relname, format('has the rule %%s', r.rulename) FROM one JOIN pg_rewrite r ON r.ev_class = one.oid
    UNION ALL SELECT one.relname, 'has a security label'
    FROM one JOIN pg_seclabel l ON l.classoid = 'pg_class'::regclass AND l.objoid = one.oid
    UNION ALL SELECT one.relname, format('has another DEFAULT of %%s, or another NOT NULL', o.attname)
    FROM one CROSS JOIN parent JOIN attributes o ON o.attrelid = one.oid JOIN attributes p ON p.attrelid = parent.oid AND p.attname = o.attname
    WHERE o.attnotnull <> p.attnotnull OR o.expression <> p.expression
    UNION ALL SELECT one.relname, format('is read by %%s itself', CASE WHEN r.oid IS NOT NULL THEN pg_describe_object('pg_class'::regclass, r.ev_class, 0)
                                                                          ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END)
    FROM one JOIN pg_type t ON t.oid = one.reltype OR t.typelem = one.reltype
    JOIN pg_depend d ON d.deptype = 'n' AND d.classid <> 'pg_type'::regclass
        AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = one.oid OR d.refclassid = 'pg_type'::regclass AND d.refobjid = t.oid)
    LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
    LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    WHERE d.classid IN ('pg_rewrite'::regclass, 'pg_proc'::regclass, 'pg_class'::regclass)
       OR d.classid = 'pg_policy'::regclass AND p.polrelid <> one.oid
) k ORDER BY 1, 2 LIMIT 5

-- name: foreign_keys
-- The foreign keys of a table, and those that refer to it, each with the two tables, as PostgreSQL writes it, and who owns it.
SELECT k.conname::text AS name, n.nspname::text AS schema, c.relname::text AS table_name, c.relkind::text AS kind,
       rn.nspname::text AS other_schema, r.relname::text AS other_name,
       regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '') AS definition, k.convalidated AS valid,
       pg_get_constraintdef(k.oid) NOT LIKE '%% NOT ENFORCED' AS enforced,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)) AS columns,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = k.confrelid AND a.attnum = ANY (k.confkey)) AS other_columns,
       obj_description(k.oid, 'pg_constraint') AS comment, k.conrelid::regclass::text AS relation,
       pg_has_role(current_user, c.relowner, 'USAGE') AS owned,
       has_table_privilege(r.oid, 'REFERENCES') OR has_any_column_privilege(r.oid, 'REFERENCES') AS may_refer
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND (k.conrelid = %(oid)s::bigint::oid OR k.confrelid = %(oid)s::bigint::oid)
ORDER BY n.nspname, c.relname, k.conname

-- name: triggers
-- Users' triggers of a table, each with the mode it is enabled in.
SELECT t.tgname::text AS name, t.tgenabled::text AS enabled FROM pg_trigger t
WHERE t.tgrelid = %(oid)s::bigint::oid AND NOT t.tgisinternal ORDER BY 1

-- name: statistics
-- The extended statistics of a table, by the schema that they are in, each with the columns that it is about.
SELECT n.nspname::text AS schema, s.stxname::text AS name,
       ARRAY(SELECT DISTINCT a.attname::text FROM pg_attribute a JOIN pg_depend d ON d.classid = 'pg_statistic_ext'::regclass
             AND d.objid = s.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum) AS columns
FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
WHERE s.stxrelid = %(oid)s::bigint::oid ORDER BY 1, 2

-- name: published
-- The publications that name a table, whether they name columns or rows of it, whether this role owns them, and those of all tables.
SELECT p.pubname::text AS name, p.puballtables AS all_tables, pg_has_role(current_user, p.pubowner, 'USAGE') AS owned,
       coalesce(to_jsonb(r) ->> 'prattrs', to_jsonb(r) ->> 'prqual') IS NOT NULL AS partly
FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = %(oid)s::bigint::oid
WHERE r.oid IS NOT NULL OR p.puballtables ORDER BY 1

-- name: kept_out
-- What no table that is made anew can be, or take with it, in words.
SELECT k.what, k.remedy FROM (
    SELECT 'it is ' || CASE c.relpersistence WHEN 'u' THEN 'unlogged' ELSE 'temporary' END AS what,
           'ALTER TABLE … SET LOGGED first' AS remedy
    FROM pg_class c WHERE c.oid = %(oid)s::bigint::oid AND c.relpersistence <> 'p'
    UNION ALL SELECT 'it inherits from ' || i.inhparent::regclass, 'ALTER TABLE … NO INHERIT first'
    FROM pg_inherits i WHERE i.inhrelid = %(oid)s::bigint::oid
    UNION ALL SELECT 'it is a table of the type ' || c.reloftype::regtype, 'ALTER TABLE … NOT OF first'
    FROM pg_class c WHERE c.oid = %(oid)s::bigint::oid AND c.reloftype <> 0
    UNION ALL SELECT 'it belongs to the extension ' || e.extname, 'Let the extension change it'
    FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.classid = 'pg_class'::regclass AND d.objid = %(oid)s::bigint::oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
    UNION ALL SELECT 'it has the rule ' || r.rulename, 'Drop the rule, or write it as a trigger'
    FROM pg_rewrite r WHERE r.ev_class = %(oid)s::bigint::oid
    UNION ALL SELECT 'it has a security label', 'Remove it: SECURITY LABEL … IS NULL'
    FROM pg_seclabel l WHERE l.classoid = 'pg_class'::regclass AND l.objoid = %(oid)s::bigint::oid LIMIT 1
) k

-- name: database_rights
-- Whether this role may make schemas in this database, in which the new table is made, and put a table into the schema of this one.
SELECT has_database_privilege(current_database(), 'CREATE') AS may_create,
       (SELECT has_schema_privilege(c.relnamespace, 'CREATE') FROM pg_class c WHERE c.oid = %(oid)s::bigint::oid) AS may_move

-- name: bound
-- What is bound to a table by its number, or to a view of it: views (those that read others behind them), `copied` views (materialized,
-- and those that such read), functions whose bodies the catalog has, functions over the row type, policies of other tables; and `other`
-- for what cannot be made anew from its text. To be asked under an empty search_path.
WITH RECURSIVE views AS (
    SELECT r.ev_class AS oid, 1 AS level
    FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s::bigint::oid AND r.ev_class <> %(oid)s::bigint::oid
    UNION
    SELECT r.ev_class, v.level + 1 FROM views v
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid
    JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid AND r.ev_class <> v.oid
), copied AS (
    SELECT v.oid FROM views v JOIN pg_class c ON c.oid = v.oid AND c.relkind = 'm'
    UNION
    SELECT d.refobjid FROM copied p JOIN pg_rewrite r ON r.ev_class = p.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> p.oid
    WHERE d.refobjid IN (SELECT v.oid FROM views v)
), over_rows AS (
    SELECT DISTINCT d.objid AS oid FROM pg_class c
    JOIN pg_type t ON t.oid = c.reltype OR t.typelem = c.reltype
    JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = t.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'n'
    WHERE c.oid = %(oid)s::bigint::oid
), direct AS (
    SELECT DISTINCT d.classid, d.objid FROM pg_depend d
    LEFT JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s::bigint::oid
      AND (d.classid = 'pg_proc'::regclass OR p.polrelid <> %(oid)s::bigint::oid)
), others AS (
    -- Of the row type, and of views and their row types.
    SELECT DISTINCT d.classid, d.objid, d.objsubid FROM pg_class c
    JOIN pg_type t ON t.oid = c.reltype OR t.typelem = c.reltype
    JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = t.oid
    WHERE (c.oid = %(oid)s::bigint::oid AND d.classid <> 'pg_proc'::regclass OR c.oid IN (SELECT v.oid FROM views v))
      AND d.classid <> 'pg_type'::regclass AND d.deptype = 'n'
    UNION
    SELECT d.classid, d.objid, d.objsubid FROM views v JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid
    WHERE d.deptype = 'n' AND d.classid <> 'pg_rewrite'::regclass
    UNION
    -- Of a function over the row type, which is dropped and made anew: but for views, which are so as well.
    SELECT d.classid, d.objid, d.objsubid FROM over_rows f
    JOIN pg_depend d ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = f.oid
    LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    WHERE r.ev_class IS NULL OR r.ev_class IN (SELECT p.oid FROM copied p) OR r.ev_class NOT IN (SELECT v.oid FROM views v)
    UNION
    -- Of an identity's sequence, which is another one in the new table.
    SELECT d.classid, d.objid, d.objsubid
    FROM pg_depend s JOIN pg_class q ON q.oid = s.objid AND q.relkind = 'S'
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = q.oid
    LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
    WHERE s.refclassid = 'pg_class'::regclass AND s.refobjid = %(oid)s::bigint::oid AND s.classid = 'pg_class'::regclass
      AND s.deptype = 'i' AND d.deptype = 'n' AND f.adrelid IS DISTINCT FROM %(oid)s::bigint::oid
)
SELECT k.kind, k.oid::bigint AS oid, k.name, k.level FROM (
    SELECT CASE WHEN v.oid IN (SELECT p.oid FROM copied p) THEN 'copied' ELSE 'view' END AS kind, v.oid, v.oid::regclass::text AS name, max(v.level) AS level
    FROM views v GROUP BY v.oid
    UNION ALL
    SELECT 'row function', f.oid, f.oid::regprocedure::text, 0 FROM over_rows f WHERE f.oid NOT IN (SELECT o.objid FROM others o)
    UNION ALL
    SELECT CASE d.classid WHEN 'pg_proc'::regclass THEN 'function' ELSE 'policy' END, d.objid, pg_describe_object(d.classid, d.objid, 0), 0
    FROM direct d WHERE NOT EXISTS (SELECT FROM others o WHERE o.classid = d.classid AND o.objid = d.objid)
      AND NOT (d.classid = 'pg_proc'::regclass AND d.objid IN (SELECT f.oid FROM over_rows f))
    UNION ALL
    SELECT 'other', o.objid, pg_describe_object(o.classid, o.objid, o.objsubid), 0 FROM others o
) k ORDER BY k.level, k.name

-- name: is_collatable
-- Whether values of a type are sorted by a collation.
SELECT t.typcollation <> 0 AS collatable FROM pg_type t WHERE t.oid = %(type)s::text::regtype

-- name: copied_view
-- What CREATE MATERIALIZED VIEW says of a view behind its name.
SELECT c.relkind = 'm' AS materialized, c.relispopulated AS populated, coalesce(m.amname::text, '') AS method,
       coalesce(s.spcname::text, '') AS tablespace
FROM pg_class c LEFT JOIN pg_am m ON m.oid = c.relam LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
WHERE c.oid = %(oid)s::bigint::oid

-- name: row_function
-- One function, with all that CREATE FUNCTION does not bring back.
SELECT n.nspname::text AS schema, p.proname::text AS name, p.oid::regprocedure::text AS signature, CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END AS kind,
       CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END AS definition,
       quote_ident(pg_get_userbyid(p.proowner)) AS owner, pg_has_role(current_user, p.proowner, 'USAGE') AS owned,
       p.proacl IS NOT NULL AS has_grants, obj_description(p.oid, 'pg_proc') AS comment,
       EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype IN ('e', 'x')) AS of_extension,
       (SELECT json_agg(json_build_object(
                   'privilege', x.privilege_type, 'grantable', x.is_grantable AND x.grantee <> p.proowner,
                   'grantee', CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END) ORDER BY x.grantee)
        FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x) AS grants
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = %(oid)s::bigint::oid
