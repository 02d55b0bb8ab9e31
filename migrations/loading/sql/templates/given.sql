-- name: given
-- What some lines give, each value in the type of its column, in the order of the key: so that lanes lock rows in one order, and an
-- index is passed over in its own.
SELECT {place} AS "~place", s."~line", {values}
FROM {lines} AS s {fields} WHERE {condition} ORDER BY {order}

-- name: values
-- The same, of which nothing but the values is wanted.
SELECT {values} FROM {lines} AS s {fields} WHERE {condition} ORDER BY {order}

-- name: lines
-- How many lines those are.
SELECT count(*) AS lines FROM {lines} AS s WHERE {condition}

-- name: set_aside
-- A line that was set aside, as the stage would have it.
(SELECT l.line AS "~line", {fields} FROM backfilld.load_lines l
 WHERE l.run = {run} AND l.operation = {operation} AND l.line = {line})

-- name: json_fields
-- The fields of a line of JSON.
CROSS JOIN LATERAL (SELECT {names} FROM json_to_record(s."~record"::json) AS r ({columns})) AS fields
