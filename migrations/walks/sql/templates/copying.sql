-- name: copy
-- A batch of a copy: the rows of a range, as the target is to have them. No look for what is there: the target has no index yet.
INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE
SELECT {values} FROM {table} WHERE {condition}

-- name: keys_out
-- Rows that were written while they were copied may be there twice, or as they were before: they go, and are brought anew.
DELETE FROM {target} t
WHERE EXISTS (SELECT FROM {journal} j WHERE {same_key}) OR (SELECT count(*) FROM {journal} j WHERE j.k1 IS NULL) > 0

-- name: drain
-- Bring over what the journal names, in one statement, which is one snapshot: a unique value that one row gave to another is never
-- met on both. A NULL is a TRUNCATE: whatever came after it is named behind it.
WITH taken AS MATERIALIZED (
    DELETE FROM {journal} j WHERE j.n IN (SELECT o.n FROM {journal} o ORDER BY o.n LIMIT {rows}) RETURNING {journal_key}
), named AS MATERIALIZED (
    SELECT DISTINCT {names} FROM taken j WHERE j.k1 IS NOT NULL
), emptied AS (
    DELETE FROM {target} t WHERE (SELECT count(*) FROM taken j WHERE j.k1 IS NULL) > 0 RETURNING 1 AS one
), gone AS (
    DELETE FROM {target} t USING named j WHERE {same_key} RETURNING {gone}
), written AS (
    {bring}
    WHERE (SELECT count(*) FROM gone) >= 0 AND (SELECT count(*) FROM emptied) >= 0
    RETURNING 1 AS one
)
SELECT (SELECT count(*) FROM taken) AS taken, (SELECT count(*) FROM named) AS keys, (SELECT count(*) FROM written) AS written

-- name: bring
-- The rows of the named keys; what the target alone has of them is what it had.
INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE
SELECT {chosen} FROM (SELECT {source_key}, {values} FROM {source} WHERE EXISTS (SELECT FROM {named} j WHERE {source_is_named})) s
LEFT JOIN {gone} g ON {gone_is_source}

-- name: taken
-- All keys that the journal names, each column as text; a NULL is a TRUNCATE.
DELETE FROM {journal} j RETURNING {key_texts}

-- name: given
-- Keys that are sent, as a relation.
(SELECT DISTINCT {keys} FROM unnest({arrays}) AS u ({names}))

-- name: remember
-- What the target alone has of the rows that are about to be brought anew.
CREATE TEMPORARY TABLE backfilld_gone ON COMMIT DROP AS SELECT {gone} FROM {target} t JOIN {named} j ON {same_key}

-- name: remove
-- The rows of the named keys go.
DELETE FROM {target} t USING {named} j WHERE {same_key}

-- name: empty
-- All rows go. Not TRUNCATE, which takes a lock that nobody asked for.
DELETE FROM {target}

-- name: compare
-- A range of both tables in one snapshot, row by row and bit by bit. What differs and is not in the journal goes into it: that is the
-- repair. Rows that are set aside are known.
WITH noted AS MATERIALIZED (
    SELECT DISTINCT {journal_key} FROM {journal} j
), one AS MATERIALIZED (
    SELECT {source_key}, ROW({values})::record AS image FROM {source} WHERE {condition} AND {not_aside_source}
), other AS MATERIALIZED (
    SELECT {source_key}, ROW({target_values})::record AS image FROM {aliased_target} WHERE {condition}
), differing AS (
    SELECT {either_key} FROM one s FULL JOIN other t ON {both_keys}
    WHERE (s.{first} IS NULL OR t.{first} IS NULL OR s.image OPERATOR(pg_catalog.*<>) t.image)
), repaired AS (
    INSERT INTO {journal} ({names})
    SELECT {names} FROM differing d
    WHERE NOT EXISTS (SELECT FROM noted j WHERE {noted_is_d}) AND NOT EXISTS (SELECT FROM noted j WHERE j.k1 IS NULL) AND {not_aside}
    RETURNING 1 AS one
)
SELECT (SELECT count(*) FROM one) AS rows, (SELECT count(*) FROM repaired) AS residual

-- name: not_aside
-- Whether a row is not in the quarantine of a run and an operation, and not known to have no place in the target.
NOT EXISTS (SELECT FROM backfilld.quarantine q WHERE q.run = %s::bigint AND q.operation = %s::integer AND q.key = jsonb_build_array({key_texts}))
AND NOT EXISTS (SELECT FROM backfilld.rollback_conflicts f WHERE f.run = %s::bigint AND f.operation = %s::integer AND f.key = ARRAY[{key_texts}])

-- name: waiting
-- How many keys wait in the journal, as far as they are counted, and since when the first does.
SELECT count(*) AS keys, coalesce(extract(epoch FROM clock_timestamp() - min(w.at)), 0)::float8 AS seconds
FROM (SELECT j.at FROM {journal} j ORDER BY j.n LIMIT {most}) w

-- name: release
-- Rows that were put aside and have their place now, or are no more. One that waits in the journal is looked at when it is brought.
DELETE FROM backfilld.quarantine q
WHERE q.run = %s::bigint AND q.operation = %s::integer
  AND NOT EXISTS (SELECT FROM {journal} j WHERE {journal_is_aside})
  AND (EXISTS (SELECT FROM {target} t WHERE {target_is_aside}) OR NOT EXISTS (SELECT FROM {source} WHERE {source_is_aside}))
