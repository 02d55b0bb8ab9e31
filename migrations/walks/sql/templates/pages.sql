-- name: look
-- The file of a table and how many pages it has at this moment; NULLs when the table is gone.
SELECT pg_catalog.pg_relation_filenode(t.oid)::bigint,
       pg_catalog.pg_relation_size(t.oid) / pg_catalog.current_setting('block_size')::bigint
FROM (SELECT pg_catalog.to_regclass(%s::text) AS oid) t

-- name: sample
-- A sample of a table's pages: how many rows are on them, how many bytes a row takes, and the line pointers (their low byte)
-- between which all but a few rows are.
SELECT count(*) AS rows, coalesce(avg({size}), 0)::float8 AS bytes,
       coalesce(percentile_disc(ARRAY[0.002, 0.998]) WITHIN GROUP (ORDER BY get_byte(tidsend(s.ctid), 5)), ARRAY[1, 255]) AS offsets
FROM {table} AS s TABLESAMPLE SYSTEM ({percent})
