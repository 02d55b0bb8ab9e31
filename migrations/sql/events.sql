-- name: record_event
-- Who did what.
INSERT INTO backfilld.events (run, actor, what, detail)
VALUES (%(run)s::bigint, %(actor)s::text, %(what)s::text, %(detail)s::jsonb)

-- name: events_of
-- The story of a run, oldest first.
SELECT event, at, run, actor, what, detail FROM backfilld.events
WHERE run = %(run)s::bigint ORDER BY event

-- name: count_events
-- How often something happened to an operation of a run.
SELECT count(*) AS events FROM backfilld.events
WHERE run = %(run)s::bigint AND what = %(what)s::text AND detail ->> 'operation' = %(operation)s::integer::text
