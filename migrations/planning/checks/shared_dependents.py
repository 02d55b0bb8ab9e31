"""What hangs on the columns of two operations of one file, each of which exchanges its column at the switch.

An exchange finds what hangs on its column as it was when the run began, or changes nothing. What hangs on two such columns the
first exchange may have changed for the second one: by another name in its definition, or by a second index beside it.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from backfilld.migrations.file import migration as definition

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.planning.checks.findings import Findings
    from backfilld.migrations.postgres.dependents import Dependent

Exchange = definition.ChangeType | definition.RenameColumn

#: Remade from the texts that were kept, they read the same once another column has its new type.
_READ_ALIKE = frozenset({"view", "trigger"})


def check_shared_dependents(
    found: Findings,
    migration: Migration,
    facts: Sequence[Facts],
    dependents: Mapping[TableName, Sequence[Dependent]],
) -> None:
    """Refuse two operations that exchange columns of one table which something hangs on together. `facts` are of each operation."""
    for earlier, later in combinations(_exchanges(migration, facts), 2):
        for one in dependents.get(earlier.table, ()) if earlier.table == later.table else ():
            if one.names(_column(earlier)) and one.names(_column(later)) and not _comes_along(one, earlier, later):
                found.refuse(
                    "shared_dependent",
                    f"the {one.kind} {one.name} of {earlier.table} hangs on {_column(earlier)} and on {_column(later)}, "
                    "and both change places with another column in this file",
                    _remedy(one, earlier, later),
                )
                break


def _exchanges(migration: Migration, facts: Sequence[Facts]) -> Iterator[Exchange]:
    for operation, known in zip(migration.operations, facts, strict=True):
        if isinstance(operation, definition.RenameColumn) or (
            isinstance(operation, definition.ChangeType) and not known.in_place
        ):
            yield operation


def _column(operation: Exchange) -> str:
    return operation.column if isinstance(operation, definition.ChangeType) else operation.old


def _comes_along(one: Dependent, earlier: Exchange, later: Exchange) -> bool:
    """Whether the second exchange finds it as it was, as each pair was tried."""
    match earlier, later:
        case definition.RenameColumn(), definition.RenameColumn():
            return True
        case definition.RenameColumn(), _:
            return False
        case _, definition.RenameColumn():
            return not _has_index(one)
        case _:
            return one.kind in _READ_ALIKE


def _has_index(one: Dependent) -> bool:
    """Until contract an exchange of either column has a second one beside it."""
    return one.kind == "index" or one.detail.startswith(("PRIMARY KEY", "UNIQUE", "EXCLUDE"))


def _remedy(one: Dependent, earlier: Exchange, later: Exchange) -> str:
    alone = "Give each a file of its own, the second one with `after:`, or enqueue a folder"
    if isinstance(earlier, definition.RenameColumn) and _comes_along(one, later, earlier):
        return "Put the change of type before the change of name in the file"
    return alone
