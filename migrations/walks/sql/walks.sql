-- name: hot_updates
-- Rows of a table and its partitions that this session has updated in place so far: a HOT update touches no index.
SELECT coalesce(pg_stat_get_xact_tuples_hot_updated(t.oid), 0)
       + coalesce((SELECT sum(pg_stat_get_xact_tuples_hot_updated(p.relid)) FROM pg_partition_tree(t.oid) p
                   WHERE p.relid <> t.oid), 0) AS hot
FROM (SELECT to_regclass(%(relation)s::text) AS oid) t

-- name: shared_buffers
-- How many pages the shared buffers hold.
SELECT pg_size_bytes(current_setting('shared_buffers')) / current_setting('block_size')::bigint AS pages

-- name: order_on_disk
-- The indexes of tables by which the order of their rows on disk may be seen: what kind, the leading column, how the values of
-- that follow the order (NULL before an ANALYZE), and how many rows a scan of the index has read so far.
SELECT ic.relname::text AS index, am.amname = 'brin' AS is_brin, i.indisclustered AS is_clustered, a.attname::text AS "column",
       s.correlation, coalesce(pg_stat_get_numscans(i.indexrelid), 0)::bigint AS scans,
       coalesce(pg_stat_get_tuples_returned(i.indexrelid), 0)::bigint AS rows_read
FROM pg_index i
JOIN pg_class ic ON ic.oid = i.indexrelid
JOIN pg_am am ON am.oid = ic.relam
JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
LEFT JOIN LATERAL (
    -- LIMIT has the view asked for one column at a time; joined, it is read for all columns of the database.
    SELECT st.correlation::float8 FROM pg_stats st
    WHERE st.schemaname = n.nspname AND st.tablename = c.relname AND st.attname = a.attname AND NOT st.inherited LIMIT 1
) s ON true
WHERE i.indrelid = ANY (%(tables)s::bigint[]::oid[]) AND i.indisvalid AND am.amname IN ('btree', 'brin')
ORDER BY i.indrelid, ic.relname

-- name: begin_function
-- A Python function is about to be called: the transaction may be idle for longer, and the name of its session says why.
SELECT set_config('idle_in_transaction_session_timeout', %(idle)s::text, true),
       set_config('application_name', %(session)s::text, true)

-- name: join_by_key
-- For a statement that finds its rows by keys: of how many there are, in a WITH or in a journal, the planner has no idea. Taken for
-- many, they would be joined to the whole table.
SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)

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

-- name: followed
-- Whether a journal of keys is there, and whether the table that it is about has been replaced.
SELECT to_regclass(%(journal)s::text) IS NOT NULL AS journal, to_regclass(%(past)s::text) IS NOT NULL AS switched
