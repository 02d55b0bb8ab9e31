"""GRANT and COMMENT ON, each with the lock that was measured for it (on 18; `none` where it conflicts with no other statement)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from psycopg import sql

from backfilld.migrations.operations.base import Statement
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.definitions import Grant


def grant(relation: TableName, granted: Grant, *, column: str | None = None) -> Statement:
    """A privilege on a table or view, or on one of its columns."""
    of_column = sql.SQL(" ({})").format(sql.Identifier(column)) if column is not None else sql.SQL("")
    statement = sql.SQL("GRANT {}{} ON {} TO {}{}").format(
        sql.SQL(granted.privilege),
        of_column,
        relation.identifier,
        sql.SQL(granted.grantee),  # quoted by PostgreSQL
        sql.SQL(" WITH GRANT OPTION" if granted.grantable else ""),
    )
    return Statement(sql=statement, lock=LockMode.NONE)


def grant_on_sequence(sequence: sql.Identifier, granted: Grant) -> Statement:
    """A privilege on a sequence."""
    statement = sql.SQL("GRANT {} ON SEQUENCE {} TO {}{}").format(
        sql.SQL(granted.privilege),
        sequence,
        sql.SQL(granted.grantee),  # quoted by PostgreSQL
        sql.SQL(" WITH GRANT OPTION" if granted.grantable else ""),
    )
    return Statement(sql=statement, lock=LockMode.NONE)


def revoke_given(
    relation: sql.Identifier, *, what: Literal["table", "view", "sequence"], from_owner: bool
) -> Statement:
    """Revoke what default privileges gave on something new."""
    revoke = sql.SQL(
        "DO $revoke$ DECLARE one record; BEGIN FOR one IN SELECT DISTINCT CASE WHEN x.grantee = 0 THEN 'PUBLIC' "
        "ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS who "
        "FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) x WHERE c.oid = {name}::pg_catalog.regclass{but} "
        "LOOP EXECUTE 'REVOKE ALL ON {kind}' || {name} || ' FROM ' || one.who; END LOOP; END $revoke$"
    ).format(
        name=sql.Literal(relation.as_string()),
        but=sql.SQL("" if from_owner else " AND x.grantee <> c.relowner"),
        kind=sql.SQL("SEQUENCE " if what == "sequence" else ""),
    )
    return Statement(sql=revoke, lock=LockMode.NONE, note=f"what default privileges give to a new {what}")


def on_table(table: TableName, text: str | None) -> Statement:
    """The comment on a table; None for no comment."""
    return _comment(sql.SQL("TABLE {}").format(table.identifier), text, lock=LockMode.SHARE_UPDATE_EXCLUSIVE)


def on_column(table: TableName, column: str, text: str | None) -> Statement:
    """The comment on a column of a table; None for no comment."""
    name = sql.Identifier(table.schema, table.name, column)
    return _comment(sql.SQL("COLUMN {}").format(name), text, lock=LockMode.SHARE_UPDATE_EXCLUSIVE)


def on_constraint(table: TableName, constraint: str, text: str | None) -> Statement:
    """The comment on a constraint; None for no comment."""
    return _comment(sql.SQL("CONSTRAINT {} ON {}").format(sql.Identifier(constraint), table.identifier), text)


def on_trigger(table: TableName, trigger: str, text: str) -> Statement:
    """The comment on a trigger."""
    return _comment(sql.SQL("TRIGGER {} ON {}").format(sql.Identifier(trigger), table.identifier), text)


def on_index(schema: str, index: str, text: str | None) -> Statement:
    """The comment on an index, which is locked by it; its table is not. None for no comment."""
    return _comment(sql.SQL("INDEX {}").format(sql.Identifier(schema, index)), text)


def on_statistics(schema: str, name: str, text: str) -> Statement:
    """The comment on extended statistics."""
    return _comment(sql.SQL("STATISTICS {}").format(sql.Identifier(schema, name)), text)


def on_sequence(sequence: sql.Identifier, text: str) -> Statement:
    """The comment on a sequence."""
    return _comment(sql.SQL("SEQUENCE {}").format(sequence), text)


def on_view(view: TableName, text: str, *, column: str | None = None, kind: str = "VIEW") -> Statement:
    """The comment on a view, or on one of its columns; its tables are not locked by it. `kind`: VIEW or MATERIALIZED VIEW."""
    if column is None:
        return _comment(sql.SQL("{} {}").format(sql.SQL(kind), view.identifier), text)
    return _comment(sql.SQL("COLUMN {}").format(sql.Identifier(view.schema, view.name, column)), text)


def _comment(what: sql.Composable, text: str | None, *, lock: LockMode = LockMode.NONE) -> Statement:
    return Statement(sql=sql.SQL("COMMENT ON {} IS {}").format(what, sql.Literal(text)), lock=lock)
