-- name: facts
-- What pg_basebackup and pg_receivewal ask of a server and of this role.
SELECT pg_is_in_recovery() AS is_standby,
       current_setting('wal_level')::text AS wal_level,
       (SELECT s.setting::bigint FROM pg_settings s WHERE s.name = 'wal_segment_size') AS segment_bytes,
       current_setting('max_slot_wal_keep_size')::text AS slot_limit,
       coalesce(current_setting('summarize_wal', true), 'off') = 'on' AS summarizes,
       current_setting('max_prepared_transactions')::integer AS prepared_transactions,
       (SELECT count(*) FROM pg_tablespace t WHERE t.spcname NOT IN ('pg_default', 'pg_global')) AS tablespaces,
       (SELECT r.rolreplication OR r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) AS may_replicate,
       (SELECT r.rolname::text FROM pg_roles r WHERE r.rolsuper ORDER BY NOT r.rolcanlogin, r.oid LIMIT 1) AS superuser,
       has_function_privilege('pg_switch_wal()', 'EXECUTE') AS may_switch

-- name: snapshot
-- What this transaction sees, for rows of a server that was recovered to a moment after it.
SELECT pg_current_snapshot()::text AS snapshot

-- name: slot
-- How far the WAL was received, and whether somebody receives it.
SELECT s.active, s.restart_lsn::text AS received, coalesce(s.wal_status, '') = 'lost' AS is_lost
FROM pg_replication_slots s WHERE s.slot_name = %(slot)s::name AND s.slot_type = 'physical'

-- name: make_slot
-- A slot that keeps WAL from this moment on, before anybody has received any.
SELECT lsn::text FROM pg_create_physical_replication_slot(%(slot)s::name, true)

-- name: drop_slot
-- A slot whose WAL is gone, or that is not needed any more.
SELECT pg_drop_replication_slot(%(slot)s::name)

-- name: switch_wal
-- Let the segment that is being written be archived now.
SELECT pg_switch_wal()::text AS lsn

-- name: flushed
-- Up to where the WAL is on disk, and when.
SELECT pg_current_wal_flush_lsn()::text AS lsn, clock_timestamp() AS at

-- name: writes
-- How many rows of tables were updated or deleted, as far as the server has counted; whoever is rolled back counts too.
SELECT n.nspname::text AS schema, c.relname::text AS name, pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid) AS rows
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS one (schema, name)
JOIN pg_namespace n ON n.nspname = one.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = one.name

-- name: in_recovery
-- Whether the server still replays WAL.
SELECT pg_is_in_recovery() AS in_recovery

-- name: archiver
-- Whether the server archives its WAL by itself, up to where, and at what it fails now.
SELECT current_setting('archive_mode') <> 'off' AS is_on, a.last_archived_wal AS last_archived,
       CASE WHEN a.last_failed_time > coalesce(a.last_archived_time, '-infinity') THEN a.last_failed_wal END AS failing,
       a.failed_count AS failures
FROM pg_stat_archiver a
