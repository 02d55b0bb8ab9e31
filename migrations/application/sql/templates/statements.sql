-- name: statements
-- What each statement of this database was sent by and how often, as the top level of a session. A text that names no user's
-- table is left out by who asks.
SELECT s.query, s.queryid::bigint AS queryid, array_agg(DISTINCT s.userid::regrole::text) AS roles, sum(s.calls)::bigint AS calls,
       sum(s.total_exec_time)::float8 AS milliseconds, min({since}) AS since
FROM {statements}(true) s
WHERE s.toplevel AND s.dbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
  AND (%s::text[] = '{{}}' OR EXISTS (SELECT FROM pg_roles r WHERE r.oid = s.userid AND r.rolname = ANY (%s::text[])))
GROUP BY s.query, s.queryid ORDER BY sum(s.total_exec_time) DESC, s.query, s.queryid

-- name: plpgsql_errors
-- What plpgsql_check says that will fail in a function's copy, of a trigger's function for this table.
SELECT c.sqlstate, c.message
FROM {check}('pg_temp.backfilld_check'::regproc::oid, %s::bigint::oid, fatal_errors => false, other_warnings => false,
             performance_warnings => false, extra_warnings => false) c
WHERE c.level = 'error' ORDER BY c.lineno, c.position LIMIT 1

-- name: reset
-- Since when statements are counted, and how often some were evicted since.
SELECT i.stats_reset, i.dealloc::bigint AS evictions, clock_timestamp() AS now FROM {info}() i
