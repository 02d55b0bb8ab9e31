"""What is bound to a table by its number and named in its own words: views, functions, policies of other tables.

They are taken away, or replaced in their place, and made anew from the text that PostgreSQL has of them: it names the table, so it
means whichever has the name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.base import Guard, Statement
from backfilld.migrations.operations.ddl import grants_and_comments, statistics
from backfilld.migrations.operations.ddl.columns import operand
from backfilld.migrations.postgres.bound import placed
from backfilld.migrations.postgres.locks import LockMode
from backfilld.migrations.postgres.statements import split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from backfilld.migrations.postgres.column_dependents import CopiedView, DependentPolicy, DependentView


def drop(view: DependentView) -> Statement:
    """A view goes, if it is there; those that read it have gone before."""
    gone = sql.SQL("DROP VIEW IF EXISTS {}").format(sql.Identifier(view.schema, view.name))
    return Statement(sql=gone, lock=LockMode.ACCESS_EXCLUSIVE, note="made anew below")


def drop_copied(copied: CopiedView, *, schema: str) -> Statement:
    """A materialized view, or one that such a view reads, goes from a schema, if it is there."""
    name = sql.Identifier(schema, copied.view.name)
    gone = sql.SQL("DROP {} IF EXISTS {}").format(sql.SQL(copied.kind), name)
    return Statement(sql=gone, lock=LockMode.ACCESS_EXCLUSIVE, note="its copy comes in its place")


def copy(copied: CopiedView, *, schema: str, named: Mapping[tuple[str, str], sql.Identifier]) -> Iterable[Statement]:
    """The same view in another schema, over what is `named` in place of what it reads, with its rows and all that belongs to it."""
    view, name = copied.view, TableName(schema, copied.view.name)
    (text,) = split(view.definition)
    options = sql.SQL(" WITH ({})").format(sql.SQL(view.options)) if view.options else sql.SQL("")
    method: sql.Composable = sql.SQL("")
    rows = sql.SQL("")
    if copied.materialized:
        method = sql.SQL(" USING {}").format(sql.Identifier(copied.method))
        rows = sql.SQL(" WITH DATA" if copied.populated else " WITH NO DATA")
    at = sql.SQL(" TABLESPACE {}").format(sql.Identifier(copied.tablespace)) if copied.tablespace else sql.SQL("")
    created = sql.SQL("CREATE {} {}{}{}{} AS {}{}").format(
        sql.SQL(copied.kind), name.identifier, method, options, at, sql.SQL(text.renamed(named)), rows
    )
    yield Statement(sql=created, lock=LockMode.NONE, note="read from the table that comes, before it does")
    for statement in copied.statements:
        yield Statement(sql=placed(statement, name), lock=LockMode.NONE, note="a view that nobody else uses yet")
    yield from _as_it_was(view, name, kind=copied.kind)


def move_copied(copied: CopiedView, *, schema: str) -> Iterable[Statement]:
    """The copy comes in the place of the view, with its rows, indexes and statistics."""
    name = sql.Identifier(schema, copied.view.name)
    moved = sql.SQL("ALTER {} {} SET SCHEMA {}").format(sql.SQL(copied.kind), name, sql.Identifier(copied.view.schema))
    yield Statement(sql=moved, lock=LockMode.NONE, note="the copy that was made before")
    for own, statistics_name in copied.statistics:
        yield statistics.set_schema(schema, statistics_name, own)


def same_indexes(copied: CopiedView, *, schema: str) -> Guard:
    """The copy has each index that the view has at this moment: one that was made since the copy would go with the view."""
    query = sql.SQL(
        "SELECT x.oid::pg_catalog.regclass::text AS name FROM pg_catalog.pg_index i "
        "JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = pg_catalog.to_regclass({view}) "
        "AND NOT EXISTS (SELECT FROM pg_catalog.pg_index o JOIN pg_catalog.pg_class c ON c.oid = o.indexrelid "
        "WHERE o.indrelid = pg_catalog.to_regclass({copy}) AND c.relname = x.relname) LIMIT 1"
    ).format(
        view=sql.Literal(sql.Identifier(copied.view.schema, copied.view.name).as_string()),
        copy=sql.Literal(sql.Identifier(schema, copied.view.name).as_string()),
    )
    return Guard(
        sql=query,
        template=f"the index {{!r}} of the materialized view {copied.view.written} was created since the run was enqueued, and would be lost",
        remedy="Drop it, then resume, and create it again afterwards",
    )


def fill(name: TableName) -> Iterable[Statement]:
    """A materialized view that nobody else uses yet gets its rows."""
    refreshed = sql.SQL("REFRESH MATERIALIZED VIEW {}").format(name.identifier)
    yield Statement(sql=refreshed, lock=LockMode.NONE, note="a copy that nobody else uses yet; reads what it is over")
    yield Statement(sql=sql.SQL("ANALYZE {}").format(name.identifier), lock=LockMode.NONE)


def made(view: DependentView) -> Iterable[Statement]:
    """The view as it was, with its owner, privileges and comments, whatever default privileges add to a new one."""
    name = TableName(view.schema, view.name)
    options = sql.SQL(" WITH ({})").format(sql.SQL(view.options)) if view.options else sql.SQL("")
    create = sql.SQL("CREATE VIEW {}{} AS {}").format(name.identifier, options, sql.SQL(view.definition))
    yield Statement(sql=create, lock=LockMode.NONE)
    yield from _as_it_was(view, name, kind="VIEW")


def _as_it_was(view: DependentView, name: TableName, *, kind: str) -> Iterable[Statement]:
    owner = sql.SQL("ALTER {} {} OWNER TO {}").format(sql.SQL(kind), name.identifier, sql.SQL(view.owner))
    yield Statement(sql=owner, lock=LockMode.NONE)
    yield grants_and_comments.revoke_given(name.identifier, what="view", from_owner=True)
    for grant in view.grants:
        yield grants_and_comments.grant(name, grant)
    if view.comment is not None:
        yield grants_and_comments.on_view(name, view.comment, kind=kind)
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
    return Guard(
        sql=_other_privileges(view),
        template=f"the view {_named(view)} does not have the privileges that it had: {{!r}}",
        remedy="Ask its owner to grant them; nothing was changed",
    )


def privileges_as_read(view: DependentView) -> Guard:
    """A view is about to be made anew, with the privileges that were read: what was granted since would be lost."""
    return Guard(
        sql=_other_privileges(view),
        template=f"the view {_named(view)} has other privileges than when the run was enqueued: {{!r}}",
        remedy="Give it those that it had, then resume, and change them afterwards",
    )


def _named(view: DependentView) -> str:
    return sql.Identifier(view.schema, view.name).as_string()


def _other_privileges(view: DependentView) -> sql.Composed:
    """A privilege that a view has and had not, or the other way round."""
    had = sql.SQL(", ").join(
        sql.SQL("({}, {}, {})").format(
            sql.Literal(grant.privilege), sql.Literal(grant.grantee), sql.Literal(grant.grantable)
        )
        for grant in view.grants
    )
    none = sql.SQL("SELECT NULL::text, NULL::text, NULL::boolean WHERE false")
    return sql.SQL(
        "SELECT coalesce(now.privilege || ' to ' || now.grantee, had.privilege || ' to ' || had.grantee) AS what FROM ("
        "SELECT x.privilege_type AS privilege, CASE WHEN x.grantee = 0 THEN 'PUBLIC' "
        "ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS grantee, x.is_grantable AS grantable "
        "FROM pg_catalog.pg_class c, pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) x "
        "WHERE c.oid = {view}::pg_catalog.regclass) now FULL JOIN ({had}) had (privilege, grantee, grantable) "
        "USING (privilege, grantee, grantable) WHERE now.privilege IS NULL OR had.privilege IS NULL LIMIT 1"
    ).format(view=sql.Literal(_named(view)), had=sql.SQL("VALUES {}").format(had) if view.grants else none)
