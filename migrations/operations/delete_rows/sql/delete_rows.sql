-- name: rights
-- Whether this role may delete rows of a table and insert them again.
SELECT has_table_privilege(%(oid)s::bigint::oid, 'DELETE') AS may_delete, has_table_privilege(%(oid)s::bigint::oid, 'INSERT') AS may_insert

-- name: rules
-- Rules that rewrite a DELETE or an INSERT of a table or of one of its partitions.
SELECT DISTINCT w.rulename::text AS name FROM pg_rewrite w
WHERE w.ev_type IN ('3', '4') AND w.ev_enabled IN ('O', 'A')
  AND (w.ev_class = %(oid)s::bigint::oid OR w.ev_class IN (SELECT p.relid FROM pg_partition_tree(%(oid)s::bigint::regclass) p))
ORDER BY 1

-- name: referrers
-- Foreign keys that refer to a table: whose, what a DELETE of a row does to theirs, and whether an index finds those.
SELECT c.conname::text AS name, c.conrelid::regclass::text AS relation, c.confdeltype::text AS action,
       (SELECT string_agg(a.attname::text, ', ' ORDER BY k.place)
        FROM unnest(c.conkey) WITH ORDINALITY k (number, place)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number) AS columns,
       EXISTS (SELECT FROM pg_index i
               WHERE i.indrelid = c.conrelid AND i.indisvalid AND i.indpred IS NULL
                 AND (i.indkey::smallint[])[0:cardinality(c.conkey) - 1] @> c.conkey) AS is_indexed
FROM pg_constraint c
WHERE c.contype = 'f' AND c.conparentid = 0 AND c.confrelid = %(oid)s::bigint::oid
ORDER BY 2, 1

-- name: triggers
-- Users' triggers that a DELETE fires, in the order of their names: of the table itself, and of its partitions for rows.
SELECT DISTINCT t.tgname::text AS name, n.nspname::text AS schema, p.proname::text AS function, (t.tgtype & 1) = 1 AS for_rows,
       (t.tgtype & 3) = 3 AS may_keep
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND (t.tgtype & 8) = 8 AND n.nspname <> 'backfilld'
  AND (t.tgrelid = %(oid)s::bigint::oid
       OR (t.tgtype & 1) = 1 AND t.tgrelid IN (SELECT r.relid FROM pg_partition_tree(%(oid)s::bigint::regclass) r))
ORDER BY 1
