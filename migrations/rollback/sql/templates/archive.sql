-- name: archive
-- The archive of a run. An entry holds neighbours of one batch that it did not have as they are, in arrays; a row that is too wide to
-- be kept beside others, or that comes later than its neighbours, has an entry of its own.
CREATE TABLE IF NOT EXISTS {archive} (
    entry              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operation          integer NOT NULL,
    rows               integer NOT NULL
)

-- name: columns
-- What it has of one operation: the first and the last key of an entry, of the key's own types and collations, and the arrays.
ALTER TABLE {archive} {columns}

-- name: by_last
-- Entries by their last key: those whose rows lie in a range of keys are neighbours, but for one.
CREATE INDEX {name} ON {archive} ({last}) WHERE operation = {operation}

-- name: several_by_last
-- That one is the next entry of several rows: no two of these overlap.
CREATE INDEX {name} ON {archive} ({last}) WHERE operation = {operation} AND rows > 1

-- name: held
-- The rows that meet a condition, each with what the archive has of it: the newest entry counts. Grouped, not joined: of how many
-- rows there are in arrays the planner has no idea.
"~rows" AS MATERIALIZED (
    SELECT {key}, {values} FROM {table} WHERE {condition}
), "~first" AS MATERIALIZED (
    SELECT {names} FROM "~rows" ORDER BY {ascending} LIMIT 1
), "~last" AS MATERIALIZED (
    SELECT {names} FROM "~rows" ORDER BY {descending} LIMIT 1
), "~near" AS MATERIALIZED (
    SELECT entry, rows, {arrays} FROM {archive}
    WHERE operation = {operation} AND {last} >= {from_first} AND {last} <= {from_last}
    UNION ALL
    SELECT entry, rows, {arrays} FROM (
        SELECT entry, rows, {first_names}, {arrays} FROM {archive}
        WHERE operation = {operation} AND rows > 1 AND {last} > {from_last} ORDER BY {last_names} LIMIT 1
    ) after WHERE {first} <= {from_last}
), "~held" AS MATERIALIZED (
    SELECT {names}, bool_or(entry IS NOT NULL) AS "~is_held",
           (array_agg("~old" ORDER BY entry DESC) FILTER (WHERE entry IS NOT NULL))[1] AS "~old",
           (array_agg("~new" ORDER BY entry DESC) FILTER (WHERE entry IS NOT NULL))[1] AS "~new",
           (array_agg("~old") FILTER (WHERE entry IS NULL))[1] AS "~old_now",
           (array_agg("~new") FILTER (WHERE entry IS NULL))[1] AS "~new_now"
    FROM (
        SELECT {names}, NULL::bigint AS entry, "~old", "~new" FROM "~rows"
        UNION ALL
        SELECT {unnested}, near.entry, one."~old", one."~new"
        FROM "~near" near CROSS JOIN LATERAL unnest({near_arrays}) AS one ({kept}, "~old", "~new")
        WHERE {of_entry} >= {from_first} AND {of_entry} <= {from_last}
    ) both_sides
    GROUP BY {names} HAVING bool_or(entry IS NULL)
)

-- name: copy
-- A batch of the archive: copy the rows of a range where the archive does not have them as they are. Together, so many in an entry, where
-- no other entry of several rows reaches into their range.
WITH {held}, "~needed" AS MATERIALIZED (
    SELECT {names}, "~old_now" AS "~old", "~new_now" AS "~new", "~is_held",
           {wide} OR EXISTS (SELECT FROM "~near" WHERE rows > 1) AS "~alone"
    FROM "~held" WHERE NOT "~is_held" OR ("~old_now", "~new_now") IS DISTINCT FROM ("~old", "~new")
), "~numbered" AS (
    SELECT {names}, "~old", "~new", (row_number() OVER (ORDER BY {names}) - 1) / {most} AS part FROM "~needed" WHERE NOT "~alone"
), "~parts" AS (
    SELECT {names}, "~old", "~new", part, {ends} FROM "~numbered"
    WINDOW part AS (PARTITION BY part ORDER BY {names} ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
), "~copied" AS (
    INSERT INTO {archive} (operation, rows, {columns})
    SELECT {operation}, count(*), {end_names}, {gathered} FROM "~parts" GROUP BY part, {end_names}
    UNION ALL
    SELECT {operation}, 1, {names}, {names}, {alone} FROM "~needed" WHERE "~alone"
)
SELECT count(*) AS changed, count(*) FILTER (WHERE NOT "~is_held") AS missing FROM "~needed"

-- name: unarchived
-- How many rows of a range the archive does not have.
WITH {held} SELECT count(*) FILTER (WHERE NOT "~is_held") AS rows FROM "~held"

-- name: missing
-- Rows that the archive does not have: some of their keys, and how many they are.
WITH {held} SELECT ARRAY[{key}] AS key, count(*) OVER () AS rows FROM "~held" WHERE NOT "~is_held" ORDER BY {names} LIMIT {limit}

-- name: source
-- What the archive has of the rows of a range, beside them.
(WITH {held} SELECT {names}, "~is_held", "~old", "~new" FROM "~held") AS "~archived"
