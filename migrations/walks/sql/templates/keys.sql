-- name: bound
-- The key so many rows into a range; no row when fewer are left.
SELECT {key} FROM {table} WHERE {condition} ORDER BY {order} OFFSET %s::bigint LIMIT 1

-- name: count
-- How many rows a range holds.
SELECT count(*) AS rows FROM {table} WHERE {condition}

-- name: last
-- The greatest key; no row for an empty table.
SELECT {key} FROM {table} ORDER BY {order} LIMIT 1

-- name: tiles
-- The last key of each of so many equal shares of the rows in a range, by all rows or by a sample of pages.
SELECT DISTINCT ON (s.tile_of_row) {key}
FROM (SELECT {names}, ntile(%s::integer) OVER (ORDER BY {order}) AS tile_of_row FROM {table} {sample} WHERE {condition}) s
ORDER BY s.tile_of_row, {descending}
