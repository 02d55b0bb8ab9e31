"""The table of an operation: that it is there, that it is one, and that this role may work on all of it."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from backfilld.migrations.file.migration import AddPrimaryKey, Backfill, DeleteRows, Load, RenameTable
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres import catalog

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import Operation
    from backfilld.migrations.planning.checks.findings import Case, Findings
    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.connect import Connection


#: Schemas whose tables are no target, beside those whose names PostgreSQL keeps for itself: catalogs, and temporary tables, which
#: another session cannot read.
_NEVER = frozenset({"backfilld", "information_schema"})


def is_reserved(found: Findings, place: str, name: TableName) -> bool:
    """Whether a schema is no place for tables of the application's, which is put down then."""
    if name.schema not in _NEVER and not name.schema.startswith("pg_"):
        return False
    whose = "backfilld's own record" if name.schema == "backfilld" else "PostgreSQL itself"
    found.refuse("target", f"{place}: {name} belongs to {whose}", "Name a table of the application's")
    return True


def find_table(connection: Connection, found: Findings, place: str, name: TableName) -> Table | None:
    """The table of that name; None once its absence, and the one likely meant, is put down."""
    if is_reserved(found, place, name):
        return None
    table = catalog.describe(connection, name)
    if table is None:
        names = [str(TableName(schema, other)) for schema, other in catalog.similar_tables(connection, name)]
        lowered = {other.lower(): other for other in reversed(names)}
        near = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.6)
        found.refuse(
            "table",
            f"{place}: there is no table {name}",
            f"Did you mean {lowered[near[0]]}? Names are exact, never folded" if near else "Name it as schema.table",
        )
    return table


def check_table(found: Findings, place: str, table: Table, operation: Operation) -> None:
    """Put down every reason why this role cannot do the operation on this table."""
    name, role = table.name, found.backend.role
    if table.kind not in catalog.TABLES:
        kinds = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index"}
        found.refuse(
            "table_kind", f"{place}: {name} is {kinds.get(table.kind, 'not a table')}", "Name an ordinary table"
        )
        return
    if table.has_children:
        found.refuse(
            "inheritance",
            f"{place}: {name} has tables that inherit from it, and no key covers all of them",
            "Use one operation for each of these tables",
        )
    if table.is_partition and not isinstance(operation, Backfill | DeleteRows | Load):
        found.refuse(
            "partition",
            f"{place}: {name} is a partition, whose columns and constraints belong to its parent",
            "Name the partitioned table",
        )
    if table.row_security_active:
        found.refuse(
            "row_security",
            f"{place}: row security is active on {name} for the role {role}, which would hide rows from it, "
            "and a backfill would skip them without an error",
            f"Use a role with BYPASSRLS (ALTER ROLE {role} BYPASSRLS), or the owner of a table without FORCE ROW LEVEL SECURITY",
        )
    if not isinstance(operation, Backfill | DeleteRows | Load) and not table.owned:
        found.refuse(
            "ownership",
            f"{place}: the role {role} does not own {name}",
            "Use the owner, or a role that is a member of it",
        )
    if not (table.may_select and table.may_update):
        found.refuse(
            "privileges",
            f"{place}: the role {role} may not read and update {name}",
            f"GRANT SELECT, UPDATE ON {name.identifier.as_string()} TO {role}",
        )
    identified = table.replica_identity not in {"d", "n"} or (
        table.replica_identity == "d" and any(key.is_primary for key in table.keys)
    )
    if table.publications and not identified and not isinstance(operation, AddPrimaryKey):  # which is the remedy
        found.refuse(
            "replica_identity",
            f"{place}: {name} is published ({', '.join(table.publications)}) without a replica identity, so updates of it fail",
            f"ALTER TABLE {name.identifier.as_string()} REPLICA IDENTITY FULL, or give it a primary key",
        )


def refuse_others_on_table(case: Case, operation: Operation) -> None:
    """Put down the other operations of the file on a table that is renamed or taken away: their later steps would not find it."""
    tables = {operation.table, operation.renamed if isinstance(operation, RenameTable) else operation.table}
    for number, other in enumerate(case.migration.operations):
        if number != case.number and other.table in tables:
            case.refuse(
                "operations",
                f"operations[{number}].{other.kind} is about {other.table} too",
                "Put the two in separate migrations, one after the other",
            )
