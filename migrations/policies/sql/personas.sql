-- name: add_rows
-- What a batch has counted for a persona and a command is added to what its lane has counted before.
INSERT INTO backfilld.persona_rows AS p (run, operation, lane, phase, relation, persona, command, rows_now, rows_then, gained, lost,
                                         gained_keys, lost_keys, error_now, error_then)
SELECT %(run)s::bigint, %(operation)s::integer, %(lane)s::integer, t.phase, t.relation, t.persona, t.command, t.rows_now, t.rows_then,
       t.gained, t.lost, t.gained_keys, t.lost_keys, t.error_now, t.error_then
FROM jsonb_to_recordset(%(told)s::jsonb)
    AS t (phase text, relation text, persona text, command text, rows_now bigint, rows_then bigint, gained bigint, lost bigint,
          gained_keys jsonb, lost_keys jsonb, error_now text, error_then text)
ON CONFLICT (run, operation, phase, relation, persona, command, lane) DO UPDATE
SET rows_now = p.rows_now + excluded.rows_now, rows_then = p.rows_then + excluded.rows_then,
    gained = p.gained + excluded.gained, lost = p.lost + excluded.lost,
    gained_keys = CASE WHEN jsonb_array_length(p.gained_keys) < %(examples)s::integer THEN p.gained_keys || excluded.gained_keys
                       ELSE p.gained_keys END,
    lost_keys = CASE WHEN jsonb_array_length(p.lost_keys) < %(examples)s::integer THEN p.lost_keys || excluded.lost_keys
                     ELSE p.lost_keys END,
    error_now = coalesce(p.error_now, excluded.error_now), error_then = coalesce(p.error_then, excluded.error_then)

-- name: rows_of
-- What all lanes of a run have counted, for each operation, phase, persona and command.
SELECT p.operation, p.phase, p.relation, p.persona, p.command, sum(p.rows_now)::bigint AS rows_now, sum(p.rows_then)::bigint AS rows_then,
       sum(p.gained)::bigint AS gained, sum(p.lost)::bigint AS lost,
       coalesce(jsonb_path_query_array(jsonb_agg(p.gained_keys ORDER BY p.lane), '$[*][*]'), '[]') AS gained_keys,
       coalesce(jsonb_path_query_array(jsonb_agg(p.lost_keys ORDER BY p.lane), '$[*][*]'), '[]') AS lost_keys,
       min(p.error_now) AS error_now, min(p.error_then) AS error_then
FROM backfilld.persona_rows p WHERE p.run = %(run)s::bigint
GROUP BY p.operation, p.phase, p.relation, p.persona, p.command ORDER BY p.operation, p.phase DESC, p.relation, p.persona, p.command

-- name: forget_rows
-- What lanes have counted for an operation is to be counted again.
DELETE FROM backfilld.persona_rows WHERE run = %(run)s::bigint AND operation = %(operation)s::integer
