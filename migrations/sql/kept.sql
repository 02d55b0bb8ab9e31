-- name: make_partition
-- The partition of a run in the journal or the archive, made when it is not there.
SELECT backfilld.make_partition(%(what)s::text, %(run)s::bigint)

-- name: has_partition
-- Whether a run has a partition in the journal or the archive.
SELECT to_regclass(format('backfilld.%%I', %(what)s::text || '_' || %(run)s::bigint)) IS NOT NULL AS there
