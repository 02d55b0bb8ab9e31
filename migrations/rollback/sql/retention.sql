-- name: is_kept
-- Whether a run has a journal, or an archive.
SELECT to_regclass(format('backfilld.%%I', %(what)s::text || '_' || %(run)s::bigint)) IS NOT NULL AS there

-- name: rollback_conflicts
-- Rows of a run that did not fit the old column, in the order in which they were seen.
SELECT operation, key FROM backfilld.rollback_conflicts WHERE run = %(run)s::bigint ORDER BY seen_at, operation, key LIMIT 1000

-- name: overdue
-- Runs whose old values have been kept for as long as they were to be.
SELECT run FROM backfilld.runs
WHERE kept_until <= clock_timestamp() AND purged_at IS NULL AND ended_at IS NOT NULL
ORDER BY kept_until

-- name: kept
-- How much is kept for a run: bytes of its journal and its archive, and how many rollback_conflicts.
SELECT coalesce(pg_total_relation_size(to_regclass('backfilld.journal_' || %(run)s::bigint)), 0)::bigint AS journal_bytes,
       coalesce(pg_total_relation_size(to_regclass('backfilld.archive_' || %(run)s::bigint)), 0)::bigint AS archive_bytes,
       (SELECT count(*) FROM backfilld.rollback_conflicts WHERE run = %(run)s::bigint) AS rollback_conflicts

-- name: kept_tables
-- Tables that a run took away whole, under names that are made of the digest of its own name. They belong to the latest run of that
-- name: an earlier one was rolled back, and had its table back.
SELECT c.relname AS name, pg_total_relation_size(c.oid)::bigint AS bytes
FROM backfilld.runs r
JOIN pg_class c ON c.relname ~ ('^table_' || left(encode(sha256(convert_to(r.name, 'UTF8')), 'hex'), 10) || '_[0-9]{3}$')
JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'backfilld'
WHERE r.run = %(run)s::bigint AND c.relkind = 'r'
  AND NOT EXISTS (SELECT FROM backfilld.runs o WHERE o.name = r.name AND o.run > r.run)
ORDER BY c.relname

-- name: forget_rollback_conflicts
-- The rollback_conflicts of a run go.
DELETE FROM backfilld.rollback_conflicts WHERE run = %(run)s::bigint

-- name: forget_undo_rows
-- What the undo of a run has put down of rows goes.
DELETE FROM backfilld.undo_rows WHERE run = %(run)s::bigint

-- name: forget_persona_rows
-- Keys of rows that a persona gained or lost by a run go; how many there were stays.
UPDATE backfilld.persona_rows SET gained_keys = '[]', lost_keys = '[]' WHERE run = %(run)s::bigint

-- name: forget_load_lines
-- The lines of files that were set aside go.
DELETE FROM backfilld.load_lines WHERE run = %(run)s::bigint

-- name: stages
-- The stages of a run that are still there, as of one that was cancelled; a newer run of the name has its own.
SELECT l.stage AS name FROM backfilld.loads l
WHERE l.run = %(run)s::bigint AND to_regclass(format('backfilld.%%I', l.stage)) IS NOT NULL
  AND NOT EXISTS (SELECT FROM backfilld.loads o WHERE o.stage = l.stage AND o.run > l.run)

-- name: set_purged
-- A run's old values are gone.
UPDATE backfilld.runs SET purged_at = clock_timestamp(), updated_at = clock_timestamp() WHERE run = %(run)s::bigint

-- name: all_kept
-- Bytes that the journal and the archive hold for each run.
SELECT (regexp_match(c.relname, '^(?:journal|archive)_(\d{1,18})$'))[1]::bigint AS run,
       (regexp_match(c.relname, '^(journal|archive)_'))[1] AS kind,
       coalesce(pg_total_relation_size(c.oid), 0)::bigint AS bytes -- NULL: dropped in this very moment
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'backfilld' AND c.relkind = 'r' AND c.relname ~ '^(journal|archive)_\d{1,18}$'

-- name: most_overdue
-- Seconds since the retention of the most overdue run ended; 0 when none is.
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - kept_until)), 0)::float8 AS seconds FROM backfilld.runs
WHERE kept_until <= clock_timestamp() AND purged_at IS NULL AND ended_at IS NOT NULL
