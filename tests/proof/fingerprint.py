"""What a person would find in the catalog, as lines of text: two databases with the same lines are the same to them.

The queries are the harness's own. What the schema `backfilld` holds is the record, and is left out, but for functions: those
that a run makes there have to go with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fix_postgres import understood

if TYPE_CHECKING:
    import psycopg

#: Schemas that are neither the application's nor a place for what a run makes.
_OTHERS = "'pg_catalog', 'information_schema', 'pg_toast', 'backfilld'"

_QUERIES = {
    "relation": f"""
        SELECT c.oid::regclass, c.relkind, c.relpersistence, c.relowner::regrole, c.relacl, c.relrowsecurity,
               c.relforcerowsecurity, c.relreplident, c.reloptions, c.relispartition, pg_get_expr(c.relpartbound, c.oid),
               CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname NOT IN ({_OTHERS}) AND n.nspname NOT LIKE 'pg_temp%'""",
    "column": f"""
        SELECT c.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attcollation::regcollation, a.attnotnull, a.attidentity,
               a.attgenerated, a.attstorage, a.attcompression, a.attstattarget,
               ARRAY(SELECT o FROM unnest(a.attoptions) o WHERE o NOT LIKE 'pg\\_%'), a.attacl,
               pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE n.nspname NOT IN ({_OTHERS}) AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind <> 'i'""",
    "position": f"""
        SELECT a.attrelid::regclass, a.attname, rank() OVER (PARTITION BY a.attrelid ORDER BY a.attnum)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname NOT IN ({_OTHERS}) AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p')""",
    "constraint": f"""
        SELECT c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid), c.convalidated, c.condeferrable, c.connoinherit
        FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
        WHERE n.nspname NOT IN ({_OTHERS})""",
    "index": f"""
        SELECT i.indexrelid::regclass, pg_get_indexdef(i.indexrelid), i.indisunique, i.indisprimary, i.indisvalid,
               i.indisready, i.indislive, i.indisreplident, i.indisclustered,
               (SELECT c.conname FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x'))
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname NOT IN ({_OTHERS})""",
    "trigger": """
        SELECT t.tgrelid::regclass, t.tgname, pg_get_triggerdef(t.oid), t.tgenabled
        FROM pg_trigger t WHERE NOT t.tgisinternal AND t.tgrelid::regclass::text NOT LIKE 'backfilld.%'""",
    "function": """
        SELECT p.oid::regprocedure, md5(p.prosrc || coalesce(pg_get_function_sqlbody(p.oid), '')), p.proacl, p.proconfig
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')""",
    "type": f"""
        SELECT t.oid::regtype, t.typtype, ARRAY(SELECT e.enumlabel FROM pg_enum e WHERE e.enumtypid = t.oid
                                                ORDER BY e.enumsortorder)
        FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
        WHERE n.nspname NOT IN ({_OTHERS}) AND t.typtype <> 'b' AND n.nspname NOT LIKE 'pg_temp%'""",
    "policy": """
        SELECT p.polrelid::regclass, p.polname, p.polcmd, p.polpermissive, p.polroles::regrole[],
               pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
        FROM pg_policy p WHERE p.polrelid::regclass::text NOT LIKE 'backfilld.%'""",
    "publication": """
        SELECT p.pubname, r.prrelid::regclass, r.prattrs, pg_get_expr(r.prqual, r.prrelid)
        FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid""",
    "statistics": """
        SELECT s.stxname, pg_get_statisticsobjdef(s.oid) FROM pg_statistic_ext s
        WHERE s.stxrelid::regclass::text NOT LIKE 'backfilld.%'""",
    "comment": """
        SELECT pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description
        FROM pg_description d
        WHERE d.classoid IN ('pg_class'::regclass, 'pg_constraint'::regclass, 'pg_trigger'::regclass)
          AND d.objoid >= 16384 AND pg_describe_object(d.classoid, d.objoid, d.objsubid) !~ ' backfilld\\.'""",
    "sequence": """
        SELECT s.seqrelid::regclass, s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcycle,
               (SELECT pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) FROM pg_depend d
                WHERE d.objid = s.seqrelid AND d.classid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i'))
        FROM pg_sequence s WHERE s.seqrelid::regclass::text NOT LIKE 'backfilld.%'""",
}


def fingerprint(connection: psycopg.Connection[dict[str, Any]], *, positions: bool = True) -> frozenset[str]:
    """One line for each thing in the database that a run may have touched; `positions` tells the order of columns, too."""
    lines, version = set(), connection.info.server_version // 10_000
    with connection.transaction():
        connection.execute("SET LOCAL search_path = ''")
        for kind, query in _QUERIES.items():
            if kind == "position" and not positions:
                continue
            for row in connection.execute(understood(query, version).encode()):
                lines.add(f"{kind}: " + " | ".join("" if value is None else str(value) for value in row.values()))
    return frozenset(lines)


def difference(wanted: frozenset[str], found: frozenset[str]) -> str:
    """What is missing and what is too much; empty when they are the same."""
    return "\n".join(
        [f"- {line}" for line in sorted(wanted - found)] + [f"+ {line}" for line in sorted(found - wanted)]
    )
