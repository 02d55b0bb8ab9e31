"""What may go wrong with a migration that can run, ranked: what a careful person reads first.

high    data loss, or application errors, unless you act
medium  needs a decision, or adds noticeable load
low     a brief, minor effect
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from backfilld.migrations.file import migration as definition
from backfilld.migrations.operations import Action, steps
from backfilld.migrations.operations.sql.steps import Sql
from backfilld.migrations.planning import lint
from backfilld.migrations.planning.dry_run_findings import Place
from backfilld.migrations.planning.impact import ImpactAction
from backfilld.migrations.postgres.locks import BLOCKS_WRITES
from backfilld.migrations.record import schema
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations import Operation
    from backfilld.migrations.planning.examination import Examination
    from backfilld.migrations.planning.impact import Impact

Level = Literal["high", "medium", "low"]
LEVELS: tuple[Level, ...] = ("high", "medium", "low")

#: What a person has to do about a dependent, and how bad it is if it is not done.
_TO_DO: dict[ImpactAction, tuple[Level, str]] = {
    ImpactAction.CHANGE_FIRST: ("high", "Change it first"),
    ImpactAction.REVIEW: ("medium", "Read its definition"),
    ImpactAction.SUBSCRIBERS_FIRST: ("medium", "Change the subscribers before the run"),
}
#: A heap that grows by more than this part of itself is a matter of disk space.
_GROWS_MUCH = 0.3


class Cause(StrEnum):
    """What a risk is about, for programs."""

    DROPPED_COLUMN = "dropped_column"
    OLD_VALUES = "old_values"
    AFTER_CONTRACT = "after_contract"
    ALLOWED_RULE = "allowed_rule"
    DEPENDENT = "dependent"
    UNMEASURED_LOCK = "unmeasured_lock"
    LONG_LOCK = "long_lock"
    GROWTH = "growth"
    BLOCKED_ROLLBACK = "blocked_rollback"
    CACHED_PLANS = "cached_plans"
    LOCK_WAIT = "lock_wait"
    PUBLISHED_RECORD = "published_record"
    FOREIGN_CODE = "foreign_code"
    ROW_COMPARISON = "row_comparison"


@dataclass(frozen=True, kw_only=True)
class Risk:
    """One thing that may go wrong."""

    cause: Cause
    level: Level
    #: The operation, by its number in the file; None for the whole migration.
    operation: int | None
    reason: str
    remedy: str


def rank(
    migration: Migration,
    examination: Examination,
    operations: Sequence[Operation],
    impacts: Mapping[TableName, Sequence[Impact]],
) -> tuple[Risk, ...]:
    """The risks of a migration, the highest first."""
    found = [
        *_of_loss(migration, examination),
        *_of_blocked_rollbacks(migration, examination),
        *_of_publications(examination),
        *_of_foreign_code(examination),
        *_of_impacts(impacts),
        *_of_row_comparisons(migration, examination),
        *_of_dry_run(examination, operations),
        *_of_growth(examination),
        *_of_brief_locks(migration, operations),
    ]
    return tuple(sorted(dict.fromkeys(found), key=lambda risk: LEVELS.index(risk.level)))


def _of_loss(migration: Migration, examination: Examination) -> list[Risk]:
    found: list[Risk] = []
    days = f"{migration.settings.retention_days:g} days"
    for number, of in enumerate(migration.operations):
        if isinstance(of, definition.DropColumn):
            reason = f"{of.table}.{of.column} is dropped; its values are archived for {days}"
            found.append(
                Risk(
                    cause=Cause.DROPPED_COLUMN,
                    level="high",
                    operation=number,
                    reason=reason,
                    remedy="Approve contract only when no application uses it",
                )
            )
        elif of.fails_after_contract:
            found.append(
                Risk(
                    cause=Cause.AFTER_CONTRACT,
                    level="high",
                    operation=number,
                    reason=f"after contract {of.fails_after_contract}",
                    remedy="Approve contract only when no application sends one; `status` says when the last INSERT came"
                    if isinstance(of, definition.AddColumn)
                    else "Approve contract only when no application sends one",
                )
            )
        elif isinstance(of, definition.SetNotNull):
            found.append(
                Risk(
                    cause=Cause.AFTER_CONTRACT,
                    level="medium",
                    operation=number,
                    reason=f"from verify on a statement that leaves {of.table}.{of.column} NULL fails",
                    remedy="Deploy an application that gives it a value first",
                )
            )
        elif isinstance(of, definition.Load):
            found.append(_of_loaded(of, number, kept_for=days if migration.settings.journal else ""))
        elif isinstance(of, definition.DeleteRows):
            found.append(_of_deleted(of, number, kept_for=days if migration.settings.journal else ""))
        written = _written_in_place(of)
        if written and not migration.settings.journal:
            reason = f"the old values of {', '.join(written)} are not kept"
            found.append(
                Risk(
                    cause=Cause.OLD_VALUES,
                    level="high",
                    operation=number,
                    reason=reason,
                    remedy="Leave `journal` on, or take a backup first",
                )
            )
        elif written:
            reason = f"{', '.join(written)} is overwritten in place; the old values are kept for {days} after the run"
            found.append(
                Risk(
                    cause=Cause.OLD_VALUES,
                    level="low",
                    operation=number,
                    reason=reason,
                    remedy="`rollback` restores them until then",
                )
            )
        if isinstance(of, definition.Sql):
            found += [
                Risk(
                    cause=Cause.ALLOWED_RULE,
                    level="high" if lint.RULES[rule].level == "refuse" else "low",
                    operation=number,
                    reason=f"the file allows what the rule {rule} would refuse",
                    remedy=lint.RULES[rule].remedy,
                )
                for rule in of.allow
                if rule in lint.RULES and (number, rule) not in examination.disproved
            ]
    return found


def _of_loaded(of: definition.Load, number: int, *, kept_for: str) -> Risk:
    """Rows that are inserted, and values that are replaced; `kept_for` is empty where nothing is kept of them."""
    what = f"rows of {of.table} are {'inserted and updated' if of.updates and of.mode == 'upsert' else 'updated' if of.updates else 'inserted'}"
    kept = f"what there was is kept for {kept_for} after the run" if kept_for else "nothing is kept of what there was"
    return Risk(
        cause=Cause.OLD_VALUES,
        level="low" if kept_for else "high",
        operation=number,
        reason=f"{what} from {of.source.name}; {kept}",
        remedy="`rollback` takes it back until then" if kept_for else "Leave `journal` on, or take a backup first",
    )


def _of_deleted(of: definition.DeleteRows, number: int, *, kept_for: str) -> Risk:
    """Rows that are gone for good, or once what is kept of them is dropped; `kept_for` is empty where nothing is."""
    return Risk(
        cause=Cause.OLD_VALUES,
        level="medium" if kept_for else "high",
        operation=number,
        reason=f"rows of {of.table} are deleted, and "
        + (f"kept for {kept_for} after the run" if kept_for else "nothing is kept of them"),
        remedy="`rollback` inserts them again until then" if kept_for else "Leave `journal` on, or take a backup first",
    )


def _of_blocked_rollbacks(migration: Migration, examination: Examination) -> list[Risk]:
    """Columns that go and of which a new row could not have a value when they come back."""
    return [
        Risk(
            cause=Cause.BLOCKED_ROLLBACK,
            level="medium",
            operation=number,
            reason=f"{of.table}.{of.column} is NOT NULL without a DEFAULT: from the switch on the first row that is added blocks "
            "a rollback",
            remedy=f"Give the operation `down:`, an expression for the value of {of.column} in such rows",
        )
        for number, (of, facts) in enumerate(zip(migration.operations, examination.facts, strict=True))
        if isinstance(of, definition.DropColumn) and of.down is None
        if (dropped := facts.dropped) is not None and dropped.not_null and dropped.default is None
    ]


def _of_publications(examination: Examination) -> list[Risk]:
    if not examination.publish_record:
        return []
    return [
        Risk(
            cause=Cause.PUBLISHED_RECORD,
            level="high",
            operation=None,
            reason=schema.published_because(examination.publish_record),
            remedy=schema.PUBLISH_A_LIST,
        )
    ]


def _written_in_place(of: definition.Operation) -> tuple[str, ...]:
    """Columns that were there before and whose values a run replaces."""
    if isinstance(of, definition.SetNotNull):
        return (of.column,) if of.backfill is not None else ()
    return of.written if isinstance(of, definition.Backfill) else ()


def _of_impacts(impacts: Mapping[TableName, Sequence[Impact]]) -> list[Risk]:
    found: list[Risk] = []
    for table, several in impacts.items():
        for one in several:
            if one.action in _TO_DO:
                level, remedy = _TO_DO[one.action]
                reason = f"the {one.kind} {one.name} ({table}) {one.impact}"
                found.append(
                    Risk(cause=Cause.DEPENDENT, level=level, operation=one.operation, reason=reason, remedy=remedy)
                )
    return found


def _of_row_comparisons(migration: Migration, examination: Examination) -> list[Risk]:
    found: list[Risk] = []
    for number, named in examination.row_comparisons.items():
        type_, table = examination.facts[number].targets[0].type, migration.operations[number].table
        reason = (
            f"from expand on, UPDATEs of {table} may fail in {', '.join(named)}, which compares whole rows: "
            f"the type {type_} has no equality"
        )
        remedy = "Compare by image there (NEW *<> OLD), or name the columns"
        if type_ == "json":
            remedy += "; or use jsonb"
        found.append(Risk(cause=Cause.ROW_COMPARISON, level="high", operation=number, reason=reason, remedy=remedy))
    return found


def _of_foreign_code(examination: Examination) -> list[Risk]:
    """What a role with fewer rights has run as ours."""
    return [
        Risk(
            cause=Cause.FOREIGN_CODE,
            level="high",
            operation=None,
            reason=one.runs_as(examination.backend.role),
            remedy="Read it, or let a role that you trust own it; BACKFILLD_FOREIGN_CODE=refuse refuses such migrations",
        )
        for one in examination.foreign_code
    ]


def _of_dry_run(examination: Examination, operations: Sequence[Operation]) -> list[Risk]:
    """Statements whose lock was not measured, and long ones."""
    found: list[Risk] = []
    if examination.dry_run is None:
        return found
    for phase in Phase:
        for number, operation in enumerate(operations):
            for step_number, step in enumerate(steps([operation], phase)):
                for statement_number, statement in enumerate(step.statements if isinstance(step, Action) else ()):
                    seen = examination.dry_run.at(Place(phase, number, step_number, statement_number))
                    if isinstance(operation, Sql) and not seen.measured and statement.lock in BLOCKS_WRITES:
                        reason = (
                            f"a statement of {phase} is expected to take {statement.lock}, which was not measured: "
                            f"{seen.by_rule_because}"
                        )
                        found.append(
                            Risk(
                                cause=Cause.UNMEASURED_LOCK,
                                level="medium",
                                operation=number,
                                reason=reason,
                                remedy="Try it on a copy of the database",
                            )
                        )
                    if seen.stops_writes:
                        reason = f"a statement of {phase} holds {seen.lock} while it goes through the whole table"
                        found.append(
                            Risk(
                                cause=Cause.LONG_LOCK,
                                level="high",
                                operation=number,
                                reason=reason,
                                remedy="Use the operation that does the same without that lock",
                            )
                        )
    return found


def _of_growth(examination: Examination) -> list[Risk]:
    found: list[Risk] = []
    sizes = {name: table.heap_bytes for name, table in examination.tables.items()}
    for number, walk in enumerate(examination.costs):
        relation = examination.facts[number].relation
        heap = next((size for name, size in sizes.items() if str(name) == relation), 0)
        if walk is not None and heap and walk.heap_growth_bytes > _GROWS_MUCH * heap:
            when = "if all lines are new rows" if walk.walk == "stage" else "before vacuum frees the space"
            reason = f"{relation} grows by about {walk.heap_growth_bytes / heap:.0%} {when}"
            found.append(
                Risk(
                    cause=Cause.GROWTH,
                    level="medium",
                    operation=number,
                    reason=reason,
                    remedy="Have that much disk space free, and space for the WAL"
                    + ("; `walk: pages` takes less and keeps less of the order" if walk.walk == "ordered" else ""),
                )
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
                cause=Cause.CACHED_PLANS,
                level="low",
                operation=adding[0] if len(adding) == 1 else None,
                reason="prepared SELECT * statements fail after the columns change (cached plan must not change result type) until "
                "they are prepared again, which not every driver does by itself",
                remedy="Name the columns in the application, or reconnect after the change",
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
                cause=Cause.LOCK_WAIT,
                level="low",
                operation=None,
                reason="a long transaction on the table delays the ACCESS EXCLUSIVE lock",
                remedy="Nothing to do: backfilld gives up after lock_timeout and retries",
            )
        )
    return found
