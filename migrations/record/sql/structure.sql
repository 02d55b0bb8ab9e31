-- name: remember
-- What a proof relies on, as it is now: `parts` are tables with their columns and the name of a sync trigger.
UPDATE backfilld.runs
SET structure = (
    SELECT jsonb_agg(to_jsonb(part) || jsonb_build_object('state', backfilld.structure_now(part.relation, part.columns, part.trigger)))
    FROM jsonb_to_recordset(%(parts)s::jsonb) part (name text, relation text, columns text[], trigger text))
WHERE run = %(run)s::bigint

-- name: changes
-- What has changed of that since.
SELECT relation, what, gone FROM backfilld.structure_changes(%(run)s::bigint)
