-- name: relations
-- The tables and views of schemas, and of this session's temporary ones, with their columns in order. A view's column has the column
-- of a table that it shows as it is, as PostgreSQL's rewriter notes it: `resorigtbl` and `resorigcol`.
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
       n.oid = pg_my_temp_schema() AS is_temporary,
       (pg_relation_is_updatable(c.oid, true) & 8) <> 0 AS takes_inserts,
       (pg_relation_is_updatable(c.oid, true) & 4) <> 0 AS takes_updates,
       coalesce((SELECT jsonb_agg(jsonb_build_object(
           'name', a.attname, 'type', coalesce(b.typname, t.typname), 'type_schema', coalesce(bn.nspname, tn.nspname),
           'nullable', NOT (a.attnotnull OR t.typtype = 'd' AND t.typnotnull), 'has_default', a.atthasdef,
           'identity', a.attidentity::text, 'generated', a.attgenerated::text <> '',
           'writable', c.relkind IN ('r', 'p') OR c.relkind IN ('v', 'f') AND pg_column_is_updatable(c.oid, a.attnum, true),
           'shows', CASE c.relkind WHEN 'v' THEN (
               SELECT jsonb_build_array(sn.nspname, s.relname, sa.attname)
               FROM pg_rewrite r,
                    regexp_match(r.ev_action::text, ':resno ' || a.attnum || ' :resname ' || regexp_replace(a.attname, '(\W)', '\\\1', 'g')
                        || ' :ressortgroupref \d+ :resorigtbl (\d+) :resorigcol (\d+)') AS m,
                    pg_class s, pg_namespace sn, pg_attribute sa
               WHERE r.ev_class = c.oid AND r.ev_type = '1' AND s.oid::text = m[1] AND sn.oid = s.relnamespace
                 AND sa.attrelid = s.oid AND sa.attnum::text = m[2]
               LIMIT 1) END)
         ORDER BY a.attnum)
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
         LEFT JOIN pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype LEFT JOIN pg_namespace bn ON bn.oid = b.typnamespace
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]') AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND (n.nspname = ANY (%(schemas)s::text[]) OR n.oid = pg_my_temp_schema())
ORDER BY n.nspname, c.relname

-- name: references
-- Foreign keys, with the tables and columns at both ends, and whether at most one row refers to each.
SELECT n.conname::text AS name, n.conrelid::bigint AS own, n.confrelid::bigint AS other,
       (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(n.conkey) WITH ORDINALITY AS k (number, place)
        JOIN pg_attribute a ON a.attrelid = n.conrelid AND a.attnum = k.number) AS columns,
       (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(n.confkey) WITH ORDINALITY AS k (number, place)
        JOIN pg_attribute a ON a.attrelid = n.confrelid AND a.attnum = k.number) AS other_columns,
       EXISTS (SELECT FROM pg_constraint u WHERE u.conrelid = n.conrelid AND u.contype IN ('p', 'u')
               AND u.conkey @> n.conkey AND u.conkey <@ n.conkey) AS is_one_to_one
FROM pg_constraint n
WHERE n.contype = 'f' AND n.conparentid = 0 AND n.conrelid = ANY (%(oids)s::bigint[]::oid[])
ORDER BY n.conname

-- name: enums
-- The enumerations of all schemas but PostgreSQL's own, each with its labels in order.
SELECT n.nspname::text AS schema, t.typname::text AS name, array_agg(e.enumlabel::text ORDER BY e.enumsortorder) AS labels
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_enum e ON e.enumtypid = t.oid
GROUP BY 1, 2
ORDER BY 1, 2

-- name: composites
-- The composite types of schemas that are no table's, with their attributes in order.
SELECT n.nspname::text AS schema, c.relname::text AS name,
       jsonb_agg(jsonb_build_array(a.attname, t.typname, tn.nspname) ORDER BY a.attnum) AS attributes
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
WHERE c.relkind = 'c' AND n.nspname = ANY (%(schemas)s::text[])
GROUP BY 1, 2
ORDER BY 1, 2

-- name: functions
-- The functions of schemas that an API can call: their named arguments, and what they give, row by row or once.
SELECT n.nspname::text AS schema, p.proname::text AS name, p.proretset AS gives_several,
       rt.typname::text AS returns, rn.nspname::text AS returns_schema,
       (SELECT jsonb_build_array(tn.nspname, c.relname) FROM pg_class c JOIN pg_namespace tn ON tn.oid = c.relnamespace
        WHERE c.oid = rt.typrelid AND c.relkind <> 'c') AS returns_rows_of,
       coalesce((SELECT jsonb_agg(jsonb_build_object('name', coalesce(p.proargnames[i], ''), 'type', t.typname, 'type_schema', tn.nspname,
                   'mode', coalesce(p.proargmodes[i]::text, 'i'),
                   'has_default', i > p.pronargs - p.pronargdefaults AND i <= p.pronargs) ORDER BY i)
         FROM generate_subscripts(coalesce(p.proallargtypes, p.proargtypes::oid[]), 1) AS s (n),
              LATERAL (SELECT s.n + CASE WHEN p.proallargtypes IS NULL THEN 1 ELSE 0 END AS i) AS one
         JOIN LATERAL (SELECT (coalesce(p.proallargtypes, p.proargtypes::oid[]))[s.n] AS oid) AS x ON true
         JOIN pg_type t ON t.oid = x.oid JOIN pg_namespace tn ON tn.oid = t.typnamespace), '[]') AS arguments
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_type rt ON rt.oid = p.prorettype JOIN pg_namespace rn ON rn.oid = rt.typnamespace
WHERE p.prokind = 'f' AND n.nspname = ANY (%(schemas)s::text[])
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
ORDER BY n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)

-- name: missing_schemas
-- Of these schemas, those that are not there.
SELECT wanted.name AS name
FROM unnest(%(schemas)s::text[]) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = wanted.name)
