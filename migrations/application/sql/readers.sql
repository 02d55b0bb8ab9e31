-- name: views
-- The views that read these tables, or each other above them, each behind those that it reads: their text, and what kinds of relations
-- they read.
WITH RECURSIVE reading AS (
    SELECT to_regclass(one.name)::oid AS oid, 0 AS depth FROM unnest(%(tables)s::text[]) AS one (name)
    UNION
    SELECT r.ev_class, reading.depth + 1
    FROM reading
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = reading.oid AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid AND r.ev_class <> reading.oid
    JOIN pg_class c ON c.oid = r.ev_class AND c.relkind = 'v'
    WHERE reading.depth < 20
),
views AS (SELECT oid, max(depth) AS depth FROM reading WHERE depth > 0 GROUP BY oid)
SELECT n.nspname::text AS schema, c.relname::text AS name, pg_get_viewdef(c.oid) AS definition,
       coalesce(array_to_string(c.reloptions, ', '), '') AS options,
       (SELECT jsonb_agg(DISTINCT jsonb_build_array(rn.nspname, rc.relname, rc.relkind))
        FROM pg_rewrite r
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
        JOIN pg_class rc ON rc.oid = d.refobjid AND rc.oid <> c.oid JOIN pg_namespace rn ON rn.oid = rc.relnamespace
        WHERE r.ev_class = c.oid AND rc.relkind IN ('r', 'p', 'v', 'm', 'f')) AS reads
FROM views v JOIN pg_class c ON c.oid = v.oid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'backfilld') AND n.nspname !~ '^pg_(toast|temp)'
ORDER BY v.depth, 1, 2

-- name: partitions
-- The partitions of these tables, and theirs, each with its table.
WITH RECURSIVE parts AS (
    SELECT one.name AS root, to_regclass(one.name)::oid AS oid FROM unnest(%(tables)s::text[]) AS one (name)
    UNION ALL
    SELECT parts.root, i.inhrelid FROM parts JOIN pg_inherits i ON i.inhparent = parts.oid
    JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
)
SELECT parts.root, n.nspname::text AS schema, c.relname::text AS name
FROM parts JOIN pg_class c ON c.oid = parts.oid AND c.relispartition JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE parts.oid <> to_regclass(parts.root)::oid
ORDER BY 1, 2, 3
