"""What a migration would do, phase by phase, with the lock each statement takes, and what it would cost."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from migrations.operations import Action, bind, steps
from migrations.states import Phase

if TYPE_CHECKING:
    from migrations.definition import Migration
    from migrations.operations import Operation, Step
    from migrations.postgres.catalog import Table
    from migrations.preflight import Examination
    from migrations.walks.forecast import Forecast
    from migrations.walks.rewrite import Rewrite

#: Rows per second and lane that an estimate starts from, until a run has measured its own: a few indexes, ordinary disks.
ASSUMED_ROWS_PER_SECOND = 15_000


@dataclass(frozen=True, kw_only=True)
class PlannedAction:
    """One statement, as it will be sent."""

    sql: str
    lock: str
    note: str


@dataclass(frozen=True, kw_only=True)
class PlannedPhase:
    phase: Phase
    actions: tuple[PlannedAction, ...]
    waits_for_approval: bool


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
    walks: tuple[Forecast, ...]
    notes: tuple[str, ...]


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
    warnings: tuple[str, ...]
    findings: tuple[dict[str, str], ...]

    @property
    def refused(self) -> bool:
        return bool(self.findings)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return asdict(self) | {"refused": self.refused}


def make(migration: Migration, examination: Examination) -> Plan:
    """Put together what preflight found and what the operations would do. A refused migration has no phases."""
    operations = bind(migration, examination.facts) if not examination.findings else ()
    return Plan(
        name=migration.name,
        checksum=migration.checksum,
        phases=tuple(
            _phase(migration, operations, phase, walks=examination.forecasts)
            for phase in Phase
            if phase is not Phase.DONE and operations
        ),
        tables=tuple(
            _report(
                table,
                examination.rows[name],
                operations,
                walks=tuple(
                    one
                    for operation, one in zip(operations, examination.forecasts, strict=False)
                    if one is not None and operation.table == name
                ),
            )
            for name, table in examination.tables.items()
        ),
        estimate=_estimate(migration, operations, examination),
        warnings=tuple(examination.warnings),
        findings=tuple(asdict(finding) for finding in examination.findings),
    )


def _phase(
    migration: Migration, operations: tuple[Operation, ...], phase: Phase, *, walks: tuple[Forecast | None, ...]
) -> PlannedPhase:
    planned = [_planned(step) for step in steps(operations, phase)]
    statements = [statement for action in planned for statement in action]
    for operation, walk in zip(operations, walks, strict=True):
        rewrite = operation.rewrite()
        if rewrite is None or walk is None:
            continue
        table = rewrite.table.identifier.as_string()
        key = ", ".join(column.name for column in operation.facts.key)
        needed = _readable(rewrite.needs_work.as_string())
        if phase is Phase.BACKFILL:
            where, by = (f"({key}) in the batch's range", key)
            if walk.walk == "pages":
                where = "ctid in the batch's pages" + (" and its stripe" if walk.stripes > 1 else "")
                by = "pages" + (f", in {walk.stripes} rounds" if walk.stripes > 1 else "")
            text = f"UPDATE {table} SET {_sets(rewrite)} WHERE {where} AND {needed}"  # noqa: S608 - for reading
            note = f"row locks for about batch_seconds; walked by {by}"
            statements.append(PlannedAction(sql=text, lock="ROW EXCLUSIVE", note=note))
        elif phase is Phase.VERIFY and (rewrite.verifiable or rewrite.condition_tells is not None):
            text = f"SELECT count(*) FROM {table} WHERE {needed}"  # noqa: S608 - for reading
            statements.insert(
                0,
                PlannedAction(
                    sql=text, lock="ACCESS SHARE", note="in batches; must find no row, or the rows are walked again"
                ),
            )
    waits = phase in migration.settings.approve and bool(statements)
    return PlannedPhase(phase=phase, actions=tuple(statements), waits_for_approval=waits)


def _sets(rewrite: Rewrite) -> str:
    if rewrite.transform is None:
        return _readable(rewrite.set_clause.as_string())
    columns = ", ".join(sql.Identifier(target.column).as_string() for target in rewrite.facts.targets)
    return (
        f"({columns}) = the values of the Python function {rewrite.transform}, handed {', '.join(rewrite.facts.reads)}"
    )


def _planned(step: Step) -> list[PlannedAction]:
    if not isinstance(step, Action):
        return [PlannedAction(sql=f"-- {step.kind}: {step.table}", lock="ROW EXCLUSIVE", note=step.note)]
    return [
        PlannedAction(sql=statement.sql.as_string().strip(), lock=statement.lock, note=statement.note)
        for statement in step.statements
    ]


def _readable(text: str) -> str:
    # Percent signs are doubled for sending; the line breaks are there for comments. Neither helps a reader.
    return text.replace("%%", "%").replace("(\n", "(").replace("\n)", ")")


def _report(table: Table, rows: int, operations: tuple[Operation, ...], *, walks: tuple[Forecast, ...]) -> TableReport:
    key = next((operation.facts.key for operation in operations if operation.table == table.name), ())
    notes = [
        f"{operation.facts.relation} is walked once because {_subject(operation)}{operation.facts.once_because}"
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
    )


def _subject(operation: Operation) -> str:
    rewrite = operation.rewrite()
    return "" if rewrite is not None and rewrite.transform is not None else "the expression "


def _estimate(migration: Migration, operations: tuple[Operation, ...], examination: Examination) -> Estimate:
    rows = sum(
        examination.rows[rewrite.table] for operation in operations if (rewrite := operation.rewrite()) is not None
    )
    settings = migration.settings
    rows_per_batch = max(1, round(ASSUMED_ROWS_PER_SECOND * settings.batch_seconds))
    seconds = rows / (ASSUMED_ROWS_PER_SECOND * settings.lanes) * (1 + settings.nice)
    return Estimate(rows=rows, batches=math.ceil(rows / rows_per_batch), seconds=round(seconds, 1))
