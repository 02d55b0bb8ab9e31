"""A table's constraints as the catalog has them, each with what it takes to make it again.

To be asked under an empty search_path, as in a probe or in a step of ours: PostgreSQL writes definitions by it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.queries import literally, queries

if TYPE_CHECKING:
    from psycopg import sql

    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "constraints")

#: What each letter of `pg_constraint.contype` stands for.
KINDS = {
    "c": "a CHECK constraint",
    "f": "a foreign key",
    "n": "a NOT NULL constraint",
    "p": "the primary key",
    "t": "a constraint trigger",
    "u": "a UNIQUE constraint",
    "x": "an EXCLUDE constraint",
}


@dataclass(frozen=True, kw_only=True)
class ConstraintDetails:
    """A constraint, with what is only asked of one that is dropped, renamed or commented on."""

    #: As in `pg_constraint.contype`.
    kind: str
    definition: str
    valid: bool
    enforced: bool
    #: It is a parent's too.
    inherited: bool
    #: DEFERRABLE and INITIALLY DEFERRED, as SQL.
    deferred: str
    comment: str | None
    columns: tuple[str, ...]
    references: TableName | None
    referenced_columns: tuple[str, ...]


def find(connection: Connection, table: Table, name: str) -> ConstraintDetails | None:
    """A constraint of a table; None when there is none of that name."""
    row = connection.execute(_SQL["constraint_details"], {"oid": table.oid, "name": name}).fetchone()
    if row is None:
        return None
    schema, referenced = row.pop("referenced_schema"), row.pop("referenced_table")
    return ConstraintDetails(
        **{
            **row,
            "columns": tuple(row["columns"]),
            "referenced_columns": tuple(row["referenced_columns"]),
            "references": TableName(schema, referenced) if referenced is not None else None,
        }
    )


def foreign_keys_of(connection: Connection, table: Table) -> dict[str, ConstraintDetails]:
    """The foreign keys of a table that refer to other tables, by name."""
    names = [row["name"] for row in connection.execute(_SQL["constraint_names"], {"oid": table.oid}).fetchall()]
    found = {name: one for name in names if (one := find(connection, table, name)) is not None}
    return {name: one for name, one in found.items() if one.references not in {None, table.name}}


def likely(connection: Connection, table: Table, name: str) -> str:
    """What to say of a name that no constraint of the table has: the one that is likely meant, or all that there are."""
    names = [row["name"] for row in connection.execute(_SQL["constraint_names"], {"oid": table.oid}).fetchall()]
    near = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {near[0]}? Names are exact, never folded" if near else f"It has: {', '.join(names) or 'none'}"


def changed(table: TableName, name: str, definition: str) -> sql.Composed:
    """A query that names a constraint which has another definition than this one."""
    known = {"table": table.identifier.as_string(), "name": name, "definition": definition}
    return literally(_SQL["another_constraint"], known)
