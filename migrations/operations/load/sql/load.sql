-- name: rights
-- Whether this role may insert rows into a table, and delete them again.
SELECT has_table_privilege(%(oid)s::bigint::oid, 'INSERT') AS may_insert, has_table_privilege(%(oid)s::bigint::oid, 'DELETE') AS may_delete

-- name: rules
-- Rules that rewrite an INSERT, an UPDATE or a DELETE of a table or of one of its partitions.
SELECT DISTINCT w.rulename::text AS name FROM pg_rewrite w
WHERE w.ev_type IN ('2', '3', '4') AND w.ev_enabled IN ('O', 'A')
  AND (w.ev_class = %(oid)s::bigint::oid OR w.ev_class IN (SELECT p.relid FROM pg_partition_tree(%(oid)s::bigint::regclass) p))
ORDER BY 1

-- name: unique_indexes
-- Unique indexes of a table over columns alone, all rows and no expression, that ON CONFLICT can name.
SELECT c.relname::text AS name, i.indisprimary AS is_primary, i.indimmediate AS is_immediate,
       array_agg(a.attname::text ORDER BY k.place) AS columns
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
CROSS JOIN LATERAL unnest((i.indkey::smallint[])[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k (number, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE i.indrelid = %(oid)s::bigint::oid AND i.indisunique AND i.indisvalid AND i.indisready AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY c.relname, i.indisprimary, i.indimmediate
ORDER BY i.indisprimary DESC, c.relname

-- name: checks
-- The CHECK constraints of a table, each with its expression and the columns that it is over.
SELECT c.conname::text AS name, pg_get_expr(c.conbin, c.conrelid) AS expression,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)) AS columns
FROM pg_constraint c
WHERE c.conrelid = %(oid)s::bigint::oid AND c.contype = 'c' AND c.conkey IS NOT NULL
ORDER BY c.conname

-- name: parents
-- The foreign keys of a table, each with whether this role sees every row that it may refer to.
SELECT c.conname::text AS name, c.confrelid::regclass::text AS relation, c.confrelid = c.conrelid AS is_own,
       has_table_privilege(c.confrelid, 'SELECT') AND NOT row_security_active(c.confrelid) AS is_seen,
       ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY k (number, place)
             JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number ORDER BY k.place) AS columns,
       ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY k (number, place)
             JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number ORDER BY k.place) AS referenced
FROM pg_constraint c
WHERE c.contype = 'f' AND c.conparentid = 0 AND c.conrelid = %(oid)s::bigint::oid
ORDER BY c.conname

-- name: referrers
-- The foreign keys that refer to a table.
SELECT c.conname::text AS name, c.conrelid::regclass::text AS relation,
       has_table_privilege(c.conrelid, 'SELECT') AND NOT row_security_active(c.conrelid) AS is_seen,
       ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY k (number, place)
             JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number ORDER BY k.place) AS columns,
       ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY k (number, place)
             JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number ORDER BY k.place) AS referenced
FROM pg_constraint c
WHERE c.contype = 'f' AND c.conparentid = 0 AND c.confrelid = %(oid)s::bigint::oid
ORDER BY 2, 1

-- name: sequences
-- The sequences that columns of a table own, and that count upwards.
SELECT a.attname::text AS "column", s.oid::regclass::text AS sequence
FROM pg_depend d
JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
JOIN pg_sequence q ON q.seqrelid = s.oid AND q.seqincrement > 0
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s::bigint::oid
  AND d.deptype IN ('a', 'i')
ORDER BY a.attnum

-- name: triggers
-- Users' triggers that an INSERT or an UPDATE fires, in the order of their names: of the table itself, and of its partitions for rows.
SELECT DISTINCT t.tgname::text AS name, n.nspname::text AS schema, p.proname::text AS function, (t.tgtype & 1) = 1 AS for_rows,
       (t.tgtype & 3) = 3 AS may_change
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND (t.tgtype & 20) <> 0 AND n.nspname <> 'backfilld'
  AND (t.tgrelid = %(oid)s::bigint::oid
       OR (t.tgtype & 1) = 1 AND t.tgrelid IN (SELECT r.relid FROM pg_partition_tree(%(oid)s::bigint::regclass) r))
ORDER BY 1
