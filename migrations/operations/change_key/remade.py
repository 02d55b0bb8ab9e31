"""What is made anew in the switch for all of the columns together: views, policies, triggers and functions that name one of them or more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.change_type import dependents, guards

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.operations.base import Guard, Statement
    from backfilld.migrations.operations.change_type.change import Change

_One = TypeVar("_One")


def merged(lists: Iterable[Sequence[_One]]) -> list[_One]:
    """All that is in any of several lists, once, each in the order that every list has it in; there must be one."""
    left, found = [list(dict.fromkeys(one)) for one in lists], []
    while left := [one for one in left if one]:
        heads = [one[0] for one in left]
        following = next((head for head in heads if all(head not in one[1:] for one in left)), heads[0])
        found.append(following)
        left = [[other for other in one if other != following] for one in left]
    return found


@dataclass(frozen=True, kw_only=True)
class Remade:
    """What hangs on several columns, each thing once."""

    changes: tuple[Change, ...]

    def dropped(self) -> Iterable[Statement]:
        """Before the columns exchange their names."""
        for change in self._each:
            yield from dependents.dropped(change)

    def made(self) -> Iterable[Statement]:
        """After it."""
        for change in reversed(self._each):
            yield from dependents.made(change)

    @property
    def same_privileges(self) -> tuple[Guard, ...]:
        """Views have the privileges that they had."""
        return guards.same_privileges(self._each[0])

    @property
    def privileges_as_read(self) -> tuple[Guard, ...]:
        """Views have the privileges that were read."""
        return guards.privileges_as_read(self._each[0])

    @property
    def sent_as_read(self) -> tuple[Guard, ...]:
        """Publications send the columns that they sent."""
        return tuple(guard for change in self._each for guard in guards.sent_as_read(change))

    @property
    def views(self) -> tuple[TableName, ...]:
        """The views, each before the ones that it reads."""
        return tuple(TableName(view.schema, view.name) for view in reversed(self._each[0].dependents.views))

    @property
    def tables(self) -> frozenset[TableName]:
        """Tables whose policies are made anew."""
        return frozenset(policy.table for policy in self._each[0].dependents.policies)

    @property
    def _each(self) -> list[Change]:
        """The changes, of which the first has everything that more than one may have."""
        all_ = [one.dependents for one in self.changes]
        together = replace(
            all_[0],
            views=tuple(merged(one.views for one in all_)),
            policies=tuple(merged(one.policies for one in all_)),
            functions=tuple(merged(one.functions for one in all_)),
        )
        found: list[Change] = []
        seen: set[tuple[TableName, str]] = set()
        sent: set[tuple[TableName, str]] = set()
        for number, (change, one) in enumerate(zip(self.changes, all_, strict=True)):
            shared = together if number == 0 else replace(one, views=(), policies=(), functions=())
            triggers = tuple(trigger for trigger in one.triggers if (change.table, trigger.name) not in seen)
            seen |= {(change.table, trigger.name) for trigger in triggers}
            publications = tuple(each for each in one.publications if (change.table, each.name) not in sent)
            sent |= {(change.table, each.name) for each in publications}
            shared = replace(shared, triggers=triggers, publications=publications)
            found.append(replace(change, dependents=shared))
        return found
