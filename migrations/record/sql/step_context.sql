-- name: step_context
-- What a step must know before it works: the run's state and settings, the lanes beside it and the database's pace.
SELECT r.name, r.created_at, r.phase, r.state, r.pass, r.settings, r.rows_total, r.rollback, p.width, p.max_width, p.hold_reason, p.batch_seconds, p.rest,
       coalesce((p.memory ->> 'others')::integer, 0) AS others, p.stopped_at, p.stopped_by,
       extract(epoch FROM clock_timestamp() - p.sampled_at)::float8 AS age_seconds, clock_timestamp() AS now,
       CASE WHEN r.examined_at IS NULL AND r.state IN ('queued', 'running') THEN backfilld.awaited(r.definition -> 'after') END AS awaited,
       lanes.awake AS lanes_awake, lanes.asleep AS lanes_asleep, lanes.last AS last_lane, lanes.most_left,
       CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint END AS wal_position
FROM backfilld.runs r CROSS JOIN backfilld.pace p
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE l.next_run_at IS NOT NULL) AS awake,
           count(*) FILTER (WHERE l.next_run_at IS NULL) AS asleep,
           max(l.lane) FILTER (WHERE l.next_run_at IS NOT NULL) AS last,
           max(l.rows_expected - l.rows_walked) AS most_left
    FROM backfilld.lanes l
    WHERE l.run = r.run AND l.done_at IS NULL AND l.kind NOT IN ('coordinator', 'follow') AND l.pass = r.pass
) lanes
WHERE r.run = %(run)s::bigint
