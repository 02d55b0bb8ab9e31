-- name: extension
-- The schema and the version of an extension; no row where it is not there.
SELECT n.nspname::text AS schema, e.extversion::text AS version
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = %(name)s::text

-- name: search_paths
-- The search path that each of these roles begins its sessions with here: as set for the role in this database, for the role, for the
-- database, or PostgreSQL's own.
SELECT wanted.role, coalesce(found.path, '"$user", public') AS path
FROM unnest(%(roles)s::text[]) AS wanted (role)
LEFT JOIN LATERAL (
    SELECT split_part(c.setting, '=', 2) AS path
    FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS c (setting)
    WHERE c.setting LIKE 'search\_path=%%'
      AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
      AND (s.setrole = 0 OR s.setrole = (SELECT r.oid FROM pg_roles r WHERE r.rolname = wanted.role))
    ORDER BY s.setrole = 0, s.setdatabase = 0 LIMIT 1
) found ON true

-- name: first_on_path
-- Of these names of relations, each with the first of these schemas that has one of that name.
SELECT wanted.name, found.schema
FROM unnest(%(names)s::text[]) AS wanted (name)
CROSS JOIN LATERAL (
    SELECT path.schema FROM unnest(%(schemas)s::text[]) WITH ORDINALITY AS path (schema, place)
    JOIN pg_namespace n ON n.nspname = path.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    ORDER BY path.place LIMIT 1
) found

-- name: indexes_in_order
-- The indexes of a table, in the order in which LIKE copies them, with what tells one from another.
SELECT c.relname::text AS name, n.nspname::text AS schema, concat_ws(' ', i.indkey, i.indisunique, c.relam) AS known_by
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE i.indrelid = to_regclass(%(table)s::text) AND i.indislive ORDER BY i.indexrelid

-- name: functions
-- Functions of users' whose body is text and has one of these names in it, trigger functions of these tables, and those that take or
-- give their rows.
SELECT p.oid::bigint AS oid, format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS name, p.prorettype = 'trigger'::regtype AS is_trigger,
       (SELECT min(t.tgrelid::bigint) FROM pg_trigger t
        WHERE t.tgfoid = p.oid AND t.tgrelid = ANY (%(tables)s::bigint[]::oid[])) AS fired_by, l.lanname::text AS language, p.prosrc AS body, p.prokind::text AS kind,
       pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result,
       coalesce((SELECT split_part(c.setting, '=', 2) FROM unnest(p.proconfig) AS c (setting)
                 WHERE c.setting LIKE 'search\_path=%%'), '') AS path
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE l.lanname IN ('sql', 'plpgsql') AND p.prokind IN ('f', 'p') AND p.prosrc <> ''
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'backfilld') AND n.nspname !~ '^pg_(toast|temp)'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
  AND (EXISTS (SELECT FROM unnest(%(names)s::text[]) AS one (name) WHERE strpos(lower(p.prosrc), lower(one.name)) > 0)
       OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid AND t.tgrelid = ANY (%(tables)s::bigint[]::oid[]))
       OR EXISTS (SELECT FROM pg_type t JOIN pg_class c ON t.oid IN (c.reltype, (SELECT e.typarray FROM pg_type e WHERE e.oid = c.reltype))
                  WHERE c.oid = ANY (%(tables)s::bigint[]::oid[]) AND (t.oid = p.prorettype OR t.oid = ANY (p.proargtypes))))
ORDER BY 2

-- name: oids
-- The tables of these names, in quotes where they need them, that are there.
SELECT one.name, to_regclass(one.name)::oid::bigint AS oid FROM unnest(%(tables)s::text[]) AS one (name) WHERE to_regclass(one.name) IS NOT NULL

-- name: usual_values
-- For each of these columns a value that it has, as text: the one in the middle of its histogram, or its most common one.
SELECT wanted.number, coalesce(
           (s.histogram_bounds::text::text[])[1 + array_length(s.histogram_bounds::text::text[], 1) / 2],
           (s.most_common_vals::text::text[])[1]) AS value
FROM unnest(%(numbers)s::integer[], %(schemas)s::text[], %(tables)s::text[], %(columns)s::text[])
     AS wanted (number, schema_name, table_name, column_name)
LEFT JOIN pg_stats s ON s.schemaname = wanted.schema_name AND s.tablename = wanted.table_name AND s.attname = wanted.column_name

-- name: foreign_names
-- Names of functions and views that belong to a role which has not all rights of ours: what they call would run as our role.
SELECT p.proname::text AS name FROM pg_proc p
WHERE p.pronamespace NOT IN (SELECT n.oid FROM pg_namespace n WHERE n.nspname IN ('pg_catalog', 'information_schema'))
  AND p.proowner <> quote_ident(current_user)::regrole AND NOT pg_has_role(p.proowner, quote_ident(current_user)::regrole, 'USAGE')
  AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = p.proowner AND r.rolsuper)
UNION
SELECT c.relname::text FROM pg_class c
WHERE c.relkind IN ('v', 'm') AND c.relowner <> quote_ident(current_user)::regrole
  AND NOT pg_has_role(c.relowner, quote_ident(current_user)::regrole, 'USAGE')
  AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = c.relowner AND r.rolsuper)
