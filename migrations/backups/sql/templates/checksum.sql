-- name: extent
-- How many pages a table has, of which size; not all kinds of tables can be read by pages.
SELECT pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int AS pages,
       pg_catalog.current_setting('block_size')::int AS block, a.amname = 'heap' AS has_pages
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_am a ON a.oid = c.relam WHERE c.oid = {table}::pg_catalog.regclass

-- name: checksum
-- Rows of a table, and a checksum that does not depend on their order, is right for every type, and counts equal rows twice.
SELECT count(*) AS rows,
       coalesce(sum(pg_catalog.hashtextextended((counted.*)::text COLLATE "C", 0)::numeric), 0)::text AS checksum
FROM ONLY {table} AS counted WHERE {pages} AND {seen}

-- name: seen_by
-- The rows that an earlier snapshot saw. What was written since is left out by the number of its transaction: from that snapshot's end
-- to now, or among those that were at work in it.
(counted.xmin::text::bigint - {snapshot_end} % 4294967296 + 4294967296) % 4294967296
    >= pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint - {snapshot_end}
AND counted.xmin::text::bigint <> ALL ({at_work}::bigint[])
