-- name: record_event
-- Who did what.
INSERT INTO backfilld.events (run, actor, what, detail)
VALUES (%(run)s::bigint, %(actor)s::text, %(what)s::text, %(detail)s::jsonb)

-- name: events_of
-- The story of a run, oldest first.
SELECT event, at, run, actor, what, detail FROM backfilld.events
WHERE run = %(run)s::bigint ORDER BY event
