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

-- name: whole_story
-- The newest events of a run and, of the database as a whole, those that fell into its life, those of the governor included where
-- they are asked for; oldest first. A `most` of NULL: all.
SELECT event, at, run, actor, what, detail
FROM (
    (SELECT event, at, run, actor, what, detail FROM backfilld.events
     WHERE run = %(run)s::bigint AND event > %(after)s::bigint
     ORDER BY event DESC LIMIT %(most)s::bigint)
    UNION ALL
    (SELECT e.event, e.at, e.run, e.actor, e.what, e.detail
     FROM backfilld.events e JOIN backfilld.runs r ON r.run = %(run)s::bigint
     WHERE e.run IS NULL AND e.event > %(after)s::bigint
       AND e.at BETWEEN r.created_at AND coalesce(r.ended_at, 'infinity')
       AND (%(governor)s::boolean OR e.actor <> 'worker')
     ORDER BY e.event DESC LIMIT %(most)s::bigint)
    ORDER BY event DESC LIMIT %(most)s::bigint
) newest
ORDER BY event

-- name: first_event
-- The oldest event of a kind of a run.
SELECT event, at, run, actor, what, detail FROM backfilld.events
WHERE run = %(run)s::bigint AND what = %(what)s::text ORDER BY event LIMIT 1

-- name: rows_left
-- Rows that a rollback left as they are, because they were written or removed since: how many, and the keys of the first.
SELECT coalesce(sum((detail ->> 'left')::bigint), 0)::bigint AS rows,
       coalesce(jsonb_agg(detail -> 'keys'), '[]') AS keys
FROM backfilld.events WHERE run = %(run)s::bigint AND what = 'undo.done' AND (detail ->> 'left')::bigint > 0

-- name: every_event
-- The events of a kind of a run, oldest first.
SELECT event, at, actor, what, detail FROM backfilld.events
WHERE run = %(run)s::bigint AND what = %(what)s::text ORDER BY event

-- name: latest_event
-- The newest event of a kind of a run.
SELECT event, at, run, actor, what, detail FROM backfilld.events
WHERE run = %(run)s::bigint AND what = %(what)s::text ORDER BY event DESC LIMIT 1

-- name: latest_verdict
-- The newest verdict on the application's code for a migration of this checksum, whether or not it had a run by then.
SELECT event, at, run, actor, what, detail FROM backfilld.events
WHERE what = %(what)s::text AND detail ->> 'checksum' = %(checksum)s::text ORDER BY event DESC LIMIT 1
