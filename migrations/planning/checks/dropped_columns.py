"""A column that is to go: whether it can come back, and all that must be known for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.facts import Dropped
from backfilld.migrations.postgres import catalog, indexes
from backfilld.migrations.postgres.definitions import Constraint
from backfilld.migrations.postgres.dependents import of_column, of_dropped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.catalog import Column, ColumnDetails
    from backfilld.migrations.postgres.dependents import DroppedDependent

#: What comes back with the column, where it is of this column alone.
_KEPT = frozenset({"constraint c", "constraint f", "constraint u", "index"})


def refuse_what_cannot_come_back(case: Case, column: Column, details: ColumnDetails) -> None:
    """Put down why the column cannot go."""
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


def as_dropped(case: Case, details: ColumnDetails, dependents: Sequence[DroppedDependent]) -> Dropped:
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


def why_not_kept(dependent: DroppedDependent, *, partitioned: bool) -> str:
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


def kept_of(case: Case, name: str) -> Dropped:
    """All that must be known to make a column again, with that of what depends on it which can come back."""
    details = catalog.column_details(case.connection, case.table, name)
    found = of_dropped(case.connection, case.table, details)
    kept = [one for one in found if not why_not_kept(one, partitioned=case.table.kind == "p")]
    return as_dropped(case, details, kept)


def tell_of_contract(case: Case, name: str, dropped: Dropped, *, instead: str) -> None:
    """Say what keeps contract waiting, and what goes with the column; `instead` are the columns that replace it."""
    stays = {(kind, one) for kind, one, _ in dropped.carries}
    in_the_way = [
        f"the {one.kind} {one.name}"
        for one in of_column(case.connection, case.table.name, name)
        if (one.kind, one.name) not in stays
    ]
    if in_the_way:
        case.warn(
            f"contract begins once nothing uses {name} that would be lost with it: change or drop {', '.join(in_the_way)} "
            "between switch and contract"
        )
    if stays or dropped.default is not None:
        lost = [*sorted({one for _, one in stays}), *(["its DEFAULT"] if dropped.default is not None else [])]
        case.warn(
            f"{', '.join(lost)} of {name} goes with it, and comes back with it; {instead} gets none of it: add what is needed in a "
            f"migration of its own, with `after: [{case.migration.name}]`"
        )
    if rules := sorted({one for kind, one in stays if kind != "index"}):
        case.warn(
            f"until contract a statement that writes {instead} fails where the {name} made of it breaks {', '.join(rules)}"
        )
