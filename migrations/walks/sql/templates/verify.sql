-- name: count_residual
-- A verifying batch: the rows of a range, those of them that need work and are not quarantined, and those that hold a value of
-- the application's own.
SELECT count(*) AS rows, count(*) FILTER (WHERE {wanted}) AS residual, {own} AS own
FROM {table} WHERE {condition}

-- name: count
-- How many rows of the range meet a condition.
count(*) FILTER (WHERE {condition})

-- name: keys_wanted
-- The keys of such rows, a few at most.
SELECT {key} FROM {table} WHERE {condition} AND {wanted} LIMIT %s::bigint

-- name: set_aside
-- Whether a row is in the quarantine of a run and an operation.
EXISTS (
    SELECT FROM backfilld.quarantine "~backfilld"
    WHERE "~backfilld".run = %s::bigint AND "~backfilld".operation = %s::integer
      AND "~backfilld".key = pg_catalog.jsonb_build_array({key})
)

-- name: wanted
-- A condition for rows that are not quarantined: looks into the quarantine for the rows that meet it.
({condition} AND NOT {set_aside})

-- name: wanted_carefully
-- The same, where the condition raises an error for a row that is quarantined: CASE keeps it from being evaluated again. It
-- costs a look into the quarantine for every row.
CASE WHEN {set_aside} THEN false ELSE {condition} END
