-- name: relation
-- What the name of a relation stands for; no row when it stands for none.
SELECT c.oid::bigint AS oid, c.relkind::text AS kind
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s::text AND c.relname = %(name)s::text

-- name: state
-- Of each of these tables, its file, which a rewrite changes, and the locks that this session holds on it.
SELECT c.oid::bigint AS oid, coalesce(pg_relation_filenode(c.oid), 0)::bigint AS file,
       coalesce(array_agg(DISTINCT l.mode) FILTER (WHERE l.mode IS NOT NULL), '{}') AS modes
FROM pg_class c LEFT JOIN pg_locks l ON l.locktype = 'relation' AND l.pid = pg_backend_pid() AND l.relation = c.oid
WHERE c.oid = ANY (%(oids)s::bigint[]::oid[])
GROUP BY c.oid

-- name: objects
-- What there is in the schemas that users make things in, so that what a way back leaves behind is seen.
SELECT 'relation' AS kind, c.oid::regclass::text AS name FROM pg_class c
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relnamespace NOT IN
      (SELECT oid FROM pg_namespace WHERE nspname IN ('pg_catalog', 'information_schema', 'pg_toast'))
UNION ALL SELECT 'function', p.oid::regprocedure::text FROM pg_proc p
WHERE p.pronamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname IN ('pg_catalog', 'information_schema'))
UNION ALL SELECT 'schema', n.nspname FROM pg_namespace n
