-- name: insert_run
-- A new run of a migration. Fails on `runs_name_in_use` when the name has one already.
-- None when there is a newer one of the name than `known`: it was made and has ended since that was looked up.
INSERT INTO backfilld.runs (name, checksum, definition, settings, facts, examined_at, requested_by)
SELECT %(name)s::text, %(checksum)s::text, %(definition)s::jsonb, %(settings)s::jsonb, %(facts)s::jsonb,
       CASE WHEN %(facts)s::jsonb <> '[]' THEN clock_timestamp() END, %(requested_by)s::text
WHERE NOT EXISTS (SELECT FROM backfilld.runs r WHERE r.name = %(name)s::text AND r.run > %(known)s::bigint)
RETURNING run

-- name: insert_coordinator
-- Lane 0, which does the phases.
INSERT INTO backfilld.lanes (run, lane, kind) VALUES (%(run)s::bigint, 0, 'coordinator')

-- name: run_by_id
-- One run, whole.
SELECT run, name, checksum, definition, settings, facts, phase, state, wish, approved, pass, rows_total, residual_rows,
       CASE WHEN verified_at IS NULL OR ended_at IS NOT NULL OR backfilld.proof_holds(run) THEN verified_at END AS verified_at,
       own_values, error, space, rollback, kept_until, purged_at, requested_by, created_at, updated_at, state_since, phase_since,
       started_at, ended_at
FROM backfilld.runs WHERE run = %(run)s::bigint

-- name: run_by_name
-- The newest run of a name.
SELECT run, name, checksum, definition, settings, facts, phase, state, wish, approved, pass, rows_total, residual_rows,
       CASE WHEN verified_at IS NULL OR ended_at IS NOT NULL OR backfilld.proof_holds(run) THEN verified_at END AS verified_at,
       own_values, error, space, rollback, kept_until, purged_at, requested_by, created_at, updated_at, state_since, phase_since,
       started_at, ended_at
FROM backfilld.runs WHERE name = %(name)s::text ORDER BY run DESC LIMIT 1

-- name: runs
-- Runs, newest first; those that have ended only when asked for.
SELECT run, name, checksum, definition, settings, facts, phase, state, wish, approved, pass, rows_total, residual_rows,
       CASE WHEN verified_at IS NULL OR ended_at IS NOT NULL OR backfilld.proof_holds(run) THEN verified_at END AS verified_at,
       own_values, error, space, rollback, kept_until, purged_at, requested_by, created_at, updated_at, state_since, phase_since,
       started_at, ended_at
FROM backfilld.runs
WHERE %(ended)s::boolean OR ended_at IS NULL
ORDER BY run DESC LIMIT %(most)s::integer

-- name: later_runs
-- Runs that were made after one and are not taken back.
SELECT run, name, checksum, definition, settings, facts, phase, state, wish, approved, pass, rows_total, residual_rows, verified_at,
       own_values, error, space, rollback, kept_until, purged_at, requested_by, created_at, updated_at, state_since, phase_since,
       started_at, ended_at
FROM backfilld.runs WHERE run > %(run)s::bigint AND state NOT IN ('cancelled', 'rolled_back') ORDER BY run

-- name: with_something_left
-- Runs that have not ended, and cancelled ones of which a sync trigger is still there.
SELECT r.run, r.name, r.checksum, r.definition, r.settings, r.facts, r.phase, r.state, r.wish, r.approved, r.pass, r.rows_total,
       r.residual_rows, r.verified_at, r.own_values, r.error, r.space, r.rollback, r.kept_until, r.purged_at, r.requested_by,
       r.created_at, r.updated_at, r.state_since, r.phase_since, r.started_at, r.ended_at
FROM backfilld.runs r
WHERE r.ended_at IS NULL
   OR r.state = 'cancelled'
      -- The functions of a migration's triggers are called by a digest of its name (migrations/operations/base.py).
      AND EXISTS (SELECT FROM pg_proc p JOIN pg_trigger t ON t.tgfoid = p.oid
                  WHERE p.pronamespace = 'backfilld'::regnamespace
                    AND p.proname ~ ('^(sync|changed)_' || left(encode(sha256(convert_to(r.name, 'UTF8')), 'hex'), 10) || '_'))
      AND NOT EXISTS (SELECT FROM backfilld.runs n WHERE n.name = r.name AND n.run > r.run)
ORDER BY r.run

-- name: made_names
-- What runs that are not rolled back may have made: the digests of their names, and the inactive columns, each with its table.
SELECT left(encode(sha256(convert_to(r.name, 'UTF8')), 'hex'), 10) AS digest, t.relation,
       t.dependents ->> 'new_column' AS new_column, t.dependents ->> 'old_column' AS old_column
FROM backfilld.runs r CROSS JOIN LATERAL jsonb_array_elements(r.facts) f(one)
CROSS JOIN LATERAL (
    SELECT f.one ->> 'relation' AS relation, f.one -> 'column_dependents' AS dependents
    UNION ALL
    SELECT o.referrer ->> 'table', o.referrer -> 'dependents' FROM jsonb_path_query(f.one, '$.referrers[*]') o(referrer)
) t
WHERE r.state <> 'rolled_back'

-- name: last_ended
-- The runs that ended last, the last one first.
SELECT run, name, checksum, definition, settings, facts, phase, state, wish, approved, pass, rows_total, residual_rows,
       CASE WHEN verified_at IS NULL OR ended_at IS NOT NULL OR backfilld.proof_holds(run) THEN verified_at END AS verified_at,
       own_values, error, space, rollback, kept_until, purged_at, requested_by, created_at, updated_at, state_since, phase_since,
       started_at, ended_at
FROM backfilld.runs
WHERE ended_at IS NOT NULL
ORDER BY ended_at DESC LIMIT %(most)s::integer

-- name: lock_run
-- Where a run stands, held until the transaction ends.
SELECT name, state, phase, wish, settings, approved, pass, rollback FROM backfilld.runs WHERE run = %(run)s::bigint FOR UPDATE

-- name: set_state
-- A run's new state, with the wish and the error that belong to it.
UPDATE backfilld.runs
SET state_since = CASE WHEN state = %(state)s::text THEN state_since ELSE clock_timestamp() END,
    state = %(state)s::text,
    wish = %(wish)s::text,
    error = %(error)s::jsonb,
    started_at = CASE WHEN %(state)s::text = 'running' THEN coalesce(started_at, clock_timestamp()) ELSE started_at END,
    ended_at = CASE WHEN %(state)s::text IN ('cancelled', 'rolled_back', 'completed') THEN clock_timestamp() END,
    updated_at = clock_timestamp()
WHERE run = %(run)s::bigint

-- name: set_phase
-- A run enters a phase.
UPDATE backfilld.runs
SET phase_since = CASE WHEN phase = %(phase)s::text THEN phase_since ELSE clock_timestamp() END,
    phase = %(phase)s::text, updated_at = clock_timestamp()
WHERE run = %(run)s::bigint

-- name: set_totals
-- How many rows the walk passes over.
UPDATE backfilld.runs SET rows_total = %(rows_total)s::bigint WHERE run = %(run)s::bigint

-- name: set_space
-- How large the tables are, at one moment of the walk.
UPDATE backfilld.runs SET space = coalesce(space, '{}') || jsonb_build_object(%(moment)s::text, %(sizes)s::jsonb)
WHERE run = %(run)s::bigint

-- name: set_pass
-- The data is walked once more.
UPDATE backfilld.runs
SET pass = %(pass)s::integer, phase = 'backfill', phase_since = clock_timestamp(), verified_at = NULL, updated_at = clock_timestamp()
WHERE run = %(run)s::bigint

-- name: set_residual
-- What a verifying walk found.
UPDATE backfilld.runs
SET residual_rows = %(residual)s::bigint,
    own_values = %(own)s::bigint,
    verified_at = CASE WHEN %(verified)s::boolean THEN clock_timestamp() END,
    updated_at = clock_timestamp()
WHERE run = %(run)s::bigint

-- name: unverify
-- What was proved does not hold any longer.
UPDATE backfilld.runs SET verified_at = NULL, updated_at = clock_timestamp() WHERE run = %(run)s::bigint

-- name: disturbed
-- Runs that wait for an approval while what they have proved does not hold any longer.
SELECT run FROM backfilld.runs
WHERE state = 'waiting' AND verified_at IS NOT NULL AND NOT backfilld.proof_holds(run) ORDER BY run

-- name: approve
-- A person lets a phase begin.
UPDATE backfilld.runs SET approved = approved || %(phase)s::text, updated_at = clock_timestamp()
WHERE run = %(run)s::bigint AND NOT approved @> ARRAY[%(phase)s::text]

-- name: withdraw_approval
-- A phase is not approved any more.
UPDATE backfilld.runs SET approved = array_remove(approved, %(phase)s::text), updated_at = clock_timestamp()
WHERE run = %(run)s::bigint AND approved @> ARRAY[%(phase)s::text]

-- name: set_facts
-- What preflight learned of a run that began after others.
UPDATE backfilld.runs SET facts = %(facts)s::jsonb, examined_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE run = %(run)s::bigint AND examined_at IS NULL

-- name: awaited
-- Of these migrations, those that are not verified and usable.
SELECT backfilld.awaited(%(names)s::jsonb) AS awaited

-- name: tune
-- New settings for a run, from its next batch on.
UPDATE backfilld.runs SET settings = %(settings)s::jsonb, updated_at = clock_timestamp() WHERE run = %(run)s::bigint

-- name: set_rollback
-- Where a rollback begins: nothing yet, or the phase and the step that the run had reached.
UPDATE backfilld.runs SET rollback = %(rollback)s::jsonb, updated_at = clock_timestamp() WHERE run = %(run)s::bigint

-- name: keep_until
-- From now on old values are kept for so many days.
UPDATE backfilld.runs SET kept_until = clock_timestamp() + make_interval(secs => %(days)s::float8 * 86400)
WHERE run = %(run)s::bigint

-- name: progress
-- The numbers of the walks of runs, for status and metrics. A row that was walked and neither changed nor quarantined was as it
-- should be already; a walk by pages does not count what it passes. What is past its turn with an error on record is retrying.
-- `old_values_…` is of the walk between two steps (to the archive, or back, or as each persona) that is not over; `lanes_back_done` of
-- walks back that are.
SELECT r.run, lanes.*, kept.*,
       greatest(lanes.rows_passed - set_aside.rows, 0)::bigint AS rows_unchanged,
       set_aside.rows AS quarantined,
       (SELECT count(*) FROM backfilld.rollback_conflicts m WHERE m.run = r.run) AS rollback_conflicts,
       CASE WHEN r.examined_at IS NULL THEN backfilld.awaited(r.definition -> 'after') END AS awaited,
       CASE WHEN EXISTS (SELECT FROM backfilld.loads d WHERE d.run = r.run) THEN backfilld.load_of(r.run) END AS load
FROM backfilld.runs r
CROSS JOIN LATERAL (
    SELECT coalesce(sum(l.rows_changed) FILTER (WHERE l.kind IN ('backfill', 'retry')), 0)::bigint AS rows_changed,
           coalesce(sum(l.rows_changed), 0)::bigint AS rows_changed_by_all,
           coalesce(sum(l.rows_changed) FILTER (WHERE l.pass = r.pass), 0)::bigint AS rows_changed_in_pass,
           coalesce(sum(l.rows_walked - l.rows_changed)
                    FILTER (WHERE l.kind IN ('backfill', 'retry') AND NOT l.bounds ? 'first'), 0)::bigint AS rows_passed,
           coalesce(sum(l.rows_walked) FILTER (WHERE l.kind = 'backfill' AND l.pass = 1), 0)::bigint AS rows_walked,
           coalesce(sum(l.rows_walked) FILTER (WHERE l.kind = 'verify' AND l.pass = r.pass), 0)::bigint AS rows_verified,
           sum(l.rows_hot)::bigint AS rows_hot,
           coalesce(sum(l.rows_changed) FILTER (WHERE l.rows_hot IS NOT NULL), 0)::bigint AS rows_changed_counted,
           coalesce(sum(l.batches_committed), 0)::bigint AS batches_committed,
           coalesce(sum(l.batches_retried), 0)::bigint AS batches_retried,
           count(*) FILTER (WHERE l.kind <> 'coordinator' AND l.done_at IS NULL AND l.pass = r.pass) AS lanes_open,
           count(*) FILTER (WHERE l.kind <> 'coordinator' AND l.done_at IS NULL AND l.pass = r.pass AND l.attempts > 0) AS lanes_retrying,
           count(*) FILTER (WHERE l.kind <> 'coordinator' AND l.done_at IS NULL AND l.pass = r.pass AND l.next_run_at IS NULL)
           AS lanes_asleep,
           count(*) FILTER (WHERE l.kind <> 'coordinator' AND l.done_at IS NOT NULL AND l.pass = r.pass) AS lanes_done,
           count(*) FILTER (WHERE l.kind IN ('restore', 'undo') AND l.done_at IS NOT NULL) AS lanes_back_done,
           coalesce(sum(l.rows_walked) FILTER (WHERE l.kind = 'compare'), 0)::bigint AS rows_compared,
           max(l.progressed_at) AS progressed_at,
           coalesce(jsonb_agg(l.recent) FILTER (WHERE l.kind <> 'coordinator' AND l.done_at IS NULL), '[]') AS recent,
           coalesce(jsonb_agg(jsonb_build_object('lane', l.lane, 'wait', l.lock_wait) || l.last_error) FILTER (WHERE l.last_error IS NOT NULL), '[]')
           AS errors
    FROM backfilld.lanes l WHERE l.run = r.run
) lanes
CROSS JOIN LATERAL (
    SELECT min(l.kind) AS old_values_kind, coalesce(sum(l.rows_walked), 0)::bigint AS old_values_walked,
           coalesce(sum(CASE WHEN l.done_at IS NULL THEN greatest(l.rows_expected, l.rows_walked) ELSE l.rows_walked END), 0)::bigint
           AS old_values_total
    FROM backfilld.lanes l
    WHERE l.run = r.run AND l.kind IN ('archive', 'restore', 'undo', 'compare', 'confirm')
      AND EXISTS (SELECT FROM backfilld.lanes o
                  WHERE o.run = l.run AND o.kind = l.kind AND o.operation = l.operation AND o.done_at IS NULL)
) kept
CROSS JOIN LATERAL (SELECT count(*) AS rows FROM backfilld.quarantine q WHERE q.run = r.run) set_aside
WHERE r.run = ANY(%(runs)s::bigint[])

-- name: count_ended
-- How many runs on record have ended, by state.
SELECT state, count(*) AS runs FROM backfilld.runs WHERE ended_at IS NOT NULL GROUP BY state
