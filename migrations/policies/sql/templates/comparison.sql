-- name: every_row
-- The rows of a range, whoever asks: the function reads them with our rights, and gives them with the table's own row type, so that
-- an expression over the table is one over them too. Its body is parsed when it is called: under a search_path of its own, or it would
-- be the caller's, with our rights.
CREATE FUNCTION pg_temp.backfilld_rows() RETURNS SETOF {table} LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
AS {body}

-- name: rows
-- The body of that function.
SELECT {columns} FROM {table} AS {name}{sample} WHERE {condition}{rest}

-- name: compare
-- What a persona may do with each of these rows by two rules, counted; and, row by row, what it really sees at the same moment. The
-- body is parsed here, under our search_path, and runs with the rights and the settings of whoever calls it.
CREATE FUNCTION pg_temp.backfilld_compare() RETURNS TABLE (
    command text, rows_now bigint, rows_then bigint, gained bigint, lost bigint, gained_keys jsonb, lost_keys jsonb,
    wrong bigint, wrong_keys jsonb
)
LANGUAGE sql STABLE BEGIN ATOMIC
SELECT told.command, count(*) FILTER (WHERE told.now), count(*) FILTER (WHERE told.later),
       count(*) FILTER (WHERE told.later AND NOT told.now), count(*) FILTER (WHERE told.now AND NOT told.later),
       coalesce(to_jsonb((array_agg(told.key) FILTER (WHERE told.later AND NOT told.now))[1:{examples}]), '[]'::jsonb),
       coalesce(to_jsonb((array_agg(told.key) FILTER (WHERE told.now AND NOT told.later))[1:{examples}]), '[]'::jsonb),
       count(*) FILTER (WHERE told.wrong),
       coalesce(to_jsonb((array_agg(told.key) FILTER (WHERE told.wrong))[1:{examples}]), '[]'::jsonb)
FROM (
    SELECT each.command, ruled.key, each.now, each.later, each.command = 'select' AND {wrong} AS wrong
    FROM (SELECT to_jsonb(ARRAY[{key}]) AS key, {parts} FROM pg_temp.backfilld_rows() AS {name} OFFSET 0) AS ruled
    {really}
    CROSS JOIN LATERAL (VALUES {commands}) AS each (command, now, later)
) AS told
GROUP BY told.command;
END

-- name: really
-- The rows that the persona really sees.
LEFT JOIN (SELECT to_jsonb(ARRAY[{key}]) AS key FROM {table} AS {name}{sample} WHERE {condition}) AS really ON really.key = ruled.key

-- name: compared
-- Call it: nothing here is looked up but by its whole name.
SELECT c.command, c.rows_now, c.rows_then, c.gained, c.lost, c.gained_keys, c.lost_keys, c.wrong, c.wrong_keys
FROM pg_temp.backfilld_compare() AS c

-- name: wrong
-- Call it for the rows of which the rule says something else than PostgreSQL, by their keys, and how many they are.
SELECT ARRAY(SELECT pg_catalog.jsonb_array_elements_text(k.key)) AS key, c.wrong AS rows
FROM pg_temp.backfilld_compare() AS c CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(c.wrong_keys) AS k (key)

-- name: seen_rows
-- How many of the rows whoever asks sees; parsed here, as what compares is.
CREATE FUNCTION pg_temp.backfilld_seen() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC
SELECT count(*) FROM {table} AS {name}{sample} WHERE {condition};
END

-- name: seen
-- Call it.
SELECT pg_temp.backfilld_seen() AS rows

-- name: given_rows
-- How many rows our function gives.
SELECT pg_catalog.count(*) AS rows FROM pg_temp.backfilld_rows() AS given
