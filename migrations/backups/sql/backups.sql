-- name: server
-- What a backup must know of its server. A standby has no position of its own to flush to.
SELECT current_setting('server_version_num')::integer AS server_version,
       (SELECT c.system_identifier::text FROM pg_control_system() c) AS system_identifier,
       (SELECT c.timeline_id FROM pg_control_checkpoint() c) AS timeline,
       (SELECT pg_encoding_to_char(d.encoding)::text FROM pg_database d WHERE d.datname = current_database()) AS encoding,
       current_database()::text AS database, current_user::text AS role

-- name: snapshot
-- A snapshot that others can join for as long as this transaction lasts, and where the WAL was.
SELECT pg_export_snapshot() AS snapshot, clock_timestamp() AS snapshot_at,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END::text AS lsn

-- name: moment
-- When a backup that shares no snapshot begins, and where the WAL was.
SELECT clock_timestamp() AS snapshot_at,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END::text AS lsn

-- name: tables
-- The tables that hold the rows of these ones, a partitioned one's leaves in its place; all tables where none is named. pg_dump
-- leaves the rows of foreign tables out, and those that belong to an extension.
WITH RECURSIVE named AS (
    SELECT c.oid, c.relkind
    FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS one (schema, name)
    JOIN pg_namespace n ON n.nspname = one.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = one.name
    UNION
    SELECT c.oid, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE %(everything)s::boolean AND c.relkind = 'r' AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
      AND n.nspname <> ALL (%(excluded)s::text[])
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
), leaves AS (
    SELECT n.oid FROM named n WHERE n.relkind = 'r'
    UNION
    SELECT t.relid FROM named n CROSS JOIN LATERAL pg_partition_tree(n.oid) t WHERE n.relkind = 'p' AND t.isleaf
)
SELECT s.nspname::text AS schema, c.relname::text AS name, pg_table_size(c.oid) AS bytes, row_security_active(c.oid) AS hides_rows
FROM leaves l JOIN pg_class c ON c.oid = l.oid JOIN pg_namespace s ON s.oid = c.relnamespace
WHERE c.relkind = 'r' ORDER BY 1, 2

-- name: may_name_a_point
-- Whether there can be a restore point, and this role may make one. Asked apart: the right is looked at before a CASE is.
SELECT NOT pg_is_in_recovery() AND current_setting('wal_level') <> 'minimal'
       AND has_function_privilege('pg_create_restore_point(text)', 'EXECUTE') AS may

-- name: restore_point
-- A point by this name in the WAL.
SELECT pg_create_restore_point(%(name)s::text)::text AS lsn

-- name: written
-- Where the next record of the WAL will be: all that has committed is before it.
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text AS lsn

-- name: flushed
-- Up to where the WAL is on disk.
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END::text AS lsn

-- name: which_database
-- What tells this database from every other one: its name and number, and when its server was started.
SELECT d.datname::text AS name, d.oid::bigint AS number, pg_postmaster_start_time() AS started_at
FROM pg_database d WHERE d.datname = current_database()

-- name: extensions_of_tables
-- The extensions of the types that the columns of these tables have, as they are, in arrays or under domains.
SELECT DISTINCT e.extname::text AS extension
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS one (schema, name)
JOIN pg_namespace n ON n.nspname = one.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = one.name
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid IN (t.oid, t.typelem, t.typbasetype) AND d.deptype = 'e'
    AND d.refclassid = 'pg_extension'::regclass
JOIN pg_extension e ON e.oid = d.refobjid
