-- What a role may do that may do nothing but CREATE in `public`: an overload of every function and operator of pg_catalog. With the
-- same arguments it is called in place of PostgreSQL's own wherever `public` is searched before pg_catalog; with arguments that
-- are nearer, wherever `public` is searched at all. Those are planted where the setting `planted.nearer` is on: with every argument
-- replaced by a type that is cast to it implicitly, and with one after the other replaced so by each of those types.
--
-- They return NULL, raise nothing, and are counted by `track_functions`, which no rollback takes back.

-- What is being planted is not called here.
SET search_path = pg_catalog;

CREATE TEMPORARY VIEW nearer AS
SELECT c.casttarget AS type, c.castsource AS nearer FROM pg_cast c
JOIN pg_type s ON s.oid = c.castsource AND s.typtype = 'b' AND s.typname <> ALL (ARRAY['pg_node_tree', 'pg_ndistinct', 'pg_dependencies', 'pg_mcv_list', 'xid8', 'regproc', 'regprocedure', 'regoper', 'regoperator', 'regconfig', 'regdictionary', 'regcollation', 'regdatabase'])
WHERE c.castcontext = 'i' AND c.castsource <> c.casttarget
UNION ALL
SELECT p.type::regtype, n.type::regtype
FROM unnest(ARRAY['"any"', 'anyelement', 'anynonarray', 'anycompatible', 'anycompatiblenonarray']) AS p (type),
     unnest(ARRAY['text', 'name', 'integer', 'bigint', 'oid']) AS n (type)
UNION ALL
SELECT p.type::regtype, n.type::regtype
FROM unnest(ARRAY['anyarray', 'anycompatiblearray']) AS p (type), unnest(ARRAY['text[]', 'name[]', 'integer[]', 'bigint[]', 'oid[]']) AS n (type);

CREATE TEMPORARY VIEW nearest AS
SELECT DISTINCT ON (n.type) n.type, n.nearer FROM nearer n
ORDER BY n.type, n.nearer = ANY (ARRAY['name', 'text', 'text[]', 'integer', 'regclass']::regtype[]) DESC, n.nearer;

-- Signatures: of functions by their input arguments, of operators by their operands.
CREATE TEMPORARY TABLE callable AS
SELECT p.oid::bigint AS origin, false AS operator, p.proname AS name, string_to_array(p.proargtypes::text, ' ')::oid[] AS arguments,
       p.prorettype AS result, p.proretset AS several,
       -- Columns of what a function returns, when it returns rows.
       (SELECT string_agg(format('%I %s', coalesce(nullif(p.proargnames[a.n], ''), 'c' || a.n), format_type(p.proallargtypes[a.n], NULL)), ', ' ORDER BY a.n)
        FROM generate_subscripts(p.proallargtypes, 1) AS a (n) WHERE p.proargmodes[a.n] IN ('o', 't')) AS columns
FROM pg_proc p
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind <> 'p'
UNION ALL
SELECT o.oid::bigint, true, o.oprname, CASE WHEN o.oprleft = 0 THEN ARRAY[o.oprright] ELSE ARRAY[o.oprleft, o.oprright] END,
       o.oprresult, false, NULL
FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprresult <> 0;

CREATE TEMPORARY TABLE wanted AS
SELECT DISTINCT ON (w.operator, w.name, w.arguments) w.*
FROM (
    SELECT c.* FROM callable c
    UNION ALL
    SELECT c.origin, c.operator, c.name,
           ARRAY(SELECT coalesce(n.nearer, a.type) FROM unnest(c.arguments) WITH ORDINALITY AS a (type, place)
                 LEFT JOIN nearest n ON n.type = a.type ORDER BY a.place), c.result, c.several, c.columns
    FROM callable c
    -- PL/pgSQL takes no argument of type "any".
    WHERE current_setting('planted.nearer')::boolean OR c.arguments && ARRAY[2276]::oid[]
    UNION ALL
    SELECT c.origin, c.operator, c.name, c.arguments[:place.n - 1] || n.nearer || c.arguments[place.n + 1:], c.result, c.several, c.columns
    FROM callable c CROSS JOIN LATERAL generate_subscripts(c.arguments, 1) AS place (n) JOIN nearer n ON n.type = c.arguments[place.n]
    WHERE current_setting('planted.nearer')::boolean
) w
WHERE NOT EXISTS (SELECT FROM unnest(w.arguments || w.result) AS t (oid) JOIN pg_type y ON y.oid = t.oid
                  WHERE y.typname IN ('internal', 'cstring', 'trigger', 'event_trigger', 'any', 'language_handler', 'fdw_handler',
                                      'index_am_handler', 'table_am_handler', 'tsm_handler', 'pg_ddl_command', '_cstring'))
ORDER BY w.operator, w.name, w.arguments;

DO $planting$
DECLARE
    one record;
    arguments text;
    result text;
    body text;
    planted text;
BEGIN
    PERFORM set_config('check_function_bodies', 'off', true);
    PERFORM set_config('client_min_messages', 'warning', true);
    FOR one IN SELECT * FROM pg_temp.wanted LOOP
        arguments := coalesce((SELECT string_agg(format_type(a.type, NULL), ', ' ORDER BY a.place)
                               FROM unnest(one.arguments) WITH ORDINALITY AS a (type, place)), '');
        -- A polymorphic result needs a polymorphic argument.
        result := CASE WHEN one.result IN (SELECT t.oid FROM pg_type t WHERE t.typname LIKE 'any%')
                            AND NOT one.arguments && ARRAY(SELECT t.oid FROM pg_type t WHERE t.typname LIKE 'any%')
                       THEN 'text' ELSE format_type(one.result, NULL) END;
        result := CASE WHEN one.several AND one.columns IS NOT NULL THEN format('TABLE (%s)', one.columns)
                       WHEN one.several THEN 'SETOF ' || result ELSE result END;
        body := CASE WHEN one.several OR one.result = 'void'::regtype THEN 'BEGIN RETURN; END' ELSE 'BEGIN RETURN NULL; END' END;
        planted := CASE WHEN one.operator THEN format('public.planted_operator_%s', one.result) ELSE format('public.%I', one.name) END;
        IF one.columns IS NOT NULL AND NOT one.several THEN
            CONTINUE; -- asked for a row: few, and none that we call
        END IF;
        BEGIN
            EXECUTE format('CREATE OR REPLACE FUNCTION %s(%s) RETURNS %s LANGUAGE plpgsql AS %L', planted, arguments, result, body);
            IF one.operator THEN
                EXECUTE format('CREATE OPERATOR public.%s (%s, FUNCTION = %s)', one.name,
                               CASE cardinality(one.arguments) WHEN 1 THEN 'RIGHTARG = ' || arguments
                               ELSE format('LEFTARG = %s, RIGHTARG = %s', format_type(one.arguments[1], NULL), format_type(one.arguments[2], NULL)) END,
                               planted);
            END IF;
        EXCEPTION WHEN others THEN
            RAISE WARNING '% %(%): %', planted, one.name, arguments, SQLERRM;
        END;
    END LOOP;
END
$planting$;
