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

-- name: policy_reads
-- Relations that the policies of a table read: whose they are, and whether policies are asked when a row of them is read.
SELECT p.polname::text AS policy, c.oid, n.nspname::text AS schema, c.relname::text AS relation, c.relkind::text AS kind,
       c.relrowsecurity AS row_security
FROM pg_policy p
JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_class c ON c.oid = d.refobjid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.polrelid = %(oid)s::oid AND d.deptype = 'n' AND c.oid <> p.polrelid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
GROUP BY p.polname, c.oid, n.nspname, c.relname, c.relkind, c.relrowsecurity
ORDER BY p.polname, n.nspname, c.relname

-- name: reads_back
-- Tables, of those given, whose own policies read a table at last, by way of others: their rows cannot be read any more once its
-- policies read theirs.
WITH RECURSIVE reads AS (
    SELECT c.oid AS start, c.oid FROM pg_class c WHERE c.oid = ANY (%(oids)s::oid[]) AND c.relrowsecurity
    UNION
    SELECT r.start, c.oid FROM reads r
    JOIN pg_policy p ON p.polrelid = r.oid
    JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n'
    JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p') AND (c.relrowsecurity OR c.oid = %(table)s::oid)
    WHERE r.oid <> %(table)s::oid
)
SELECT DISTINCT n.nspname::text AS schema, c.relname::text AS relation
FROM reads r JOIN pg_class c ON c.oid = r.start JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.oid = %(table)s::oid AND r.start <> %(table)s::oid ORDER BY 1, 2

-- name: read_by
-- Policies of other tables that read a table: what they let a role see changes with the table's own.
SELECT n.nspname::text AS schema, c.relname::text AS relation, p.polname::text AS policy
FROM pg_depend d
JOIN pg_policy p ON p.oid = d.objid
JOIN pg_class c ON c.oid = p.polrelid AND c.relrowsecurity
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE d.classid = 'pg_policy'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s::oid
  AND d.deptype = 'n' AND p.polrelid <> %(oid)s::oid AND n.nspname !~ '^pg_temp'
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3

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
