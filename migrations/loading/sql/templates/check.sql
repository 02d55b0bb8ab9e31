-- name: check
-- A batch of the check: what some lines give is compared with the rules of the table, and with its rows. A line that breaks one leaves
-- the stage and is set aside.
WITH "~given" AS MATERIALIZED ({given}), "~judged" AS MATERIALIZED (
    SELECT "~given"."~place", found."~there", found."~updates", CASE {rules} ELSE NULL END AS "~why"
    FROM "~given" {found}
), {set_aside}
SELECT count(*) AS walked, count("~why") AS set_aside, count(*) FILTER (WHERE "~why" IS NULL AND "~there") AS there,
       count(*) FILTER (WHERE "~why" IS NULL AND "~updates") AS updates
FROM "~judged"

-- name: set_aside
-- Lines that are judged leave the stage, and are kept with what is wrong with them.
"~gone" AS (
    DELETE FROM {stage} AS s USING "~judged" WHERE s.ctid = "~judged"."~place" AND "~judged"."~why" IS NOT NULL
    RETURNING s."~line", ARRAY[{data}]::text[] AS "~data", "~judged"."~why"
), "~kept" AS (
    INSERT INTO backfilld.load_lines (run, operation, line, fields, sqlstate, error)
    SELECT {run}, {operation}, "~line", "~data", "~why"[1], "~why"[2] FROM "~gone"
)

-- name: set_aside_one
-- A line whose values are an error.
WITH gone AS (DELETE FROM {stage} AS s WHERE s.ctid = {place}::pg_catalog.tid RETURNING s."~line", ARRAY[{data}]::text[] AS fields)
INSERT INTO backfilld.load_lines (run, operation, line, fields, sqlstate, error)
SELECT {run}, {operation}, "~line", fields, {sqlstate}, {error} FROM gone RETURNING line

-- name: found
-- The row of the table that has the key of a line.
LEFT JOIN LATERAL (SELECT true AS "~there", {updates} AS "~updates" FROM {table} WHERE {same_key}) AS found ON true

-- name: not_looked
-- The rows of the table are not looked at.
CROSS JOIN (SELECT NULL::boolean AS "~there", NULL::boolean AS "~updates") AS found

-- name: rule
-- A rule, with the error that a line gets which breaks it.
WHEN {broken} THEN ARRAY[{sqlstate}, {error}]::text[]

-- name: expression
-- A rule of the table's, over what a line gives; what is NULL breaks none.
(SELECT ({expression}) FROM (SELECT {values}) AS {name}) IS FALSE

-- name: parent
-- A reference whose row is not there.
{given} AND NOT EXISTS (SELECT FROM {relation} AS parent WHERE {same})

-- name: taken
-- A row with another key has the value already.
EXISTS (SELECT FROM {table} WHERE {same} AND NOT ({same_key}))

-- name: input
-- Values that PostgreSQL cannot read, by its own words: such lines leave the stage and are set aside.
WITH "~judged" AS MATERIALIZED (
    SELECT s.ctid AS "~place", CASE {rules} ELSE NULL END AS "~why"
    FROM {stage} AS s WHERE {condition}
), {set_aside}
SELECT count("~why") AS set_aside FROM "~judged"

-- name: input_error
-- PostgreSQL's words for a value that it cannot read.
WHEN NOT pg_input_is_valid({value}, {type}) THEN (
    SELECT ARRAY[i.sql_error_code, {column} || i.message] FROM pg_input_error_info({value}, {type}) AS i)

-- name: places
-- Where the lines on some pages are.
SELECT s.ctid::text AS place FROM {stage} AS s WHERE {condition} ORDER BY s.ctid

-- name: duplicates
-- Of several lines with one key one counts, and the others leave the stage.
WITH "~ranked" AS (
    SELECT "~place", row_number() OVER (PARTITION BY {key} ORDER BY "~line" {order}) AS number FROM ({given}) AS given
), "~gone" AS (
    DELETE FROM {stage} AS s USING "~ranked" WHERE s.ctid = "~ranked"."~place" AND "~ranked".number > 1 RETURNING s."~line"
)
UPDATE backfilld.loads l SET duplicates = (SELECT count(*) FROM "~gone")
WHERE l.stage = {stage_name} AND l.run = (SELECT max(o.run) FROM backfilld.loads o WHERE o.stage = {stage_name})

-- name: several
-- Lines that have the same values as others in columns where one alone may: all of them, or all but the first, are set aside.
WITH "~judged" AS (
    SELECT "~place",
           CASE WHEN count(*) OVER same > 1 AND {none_null} AND ({all} OR row_number() OVER (PARTITION BY {columns} ORDER BY "~line") > 1)
                THEN ARRAY['23505', {error}]::text[] END AS "~why"
    FROM ({given}) AS given
    WINDOW same AS (PARTITION BY {columns})
), {set_aside}
SELECT count(*) AS lines FROM "~gone"

-- name: in_order
-- The lines of a stage come into the order of their keys, where they are not nearly in it.
DO LANGUAGE plpgsql {body}

-- name: in_order_body
-- How that is done. A stage that is too large stays as it is: all of it is written again, at once.
DECLARE
    "~lines" bigint; -- no column of the stage is called that
    "~back" bigint;
BEGIN
    IF pg_catalog.pg_relation_size({name}::text::pg_catalog.regclass) > {most} THEN
        RETURN;
    END IF;
    SELECT count(*), count(*) FILTER (WHERE descends) INTO "~lines", "~back"
    FROM (SELECT {descends} AS descends FROM (SELECT s.ctid AS "~place", {keys} FROM {stage} AS s {fields}) AS k
          WINDOW before AS (ORDER BY "~place")) AS seen;
    IF "~back" * {share} <= "~lines" THEN
        RETURN;
    END IF;
    CREATE TABLE {sorted} (LIKE {stage}) WITH (autovacuum_enabled = off);
    PERFORM backfilld.hide({sorted_name}::text::pg_catalog.regclass);
    INSERT INTO {sorted} SELECT s.* FROM {stage} AS s {fields} ORDER BY {order};
    DROP TABLE {stage};
    ALTER TABLE {sorted} RENAME TO {plain_name};
END

-- name: run_of
-- The newest run that has this stage.
(SELECT max(o.run) FROM backfilld.loads o WHERE o.stage = {stage_name})

-- name: raise_sequence
-- A sequence does not give values again that lines have.
SELECT setval({sequence}::text::regclass, most.value)
FROM (SELECT max({column})::bigint AS value FROM ({given}) AS given) AS most, {relation} AS sequence
WHERE most.value >= sequence.last_value

-- name: agree
-- The counts of a load that do not agree.
SELECT c.lines || ' lines, and ' || c.inserted || ' inserted, ' || c.updated || ' updated, ' || c.same || ' the same, '
       || c.set_aside || ' set aside, ' || c.duplicates || ' duplicates' AS counts
FROM backfilld.load_counts c
WHERE c.stage = {stage_name} AND c.run = (SELECT max(o.run) FROM backfilld.loads o WHERE o.stage = {stage_name})
  AND c.lines <> c.inserted + c.updated + c.same + c.set_aside + c.duplicates
