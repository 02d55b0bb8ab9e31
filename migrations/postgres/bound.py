"""What is bound to a table by its number and takes part in making it anew: copies of views, functions over its row type. Kept as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from psycopg import sql

from backfilld.migrations.postgres.column_dependents import CopiedView
from backfilld.migrations.postgres.definitions import Grant
from backfilld.migrations.postgres.expression_probe import Rejected
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.column_dependents import DependentView
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.dependents import ColumnDependent

_SQL = queries(__package__, "belongings")

#: What stands for a table and for its schema in a statement; no text of PostgreSQL's has such characters.
TABLE, SCHEMA = "\x01", "\x02"
#: What a copy of a materialized view gets by `DependentView` instead.
_OF_THE_VIEW = frozenset({"grant", "policy", "trigger"})


def placed(statement: str, table: TableName) -> sql.Composed:
    """A statement of PostgreSQL's for a table, whose indexes and sequences are in its own schema."""
    text = statement.replace(TABLE, table.identifier.as_string())
    return sql.Composed([sql.SQL(text.replace(SCHEMA, sql.Identifier(table.schema).as_string()))])


@dataclass(frozen=True, kw_only=True)
class RowFunction:
    """A function with the table's row type among its arguments, or as its result: another one for another table."""

    schema: str
    name: str
    #: As PostgreSQL writes it, with the types of its arguments.
    signature: str
    #: FUNCTION or PROCEDURE.
    kind: str
    definition: str
    owner: str
    #: Whether privileges were ever granted; without, PUBLIC may execute it.
    has_grants: bool
    grants: tuple[Grant, ...]
    comment: str | None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "grants": tuple(Grant(**one) for one in value["grants"])})


def copied(
    connection: Connection, views: Sequence[DependentView], found: Sequence[ColumnDependent]
) -> tuple[CopiedView, ...]:
    """The views with all that CREATE MATERIALIZED VIEW says of one, and what it does not bring back."""
    result: list[CopiedView] = []
    for view, one in zip(views, found, strict=True):
        row = connection.execute(_SQL["copied_view"], {"oid": one.oid}).fetchone() or {}
        belongings = (
            connection.execute(_SQL["belongings"], {"oid": one.oid, "key": ""}).fetchall()
            if row["materialized"]
            else []
        )
        # Its comment is another statement's: COMMENT ON TABLE is for tables.
        statements = [
            belonging["statement"]
            for belonging in sorted(belongings, key=lambda belonging: belonging["moment"] == "late")
            if belonging["kind"] not in _OF_THE_VIEW
            and not belonging["statement"].startswith(("COMMENT ON TABLE", "COMMENT ON COLUMN"))
        ]
        extended = connection.execute(_SQL["statistics"], {"oid": one.oid}).fetchall()
        result.append(
            CopiedView(
                view=view,
                statements=tuple(statements),
                statistics=tuple((own["schema"], own["name"]) for own in extended),
                **row,
            )
        )
    return tuple(result)


def row_functions(connection: Connection, found: Sequence[ColumnDependent]) -> tuple[RowFunction, ...]:
    """The functions over the row type. Raises Rejected for one that cannot be made as it was."""
    result: list[RowFunction] = []
    for one in found:
        row = connection.execute(_SQL["row_function"], {"oid": one.oid}).fetchone() or {}
        for fault, is_so in (
            ("belongs to another role", not row["owned"]),
            ("is an aggregate", row["definition"] is None),
            ("belongs to an extension", row["of_extension"]),
        ):
            if is_so:
                raise Rejected(
                    "function",
                    f"the function {row['signature']} is over the row type and {fault}",
                    "Drop it first, and create it again afterwards",
                )
        result.append(RowFunction.from_json({name: row[name] for name in RowFunction.__dataclass_fields__}))
    return tuple(result)
