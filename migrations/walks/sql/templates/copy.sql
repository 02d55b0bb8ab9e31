-- name: copy
-- A batch: what the rows of a range hold goes into the rows of another table that belong to them, which are added where there are none.
-- They are read and held under our settings, so that no statement of the application comes in between; the other table's own code runs
-- under those of the application, which are in force from then on.
WITH "~picked" AS MATERIALIZED (
    SELECT {picked} FROM {table} WHERE {condition} AND {needs_work} FOR NO KEY UPDATE OF {name}
), "~copied" AS (
    INSERT INTO {into} AS "~into" ({columns}) SELECT {names} FROM "~picked"
    ON CONFLICT ({on}) DO UPDATE SET {column} = excluded.{column}
    RETURNING 1 AS one
)
SELECT copied.rows AS changed
FROM (SELECT count(*) AS rows FROM "~picked") picked
CROSS JOIN LATERAL ({theirs} AND picked.rows >= 0) theirs
CROSS JOIN LATERAL (SELECT count(*) AS rows FROM "~copied" WHERE theirs.settings >= 0) copied
