"""The checks of a run's application: before it begins, after its switch, and before its contract.

Each opens short transactions of its own, in which nothing of the application's is changed, and gives what it found; whoever asked
puts that on record.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from backfilld.migrations.application import check, corpus, functions, replica
from backfilld.migrations.application.checked import Checked, Kind, Moment, Told
from backfilld.migrations.application.corpus import Statement
from backfilld.migrations.application.personas import Personas, nobody
from backfilld.migrations.application.plans import Planned, regression
from backfilld.migrations.application.real_plans import Budget, measure, plans_of
from backfilld.migrations.application.report import shortened
from backfilld.migrations.application.states import States
from backfilld.migrations.application.texts import is_of_copy
from backfilld.migrations.errors import Refused
from backfilld.migrations.file.application import Application, Statements
from backfilld.migrations.planning.dry_run import tables_named
from backfilld.migrations.planning.dry_run_copies import copied
from backfilld.migrations.record import application as record
from backfilld.migrations.record import audit
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.application.corpus import Corpus, QueryFile
    from backfilld.migrations.application.paths import Paths
    from backfilld.migrations.application.personas import Whose
    from backfilld.migrations.application.report import Report
    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.application import Came, PlannedBefore
    from backfilld.migrations.record.model import Run

#: As many statements are planned on the real tables, those that took most time first; each may be run five times.
MOST_PLANNED = 50
#: Whose counts stand beside those of statements: how often some were evicted, and since when they are counted.
_COUNTERS = "pg_stat_statements_info"


@dataclass(frozen=True)
class Before:
    """What is known of the application before a run begins."""

    report: Report
    planned: tuple[tuple[Statement, Planned], ...]

    def put(self, connection: Connection, run: int, *, actor: str) -> None:
        """Put it on record."""
        several = [(one.text, one.source, None, one.roles, one.calls) for one, _ in self.planned]
        record.put_statements(connection, run, several, first=True)
        for one, plan in self.planned:
            record.put_plan(connection, run, one.text, moment=Moment.BEFORE, plan=plan.to_json())
        put(connection, run, _of_report(self.report), actor=actor)


def before(  # noqa: PLR0913 - each is named where it is called
    connection: Connection,
    migration: Migration,
    facts: Sequence[Facts],
    *,
    rows: Mapping[TableName, int],
    files: Sequence[QueryFile],
    replica_url: str | None = None,
) -> Before | None:
    """Look at the statements of a migration that is about to be enqueued; None where its file does not ask for it. Raises Refused for a
    replica that cannot be used: what is not known of today's plans cannot be compared with later ones.
    """
    if migration.checked_application is None:
        return None
    wanted = migration.checked_application.statements
    report = check.check(connection, migration, facts, rows=rows, files=files)
    tables = tables_named(connection, rows, migration, facts)
    statements = corpus.by_text(corpus.read(connection, wanted, files).statements)
    paths = check.paths_of(connection, statements, tables, wanted)
    ranked = sorted((one for one in statements if paths.concerns(one)), key=lambda one: -one.milliseconds)
    unique = {one.text: one for one in ranked if one.calls is None} | {one.text: one for one in ranked}
    budget, personas = Budget(), Personas(facts)
    try:
        with replica.reader(connection, replica_url) as reader:
            most = list(unique.values())[:MOST_PLANNED]
            planned = tuple((one, _first(reader, one, paths, budget, personas)) for one in most)
    except replica.NotUsable as exc:
        raise Refused([exc.finding]) from exc
    return Before(report=report, planned=planned)


def _first(connection: Connection, statement: Statement, paths: Paths, budget: Budget, personas: Personas) -> Planned:
    """As a persona, where it can: one who may not read a column, say, is not who sends it."""
    planned = measure(connection, statement, paths, budget, whose=personas.of(statement))
    return measure(connection, statement, paths, budget) if planned.error and planned.persona else planned


def put(connection: Connection, run: int, found: Checked, *, actor: str) -> None:
    """Put a check on record, as an event."""
    audit.record(connection, run, actor=actor, what=record.CHECKED, **found.to_json())


def before_switch(connection: Connection, run: Run) -> Checked:
    """Put down what PostgreSQL makes of each statement as things are: whether a count is still that of its text is told by this."""
    _, paths, found = _look(connection, run, first=True)
    statements = corpus.by_text(found.statements)
    plans = plans_of(connection, statements, paths)
    known = {
        text: plan.identifier for text, plan in plans.items() if plan.identifier is not None and not is_of_copy(text)
    }
    record.put_identifiers(connection, run.run, known)
    return Checked.of(Moment.BEFORE_SWITCH, _asked(run, _unknown(found)), statements=len(statements))


def after_switch(connection: Connection, run: Run, *, replica_url: str | None = None) -> Checked:
    """Plan statements as they are planned from now on, and begin to look at which ones come."""
    tables, paths, found = _look(connection, run, first=True)
    del tables
    told = [*_unknown(found), *_regressions(connection, run, paths, Moment.AFTER_SWITCH, replica_url)]
    return Checked.of(Moment.AFTER_SWITCH, _asked(run, told), statements=len(found.statements))


def before_contract(connection: Connection, run: Run, *, replica_url: str | None = None) -> Checked:
    """Which statements still need what contract removes, and which are worse than before the run."""
    paths, statements, told = _needed(connection, run)
    told += _regressions(connection, run, paths, Moment.BEFORE_CONTRACT, replica_url)
    return Checked.of(Moment.BEFORE_CONTRACT, _asked(run, told), statements=statements)


def needed(connection: Connection, run: Run) -> Checked:
    """Which statements and functions still need what contract removes, and what is not known of that."""
    _, statements, told = _needed(connection, run)
    return Checked.of(Moment.WAITING, _asked(run, told), statements=statements)


def _needed(connection: Connection, run: Run) -> tuple[Paths, int, list[Told]]:
    tables, paths, found = _look(connection, run)
    application = _application(run)
    window = application.statements.window_length.total_seconds()
    told = [*_unknown(found), *_not_watched(connection, run, window, is_counted=found.counted is not None)]
    came = _came(connection, run, paths, seconds=window)
    # Counts of the counters themselves: what they say holds for as long as what a statement says.
    for name, problem in (
        ("evictions", "pg_stat_statements has evicted statements, so some may have come unseen"),
        ("reset", "the counts of pg_stat_statements were reset, so statements may have come unseen"),
    ):
        if (changed := came.pop(name, None)) is not None:
            told.append(
                Told(
                    kind=Kind.UNKNOWN,
                    problem=f"{problem} (noticed at {_ago(changed.seconds)})",
                    remedy=f"Wait until it is {application.statements.window} ago, or raise pg_stat_statements.max",
                )
            )
    checked, unchecked = functions.read(connection, tables)
    statements = [
        *(Statement(text=one.statement, source=one.source, roles=one.roles, calls=one.calls) for one in came.values()),
        *checked,
    ]
    with copied(connection, [*tables, *paths.readers.joined]) as copies:
        states = States(
            connection, run.migration, run.facts, copies, paths=paths, name=run.name, phases=(Phase.CONTRACT,)
        )
        seen = states.check(statements)
    for broken in seen.breaks:
        one, ago = broken.statement, came.get(broken.statement.text)
        sent = (
            f"{one.source} fails after contract ({broken.message})"
            if ago is None
            else f"it fails after contract ({broken.message}) and came {_times(ago.calls)} since the switch, by "
            f"{', '.join(one.roles)}, last seen at {_ago(ago.seconds)}"
        )
        told.append(
            Told(
                kind=Kind.NEEDED,
                problem=sent,
                statement=shortened(one.text),
                source=one.source,
                roles=one.roles,
                calls=one.calls,
                remedy="Deploy an application that no longer sends it" if ago is not None else "Replace the function",
            )
        )
    plans = plans_of(connection, [one.statement for one in seen.loses_index], paths)
    for lost in seen.loses_index:
        plan = plans.get(lost.statement.text)
        if plan is not None and paths.readers.by_index(plan, lost.table):
            told.append(
                Told(
                    kind=Kind.NEEDED,
                    problem=f"it reads {lost.table} by {', '.join(plan.indexes) or 'an index'}, and can use none after contract",
                    statement=shortened(lost.statement.text),
                    source=lost.statement.source,
                    roles=lost.statement.roles,
                    calls=lost.statement.calls,
                    remedy="Keep the index, or add another one",
                )
            )
    told += [Told(kind=Kind.UNKNOWN, problem=f"contract was not tried as a whole: {one}") for one in seen.untried]
    told += [
        Told(kind=Kind.UNCHECKED, problem=because, source=one.source, statement=shortened(one.text))
        for one, because in [*unchecked, *seen.unchecked]
    ]
    return paths, len(found.statements), told


def _came(connection: Connection, run: Run, paths: Paths, *, seconds: float) -> dict[str, Came]:
    """The statements that came since the switch, by their texts.

    A count that was there before a rename is, after it, that of whoever reads the same columns by their new names: PostgreSQL keeps
    the first text that it saw. Where it makes something else of the text now, the count is not the text's any more.
    """
    found = record.came(connection, run.run, seconds=seconds)
    statements = [Statement(text=one.statement, source=one.source, roles=one.roles) for one in found]
    now = plans_of(connection, corpus.by_text(statements), paths)
    came: dict[str, Came] = {}
    for one in found:
        plan = now.get(one.statement)
        if one.identifier is not None and plan is not None and plan.identifier != one.identifier:
            continue
        same = came.get(one.statement)  # the latest comes first
        came[one.statement] = one if same is None else replace(same, calls=same.calls + one.calls)
    return came


def look(connection: Connection, run: Run) -> int:
    """Put down which statements came since the last look; returns how many there are."""
    return len(_look(connection, run)[2].statements)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _ago(seconds: float) -> str:
    """When that was. Not how long ago: what is on record is read later."""
    return f"{datetime.now(UTC) - timedelta(seconds=seconds):%Y-%m-%d %H:%M} UTC"


def _look(connection: Connection, run: Run, *, first: bool = False) -> tuple[list[TableName], Paths, Corpus]:
    """Put down which statements came, of those that name a table of the run; gives its tables, the paths, and what was found."""
    wanted = _application(run).statements
    tables = tables_named(connection, (), run.migration, run.facts)
    with connection.transaction():
        record.one_look_at_a_time(connection, run.run)
        found = corpus.read(connection, Statements(roles=wanted.roles), ())
        paths = check.paths_of(connection, found.statements, tables, wanted)
        found.statements = [one for one in found.statements if paths.concerns(one)]
        several = [(one.text, one.source, one.queryid, one.roles, one.calls) for one in found.statements]
        if found.counted is not None:
            several += [
                ("evictions", _COUNTERS, None, (), found.counted.evictions),
                ("reset", _COUNTERS, None, (), int(found.counted.since.timestamp())),
            ]
        record.put_statements(connection, run.run, several, first=first)
    return tables, paths, found


def _application(run: Run) -> Application:
    return run.migration.application or Application()


def _asked(run: Run, told: Sequence[Told]) -> list[Told]:
    """What was found, without what is not known of statements where the file asks for other checks alone."""
    return [one for one in told if one.kind is not Kind.UNKNOWN or _application(run).asks_statements]


def _unknown(found: Corpus) -> list[Told]:
    # That some were evicted once is no news here; whether some are, the looks tell.
    return [
        Told(kind=Kind.UNKNOWN, problem=one.problem, remedy=one.remedy)
        for one in found.silence
        if one.check != "evictions"
    ]


def _not_watched(connection: Connection, run: Run, window: float, *, is_counted: bool) -> list[Told]:
    first = record.last_check(connection, run.run, moment=Moment.AFTER_SWITCH)
    if first.seconds is None:
        return [Told(kind=Kind.UNKNOWN, problem="nobody has looked at the statements since the switch")]
    if first.seconds >= window or not is_counted:
        return []
    return [
        Told(
            kind=Kind.UNKNOWN,
            problem=f"statements have been watched only since the switch, at {_ago(first.seconds)}, and the window is "
            f"{_application(run).statements.window}",
            remedy=f"Wait until {_ago(first.seconds - window)}",
        )
    ]


def _regressions(connection: Connection, run: Run, paths: Paths, moment: Moment, replica_url: str | None) -> list[Told]:
    known = record.planned_before(connection, run.run)
    if not known and record.last_check(connection, run.run, moment=Moment.BEFORE).detail is None:
        return [Told(kind=Kind.UNKNOWN, problem="no plan of a statement is on record from before the run")]
    if not known:
        return []
    budget = Budget()
    try:
        with replica.reader(connection, replica_url) as reader:
            now = {
                one.statement: measure(reader, _statement(one), paths, budget, whose=_as_before(run, one))
                for one in known
            }
    except replica.NotUsable as exc:
        return [Told(kind=Kind.UNKNOWN, problem=exc.finding.problem, remedy=exc.finding.remedy)]
    for text, plan in now.items():
        record.put_plan(connection, run.run, text, moment=moment, plan=plan.to_json())
    return [told for one in known if (told := _compared(run, one, now[one.statement])) is not None]


def _as_before(run: Run, one: PlannedBefore) -> Whose:
    persona = Planned.from_json(one.plans[Moment.BEFORE]).persona
    return Personas(run.facts).named(persona) if persona else nobody


def _statement(one: PlannedBefore) -> Statement:
    return Statement(text=one.statement, source=one.source, roles=one.roles, calls=one.calls)


def _compared(run: Run, one: PlannedBefore, now: Planned) -> Told | None:
    """What is worse of a statement, or that nobody knows; None where nothing is."""
    first = Planned.from_json(one.plans[Moment.BEFORE])
    told = Told(
        kind=Kind.REGRESSION,
        problem=regression(first, now),
        remedy=f"Switch back, which loses nothing: backfilld rollback {run.name}",
        statement=shortened(one.statement),
        source=one.source,
        roles=one.roles,
        calls=one.calls,
        plan_before=first.shape,
        plan_after=now.shape or "none",
    )
    if now.is_busy and not first.error:
        problem = f"it could not be planned at this moment: {now.error}"
        return replace(told, kind=Kind.UNKNOWN, problem=problem, remedy="", plan_before="", plan_after="")
    return told if told.problem else None


def _of_report(report: Report) -> Checked:
    told = [
        *(
            Told(
                kind=Kind.BREAKS,
                problem=f"fails from {one.phase} on ({one.message})",
                statement=one.statement,
                source=one.source,
                roles=one.roles,
                calls=one.calls,
            )
            for one in report.breaks
        ),
        *(
            Told(
                kind=Kind.LOSES_INDEX,
                problem=f"can use no index of {one.table} from {one.phase} on",
                statement=one.statement,
                source=one.source,
                roles=one.roles,
                calls=one.calls,
            )
            for one in report.loses_index
        ),
        *(Told(kind=Kind.UNKNOWN, problem=one.problem, remedy=one.remedy) for one in report.silence),
        *(
            Told(kind=Kind.UNCHECKED, problem=one.because, statement=one.statement, source=one.source)
            for one in report.cannot_be_checked
        ),
    ]
    return Checked.of(Moment.BEFORE, told, statements=report.checked)
