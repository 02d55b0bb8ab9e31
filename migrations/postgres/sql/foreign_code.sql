-- name: foreign_code
-- Code that statements of ours run with our rights and that another role may change: one that is no superuser and may not become
-- us. Of these tables and their partitions, and of what expressions call and read.
-- A function of another role counts also where it is SECURITY DEFINER by now, as its owner may change that.
WITH RECURSIVE tables AS (
    SELECT t.oid FROM unnest(%(tables)s::bigint[]::oid[]) AS t (oid)
    UNION
    SELECT p.relid::oid FROM unnest(%(tables)s::bigint[]::oid[]) AS t (oid) CROSS JOIN LATERAL pg_partition_tree(t.oid) p
), types AS (
    SELECT a.atttypid AS oid FROM pg_attribute a JOIN tables t ON t.oid = a.attrelid WHERE a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.typelem END
    FROM types JOIN pg_type y ON y.oid = types.oid WHERE y.typtype = 'd' OR y.typcategory = 'A'
), objects (kind, name, class, oid) AS (
    SELECT 'index', x.relname::text, 'pg_class'::regclass, x.oid
    FROM pg_index i JOIN tables t ON t.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
    UNION ALL
    SELECT 'constraint', c.conname::text, 'pg_constraint'::regclass, c.oid FROM pg_constraint c JOIN tables t ON t.oid = c.conrelid
    UNION ALL
    SELECT 'default', a.attname::text, 'pg_attrdef'::regclass, d.oid
    FROM pg_attrdef d JOIN tables t ON t.oid = d.adrelid JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    UNION ALL
    SELECT 'policy', p.polname::text, 'pg_policy'::regclass, p.oid FROM pg_policy p JOIN tables t ON t.oid = p.polrelid
    UNION ALL
    SELECT 'rule', w.rulename::text, 'pg_rewrite'::regclass, w.oid FROM pg_rewrite w JOIN tables t ON t.oid = w.ev_class
    UNION ALL
    SELECT 'domain', c.conname::text, 'pg_constraint'::regclass, c.oid FROM pg_constraint c JOIN types t ON t.oid = c.contypid
), calls (kind, name, function) AS (
    SELECT 'trigger', g.tgname::text, g.tgfoid FROM pg_trigger g JOIN tables t ON t.oid = g.tgrelid
    WHERE NOT g.tgisinternal AND g.tgenabled <> 'D'
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
