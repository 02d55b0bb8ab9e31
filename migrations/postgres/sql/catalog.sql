-- name: table
-- What a table is, how large, and what this role may do with it.
SELECT c.oid::bigint AS oid,
       c.relkind::text AS kind,
       (coalesce((SELECT sum(pg_relation_size(p.relid)) FROM pg_partition_tree(c.oid) p), pg_relation_size(c.oid))
        / current_setting('block_size')::bigint)::bigint AS pages,
       coalesce((SELECT sum(pg_table_size(p.relid)) FROM pg_partition_tree(c.oid) p), pg_table_size(c.oid))::bigint AS heap_bytes,
       coalesce((SELECT sum(pg_indexes_size(p.relid)) FROM pg_partition_tree(c.oid) p), pg_indexes_size(c.oid))::bigint AS index_bytes,
       row_security_active(c.oid) AS row_security_active,
       pg_has_role(current_user, c.relowner, 'USAGE') AS owned,
       has_table_privilege(c.oid, 'SELECT') AS may_select,
       has_table_privilege(c.oid, 'UPDATE') OR has_any_column_privilege(c.oid, 'UPDATE') AS may_update,
       c.relreplident::text AS replica_identity,
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) AND c.relkind <> 'p' AS has_children,
       c.relispartition AS is_partition,
       c.relpersistence::text AS persistence
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s::text AND c.relname = %(name)s::text

-- name: may_make_schemas
-- Whether this role may make schemas in this database.
SELECT has_database_privilege(current_database(), 'CREATE') AS may

-- name: is_built_in
-- Whether a type, in SQL, is PostgreSQL's own.
SELECT t.oid < 16384 AS is_built_in FROM pg_type t WHERE t.oid = %(type)s::text::regtype

-- name: may_create
-- Whether this role may make something in a schema, such as an index of a table there.
SELECT has_schema_privilege(%(schema)s::text, 'CREATE') AS may_create

-- name: similar_tables
-- Tables whose names are near, for a remedy.
SELECT n.nspname AS schema, c.relname AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'backfilld')
ORDER BY n.nspname = %(schema)s::text DESC, lower(c.relname) = lower(%(name)s::text) DESC, c.relname LIMIT 500

-- name: columns
-- The columns of a table in order. Types are written under an empty search_path, so they mean the same everywhere.
SELECT a.attname AS name,
       format_type(a.atttypid, a.atttypmod) AS type,
       a.attnotnull AS not_null,
       a.attgenerated <> '' AS generated,
       a.attidentity = 'a' AS identity_always,
       d.adbin IS NOT NULL AS has_default,
       coalesce(NOT l.collisdeterministic, false) AS nondeterministic,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND a.attnum = ANY (i.indkey::smallint[])) AS indexed,
       a.attgenerated = 'v' AS virtual
FROM pg_attribute a
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE a.attrelid = %(oid)s::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum

-- name: leaves
-- The tables that hold a table's rows: its leaf partitions, or itself; how large they are, and what their indexes hold, the
-- columns of expressions and conditions included.
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS table_name, c.relkind::text AS kind,
       coalesce(am.amname = 'heap', false) AS heap,
       coalesce(pg_relation_filenode(c.oid), 0)::bigint AS filenode,
       CASE WHEN c.relkind = 'r' THEN pg_relation_size(c.oid) / current_setting('block_size')::bigint ELSE 0 END AS pages,
       row_security_active(c.oid) AS row_security_active,
       has_table_privilege(c.oid, 'SELECT')
           AND (has_table_privilege(c.oid, 'UPDATE') OR has_any_column_privilege(c.oid, 'UPDATE')) AS may_update,
       (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid) AS indexes,
       coalesce((SELECT array_agg(DISTINCT a.attname::text)
                 FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
                 WHERE i.indrelid = c.oid
                   AND (a.attnum = ANY (i.indkey::smallint[])
                        OR EXISTS (SELECT FROM pg_depend d
                                   WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                                     AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
                                     AND d.refobjsubid = a.attnum))), '{}') AS indexed_columns
FROM (SELECT t.relid::oid AS oid FROM pg_partition_tree(%(oid)s::bigint::oid) t WHERE t.isleaf
      UNION SELECT p.oid FROM pg_class p WHERE p.oid = %(oid)s::bigint::oid AND p.relkind <> 'p') leaf
JOIN pg_class c ON c.oid = leaf.oid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_am am ON am.oid = c.relam
ORDER BY n.nspname, c.relname

-- name: partition_columns
-- The columns by which rows are sent to partitions, at every level; NULL for an expression.
SELECT DISTINCT a.attname::text AS name
FROM pg_partition_tree(%(oid)s::bigint::oid) t
JOIN pg_partitioned_table p ON p.partrelid = t.relid
CROSS JOIN LATERAL unnest(p.partattrs::smallint[]) AS k(attnum)
LEFT JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.attnum AND k.attnum > 0

-- name: filenode
-- The file of a table at this moment; NULL when there is none.
SELECT pg_relation_filenode(to_regclass(%(table)s::text))::bigint AS filenode

-- name: sizes
-- Bytes of a table and its partitions, and of their indexes.
SELECT coalesce(sum(pg_table_size(t.oid)), 0)::bigint AS heap_bytes, coalesce(sum(pg_indexes_size(t.oid)), 0)::bigint AS index_bytes
FROM (SELECT r.oid::oid AS oid FROM (SELECT to_regclass(%(table)s::text) AS oid) r WHERE r.oid IS NOT NULL
      UNION SELECT p.relid::oid FROM pg_partition_tree(to_regclass(%(table)s::text)) p) t

-- name: sizes_of
-- The same of several tables at once, by their number in the list; one that is not there has no row.
SELECT t.number, coalesce(pg_table_size(t.oid), 0)::bigint AS heap_bytes, coalesce(pg_indexes_size(t.oid), 0)::bigint AS index_bytes
FROM (SELECT w.number, to_regclass(w.name) AS oid FROM unnest(%(tables)s::text[]) WITH ORDINALITY AS w (name, number)) t
WHERE t.oid IS NOT NULL

-- name: plain_types
-- The types of a table's columns without a domain and a limit of length. Text cast to one of these is never cut to fit;
-- what is too long meets its limit when it is assigned, and is an error there.
WITH RECURSIVE bare AS (
    SELECT a.attname AS name, a.atttypid AS type
    FROM pg_attribute a WHERE a.attrelid = %(oid)s::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.name, t.typbasetype FROM bare b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT b.name, format_type(b.type, -1) AS type
FROM bare b JOIN pg_type t ON t.oid = b.type WHERE t.typtype <> 'd'

-- name: plain_type_names
-- Of types by name, each without a domain and a limit of length, as `plain_types` gives them.
SELECT n.name, format_type(bare.type, -1) AS type
FROM unnest(%(types)s::text[]) AS n (name)
CROSS JOIN LATERAL (
    WITH RECURSIVE b AS (
        SELECT to_regtype(n.name)::oid AS type
        UNION ALL
        SELECT t.typbasetype FROM b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
    )
    SELECT b.type FROM b JOIN pg_type t ON t.oid = b.type WHERE t.typtype <> 'd'
) bare

-- name: keys
-- Unique keys that a walk can follow: valid, whole, of NOT NULL columns, in the ascending order that comparisons of the
-- columns themselves have. The primary key comes first, then the shortest.
SELECT k.index_name AS name, k.is_primary, k.columns, k.types
FROM (
    SELECT x.relname AS index_name, i.indisprimary AS is_primary,
           array_agg(a.attname::text ORDER BY n.n) AS columns,
           array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY n.n) AS types,
           bool_and(a.attnotnull
                    AND i.indoption[n.n] & 1 = 0
                    AND i.indcollation[n.n] = a.attcollation
                    AND o.opcdefault
                    AND o.opcnamespace = 'pg_catalog'::regnamespace) AS usable
    FROM pg_index i
    JOIN pg_class x ON x.oid = i.indexrelid
    CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) AS n(n)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[n.n]
    JOIN pg_opclass o ON o.oid = i.indclass[n.n]
    WHERE i.indrelid = %(oid)s::bigint::oid AND i.indisunique AND i.indisvalid AND i.indisready
      AND i.indpred IS NULL AND i.indexprs IS NULL
    GROUP BY x.relname, i.indisprimary
) k
WHERE k.usable
ORDER BY k.is_primary DESC, cardinality(k.columns), k.index_name

-- name: triggers
-- Triggers of a table, and the columns that they wait for.
SELECT t.tgname AS name,
       coalesce((SELECT array_agg(a.attname::text) FROM pg_attribute a
                 WHERE a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr::smallint[])), '{}') AS of_columns
FROM pg_trigger t
WHERE t.tgrelid = %(oid)s::bigint::oid AND NOT t.tgisinternal
ORDER BY t.tgname COLLATE "C"

-- name: publications
-- Publications that send every updated row of a table on.
SELECT DISTINCT p.pubname AS name FROM pg_publication_tables p
JOIN pg_publication b ON b.pubname = p.pubname AND b.pubupdate
JOIN pg_class c ON c.relname = p.tablename JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = p.schemaname
WHERE p.pubname IS NOT NULL
  AND c.oid IN (SELECT relid FROM pg_partition_tree(%(oid)s::bigint::oid) UNION SELECT %(oid)s::bigint::oid)
ORDER BY 1

-- name: dependents
-- Views, materialized views and functions that the catalog knows to depend on a table, and policies on it.
SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0) AS what
FROM (
    SELECT 'pg_class'::regclass AS classid, r.ev_class AS objid
    FROM pg_depend e JOIN pg_rewrite r ON r.oid = e.objid
    WHERE e.classid = 'pg_rewrite'::regclass AND e.refclassid = 'pg_class'::regclass
      AND e.refobjid = %(oid)s::bigint::oid AND r.ev_class <> %(oid)s::bigint::oid
    UNION
    SELECT e.classid, e.objid FROM pg_depend e
    WHERE e.classid IN ('pg_proc'::regclass, 'pg_policy'::regclass) AND e.refclassid = 'pg_class'::regclass
      AND e.refobjid = %(oid)s::bigint::oid
) d
ORDER BY 1

-- name: view_reads
-- What a probe view reads: columns of its table by name, and other relations with their row security.
SELECT d.refobjid::bigint AS oid,
       d.refobjid::regclass::text AS relation,
       a.attname AS column_name,
       row_security_active(d.refobjid) AS row_security_active
FROM pg_depend d
JOIN pg_rewrite r ON r.oid = d.objid
LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND d.refobjsubid > 0
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
  AND r.ev_class = %(view)s::bigint::oid AND d.refobjid <> r.ev_class

-- name: view_tree
-- The parse tree of a probe view, in which every function it calls stands by its oid.
SELECT ev_action::text AS tree FROM pg_rewrite WHERE ev_class = %(view)s::bigint::oid

-- name: unrepeatable_functions
-- Of these functions and operators, those that may answer differently when asked again.
SELECT DISTINCT p.proname AS name
FROM pg_proc p
WHERE (p.oid = ANY (%(functions)s::bigint[]::oid[])
       OR p.oid IN (SELECT oprcode FROM pg_operator WHERE oid = ANY (%(operators)s::bigint[]::oid[])))
  AND (p.provolatile = 'v'
       OR p.pronamespace = 'pg_catalog'::regnamespace
          AND p.proname IN ('now', 'transaction_timestamp', 'statement_timestamp', 'txid_current',
                            'pg_current_xact_id', 'txid_current_snapshot', 'pg_current_snapshot')
       OR p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = 'age' AND p.pronargs = 1)
ORDER BY 1

-- name: functions_to_look_at
-- Of these functions and operators, those that act outside of the row they are called for, or depend on what is outside of it,
-- and those of which nobody can say: made by a user, in a language that is not trusted.
-- In pg_catalog what does so is VOLATILE, but for what maps tables to XML; the few others that are VOLATILE are listed.
SELECT DISTINCT CASE n.nspname WHEN 'pg_catalog' THEN '' ELSE n.nspname || '.' END || p.proname AS name,
       n.nspname = 'pg_catalog' OR e.oid IS NOT NULL AS acts_outside
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_language l ON l.oid = p.prolang
LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
LEFT JOIN pg_extension e ON e.oid = d.refobjid
WHERE (p.oid = ANY (%(functions)s::bigint[]::oid[])
       OR p.oid IN (SELECT oprcode FROM pg_operator WHERE oid = ANY (%(operators)s::bigint[]::oid[])))
  AND CASE WHEN n.nspname = 'pg_catalog'
           THEN p.provolatile = 'v'
                AND p.proname NOT IN ('array_sample', 'array_shuffle', 'clock_timestamp', 'currval', 'gen_random_uuid', 'lastval',
                                      'nextval', 'random', 'random_normal', 'timeofday', 'uuidv4', 'uuidv7')
                OR p.proname ~ '^(table|query|cursor|schema|database)_to_xml'
           WHEN e.oid IS NOT NULL
           THEN e.extname IN ('adminpack', 'dblink', 'file_fdw', 'http', 'pg_background', 'pg_cron', 'pg_net', 'pgmq', 'postgres_fdw')
           ELSE NOT l.lanpltrusted END
ORDER BY 1

-- name: constraint
-- A constraint of a table by its name.
SELECT c.contype::text AS kind, c.convalidated AS validated
FROM pg_constraint c WHERE c.conrelid = %(oid)s::bigint::oid AND c.conname = %(name)s::text

-- name: referable_keys
-- Unique keys that a foreign key may refer to, the primary key first.
SELECT i.indisprimary AS is_primary, array_agg(a.attname::text ORDER BY n.n) AS columns
FROM pg_index i
CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) AS n(n)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[n.n]
WHERE i.indrelid = %(oid)s::bigint::oid AND i.indisunique AND i.indisvalid AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid, i.indisprimary
ORDER BY i.indisprimary DESC, i.indexrelid

-- name: may_reference
-- Whether this role may make foreign keys that refer to these columns.
SELECT has_table_privilege(%(oid)s::bigint::oid, 'REFERENCES')
       OR coalesce((SELECT bool_and(has_column_privilege(%(oid)s::bigint::oid, c.name, 'REFERENCES'))
                    FROM unnest(%(columns)s::text[]) AS c(name)), false) AS may_reference

-- name: index_that_begins_with
-- An index that finds the rows of a value of these columns: a whole one that begins with them, in any order.
SELECT x.relname AS name
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
WHERE i.indrelid = %(oid)s::bigint::oid AND i.indisvalid AND i.indpred IS NULL AND m.amname IN ('btree', 'hash')
  AND %(columns)s::text[] <@ (SELECT array_agg(a.attname::text)
                              FROM generate_series(0, cardinality(%(columns)s::text[]) - 1) AS n(n)
                              JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[n.n])
LIMIT 1

-- name: equalities
-- The operators by which a foreign key compares, column by column.
SELECT n.nspname AS schema, o.oprname AS name
FROM pg_constraint c
CROSS JOIN LATERAL unnest(c.conpfeqop) WITH ORDINALITY AS e(operator, place)
JOIN pg_operator o ON o.oid = e.operator JOIN pg_namespace n ON n.oid = o.oprnamespace
WHERE c.conrelid = %(oid)s::bigint::oid AND c.conname = %(name)s::text
ORDER BY e.place

-- name: unproved_not_null
-- NOT NULL constraints of a column that are not validated (PostgreSQL 18 and newer).
SELECT c.conname AS name
FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
WHERE c.conrelid = %(oid)s::bigint::oid AND c.contype = 'n' AND NOT c.convalidated AND a.attname = %(column)s::text

-- name: partitions_not_null
-- Partitions in which a column is NOT NULL.
SELECT p.relid::regclass::text AS name
FROM pg_partition_tree(%(oid)s::bigint::oid) p
JOIN pg_attribute a ON a.attrelid = p.relid AND a.attname = %(column)s::text AND NOT a.attisdropped
WHERE p.level > 0 AND a.attnotnull
ORDER BY 1

-- name: backend
-- The server process behind a connection, and the server's version.
SELECT pg_backend_pid() AS pid, current_setting('server_version_num')::integer AS version,
       pg_is_in_recovery() AS in_recovery, current_setting('transaction_read_only') = 'on' AS read_only,
       has_database_privilege(current_database(), 'TEMP') AS may_make_temporary, current_user::text AS role

-- name: column_details
-- A column, with all that has to be made again should it be dropped and come back.
SELECT a.attnum::integer AS number,
       format_type(a.atttypid, a.atttypmod) AS type,
       CASE WHEN a.attcollation <> t.typcollation AND a.attcollation <> 0
            THEN (SELECT format('%%I.%%I', n.nspname, l.collname) FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
                  WHERE l.oid = a.attcollation) END AS collation,
       pg_get_expr(d.adbin, d.adrelid) AS "default",
       a.attnotnull AS not_null,
       a.attgenerated <> '' AS generated,
       a.attidentity <> '' AS identity,
       a.attinhcount > 0 AS inherited,
       col_description(a.attrelid, a.attnum) AS comment
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %(oid)s::bigint::oid AND a.attname = %(name)s::text AND NOT a.attisdropped

-- name: column_nature
-- What one column is made of: its type without domains, its DEFAULT or its domain's, and what keeps it from being renamed.
WITH RECURSIVE bare AS (
    SELECT 0 AS depth, a.atttypid AS type, a.atttypmod AS typmod
    FROM pg_attribute a WHERE a.attrelid = %(oid)s::bigint::oid AND a.attname = %(column)s::text
    UNION ALL
    SELECT b.depth + 1, t.typbasetype, t.typtypmod FROM bare b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT format_type(b.type, b.typmod) AS type,
       CASE WHEN a.attcollation <> t.typcollation
            THEN (SELECT format('%%I.%%I', n.nspname, c.collname)
                  FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace WHERE c.oid = a.attcollation)
            ELSE '' END AS collation,
       coalesce(CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
                (SELECT y.typdefault FROM bare o JOIN pg_type y ON y.oid = o.type
                 WHERE y.typtype = 'd' AND y.typdefault IS NOT NULL ORDER BY o.depth LIMIT 1), '') AS default,
       a.attidentity <> '' AS identity,
       a.attinhcount > 0 OR r.reloftype <> 0 AS inherited,
       coalesce(col_description(a.attrelid, a.attnum), '') AS comment
FROM bare b JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd'
JOIN pg_attribute a ON a.attrelid = %(oid)s::bigint::oid AND a.attname = %(column)s::text
JOIN pg_class r ON r.oid = a.attrelid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum

-- name: column_grants
-- Privileges that were granted on one column, each to a role as a statement names it.
SELECT x.privilege_type AS privilege, x.is_grantable AS grantable,
       CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee
FROM pg_attribute a
CROSS JOIN LATERAL aclexplode(a.attacl) x
WHERE a.attrelid = %(oid)s::bigint::oid AND a.attname = %(column)s::text
ORDER BY grantee, privilege

-- name: deferrable_indexes
-- Indexes that serve deferrable constraints: they may hold duplicates inside of a transaction.
SELECT c.relname AS name
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = %(oid)s::bigint::oid AND NOT i.indimmediate

-- name: row_code
-- Code that is handed whole rows of a table, or of what is a part of it: its triggers, each with its condition and the body of its
-- function, and its rules.
WITH parts AS (
    SELECT %(oid)s::bigint::oid AS oid UNION SELECT p.relid::oid FROM pg_partition_tree(%(oid)s::bigint::regclass) p
)
SELECT DISTINCT 'trigger' AS kind, t.tgname::text AS name,
       concat_ws(E'\n', pg_get_triggerdef(t.oid), CASE WHEN l.lanname NOT IN ('c', 'internal') THEN p.prosrc END) AS code
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_language l ON l.oid = p.prolang
WHERE t.tgrelid IN (SELECT oid FROM parts) AND NOT t.tgisinternal AND t.tgenabled <> 'D'
  AND p.pronamespace IS DISTINCT FROM to_regnamespace('backfilld')
UNION ALL
SELECT 'rule', w.rulename::text, pg_get_ruledef(w.oid)
FROM pg_rewrite w WHERE w.ev_class IN (SELECT oid FROM parts) AND w.ev_enabled <> 'D' AND w.rulename <> '_RETURN'
ORDER BY 1, 2

-- name: fired_triggers
-- Users' triggers that an UPDATE of some columns of a table fires, in the order of their names: of the table itself, and of its
-- partitions for rows.
SELECT DISTINCT t.tgname::text AS name, n.nspname::text AS schema, p.proname::text AS function, (t.tgtype & 1) = 1 AS for_rows,
       coalesce(p.prosrc, '') ~* '(net\.http_|http_request|pg_notify|dblink|realtime\.|pgmq\.|cron\.)'
           OR n.nspname IN ('supabase_functions', 'net') AS reaches_outside
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND (t.tgtype & 16) = 16 AND n.nspname <> 'backfilld'
  AND (t.tgrelid = %(oid)s::bigint::oid
       OR (t.tgtype & 1) = 1 AND t.tgrelid IN (SELECT r.relid FROM pg_partition_tree(%(oid)s::bigint::regclass) r))
  AND (cardinality(t.tgattr::smallint[]) = 0
       OR EXISTS (SELECT FROM pg_attribute a
                  WHERE a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr::smallint[])
                    AND (a.attname = ANY (%(columns)s::text[]) OR a.attgenerated <> '')))
ORDER BY 1

-- name: called_functions
-- What functions do, as text, and what those do whose names stand in it; of users' own, in languages whose text can be read.
WITH RECURSIVE readable AS (
    SELECT p.oid, n.nspname, p.proname, coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) AS code
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'backfilld') AND l.lanname IN ('sql', 'plpgsql')
), called AS (
    SELECT r.oid, r.code FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS w (nspname, proname) JOIN readable r USING (nspname, proname)
    UNION
    SELECT r.oid, r.code FROM called c
    JOIN readable r ON strpos(c.code, r.proname) > 0 AND c.code ~ ('\m' || regexp_replace(r.proname, '(\W)', '\\\1', 'g') || '"?\s*\(')
)
SELECT c.oid::regprocedure::text AS name, c.code FROM called c ORDER BY c.oid

-- name: event_triggers
-- Event triggers that DDL fires.
SELECT e.evtname::text AS name, n.nspname::text AS schema, p.proname::text AS function, coalesce(e.evttags, '{}') AS tags
FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE e.evtenabled IN ('O', 'A') AND e.evtevent <> 'login'
ORDER BY 1

-- name: update_rules
-- Rules that rewrite an UPDATE of a table or of one of its partitions.
SELECT DISTINCT w.rulename::text AS name FROM pg_rewrite w
WHERE w.ev_type = '2' AND w.ev_enabled IN ('O', 'A')
  AND (w.ev_class = %(oid)s::bigint::oid OR w.ev_class IN (SELECT p.relid FROM pg_partition_tree(%(oid)s::bigint::regclass) p))
ORDER BY 1

-- name: named_as_ours
-- What is on a table, or (NULL) on any, under a name that only we give, with the digest in it (NULL for columns, which have none) and what drops it.
SELECT o.kind, o.relation::regclass::text AS relation, o.name, substring(o.name FROM '_([0-9a-f]{10})_[0-9]+') AS digest, o.remedy
FROM (
    SELECT 1 AS place, 'trigger' AS kind, t.tgrelid AS relation, t.tgname::text AS name,
           format('DROP TRIGGER %%I ON %%s', t.tgname, t.tgrelid::regclass) AS remedy
    FROM pg_trigger t
    WHERE (%(oid)s::bigint IS NULL OR t.tgrelid = %(oid)s::bigint::oid) AND NOT t.tgisinternal AND t.tgname ~ '^~backfilld_sync_[0-9a-f]{10}_[0-9]+$'
    UNION ALL
    SELECT 2, 'constraint', n.conrelid, n.conname::text, format('ALTER TABLE %%s DROP CONSTRAINT %%I', n.conrelid::regclass, n.conname)
    FROM pg_constraint n
    WHERE (%(oid)s::bigint IS NULL OR n.conrelid = %(oid)s::bigint::oid) AND n.conname ~ '^backfilld_(not_null|rule|reference)_[0-9a-f]{10}_[0-9]+'
    UNION ALL
    SELECT 3, 'index', i.indrelid, x.relname::text, format('DROP INDEX CONCURRENTLY %%s', i.indexrelid::regclass)
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
    WHERE (%(oid)s::bigint IS NULL OR i.indrelid = %(oid)s::bigint::oid) AND x.relname ~ '^backfilld_(new|old|shadow_[0-9]+)_[0-9a-f]{10}_[0-9]+'
    UNION ALL
    SELECT 4, 'statistics', e.stxrelid, e.stxname::text, format('DROP STATISTICS %%I.%%I', n.nspname, e.stxname)
    FROM pg_statistic_ext e JOIN pg_namespace n ON n.oid = e.stxnamespace
    WHERE (%(oid)s::bigint IS NULL OR e.stxrelid = %(oid)s::bigint::oid) AND e.stxname ~ '^backfilld_statistics_[0-9a-f]{10}_[0-9]+'
    UNION ALL
    SELECT 5, 'column', a.attrelid, a.attname::text, format('ALTER TABLE %%s DROP COLUMN %%I', a.attrelid::regclass, a.attname)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
    WHERE (%(oid)s::bigint IS NULL OR a.attrelid = %(oid)s::bigint::oid) AND a.attnum > 0 AND NOT a.attisdropped AND a.attname ~ '_backfilld_(new|old)$'
) o
ORDER BY 2, o.place, o.name COLLATE "C"
