-- name: changed
-- The rows that an update changes, with what they were: an UPDATE tells that from PostgreSQL 18 on.
changed AS (
    {update}
    RETURNING WITH (OLD AS "~before", NEW AS "~after") {key} AS "~key", {was} AS "~was", {now} AS "~is", {still} AS still
)

-- name: changed_before_18
-- The same before 18: the rows are read first, and locked as the update would.
"~picked" AS MATERIALIZED (
    SELECT {picked_key}, {was} AS "~was" FROM {table} WHERE {picked_condition} FOR NO KEY UPDATE
), changed AS (
    UPDATE {table} SET {sets} {source} "~picked" WHERE {condition} AND {same} AND {needs_work}
    RETURNING {key} AS "~key", "~picked"."~was" AS "~was", {now} AS "~is", {still} AS still
)

-- name: journaled
-- A batch that writes into the journal what it replaces.
WITH {changed}, {kept}
SELECT count(*) AS changed, count(*) FILTER (WHERE still) AS residual FROM changed

-- name: kept
-- What was replaced. Changed again by us alone, a row goes back to what it was at first; otherwise to the application's value in
-- between.
journaled AS (
    INSERT INTO {journal} AS journal (run, operation, key, old, new)
    SELECT {run}, {operation}, "~key", {was}, "~is" FROM {changed}
    ON CONFLICT (operation, key, run) DO UPDATE
    SET old = CASE WHEN journal.new IS NOT DISTINCT FROM excluded.old THEN journal.old ELSE excluded.old END,
        new = excluded.new
)

-- name: undo
-- A batch of the undo: rows go back to what they were, where they are still what we made them, and leave the journal. The
-- others, which another session has written or removed since, stay in it.
WITH {held}, undone AS (
    {update} RETURNING "~held"."~key" AS key
), gone AS (
    DELETE FROM {journal} USING undone WHERE {name}.operation = {operation} AND {name}.key = undone.key
)
SELECT count(*) AS changed FROM undone

-- name: held
-- What the journal holds of some rows.
"~held" AS MATERIALIZED (
    SELECT key AS "~key", old AS "~was", new AS "~is", {held_key}
    FROM {journal} WHERE {condition} AND operation = {operation}
)

-- name: gone
-- Rows that are what they were again leave the journal.
gone AS (
    DELETE FROM {journal} USING "~told" WHERE {name}.operation = {operation} AND {name}.key = "~told"."~with" AND "~told".as_asked
)

-- name: last_key
-- The last key that the journal holds of an operation. Qualified: a bare name would be the output column, which is text.
SELECT j.key::text AS key FROM {journal} j WHERE j.operation = %(operation)s::integer ORDER BY j.key DESC LIMIT 1

-- name: left
-- What the journal holds of an operation: how many rows, and the keys of the first.
SELECT count(*) AS rows,
       coalesce((SELECT jsonb_agg(f.key) FROM (SELECT key FROM {journal} WHERE operation = %(operation)s::integer
                                               ORDER BY key LIMIT %(most)s::integer) f), '[]') AS keys
FROM {journal} WHERE operation = %(operation)s::integer
