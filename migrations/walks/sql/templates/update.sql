-- name: update
-- A batch: change the rows of a range that need it, to expressions over the row or to values that are sent.
UPDATE {table} SET {sets} {source} WHERE {condition} AND {needs_work}

-- name: update_told
-- The same, and how many of the changed rows still meet the user's condition.
WITH changed AS (
    {update} RETURNING {still} AS still
)
SELECT count(*) AS changed, count(*) FILTER (WHERE still) AS residual FROM changed

-- name: read
-- A batch of a Python function: the rows of a range that need work, held until they are written.
SELECT {key}, {columns} FROM {table} WHERE {condition} AND {needs_work} FOR NO KEY UPDATE

-- name: given
-- What a Python function gave, as a relation of one text for each column of the key and each column that is written.
unnest({arrays}) AS {name} ({columns})

-- name: hold
-- The rows of a range are held, so that a statement after this one, which sees what was committed meanwhile, finds them as they stay.
SELECT 1 AS one FROM {table} WHERE {condition} FOR NO KEY UPDATE

-- name: without_value
-- Whether some row of a range has no value in a column that must have one.
SELECT 1 AS one FROM {table} WHERE {condition} AND {column} IS NULL LIMIT 1

-- name: keys
-- The keys of the rows in a range.
SELECT {key} FROM {table} WHERE {condition}
