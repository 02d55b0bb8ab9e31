"""Whether a run can still be taken back, asked of the database at this moment.

Rows block it where a step of the way back says which do (`Action.offenders`), or where a sync trigger has put them down as rollback conflicts:
values that were written through the new column and do not fit the old one. A conflict counts while its row is there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC
from itertools import chain
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from backfilld.migrations.operations import Action, Walk, bind
from backfilld.migrations.postgres.connect import apply_settings
from backfilld.migrations.queries import queries
from backfilld.migrations.record import lanes
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.rollback import later_changes, retention
from backfilld.migrations.rollback.archive import Archive
from backfilld.migrations.rollback.steps import way_back
from backfilld.migrations.walks.keys import KeyWalk
from backfilld.migrations.walks.together import grouped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations import Operation, Step
    from backfilld.migrations.postgres.connect import Connection, Row
    from backfilld.migrations.record.model import Key, Run

_SQL = queries(__package__, "retention")

#: More keys that wait than this are not counted.
MOST_COUNTED = 100_000
#: A look at rows that takes longer than this is given up; the step itself looks again when it comes to it.
PATIENCE = "2s"


@dataclass(frozen=True, kw_only=True)
class RollbackCheck:
    """Whether a run can be taken back, and what is in the way."""

    possible: bool
    #: Why not, in words for people; empty when it is possible.
    because: str = ""
    #: What to do about it, where that can be told.
    remedy: str = ""
    #: How many rows are in the way, and the keys of the first.
    blocked_by: int = 0
    keys: tuple[Key, ...] = ()
    #: Until when old values are kept; None: as long as the run lasts.
    kept_until: datetime | None = None

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            "possible": self.possible,
            "because": self.because or None,
            "blocked_by": self.blocked_by,
            "keys": [list(key) for key in self.keys],
            "kept_until": self.kept_until.isoformat() if self.kept_until is not None else None,
        }


@dataclass(frozen=True, kw_only=True)
class Behind:
    """How far a table that is made anew is behind the one in use, or, after the switch, the old one behind the new one."""

    #: Keys that wait to be brought over, counted up to `MOST_COUNTED`.
    keys: int
    #: How long the first of them has waited.
    seconds: float


def behind(connection: Connection, run: Run) -> Behind | None:
    """How far a run's other tables are behind; None where there are none, or none any more."""
    found: list[Behind] = []
    for operation in bind(run.migration, run.facts):
        rewrite = operation.rewrite()
        if rewrite is not None and rewrite.remakes is not None:
            rows = _ask(connection, rewrite.remakes.waiting(most=MOST_COUNTED))
            found += [Behind(keys=row["keys"], seconds=row["seconds"]) for row in rows]
    if not found:
        return None
    return Behind(keys=sum(one.keys for one in found), seconds=max(one.seconds for one in found))


def look(connection: Connection, run: Run) -> RollbackCheck:
    """Whether a run can be taken back now."""
    if run.state is State.ROLLED_BACK:
        return RollbackCheck(possible=False, because="it is already rolled back", kept_until=run.kept_until)
    operations = bind(run.migration, run.facts)
    steps = _steps_back(connection, run, operations)
    if lost := _lost(connection, run, operations, steps):
        return RollbackCheck(possible=False, because=lost, kept_until=run.kept_until)
    if because := next((step.impossible for step in steps if isinstance(step, Action) and step.impossible), ""):
        return RollbackCheck(possible=False, because=because, kept_until=run.kept_until)
    ways = chain(_refusals(connection, run, operations, steps), _never_archived(connection, run, steps))
    if refused := next(ways, None):
        return replace(refused, kept_until=run.kept_until)
    # Before the switch a value that did not fit is one of what goes.
    looked = not run.phase.is_past(Phase.VERIFY) or any(isinstance(step, Action) and step.requires for step in steps)
    found: list[Key] = [
        *_offenders(connection, steps),
        *(() if looked else _rollback_conflicts(connection, run, operations)),
    ]
    if not found:
        return RollbackCheck(possible=True, kept_until=run.kept_until)
    named = "; ".join(", ".join(key) for key in found[: retention.MOST_KEYS])
    return RollbackCheck(
        possible=False,
        because=f"{len(found)} rows hold values that what was there before does not accept: {named}",
        blocked_by=len(found),
        keys=tuple(found[: retention.MOST_KEYS]),
        kept_until=run.kept_until,
    )


def _steps_back(connection: Connection, run: Run, operations: Sequence[Operation]) -> list[Step]:
    """The way back from where the run is; of one that is on it, what is left."""
    coordinator = lanes.read(connection, run.run, 0)
    step = (coordinator.cursor or 0) if coordinator is not None else 0
    if (begun := run.rollback.begun) is not None:
        return [
            back.step for back in way_back(operations, phase=begun.phase, done=begun.steps, pass_=begun.pass_)[step:]
        ]
    done = max(step - run.phase.own_steps, 0)
    return [back.step for back in way_back(operations, phase=run.phase, done=done, pass_=run.pass_)]


def _lost(connection: Connection, run: Run, operations: Sequence[Operation], steps: Sequence[Step]) -> str:
    """Why old values that the way back needs are not there; empty when they are."""
    needed = {(step.kind, step.operation) for step in steps if isinstance(step, Walk) and step.kind != "archive"}
    kept = any(isinstance(step, Action) and step.needs_kept for step in steps)
    if (needed or kept) and run.purged_at is not None:
        return f"the old values that it needs were dropped on {run.purged_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC by `backfilld purge`"
    undone = {operation for kind, operation in needed if kind == "undo"}
    if not undone or retention.is_kept(connection, "journal", run.run):
        return ""
    rewrites = {number: one for number, operation in enumerate(operations) if (one := operation.rewrite()) is not None}
    # The lanes of a group are those of its first operation.
    undone |= {group[0] for group in grouped(rewrites, run.settings) if undone & {*group}}
    changed = sum(
        lane.rows_changed
        for lane in lanes.of_run(connection, run.run)
        if lane.operation in undone and lane.kind in {"backfill", "retry"}
    )
    return f"{changed} rows were changed in place without a journal (`journal: off`)" if changed else ""


def _refusals(
    connection: Connection, run: Run, operations: Sequence[Operation], steps: Sequence[Step]
) -> Iterator[RollbackCheck]:
    """Why a step of the way back would not begin: what later runs have changed; and its guards that name rows are asked.

    Guards about the catalog are not. The step itself asks them, in its place on the way.
    """
    if changed := later_changes.look(connection, run, operations, steps):
        yield RollbackCheck(possible=False, because=changed.because, remedy=changed.remedy)
    guards = [guard for step in steps if isinstance(step, Action) for guard in step.requires if guard.names_rows]
    for guard in guards:
        found = _ask(connection, guard.sql, search_path="")
        if found:
            yield RollbackCheck(
                possible=False,
                because=guard.problem_of(found),
                blocked_by=found[0]["rows"],
                keys=tuple(tuple(row["key"]) for row in found),
            )


def _never_archived(connection: Connection, run: Run, steps: Sequence[Step]) -> Iterator[RollbackCheck]:
    """Rows that came after contract, and to which the way back could give no value."""
    for step in steps:
        if isinstance(step, Walk) and step.only_archived:
            kept = Archive(run=run.run, operation=step.operation, walk=KeyWalk(table=step.table, key=step.key))
            if found := _ask(connection, kept.missing(limit=retention.MOST_KEYS)):
                keys, rows = tuple(tuple(row["key"]) for row in found), found[0]["rows"]
                named = "; ".join(", ".join(key) for key in keys)
                yield RollbackCheck(
                    possible=False,
                    because=f"{rows} rows were added since contract, and nothing gives them a value of the old type: {named}",
                    blocked_by=rows,
                    keys=keys,
                )


def _offenders(connection: Connection, steps: Sequence[Step]) -> Iterator[Key]:
    """Rows that a step of the way back would stop at.

    Not asked: what an index would find, and what comes after an exchange of columns, when their names mean others than now, or
    after a walk that gives rows other values.
    """
    exchanged: set[TableName | None] = set()
    queries_of_rules: dict[str, sql.Composed] = {}  # several steps ask for one rule
    for step in steps:
        if not isinstance(step, Action):
            exchanged |= {step.table} if step.kind == "undo" or step.fills else set()
            continue
        if step.allows is not None and (step.allows.renamed or step.allows.retyped):
            exchanged.add(step.table)
        if step.offenders is not None and step.index is None and step.table not in exchanged:
            queries_of_rules[step.offenders.as_string()] = step.offenders
    for query in queries_of_rules.values():
        yield from (tuple(row.values()) for row in _ask(connection, query))


def _ask(connection: Connection, query: sql.Composed, **settings: str) -> list[Row]:
    """What a step of the way back would ask of the rows, for as long as we have patience.

    Nothing where the table is too large to look at just now, or where an earlier step of the way back brings the column again.
    """
    try:
        with connection.transaction():
            apply_settings(connection, {"statement_timeout": PATIENCE, **settings})
            return connection.execute(query).fetchall()
    except (psycopg.errors.QueryCanceled, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable):
        return []


def _rollback_conflicts(connection: Connection, run: Run, operations: Sequence[Operation]) -> Iterator[Key]:
    """Rows that are there and hold a value which did not fit the old column."""
    for row in connection.execute(_SQL["rollback_conflicts"], {"run": run.run}).fetchall():
        operation = operations[row["operation"]]
        if operation.table is None:
            continue
        key = operation.facts.key
        there = sql.SQL("SELECT FROM {} WHERE {}").format(
            operation.table.identifier,
            sql.SQL(" AND ").join(
                sql.SQL("{} = CAST({} AS {})").format(sql.Identifier(one.name), sql.Literal(value), sql.SQL(one.type))
                for one, value in zip(key, row["key"], strict=True)
            ),
        )
        if connection.execute(there).fetchone() is not None:
            yield tuple(row["key"])
