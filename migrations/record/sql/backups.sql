-- name: next_backup
-- The number of a backup that is about to begin.
SELECT nextval(pg_get_serial_sequence('backfilld.backups', 'backup')) AS backup

-- name: hold_backup
-- Hold a backup for as long as this transaction lasts, by which others know that somebody is at it; false where another session holds
-- it. `class` tells backups from the gates of runs.
SELECT pg_try_advisory_xact_lock(%(class)s::integer, %(number)s::integer) AS held

-- name: insert_backup
-- A backup begins; its copies are where it will be written to.
INSERT INTO backfilld.backups (backup, label, run, provider, kind, parent, scope, requested_by, details, tool_version, server_version,
                               system_identifier, timeline, lsn_start, snapshot_at, copies, expires_at)
VALUES (%(backup)s::bigint, %(label)s::text, %(run)s::bigint, %(provider)s::text, %(kind)s::text, %(parent)s::bigint, %(scope)s::text,
        %(requested_by)s::text, %(details)s::jsonb, %(tool_version)s::text, %(server_version)s::integer, %(system_identifier)s::text,
        %(timeline)s::integer, %(lsn_start)s::pg_lsn, %(snapshot_at)s::timestamptz, %(copies)s::jsonb,
        clock_timestamp() + make_interval(secs => %(keep_seconds)s::float8))

-- name: backup_grows
-- How much of a backup is written so far.
UPDATE backfilld.backups SET bytes = %(bytes)s::bigint WHERE backup = %(backup)s::bigint AND state = 'taking'

-- name: backup_taken
-- Every copy of a backup is whole.
UPDATE backfilld.backups
SET state = 'taken', taken_at = coalesce(%(taken_at)s::timestamptz, clock_timestamp()), tables = %(tables)s::jsonb,
    objects = %(objects)s::jsonb, bytes = %(bytes)s::bigint, lsn_stop = %(lsn_stop)s::pg_lsn,
    snapshot_at = coalesce(%(snapshot_at)s::timestamptz, snapshot_at), details = details || %(details)s::jsonb,
    restore_point = %(restore_point)s::text, restore_point_lsn = %(restore_point_lsn)s::pg_lsn
WHERE backup = %(backup)s::bigint AND state = 'taking'

-- name: backup_verified
-- Every copy of a backup was read back, and is what was written.
UPDATE backfilld.backups SET verified_at = clock_timestamp() WHERE backup = %(backup)s::bigint AND state = 'taken'

-- name: backup_proved
-- A backup was restored elsewhere, and holds the rows that were there.
UPDATE backfilld.backups SET proved_at = clock_timestamp(), proof = %(proof)s::jsonb
WHERE backup = %(backup)s::bigint AND state = 'taken' AND verified_at IS NOT NULL

-- name: backup_failed
-- A backup is none: it could not be taken, or is not what was written; nor are those that are based on it. The copies of one that was
-- never whole are still to be removed.
WITH RECURSIVE broken AS (
    SELECT %(backup)s::bigint AS backup
    UNION SELECT b.backup FROM backfilld.backups b JOIN broken p ON b.parent = p.backup
)
UPDATE backfilld.backups f
SET state = 'failed', verified_at = NULL, proved_at = NULL,
    error = CASE WHEN f.backup = %(backup)s::bigint THEN '' ELSE format('backup %%s, on which it is based, is bad: ', %(backup)s::bigint) END
            || %(error)s::text
FROM broken WHERE f.backup = broken.backup AND f.state IN ('taking', 'taken')

-- name: backup_expired
-- A backup is no longer kept; its copies are still to be removed.
UPDATE backfilld.backups SET state = 'expired' WHERE backup = %(backup)s::bigint AND state = 'taken'

-- name: backup_removed
-- Nothing is left of a backup in the stores.
UPDATE backfilld.backups SET copies = '[]' WHERE backup = %(backup)s::bigint AND state IN ('failed', 'expired')

-- name: backup
-- One backup.
SELECT backup, label, run, provider, kind, parent, state, scope, tables, requested_by, details, tool_version, server_version, system_identifier,
       timeline, lsn_start::text, lsn_stop::text, snapshot_at, restore_point, restore_point_lsn::text, bytes, objects, copies, began_at,
       taken_at, verified_at, proved_at, proof, expires_at, error, clock_timestamp() AS now
FROM backfilld.backups WHERE backup = %(backup)s::bigint

-- name: backups
-- Backups, the newest first; of one run, or of all.
SELECT backup, label, run, provider, kind, parent, state, scope, tables, requested_by, details, tool_version, server_version, system_identifier,
       timeline, lsn_start::text, lsn_stop::text, snapshot_at, restore_point, restore_point_lsn::text, bytes, objects, copies, began_at,
       taken_at, verified_at, proved_at, proof, expires_at, error, clock_timestamp() AS now
FROM backfilld.backups
WHERE (%(run)s::bigint IS NULL OR run = %(run)s::bigint) AND (%(states)s::text[] IS NULL OR state = ANY(%(states)s::text[]))
ORDER BY backup DESC LIMIT %(most)s::integer

-- name: backup_of_run
-- The backup to go back to for a run: one that was taken for it, proved rather than not; else the recent one that let it begin.
SELECT backup, label, run, provider, kind, parent, state, scope, tables, requested_by, details, tool_version, server_version, system_identifier,
       timeline, lsn_start::text, lsn_stop::text, snapshot_at, restore_point, restore_point_lsn::text, bytes, objects, copies, began_at,
       taken_at, verified_at, proved_at, proof, expires_at, error, clock_timestamp() AS now
FROM backfilld.backups b
WHERE b.state = 'taken'
  AND (b.run = %(run)s::bigint
       OR EXISTS (SELECT FROM backfilld.events e
                  WHERE e.run = %(run)s::bigint AND e.what = 'backup.gate' AND (e.detail ->> 'backup')::bigint = b.backup))
ORDER BY b.run IS NOT DISTINCT FROM %(run)s::bigint DESC, b.proved_at IS NOT NULL DESC, b.backup DESC LIMIT 1

-- name: abandoned_backups
-- Backups that are being taken by nobody: no session holds them. The lock that this asks for is this transaction's.
SELECT backup FROM backfilld.backups
WHERE state = 'taking' AND pg_try_advisory_xact_lock(%(class)s::integer, (backup %% 2147483647)::integer)
ORDER BY backup

-- name: backups_to_remove
-- Backups that are none any more, of which the stores may still hold something; those of one that proved bad are kept to be looked at
-- until they expire.
SELECT backup FROM backfilld.backups
WHERE copies <> '[]' AND (state = 'expired' OR state = 'failed' AND (taken_at IS NULL OR expires_at < clock_timestamp()))
ORDER BY backup

-- name: backups_to_expire
-- Backups past their time that nothing needs: not the newest proved one, not the newest of all, none that a run refers to which can
-- still be rolled back, and no link of a chain on which one that is kept is based.
WITH RECURSIVE needed AS (
    (SELECT b.backup, b.parent FROM backfilld.backups b
     WHERE b.state = 'taken'
       AND (b.expires_at IS NULL OR b.expires_at >= clock_timestamp()
            OR b.backup = (SELECT n.backup FROM backfilld.backups n
                           WHERE n.state = 'taken' AND n.proved_at IS NOT NULL ORDER BY n.taken_at DESC LIMIT 1)
            OR b.backup = (SELECT n.backup FROM backfilld.backups n WHERE n.state = 'taken' ORDER BY n.taken_at DESC LIMIT 1)
            OR EXISTS (SELECT FROM backfilld.runs r
                       WHERE (r.ended_at IS NULL OR r.kept_until >= clock_timestamp() AND r.purged_at IS NULL)
                         AND (r.run = b.run
                              OR EXISTS (SELECT FROM backfilld.events e
                                         WHERE e.run = r.run AND e.what = 'backup.gate'
                                           AND (e.detail ->> 'backup')::bigint = b.backup)))))
    UNION
    SELECT p.backup, p.parent FROM backfilld.backups p JOIN needed n ON p.backup = n.parent
)
SELECT b.backup FROM backfilld.backups b
WHERE b.state = 'taken' AND NOT EXISTS (SELECT FROM needed n WHERE n.backup = b.backup) ORDER BY b.backup

-- name: backup_figures
-- What metrics tell of backups: how old the newest one of each level is, how long it took, how large it is, and how many failed.
SELECT extract(epoch FROM clock_timestamp() - max(b.snapshot_at) FILTER (WHERE b.state = 'taken'))::float8 AS age_seconds,
       extract(epoch FROM clock_timestamp() - max(b.snapshot_at) FILTER (WHERE b.proved_at IS NOT NULL AND b.state = 'taken'))::float8
       AS proved_age_seconds,
       extract(epoch FROM max(b.proved_at))::float8 AS last_proved,
       count(*) FILTER (WHERE b.state = 'failed') AS failures,
       coalesce(sum(b.bytes) FILTER (WHERE b.state = 'taken'), 0)::bigint AS bytes,
       (SELECT extract(epoch FROM n.taken_at - n.began_at)::float8 FROM backfilld.backups n
        WHERE n.state = 'taken' ORDER BY n.taken_at DESC LIMIT 1) AS take_seconds,
       (SELECT (n.proof ->> 'seconds')::float8 FROM backfilld.backups n
        WHERE n.proved_at IS NOT NULL ORDER BY n.proved_at DESC LIMIT 1) AS restore_seconds
FROM backfilld.backups b
