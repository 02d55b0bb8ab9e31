-- name: foreign_code
-- Code that statements of ours run with our rights and that another role may change: one that is no superuser and may not become
-- us. Of these tables and their partitions, and of what expressions call and read.
-- A function of another role counts also where it is SECURITY DEFINER by now, as its owner may change that.
WITH RECURSIVE tables AS (
    SELECT t.oid FROM unnest(%(tables)s::bigint[]::oid[]) AS t (oid)
    UNION
    SELECT p.relid::oid FROM unnest(%(tables)s::bigint[]::oid[]) AS t (oid) CROSS JOIN LATERAL pg_partition_tree(t.oid) p
), types AS (
    SELECT a.atttypid AS oid FROM pg_attribute a
    WHERE a.attrelid = ANY (ARRAY(SELECT t.oid FROM tables t)) AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.typelem END
    FROM types JOIN pg_type y ON y.oid = types.oid WHERE y.typtype = 'd' OR y.typcategory = 'A'
), objects (kind, name, class, oid) AS (
    -- By arrays, of which the planner expects a few values: joined, the few tables are taken for a thousand and catalogs are read whole.
    SELECT 'index', x.relname::text, 'pg_class'::regclass, x.oid
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = ANY (ARRAY(SELECT t.oid FROM tables t))
    UNION ALL
    SELECT 'constraint', c.conname::text, 'pg_constraint'::regclass, c.oid
    FROM pg_constraint c WHERE c.conrelid = ANY (ARRAY(SELECT t.oid FROM tables t))
    UNION ALL
    SELECT 'default', a.attname::text, 'pg_attrdef'::regclass, d.oid
    FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    WHERE d.adrelid = ANY (ARRAY(SELECT t.oid FROM tables t))
    UNION ALL
    SELECT 'policy', p.polname::text, 'pg_policy'::regclass, p.oid
    FROM pg_policy p WHERE p.polrelid = ANY (ARRAY(SELECT t.oid FROM tables t))
    UNION ALL
    SELECT 'rule', w.rulename::text, 'pg_rewrite'::regclass, w.oid
    FROM pg_rewrite w WHERE w.ev_class = ANY (ARRAY(SELECT t.oid FROM tables t))
    UNION ALL
    SELECT 'domain', c.conname::text, 'pg_constraint'::regclass, c.oid
    FROM pg_constraint c WHERE c.contypid = ANY (ARRAY(SELECT t.oid FROM types t))
), calls (kind, name, function) AS (
    SELECT 'trigger', g.tgname::text, g.tgfoid FROM pg_trigger g
    WHERE g.tgrelid = ANY (ARRAY(SELECT t.oid FROM tables t)) AND NOT g.tgisinternal AND g.tgenabled <> 'D'
    UNION ALL
    SELECT o.kind, o.name, d.refobjid FROM objects o
    JOIN pg_depend d ON d.classid = o.class AND d.objid = o.oid AND d.refclassid = 'pg_proc'::regclass
    UNION ALL
    SELECT o.kind, o.name, r.oprcode::oid FROM objects o
    JOIN pg_depend d ON d.classid = o.class AND d.objid = o.oid AND d.refclassid = 'pg_operator'::regclass
    JOIN pg_operator r ON r.oid = d.refobjid
    UNION ALL
    SELECT 'expression', '', f.oid FROM unnest(%(functions)s::bigint[]::oid[]) AS f (oid)
    UNION ALL
    SELECT 'expression', '', r.oprcode::oid FROM pg_operator r WHERE r.oid = ANY (%(operators)s::bigint[]::oid[])
), code (kind, name, function, owner) AS (
    SELECT c.kind, c.name, p.oid::regprocedure::text, p.proowner FROM calls c JOIN pg_proc p ON p.oid = c.function
    UNION
    SELECT 'view', c.oid::regclass::text, '', c.relowner
    FROM pg_class c WHERE c.oid = ANY (%(relations)s::bigint[]::oid[]) AND c.relkind = 'v'
)
SELECT c.kind, c.name, c.function, r.rolname::text AS owner
FROM code c JOIN pg_roles r ON r.oid = c.owner
WHERE NOT r.rolsuper
  AND NOT pg_has_role(r.oid, (SELECT u.oid FROM pg_roles u WHERE u.rolname = current_user), 'MEMBER')
ORDER BY 1, 2, 3
