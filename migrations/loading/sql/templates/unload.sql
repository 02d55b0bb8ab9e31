-- name: unload
-- A batch of the way back: rows that are as the load left them get their old values, or go where they were inserted.
WITH {held}, "~given" AS MATERIALIZED (
    SELECT {given} FROM "~held"
), "~picked" AS MATERIALIZED (
    SELECT {picked} FROM {table}, "~given" WHERE {same} AND {untouched} FOR UPDATE OF {name}
), "~restored" AS (
    UPDATE {table} SET {sets} FROM "~picked" WHERE {same_picked} AND NOT "~picked"."~ins" RETURNING "~picked"."~number"
), "~deleted" AS (
    DELETE FROM {table} USING "~picked" WHERE {same_picked} AND "~picked"."~ins" RETURNING "~picked"."~number"
), {left}
SELECT restored.rows + deleted.rows AS changed
FROM (SELECT count(*) AS rows FROM "~picked") picked
CROSS JOIN LATERAL ({theirs} AND picked.rows >= 0) theirs
CROSS JOIN LATERAL (SELECT count(*) AS rows FROM "~restored" WHERE theirs.settings >= 0) restored
CROSS JOIN LATERAL (SELECT count(*) AS rows FROM "~deleted" WHERE restored.rows >= 0) deleted

-- name: undone
-- The rows that are as they were before.
SELECT "~number" FROM "~restored" UNION ALL SELECT "~number" FROM "~deleted"

-- name: lock
-- Rows that were inserted are locked before it is asked whether others refer to them: from then on none can come.
WITH {held}, "~given" AS MATERIALIZED (
    SELECT {given} FROM "~held"
), "~locked" AS MATERIALIZED (
    SELECT "~given"."~number" FROM {table}, "~given" WHERE {same} AND "~given"."~ins" FOR UPDATE OF {name}
)
SELECT count(*) AS rows FROM "~locked"

-- name: refers
-- A row refers to one that was inserted.
EXISTS (SELECT FROM {relation} AS child WHERE {same})
