-- name: find_index
-- What has a name in a schema: an index with its definition, or something else. To be asked under an empty search_path, as
-- PostgreSQL writes definitions by it.
SELECT c.relname AS name, c.relkind::text AS kind, c.oid::bigint AS oid, n.nspname AS table_schema, t.relname AS table_name,
       coalesce(i.indisvalid AND i.indisready AND i.indislive, false) AS valid,
       coalesce(i.indisunique, false) AS unique,
       (regexp_match(pg_get_indexdef(i.indexrelid),
                     '^CREATE (?:UNIQUE )?INDEX (?:"(?:[^"]|"")*"|[^ "]+) ON (?:ONLY )?'
                     '(?:"(?:[^"]|"")*"|[^ ".]+)\.(?:"(?:[^"]|"")*"|[^ "]+) (USING .*)$'))[1] AS rest,
       ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, false) FROM generate_series(1, i.indnkeyatts) k) AS keys,
       coalesce(pg_get_expr(i.indpred, i.indrelid), '') AS where,
       coalesce(s.spcname, '') AS tablespace,
       coalesce(obj_description(c.oid, 'pg_class'), '') AS comment
FROM pg_class c
JOIN pg_namespace cn ON cn.oid = c.relnamespace
LEFT JOIN pg_index i ON i.indexrelid = c.oid
LEFT JOIN pg_class t ON t.oid = i.indrelid
LEFT JOIN pg_namespace n ON n.oid = t.relnamespace
LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
WHERE cn.nspname = %(schema)s::text AND c.relname = %(name)s::text

-- name: indexes_of
-- The indexes of a table, as `find_index` tells of one.
SELECT c.relname AS name, c.relkind::text AS kind, c.oid::bigint AS oid, n.nspname AS table_schema, t.relname AS table_name,
       i.indisvalid AND i.indisready AND i.indislive AS valid,
       i.indisunique AS unique,
       (regexp_match(pg_get_indexdef(i.indexrelid),
                     '^CREATE (?:UNIQUE )?INDEX (?:"(?:[^"]|"")*"|[^ "]+) ON (?:ONLY )?'
                     '(?:"(?:[^"]|"")*"|[^ ".]+)\.(?:"(?:[^"]|"")*"|[^ "]+) (USING .*)$'))[1] AS rest,
       ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, false) FROM generate_series(1, i.indnkeyatts) k) AS keys,
       coalesce(pg_get_expr(i.indpred, i.indrelid), '') AS where,
       coalesce(s.spcname, '') AS tablespace,
       coalesce(obj_description(c.oid, 'pg_class'), '') AS comment
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_namespace n ON n.oid = t.relnamespace
LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
WHERE i.indrelid = %(table)s::bigint::oid
ORDER BY c.relname

-- name: index_uses
-- What an index is needed for, beside queries.
SELECT i.indisreplident AS replica_identity,
       i.indisclustered AS clustered,
       c.relispartition AS attached,
       ARRAY(SELECT k.conname::text FROM pg_constraint k
             WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x') ORDER BY 1) AS constraints,
       ARRAY(SELECT format('%%s on %%s', quote_ident(k.conname), k.conrelid::regclass) FROM pg_constraint k
             WHERE k.conindid = i.indexrelid AND k.contype = 'f' ORDER BY 1) AS foreign_keys,
       coalesce(pg_stat_get_numscans(i.indexrelid), 0)::bigint AS scans,
       (SELECT d.stats_reset FROM pg_stat_database d WHERE d.datname = current_database()) AS counted_since
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indexrelid = %(index)s::bigint::oid
