"""Operations on one table that are walked together: one pass writes the columns of all of them, in one version of each row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.walks.order import walk_for
from backfilld.migrations.walks.rewrite import Rewrite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.migrations.facts import Target
    from backfilld.migrations.file.run_settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class Several(Rewrite):
    """Rewrites of one table; each writes its columns where it has work to do, and leaves them as they are elsewhere."""

    parts: tuple[Rewrite, ...]

    @classmethod
    def of(cls, *parts: Rewrite) -> Several:
        first = parts[0]
        return cls(
            table=first.table,
            facts=replace(
                first.facts,
                targets=tuple(target for part in parts for target in part.facts.targets),
                reads=tuple(sorted({column for part in parts for column in part.facts.reads})),
            ),
            assignments=tuple(one for part in parts for one in part.assignments),
            # A GUC's value: the sync triggers look for their names in it.
            writes=",".join(part.writes for part in parts if part.writes),
            synced=all(part.synced for part in parts),
            not_null=all(part.not_null for part in parts),
            parts=parts,
        )

    @property
    def values(self) -> list[tuple[Target, sql.Composable]]:
        return [
            (target, self._where_needed(part, target, value)) for part in self.parts for target, value in part.values
        ]

    @property
    def needs_work(self) -> sql.Composed:
        return sql.SQL("({})").format(
            sql.SQL(" OR ").join(sql.SQL("({})").format(part.needs_work) for part in self.parts)
        )

    @property
    def verifiable(self) -> bool:
        return all(part.verifiable for part in self.parts)

    def _where_needed(self, part: Rewrite, target: Target, value: sql.Composable) -> sql.Composed:
        # Without a limit of length: a cast to that would cut, the assignment does not.
        return sql.SQL("CASE WHEN {} THEN CAST({} AS {}) ELSE {} END").format(
            part.needs_work,
            value,
            sendable(sql.SQL(target.plain_type or target.type)),
            sendable(sql.Identifier(self.table.name, target.column)),
        )


def grouped(rewrites: Mapping[int, Rewrite], settings: RunSettings) -> list[tuple[int, ...]]:
    """The operations of a file by their numbers, those that are walked together in one group."""
    groups: list[list[int]] = []
    for number, rewrite in rewrites.items():
        fits = (group for group in groups if all(_fit(rewrites[other], rewrite, settings) for other in group))
        if (group := next(fits, None)) is not None:
            group.append(number)
        else:
            groups.append([number])
    return [tuple(group) for group in groups]


def _fit(one: Rewrite, other: Rewrite, settings: RunSettings) -> bool:
    """Whether two rewrites can be done at once: neither reads what the other writes, and a look at a row tells that it is done."""
    if one.table != other.table or one.facts.key != other.facts.key:
        return False
    if walk_for(one.facts, settings) != walk_for(other.facts, settings):
        return False
    if any(part.transform is not None or part.deletes or part.copies or not part.verifiable for part in (one, other)):
        return False
    touched = {*other.columns, *other.facts.reads}
    return not {*one.columns} & touched and not {*other.columns} & {*one.facts.reads}
