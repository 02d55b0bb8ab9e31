-- name: table_code
-- What code of a table's own an UPDATE of some columns runs. User triggers: for rows, those of the part that is walked and of
-- what it is a part of; for statements, those of the table that the statement names, and `by_parent` is where it matters which.
-- Keys that refer to a column and change with it. Functions of users' in a CHECK, an index, a generated column or a domain.
WITH named AS (
    SELECT to_regclass(%(table)s::text)::oid AS whole, to_regclass(%(relation)s::text)::oid AS walked
), parts AS (
    SELECT n.walked AS oid FROM named n
    UNION SELECT p.relid::oid FROM named n CROSS JOIN LATERAL pg_partition_tree(n.walked::regclass) p
    UNION SELECT p.relid::oid FROM named n CROSS JOIN LATERAL pg_partition_ancestors(n.walked::regclass) p
), triggers AS (
    SELECT DISTINCT t.tgname::text AS name, (t.tgtype & 1) = 1 AS for_rows, (t.tgtype & 3) = 3 AS may_change
    FROM pg_trigger t
    JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND (t.tgtype & 16) = 16
      AND p.pronamespace IS DISTINCT FROM to_regnamespace('backfilld')
      AND ((t.tgtype & 1) = 1 AND t.tgrelid IN (SELECT oid FROM parts)
           OR (t.tgtype & 1) = 0 AND t.tgrelid IN (SELECT whole FROM named UNION SELECT walked FROM named))
      AND (cardinality(t.tgattr::smallint[]) = 0
           OR EXISTS (SELECT FROM pg_attribute a
                      WHERE a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr::smallint[])
                        AND (a.attname = ANY (%(columns)s::text[]) OR a.attgenerated <> '')))
), followed AS (
    -- By their triggers: nothing finds a foreign key by the table that it refers to.
    SELECT c.oid FROM pg_trigger t
    JOIN pg_constraint c ON c.oid = t.tgconstraint AND c.confrelid = t.tgrelid
    JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = ANY (c.confkey)
    WHERE t.tgrelid IN (SELECT oid FROM parts) AND c.confupdtype IN ('c', 'n', 'd') AND a.attname = ANY (%(columns)s::text[])
), written AS (
    SELECT 'pg_constraint'::regclass AS classid, c.oid AS objid FROM pg_constraint c
    WHERE c.contype = 'c' AND c.conrelid IN (SELECT oid FROM parts)
    UNION ALL
    SELECT 'pg_constraint'::regclass, c.oid FROM pg_constraint c JOIN pg_attribute a ON a.atttypid = c.contypid
    WHERE a.attrelid = (SELECT walked FROM named) AND a.attname = ANY (%(columns)s::text[])
    UNION ALL
    SELECT 'pg_class'::regclass, i.indexrelid FROM pg_index i
    WHERE i.indrelid IN (SELECT oid FROM parts) AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
    UNION ALL
    SELECT 'pg_attrdef'::regclass, d.oid FROM pg_attrdef d
    JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated <> ''
    WHERE d.adrelid IN (SELECT oid FROM parts)
), called AS (
    SELECT p.oid FROM written w
    JOIN pg_depend d ON d.classid = w.classid AND d.objid = w.objid AND d.refclassid = 'pg_proc'::regclass
    JOIN pg_proc p ON p.oid = d.refobjid
    JOIN pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('c', 'internal')
)
SELECT EXISTS (SELECT FROM triggers) OR EXISTS (SELECT FROM followed) OR EXISTS (SELECT FROM called) AS fires,
       n.walked <> n.whole AND EXISTS (SELECT FROM triggers WHERE NOT for_rows) AS by_parent,
       ARRAY(SELECT name FROM triggers WHERE may_change ORDER BY name COLLATE "C") AS may_change
FROM named n
