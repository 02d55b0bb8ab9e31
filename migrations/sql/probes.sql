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
