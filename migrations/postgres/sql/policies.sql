-- name: policies_of
-- The policies of a table. Under an empty search_path, so that expressions name every schema.
SELECT p.polname::text AS name,
       CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete' ELSE 'all' END AS command,
       p.polpermissive AS permissive,
       ARRAY(SELECT CASE o.role WHEN 0 THEN 'public' ELSE pg_get_userbyid(o.role)::text END
             FROM unnest(p.polroles) AS o (role) ORDER BY 1) AS roles,
       pg_get_expr(p.polqual, p.polrelid) AS using_, pg_get_expr(p.polwithcheck, p.polrelid) AS check_,
       obj_description(p.oid, 'pg_policy') AS comment
FROM pg_policy p WHERE p.polrelid = %(oid)s::oid ORDER BY p.polname

-- name: changed_policies
-- Policies of a table that are not as they were, or not as they are to be; `row security` where that is switched otherwise.
WITH known AS (
    SELECT k.name, k.command, k.permissive, k.roles, k.using_, k.check_, k.comment
    FROM jsonb_to_recordset(%(policies)s::jsonb)
        AS k (name text, command text, permissive boolean, roles jsonb, using_ text, check_ text, comment text)
), now AS (
    SELECT p.polname::text AS name,
           CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete' ELSE 'all' END AS command,
           p.polpermissive AS permissive,
           to_jsonb(ARRAY(SELECT CASE o.role WHEN 0 THEN 'public' ELSE pg_get_userbyid(o.role)::text END
                          FROM unnest(p.polroles) AS o (role) ORDER BY 1)) AS roles,
           pg_get_expr(p.polqual, p.polrelid) AS using_, pg_get_expr(p.polwithcheck, p.polrelid) AS check_,
           obj_description(p.oid, 'pg_policy') AS comment
    FROM pg_policy p WHERE p.polrelid = to_regclass(%(relation)s::text)
), differs AS (
    (SELECT name, command, permissive, roles, using_, check_, comment FROM known
     EXCEPT SELECT name, command, permissive, roles, using_, check_, comment FROM now)
    UNION ALL
    (SELECT name, command, permissive, roles, using_, check_, comment FROM now
     EXCEPT SELECT name, command, permissive, roles, using_, check_, comment FROM known)
)
SELECT names.what FROM (
    SELECT name AS what FROM differs
    UNION SELECT 'row security' FROM pg_class c
    WHERE c.oid = to_regclass(%(relation)s::text)
      AND (c.relrowsecurity::text, c.relforcerowsecurity::text) <> (%(enabled)s::text, %(forced)s::text)
) AS names ORDER BY names.what LIMIT 1

-- name: role
-- What a role is to a table, and to us.
SELECT r.rolsuper OR r.rolbypassrls AS bypasses, pg_has_role(r.oid, c.relowner, 'USAGE') AS owns,
       CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN pg_has_role(current_user, r.oid, 'SET')
            ELSE pg_has_role(current_user, r.oid, 'MEMBER') END AS may_be_taken,
       ARRAY(SELECT o.rolname::text FROM pg_roles o WHERE pg_has_role(r.oid, o.oid, 'USAGE') ORDER BY o.rolname) AS roles,
       has_schema_privilege(r.oid, c.relnamespace, 'USAGE') AS may_use_schema,
       has_any_column_privilege(r.oid, c.oid, 'SELECT') AS may_select,
       has_any_column_privilege(r.oid, c.oid, 'INSERT') AS may_insert,
       has_any_column_privilege(r.oid, c.oid, 'UPDATE') AS may_update,
       has_table_privilege(r.oid, c.oid, 'DELETE') AS may_delete,
       (SELECT bool_and(has_column_privilege(r.oid, c.oid, k.name, 'SELECT')) FROM unnest(%(key)s::text[]) AS k (name)) AS sees_key
FROM pg_roles r CROSS JOIN pg_class c
WHERE r.rolname = %(role)s::text AND c.oid = %(oid)s::oid

-- name: missing_roles
-- Roles, of those given, that do not exist.
SELECT n.name FROM unnest(%(roles)s::text[]) AS n (name)
WHERE n.name <> 'public' AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = n.name) ORDER BY n.name

-- name: exposed_schemas
-- The schemas that PostgREST shows to whoever calls the API, as its role is set up; without such a setting there is `public`.
SELECT trim(s.name) AS name
FROM pg_db_role_setting d
CROSS JOIN LATERAL unnest(d.setconfig) AS c (setting)
CROSS JOIN LATERAL unnest(string_to_array(substr(c.setting, length('pgrst.db_schemas=') + 1), ',')) AS s (name)
WHERE c.setting LIKE 'pgrst.db_schemas=%%' AND d.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))

-- name: views_past
-- Views that show rows of a table to some of these roles with the rights of an owner for whom its policies are not asked.
SELECT n.nspname::text AS schema, c.relname::text AS name, pg_get_userbyid(c.relowner)::text AS owner,
       ARRAY(SELECT r.name FROM unnest(%(roles)s::text[]) AS r (name)
             WHERE has_any_column_privilege(r.name, c.oid, 'SELECT') AND has_schema_privilege(r.name, n.oid, 'USAGE')
             ORDER BY r.name) AS shown_to
FROM pg_rewrite w
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_class c ON c.oid = w.ev_class AND c.relkind = 'v'
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_roles o ON o.oid = c.relowner
JOIN pg_class t ON t.oid = d.refobjid
WHERE d.refobjid = %(oid)s::oid AND d.deptype = 'n' AND w.ev_type = '1'
  AND NOT coalesce((SELECT p.option_value::boolean FROM pg_options_to_table(c.reloptions) p WHERE p.option_name = 'security_invoker'),
                   false)
  AND (o.rolsuper OR o.rolbypassrls OR pg_has_role(o.oid, t.relowner, 'USAGE') AND NOT (t.relforcerowsecurity OR %(forced)s::boolean))
GROUP BY n.oid, n.nspname, c.oid, c.relname, c.relowner ORDER BY 1, 2

-- name: definers_called
-- SECURITY DEFINER functions that the policies of a table call, with the roles of these that may call them from outside as well.
SELECT n.nspname::text AS schema, f.proname::text AS name, p.polname::text AS policy, pg_get_userbyid(f.proowner)::text AS owner,
       ARRAY(SELECT r.name FROM unnest(%(roles)s::text[]) AS r (name)
             WHERE has_function_privilege(r.name, f.oid, 'EXECUTE') AND has_schema_privilege(r.name, n.oid, 'USAGE')
             ORDER BY r.name) AS callers
FROM pg_policy p
JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_proc'::regclass AND d.deptype = 'n'
JOIN pg_proc f ON f.oid = d.refobjid AND f.prosecdef
JOIN pg_namespace n ON n.oid = f.pronamespace
WHERE p.polrelid = %(oid)s::oid GROUP BY n.oid, n.nspname, f.oid, f.proname, p.polname, f.proowner ORDER BY 1, 2, 3
