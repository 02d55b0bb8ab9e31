-- The sessions of ours that work for a run, on the whole server, by their names (migrations/postgres/sessions.py builds them).
-- A role without pg_monitor sees the names of all sessions and the state of its own.
CREATE VIEW backfilld.own_sessions AS
SELECT a.pid, a.application_name AS name,
       n.part[1]::bigint AS run, n.part[2]::integer AS lane, n.part[3]::bigint AS seq, coalesce(n.part[4], 'batch') AS doing,
       a.datid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) AS is_here,
       -- Somebody else may give a session such a name; this role cannot signal it, and must not count it as its own.
       a.usesysid = quote_ident(current_user)::regrole AS is_mine,
       a.state, a.state_change, a.backend_start, a.xact_start, a.wait_event_type, a.query
FROM pg_stat_get_activity(NULL) a
CROSS JOIN LATERAL regexp_match(a.application_name, '^backfilld run=(\d{1,18}) lane=(\d{1,9}) seq=(\d{1,18})(?: (python|index))?$') n(part)
-- The first condition is the cheap one: it is asked twenty times a second.
WHERE starts_with(a.application_name, 'backfilld run=') AND n.part IS NOT NULL;
