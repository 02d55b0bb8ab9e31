"""Whether a column can be taken away, and all that must be known to bring it back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backfilld.migrations.facts import Dropped, Facts, Target
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning.checks.columns import check_reads, column_of, mentions
from backfilld.migrations.planning.checks.walks import with_key
from backfilld.migrations.postgres import catalog, indexes
from backfilld.migrations.postgres.definitions import Constraint
from backfilld.migrations.postgres.dependents import of_dropped
from backfilld.migrations.postgres.expression_probe import Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.migration import DropColumn
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.catalog import Column, ColumnDetails
    from backfilld.migrations.postgres.dependents import DroppedDependent

#: What comes back with the column, where it is of this column alone.
_KEPT = frozenset({"constraint c", "constraint f", "constraint u", "index"})


def examine(case: Case, operation: DropColumn) -> Facts:
    """Raises Rejected."""
    table, name = case.table, operation.column
    column = column_of(table, name)
    details = catalog.column_details(case.connection, table, name)
    target = Target(column=name, type=column.type, as_text=not case.trial.has_equality(name))
    facts = Facts(relation=str(table.name), targets=(target,))
    before = len(case.found.findings)
    _refuse_what_cannot_come_back(case, column, details)
    if len(case.found.findings) > before:
        return facts
    _refuse_other_operations(case, name)
    reads = _check_down(case, operation) if operation.down is not None else ()
    dependents = of_dropped(case.connection, table, details)
    for dependent in dependents:
        if problem := _problem(dependent, partitioned=table.kind == "p"):
            case.refuse("dependents", f"{dependent.what} {problem}", "Drop it or change it first")
    _warn(case, name, dependents)
    facts = replace(facts, reads=reads, dropped=_dropped(case, details, dependents))
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


def _refuse_what_cannot_come_back(case: Case, column: Column, details: ColumnDetails) -> None:
    table, name = case.table, column.name
    if table.keys and name in {one.name for one in table.keys[0].columns}:
        case.refuse(
            "column",
            f"{name} is part of the key by which {table.name} is walked",
            "Give the table another primary key first; rows without one cannot be archived",
        )
    elif column.generated or details.identity or details.inherited:
        what = "computed by PostgreSQL" if column.generated else "an identity" if details.identity else "inherited"
        case.refuse(
            "column",
            f"{name} is {what}, which cannot be restored without rewriting the table",
            "Drop it with an `sql` operation, if its loss is intended",
        )
    elif name in catalog.partition_columns(case.connection, table):
        case.refuse("column", f"{name} is in the partition key", "Keep it, or create a new table")


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


def _dropped(case: Case, details: ColumnDetails, dependents: Sequence[DroppedDependent]) -> Dropped:
    """All that must be known to make the column again."""
    mine = {one.name for one in dependents if one.kind in {"index", "constraint u"}}
    found = indexes.of_table(case.connection, case.table.oid) if mine else []
    return Dropped(
        type=details.type,
        collation=details.collation,
        default=details.default,
        not_null=details.not_null,
        comment=details.comment,
        grants=details.grants,
        constraints=tuple(
            Constraint(name=one.name, definition=one.definition, valid=one.valid)
            for one in dependents
            if one.kind in {"constraint c", "constraint f"}
        ),
        indexes=tuple(one.definition for one in found if one.definition and one.definition.name in mine),
        unique=tuple(one.name for one in dependents if one.kind == "constraint u"),
    )


def _problem(dependent: DroppedDependent, *, partitioned: bool) -> str:
    """Why a column cannot go while this depends on it; empty where it comes back with the column."""
    if dependent.kind not in _KEPT:
        return "depends on it, so DROP COLUMN would fail or drop it too"
    if dependent.columns > 1:
        return "also uses other columns, and DROP COLUMN would drop it"
    if partitioned:
        return "belongs to a partitioned table, where it could not be recreated while the application works"
    if dependent.kind == "index" and not dependent.valid:
        return "is invalid, or is used for replica identity or CLUSTER"
    return ""
