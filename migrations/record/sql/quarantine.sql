-- name: set_aside
-- A row that cannot be converted; met again, it is counted.
INSERT INTO backfilld.quarantine (run, operation, relation, key, sqlstate, error)
VALUES (%(run)s::bigint, %(operation)s::integer, %(relation)s::text, %(key)s::jsonb, %(sqlstate)s::text, %(error)s::text)
ON CONFLICT (run, operation, key) DO UPDATE
SET sqlstate = excluded.sqlstate, error = excluded.error, retry = false, attempts = backfilld.quarantine.attempts + 1,
    quarantined_at = clock_timestamp()

-- name: blocks_way_back
-- A row that has no place in what was there before.
INSERT INTO backfilld.rollback_conflicts (run, operation, key, sqlstate, error)
VALUES (%(run)s::bigint, %(operation)s::integer, %(key)s::text[], %(sqlstate)s::text, %(error)s::text)
ON CONFLICT (run, operation, key) DO UPDATE SET sqlstate = excluded.sqlstate, error = excluded.error, seen_at = clock_timestamp()

-- name: release
-- A row of the quarantine was converted.
DELETE FROM backfilld.quarantine
WHERE run = %(run)s::bigint AND operation = %(operation)s::integer AND key = %(key)s::jsonb

-- name: quarantined
-- The rows of a run that are quarantined, and the lines of files that are set aside.
SELECT quarantine, run, operation, relation, key, sqlstate, error, retry, attempts, kept, quarantined_at
FROM backfilld.quarantine WHERE run = %(run)s::bigint
UNION ALL
SELECT s.line, s.run, s.operation, l.source, jsonb_build_array('line ' || s.line), s.sqlstate, s.error, s.retry, s.attempts, NULL,
       s.set_aside_at
FROM backfilld.load_lines s JOIN backfilld.loads l USING (run, operation) WHERE s.run = %(run)s::bigint
ORDER BY operation, quarantine LIMIT %(limit)s::integer

-- name: count_quarantined
-- How many rows of a run are quarantined.
SELECT count(*) AS quarantined FROM backfilld.quarantine WHERE run = %(run)s::bigint

-- name: mark_for_retry
-- All rows of a run that are quarantined are to be tried again.
UPDATE backfilld.quarantine SET retry = true WHERE run = %(run)s::bigint RETURNING operation

-- name: next_retry
-- The next row to try again.
SELECT quarantine, run, operation, relation, key, sqlstate, error, retry, attempts, kept, quarantined_at
FROM backfilld.quarantine
WHERE run = %(run)s::bigint AND operation = %(operation)s::integer AND retry ORDER BY quarantine LIMIT 1
