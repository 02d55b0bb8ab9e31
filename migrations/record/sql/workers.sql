-- name: report_worker
-- A worker says that it is there, and how it is.
INSERT INTO backfilld.workers AS w (worker, works, problem, transforms)
VALUES (%(worker)s::text, %(works)s::boolean, %(problem)s::text, %(transforms)s::text[])
ON CONFLICT (worker) DO UPDATE
SET seen_at = clock_timestamp(), works = excluded.works, problem = excluded.problem, transforms = excluded.transforms

-- name: forget_workers
-- A worker that stops, and those that have not been heard of for a day.
DELETE FROM backfilld.workers WHERE worker = %(worker)s::text OR seen_at < clock_timestamp() - interval '1 day'

-- name: workers
-- The workers, the one heard of last first.
SELECT worker, works, problem, transforms, extract(epoch FROM clock_timestamp() - seen_at)::float8 AS seen_seconds
FROM backfilld.workers ORDER BY seen_at DESC
