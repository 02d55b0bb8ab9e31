-- name: standbys
-- How far every standby has replayed, beside where the WAL is now; one row of NULLs when there is none. A base backup and
-- a logical consumer replay nothing and are left out. `state` is NULL where this role may not look (it needs pg_monitor).
SELECT here.at, here.wal, r.pid, coalesce(nullif(r.application_name, ''), r.pid::text) AS standby, r.state,
       (r.replay_lsn - '0/0'::pg_lsn)::bigint AS replayed,
       extract(epoch FROM r.replay_lag)::float8 AS replay_lag_seconds
FROM (SELECT extract(epoch FROM clock_timestamp())::float8 AS at,
             -- Flushed, not written: a standby is never sent more.
             (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_flush_lsn() END
              - '0/0'::pg_lsn)::bigint AS wal) here
LEFT JOIN pg_stat_replication r
       ON r.state IS DISTINCT FROM 'backup'
      AND NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')

-- name: blocked_sessions
-- Sessions that have waited a quarter of a second or more behind a batch of ours, directly or behind each other (of many
-- that want one row, only the first waits for us). pg_blocking_pids stops the lock manager: it is asked only while a batch
-- runs, and for the hundred who began to wait last, as a batch of ours does not last long.
WITH RECURSIVE ours AS MATERIALIZED (
    SELECT a.pid FROM pg_stat_activity a
    WHERE starts_with(a.application_name, 'backfilld run=')
      AND a.datid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
), waiting AS MATERIALIZED (
    SELECT l.pid, l.waitstart FROM pg_locks l
    WHERE EXISTS (SELECT FROM ours) AND NOT l.granted AND l.waitstart <= clock_timestamp() - interval '0.25 seconds'
      AND l.pid NOT IN (SELECT pid FROM ours)
    ORDER BY l.waitstart DESC LIMIT 100
), edges AS MATERIALIZED (
    SELECT w.pid, w.waitstart, pg_blocking_pids(w.pid) AS blockers FROM waiting w
), blocked AS (
    SELECT e.pid, e.waitstart FROM edges e JOIN ours o ON o.pid = ANY (e.blockers)
    UNION
    SELECT e.pid, e.waitstart FROM edges e JOIN blocked b ON b.pid = ANY (e.blockers)
)
SELECT count(DISTINCT pid) AS sessions, (array_agg(pid ORDER BY waitstart))[1] AS longest_pid,
       extract(epoch FROM clock_timestamp() - min(waitstart))::float8 AS longest_seconds
FROM blocked

-- name: active_sessions
-- Sessions of others that run a statement, beside how many there may be. What other roles do is hidden from a role without
-- pg_monitor; such a session counts as active.
SELECT count(*) FILTER (WHERE a.backend_type IS NULL OR a.state IN ('active', 'fastpath function call', 'disabled')) AS active,
       count(*) FILTER (WHERE a.backend_type IS NULL) AS hidden,
       current_setting('max_connections')::integer AS max_connections
FROM pg_stat_activity a
WHERE a.pid <> pg_backend_pid()
  AND NOT starts_with(coalesce(a.application_name, ''), 'backfilld')
  AND (a.backend_type = 'client backend' OR (a.backend_type IS NULL AND a.datid IS NOT NULL))

-- name: slots
-- The WAL that each replication slot keeps, and how much of what slots may keep is used up. A slot that is lost keeps nothing.
SELECT s.slot_name, s.active, (here.wal - s.restart_lsn)::bigint AS retained_bytes,
       CASE WHEN s.safe_wal_size IS NOT NULL AND keep.bytes > 0 THEN greatest(0, 1 - s.safe_wal_size / keep.bytes) END::float8 AS used_share
FROM pg_replication_slots s
CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END AS wal) here
-- In a view's own unit, megabytes; the setting itself may be text such as 4GB.
CROSS JOIN (SELECT setting::numeric * 1048576 AS bytes FROM pg_settings WHERE name = 'max_slot_wal_keep_size') keep
WHERE s.restart_lsn IS NOT NULL

-- name: archiver
-- Segments that are full and not archived yet. `last_archived_wal` may also be a history file or a backup's label; either
-- begins as a segment's name does, or it tells nothing.
SELECT CASE WHEN current_setting('archive_mode') = 'off' OR pg_is_in_recovery() THEN 0
            WHEN a.last_archived_wal ~ '^[0-9A-F]{24}'
            THEN greatest(0, div((here.wal - '0/0'::pg_lsn), size.bytes) - 1
                             - (('x' || substr(a.last_archived_wal, 9, 8))::bit(32)::bigint * (4294967296 / size.bytes)
                                + ('x' || substr(a.last_archived_wal, 17, 8))::bit(32)::bigint))
            -- Nothing was archived since the statistics began. That nothing failed either is a new server; else it is broken.
            WHEN a.failed_count = 0 THEN 0 END::float8 AS segments,
       a.failed_count, a.last_failed_wal,
       coalesce(a.last_failed_time > coalesce(a.last_archived_time, '-infinity'), false) AS failing
FROM pg_stat_archiver a
CROSS JOIN (SELECT setting::bigint AS bytes FROM pg_settings WHERE name = 'wal_segment_size') size
CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END AS wal) here

-- name: wal_position
-- Where the WAL is now; twice asked, it is a rate.
SELECT extract(epoch FROM clock_timestamp())::float8 AS at,
       ((CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END) - '0/0'::pg_lsn)::bigint AS wal

-- name: lock_waiters
-- Sessions of this database, ours left out, that have waited a quarter of a second or more for a lock, whoever holds it.
SELECT count(DISTINCT l.pid) AS sessions, (array_agg(l.pid ORDER BY l.waitstart))[1] AS longest_pid,
       extract(epoch FROM clock_timestamp() - min(l.waitstart))::float8 AS longest_seconds
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE NOT l.granted AND l.waitstart <= clock_timestamp() - interval '0.25 seconds'
  AND a.datname = current_database()
  AND NOT starts_with(coalesce(a.application_name, ''), 'backfilld')

-- name: all_sessions
-- Sessions of clients, idle ones and ours included, beside how many ordinary roles may have.
SELECT count(*) AS sessions,
       current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer AS most
FROM pg_stat_activity a
WHERE a.backend_type = 'client backend' OR (a.backend_type IS NULL AND a.datid IS NOT NULL)

-- name: horizon
-- Who keeps vacuum from removing dead rows of this database: sessions and prepared transactions with the time they began,
-- slots and standbys (hot_standby_feedback) with the transaction they keep, which has no time. A transaction's number is
-- counted from the present one, `next_xid`: that does not wrap around. Ours are left out, and so are vacuums, which nobody
-- waits for.
WITH here AS MATERIALIZED (
    SELECT extract(epoch FROM clock_timestamp())::float8 AS at,
           CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_snapshot_xmax(pg_current_snapshot())::text::bigint END AS next_xid
), holders AS (
    SELECT 'session ' || a.pid || coalesce(' of ' || nullif(a.application_name, ''), '') || ', ' || coalesce(a.state, 'hidden') AS holder,
           extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds, NULL::bigint AS xid
    FROM pg_stat_activity a
    WHERE a.backend_type = 'client backend' AND a.datname = current_database() AND a.pid <> pg_backend_pid()
      AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
      AND NOT starts_with(coalesce(a.application_name, ''), 'backfilld')
      AND a.pid NOT IN (SELECT v.pid FROM pg_stat_progress_vacuum v)
    UNION ALL
    SELECT 'prepared transaction ' || p.gid, extract(epoch FROM clock_timestamp() - p.prepared)::float8, NULL
    FROM pg_prepared_xacts p WHERE p.database = current_database()
    UNION ALL
    SELECT 'slot ' || s.slot_name, NULL, here.next_xid - age(s.xmin)
    FROM pg_replication_slots s CROSS JOIN here WHERE s.xmin IS NOT NULL
    UNION ALL
    SELECT 'standby ' || coalesce(nullif(r.application_name, ''), r.pid::text), NULL, here.next_xid - age(r.backend_xmin)
    FROM pg_stat_replication r CROSS JOIN here WHERE r.backend_xmin IS NOT NULL
)
SELECT here.at, here.next_xid, h.holder, h.seconds, h.xid FROM here LEFT JOIN holders h ON true

-- name: changing
-- The tables that runs are changing at this moment, in the notation of migration files, how large each was before, and
-- about how many rows the run walks.
SELECT l.relation, min((r.space #>> ARRAY['before', 'tables', l.relation])::bigint) AS bytes_before,
       max(r.rows_total) AS rows_total
FROM backfilld.lanes l JOIN backfilld.runs r USING (run)
WHERE r.state = 'running' AND r.phase = 'backfill' AND l.done_at IS NULL AND l.relation IS NOT NULL
GROUP BY l.relation

-- name: dead_tuples
-- Live and dead rows of these tables and their partitions, and what vacuum is about. By name, not by regclass: to look at a
-- name needs no privilege on its schema. The counters begin at nothing after a crash, a restore or a reset; then the last
-- vacuum's count tells, or what the run counted.
SELECT wanted.nspname || '.' || wanted.relname AS relation,
       coalesce(nullif(sum(greatest(pg_stat_get_live_tuples(part.relid), part.reltuples, 0)), 0), max(wanted.rows_total), 0)::bigint
       AS live,
       sum(pg_stat_get_dead_tuples(part.relid))::bigint AS dead,
       bool_or(EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.relid = part.relid)) AS vacuuming,
       NOT current_setting('autovacuum')::boolean
       OR bool_or(EXISTS (SELECT FROM pg_class o, unnest(o.reloptions) option
                          WHERE o.oid = part.relid AND option ~* '^autovacuum_enabled=(f|of|no?$|0)')) AS autovacuum_off
FROM unnest(%(schemas)s::text[], %(names)s::text[], %(rows_total)s::bigint[]) AS wanted (nspname, relname, rows_total)
JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.nspname
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.relname
CROSS JOIN LATERAL (SELECT o.oid AS relid, CASE WHEN o.relkind = 'p' THEN 0 ELSE o.reltuples END::bigint AS reltuples
                    FROM pg_class o
                    WHERE o.oid = c.oid OR o.oid IN (SELECT tree.relid FROM pg_partition_tree(c.oid) tree)) AS part
GROUP BY 1

-- name: table_sizes
-- Bytes of these tables and their partitions, what is stored out of line included.
SELECT wanted.nspname || '.' || wanted.relname AS relation, wanted.bytes_before,
       sum(pg_table_size(part.relid))::bigint AS bytes
FROM unnest(%(schemas)s::text[], %(names)s::text[], %(bytes_before)s::bigint[]) AS wanted (nspname, relname, bytes_before)
JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.nspname
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.relname
CROSS JOIN LATERAL (SELECT c.oid AS relid UNION SELECT tree.relid::oid FROM pg_partition_tree(c.oid) tree) AS part
WHERE wanted.bytes_before > 0
GROUP BY 1, 2

-- name: others
-- Sessions of others in this database that have run something within two seconds, or may have: what they do is hidden from a
-- role without pg_monitor. Whether a run may be at work, and how many transactions have ended here, batches of runs left out.
SELECT count(*) FILTER (WHERE a.backend_type IS NULL OR a.state IN ('active', 'fastpath function call', 'disabled')
                           OR a.state_change >= clock_timestamp() - interval '2 seconds') AS sessions,
       EXISTS (SELECT FROM backfilld.runs WHERE state IN ('queued', 'running', 'rolling_back')) AS runs,
       (SELECT d.xact_commit + d.xact_rollback FROM pg_stat_database d WHERE d.datname = current_database())
       - (SELECT coalesce(sum(l.batches_committed), 0) FROM backfilld.lanes l)::bigint AS transactions
FROM pg_stat_activity a
WHERE a.pid <> pg_backend_pid()
  AND a.datname = current_database()
  AND NOT starts_with(coalesce(a.application_name, ''), 'backfilld')
  AND (a.backend_type = 'client backend' OR a.backend_type IS NULL)

-- name: statements_function
-- In which schema the function behind the view pg_stat_statements is, if this role may call it.
SELECT n.nspname AS schema
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.proname = 'pg_stat_statements' AND p.proargtypes = '16'::oidvector
  AND has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE')
ORDER BY p.oid LIMIT 1
