-- name: copy
-- What a query gives: NULL is an empty field without quotes, and an empty text has quotes.
COPY ({query}) TO STDOUT (FORMAT csv, NULL '')

-- name: look
-- The fields of a query.
SELECT q.* FROM ({query}) AS q LIMIT 0

-- name: explain
-- About how many rows a query gives, and how wide they are.
EXPLAIN (FORMAT JSON) ({query})
