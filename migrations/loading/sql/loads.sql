-- name: insert_load
-- A load of a new run: nothing of its source is staged yet.
INSERT INTO backfilld.loads (run, operation, stage, source, fields)
VALUES (%(run)s::bigint, %(operation)s::integer, %(stage)s::text, %(source)s::text, %(fields)s::text[])

-- name: load
-- A load, without a lock.
SELECT run, operation, stage, source, fields, bytes_total, bytes_read, read_offset, digest, lines, duplicates, staged_at, problem
FROM backfilld.loads WHERE run = %(run)s::bigint AND operation = %(operation)s::integer

-- name: lock_load
-- A load, so that one session at a time stages its source.
SELECT run, operation, stage, source, fields, bytes_total, bytes_read, read_offset, digest, lines, duplicates, staged_at, problem
FROM backfilld.loads WHERE run = %(run)s::bigint AND operation = %(operation)s::integer FOR UPDATE

-- name: fields_on_record
-- The fields of a load's source, of the run of a name that has not ended: what is staged of it is of these.
SELECT l.fields, l.bytes_total, l.lines FROM backfilld.loads l JOIN backfilld.runs r USING (run)
WHERE r.name = %(name)s::text AND l.operation = %(operation)s::integer AND r.ended_at IS NULL

-- name: advance
-- The checkpoint of staging, in the transaction of the lines.
UPDATE backfilld.loads
SET bytes_total = %(bytes_total)s::bigint, bytes_read = %(bytes_read)s::bigint, read_offset = %(read_offset)s::bigint,
    digest = %(digest)s::text, problem = '', lines = lines + %(lines)s::bigint,
    staged_at = CASE WHEN %(at_end)s::boolean THEN clock_timestamp() END
WHERE run = %(run)s::bigint AND operation = %(operation)s::integer

-- name: asked_for
-- Sources that a worker reads and whose runs wait for it: the coordinator has said so, and sleeps. A run is queued until its first step
-- is done.
SELECT l.run, l.operation, l.stage, l.source, l.fields, l.bytes_total, l.bytes_read, l.read_offset, l.digest, l.lines, l.duplicates,
       l.staged_at, l.problem
FROM backfilld.loads l
JOIN backfilld.runs r USING (run)
JOIN backfilld.lanes n ON n.run = l.run AND n.lane = 0
WHERE l.staged_at IS NULL AND r.state IN ('queued', 'running') AND n.last_error ->> 'class' = 'staging'
  AND r.definition -> 'operations' -> l.operation -> 'load' -> 'from' ?| '{s3,database}'
ORDER BY l.run, l.operation

-- name: forget_lines
-- Lines that were set aside of a source that is read anew.
DELETE FROM backfilld.load_lines WHERE run = %(run)s::bigint AND operation = %(operation)s::integer

-- name: begin_anew
-- A load of which nothing is staged again.
UPDATE backfilld.loads SET bytes_total = NULL, bytes_read = 0, read_offset = 0, digest = '', lines = 0, began_at = clock_timestamp()
WHERE run = %(run)s::bigint AND operation = %(operation)s::integer

-- name: hold_source
-- Hold a source until the end of the transaction.
SELECT pg_try_advisory_xact_lock(hashtext('backfilld source'), hashtext(%(run)s::bigint || ' ' || %(operation)s::integer)) AS held

-- name: tell_problem
-- Why a source cannot be read now.
UPDATE backfilld.loads SET problem = %(problem)s::text WHERE run = %(run)s::bigint AND operation = %(operation)s::integer

-- name: next_line
-- The number of the next line that COPY writes, whatever was rolled back before.
SELECT setval(pg_get_serial_sequence(%(stage)s::text, '~line'), %(line)s::bigint, false)

-- name: refuse_line
-- A record that COPY cannot read.
INSERT INTO backfilld.load_lines (run, operation, line, byte_offset, record, sqlstate, error)
VALUES (%(run)s::bigint, %(operation)s::integer, %(line)s::bigint, %(byte_offset)s::bigint, %(record)s::bytea, %(sqlstate)s::text,
        %(error)s::text)

-- name: count_set_aside
-- How many lines of a run are set aside, and the latest of them.
SELECT count(*) AS lines, max(line) AS latest FROM backfilld.load_lines WHERE run = %(run)s::bigint

-- name: some_set_aside
-- Some lines that are set aside, the first of each kind of error before the second of any.
SELECT s.operation, s.line, s.sqlstate, s.error FROM (
    SELECT operation, line, sqlstate, error, row_number() OVER (PARTITION BY operation, sqlstate ORDER BY line) AS number
    FROM backfilld.load_lines WHERE run = %(run)s::bigint) s
ORDER BY s.number, s.operation, s.line LIMIT %(limit)s::integer

-- name: set_aside_of
-- The next lines of a load that are set aside, in their order.
SELECT line, record, fields, sqlstate, error FROM backfilld.load_lines
WHERE run = %(run)s::bigint AND operation = %(operation)s::integer AND line > %(after)s::bigint ORDER BY line LIMIT %(limit)s::integer

-- name: loads_of
-- The loads of a run, each with the fields of its source.
SELECT l.operation, l.fields, r.definition -> 'operations' -> l.operation -> 'load' -> 'from' ->> 'format' = 'ndjson' AS is_json
FROM backfilld.loads l JOIN backfilld.runs r USING (run) WHERE l.run = %(run)s::bigint ORDER BY l.operation

-- name: error_of
-- Why a line is set aside.
SELECT error FROM backfilld.load_lines WHERE run = %(run)s::bigint AND line = %(line)s::bigint LIMIT 1

-- name: mark_for_retry
-- Lines that PostgreSQL could read are to be tried again.
UPDATE backfilld.load_lines SET retry = true WHERE run = %(run)s::bigint AND fields IS NOT NULL RETURNING operation

-- name: next_retry
-- The next line to try again.
SELECT line, fields FROM backfilld.load_lines
WHERE run = %(run)s::bigint AND operation = %(operation)s::integer AND retry ORDER BY line LIMIT 1

-- name: release
-- A line was loaded after all.
DELETE FROM backfilld.load_lines
WHERE run = %(run)s::bigint AND operation = %(operation)s::integer AND line = %(line)s::bigint

-- name: set_aside_again
-- A line that was tried again cannot be loaded still.
UPDATE backfilld.load_lines SET retry = false, attempts = attempts + 1, sqlstate = coalesce(nullif(%(sqlstate)s::text, ''), sqlstate),
       error = coalesce(nullif(%(error)s::text, ''), error)
WHERE run = %(run)s::bigint AND operation = %(operation)s::integer AND line = %(line)s::bigint

-- name: has_triggers
-- Whether users' triggers fire by now for rows that are inserted into a table or updated.
SELECT EXISTS (
    SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND (t.tgtype & 20) <> 0
      AND p.pronamespace IS DISTINCT FROM to_regnamespace('backfilld')
      AND (t.tgrelid = to_regclass(%(table)s::text)
           OR t.tgrelid IN (SELECT r.relid FROM pg_partition_tree(to_regclass(%(table)s::text)) r))) AS fires

-- name: found
-- What the check has found where it compared lines with their rows.
SELECT coalesce(sum((cursor ->> 'new')::bigint + (cursor ->> 'changed')::bigint), 0) AS differ,
       coalesce(sum((cursor ->> 'same')::bigint), 0) AS same
FROM backfilld.lanes WHERE run = %(run)s::bigint AND operation = %(operation)s::integer AND kind = 'check'

-- name: begin_lanes
-- The lanes of a load begin: what is written from now on is younger than this transaction.
UPDATE backfilld.loads SET began_with = pg_current_xact_id() WHERE run = %(run)s::bigint AND began_with IS NULL

-- name: pages_of
-- How many pages a stage has.
SELECT pg_relation_size(to_regclass(%(stage)s::text)) / current_setting('block_size')::bigint AS pages

