-- name: runs_not_ended
-- What the record says of every run that has not ended. A row that was walked and neither changed nor set aside was as it
-- should be already; a walk by pages does not count what it passes. How many rows remain is unknown (NULL) until they have been counted.
SELECT r.name, r.phase, r.state, lanes.changed,
       greatest(lanes.unchanged - quarantine.quarantined, 0)::bigint AS unchanged,
       quarantine.quarantined, lanes.committed, lanes.retried,
       CASE WHEN r.phase NOT IN ('expand', 'backfill') THEN 0
            WHEN r.pass > 1 THEN greatest(r.residual_rows - lanes.changed_in_pass, 0)
            WHEN r.rows_total IS NOT NULL THEN greatest(r.rows_total - lanes.walked_first, 0)
       END::bigint AS remaining,
       extract(epoch FROM clock_timestamp() - coalesce(lanes.progressed_at, r.created_at))::float8 AS progress_age_seconds
FROM backfilld.runs r
CROSS JOIN LATERAL (
    SELECT coalesce(sum(l.rows_changed), 0)::bigint AS changed,
           coalesce(sum(l.rows_changed) FILTER (WHERE l.pass = r.pass), 0)::bigint AS changed_in_pass,
           coalesce(sum(l.rows_walked - l.rows_changed)
                    FILTER (WHERE l.kind IN ('backfill', 'retry') AND NOT l.bounds ? 'first'), 0)::bigint AS unchanged,
           coalesce(sum(l.rows_walked) FILTER (WHERE l.kind = 'backfill' AND l.pass = 1), 0)::bigint AS walked_first,
           coalesce(sum(l.batches_committed), 0)::bigint AS committed,
           coalesce(sum(l.batches_retried), 0)::bigint AS retried,
           max(l.progressed_at) AS progressed_at
    FROM backfilld.lanes l WHERE l.run = r.run
) lanes
CROSS JOIN LATERAL (
    SELECT count(*)::bigint AS quarantined FROM backfilld.quarantine q WHERE q.run = r.run
) quarantine
WHERE r.ended_at IS NULL
ORDER BY r.run
