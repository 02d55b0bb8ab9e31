-- name: hot_updates
-- Rows of a table and its partitions that this session has updated in place so far: a HOT update touches no index.
SELECT coalesce(pg_stat_get_xact_tuples_hot_updated(t.oid), 0)
       + coalesce((SELECT sum(pg_stat_get_xact_tuples_hot_updated(p.relid)) FROM pg_partition_tree(t.oid) p
                   WHERE p.relid <> t.oid), 0) AS hot
FROM (SELECT to_regclass(%(relation)s::text) AS oid) t

-- name: shared_buffers
-- How many pages the shared buffers hold.
SELECT pg_size_bytes(current_setting('shared_buffers')) / current_setting('block_size')::bigint AS pages

-- name: begin_function
-- A Python function is about to be called: the transaction may be idle for longer, and the name of its session says why.
SELECT set_config('idle_in_transaction_session_timeout', %(idle)s::text, true),
       set_config('application_name', %(session)s::text, true)
