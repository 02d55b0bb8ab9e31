"""Functions over a table's row type. A type belongs to one table, so over another table they are other functions, of the same text.

A call that has looked such a function up and waits for the table fails once, as one of a function that was dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import Guard, Statement
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.postgres.bound import RowFunction


def drop(function: RowFunction) -> Statement:
    """A function goes, if it is there."""
    gone = sql.SQL("DROP {} IF EXISTS {}").format(sql.SQL(function.kind), sql.SQL(function.signature))
    return Statement(sql=gone, lock=LockMode.NONE, note="over the row type of the table that leaves")


def made(functions: tuple[RowFunction, ...]) -> Iterable[Statement]:
    """The functions as they were, with owners, privileges and comments, whatever default privileges add to a new one."""
    if not functions:
        return
    # A body is a text that may say `orders` and mean it by a search_path: it is not read before it is called.
    unread = sql.SQL("SELECT pg_catalog.set_config('check_function_bodies', 'off', true)")
    yield Statement(sql=unread.format(), lock=LockMode.NONE)
    for one in functions:
        what = sql.SQL("{} {}").format(sql.SQL(one.kind), sql.SQL(one.signature))
        yield Statement(
            sql=sql.Composed([sql.SQL(one.definition)]),
            lock=LockMode.NONE,
            note="over the row type of the one that comes",
        )
        yield Statement(sql=sql.SQL("ALTER {} OWNER TO {}").format(what, sql.SQL(one.owner)), lock=LockMode.NONE)
        yield Statement(sql=_revoked(one), lock=LockMode.NONE, note="what default privileges give to a new function")
        for grant in one.grants if one.has_grants else ():
            granted = sql.SQL("GRANT {} ON {} TO {}{}").format(
                sql.SQL(grant.privilege),
                what,
                sql.SQL(grant.grantee),  # quoted by PostgreSQL
                sql.SQL(" WITH GRANT OPTION" if grant.grantable else ""),
            )
            yield Statement(sql=granted, lock=LockMode.NONE)
        if one.comment is not None:
            comment = sql.SQL("COMMENT ON {} IS {}").format(what, sql.Literal(one.comment))
            yield Statement(sql=comment, lock=LockMode.NONE)


def same_privileges(function: RowFunction) -> Guard:
    """A function was made anew, so its privileges must be the ones that it had."""
    had = sql.SQL(", ").join(
        sql.SQL("({}, {})").format(sql.Literal(grant.grantee), sql.Literal(grant.grantable))
        for grant in function.grants
    )
    nobody = sql.SQL("SELECT NULL::text, NULL::boolean WHERE false")
    query = sql.SQL(
        "SELECT coalesce(now.grantee, had.grantee) AS who FROM ("
        "SELECT CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS grantee, "
        "x.is_grantable AND x.grantee <> p.proowner AS grantable "
        "FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) x "
        "WHERE p.oid = {function}::pg_catalog.regprocedure) now FULL JOIN ({had}) had (grantee, grantable) USING (grantee, grantable) "
        "WHERE now.grantee IS NULL OR had.grantee IS NULL LIMIT 1"
    ).format(
        function=sql.Literal(function.signature), had=sql.SQL("VALUES {}").format(had) if function.grants else nobody
    )
    return Guard(
        sql=query,
        template=f"the function {function.signature} does not have the privileges that it had: {{!r}}",
        remedy="Ask its owner to grant them; nothing was changed",
    )


def _revoked(function: RowFunction) -> sql.Composed:
    """Take away what is there: all where privileges are granted next, else only what default privileges gave."""
    again = "" if function.has_grants else "GRANT EXECUTE ON {what} TO PUBLIC, {owner};"
    body = (  # names are quoted
        "DECLARE one record; BEGIN FOR one IN SELECT DISTINCT CASE WHEN x.grantee = 0 THEN 'PUBLIC' "  # noqa: S608 - names are quoted
        "ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS who FROM pg_catalog.pg_proc p, "
        "pg_catalog.aclexplode({acl}) x WHERE p.oid = {name}::pg_catalog.regprocedure "
        "LOOP EXECUTE 'REVOKE ALL ON ' || {what_text} || ' FROM ' || one.who; END LOOP; "
        "IF FOUND THEN " + (again or "NULL;") + " END IF; END"
    )
    what = f"{function.kind} {function.signature}"
    filled = (
        body.replace(
            "{acl}",
            "coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))" if function.has_grants else "p.proacl",
        )
        .replace("{name}", sql.Literal(function.signature).as_string())
        .replace("{what_text}", sql.Literal(what).as_string())
        .replace("{what}", what)
        .replace("{owner}", function.owner)
    )
    return sql.SQL("DO {}").format(sql.Literal(filled))
