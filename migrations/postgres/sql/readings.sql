-- name: policies_read
-- What policies read and call, of the tables given or, without any, of all that ask them.
SELECT p.polrelid AS reader, p.polname::text AS policy, d.refclassid = 'pg_class'::regclass AS is_relation, d.refobjid AS oid
FROM pg_policy p
JOIN pg_class c ON c.oid = p.polrelid
JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.deptype = 'n'
WHERE d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass) AND d.refobjid <> p.polrelid
  AND (p.polrelid = ANY (%(oids)s::oid[]) OR %(oids)s::oid[] IS NULL AND c.relrowsecurity AND c.relpersistence <> 't')
GROUP BY 1, 2, 3, 4

-- name: views_read
-- What views read and call.
SELECT r.ev_class AS reader, d.refclassid = 'pg_class'::regclass AS is_relation, d.refobjid AS oid
FROM pg_rewrite r
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.deptype = 'n'
WHERE r.ev_class = ANY (%(oids)s::oid[]) AND r.ev_type = '1' AND d.refobjid <> r.ev_class
  AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass)
GROUP BY 1, 2, 3

-- name: functions_read
-- What functions read and call whose body was parsed when they were made.
SELECT d.objid AS reader, d.refclassid = 'pg_class'::regclass AS is_relation, d.refobjid AS oid
FROM pg_depend d
WHERE d.classid = 'pg_proc'::regclass AND d.objid = ANY (%(oids)s::oid[]) AND d.deptype = 'n' AND d.refobjid <> d.objid
  AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass)
GROUP BY 1, 2, 3

-- name: relations
-- Relations that may be read, with what matters of them when policies are asked.
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind, c.relowner AS owner,
       c.relrowsecurity AS row_security,
       coalesce((SELECT o.option_value::boolean FROM pg_options_to_table(c.reloptions) o WHERE o.option_name = 'security_invoker'),
                false) AS as_caller
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%(oids)s::oid[]) AND c.relkind IN ('r', 'p', 'v')

-- name: functions
-- Functions that may be called: whose rights they have, and their text where PostgreSQL parses it at each call only.
SELECT p.oid, n.nspname::text AS schema, p.proname::text AS name, p.proowner AS owner, NOT p.prosecdef AS as_caller,
       CASE WHEN p.prosqlbody IS NULL AND l.lanname <> 'c' AND l.lanname <> 'internal' THEN p.prosrc END AS body
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_language l ON l.oid = p.prolang
WHERE p.oid = ANY (%(oids)s::oid[]) AND n.nspname NOT IN ('pg_catalog', 'information_schema')

-- name: named
-- What names in a text may stand for, with a schema or (NULL) in any.
SELECT w.schema, w.name, true AS is_relation, c.oid
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS w (schema, name)
JOIN pg_class c ON c.relname = w.name AND c.relkind IN ('r', 'p', 'v')
JOIN pg_namespace n ON n.oid = c.relnamespace AND (w.schema IS NULL OR n.nspname = w.schema)
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_t'
UNION ALL
SELECT w.schema, w.name, false, p.oid
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS w (schema, name)
JOIN pg_proc p ON p.proname = w.name
JOIN pg_namespace n ON n.oid = p.pronamespace AND (w.schema IS NULL OR n.nspname = w.schema)
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_t'

-- name: asked
-- Of roles, for whom a table's policies are asked, and their names: not for who bypasses them, or owns the table and is not forced.
SELECT r.oid, r.rolname::text AS name,
       NOT (r.rolsuper OR r.rolbypassrls OR pg_has_role(r.oid, c.relowner, 'USAGE') AND NOT (c.relforcerowsecurity OR %(forced)s::boolean))
           AS asked
FROM pg_roles r CROSS JOIN pg_class c
WHERE r.oid = ANY (%(roles)s::oid[]) AND c.oid = %(oid)s::oid
