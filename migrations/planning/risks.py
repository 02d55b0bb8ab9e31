"""What may go wrong with a migration that can run, ranked: what a careful person reads first.

high    data may be gone for good, or the application fails if nothing is done about it
medium  somebody else has to know, or the database will feel it
low     it will be felt, shortly
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from backfilld.migrations.file import migration as definition
from backfilld.migrations.operations import Action, steps
from backfilld.migrations.operations.sql.steps import Sql
from backfilld.migrations.planning import lint
from backfilld.migrations.planning.dry_run_findings import Place
from backfilld.migrations.postgres.locks import BLOCKS_WRITES
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations import Operation
    from backfilld.migrations.planning.examination import Examination

Level = Literal["high", "medium", "low"]
LEVELS: tuple[Level, ...] = ("high", "medium", "low")

#: Words of an impact that somebody has to act upon.
_TO_DO = ("must be changed by you", "change it to", "see whether it minds")
#: A heap that grows by more than this part of itself is a matter of disk space.
_GROWS_MUCH = 0.3


@dataclass(frozen=True, kw_only=True)
class Risk:
    """One thing that may go wrong."""

    level: Level
    #: The operation, by its number in the file; None for the whole migration.
    operation: int | None
    reason: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Impact:
    """What will happen to something that depends on a table, and by which operation."""

    operation: int
    kind: str
    name: str
    impact: str


def rank(
    migration: Migration,
    examination: Examination,
    operations: Sequence[Operation],
    impacts: dict[TableName, tuple[Impact, ...]],
) -> tuple[Risk, ...]:
    """The risks of a migration, the highest first."""
    found = [
        *_of_loss(migration),
        *_of_fates(impacts),
        *_of_rehearsal(examination, operations),
        *_of_growth(examination),
        *_of_brief_locks(migration, operations),
    ]
    return tuple(sorted(dict.fromkeys(found), key=lambda risk: LEVELS.index(risk.level)))


def _of_loss(migration: Migration) -> list[Risk]:
    found: list[Risk] = []
    days = f"{migration.settings.retention_days:g} days"
    for number, of in enumerate(migration.operations):
        if isinstance(of, definition.DropColumn):
            reason = f"{of.table}.{of.column} is dropped, and its archive is kept for {days}"
            found.append(
                Risk(level="high", operation=number, reason=reason, remedy="Approve contract once nobody misses it")
            )
        written = _written_in_place(of)
        if written and not migration.settings.journal:
            reason = f"the old values of {', '.join(written)} are not kept"
            found.append(
                Risk(level="high", operation=number, reason=reason, remedy="Leave `journal` on, or have a backup")
            )
        elif written:
            reason = f"{', '.join(written)} is changed in place; the old values are kept until {days} after the run"
            found.append(
                Risk(level="low", operation=number, reason=reason, remedy="`rollback` brings them back until then")
            )
        if isinstance(of, definition.Sql):
            found += [
                Risk(
                    level="high" if lint.RULES[rule].level == "refuse" else "low",
                    operation=number,
                    reason=f"the file allows what the rule {rule} refuses",
                    remedy=lint.RULES[rule].remedy,
                )
                for rule in of.allow
                if rule in lint.RULES
            ]
    return found


def _written_in_place(of: definition.Operation) -> tuple[str, ...]:
    """Columns that were there before and whose values a run replaces."""
    if isinstance(of, definition.SetNotNull):
        return (of.column,) if of.backfill is not None else ()
    return of.written if isinstance(of, definition.Backfill) else ()


def _of_fates(impacts: dict[TableName, tuple[Impact, ...]]) -> list[Risk]:
    found: list[Risk] = []
    for table, several in impacts.items():
        for one in several:
            what = f"the {one.kind} {one.name} ({table}) {one.impact}"
            if "must be changed by you" in one.impact:
                found.append(Risk(level="high", operation=one.operation, reason=what, remedy="Change it first"))
            elif any(words in one.impact for words in _TO_DO):
                found.append(Risk(level="medium", operation=one.operation, reason=what, remedy="Look at its text"))
            elif one.kind == "publication" and "subscribers need" in one.impact:
                remedy = "Change the subscribers before the run"
                found.append(Risk(level="medium", operation=one.operation, reason=what, remedy=remedy))
    return found


def _of_rehearsal(examination: Examination, operations: Sequence[Operation]) -> list[Risk]:
    """Statements whose lock nobody saw, and ones that are long."""
    found: list[Risk] = []
    if examination.dry_run is None:
        return found
    for phase in Phase:
        for number, operation in enumerate(operations):
            for step_number, step in enumerate(steps([operation], phase)):
                for statement_number, statement in enumerate(step.statements if isinstance(step, Action) else ()):
                    seen = examination.dry_run.at(Place(phase, number, step_number, statement_number))
                    if isinstance(operation, Sql) and not seen.measured and statement.lock in BLOCKS_WRITES:
                        reason = f"a statement of {phase} takes {statement.lock} by rule, and was not measured: {seen.by_rule_because}"
                        found.append(
                            Risk(
                                level="medium",
                                operation=number,
                                reason=reason,
                                remedy="Try it on a copy of the database",
                            )
                        )
                    if seen.stops_writes:
                        reason = f"a statement of {phase} holds {seen.lock} for as long as the table is large"
                        found.append(
                            Risk(
                                level="high",
                                operation=number,
                                reason=reason,
                                remedy="Use the operation that needs no such lock",
                            )
                        )
    return found


def _of_growth(examination: Examination) -> list[Risk]:
    found: list[Risk] = []
    sizes = {name: table.heap_bytes for name, table in examination.tables.items()}
    for number, walk in enumerate(examination.forecasts):
        relation = examination.facts[number].relation
        heap = next((size for name, size in sizes.items() if str(name) == relation), 0)
        if walk is not None and heap and walk.heap_growth_bytes > _GROWS_MUCH * heap:
            reason = f"{relation} grows by about {walk.heap_growth_bytes / heap:.0%} before vacuum gives space back"
            found.append(
                Risk(level="medium", operation=number, reason=reason, remedy="Have that much disk free, and its WAL")
            )
    return found


def _of_brief_locks(migration: Migration, operations: Sequence[Operation]) -> list[Risk]:
    """What every change of columns brings along, however careful."""
    found: list[Risk] = []
    adding = [
        number
        for number, of in enumerate(migration.operations)
        if isinstance(
            of, definition.AddColumn | definition.RenameColumn | definition.ChangeType | definition.DropColumn
        )
    ]
    if adding:
        found.append(
            Risk(
                level="low",
                operation=adding[0] if len(adding) == 1 else None,
                reason="prepared statements that SELECT * fail once the columns change (cached plan must not change result type)",
                remedy="Name the columns in the application, or let it reconnect",
            )
        )
    if any(
        statement.lock == "ACCESS EXCLUSIVE"
        for phase in Phase
        for step in steps(operations, phase)
        if isinstance(step, Action)
        for statement in step.statements
    ):
        found.append(
            Risk(
                level="low",
                operation=None,
                reason="a transaction that stays open on a table keeps ACCESS EXCLUSIVE from being had",
                remedy="Nothing: backfilld gives way after lock_timeout and tries again",
            )
        )
    return found
