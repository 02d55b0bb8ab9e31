-- name: identity
-- Which system and database this is, and whether it follows another server.
SELECT c.system_identifier::text AS system, current_database()::text AS database, pg_is_in_recovery() AS is_replica
FROM pg_control_system() c

-- name: write
-- Write something, so that COMMIT waits for the disk: that of a transaction which wrote nothing does not.
SELECT pg_logical_emit_message(true, 'backfilld', '')::text

-- name: written
-- Up to where the WAL is on disk.
SELECT pg_current_wal_flush_lsn()::text AS place

-- name: replayed
-- How many bytes of WAL a replica has not replayed yet of what was written up to a place.
SELECT pg_wal_lsn_diff(%(wanted)s::pg_lsn, coalesce(pg_last_wal_replay_lsn(), '0/0'))::bigint AS missing
