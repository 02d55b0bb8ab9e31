-- name: checksum
-- The rows of a table, and a checksum that does not depend on their order, is right for every type, and counts equal rows twice.
SELECT count(*) AS rows,
       coalesce(sum(pg_catalog.hashtextextended((counted.*)::text COLLATE "C", 0)::numeric), 0)::text AS checksum
FROM ONLY {table} AS counted

-- name: checksum_as_of
-- The rows of a table that an earlier snapshot saw, and the checksum that it would have given. What was written since is left out by
-- the number of its transaction: from that snapshot's end to now, or among those that were at work in it.
SELECT count(*) AS rows,
       coalesce(sum(pg_catalog.hashtextextended((counted.*)::text COLLATE "C", 0)::numeric), 0)::text AS checksum
FROM ONLY {table} AS counted
WHERE (counted.xmin::text::bigint - {snapshot_end} % 4294967296 + 4294967296) % 4294967296
      >= pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint - {snapshot_end}
  AND counted.xmin::text::bigint <> ALL ({at_work}::bigint[])
