-- name: know_channels
-- Channels that are new are known from now on.
INSERT INTO backfilld.notice_channels (channel) SELECT unnest(%(channels)s::text[]) ON CONFLICT DO NOTHING

-- name: channels
-- Since when each channel is known.
SELECT channel, since FROM backfilld.notice_channels WHERE channel = ANY(%(channels)s::text[])

-- name: standings
-- Runs that may need a notice: those that have not ended, and those that ended lately. The quarantined rows are
-- counted only where somebody wants to know.
SELECT r.run, r.name, r.state, r.state_since, r.created_at, r.wish IS NOT NULL AS by_person, clock_timestamp() AS now,
       set_aside.rows AS quarantined, set_aside.latest AS quarantined_at
FROM backfilld.runs r
CROSS JOIN LATERAL (
    SELECT count(*) AS rows, max(q.quarantined_at) AS latest FROM backfilld.quarantine q
    WHERE %(quarantine)s::boolean AND r.ended_at IS NULL AND q.run = r.run
) set_aside
WHERE r.ended_at IS NULL OR r.ended_at > clock_timestamp() - make_interval(secs => %(news_seconds)s::float8)

-- name: missing_notices
-- Which of these, by their place in the arrays, have not been made yet.
SELECT wanted.place - 1 AS place
FROM unnest(%(channels)s::text[], %(runs)s::bigint[], %(abouts)s::text[], %(sinces)s::timestamptz[], %(ordinals)s::integer[])
     WITH ORDINALITY AS wanted (channel, run, about, since, ordinal, place)
WHERE NOT EXISTS (
    SELECT FROM backfilld.notices n
    WHERE n.channel = wanted.channel AND n.run = wanted.run AND n.about = wanted.about AND n.since = wanted.since
      AND n.ordinal = wanted.ordinal
)
ORDER BY wanted.place

-- name: insert_notice
-- Something to tell. Not twice: another worker may have been quicker.
INSERT INTO backfilld.notices (channel, run, about, since, ordinal, facts)
VALUES (%(channel)s::text, %(run)s::bigint, %(about)s::text, %(since)s::timestamptz, %(ordinal)s::integer, %(facts)s::jsonb)
ON CONFLICT DO NOTHING

-- name: see_hold
-- A channel sees a run held. It is the hold of before when that began earlier than it was last seen, or was released for no
-- longer than `gap_seconds`; once it was told, for no longer than it takes to be told of another.
INSERT INTO backfilld.notice_holds AS h (channel, run, since)
VALUES (%(channel)s::text, %(run)s::bigint, %(since)s::timestamptz)
ON CONFLICT (channel, run) DO UPDATE SET
    since = CASE WHEN excluded.since <= h.seen_at OR h.seen_at > clock_timestamp() - make_interval(
                          secs => CASE WHEN h.told_at IS NULL THEN %(gap_seconds)s::float8 ELSE %(told_gap_seconds)s::float8 END)
                 THEN least(h.since, excluded.since) ELSE excluded.since END,
    told_at = CASE WHEN excluded.since <= h.seen_at OR h.seen_at > clock_timestamp() - make_interval(
                            secs => CASE WHEN h.told_at IS NULL THEN %(gap_seconds)s::float8 ELSE %(told_gap_seconds)s::float8 END)
                   THEN h.told_at END,
    seen_at = clock_timestamp()
RETURNING since, told_at IS NOT NULL AS told, extract(epoch FROM clock_timestamp() - since)::float8 AS seconds

-- name: tell_holds
-- Holds of a channel that are told of from now on; those that another worker told of meanwhile are left out.
UPDATE backfilld.notice_holds SET told_at = clock_timestamp()
WHERE channel = %(channel)s::text AND run = ANY(%(runs)s::bigint[]) AND told_at IS NULL
RETURNING run, since

-- name: drop_untrue
-- What was to be told and is not so any more: the run has left its state, or is not held now. What has ended has ended. A hold
-- without a notice is reported when it comes back.
WITH dropped AS (
    DELETE FROM backfilld.notices n
    WHERE n.channel = ANY(%(channels)s::text[]) AND n.delivered_at IS NULL AND n.failed_at IS NULL
      AND (n.about IN ('approval', 'failed', 'paused')
           AND NOT EXISTS (SELECT FROM backfilld.runs r WHERE r.run = n.run AND r.state_since = n.since)
        OR n.about = 'held'
           AND NOT EXISTS (SELECT FROM backfilld.notice_holds h
                           WHERE h.channel = n.channel AND h.run = n.run AND h.told_at IS NOT NULL
                             AND h.seen_at > clock_timestamp() - make_interval(secs => %(gap_seconds)s::float8)))
    RETURNING n.channel, n.run, n.about
)
UPDATE backfilld.notice_holds h SET told_at = NULL
FROM dropped d WHERE d.about = 'held' AND h.channel = d.channel AND h.run = d.run

-- name: give_up
-- What could not be delivered in time, by whichever worker knew its channel.
UPDATE backfilld.notices
SET failed_at = clock_timestamp(), last_error = coalesce(last_error, 'no worker knows this channel')
WHERE delivered_at IS NULL AND failed_at IS NULL
  AND created_at < clock_timestamp() - make_interval(secs => %(patience_seconds)s::float8)
RETURNING notice, delivery, channel, run, about, facts, attempts, last_error

-- name: claim_notices
-- The oldest due notice of each of these channels, for as long as sending it may take: should its outcome never be written, it
-- is due again then.
UPDATE backfilld.notices n
SET attempts = n.attempts + 1, next_try_at = clock_timestamp() + make_interval(secs => due.lease_seconds)
FROM (
    SELECT oldest.notice, wanted.lease_seconds
    FROM unnest(%(channels)s::text[], %(lease_seconds)s::float8[]) AS wanted (channel, lease_seconds)
    CROSS JOIN LATERAL (
        SELECT p.notice FROM backfilld.notices p
        WHERE p.channel = wanted.channel AND p.delivered_at IS NULL AND p.failed_at IS NULL AND p.next_try_at <= clock_timestamp()
        ORDER BY p.next_try_at, p.notice LIMIT 1 FOR UPDATE SKIP LOCKED
    ) oldest
) due
WHERE n.notice = due.notice
RETURNING n.notice, n.delivery, n.channel, n.run, n.about, n.facts, n.attempts, n.last_error

-- name: deliver_notice
-- It was delivered, even if another worker gave it up meanwhile.
UPDATE backfilld.notices SET delivered_at = clock_timestamp(), failed_at = NULL, last_error = NULL
WHERE notice = %(notice)s::bigint AND delivered_at IS NULL

-- name: postpone_notice
-- It was not delivered, and is tried again; unless another worker has claimed it.
UPDATE backfilld.notices
SET next_try_at = clock_timestamp() + make_interval(secs => %(delay_seconds)s::float8), last_error = %(error)s::text
WHERE notice = %(notice)s::bigint AND attempts = %(attempts)s::integer AND delivered_at IS NULL AND failed_at IS NULL

-- name: fail_notice
-- It was not delivered, and never will be.
UPDATE backfilld.notices SET failed_at = clock_timestamp(), last_error = %(error)s::text
WHERE notice = %(notice)s::bigint AND attempts = %(attempts)s::integer AND delivered_at IS NULL AND failed_at IS NULL

-- name: forget_notices
-- Notices that were sent long ago.
DELETE FROM backfilld.notices
WHERE coalesce(delivered_at, failed_at) < clock_timestamp() - make_interval(secs => %(kept_seconds)s::float8)

-- name: forget_holds
-- Holds that are over.
DELETE FROM backfilld.notice_holds
WHERE seen_at < clock_timestamp() - make_interval(secs => %(kept_seconds)s::float8)

-- name: count_notices
-- How many are on their way, and how many failed for good.
SELECT count(*) FILTER (WHERE delivered_at IS NULL AND failed_at IS NULL) AS pending,
       count(*) FILTER (WHERE failed_at IS NOT NULL) AS failed
FROM backfilld.notices
