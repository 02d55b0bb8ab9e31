-- name: constraint_details
-- A constraint of a table, with all that has to be made again should it be dropped and come back. To be asked under an empty
-- search_path, as PostgreSQL writes definitions by it.
SELECT c.contype::text AS kind,
       pg_get_constraintdef(c.oid) AS definition,
       c.convalidated AS valid,
       coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true) AS enforced,
       c.coninhcount > 0 AS inherited,
       concat(CASE WHEN c.condeferrable THEN ' DEFERRABLE' END, CASE WHEN c.condeferred THEN ' INITIALLY DEFERRED' END) AS deferred,
       obj_description(c.oid, 'pg_constraint') AS comment,
       ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
             JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number ORDER BY k.place) AS columns,
       n.nspname AS referenced_schema,
       f.relname AS referenced_table,
       ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY AS k (number, place)
             JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number ORDER BY k.place) AS referenced_columns
FROM pg_constraint c
LEFT JOIN pg_class f ON f.oid = nullif(c.confrelid, 0)
LEFT JOIN pg_namespace n ON n.oid = f.relnamespace
WHERE c.conrelid = %(oid)s::bigint::oid AND c.conname = %(name)s::text

-- name: constraint_names
-- The names of a table's constraints.
SELECT c.conname AS name FROM pg_constraint c WHERE c.conrelid = %(oid)s::bigint::oid ORDER BY c.conname

-- name: another_constraint
-- The name of a table's constraint, where it is another one than the one that was.
SELECT c.conname AS name FROM pg_catalog.pg_constraint c
WHERE c.conrelid = pg_catalog.to_regclass(%(table)s::text) AND c.conname = %(name)s::text
  AND pg_catalog.pg_get_constraintdef(c.oid) <> %(definition)s::text
