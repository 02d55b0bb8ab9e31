"""Whether a table can have another name, and a view serve under the old one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts, OldName
from backfilld.migrations.planning.checks.tables import refuse_others_on_table
from backfilld.migrations.postgres import indexes, tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.migration import RenameTable
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.definitions import Grant

#: Views that read a table with the rights of who reads them came with 15.
_SECURITY_INVOKER = 150_000


def examine(case: Case, operation: RenameTable) -> Facts:
    table, connection = case.table, case.connection
    refuse_others_on_table(case, operation)
    nature = tables.nature(connection, table)
    invoker = case.found.backend.version >= _SECURITY_INVOKER
    if indexes.find(connection, operation.renamed.schema, operation.to) is not None:
        case.refuse("name", f"there is already something called {operation.renamed}", "Choose another name")
    if nature.row_security and not invoker:
        case.refuse(
            "row_security",
            f"row level security is on for {table.name}, and before PostgreSQL 15 a view does not apply it",
            "Upgrade to PostgreSQL 15, or deploy an application that knows both names and rename the table by an `sql` operation",
        )
    grants = tuple(tables.grants(connection, table))
    for role in _readers_of_columns(grants):
        case.refuse(
            "privileges",
            f"{role} may read single columns of {table.name}, and to read a view of it needs the right to all of them",
            f"GRANT SELECT ON {table.name.identifier.as_string()} TO {role} until contract, or rename the table by an `sql` operation",
        )
    if nature.published:
        case.warn(
            f"{table.name} is published ({', '.join(nature.published)}): subscribers need a table {operation.renamed} before the switch"
        )
    case.warn(
        f"until contract {table.name} is a view: SELECT, INSERT, ON CONFLICT, UPDATE, DELETE and RETURNING work as before, and "
        f"COPY {table.name} FROM, TRUNCATE, ALTER TABLE, CREATE INDEX, new triggers and foreign keys that refer to it do not"
    )
    return Facts(
        relation=str(table.name),
        old_name=OldName(
            columns=tuple(column.name for column in table.columns),
            grants=grants,
            default_grantees=tables.default_grantees(connection, table.name.schema),
            comment=tables.comment(connection, table),
            security_invoker=invoker,
            notifies=tables.has_public_api(connection),
        ),
    )


def _readers_of_columns(grants: Sequence[tuple[str | None, Grant]]) -> list[str]:
    """Roles that may read columns, and not the table, whether by themselves or as everybody may."""
    readers = {grant.grantee for column, grant in grants if column is None and grant.privilege == "SELECT"}
    of_columns = {grant.grantee for column, grant in grants if column is not None and grant.privilege == "SELECT"}
    return sorted(of_columns - readers) if "PUBLIC" not in readers else []
