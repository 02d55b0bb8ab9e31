-- name: listed_partitioned
-- The tables whose next partitions a worker makes, by name.
SELECT p.relation, p.run, r.name AS run_name, p.partition_by, p.since, p.looked_at, p.partitions_ahead, p.reaches, p.has_strays, p.problem
FROM backfilld.partitioned_tables p LEFT JOIN backfilld.runs r ON r.run = p.run
ORDER BY p.relation

-- name: hold_partitioned
-- Be the only worker that makes partitions of a table, until the transaction ends.
SELECT p.relation FROM backfilld.partitioned_tables p WHERE p.relation = %(relation)s::text FOR NO KEY UPDATE SKIP LOCKED

-- name: tell_partitioned
-- What a look at a table has found.
UPDATE backfilld.partitioned_tables p
SET looked_at = clock_timestamp(), partitions_ahead = %(partitions_ahead)s::integer, reaches = %(reaches)s::text,
    has_strays = %(has_strays)s::boolean, problem = %(problem)s::text
WHERE p.relation = %(relation)s::text

-- name: end_partitioned
-- No worker makes partitions of a table any more.
DELETE FROM backfilld.partitioned_tables p WHERE p.relation = %(relation)s::text

-- name: partitions_of
-- The partitions of a table by ranges, with their bounds: what stands between the parentheses; NULL for the default partition. And what
-- a partition is made of: its storage parameters and the like. The newest last.
SELECT n.nspname::text AS schema, c.relname::text AS name,
       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \((.*)\) TO \((.*)\)$'))[1] AS begins,
       (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \((.*)\) TO \((.*)\)$'))[2] AS ends,
       ARRAY(SELECT o FROM unnest(c.reloptions) o) AS options, c.relrowsecurity AS secured,
       coalesce(s.spcname::text, '') AS tablespace, coalesce(m.amname::text, 'heap') AS method
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace LEFT JOIN pg_am m ON m.oid = c.relam
WHERE i.inhparent = to_regclass(%(relation)s::text) AND c.relkind = 'r' ORDER BY c.oid

-- name: owner_of_partitioned
-- Who owns a table, as a statement names the role, and whether this role is it; no row where there is no such partitioned table.
SELECT quote_ident(pg_get_userbyid(c.relowner)) AS owner, c.relowner = quote_ident(current_user)::regrole AS owned_directly,
       n.nspname::text AS schema, c.relname::text AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass(%(relation)s::text) AND c.relkind = 'p'
