-- name: read_pace
-- The database's pace, and how old the reading behind it is.
SELECT width, max_width, rest, batch_seconds, hold_reason, memory ->> 'hold_signal' AS hold_signal, readings,
       extract(epoch FROM clock_timestamp() - held_since)::float8 AS held_seconds,
       extract(epoch FROM clock_timestamp() - stopped_at)::float8 AS stopped_seconds,
       extract(epoch FROM clock_timestamp() - sampled_at)::float8 AS age_seconds
FROM backfilld.pace

-- name: take_pace
-- Become the one governor of this moment. No row: another worker is reading.
SELECT width, max_width, hold_reason, memory,
       extract(epoch FROM clock_timestamp() - sampled_at)::float8 AS age_seconds,
       extract(epoch FROM clock_timestamp() - widened_at)::float8 AS since_widened_seconds
FROM backfilld.pace FOR UPDATE SKIP LOCKED

-- name: write_pace
-- The governor's verdict.
UPDATE backfilld.pace
SET width = %(width)s::integer,
    batch_seconds = %(batch_seconds)s::float8,
    rest = %(rest)s::float8,
    hold_reason = %(hold_reason)s::text,
    held_since = CASE WHEN %(hold_reason)s::text IS NULL THEN NULL ELSE coalesce(held_since, clock_timestamp()) END,
    readings = %(readings)s::jsonb,
    memory = %(memory)s::jsonb,
    widened_at = CASE WHEN %(width)s::integer > width THEN clock_timestamp() ELSE coalesce(widened_at, clock_timestamp()) END,
    sampled_at = clock_timestamp()

-- name: canary
-- A commit of the smallest kind, and beside it what `others_at_work` sees. A message in the WAL and not a row: it is written, flushed and
-- replicated as a row is, and leaves nothing for a vacuum, however long a reader holds that back.
SELECT pg_logical_emit_message(true, 'backfilld', '') IS NOT NULL AS written,
       coalesce(bool_or(starts_with(a.application_name, 'backfilld run=') AND a.state <> 'idle'), false) AS working,
       count(*) FILTER (WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
                          AND NOT starts_with(a.application_name, 'backfilld')
                          AND (a.state IN ('active', 'fastpath function call')
                               OR a.state = 'idle in transaction' AND a.state_change > clock_timestamp() - interval '5 seconds')) AS busy
FROM pg_stat_activity a

-- name: others_at_work
-- Whether a batch of ours is under way, and how many sessions of others are inside a transaction: what the canary sees
-- without a commit. One that was left open is nobody's waiting.
SELECT coalesce(bool_or(starts_with(a.application_name, 'backfilld run=') AND a.state <> 'idle'), false) AS working,
       count(*) FILTER (WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
                          AND NOT starts_with(a.application_name, 'backfilld')
                          AND (a.state IN ('active', 'fastpath function call')
                               OR a.state = 'idle in transaction' AND a.state_change > clock_timestamp() - interval '5 seconds')) AS busy
FROM pg_stat_activity a

-- name: wal_position
-- Where the WAL is now; twice asked, it is what was written between, by everybody.
SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint AS wal_position

-- name: set_max_width
-- A person sets how many lanes may work at once, at most.
UPDATE backfilld.pace SET max_width = %(max_width)s::integer, width = least(width, %(max_width)s::integer)

-- name: take_permit
-- One of `width` permits, for as long as this transaction lasts. No row: all are taken.
SELECT permit FROM backfilld.permits
WHERE permit <= (SELECT width FROM backfilld.pace)
ORDER BY permit LIMIT 1 FOR UPDATE SKIP LOCKED

-- name: read_stop
-- Who stopped all runs, and when. No row: they are not stopped.
SELECT stopped_at, stopped_by FROM backfilld.pace WHERE stopped_at IS NOT NULL

-- name: stop_all
-- A person stops all runs. No row: they are stopped already.
UPDATE backfilld.pace SET stopped_at = clock_timestamp(), stopped_by = %(actor)s::text
WHERE stopped_at IS NULL RETURNING stopped_at

-- name: resume_all
-- A person lifts the stop. No row: there was none.
UPDATE backfilld.pace SET stopped_at = NULL, stopped_by = NULL
WHERE stopped_at IS NOT NULL RETURNING only_row

-- name: working_sessions
-- Sessions of ours that are inside a batch or a step of DDL.
SELECT count(*) AS sessions FROM backfilld.own_sessions o WHERE o.is_here AND o.state <> 'idle'
