-- name: upsert
-- A batch: rows are inserted where the key is new, and updated where they differ. Each line is compared first, so that a row that is as
-- given is not even locked; a row that another session writes meanwhile is not as it was seen, and the counts tell. Values are computed
-- under our settings, the table's own code (triggers) runs under those of the application, and what was written is read under ours.
WITH "~given" AS MATERIALIZED ({given}), "~judged" AS MATERIALIZED (
    SELECT "~given"."~place", {values}, found."~there", found."~updates", {olds}CASE
        WHEN found."~there" AND {refuses_there} THEN ARRAY['23505', {there_error}]::text[]
        WHEN found."~there" IS NULL AND {refuses_missing} THEN ARRAY['02000', {missing_error}]::text[] END AS "~why"
    FROM "~given"
    LEFT JOIN LATERAL (SELECT true AS "~there", {updates} AS "~updates"{found} FROM {table} WHERE {same_key}) AS found ON true
), {set_aside}, "~updated" AS (
    UPDATE {table} SET {sets} FROM "~judged" WHERE {same_judged} AND "~judged"."~updates" AND {as_seen}
    RETURNING {updated}
), "~inserted" AS (
    INSERT INTO {table} ({columns}) {overriding}
    SELECT {inserts} FROM "~judged" WHERE "~there" IS NULL AND "~why" IS NULL
    ON CONFLICT ({key}) DO NOTHING
    RETURNING {inserted}
), "~told" AS MATERIALIZED (
    SELECT {told_updated} FROM "~updated"
    UNION ALL
    SELECT {told_inserted} FROM "~inserted"
){kept}
SELECT judged.lines AS walked, judged.updates, judged.inserts, judged.set_aside, judged.same, updated.rows AS updated, inserted.rows AS inserted
FROM (SELECT count(*) AS lines, count(*) FILTER (WHERE "~updates") AS updates,
             count(*) FILTER (WHERE "~there" IS NULL AND "~why" IS NULL) AS inserts, count("~why") AS set_aside,
             count(*) FILTER (WHERE "~there" AND "~why" IS NULL AND "~updates" IS NOT TRUE) AS same
      FROM "~judged") judged
CROSS JOIN LATERAL ({theirs} AND judged.lines >= 0) theirs
CROSS JOIN LATERAL (SELECT count(*) AS rows FROM "~updated" WHERE theirs.settings >= 0) updated
CROSS JOIN LATERAL (SELECT count(*) AS rows FROM "~inserted" WHERE updated.rows >= 0) inserted
CROSS JOIN LATERAL ({ours} WHERE inserted.rows >= 0) ours
CROSS JOIN LATERAL (SELECT count(*) AS rows FROM "~told" WHERE ours.settings >= 0) told
CROSS JOIN LATERAL ({theirs} AND told.rows >= 0) again

-- name: upsert_at_once
-- The same from PostgreSQL 18 on, where a row tells what it was: every line is written, and one whose row is as given only locks it. A third
-- less work than to compare first, as long as most rows differ; not where code of users' runs, which would see an INSERT for each.
WITH "~written" AS (
    INSERT INTO {table} ({columns}) {overriding} {given}
    ON CONFLICT ({key}) DO UPDATE SET {sets} WHERE {updates}
    RETURNING WITH (OLD AS "~before", NEW AS "~after") {told}
){kept}
SELECT given.lines AS walked, 0 AS set_aside, given.lines - written.updated - written.inserted AS same, written.updated, written.inserted
FROM ({lines}) given
CROSS JOIN (SELECT count(*) FILTER (WHERE NOT "~ins") AS updated, count(*) FILTER (WHERE "~ins") AS inserted FROM "~written") written

-- name: verify
-- A verifying batch: lines whose rows are not as they give. One that was written since the lanes began is the application's own word.
WITH "~given" AS MATERIALIZED ({given})
SELECT count(*) AS walked, count(*) FILTER (WHERE found."~differs" AND found."~is_older") AS residual,
       count(*) FILTER (WHERE found."~there" IS NULL OR found."~differs" AND NOT found."~is_older") AS changed_since
FROM "~given"
LEFT JOIN LATERAL (
    SELECT true AS "~there", {differs} AS "~differs",
           age({name}.xmin) > (SELECT age(l.began_with::text::xid) FROM backfilld.loads l WHERE l.run = {run} AND l.operation = {operation})
               AS "~is_older"
    FROM {table} WHERE {same_key}
) AS found ON true
