-- name: firing
-- A batch on a table that runs code of its own for it. Values are computed under our settings, rows are written under those of
-- the database and the role, so that triggers see what they see in the application's statements, and what was written is read
-- under ours again. The LATERAL parts follow one another: each needs what the one before it counted. No name in this text is
-- looked up under the other settings, because it is parsed before the first of them changes; those it leaves are the latter.
WITH {first}"~picked" AS MATERIALIZED (
    SELECT {picked} FROM {rows} WHERE {condition} AND {needs_work} FOR NO KEY UPDATE OF {name}
), "~changed" AS (
    UPDATE {table} SET {sets} FROM "~picked" WHERE {within} AND {same}
    RETURNING {returned}
), "~told" AS MATERIALIZED (
    SELECT {told}{still} AS still, {as_asked} AS as_asked FROM "~changed"
){last}
SELECT told.changed, told.residual, picked.rows - told.as_asked AS undone, again.settings
FROM (SELECT count(*) AS rows FROM "~picked") picked
CROSS JOIN LATERAL ({theirs} AND picked.rows >= 0) theirs
CROSS JOIN LATERAL (SELECT count(*) AS rows FROM "~changed" WHERE theirs.settings >= 0) changed
CROSS JOIN LATERAL ({ours} WHERE changed.rows >= 0) ours
CROSS JOIN LATERAL (
    SELECT count(*) AS changed, count(*) FILTER (WHERE still) AS residual, count(*) FILTER (WHERE as_asked) AS as_asked
    FROM "~told" WHERE ours.settings >= 0
) told
CROSS JOIN LATERAL ({theirs} AND told.changed >= 0) again

-- name: theirs
-- Until the transaction ends, settings are what they were when the session began: those of the database and of the role.
SELECT count(pg_catalog.set_config(s.name, s.reset_val, true)) AS settings
FROM pg_catalog.pg_settings s WHERE s.name IN ({names})

-- name: ours
-- Our settings, in the middle of a statement.
SELECT count(pg_catalog.set_config(s.name, s.value, true)) AS settings FROM (VALUES {pairs}) AS s (name, value)

-- name: still
-- A condition over the row as it was written, under the name by which expressions know the table.
(SELECT {still} FROM (SELECT ("~changed"."~row").*) AS {name})
