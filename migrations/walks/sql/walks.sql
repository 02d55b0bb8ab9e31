-- name: hot_updates
-- Rows of a table and its partitions that this session has updated in place so far: a HOT update touches no index.
SELECT coalesce(pg_stat_get_xact_tuples_hot_updated(t.oid), 0)
       + coalesce((SELECT sum(pg_stat_get_xact_tuples_hot_updated(p.relid)) FROM pg_partition_tree(t.oid) p
                   WHERE p.relid <> t.oid), 0) AS hot
FROM (SELECT to_regclass(%(relation)s::text) AS oid) t

-- name: shared_buffers
-- How many pages the shared buffers hold.
SELECT pg_size_bytes(current_setting('shared_buffers')) / current_setting('block_size')::bigint AS pages

-- name: order_on_disk
-- The indexes of tables by which the order of their rows on disk may be seen: what kind, the leading column, how the values of
-- that follow the order (NULL before an ANALYZE), and how many rows a scan of the index has read so far.
SELECT ic.relname::text AS index, am.amname = 'brin' AS is_brin, i.indisclustered AS is_clustered, a.attname::text AS "column",
       s.correlation, coalesce(pg_stat_get_numscans(i.indexrelid), 0)::bigint AS scans,
       coalesce(pg_stat_get_tuples_returned(i.indexrelid), 0)::bigint AS rows_read
FROM pg_index i
JOIN pg_class ic ON ic.oid = i.indexrelid
JOIN pg_am am ON am.oid = ic.relam
JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
LEFT JOIN LATERAL (
    -- LIMIT has the view asked for one column at a time; joined, it is read for all columns of the database.
    SELECT st.correlation::float8 FROM pg_stats st
    WHERE st.schemaname = n.nspname AND st.tablename = c.relname AND st.attname = a.attname AND NOT st.inherited LIMIT 1
) s ON true
WHERE i.indrelid = ANY (%(tables)s::bigint[]::oid[]) AND i.indisvalid AND am.amname IN ('btree', 'brin')
ORDER BY i.indrelid, ic.relname

-- name: begin_function
-- A Python function is about to be called: the transaction may be idle for longer, and the name of its session says why.
SELECT set_config('idle_in_transaction_session_timeout', %(idle)s::text, true),
       set_config('application_name', %(session)s::text, true)

-- name: join_by_key
-- For a statement that finds its rows by keys: of how many there are, in a WITH or in a journal, the planner has no idea. Taken for
-- many, they would be joined to the whole table.
SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)

-- name: table_code
-- What code of a table's own an UPDATE of some columns runs: see the function.
SELECT fires, by_parent, may_change FROM backfilld.table_code(%(table)s::text, %(relation)s::text, %(columns)s::text[])

-- name: followed
-- Whether a journal of keys is there, and whether the table that it is about has been replaced.
SELECT to_regclass(%(journal)s::text) IS NOT NULL AS journal, to_regclass(%(past)s::text) IS NOT NULL AS switched
