"""What is bound to a table by its number and named in its own words: views, functions, policies of other tables.

They are taken away, or replaced in their place, and made anew from the text that PostgreSQL has of them: it names the table, so it
means whichever has the name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.base import Guard, Statement
from backfilld.migrations.operations.ddl import grants_and_comments
from backfilld.migrations.operations.ddl.columns import operand
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.postgres.column_dependents import DependentPolicy, DependentView


def drop(view: DependentView) -> Statement:
    """A view goes, if it is there; those that read it have gone before."""
    gone = sql.SQL("DROP VIEW IF EXISTS {}").format(sql.Identifier(view.schema, view.name))
    return Statement(sql=gone, lock=LockMode.ACCESS_EXCLUSIVE, note="made anew below")


def made(view: DependentView) -> Iterable[Statement]:
    """The view as it was, with its owner, privileges and comments, whatever default privileges add to a new one."""
    name = TableName(view.schema, view.name)
    options = sql.SQL(" WITH ({})").format(sql.SQL(view.options)) if view.options else sql.SQL("")
    create = sql.SQL("CREATE VIEW {}{} AS {}").format(name.identifier, options, sql.SQL(view.definition))
    owner = sql.SQL("ALTER VIEW {} OWNER TO {}").format(name.identifier, sql.SQL(view.owner))
    yield Statement(sql=create, lock=LockMode.NONE)
    yield Statement(sql=owner, lock=LockMode.NONE)
    yield grants_and_comments.revoke_given(name.identifier, what="view", from_owner=True)
    for grant in view.grants:
        yield grants_and_comments.grant(name, grant)
    if view.comment is not None:
        yield grants_and_comments.on_view(name, view.comment)
    for column, text in view.column_comments:
        yield grants_and_comments.on_view(name, text, column=column)


def policy(one: DependentPolicy) -> Statement:
    """A policy of any table reads what its text names now."""
    parts = [sql.SQL("ALTER POLICY {} ON {}").format(sql.Identifier(one.name), one.table.identifier)]
    if one.using is not None:
        parts.append(sql.SQL("USING {}").format(operand(one.using)))
    if one.with_check is not None:
        parts.append(sql.SQL("WITH CHECK {}").format(operand(one.with_check)))
    return Statement(sql=sql.SQL(" ").join(parts), lock=LockMode.ACCESS_EXCLUSIVE, brief=True)


def as_written(statement: str) -> sql.Composed:
    """A statement in PostgreSQL's own words."""
    return sql.Composed([sql.SQL(statement)])  # PostgreSQL's own text


def same_privileges(view: DependentView) -> Guard:
    """A view was made anew, so its privileges must be the ones that it had."""
    name = sql.Identifier(view.schema, view.name)
    had = sql.SQL(", ").join(
        sql.SQL("({}, {}, {})").format(
            sql.Literal(grant.privilege), sql.Literal(grant.grantee), sql.Literal(grant.grantable)
        )
        for grant in view.grants
    )
    query = sql.SQL(
        "SELECT coalesce(now.privilege || ' to ' || now.grantee, had.privilege || ' to ' || had.grantee) AS what FROM ("
        "SELECT x.privilege_type AS privilege, CASE WHEN x.grantee = 0 THEN 'PUBLIC' "
        "ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS grantee, x.is_grantable AS grantable "
        "FROM pg_catalog.pg_class c, pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) x "
        "WHERE c.oid = {view}::pg_catalog.regclass) now FULL JOIN (VALUES {had}) had (privilege, grantee, grantable) "
        "USING (privilege, grantee, grantable) WHERE now.privilege IS NULL OR had.privilege IS NULL LIMIT 1"
    ).format(view=sql.Literal(name.as_string()), had=had)
    return Guard(
        sql=query,
        template=f"the view {name.as_string()} does not have the privileges that it had: {{!r}}",
        remedy="Ask its owner to grant them; nothing was changed",
    )
