"""The gate before expand: a run begins once as much is known of a backup as its file, or the worker's settings, ask for.

    what is missing is written down         the run is held with the cause `backup`, and says so while it lasts
    the lane is let go                      a pause, a stop and every other worker find it free
    a session holds the gate                two workers do not take two backups
    take, or verify, or prove               one of them; what is on record after it decides what is next
    the lane comes back, and looks again

The dump is over before the first statement of ours: no lock of it is in the way of expand. A worker that dies leaves a backup that
nobody holds, which `side_tasks/backups.py` fails and removes; the next one begins anew.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations import holds
from backfilld.migrations.backups import contents, gate, prove, take
from backfilld.migrations.backups.gate import Next
from backfilld.migrations.backups.take import Wanted, in_words
from backfilld.migrations.errors import BackfilldError
from backfilld.migrations.postgres.connect import open_session_at
from backfilld.migrations.postgres.sessions import named
from backfilld.migrations.record import audit, backups, runs, step_context
from backfilld.migrations.record.states import Phase, State
from backfilld.worker.backoff import Backoff

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.backups.contents import Held
    from backfilld.migrations.backups.place import Place
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.backups import Backup
    from backfilld.migrations.record.model import Run
    from backfilld.worker.lanes.claim import Claimed

#: How soon another worker looks whether the one at the gate is through.
OTHERS_SECONDS = 2.0
#: A store that is away for a moment, and one that is away for the night.
RETRY = Backoff(first_seconds=15.0, longest_seconds=900.0, jitter=1 / 3)
#: A worker that is told to stop lets a backup continue for so long, as it does an index.
DRAIN_SECONDS = 10.0
#: How often the session that holds the gate gives a sign of life.
BEAT_SECONDS = 2.0


class GateShut(Exception):
    """The run cannot begin yet; its message says what it waits for, and `seconds` when it looks again."""

    def __init__(self, message: str, *, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True, kw_only=True)
class BackupGates:
    """The gates of all runs, for a worker with these settings."""

    place: Place
    stopping: threading.Event

    def require_open(self, connection: Connection, run: Run, claimed: Claimed) -> None:
        """Return in the same transaction where the run may begin. Otherwise do the next thing about it, and raise GateShut.

        Raises ChangedMeanwhile when the run or the worker is told to stop.
        """
        lane, context = claimed.lane, claimed.context
        if context.phase is not Phase.EXPAND or lane.cursor or context.state not in {State.QUEUED, State.RUNNING}:
            return
        if Phase.EXPAND in context.settings.approve and Phase.EXPAND not in run_now(connection, run).approved:
            return  # a backup that is taken before a person has said yes may be days old by then
        wanted, settings = gate.asked_of(run.migration), self.place.settings
        if not self.place.keeps and (wanted.require or settings.require or "off") == "off":
            return
        named_tables = gate.touched(run.migration)
        held = contents.tables(
            connection, named_tables or (), everything=named_tables is None, excluded=settings.exclude_schemas
        )
        level, _ = gate.level_of(wanted, settings, keeps=self.place.keeps, size=sum(one.bytes for one in held))
        if level == "off" or not held:
            return
        need = gate.need_of(wanted, settings, level, [str(one.name) for one in held])
        known = backups.listed(connection, states=["taken"])
        step, backup = gate.judge(need, known, run=run.run, now=context.now)
        if step is Next.NOTHING:
            if backup is not None:
                detail = {"backup": backup.backup, "required": level, "level": backup.level, "lsn": backup.lsn_stop}
                # Where a recovery ends that is to have all but this run: its first change is after this, in the same transaction.
                detail["moment"] = contents.written(connection)
                audit.record(connection, run.run, actor=runs.WORKER, what="backup.gate", **detail)
            return
        connection.rollback()
        message = _in_words(step, backup, held, level, settings.provider)
        if (lane.last_error or {}).get("message") != message:
            raise GateShut(message)
        with self._holding(connection, run.run, message) as watch:
            self._do(connection, run, step, backup, watch=watch, compare=level == "proved")
        raise GateShut(f"waits for a backup that is {level}")

    def _do(  # noqa: PLR0913 - each is named where it is called
        self, connection: Connection, run: Run, step: Next, backup: Backup | None, *, watch: _Watch, compare: bool
    ) -> None:
        """Do the next thing. Raises GateShut when it fails, with what went wrong."""
        named_tables = gate.touched(run.migration)
        try:
            match step:
                case Next.TAKE:
                    wanted = Wanted(
                        requested_by=runs.WORKER,
                        run=run.run,
                        tables=named_tables or (),
                        copies=gate.asked_of(run.migration).copies,
                        compare=compare,
                    )
                    take.take(self.place, wanted, watch)
                case Next.VERIFY if backup is not None:
                    prove.verify(self.place, backup.backup, watch)
                case Next.PROVE if backup is not None:
                    prove.prove(self.place, backup.backup, watch)
                case _:
                    raise TypeError(step)
        except (BackfilldError, psycopg.Error) as exc:
            if connection.broken:
                raise
            failures = len(backups.listed(connection, run=run.run, states=["failed"]))
            seconds = RETRY.seconds(max(failures - 1, 0), chance=0.5)
            problem = in_words(exc)
            audit.record(connection, run.run, actor=runs.WORKER, what="backup.failed", step=str(step), error=problem)
            msg = f"has no backup, and tries again in {seconds:.0f} s: {problem}"
            raise GateShut(msg, seconds=seconds) from exc

    @contextmanager
    def _holding(self, connection: Connection, run: int, message: str) -> Iterator[_Watch]:
        """Hold the gate, as one worker does at a time. Raises GateShut where another does."""
        session = open_session_at(
            self.place.url, application_name=named(f"gate, waits for run {run}"), settings=contents.SESSION
        )
        with session:
            session.execute("BEGIN")
            if not backups.hold(session, backups.GATES, run):
                raise GateShut(message, seconds=OTHERS_SECONDS)
            yield _Watch(connection, session, run, self.stopping)


class _Watch:
    """Whether the gate's work must stop or wait: asked while it lasts."""

    def __init__(self, connection: Connection, session: Connection, run: int, stopping: threading.Event) -> None:
        self._connection, self._session, self._run, self._stopping = connection, session, run, stopping
        self._stopping_since: float | None = None
        self._last = time.monotonic()

    def __call__(self) -> str | None:
        now = time.monotonic()
        if self._stopping.is_set():
            self._stopping_since = self._stopping_since or now
            if now - self._stopping_since > DRAIN_SECONDS:
                raise runs.ChangedMeanwhile
        if now - self._last > BEAT_SECONDS:
            self._last = now
            self._session.execute("SELECT")
        context = step_context.read(self._connection, self._run)
        if context.why_stop is not None or context.state not in {State.QUEUED, State.RUNNING}:
            raise runs.ChangedMeanwhile
        held = holds.in_force(
            stop=None,
            windows=context.settings.windows,
            age_seconds=context.age_seconds,
            hold_reason=context.hold_reason,
            now=context.now,
        )
        return held.reason if held is not None else None


def run_now(connection: Connection, run: Run) -> Run:
    """The run as it is on record at this moment."""
    found = runs.get(connection, run.run)
    if found is None:
        msg = f"run {run.run} is gone"
        raise LookupError(msg)
    return found


def _in_words(step: Next, backup: Backup | None, held: Sequence[Held], level: str, provider: str) -> str:
    names = [str(one.name) for one in held]
    what = ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more tables"
    size = sum(one.bytes for one in held) / 1e6
    match step:
        case Next.TAKE:
            by = "" if provider == "pg_dump" else f" by {provider}"
            return f"takes a backup{by} of {what} ({size:,.0f} MB) before it begins; it must be {level}"
        case Next.VERIFY:
            return f"reads every copy of backup {backup.backup if backup else ''} back before it begins"
        case _:
            return f"restores backup {backup.backup if backup else ''} into a scratch server before it begins"
