-- name: columns
-- The columns of a table that can be written, in their order, each with its type and whether it is part of the primary key.
SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type,
       coalesce(a.attnum = ANY (i.indkey::smallint[]), false) AS is_key
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
WHERE n.nspname = %(schema)s::text AND c.relname = %(name)s::text AND c.relkind IN ('r', 'p')
ORDER BY a.attnum

-- name: parents_first
-- Of these tables, each with how many steps of foreign keys lead up from it: what is referred to has fewer.
WITH RECURSIVE up AS (
    SELECT c.oid AS child, c.oid AS at, 0 AS steps
    FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS one (schema, name)
    JOIN pg_namespace n ON n.nspname = one.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = one.name
    UNION
    SELECT u.child, k.confrelid, u.steps + 1
    FROM up u JOIN pg_constraint k ON k.contype = 'f' AND k.conrelid = u.at AND k.confrelid <> u.at
    WHERE u.steps < 20
)
SELECT n.nspname::text AS schema, c.relname::text AS name, max(u.steps) AS steps
FROM up u JOIN pg_class c ON c.oid = u.child JOIN pg_namespace n ON n.oid = c.relnamespace
GROUP BY 1, 2 ORDER BY 3, 1, 2
