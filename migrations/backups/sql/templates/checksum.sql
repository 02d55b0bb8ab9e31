-- name: checksum
-- The rows of a table, and a checksum that does not depend on their order, is right for every type, and counts equal rows twice.
SELECT count(*) AS rows,
       coalesce(sum(pg_catalog.hashtextextended((counted.*)::text COLLATE "C", 0)::numeric), 0)::text AS checksum
FROM ONLY {table} AS counted
