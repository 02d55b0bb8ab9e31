"""Whether a column can be taken away, and all that must be known to bring it back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts, Target
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning.checks.columns import check_reads, column_of, mentions
from backfilld.migrations.planning.checks.dropped_columns import (
    as_dropped,
    refuse_what_cannot_come_back,
    why_not_kept,
)
from backfilld.migrations.planning.checks.walks import with_key
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.dependents import of_dropped
from backfilld.migrations.postgres.expression_probe import Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.migration import DropColumn
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.dependents import DroppedDependent


def examine(case: Case, operation: DropColumn) -> Facts:
    """Raises Rejected."""
    table, name = case.table, operation.column
    column = column_of(table, name)
    details = catalog.column_details(case.connection, table, name)
    target = Target(column=name, type=column.type, as_text=not case.trial.has_equality(name))
    facts = Facts(relation=str(table.name), targets=(target,))
    before = len(case.found.findings)
    refuse_what_cannot_come_back(case, column, details)
    if len(case.found.findings) > before:
        return facts
    _refuse_other_operations(case, name)
    reads = _check_down(case, operation) if operation.down is not None else ()
    dependents = of_dropped(case.connection, table, details)
    for dependent in dependents:
        if problem := why_not_kept(dependent, partitioned=table.kind == "p"):
            case.refuse("dependents", f"{dependent.what} {problem}", "Drop it or change it first")
    _warn(case, name, dependents)
    facts = replace(facts, reads=reads, dropped=as_dropped(case, details, dependents))
    return with_key(case.found, case.place, table, facts)


def _check_down(case: Case, operation: DropColumn) -> tuple[str, ...]:
    """The columns that `down` reads. Raises Rejected."""
    down, name = operation.down or "NULL", operation.column
    analysis = case.trial.analyse(down, what="down")
    check_reads(case, analysis)
    case.trial.check_update({name: down}, None)
    if name in analysis.reads:
        problem = f"down reads {name}, which has no value in the rows that it is for"
        raise Rejected("expression", problem, "Write an expression over the other columns")
    return tuple(sorted(analysis.reads))


def _refuse_other_operations(case: Case, name: str) -> None:
    for number, other in enumerate(case.migration.operations):
        # What only reads it is done before the contract, if it stands before it in the file.
        reads = isinstance(other, definition.AddColumn | definition.Backfill) and number < case.number
        about = number != case.number and other.table == case.table.name and mentions(other, name)
        if about and not reads:
            case.refuse(
                "operations",
                f"operations[{number}].{other.kind} also names {name}",
                f"Put the second in a migration of its own, with `after: [{case.migration.name}]`, or both in a folder",
            )


def _warn(case: Case, name: str, dependents: Sequence[DroppedDependent]) -> None:
    """What a careful person should know."""
    if dependents:
        names = ", ".join(one.what for one in dependents)
        case.warn(f"dropping {name} also drops {names}; a rollback restores them")
    case.warn(
        f"contract drops {name}: approve it only when no application uses the column. Its values are archived "
        f"for {case.migration.settings.retention_days:g} days, and a rollback restores them"
    )
