-- name: relation
-- What the name of a relation stands for; no row when it stands for none.
SELECT c.oid::bigint AS oid, c.relkind::text AS kind
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s::text AND c.relname = %(name)s::text

-- name: primary_keys
-- The name of a table's primary key, and of its copy's.
SELECT t.conname::text AS name, c.conname::text AS of_copy
FROM pg_catalog.pg_constraint t JOIN pg_catalog.pg_constraint c ON c.conrelid = %(copy)s::text::regclass AND c.contype = 'p'
WHERE t.conrelid = %(table)s::text::regclass AND t.contype = 'p'

-- name: state
-- Of each of these tables, its file, which a rewrite changes, and the locks that this session holds on it. NULL for a table without
-- a file, and for one that is gone.
SELECT t.oid, pg_relation_filenode(t.oid::oid)::bigint AS file,
       ARRAY(SELECT DISTINCT l.mode FROM pg_locks l
             WHERE l.locktype = 'relation' AND l.pid = pg_backend_pid() AND l.relation = t.oid::oid) AS modes
FROM unnest(%(oids)s::bigint[]) AS t (oid)

-- name: copies_have_keys
-- Foreign keys on temporary tables.
SELECT n.oid::bigint AS oid FROM pg_constraint n
WHERE n.contype = 'f' AND n.conrelid IN (SELECT c.oid FROM pg_class c WHERE c.relnamespace = pg_my_temp_schema())

-- name: mismatched_keys
-- Columns of foreign keys on temporary tables whose types have different values or operators, domains taken for what they are over.
SELECT n.conname::text AS key, c.relname::text AS table_name, a.attname::text AS column_name,
       format_type(a.atttypid, a.atttypmod) AS type, o.relname::text AS other_table, b.attname::text AS other_column,
       format_type(b.atttypid, b.atttypmod) AS other_type
FROM pg_constraint n
JOIN pg_class c ON c.oid = n.conrelid AND c.relnamespace = pg_my_temp_schema()
JOIN pg_class o ON o.oid = n.confrelid
CROSS JOIN LATERAL unnest(n.conkey, n.confkey) AS k (own, other)
JOIN pg_attribute a ON a.attrelid = n.conrelid AND a.attnum = k.own JOIN pg_type s ON s.oid = a.atttypid
JOIN pg_attribute b ON b.attrelid = n.confrelid AND b.attnum = k.other JOIN pg_type t ON t.oid = b.atttypid
CROSS JOIN LATERAL (SELECT CASE s.typtype WHEN 'd' THEN s.typbasetype ELSE s.oid END AS own,
                           CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END AS other) y
WHERE n.contype = 'f' AND y.own <> y.other
  AND NOT EXISTS (SELECT FROM pg_cast x WHERE x.castsource = y.own AND x.casttarget = y.other AND x.castmethod = 'b')
ORDER BY 1, 3

-- name: objects
-- What there is in the schemas that users make things in, so that what a way back leaves behind is seen. The schema of temporary
-- tables is made with the first of them.
SELECT 'relation' AS kind, c.oid::regclass::text AS name FROM pg_class c
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relnamespace NOT IN
      (SELECT oid FROM pg_namespace WHERE nspname IN ('pg_catalog', 'information_schema', 'pg_toast'))
UNION ALL SELECT 'function', p.oid::regprocedure::text FROM pg_proc p
WHERE p.pronamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname IN ('pg_catalog', 'information_schema'))
UNION ALL SELECT 'schema', n.nspname FROM pg_namespace n WHERE n.nspname !~ '^pg_(toast_)?temp_'
