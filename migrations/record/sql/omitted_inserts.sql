-- name: latest_omitted
-- When the last statement of each operation came that fails after contract, and how many seconds ago that was.
SELECT o.run, o.operation, max(o.seen_at) AS seen_at,
       greatest(extract(epoch FROM clock_timestamp() - max(o.seen_at)), 0)::float8 AS seconds
FROM backfilld.omitted_inserts o WHERE o.run = ANY(%(runs)s::bigint[])
GROUP BY o.run, o.operation ORDER BY o.run, o.operation

-- name: prune_omitted
-- All but the latest of each operation go, and those of runs that have done their contract or are gone.
DELETE FROM backfilld.omitted_inserts o
WHERE EXISTS (SELECT FROM backfilld.omitted_inserts later
              WHERE later.run = o.run AND later.operation = o.operation AND later.seen_at > o.seen_at)
   OR NOT EXISTS (SELECT FROM backfilld.runs r WHERE r.run = o.run AND r.ended_at IS NULL)
