-- name: schema
-- What goes with the schema: how many tables, their bytes, and whether this role may drop it.
SELECT pg_get_userbyid(n.nspowner)::text AS owner, pg_has_role(n.nspowner, 'USAGE') AS owned,
       (SELECT count(*) FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p')) AS tables,
       (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
        FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'r') AS bytes
FROM pg_namespace n WHERE n.nspname = 'backfilld'

-- name: kept
-- Bytes of the tables in the schema that hold old values of each run: their names have its number, or a digest of its migration's
-- name (migrations/operations/base.py), which is that of its newest run.
SELECT r.run, sum(pg_total_relation_size(c.oid))::bigint AS bytes
FROM backfilld.runs r
CROSS JOIN LATERAL (SELECT left(encode(sha256(convert_to(r.name, 'UTF8')), 'hex'), 10) AS digest) named
JOIN pg_namespace n ON n.nspname = 'backfilld'
JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
    AND (c.relname ~ ('^[a-z_]+_' || r.run || '$')
         OR c.relname ~ ('_' || named.digest || '_[0-9]+$')
            AND NOT EXISTS (SELECT FROM backfilld.runs newer WHERE newer.name = r.name AND newer.run > r.run))
GROUP BY r.run ORDER BY r.run

-- name: triggers
-- Triggers on tables that call a function of the schema; those of partitions go with that of their parent.
SELECT n.nspname::text AS schema, c.relname::text AS table_name, t.tgname::text AS name
FROM pg_trigger t
JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.pronamespace = (SELECT s.oid FROM pg_namespace s WHERE s.nspname = 'backfilld')
  AND NOT t.tgisinternal AND t.tgparentid = 0
ORDER BY n.nspname, c.relname, t.tgname

-- name: dependents
-- What is not ours and would go with the schema: views of its tables, functions and defaults that use it, foreign keys to it.
WITH ours AS (
    SELECT n.oid AS schema FROM pg_namespace n WHERE n.nspname = 'backfilld'
), parts AS (
    SELECT 'pg_class'::regclass AS class, c.oid FROM pg_class c, ours WHERE c.relnamespace = ours.schema
    UNION ALL SELECT 'pg_proc'::regclass, p.oid FROM pg_proc p, ours WHERE p.pronamespace = ours.schema
    UNION ALL SELECT 'pg_type'::regclass, t.oid FROM pg_type t, ours WHERE t.typnamespace = ours.schema
)
SELECT DISTINCT pg_describe_object(f.class, f.oid, 0) AS what
FROM pg_depend d
JOIN parts p ON p.class = d.refclassid AND p.oid = d.refobjid
LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
CROSS JOIN LATERAL (SELECT CASE WHEN r.oid IS NULL THEN d.classid::oid ELSE 'pg_class'::regclass::oid END AS class,
                           coalesce(r.ev_class, d.objid) AS oid) f
LEFT JOIN pg_attrdef a ON f.class = 'pg_attrdef'::regclass AND a.oid = f.oid
WHERE d.deptype = 'n' AND f.class <> 'pg_trigger'::regclass
  AND (pg_identify_object(f.class, f.oid, 0)).schema IS DISTINCT FROM 'backfilld'
  AND NOT EXISTS (SELECT FROM pg_class c, ours WHERE c.oid = a.adrelid AND c.relnamespace = ours.schema)
ORDER BY 1
