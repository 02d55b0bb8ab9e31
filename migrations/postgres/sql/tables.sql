-- name: table_comment
-- The comment on a table.
SELECT obj_description(%(oid)s::bigint::oid, 'pg_class') AS comment

-- name: table_nature
-- Row level security of a table, how many policies it has, and what is published of it by name.
SELECT c.relrowsecurity AS row_security, c.relforcerowsecurity AS forced,
       (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid) AS policies,
       ARRAY(SELECT p.pubname::text FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
             WHERE r.prrelid = c.oid ORDER BY 1) AS published
FROM pg_class c WHERE c.oid = %(oid)s::bigint::oid

-- name: table_grants
-- What others than this role may do with a table, its owner included, each as a statement names it; NULL is the column of a privilege
-- on the whole.
SELECT NULL::text AS column, x.privilege_type AS privilege, x.is_grantable AS grantable,
       CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee
FROM pg_class c CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x
WHERE c.oid = %(oid)s::bigint::oid AND x.grantee <> current_user::regrole
UNION ALL
SELECT a.attname::text, x.privilege_type, x.is_grantable,
       CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END
FROM pg_attribute a CROSS JOIN LATERAL aclexplode(a.attacl) x
WHERE a.attrelid = %(oid)s::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped AND x.grantee <> current_user::regrole
ORDER BY 1 NULLS FIRST, 4, 2

-- name: default_grantees
-- Roles to which this role's new relations are granted by themselves, each as a statement names it.
SELECT DISTINCT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee
FROM pg_default_acl d CROSS JOIN LATERAL aclexplode(d.defaclacl) x
WHERE d.defaclrole = current_user::regrole AND d.defaclobjtype = 'r' AND x.grantee <> d.defaclrole
  AND d.defaclnamespace IN (0, to_regnamespace(quote_ident(%(schema)s::text)))
ORDER BY 1

-- name: has_public_api
-- Whether this database is one of Supabase's: by an API anybody reads what is granted to `anon`, and PostgREST knows the schema.
SELECT to_regnamespace('auth') IS NOT NULL
       AND (SELECT count(*) FROM pg_roles r WHERE r.rolname IN ('anon', 'authenticated')) = 2 AS public_api

-- name: table_parts
-- What moves with a table and its partitions to another schema and has a name there: indexes, and the sequences of columns.
SELECT c.relname AS name, c.relkind = 'S' AS is_sequence FROM pg_class c
WHERE c.oid IN (SELECT i.indexrelid FROM pg_index i
                WHERE i.indrelid IN (SELECT p.relid FROM pg_partition_tree(%(oid)s::bigint::oid) p UNION ALL SELECT %(oid)s::bigint::oid))
   OR (c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
         AND d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s::bigint::oid AND d.deptype IN ('a', 'i')))
ORDER BY c.relname

-- name: dependents_of_table
-- What would keep a table from being dropped: all that is bound to it, or to its row type or a sequence of its own, and no part of it.
WITH one AS (
    SELECT c.oid, c.reltype FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(%(table)s::text)
)
SELECT k.what FROM (
    SELECT pg_catalog.format('the foreign key %%I of %%s', f.conname, f.conrelid::pg_catalog.regclass) AS what
    FROM one JOIN pg_catalog.pg_constraint f ON f.confrelid = one.oid AND f.contype = 'f' AND f.conrelid <> one.oid
    UNION
    SELECT pg_catalog.pg_describe_object('pg_catalog.pg_class'::pg_catalog.regclass, r.ev_class, 0)
    FROM one JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = one.oid
    JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND r.oid = d.objid
    WHERE r.ev_class <> one.oid
    UNION
    SELECT pg_catalog.pg_describe_object(d.classid, d.objid, 0)
    FROM one JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = one.oid
    LEFT JOIN pg_catalog.pg_policy p ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND p.oid = d.objid
    WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass OR p.polrelid <> one.oid
    UNION
    SELECT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
    FROM one JOIN pg_catalog.pg_type t ON t.oid = one.reltype OR t.typelem = one.reltype
    JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.refobjid = t.oid
    WHERE d.classid <> 'pg_catalog.pg_type'::pg_catalog.regclass AND d.deptype = 'n'
    UNION
    SELECT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
    FROM one JOIN pg_catalog.pg_depend s ON s.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.refobjid = one.oid
        AND s.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.deptype IN ('a', 'i')
    JOIN pg_catalog.pg_class q ON q.oid = s.objid AND q.relkind = 'S'
    JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = q.oid
    LEFT JOIN pg_catalog.pg_attrdef f ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND f.oid = d.objid
    WHERE d.deptype = 'n' AND f.adrelid IS DISTINCT FROM one.oid
) k
ORDER BY k.what

-- name: columns_not_in
-- A column that a table has and a view does not.
SELECT a.attname AS name FROM pg_catalog.pg_attribute a
WHERE a.attrelid = pg_catalog.to_regclass(%(table)s::text) AND a.attnum > 0 AND NOT a.attisdropped
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute v WHERE v.attrelid = pg_catalog.to_regclass(%(view)s::text) AND v.attname = a.attname)
LIMIT 1

-- name: place_for_table
-- Whether a schema is there, whether this role may make tables in it, and what has the name already: a relation or a type.
SELECT n.oid IS NOT NULL AS has_schema, coalesce(has_schema_privilege(n.oid, 'CREATE'), false) AS may_create,
       EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = %(name)s::text)
           OR EXISTS (SELECT FROM pg_type t WHERE t.typnamespace = n.oid AND t.typname = %(name)s::text) AS taken,
       to_regclass(format('backfilld.%%I', %(kept)s::text)) IS NOT NULL AS is_kept
FROM (SELECT to_regnamespace(quote_ident(%(schema)s::text)) AS oid) n

-- name: temporary_schema
-- The schema of this session's temporary tables.
SELECT nspname AS name FROM pg_namespace WHERE oid = pg_my_temp_schema()
