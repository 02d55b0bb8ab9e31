-- name: hide
-- Nobody but its owner may read a table that holds what is kept for a run.
SELECT backfilld.hide(%(name)s::text::regclass)

-- name: undo_rows
-- Rows that the undo of an operation has left as they are: how many, and the keys of the first.
SELECT count(*) AS left,
       coalesce((SELECT jsonb_agg(f.key) FROM (SELECT key FROM backfilld.undo_rows
                                               WHERE run = %(run)s::bigint AND operation = %(operation)s::integer AND NOT restored
                                               ORDER BY key LIMIT %(most)s::integer) f), '[]') AS keys
FROM backfilld.undo_rows WHERE run = %(run)s::bigint AND operation = %(operation)s::integer AND NOT restored

-- name: leave_row
-- A row that cannot be given its old value back is left as it is.
INSERT INTO backfilld.undo_rows (run, operation, key, restored)
VALUES (%(run)s::bigint, %(operation)s::integer, %(key)s::text[], false)
ON CONFLICT DO NOTHING

-- name: has_lz4
-- Whether this server compresses by lz4, which takes a tenth of the processor that its own way takes.
SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) AS has_lz4
