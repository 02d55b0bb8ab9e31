"""What is asked of a column that is a key, is referred to, or is an identity: it is named by its values, which must stay the same.

Such a column changes between smallint, integer and bigint. What refers to it is changed first: the foreign key may join an integer
and a bigint, and no value that the narrower one cannot hold comes before both are wide.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from backfilld.migrations.file import migration as definition
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.planning.checks import numbers
from backfilld.migrations.planning.checks.columns import mentions
from backfilld.migrations.planning.checks.live_runs import live_operations
from backfilld.migrations.planning.checks.walks import key_of
from backfilld.migrations.postgres.column_parts import INTEGERS, foreign_keys
from backfilld.migrations.postgres.dependents import narrow_namesakes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.migration import ChangeType
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.column_dependents import ColumnDependents
    from backfilld.migrations.postgres.definitions import KeyColumn
    from backfilld.migrations.postgres.dependents import ColumnDependent

_WIDTHS = list(INTEGERS)
_BYTES = {"smallint": 2, "integer": 4, "bigint": 8}


def is_wider(type_: str, other: str) -> bool:
    """Whether a type of integers has values that another one has not."""
    return type_ in INTEGERS and other in INTEGERS and _WIDTHS.index(type_) > _WIDTHS.index(other)


def is_key(case: Case, name: str, found: Sequence[ColumnDependent]) -> bool:
    """Whether rows are named by the column: by its table's key, or by foreign keys."""
    return any(one.kind in {"primary key", "inbound"} for one in found) or any(
        one.name == name for one in key_of(case.table)
    )


def refuse(case: Case, operation: ChangeType, found: Sequence[ColumnDependent], *, old: str, new: str) -> None:
    """Put down why a key, or an identity, cannot have the new type now."""
    name, keyed = operation.column, is_key(case, operation.column, found)
    what = "part of a key" if keyed else "an identity column"
    if not keyed and not any(one.kind == "identity" for one in found):
        return
    if old not in INTEGERS or new not in INTEGERS:
        case.refuse(
            "key" if keyed else "column_dependents",
            f"{name} is {what}, and changes between {', '.join(_WIDTHS)} only, not from {old} to {new}",
            "Choose one of these types, or add a column of the other type beside it",
        )
        return
    if given := [each for each in ("up", "down", "default") if getattr(operation, each) is not None]:
        case.refuse(
            "key" if keyed else "column_dependents",
            f"{name} is {what}: its values stay the same, so it takes no {' or '.join(f'`{one}`' for one in given)}",
            "Remove it",
        )
    if keyed:
        _refuse_beside(case, name)
        _refuse_referrers(case, name, new=new)


def _refuse_beside(case: Case, name: str) -> None:
    """Other operations of the file name rows of the table by the key as it is."""
    for number, other in enumerate(case.migration.operations):
        if (
            number != case.number
            and other.table == case.table.name
            and any(one.name == name for one in key_of(case.table))
        ):
            case.refuse(
                "operations",
                f"operations[{number}].{other.kind} is on {case.table.name} too, whose rows are named by {name}",
                "Put the two in separate migrations, one after the other",
            )


def _refuse_referrers(case: Case, name: str, *, new: str) -> None:
    """What refers to the column must hold its new values, and must not change meanwhile."""
    table, live = case.table.name, live_operations(case.connection, case.migration.name)
    for row in foreign_keys(case.connection, table, name, named=name):
        referrer = TableName(row["from_schema"], row["from_table"])
        for column, type_ in row["referring"]:
            own = referrer == table and column == name
            if not own and is_wider(new, type_):
                case.refuse(
                    "references",
                    f"{referrer}.{column} is {type_} and refers to it by the foreign key {row['name']}, so it could not hold "
                    f"its values of type {new}",
                    f"Change {referrer}.{column} to {new} first with a `change_type` of its own, then {table}.{name}",
                )
            for number, other in enumerate(case.migration.operations):
                if number != case.number and other.table == referrer and mentions(other, column):
                    case.refuse(
                        "operations",
                        f"operations[{number}].{other.kind} also uses {referrer}.{column}, which refers to it",
                        "Put the two in separate migrations, one after the other",
                    )
            for run in live.get(referrer, ()):
                if column in run.decides or isinstance(run.operation, definition.RenameTable | definition.DropTable):
                    case.refuse("live_run", f"{referrer}.{column} refers to it, and {run.why(column)}", run.remedy)


def walked(case: Case, name: str, *, old: str, new: str) -> tuple[KeyColumn, ...]:
    """The key that is walked, whose values may be of either type: a walk goes on over the exchange of the two columns."""
    wide = max((old, new), key=_WIDTHS.index) if {old, new} <= INTEGERS.keys() else old
    return tuple(replace(one, type=wide) if one.name == name else one for one in key_of(case.table))


def tell(case: Case, operation: ChangeType, dependents: ColumnDependents, new: str) -> None:
    """What no foreign key tells, and how many numbers are left."""
    table, name, old = case.table.name, operation.column, dependents.type
    if dependents.references:
        also = ", ".join(dict.fromkeys(str(one.table) for one in dependents.references if one.table != table))
        case.warn(
            f"from verify to the switch each foreign key that refers to {name} is there twice: every write of "
            f"{also or table} is checked once more, and the switch locks {', '.join(filter(None, (str(table), also)))}"
        )
    if is_wider(new, old):
        if (left := numbers.tell(case, name, old)) is not None:
            case.warn(str(left))
        if found := narrow_namesakes(case.connection, table, _called(table.name, name), bytes_=_BYTES[new]):
            case.warn(
                f"no foreign key says so, but these columns may hold values of {name} and are narrower than {new}: "
                f"{', '.join(found)}; so may arrays, parameters and variables of functions, and the application"
            )


def _called(table: str, name: str) -> list[str]:
    """How a column that refers to this one may be called: order_id for orders.id, and the column's own name unless it is `id`."""
    singulars = {table, re.sub("ies$", "y", table), re.sub("es$", "", table), re.sub("s$", "", table)}
    return sorted({f"{one}_{name}" for one in singulars} | ({name} if name.lower() != "id" else set()))
