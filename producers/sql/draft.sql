-- name: parts
-- What a table has by name: its columns, as SQL writes them, the indexes that no constraint stands on, and the constraints that
-- can be dropped.
SELECT 'column' AS kind, a.attname::text AS name, quote_ident(a.attname) AS quoted, a.attnum::integer AS place
FROM pg_attribute a
WHERE a.attrelid = %(oid)s::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'index', c.relname::text, quote_ident(c.relname), 0
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = %(oid)s::bigint::oid
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid)
UNION ALL
SELECT 'constraint', k.conname::text, quote_ident(k.conname), 0
FROM pg_constraint k
WHERE k.conrelid = %(oid)s::bigint::oid AND k.contype IN ('c', 'u', 'f')
ORDER BY kind, place, name

-- name: referable
-- Tables with a primary key of one column, and the type of it; those of the same schema first.
SELECT n.nspname AS schema, c.relname AS name, format_type(a.atttypid, a.atttypmod) AS type
FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indisprimary AND i.indnkeyatts = 1 AND c.relkind IN ('r', 'p')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'backfilld')
ORDER BY n.nspname = %(schema)s::text DESC, n.nspname, c.relname
