"""What rules about a table's data share: that their name is free, and the columns they are about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import KeptRule
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning.checks.cancelled_runs import left_by_cancelled_run
from backfilld.migrations.planning.checks.columns import column_of
from backfilld.migrations.postgres import catalog

if TYPE_CHECKING:
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.constraints import ConstraintDetails


def takes_over(case: Case, name: str) -> bool:
    """Whether a cancelled run of this migration left a constraint of that name; any other is refused."""
    there = catalog.constraint(case.connection, case.table, name)
    if there is None:
        return False
    if left_by_cancelled_run(case.connection, case.migration.name):
        return True
    table, constraint = case.table.name.identifier.as_string(), sql.Identifier(name).as_string()
    remedy = "Choose another name, or remove the operation"
    if not there[1]:
        remedy = f"It is not validated: ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}, or choose another name"
    case.refuse("constraint", f"{case.table.name} already has a constraint {name}", remedy)
    return False


def check_column(case: Case, name: str) -> None:
    """The table has the column, or an earlier operation of the file adds it. Raises Rejected."""
    added = any(
        isinstance(earlier, definition.AddColumn) and (earlier.table, earlier.column.name) == (case.table.name, name)
        for earlier in case.migration.operations[: case.number]
    )
    if not added:
        column_of(case.table, name)


def kept_rule(case: Case, name: str, found: ConstraintDetails) -> KeptRule:
    """A constraint of the table, with all that has to be made again should it come back."""
    # Of MATCH FULL, PostgreSQL itself names the row: a NULL among the columns counts otherwise there.
    told = found.kind == "f" and " MATCH FULL" not in found.definition
    return KeptRule(
        name=name,
        definition=found.definition,
        valid=found.valid,
        deferred=found.deferred,
        comment=found.comment,
        columns=found.columns,
        references=str(found.references) if found.references is not None else "",
        referenced=found.referenced_columns,
        equalities=catalog.equalities(case.connection, case.table.oid, name) if told else (),
    )
