-- name: pulse
-- Whether a run is at work, whether one is to stop, and who stopped all of them: all that an idle daemon asks. A run that waits is
-- at work too while a table follows another one.
SELECT EXISTS (SELECT FROM backfilld.runs r
               WHERE r.state IN ('queued', 'running', 'pausing', 'cancelling', 'rolling_back')
                  OR r.state = 'waiting' AND r.verified_at IS NOT NULL AND NOT backfilld.proof_holds(r.run)
                  OR r.state = 'waiting' AND EXISTS (SELECT FROM backfilld.lanes l
                                                     WHERE l.run = r.run AND l.kind = 'follow' AND l.done_at IS NULL)) AS at_work,
       EXISTS (SELECT FROM backfilld.runs
               WHERE state IN ('pausing', 'cancelling') OR state = 'rolling_back' AND rollback = '{}') AS stopping,
       stopped_at, stopped_by
FROM backfilld.pace

-- name: stopping
-- Runs that were asked to stop or to turn back, and for how long they have been stopping.
SELECT run, name, state, extract(epoch FROM clock_timestamp() - state_since)::float8 AS seconds
FROM backfilld.runs WHERE state IN ('pausing', 'cancelling') OR state = 'rolling_back' AND rollback = '{}'

-- name: cancel_statements
-- Cancel what our own backends are running for a run. A backend that has gone on to another run's batch in this
-- very moment only repeats that batch.
SELECT count(*) FILTER (WHERE pg_cancel_backend(o.pid)) AS cancelled
FROM backfilld.own_sessions o
WHERE o.is_here AND o.is_mine AND o.state = 'active' AND o.is_committing IS NOT TRUE AND o.pid <> pg_backend_pid() AND o.run = %(run)s::bigint

-- name: cancel_all_statements
-- Cancel what our own backends are running for any run, and have been for longer than the grace: a step that reads a lane
-- only to find it held is gone sooner.
SELECT o.run, count(*) FILTER (WHERE pg_cancel_backend(o.pid)) AS cancelled
FROM backfilld.own_sessions o
WHERE o.is_here AND o.is_mine AND o.state = 'active' AND o.is_committing IS NOT TRUE AND o.pid <> pg_backend_pid()
  AND o.xact_start < clock_timestamp() - make_interval(secs => %(grace_seconds)s::float8)
GROUP BY 1
