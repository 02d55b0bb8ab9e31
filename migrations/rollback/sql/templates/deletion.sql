-- name: delete
-- A batch: the rows of a range that meet the condition go, and into the journal. They are read and locked under our settings; the
-- table's own code (triggers) runs under those of the application, which are in force from then on.
WITH "~picked" AS MATERIALIZED (
    SELECT {picked} FROM {table} WHERE {condition} AND {needs_work} FOR UPDATE OF {name}
), "~gone" AS (
    DELETE FROM {table} USING "~picked" WHERE {condition} AND {same} RETURNING {returned}
){kept}
SELECT gone.rows AS changed, picked.rows - gone.rows AS undone
FROM (SELECT count(*) AS rows FROM "~picked") picked
CROSS JOIN LATERAL ({theirs} AND picked.rows >= 0) theirs
CROSS JOIN LATERAL (SELECT count(*) AS rows FROM "~gone" WHERE theirs.settings >= 0) gone

-- name: insert
-- A batch of the way back: rows are inserted as they were, where no row has their key. Values are read under our settings, and
-- the table's own code runs under those of the application.
WITH {held}, "~given" AS MATERIALIZED (
    SELECT "~number", {given} FROM "~held"
), "~back" AS (
    INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
    SELECT {values} FROM "~given" WHERE NOT EXISTS (SELECT FROM {table} WHERE {taken})
    RETURNING {returned}
), {left}
SELECT back.rows AS changed
FROM (SELECT count(*) AS rows FROM "~given") given
CROSS JOIN LATERAL ({theirs} AND given.rows >= 0) theirs
CROSS JOIN LATERAL (SELECT count(*) AS rows FROM "~back" WHERE theirs.settings >= 0) back

-- name: inserted
-- The rows that are there again.
SELECT "~given"."~number" FROM "~given" JOIN "~back" ON {same}
