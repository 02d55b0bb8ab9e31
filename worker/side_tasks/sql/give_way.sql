-- name: batch_runs
-- Whether any batch runs on this server.
SELECT EXISTS (SELECT FROM backfilld.own_sessions) AS runs

-- name: give_way
-- The batches that run at this moment, one a row. One that others have waited for longer than its run allows, directly or
-- behind each other, is cancelled, and the row says who had waited longest.
-- Asked twenty times a second, so in steps from cheap to dear: who is there and says to wait (pg_stat_activity; a role without
-- pg_monitor does not see who waits, so everybody may), for how long (pg_locks), and for whom (pg_blocking_pids, which stops
-- the lock manager). A step is left out when the one before found none.
-- A coordinator counts while it works (VALIDATE) and not while it waits for its own lock, or has committed and waits for a standby. A session that builds an index counts
-- always: it holds its table while it waits, for writers and for old snapshots.
WITH RECURSIVE sessions AS MATERIALIZED (
    SELECT a.pid, coalesce(a.application_name, '') AS name,
           -- A build goes through several transactions, and holds its table from the first to the last.
           CASE WHEN right(a.application_name, 6) = ' index' THEN a.backend_start ELSE a.xact_start END AS xact_start,
           a.usesysid = quote_ident(current_user)::regrole AND a.state = 'active' AS may_be_ours,
           regexp_match(a.application_name, '^backfilld run=(\d{1,18}) lane=(\d{1,9}) ') AS lane,
           a.wait_event_type = 'Lock' AS waits, a.wait_event = 'SyncRep' AS committing, a.backend_type IS NULL AS hidden, a.backend_type = 'autovacuum worker' AS vacuums
    FROM pg_stat_get_activity(NULL) a
    WHERE a.datid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) AND a.pid <> pg_backend_pid()
), batches AS MATERIALIZED (
    SELECT s.pid, s.xact_start, r.run, s.lane[2]::integer AS lane, (r.settings ->> 'give_way_ms')::integer AS give_way_ms
    FROM sessions s
    JOIN backfilld.runs r ON r.run = s.lane[1]::bigint
    WHERE s.may_be_ours AND (s.lane[2]::integer > 0 OR (s.waits OR s.committing) IS NOT TRUE OR right(s.name, 6) = ' index')
), patience AS (
    SELECT min(b.give_way_ms) AS least_ms, min(b.xact_start) AS since FROM batches b WHERE b.give_way_ms > 0
), waiting AS MATERIALIZED (
    -- A session that waited before any of the batches began does not wait for them.
    SELECT l.pid, l.waitstart, s.name
    FROM pg_locks l JOIN sessions s USING (pid) CROSS JOIN patience p
    WHERE EXISTS (SELECT FROM batches WHERE batches.give_way_ms > 0)
      AND EXISTS (SELECT FROM sessions w WHERE (w.waits OR w.hidden) AND NOT starts_with(w.name, 'backfilld'))
      AND NOT l.granted AND l.waitstart >= p.since
      AND l.waitstart <= clock_timestamp() - make_interval(secs => p.least_ms / 1000.0)
      AND NOT starts_with(s.name, 'backfilld') AND s.vacuums IS NOT TRUE
    ORDER BY l.waitstart LIMIT 100
), edges AS MATERIALIZED (
    SELECT w.pid, w.waitstart, w.name, pg_blocking_pids(w.pid) AS blockers FROM waiting w
), blocked AS (
    SELECT e.pid, e.waitstart, e.name, b.pid AS batch FROM edges e JOIN batches b ON b.pid = ANY (e.blockers)
    UNION
    SELECT e.pid, e.waitstart, e.name, k.batch FROM edges e JOIN blocked k ON k.pid = ANY (e.blockers)
)
SELECT b.run, b.lane, b.pid, b.xact_start, w.pid AS waiting_pid, w.name AS waiting_name, w.seconds AS waiting_seconds,
       CASE WHEN w.pid IS NOT NULL THEN pg_cancel_backend(b.pid) ELSE false END AS cancelled
FROM batches b
LEFT JOIN LATERAL (
    SELECT k.pid, k.name, extract(epoch FROM clock_timestamp() - k.waitstart)::float8 AS seconds
    FROM blocked k
    WHERE k.batch = b.pid AND b.give_way_ms > 0
      AND k.waitstart <= clock_timestamp() - make_interval(secs => b.give_way_ms / 1000.0)
    ORDER BY k.waitstart LIMIT 1
) w ON true
