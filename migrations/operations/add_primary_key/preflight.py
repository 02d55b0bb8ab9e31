"""Whether columns can be the primary key of their table."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Facts
from backfilld.migrations.identifiers import NAME_BYTES
from backfilld.migrations.planning.checks import indexes
from backfilld.migrations.planning.checks.columns import column_of

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import AddPrimaryKey
    from backfilld.migrations.planning.checks.findings import Case


def examine(case: Case, operation: AddPrimaryKey) -> Facts:
    """Raises Rejected."""
    table = case.table
    nothing = Facts(relation=str(table.name))
    before = len(case.found.findings)
    columns = [column_of(table, name) for name in operation.columns]
    for key in table.keys:
        if key.is_primary:
            names = ", ".join(column.name for column in key.columns)
            case.refuse("key", f"{table.name} already has the primary key {key.name} ({names})", "Remove the operation")
    for column in columns:
        if column.virtual:
            case.refuse("column", f"{column.name} is computed when it is read", "Name a column that is stored")
    if len(case.found.findings) > before:
        return nothing
    rest = sql.SQL("USING btree ({})").format(indexes.listed(operation.columns))
    facts = indexes.built(case, _name(table.name.name), rest, unique=True)
    nullable = tuple(column.name for column in columns if not column.not_null)
    if nullable:
        case.warn(
            f"from verify on a statement that leaves {', '.join(nullable)} NULL fails; rows that are NULL pause the run and are named"
        )
    return replace(facts, nullable=nullable)


def _name(table: str) -> str:
    """The name that PostgreSQL itself would give the key."""
    return f"{table.encode()[: NAME_BYTES - len('_pkey')].decode(errors='ignore')}_pkey"
