-- name: rows
-- How many rows the journal has of an operation; an entry tells, and none of its arrays is read.
SELECT coalesce(sum(rows), 0)::bigint AS rows FROM {journal} WHERE operation = %(operation)s::integer

-- name: next
-- The entry that comes next on the way back: the newest batch first, of it the rows that are kept together and then the others;
-- and the last entry of that batch.
SELECT next.batch, next.entry, next.rows, next.pass, (
    SELECT max(last.entry) FROM {journal} last WHERE last.operation = {operation} AND last.batch = next.batch
) AS last_entry
FROM {journal} next
WHERE next.operation = {operation} AND (next.batch < %s::bigint OR next.batch = %s::bigint AND next.entry >= %s::bigint)
ORDER BY next.batch DESC, next.entry LIMIT 1

-- name: held
-- What the journal holds of some rows: those of one batch, of which no row is there twice.
"~held" AS MATERIALIZED (
    SELECT row_number() OVER () AS "~number", one.* FROM (
        SELECT kept.*, ARRAY[{key}] AS "~key" FROM {journal} j CROSS JOIN LATERAL unnest({arrays}) WITH ORDINALITY AS kept ({names}, "~at")
        WHERE j.operation = {operation} AND j.batch = %s::bigint AND j.entry BETWEEN %s::bigint AND %s::bigint
          AND kept."~at" BETWEEN %s::bigint AND %s::bigint
    ) one WHERE {share}
)

-- name: share
-- The rows of one of so many lanes, by a hash of their keys: a row that is in several batches is always the same lane's.
mod(pg_catalog.hash_array({key})::bigint + 2147483648, {parts}) = {part}

-- name: all
-- All of them, where there is one lane.
true

-- name: keys
-- The keys of some rows of the journal.
WITH {held} SELECT "~key" AS key FROM "~held"

-- name: undo
-- A batch of the undo: rows go back to what they were, where they are still what we made them.
WITH {held}, undone AS (
    {update} RETURNING "~held"."~number" AS number
), {left}
SELECT count(*) AS changed FROM undone

-- name: left
-- The others, which another session has written or removed since, are put down; and of a later pass those that went back, which
-- may be in an older batch as well and are then neither what that one made them nor left. Not an anti-join, which would be a nested loop here.
left_rows AS (
    INSERT INTO backfilld.undo_rows (run, operation, key, restored)
    SELECT {run}, {operation}, one."~key", one.restored
    FROM (SELECT "~key", "~number" IN ({undone}) AS restored FROM "~held") one WHERE NOT one.restored OR {is_later}
    ON CONFLICT DO NOTHING
)

-- name: as_asked
-- The rows that hold what they were to get.
SELECT "~with" FROM "~told" WHERE as_asked
