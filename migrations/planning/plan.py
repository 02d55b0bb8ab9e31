"""What a migration would do, phase by phase, with the lock each statement takes, and what it would cost."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from psycopg import sql

from backfilld.migrations.file import migration as definition
from backfilld.migrations.operations import Action, bind, steps
from backfilld.migrations.operations.ddl.key_journal import MOST_KEYS
from backfilld.migrations.operations.load.steps import Load
from backfilld.migrations.operations.registry import REGISTRY
from backfilld.migrations.operations.sql.steps import Sql, lock_of
from backfilld.migrations.planning.dry_run_findings import Place, Seen
from backfilld.migrations.planning.impact import Impact
from backfilld.migrations.planning.risks import Cause, rank
from backfilld.migrations.planning.summary import summarise
from backfilld.migrations.postgres.locks import BLOCKS_WRITES, LockMode, needed
from backfilld.migrations.postgres.statements import split
from backfilld.migrations.record.states import Phase
from backfilld.migrations.walks.together import grouped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.application.report import Report
    from backfilld.migrations.backups.report import GateReport
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations import Operation, Statement, Step
    from backfilld.migrations.planning.checks.numbers import NumbersLeft
    from backfilld.migrations.planning.dry_run_findings import DryRun
    from backfilld.migrations.planning.estimate import CostEstimate
    from backfilld.migrations.planning.examination import Examination
    from backfilld.migrations.planning.policy_preview import Preview
    from backfilld.migrations.planning.risks import Risk
    from backfilld.migrations.planning.summary import Summary
    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.locks import Needed
    from backfilld.migrations.walks.rewrite import Rewrite

#: Rows per second and lane that an estimate starts from, until a run has measured its own: a few indexes, ordinary disks.
ASSUMED_ROWS_PER_SECOND = 15_000
#: Locks of statements that leave what a table holds as it is.
_CHANGES_NOTHING = {LockMode.NONE, LockMode.ACCESS_SHARE, LockMode.SHARE_UPDATE_EXCLUSIVE}
#: Of walks that write no row of the table.
_LOCKS_OF_WALKS = {
    "stage": LockMode.NONE,
    **dict.fromkeys(("check", "compare", "confirm"), LockMode.ACCESS_SHARE),
}
_GIVES_WAY = "gives up after lock_timeout and retries"


@dataclass(frozen=True, kw_only=True)
class PlannedAction:
    """One statement, as it will be sent."""

    sql: str
    lock: LockMode
    note: str
    #: The operation, by its number in the file.
    operation: int | None = None
    #: The operation's step in this phase: statements of one step are one transaction. None for batches.
    step: int | None = None
    #: How long the lock is held: brief, as long as the table is large, or unknown.
    hold: str = ""
    #: What it does to the whole table: rewrites it, scans it, builds an index on it; empty for nothing.
    does: str = ""
    #: How lock and deed are known: measured on a copy, or by rule.
    known: Literal["measured", "by rule", ""] = ""
    #: Other tables that it locks in the same mode, by rule.
    also: tuple[str, ...] = ()
    #: The note says in better words what it does to the table.
    note_says_what_it_does: bool = False


@dataclass(frozen=True, kw_only=True)
class PlannedOperation:
    """One operation of the file, as other parts of the plan refer to it."""

    number: int
    kind: str
    table: str | None
    summary: str


@dataclass(frozen=True, kw_only=True)
class PlannedTransaction:
    """A transaction that locks tables before its first statement, and holds them until its last."""

    operation: int
    #: As for its actions.
    step: int
    lock: LockMode
    #: The application's; those of the run's own nobody waits for.
    tables: tuple[str, ...]
    views: tuple[str, ...]
    statements: int
    #: How many of them were run on empty copies.
    measured: int
    #: How long the statements take, those that were not run as long as the others on average; None where none was run.
    seconds: float | None
    #: Keys of rows that it brings over besides, at most.
    most_keys: int = 0


@dataclass(frozen=True, kw_only=True)
class PlannedPhase:
    phase: Phase
    actions: tuple[PlannedAction, ...]
    waits_for_approval: bool
    transactions: tuple[PlannedTransaction, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """A table as preflight saw it."""

    name: str
    rows: int
    heap_bytes: int
    index_bytes: int
    #: Columns of the key that is walked.
    key: tuple[str, ...]
    triggers: tuple[str, ...]
    publications: tuple[str, ...]
    dependents: tuple[str, ...]
    #: How each operation on it walks it, and what that will take.
    walks: tuple[CostEstimate, ...]
    notes: tuple[str, ...]
    #: What will happen to each thing that depends on it.
    impacts: tuple[Impact, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An order of magnitude, from an assumed speed; `status` shows the measured one."""

    rows: int
    batches: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything `plan` shows."""

    name: str
    checksum: str
    phases: tuple[PlannedPhase, ...]
    tables: tuple[TableReport, ...]
    estimate: Estimate
    summary: Summary
    warnings: tuple[str, ...]
    findings: tuple[dict[str, str], ...]
    operations: tuple[PlannedOperation, ...] = ()
    risks: tuple[Risk, ...] = ()
    #: The values of its parameters, by name.
    parameters: dict[str, str] = field(default_factory=dict)
    #: Migrations that must be verified before it begins.
    after: tuple[str, ...] = ()
    #: What becomes of the application's statements; None where the migration is refused.
    application: Report | None = None
    #: What is left of the numbers of columns that change and that a sequence fills.
    numbers: tuple[NumbersLeft, ...] = ()
    #: Of each operation that replaces policies, who gains or loses which rows.
    policies: tuple[Preview, ...] = ()
    #: What it waits for before it begins; None where it needs no backup.
    backup: GateReport | None = None

    @property
    def refused(self) -> bool:
        return bool(self.findings)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        application = self.application.to_json() if self.application is not None else None
        return asdict(self) | {"refused": self.refused, "application": application}


def make(
    migration: Migration,
    examination: Examination,
    application: Report | None = None,
    policies: tuple[Preview, ...] = (),
) -> Plan:
    """Put together what preflight found and what the operations would do. A refused migration has no phases."""
    operations = bind(migration, examination.facts) if not examination.findings else ()
    impacts = {name: _impacts(migration, examination, name) if operations else () for name in examination.tables}
    groups, costs = _groups(migration, operations), dict(enumerate(examination.costs))
    phases = tuple(
        _phase(migration, operations, phase, examination, groups)
        for phase in Phase
        if phase is not Phase.DONE and operations
    )
    risks = rank(migration, examination, operations, impacts) if operations else ()
    return Plan(
        name=migration.name,
        checksum=migration.checksum,
        phases=phases,
        tables=tuple(
            _report(
                table,
                examination.rows[name],
                operations,
                walks=tuple(
                    one
                    for first, *_ in groups
                    if operations[first].table == name and (one := costs.get(first)) is not None
                ),
                impacts=impacts[name],
            )
            for name, table in examination.tables.items()
        ),
        estimate=_estimate(migration, [operations[first] for first, *_ in groups], examination),
        summary=summarise(
            migration.operations,
            {one.phase: one.actions for one in phases},
            [walk for first, *_ in groups if (walk := costs.get(first)) is not None],
            approvals=[one.phase for one in phases if one.waits_for_approval],
            risk_levels=[one.level for one in risks],
            fails=[one.reason for one in risks if one.cause is Cause.AFTER_CONTRACT],
        ),
        warnings=tuple(examination.warnings),
        findings=tuple(asdict(finding) for finding in examination.findings),
        operations=tuple(
            PlannedOperation(
                number=number,
                kind=of.kind,
                table=str(of.table) if of.table is not None else None,
                summary=of.summary,
            )
            for number, of in enumerate(migration.operations)
        ),
        risks=risks,
        parameters=migration.values,
        after=migration.after,
        application=application,
        policies=policies,
        numbers=tuple(examination.numbers),
    )


def _groups(migration: Migration, operations: tuple[Operation, ...]) -> list[tuple[int, ...]]:
    """The operations that move data, by their numbers; those that are walked in one pass in one group."""
    rewrites = {number: one for number, operation in enumerate(operations) if (one := operation.rewrite()) is not None}
    loads = [(number,) for number, operation in enumerate(operations) if isinstance(operation, Load)]
    return [*grouped(rewrites, migration.settings), *loads]


def _impacts(migration: Migration, examination: Examination, table: TableName) -> tuple[Impact, ...]:
    return tuple(
        Impact(operation=number, kind=dependent.kind, name=dependent.name, action=what.action, impact=what.words)
        for number, of in enumerate(migration.operations)
        if _is_about(of, table)
        for dependent in examination.dependents.get(table, ())
        if (what := REGISTRY[type(of)].effect(of, dependent)) is not None
    )


def _is_about(of: definition.Operation, table: TableName) -> bool:
    if of.table is not None or not isinstance(of, definition.Sql):
        return of.table == table
    texts = [one.run for one in of.transactions]
    changing = [one for text in texts for one in split(text) if lock_of(one.bare) not in _CHANGES_NOTHING]
    return any(name == (table.schema, table.name) for one in changing for _, _, name in one.qualified[:1])


def _phase(
    migration: Migration,
    operations: tuple[Operation, ...],
    phase: Phase,
    examination: Examination,
    groups: Sequence[tuple[int, ...]],
) -> PlannedPhase:
    planned: list[PlannedAction] = []
    transactions: list[PlannedTransaction] = []
    for number, operation in enumerate(operations):
        cost = examination.costs[number] if examination.costs else None
        others = next(([one for one in group if one != number] for group in groups if number in group), [])
        planned += _of_lanes(number, operation, phase, cost, others)
        planned += _of_parts(number, operation, phase)
        for step_number, step in enumerate(steps([operation], phase)):
            raw = isinstance(operation, Sql)
            place = Place(phase, number, step_number, 0)
            planned += _of_step(step, place, examination.dry_run, raw=raw)
            if isinstance(step, Action) and (held := _held(step, place, examination.dry_run)) is not None:
                transactions.append(held)
    waits = phase in migration.settings.approve and bool(planned)
    return PlannedPhase(phase=phase, actions=tuple(planned), waits_for_approval=waits, transactions=tuple(transactions))


def _of_lanes(
    number: int, operation: Operation, phase: Phase, walk: CostEstimate | None, others: Sequence[int]
) -> list[PlannedAction]:
    """What the lanes do in a phase, as one statement that stands for all of their batches; in one pass with `others`."""
    rewrite = operation.rewrite()
    if isinstance(operation, Load):
        return _of_load(number, operation, phase)
    if rewrite is None or walk is None:
        return []
    if phase is Phase.BACKFILL:
        return [_of_batches(number, operation, rewrite, walk, others)]
    table = rewrite.table.identifier.as_string()
    if phase is Phase.VERIFY and rewrite.remakes:
        text = f"SELECT … FROM {table} FULL JOIN {rewrite.remakes.target.identifier.as_string()} …"  # noqa: S608 - for reading
        note = "in batches, row by row and bit by bit; the key of a row that differs goes into the journal"
        return [PlannedAction(sql=text, lock=LockMode.ACCESS_SHARE, note=note, operation=number)]
    if phase is Phase.VERIFY and (rewrite.verifiable or rewrite.condition_tells is not None):
        text = f"SELECT count(*) FROM {table} WHERE {_readable(rewrite.needs_work.as_string())}"  # noqa: S608 - for reading
        note = f"in batches; the rows that it finds are {_again(rewrite)}"
        return [PlannedAction(sql=text, lock=LockMode.ACCESS_SHARE, note=note, operation=number)]
    return []


def _of_batches(
    number: int, operation: Operation, rewrite: Rewrite, walk: CostEstimate, others: Sequence[int]
) -> PlannedAction:
    """The statement that the batches of a backfill send."""
    key = ", ".join(column.name for column in operation.facts.key)
    where, by = (f"({key}) in the batch's range", key)
    if walk.walk != "keys":
        where = "ctid in the batch's pages" + (" and its stripe" if walk.stripes > 1 else "")
        by = ("pages, in their order" if walk.walk == "ordered" else "pages") + (
            f", in {walk.stripes} rounds" if walk.stripes > 1 else ""
        )
    note = f"{'no lock on a row' if rewrite.remakes else 'row locks for about batch_seconds'}; walked by {by}"
    if others:
        note += f", in one pass with {', '.join(f'[{one}]' for one in others)}: one new version of each row"
    lock = LockMode.ACCESS_SHARE if rewrite.remakes else LockMode.ROW_EXCLUSIVE
    return PlannedAction(sql=_batch_in_words(rewrite, where), lock=lock, note=note, operation=number)


def _batch_in_words(rewrite: Rewrite, where: str) -> str:
    """The statement of a batch, for reading."""
    table, needed = rewrite.table.identifier.as_string(), _readable(rewrite.needs_work.as_string())
    if rewrite.remakes:
        return f"INSERT INTO {rewrite.remakes.target.identifier.as_string()} SELECT … FROM {table} WHERE {where}"  # noqa: S608 - for reading
    if rewrite.copies is not None:
        to = rewrite.copies
        names, given = (", ".join([*of, to.column]) for of in (to.on, to.by))
        return (  # for reading
            f"INSERT INTO {to.table.identifier.as_string()} ({names}) SELECT {given} FROM {table} WHERE {where} AND {needed} "  # noqa: S608
            f"ON CONFLICT ({', '.join(to.on)}) DO UPDATE SET {to.column} = excluded.{to.column}"
        )
    if rewrite.deletes:
        return f"DELETE FROM {table} WHERE {where} AND {needed}"  # noqa: S608 - for reading
    return f"UPDATE {table} SET {_sets(rewrite)} WHERE {where} AND {needed}"  # noqa: S608 - for reading


def _of_parts(number: int, operation: Operation, phase: Phase) -> list[PlannedAction]:
    """What the lanes of an operation do in other tables."""
    planned: list[PlannedAction] = []
    for part in operation.parts():
        rewrite = part.rewrite()
        if rewrite is None:
            continue
        table, needed = rewrite.table.identifier.as_string(), _readable(rewrite.needs_work.as_string())
        key = ", ".join(column.name for column in part.facts.key)
        if phase is Phase.BACKFILL:
            text = f"UPDATE {table} SET {_sets(rewrite)} WHERE ({key}) in the batch's range AND {needed}"  # noqa: S608 - for reading
            note = "row locks for about batch_seconds; by pages where that is right"
            planned.append(PlannedAction(sql=text, lock=LockMode.ROW_EXCLUSIVE, note=note, operation=number))
        elif phase is Phase.VERIFY:
            text = f"SELECT count(*) FROM {table} WHERE {needed}"  # noqa: S608 - for reading
            note = f"in batches; the rows that it finds are {_again(rewrite)}"
            planned.append(PlannedAction(sql=text, lock=LockMode.ACCESS_SHARE, note=note, operation=number))
    return planned


def _again(rewrite: Rewrite) -> str:
    if rewrite.copies is not None:
        return "copied again"
    return "deleted" if rewrite.deletes else "updated again"


def _of_load(number: int, operation: Load, phase: Phase) -> list[PlannedAction]:
    """What the lanes of a load do: statements that stand for those of their batches."""
    loading = operation.loading
    table, stage = loading.table.identifier.as_string(), loading.stage.identifier.as_string()
    columns = ", ".join(sql.Identifier(one.name).as_string() for one in loading.columns)
    key = ", ".join(sql.Identifier(one.name).as_string() for one in loading.key)
    sets = ", ".join(
        f"{name} = the line's" for _, one in loading.written if (name := sql.Identifier(one.name).as_string())
    )
    note = "row locks for about batch_seconds; by pages of the stage, in the order of the key"
    if phase is Phase.BACKFILL:
        texts = []
        if loading.definition.updates and sets:
            texts.append(f"UPDATE {table} SET {sets} WHERE ({key}) = the line's AND it differs")  # noqa: S608 - for reading
        if loading.definition.mode != "update":
            texts.append(f"INSERT INTO {table} ({columns}) SELECT … FROM {stage} ON CONFLICT ({key}) DO NOTHING")  # noqa: S608 - for reading
        return [PlannedAction(sql=text, lock=LockMode.ROW_EXCLUSIVE, note=note, operation=number) for text in texts]
    if phase is Phase.VERIFY:
        text = f"SELECT count(*) FROM {stage} LEFT JOIN {table} USING ({key}) WHERE they differ"  # noqa: S608 - for reading
        note = "in batches; what was written since the lanes began is the application's"
        return [PlannedAction(sql=text, lock=LockMode.ACCESS_SHARE, note=note, operation=number)]
    return []


def _of_step(step: Step, place: Place, dry_run: DryRun | None, *, raw: bool) -> list[PlannedAction]:
    if not isinstance(step, Action):
        text = f"-- {step.kind}: {step.table}"
        lock = _LOCKS_OF_WALKS.get(step.kind, LockMode.ROW_EXCLUSIVE)
        return [PlannedAction(sql=text, lock=lock, note=step.note, operation=place.operation)]
    planned = [*_first(step, place), *_of_lock(needed(step), place)]
    for number, statement in enumerate(step.statements):
        seen = dry_run.at(replace(place, statement=number)) if dry_run is not None else Seen(by_rule_because="-")
        lock_mode = seen.lock or statement.lock
        long = step.scans or step.index is not None or (seen.measured and seen.is_long)
        planned.append(
            PlannedAction(
                sql=statement.sql.as_string().strip(),
                lock=lock_mode,
                note="; ".join(part for part in (statement.note, _GIVES_WAY if statement.brief else "") if part),
                operation=place.operation,
                step=place.step,
                hold=_hold(lock_mode, long=long, known=seen.measured or not raw),
                does=_deed(seen),
                known="measured" if seen.lock else "by rule",
                also=() if seen.lock else tuple(str(table) for table in statement.also),
                note_says_what_it_does=_is_said(statement, seen),
            )
        )
    if step.allows is not None and planned:
        kept = "afterwards the table's catalog entries must be unchanged, except for what the migration asks for"
        planned[-1] = replace(planned[-1], note="; ".join(part for part in (planned[-1].note, kept) if part))
    return planned


def _held(step: Action, place: Place, dry_run: DryRun | None) -> PlannedTransaction | None:
    """What a step of several statements locks first, and for how long."""
    lock = needed(step)
    if lock is None or not lock.first or len(step.statements) == 1:
        return None
    # A block that does something for each partition had none to do it for.
    seen = [
        dry_run.at(replace(place, statement=number)).seconds
        for number, one in enumerate(step.statements)
        if dry_run is not None and one.times == 1
    ]
    took = [seconds for seconds in seen if seconds is not None]
    statements = sum(one.times for one in step.statements)
    return PlannedTransaction(
        operation=place.operation,
        step=place.step,
        lock=lock.mode,
        tables=tuple(str(table) for table in lock.tables if not table.schema.startswith("backfilld")),
        views=tuple(str(view) for view in lock.views),
        statements=statements,
        measured=len(took),
        seconds=round(sum(took) / len(took) * statements, 4) if took else None,
        most_keys=MOST_KEYS if step.drains is not None else 0,
    )


def _first(step: Action, place: Place) -> list[PlannedAction]:
    """What is done before a lock of the application's is asked for."""
    return [
        PlannedAction(
            sql=one.sql.as_string().strip(),
            lock=one.lock,
            note="; ".join(part for part in (one.note, _GIVES_WAY if one.brief else "") if part),
            operation=place.operation,
            step=place.step,
            hold="brief",
            known="by rule",
        )
        for one in step.first
    ]


def _of_lock(lock: Needed | None, place: Place) -> list[PlannedAction]:
    """What takes a step's lock before its first statement."""
    if lock is None:
        return []
    notes = ["changes nothing: locks the view before the table, in the order of its readers" for _ in lock.views]
    notes.append(f"the strongest lock that the step needs, acquired first; {_GIVES_WAY}")
    return [
        PlannedAction(
            sql=statement.as_string(),
            lock=lock.mode,
            note=note,
            operation=place.operation,
            step=place.step,
            hold="brief",
            known="by rule",
        )
        for statement, note in zip(lock.statements, notes, strict=False)
    ]


def _is_said(statement: Statement, seen: Seen) -> bool:
    """Whether the statement's own note tells of the scan that was seen, or of the one that was not needed."""
    return statement.scans is not None and (seen.scans or seen.proved) and not (seen.rewrites or seen.builds_index)


def _hold(lock: LockMode, *, long: bool, known: bool) -> str:
    """How long a lock is held. Of users' own statements that were not run nobody knows."""
    if lock is LockMode.NONE:
        return ""
    if not known:
        return "unknown"
    if not long:
        return "brief"
    return "as long as the table is large" + ("" if lock in BLOCKS_WRITES else ", while reads and writes continue")


def _deed(seen: Seen) -> str:
    if not seen.measured:
        return ""
    deeds = (
        (seen.rewrites, "rewrites the table"),
        (seen.builds_index, "builds an index"),
        (seen.scans, "scans the table"),
        (seen.proved, "no scan: a constraint proves it"),
    )
    deed = next((words for is_so, words in deeds if is_so), "")
    return "; ".join(part for part in (deed, *(f"also locks {table} in {mode}" for table, mode in seen.also)) if part)


def _sets(rewrite: Rewrite) -> str:
    if rewrite.transform is None:
        return _readable(rewrite.set_clause.as_string())
    columns = ", ".join(sql.Identifier(target.column).as_string() for target in rewrite.facts.targets)
    return (
        f"({columns}) = the values of the Python function {rewrite.transform}, handed {', '.join(rewrite.facts.reads)}"
    )


def _readable(text: str) -> str:
    # Percent signs are doubled for sending; the line breaks are there for comments. Neither helps a reader.
    return text.replace("%%", "%").replace("(\n", "(").replace("\n)", ")")


def _report(
    table: Table,
    rows: int,
    operations: tuple[Operation, ...],
    *,
    walks: tuple[CostEstimate, ...],
    impacts: tuple[Impact, ...],
) -> TableReport:
    key = next((operation.facts.key for operation in operations if operation.table == table.name), ())
    notes = [
        f"{operation.facts.relation} is walked once because {operation.facts.once_because}"
        for operation in operations
        if operation.table == table.name and operation.facts.once_because
    ]
    return TableReport(
        name=str(table.name),
        rows=rows,
        heap_bytes=table.heap_bytes,
        index_bytes=table.index_bytes,
        key=tuple(column.name for column in key),
        triggers=tuple(trigger.name for trigger in table.triggers),
        publications=table.publications,
        dependents=table.dependents,
        walks=walks,
        notes=tuple(notes),
        impacts=impacts,
    )


def _estimate(migration: Migration, operations: Sequence[Operation], examination: Examination) -> Estimate:
    rows = sum(
        examination.rows[rewrite.table] for operation in operations if (rewrite := operation.rewrite()) is not None
    )
    rows += sum(one.load.lines for one in examination.facts if one.load is not None)
    settings = migration.settings
    rows_per_batch = max(1, round(ASSUMED_ROWS_PER_SECOND * settings.batch_seconds))
    seconds = rows / (ASSUMED_ROWS_PER_SECOND * settings.lanes) * (1 + settings.nice)
    return Estimate(rows=rows, batches=math.ceil(rows / rows_per_batch), seconds=round(seconds, 1))
