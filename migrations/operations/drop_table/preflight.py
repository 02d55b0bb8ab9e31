"""Whether a table can be taken away: that nothing else needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Facts
from backfilld.migrations.planning.checks.rules import kept_rule
from backfilld.migrations.planning.checks.tables import refuse_others_on_table
from backfilld.migrations.planning.checks.walks import key_of
from backfilld.migrations.postgres import constraints, tables

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import DropTable
    from backfilld.migrations.planning.checks.findings import Case


def examine(case: Case, operation: DropTable) -> Facts:
    table, connection = case.table, case.connection
    refuse_others_on_table(case, operation)
    if table.kind == "p":
        case.refuse(
            "partitioned",
            f"{table.name} is partitioned, and its partitions would stay where they are",
            "Drop its partitions one by one, each DETACHed first, and the empty table by an `sql` operation",
        )
    for row in connection.execute(tables.dependents_of(table.name)).fetchall():
        case.refuse("dependents", f"{row['what']} depends on {table.name}", "Drop it or change it first")
    for publication in tables.nature(connection, table).published:
        case.refuse(
            "publication",
            f"{table.name} is published by {publication}, which would send the table on from where it is kept",
            f"First ALTER PUBLICATION {sql.Identifier(publication).as_string()} DROP TABLE {table.name.identifier.as_string()}",
        )
    case.warn(
        f"contract takes {table.name} away: approve it only when no application uses it. It is kept with its rows for "
        f"{case.migration.settings.retention_days:g} days, and a rollback brings it back in a moment"
    )
    bound = constraints.foreign_keys_of(connection, table)
    for name, one in bound.items():
        if not one.enforced or one.inherited:
            case.refuse("constraint", f"the foreign key {name} is NOT ENFORCED or inherited", "Drop it first")
    return Facts(
        relation=str(table.name),
        key=key_of(table),
        rules=tuple(kept_rule(case, name, one) for name, one in bound.items()),
        parts=tables.parts(connection, table),
    )
