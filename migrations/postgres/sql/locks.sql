-- name: in_the_way
-- Who keeps a session from a lock. Of a session that waits: everybody it waits for, those whom they wait for, and so on to the
-- head of the queue (pg_blocking_pids, which stops the lock manager: only asked while we wait). Of one that has not asked yet
-- (`waiting` is NULL): everybody who holds one of these tables, or a partition, in a mode that conflicts.
-- A prepared transaction has no session; it is found by the lock on its own transaction id.
-- What a role may not see is NULL: without pg_monitor that is most of what others do.
WITH RECURSIVE here AS MATERIALIZED (
    SELECT d.oid FROM pg_database d WHERE d.datname = current_database()
), named AS MATERIALIZED (
    SELECT to_regclass(n.name) AS oid FROM unnest(%(tables)s::text[]) n(name)
), wanted AS MATERIALIZED (
    SELECT n.oid FROM named n UNION SELECT p.relid FROM named n CROSS JOIN LATERAL pg_partition_tree(n.oid) p
), blocking AS (
    SELECT b.pid FROM unnest(pg_blocking_pids(%(waiting)s::integer)) b(pid)
    UNION
    SELECT b.pid FROM blocking k CROSS JOIN LATERAL unnest(pg_blocking_pids(k.pid)) b(pid)
    WHERE k.pid NOT IN (0, %(waiting)s::integer)
), holding AS MATERIALIZED (
    SELECT DISTINCT l.pid, l.virtualtransaction
    FROM pg_locks l JOIN wanted w ON w.oid = l.relation
    WHERE l.locktype = 'relation' AND l.database = (SELECT here.oid FROM here) AND l.granted AND l.mode = ANY (%(modes)s::text[])
      AND (%(waiting)s::integer IS NULL AND l.pid IS DISTINCT FROM pg_backend_pid()
           OR l.pid IS NULL AND EXISTS (SELECT FROM blocking WHERE blocking.pid = 0))
), who AS (
    SELECT b.pid, NULL::text AS gid, NULL::timestamptz AS prepared FROM blocking b WHERE b.pid NOT IN (0, %(waiting)s::integer)
    UNION
    SELECT h.pid, x.gid, x.prepared
    FROM holding h
    LEFT JOIN pg_locks t ON h.pid IS NULL AND t.pid IS NULL AND t.locktype = 'transactionid'
                        AND t.virtualtransaction = h.virtualtransaction
    LEFT JOIN pg_prepared_xacts x ON x.transaction = t.transactionid
)
SELECT w.pid, w.gid, coalesce(a.application_name, '') AS application_name, a.usename AS role, a.backend_type, a.state,
       left(regexp_replace(a.query, '\s+', ' ', 'g'), 120) AS query,
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, w.prepared))::float8 AS transaction_seconds,
       extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS state_seconds,
       a.state_change AS since,
       a.wait_event_type IS NOT DISTINCT FROM 'Lock' AS waits,
       a.datid IS NOT DISTINCT FROM (SELECT here.oid FROM here) AS is_here,
       a.query LIKE 'autovacuum: %%(to prevent wraparound)' AS prevents_wraparound,
       starts_with(a.application_name, 'backfilld') IS TRUE AS is_ours,
       CASE WHEN r.rolsuper THEN (SELECT m.rolsuper FROM pg_roles m WHERE m.rolname = current_user)
            ELSE pg_has_role(a.usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE') END IS TRUE AS may_be_signalled
FROM who w
LEFT JOIN pg_stat_activity a ON a.pid = w.pid
LEFT JOIN pg_roles r ON r.oid = a.usesysid
WHERE w.pid IS NULL OR a.pid IS NOT NULL
ORDER BY coalesce(a.xact_start, w.prepared) NULLS LAST, w.pid
LIMIT 20

-- name: awaited
-- What a session waits for; no row when it does not.
SELECT l.locktype, regexp_replace(l.relation::regclass::text, '^public[.]', '') AS relation, l.mode FROM pg_locks l
WHERE l.pid = %(waiting)s::integer AND NOT l.granted LIMIT 1

-- name: send_away
-- Cancel the statement of a session, or end the session: if it still does what it was seen to do, and is still in the way of
-- the one that waits. Between this look and the signal it could continue to something else; a few microseconds.
WITH RECURSIVE blocking AS (
    SELECT b.pid FROM unnest(pg_blocking_pids(%(waiting)s::integer)) b(pid)
    UNION
    SELECT b.pid FROM blocking k CROSS JOIN LATERAL unnest(pg_blocking_pids(k.pid)) b(pid)
    WHERE k.pid NOT IN (0, %(waiting)s::integer)
)
SELECT CASE WHEN %(ends)s::boolean THEN pg_terminate_backend(a.pid) ELSE pg_cancel_backend(a.pid) END AS sent
FROM pg_stat_activity a JOIN blocking b ON b.pid = a.pid
WHERE a.pid = %(pid)s::integer AND a.backend_type = 'client backend' AND a.datname = current_database()
  AND a.state = %(state)s::text AND a.state_change = %(since)s::timestamptz
