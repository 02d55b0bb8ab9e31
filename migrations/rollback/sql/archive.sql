-- name: collations
-- The collation of each of some columns, quoted; NULL for a type that has none.
SELECT a.attname::text AS name,
       (SELECT format('%%I.%%I', n.nspname, c.collname) FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
        WHERE c.oid = a.attcollation) AS collation
FROM pg_attribute a
WHERE a.attrelid = to_regclass(%(table)s::text) AND a.attname = ANY (%(columns)s::text[])

-- name: has_operation
-- Whether the archive of a run has columns for an operation.
SELECT EXISTS (SELECT FROM pg_attribute a
               WHERE a.attrelid = to_regclass(%(archive)s::text) AND a.attname = format('old_%%s', %(operation)s::integer)
                 AND NOT a.attisdropped) AS there

-- name: hide
-- Nobody but its owner may read a table that holds what is kept for a run.
SELECT backfilld.hide(%(archive)s::text::regclass)
