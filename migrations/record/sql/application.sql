-- name: put_statements
-- What a look found: how often each statement came since the look before, and that it did. The first look after the switch only puts
-- down what later ones are compared with. A count that is lower than before was begun anew.
INSERT INTO backfilld.application_statements AS known
    (run, digest, statement, source, queryid, roles, calls, calls_since, came_at)
SELECT %(run)s::bigint, md5(concat_ws(' ', found.queryid, found.statement)), found.statement, found.source, found.queryid,
       string_to_array(found.roles, E'\n'), found.calls,
       CASE WHEN %(first)s::boolean THEN 0 ELSE coalesce(found.calls, 0) END,
       CASE WHEN NOT %(first)s::boolean AND found.calls > 0 THEN clock_timestamp() END
FROM unnest(%(statements)s::text[], %(sources)s::text[], %(queryids)s::bigint[], %(roles)s::text[], %(calls)s::bigint[])
     AS found (statement, source, queryid, roles, calls)
ON CONFLICT (run, digest) DO UPDATE SET
    calls = excluded.calls, roles = excluded.roles,
    calls_since = CASE WHEN %(first)s::boolean OR excluded.calls IS NULL THEN known.calls_since
                       WHEN excluded.calls >= coalesce(known.calls, 0) THEN known.calls_since + excluded.calls - coalesce(known.calls, 0)
                       ELSE known.calls_since + excluded.calls END,
    came_at = CASE WHEN NOT %(first)s::boolean AND excluded.calls IS DISTINCT FROM known.calls THEN clock_timestamp()
                   ELSE known.came_at END

-- name: came
-- The statements that came since the switch, and not longer ago than this, the latest first.
SELECT statement, source, identifier, roles, calls_since, greatest(extract(epoch FROM clock_timestamp() - came_at), 0)::float8 AS seconds
FROM backfilld.application_statements
WHERE run = %(run)s::bigint AND calls_since > 0 AND came_at >= clock_timestamp() - make_interval(secs => %(seconds)s::float8)
ORDER BY came_at DESC, calls_since DESC, digest

-- name: put_plan
-- How a statement is planned at a moment.
UPDATE backfilld.application_statements SET plans = plans || jsonb_build_object(%(moment)s::text, %(plan)s::jsonb)
WHERE run = %(run)s::bigint AND queryid IS NULL AND statement = %(statement)s::text

-- name: put_identifiers
-- What PostgreSQL makes of statements right before the switch.
UPDATE backfilld.application_statements s SET identifier = found.identifier
FROM unnest(%(statements)s::text[], %(identifiers)s::bigint[]) AS found (statement, identifier)
WHERE s.run = %(run)s::bigint AND s.queryid IS NOT NULL AND s.statement = found.statement

-- name: planned_before
-- The statements whose plans were put down before the run began, each with its plans.
SELECT statement, source, roles, calls, plans FROM backfilld.application_statements
WHERE run = %(run)s::bigint AND plans ? 'before' ORDER BY digest

-- name: watched_runs
-- Runs that have switched and whose contract has not been done, and that look at statements.
SELECT r.run FROM backfilld.runs r
WHERE r.phase = 'contract' AND r.ended_at IS NULL AND r.rollback IS NULL AND r.definition ? 'application'
  AND EXISTS (SELECT FROM backfilld.events e WHERE e.run = r.run AND e.what = 'application.checked'
              AND e.detail ->> 'moment' = 'after_switch')
ORDER BY r.run

-- name: last_checks
-- The newest check of the application of each of these runs, of any moment, and when it was.
SELECT DISTINCT ON (e.run) e.run, e.at, e.detail
FROM backfilld.events e WHERE e.run = ANY (%(runs)s::bigint[]) AND e.what = 'application.checked'
ORDER BY e.run, e.event DESC

-- name: last_check
-- The newest check of the application at a moment, in the present phase of the run, and how long ago it was; and whether a person has
-- accepted findings since the run is in this phase.
SELECT c.detail, c.seconds,
       EXISTS (SELECT FROM backfilld.events a WHERE a.run = r.run AND a.what = 'application.accepted') AS accepted
FROM backfilld.runs r
LEFT JOIN LATERAL (
    SELECT e.detail, extract(epoch FROM clock_timestamp() - e.at)::float8 AS seconds
    FROM backfilld.events e WHERE e.run = r.run AND e.what = 'application.checked' AND e.detail ->> 'moment' = %(moment)s::text
    ORDER BY e.event DESC LIMIT 1
) c ON true
WHERE r.run = %(run)s::bigint

-- name: lock_looks
-- One look at the statements of a run after the other.
SELECT pg_advisory_xact_lock(hashtext('backfilld application'), (%(run)s::bigint %% 2147483647)::integer)

-- name: forget_statements
-- Statements of runs that have ended go.
DELETE FROM backfilld.application_statements s
WHERE NOT EXISTS (SELECT FROM backfilld.runs r WHERE r.run = s.run AND r.ended_at IS NULL)
