-- name: find_index
-- What has a name in a schema: an index with its definition, or something else. To be asked under an empty search_path, as
-- PostgreSQL writes definitions by it.
SELECT c.relname AS name, c.relkind::text AS kind, c.oid::bigint AS oid, n.nspname AS table_schema, t.relname AS table_name,
       coalesce(i.indisvalid AND i.indisready AND i.indislive, false) AS valid,
       coalesce(i.indisunique, false) AS unique,
       (regexp_match(pg_get_indexdef(i.indexrelid),
                     '^CREATE (?:UNIQUE )?INDEX (?:"(?:[^"]|"")*"|[^ "]+) ON (?:ONLY )?'
                     '(?:"(?:[^"]|"")*"|[^ ".]+)\.(?:"(?:[^"]|"")*"|[^ "]+) (USING .*)$'))[1] AS rest,
       ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, false) FROM generate_series(1, i.indnkeyatts) k) AS keys,
       coalesce(pg_get_expr(i.indpred, i.indrelid), '') AS where,
       coalesce(s.spcname, '') AS tablespace,
       coalesce(obj_description(c.oid, 'pg_class'), '') AS comment
FROM pg_class c
JOIN pg_namespace cn ON cn.oid = c.relnamespace
LEFT JOIN pg_index i ON i.indexrelid = c.oid
LEFT JOIN pg_class t ON t.oid = i.indrelid
LEFT JOIN pg_namespace n ON n.oid = t.relnamespace
LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
WHERE cn.nspname = %(schema)s::text AND c.relname = %(name)s::text

-- name: indexes_of
-- The indexes of a table, as `find_index` tells of one.
SELECT c.relname AS name, c.relkind::text AS kind, c.oid::bigint AS oid, n.nspname AS table_schema, t.relname AS table_name,
       i.indisvalid AND i.indisready AND i.indislive AS valid,
       i.indisunique AS unique,
       (regexp_match(pg_get_indexdef(i.indexrelid),
                     '^CREATE (?:UNIQUE )?INDEX (?:"(?:[^"]|"")*"|[^ "]+) ON (?:ONLY )?'
                     '(?:"(?:[^"]|"")*"|[^ ".]+)\.(?:"(?:[^"]|"")*"|[^ "]+) (USING .*)$'))[1] AS rest,
       ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, false) FROM generate_series(1, i.indnkeyatts) k) AS keys,
       coalesce(pg_get_expr(i.indpred, i.indrelid), '') AS where,
       coalesce(s.spcname, '') AS tablespace,
       coalesce(obj_description(c.oid, 'pg_class'), '') AS comment
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_namespace n ON n.oid = t.relnamespace
LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
WHERE i.indrelid = %(table)s::bigint::oid
ORDER BY c.relname

-- name: index_uses
-- What an index is needed for, beside queries.
SELECT i.indisreplident AS replica_identity,
       i.indisclustered AS clustered,
       c.relispartition AS attached,
       ARRAY(SELECT k.conname::text FROM pg_constraint k
             WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x') ORDER BY 1) AS constraints,
       ARRAY(SELECT format('%%s on %%s', quote_ident(k.conname), k.conrelid::regclass) FROM pg_constraint k
             WHERE k.conindid = i.indexrelid AND k.contype = 'f' ORDER BY 1) AS foreign_keys,
       coalesce(pg_stat_get_numscans(i.indexrelid), 0)::bigint AS scans,
       -- From PostgreSQL 15 on a database has a moment of its own only once its statistics were reset.
       coalesce((SELECT d.stats_reset FROM pg_stat_database d WHERE d.datname = current_database()),
                (SELECT least(w.stats_reset, r.stats_reset) FROM pg_stat_wal w CROSS JOIN pg_stat_archiver r)) AS counted_since
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indexrelid = %(index)s::bigint::oid

-- name: end_index_sessions
-- End the sessions that work on a run's index, or remove what is left of one, and wait a while for their end. Whoever asks
-- holds the run's coordinator, so they belong to nobody any more. Found first and ended then: as a condition the function
-- would be called for any session, in the planner's order.
WITH theirs AS MATERIALIZED (
    SELECT o.pid FROM backfilld.own_sessions o
    WHERE o.is_here AND o.is_mine AND o.run = %(run)s::bigint AND o.doing = 'index' AND o.pid NOT IN (pg_backend_pid(), %(but)s::integer)
    UNION ALL
    SELECT a.pid FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.usename = current_user AND a.application_name = %(tidying)s::text
      AND a.pid NOT IN (pg_backend_pid(), %(but)s::integer)
)
SELECT t.pid, pg_terminate_backend(t.pid, %(patience_ms)s::bigint) AS ended FROM theirs t

-- name: index_work
-- What is built or dropped CONCURRENTLY for runs at this moment: how far it is, and whom it waits for.
SELECT work.run, work.pid, work.what, work.phase, work.total, work.done, work.waits_for,
       w.state AS waits_for_state, left(w.query, 80) AS waits_for_query,
       extract(epoch FROM clock_timestamp() - w.xact_start)::float8 AS waits_for_seconds
FROM (
    SELECT o.run, o.pid, left(o.query, 200) AS what, p.phase,
           CASE WHEN p.blocks_total > 0 THEN p.blocks_total ELSE p.tuples_total END AS total,
           CASE WHEN p.blocks_total > 0 THEN p.blocks_done ELSE p.tuples_done END AS done,
           CASE WHEN o.wait_event_type = 'Lock'
                THEN coalesce(nullif(p.current_locker_pid, 0)::integer, (pg_blocking_pids(o.pid))[1]) END AS waits_for
    FROM backfilld.own_sessions o LEFT JOIN pg_stat_progress_create_index p ON p.pid = o.pid
    WHERE o.is_here AND o.is_mine AND o.state = 'active' AND o.doing = 'index'
) work
LEFT JOIN pg_stat_activity w ON w.pid = work.waits_for
