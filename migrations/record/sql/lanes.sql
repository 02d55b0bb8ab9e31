-- name: read_lane
-- A lane, without a lock: enough to know whether a message is stale.
SELECT run, lane, kind, operation, pass, relation, bounds, cursor, seq, batch_rows, recent, rows_walked, rows_changed,
       rows_residual, rows_expected, batches_committed, batches_retried, attempts, last_error, lock_wait, next_run_at, enqueued_at, progressed_at, done_at
FROM backfilld.lanes WHERE run = %(run)s::bigint AND lane = %(lane)s::integer

-- name: claim_lane
-- Take the lane for one step. No row: the step was taken meanwhile.
SELECT run, lane, kind, operation, pass, relation, bounds, cursor, seq, batch_rows, recent, rows_walked, rows_changed,
       rows_residual, rows_expected, batches_committed, batches_retried, attempts, last_error, lock_wait, next_run_at, enqueued_at, progressed_at, done_at
FROM backfilld.lanes
WHERE run = %(run)s::bigint AND lane = %(lane)s::integer AND seq = %(seq)s::bigint AND done_at IS NULL
FOR UPDATE

-- name: lanes_of
-- All lanes of a run.
SELECT run, lane, kind, operation, pass, relation, bounds, cursor, seq, batch_rows, recent, rows_walked, rows_changed,
       rows_residual, rows_expected, batches_committed, batches_retried, attempts, last_error, lock_wait, next_run_at, enqueued_at, progressed_at, done_at
FROM backfilld.lanes WHERE run = %(run)s::bigint ORDER BY lane

-- name: insert_lane
-- One more lane of a run. The caller holds lane 0, so that numbers do not collide. One that is not awake sleeps until
-- another lane's end.
INSERT INTO backfilld.lanes (run, lane, kind, operation, pass, relation, bounds, cursor, batch_rows, rows_expected,
                             next_run_at, enqueued_at)
SELECT %(run)s::bigint, max(lane) + 1, %(kind)s::text, %(operation)s::integer, %(pass)s::integer, %(relation)s::text,
       %(bounds)s::jsonb, %(cursor)s::jsonb, %(batch_rows)s::integer, %(rows_expected)s::bigint,
       CASE WHEN %(awake)s::boolean THEN clock_timestamp() END, CASE WHEN %(awake)s::boolean THEN clock_timestamp() END
FROM backfilld.lanes WHERE run = %(run)s::bigint
RETURNING run, lane, seq

-- name: extend_lane
-- Residual rows next to residual rows: the lane that will rewrite them grows.
UPDATE backfilld.lanes SET bounds = jsonb_set(bounds, ARRAY[%(edge)s::text], %(ends)s::jsonb)
WHERE run = %(run)s::bigint AND kind = 'backfill' AND pass = %(pass)s::integer AND operation = %(operation)s::integer
  AND relation = %(relation)s::text AND bounds -> %(edge)s::text = %(begins)s::jsonb AND seq = 0

-- name: lock_coordinator
-- Keep other lanes of the run from adding lanes or waking the coordinator until this transaction ends.
SELECT seq FROM backfilld.lanes WHERE run = %(run)s::bigint AND lane = 0 FOR UPDATE

-- name: try_lock_coordinator
-- The same without waiting: no row when it is locked.
SELECT seq FROM backfilld.lanes WHERE run = %(run)s::bigint AND lane = 0 FOR UPDATE SKIP LOCKED

-- name: shorten_lane
-- A lane gives a part of what it has before it to another.
UPDATE backfilld.lanes
SET bounds = %(bounds)s::jsonb, cursor = %(cursor)s::jsonb, rows_expected = greatest(rows_expected - %(given)s::bigint, 0)
WHERE run = %(run)s::bigint AND lane = %(lane)s::integer

-- name: wake_sleepers
-- Lanes that wait for their turn begin, those first in number.
WITH next AS (
    SELECT l.run, l.lane
    FROM backfilld.lanes l JOIN backfilld.runs r USING (run)
    WHERE l.run = %(run)s::bigint AND l.done_at IS NULL AND l.next_run_at IS NULL AND l.kind <> 'coordinator' AND l.pass = r.pass
      AND backfilld.may_work(r.state, r.phase, l.kind)
    ORDER BY l.lane LIMIT %(lanes)s::integer
    FOR UPDATE OF l SKIP LOCKED
)
UPDATE backfilld.lanes l SET next_run_at = clock_timestamp(), enqueued_at = clock_timestamp()
FROM next WHERE l.run = next.run AND l.lane = next.lane
RETURNING l.run, l.lane, l.seq

-- name: advance_lane
-- The checkpoint: cursor, counters and the next message's seq, in the transaction of the rows.
UPDATE backfilld.lanes
SET cursor = %(cursor)s::jsonb,
    seq = seq + 1,
    batch_rows = %(batch_rows)s::integer,
    recent = %(recent)s::jsonb,
    rows_walked = rows_walked + %(walked)s::bigint,
    rows_changed = rows_changed + %(changed)s::bigint,
    rows_residual = rows_residual + %(residual)s::bigint,
    rows_own = rows_own + %(own)s::bigint,
    rows_hot = coalesce(rows_hot + %(hot)s::bigint, rows_hot, %(hot)s::bigint),
    batches_committed = batches_committed + 1,
    attempts = 0,
    last_error = NULL,
    lock_wait = NULL,
    next_run_at = CASE WHEN %(sleeps)s::boolean THEN NULL ELSE clock_timestamp() END,
    enqueued_at = clock_timestamp(),
    progressed_at = clock_timestamp(),
    done_at = CASE WHEN %(done)s::boolean THEN clock_timestamp() END
WHERE run = %(run)s::bigint AND lane = %(lane)s::integer AND seq = %(seq)s::bigint
RETURNING run, lane, kind, operation, pass, relation, bounds, cursor, seq, batch_rows, recent, rows_walked, rows_changed,
          rows_residual, rows_expected, batches_committed, batches_retried, attempts, last_error, lock_wait, next_run_at, enqueued_at, progressed_at, done_at

-- name: postpone_lane
-- The lane comes back by itself: after an error, with the reason and a smaller batch; after a hold, with neither.
UPDATE backfilld.lanes
SET next_run_at = clock_timestamp() + make_interval(secs => %(delay_seconds)s::float8),
    enqueued_at = NULL,
    attempts = %(attempts)s::integer,
    batch_rows = %(batch_rows)s::integer,
    batches_retried = batches_retried + %(retried)s::integer,
    last_error = coalesce(%(error)s::jsonb, last_error),
    lock_wait = coalesce(%(lock_wait)s::jsonb, lock_wait)
WHERE run = %(run)s::bigint AND lane = %(lane)s::integer AND seq = %(seq)s::bigint AND done_at IS NULL

-- name: wake_coordinator
-- A lane has ended: the coordinator looks whether all have.
UPDATE backfilld.lanes SET next_run_at = clock_timestamp(), enqueued_at = clock_timestamp()
WHERE run = %(run)s::bigint AND lane = 0 AND done_at IS NULL
RETURNING run, lane, seq

-- name: wake_run
-- Every open lane of a run that is not working already may work now; a sleeping coordinator only when asked for, and lanes
-- that wait for their turn keep waiting.
UPDATE backfilld.lanes SET next_run_at = clock_timestamp(), attempts = 0, last_error = NULL, lock_wait = NULL
WHERE (run, lane) IN (
    SELECT run, lane FROM backfilld.lanes
    WHERE run = %(run)s::bigint AND done_at IS NULL
      AND (next_run_at IS NOT NULL OR kind = 'coordinator' AND %(coordinator)s::boolean)
    FOR UPDATE SKIP LOCKED)

-- name: open_lanes
-- Lanes of the present pass that are not at their end.
SELECT count(*) AS open FROM backfilld.lanes
WHERE run = %(run)s::bigint AND pass = %(pass)s::integer AND kind = ANY(%(kinds)s::text[]) AND done_at IS NULL

-- name: pass_result
-- What the lanes of a pass found and did.
SELECT coalesce(sum(rows_residual), 0)::bigint AS residual, coalesce(sum(rows_walked), 0)::bigint AS walked,
       coalesce(sum(rows_own), 0)::bigint AS own
FROM backfilld.lanes WHERE run = %(run)s::bigint AND pass = %(pass)s::integer AND kind = %(kind)s::text

-- name: due_lanes
-- Lanes that should be working and that no message is on its way to, or none that arrived within `grace_seconds`. A lane
-- that is being worked on is locked and skipped, so the grace only has to cover the wait in the queue.
-- A coordinator sleeps only while lanes work. One that sleeps without any missed its wake-up: `wake_run` skips a lane that a late
-- message looks at in that very moment. Lanes that wait for their turn are due when fewer work than the run may have.
WITH due AS (
    SELECT l.run, l.lane
    FROM backfilld.lanes l JOIN backfilld.runs r USING (run)
    WHERE l.done_at IS NULL
      AND r.state IN ('queued', 'running', 'rolling_back', 'waiting')
      AND backfilld.may_work(r.state, r.phase, l.kind)
      AND (l.kind IN ('coordinator', 'follow') OR l.pass = r.pass)
      AND (l.next_run_at <= clock_timestamp()
           OR l.kind = 'coordinator' AND l.next_run_at IS NULL
              AND NOT EXISTS (SELECT FROM backfilld.lanes w
                              WHERE w.run = l.run AND w.done_at IS NULL AND w.pass = r.pass AND w.kind NOT IN ('coordinator', 'follow')
                                AND backfilld.may_work(r.state, r.phase, w.kind))
           OR l.kind <> 'coordinator' AND l.next_run_at IS NULL
              AND (SELECT count(*) FROM backfilld.lanes w
                   WHERE w.run = l.run AND w.done_at IS NULL AND w.kind NOT IN ('coordinator', 'follow') AND w.pass = r.pass
                     AND (w.next_run_at IS NOT NULL OR w.lane < l.lane)) < (r.settings ->> 'lanes')::integer)
      AND (l.enqueued_at IS NULL OR l.enqueued_at < clock_timestamp() - make_interval(secs => %(grace_seconds)s::float8))
    ORDER BY l.next_run_at
    LIMIT 1000
    FOR UPDATE OF l SKIP LOCKED
)
UPDATE backfilld.lanes l SET enqueued_at = clock_timestamp(),
                             next_run_at = CASE WHEN l.kind = 'coordinator' THEN l.next_run_at
                                                ELSE coalesce(l.next_run_at, clock_timestamp()) END
FROM due WHERE l.run = due.run AND l.lane = due.lane
RETURNING l.run, l.lane, l.seq

-- name: startable
-- The lanes that a message may wake at once: those of the run's present phase and pass that are not being worked on.
WITH ready AS (
    SELECT l.run, l.lane
    FROM backfilld.lanes l JOIN backfilld.runs r USING (run)
    WHERE l.run = %(run)s::bigint AND l.done_at IS NULL AND l.next_run_at <= clock_timestamp()
      AND backfilld.may_work(r.state, r.phase, l.kind) AND (l.kind IN ('coordinator', 'follow') OR l.pass = r.pass)
    FOR UPDATE OF l SKIP LOCKED
)
UPDATE backfilld.lanes l SET enqueued_at = clock_timestamp()
FROM ready WHERE l.run = ready.run AND l.lane = ready.lane
RETURNING l.run, l.lane, l.seq

-- name: in_flight
-- Lanes of a run that are locked at this moment.
WITH free AS (SELECT lane FROM backfilld.lanes WHERE run = %(run)s::bigint FOR UPDATE SKIP LOCKED)
SELECT (SELECT count(*) FROM backfilld.lanes WHERE run = %(run)s::bigint) - (SELECT count(*) FROM free) AS held

-- name: waiting
-- Seconds the oldest due lane has waited for its step, and how many lanes are due.
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - coalesce(l.enqueued_at, l.next_run_at))), 0)::float8 AS seconds,
       count(*) AS lanes
FROM backfilld.lanes l JOIN backfilld.runs r USING (run)
WHERE l.done_at IS NULL AND l.next_run_at <= clock_timestamp()
  AND backfilld.may_work(r.state, r.phase, l.kind) AND (l.kind IN ('coordinator', 'follow') OR l.pass = r.pass)

-- name: end_frozen
-- Sessions of ours that hold a lane and do nothing. The server ends them itself; this is for a limit that a pooler has lost.
-- A Python function is busy while its session is idle.
SELECT o.pid, o.name AS application_name, extract(epoch FROM clock_timestamp() - o.state_change)::float8 AS seconds,
       pg_terminate_backend(o.pid) AS ended
FROM backfilld.own_sessions o
WHERE o.is_here AND o.is_mine AND o.state LIKE 'idle in transaction%%' AND o.doing <> 'python'
  AND o.state_change < clock_timestamp() - make_interval(secs => %(seconds)s::float8)

-- name: end_forward
-- A run turns back: what its lanes had still before them is not done any more.
UPDATE backfilld.lanes SET done_at = clock_timestamp()
WHERE run = %(run)s::bigint AND kind <> 'coordinator' AND done_at IS NULL

-- name: reopen_coordinator
-- A run that was at its end turns back: its coordinator has work again.
UPDATE backfilld.lanes SET done_at = NULL, next_run_at = clock_timestamp(), enqueued_at = NULL
WHERE run = %(run)s::bigint AND lane = 0

-- name: lanes_of_walk
-- How many lanes a walk between two steps has, how many of them are not at their end, and what they did.
SELECT count(*) AS lanes, count(*) FILTER (WHERE done_at IS NULL) AS open,
       coalesce(sum(rows_walked), 0)::bigint AS walked, coalesce(sum(rows_changed), 0)::bigint AS changed,
       coalesce(sum(rows_residual), 0)::bigint AS residual, coalesce(sum(rows_own), 0)::bigint AS own
FROM backfilld.lanes
WHERE run = %(run)s::bigint AND kind = %(kind)s::text AND operation = %(operation)s::integer

-- name: has_follower
-- Whether a lane of an operation follows what is written.
SELECT EXISTS (SELECT FROM backfilld.lanes WHERE run = %(run)s::bigint AND operation = %(operation)s::integer AND kind = 'follow' AND done_at IS NULL)
    AS there

-- name: forget_walk
-- A walk between two steps is to be done again from its beginning: its lanes, all at their end, go.
DELETE FROM backfilld.lanes WHERE run = %(run)s::bigint AND kind = %(kind)s::text AND operation = %(operation)s::integer
