"""The verbs of the command line as Python functions, for deploy scripts: `from backfilld import Client`."""

from __future__ import annotations

import getpass
import logging
import socket
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from backfilld.migrations.errors import NotFinished, Unreachable
from backfilld.migrations.identifiers import TARGET
from backfilld.migrations.postgres.connect import connected
from backfilld.migrations.record import audit, lanes, quarantine, runs, schema
from backfilld.migrations.record.states import ENDED, Phase, State
from backfilld.migrations.wire.messages import ControlMessage
from backfilld.monitoring import after_contract, pace, progress
from backfilld.producers import commands, transforms, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.planning.plan import Plan
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Lane, Quarantined, Run, Unconverted
    from backfilld.migrations.record.pace import Stop
    from backfilld.migrations.rollback.retention import Purged
    from backfilld.migrations.settings import Limits, Settings
    from backfilld.monitoring.after_contract import AfterContract
    from backfilld.monitoring.explain import Explanation
    from backfilld.monitoring.pace import PaceReport
    from backfilld.monitoring.progress import Progress
    from backfilld.producers.uninstall import Uninstalled

#: How often a waiting caller reads the record: neither a person nor the database notices.
POLL_SECONDS = 0.5
#: Waiting outlives a restart of PostgreSQL, as the run does; an absence longer than this is an error.
PATIENCE_SECONDS = 60.0

T = TypeVar("T")

_log = logging.getLogger("backfilld")


class Client:
    """One target database and the workers on it.

    Every method opens a connection of its own and closes it. Errors are those of `backfilld.migrations.errors`: UsageError,
    InvalidMigration and InvalidSettings (fix the call), Refused (fix the migration or the database), Unreachable (nothing
    was changed), NotFinished (ask again later); and `backfilld.producers.waiting.RunStopped`.
    """

    def __init__(
        self,
        database_url: str | None = None,
        redis_url: str | None = None,
        *,
        actor: str | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """What is not given comes from `BACKFILLD_…` variables and `backfilld.toml`.

        `actor` is who asks, for the audit. `warn` receives non-fatal warnings; default: the logger `backfilld`.
        """
        from backfilld.migrations import settings as settings_file  # noqa: PLC0415 - a deploy script that only imports us pays nothing

        given = {"database_url": database_url, "redis_url": redis_url}
        self._settings: Settings = settings_file.load(**{name: url for name, url in given.items() if url is not None})
        self._actor = actor or f"{_user()}@{socket.gethostname()}"
        self._warn = warn or _log.warning

    # --- before a run --------------------------------------------------------------------------------------------------

    def init(self, *, published: bool = False) -> list[int]:
        """Create the schema `backfilld`, or upgrade it; returns the versions applied, none when it was up to date.

        Raises Refused where a publication would send its tables on, unless `published`.
        """
        from backfilld.migrations.planning.checks import leftovers  # noqa: PLC0415 - for this verb alone

        with connected(self._settings.require_database()) as connection:
            applied = schema.ensure(connection, published=published)
            for left in leftovers.without_a_record(connection) if applied else ():
                self._warn(left)
            return applied

    def uninstall(self, *, dry_run: bool = False, force: bool = False) -> Uninstalled:
        """Take backfilld out of the database: its triggers, then its schema; a dry run only looks.

        Raises Refused while a run is open or has left something, a worker runs, or, unless `force`, old values are kept.
        """
        from backfilld.producers import uninstall  # noqa: PLC0415 - for this verb alone

        with connected(self._settings.require_database()) as connection:
            return uninstall.uninstall(connection, dry_run=dry_run, force=force)

    def new(self, table: str, operation: str, *, columns: Sequence[str] = ()) -> str:
        """The text of a first migration file: one operation on a table, with the names that are there, every key explained."""
        from backfilld.producers import draft  # noqa: PLC0415 - the models of all operations, for this verb alone

        with connected(self._settings.require_database()) as connection:
            return draft.draft(connection, table, operation, columns)

    def plan(self, file: str | Path) -> Plan:
        """What a migration would do here. Nothing is changed, and a plan with findings is still a plan."""
        from backfilld.migrations.planning import examine, plan  # noqa: PLC0415 - a third of the start, for this verb and `enqueue` alone

        migration = _load(file)
        with connected(self._settings.require_database()) as connection:
            return plan.make(
                migration,
                examine.examine(connection, migration, refuses_foreign_code=self._settings.refuses_foreign_code),
            )

    def enqueue(self, file: str | Path) -> Progress:
        """Start a migration, or find the run it has: a deploy may call this as often as it likes.

        Raises UsageError when the name belongs to another migration, Refused when preflight finds a reason. When Redis is
        away nothing is written, so that a deploy does not continue with workers that cannot be woken.
        """
        migration = _load(file)
        self._settings.require_database()
        _sender().check(self._settings.require_redis())
        run = self._record(migration, for_workers=True)
        self._wake(run)
        return self.status(run)

    def record(self, file: str | Path) -> Progress:
        """Enqueue into PostgreSQL alone, without Redis: any worker finds the run by itself within seconds."""
        return self.status(self._record(_load(file)))

    def _record(self, migration: Migration, *, for_workers: bool = False) -> int:
        with connected(self._settings.require_database()) as connection:
            schema.ensure(connection)
            warnings = transforms.require_allowed(connection, migration) if for_workers else ()
            enqueued = commands.enqueue(
                connection, migration, actor=self._actor, refuses_foreign_code=self._settings.refuses_foreign_code
            )
        for warning in (*warnings, *enqueued.warnings):
            self._warn(warning)
        return enqueued.run.run

    def _wake(self, run: int) -> None:
        """Wake the workers. The run is on record, so a failure here is only a warning: they find it by themselves."""
        try:
            with self._record_of_runs() as connection:
                messages = lanes.startable(connection, run)
            _sender().send(self._settings.require_redis(), [self._look(run), *messages])
        except Unreachable as exc:
            self._warn(
                f"the run is enqueued, but its workers could not be woken ({exc}); they will find it by themselves"
            )

    # --- looking -------------------------------------------------------------------------------------------------------

    def status(self, run: int | str) -> Progress:
        """Where a run is, by id or name, and whether it can still be rolled back."""
        from backfilld.migrations.rollback import check as rollback_check  # noqa: PLC0415 - knows every operation, which no other way of looking must
        from backfilld.migrations.rollback import retention  # noqa: PLC0415 - comes with it

        with self._record_of_runs() as connection:
            found = waiting.find(connection, run)
            way_back = rollback_check.look(connection, found)
            kept = retention.size(connection, found.run)
            return replace(
                _progress(connection, found), rollback=way_back.to_json(), journal_bytes=kept["journal_bytes"]
            )

    def explain(self, run: int | str) -> Explanation:
        """What a run is doing, what it waits for, and what would let it continue, in words."""
        from backfilld.monitoring import explain  # noqa: PLC0415 - for this verb alone

        with self._record_of_runs() as connection:
            return explain.read(connection, waiting.find(connection, run), self._settings.limits)

    def runs(self, *, ended: bool = True) -> list[Progress]:
        """Where all runs are, newest first."""
        with self._record_of_runs() as connection:
            return progress.read(connection, runs.listed(connection, ended=ended))

    def recent(self) -> tuple[list[Progress], int]:
        """The runs in progress and those that ended last, newest first; and how many more have ended."""
        with self._record_of_runs() as connection:
            return waiting.recent(connection)

    def check(self) -> None:
        """Raise Unreachable or UsageError when the database cannot be reached, or has no schema of ours."""
        with self._record_of_runs():
            pass

    def lanes(self, run: int | str) -> list[Lane]:
        """The lanes of a run, the coordinator first."""
        with self._record_of_runs() as connection:
            return lanes.of_run(connection, waiting.find(connection, run).run)

    def events(self, run: int | str) -> list[dict[str, Any]]:
        """Who did what, and every change of state, oldest first. Any: columns of the audit.

        Events of the whole database during the run's life are included, with None for the run: they are why it waited.
        """
        with self._record_of_runs() as connection:
            return audit.whole_story(connection, waiting.find(connection, run).run)

    def quarantine(self, run: int | str) -> list[Quarantined]:
        """The rows of a run that could not be converted, a thousand at most."""
        with self._record_of_runs() as connection:
            return quarantine.listed(connection, waiting.find(connection, run).run)

    def unconverted(self, run: int | str) -> tuple[Unconverted, ...]:
        """Some of the rows for which a run paused itself because they were too many; the quarantine does not have them."""
        with self._record_of_runs() as connection:
            return waiting.find(connection, run).unconverted

    # --- waiting -------------------------------------------------------------------------------------------------------

    def wait(
        self,
        run: int | str,
        timeout: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Progress:
        """Return when a run is completed, or verified and usable and only waits for an approval.

        Raises RunStopped when it failed, was cancelled, or was paused by what it met, and NotFinished after `timeout` seconds.
        """
        return self._until(run, waiting.has_ended_well, timeout=timeout, on_progress=on_progress)

    def wait_for_rollback(
        self,
        run: int | str,
        timeout: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Progress:
        """Return when a run is rolled back. Raises RunStopped when it failed on the way, NotFinished after `timeout` seconds."""
        return self._until(run, waiting.is_rolled_back, timeout=timeout, on_progress=on_progress)

    def gate(self, name: str, phase: str | None = None) -> bool:
        """Whether a migration's result can be relied on: the phase (default: switch) is over, and the data verified.

        Raises RunStopped when it failed or was cancelled, UsageError when there is no such run.
        """
        wanted = waiting.phase_named(phase or Phase.SWITCH)
        with self._record_of_runs() as connection:
            return waiting.is_open(waiting.find(connection, name), wanted)

    def wait_for_gate(
        self,
        name: str,
        phase: str | None = None,
        timeout: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Progress:
        """Return when the gate is open. Raises as `gate` does, and NotFinished after `timeout` seconds."""
        wanted = waiting.phase_named(phase or Phase.SWITCH)
        return self._until(name, lambda run: waiting.is_open(run, wanted), timeout=timeout, on_progress=on_progress)

    def watch(self, run: int | str | None = None) -> Iterator[list[Progress]]:
        """One run, or all in progress, again and again until they are over; runs that end meanwhile are shown to their end."""
        seen: set[int] = set()

        def look(connection: Connection) -> list[Progress]:
            return progress.read(connection, _to_watch(connection, run, seen))

        while True:
            now = self._patiently(look)
            seen.update(one.run for one in now)
            yield now
            if all(_is_over(one) for one in now):
                return
            time.sleep(POLL_SECONDS)

    def follow(self, run: int | str) -> Iterator[list[dict[str, Any]]]:
        """The events of a run so far, then new ones as they come, until it is over. Any: columns of the audit."""
        with self._record_of_runs() as connection:
            reference = waiting.find(connection, run).run  # a name may be taken by a newer run while we wait
        after = 0

        def look(connection: Connection) -> tuple[bool, list[dict[str, Any]]]:
            # Asked first whether it is over: what is written as it ends is then read with the rest.
            over = _is_over(waiting.find(connection, reference))
            return over, audit.whole_story(connection, reference, after=after)

        while True:
            over, news = self._patiently(look)
            after = max([after, *(event["event"] for event in news)])
            yield news
            if over:
                return
            time.sleep(POLL_SECONDS)

    def _until(
        self,
        run: int | str,
        reached: Callable[[Run], bool],
        *,
        timeout: float | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> Progress:
        timeout = self._settings.wait_timeout_seconds if timeout is None else timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._record_of_runs() as connection:
            reference = waiting.find(connection, run).run  # a name may be taken by a newer run while we wait

        def look(connection: Connection) -> tuple[Run, Progress]:
            found = waiting.find(connection, reference)
            return found, _progress(connection, found)

        while True:
            found, now = self._patiently(look)
            if on_progress is not None:
                on_progress(now)
            if reached(found):
                return now
            if deadline is not None and time.monotonic() >= deadline:
                raise NotFinished(waiting.how_far(now, after=f" after {timeout:g} s"))
            left = POLL_SECONDS if deadline is None else max(deadline - time.monotonic(), 0.0)
            time.sleep(min(POLL_SECONDS, left))

    # --- control -------------------------------------------------------------------------------------------------------

    def pause(self, run: int | str) -> Progress:
        """Stop a run until it is resumed. It is `pausing` until a worker finds no batch in flight."""
        with self._record_of_runs() as connection:
            return self._tell(connection, commands.pause(connection, run, actor=self._actor))

    def resume(self, run: int | str) -> Progress:
        """Let a paused or failed run continue from where it stopped."""
        with self._record_of_runs() as connection:
            return self._tell(connection, commands.resume(connection, run, actor=self._actor))

    def cancel(self, run: int | str) -> Progress:
        """Stop a run for good. It is `cancelling` until a worker finds no batch in flight."""
        with self._record_of_runs() as connection:
            return self._tell(connection, commands.cancel(connection, run, actor=self._actor))

    def rollback(self, run: int | str) -> Progress:
        """Roll a run back, wherever it is. It is `rolling_back` until everything it did is undone."""
        with self._record_of_runs() as connection:
            return self._tell(connection, commands.rollback(connection, run, actor=self._actor))

    def purge(self, run: int | str | None = None, *, now: bool = False) -> list[Purged]:
        """Drop the old values of every run whose retention has ended, or of one run; with `now`, of that one before it ends.

        Returns what was dropped. These runs can then no longer be rolled back where they changed or dropped values.
        """
        with self._record_of_runs() as connection:
            return commands.purge(connection, run, now=now, actor=self._actor)

    def approve(self, run: int | str, phase: str | None = None, *, yes: bool = False) -> Progress:
        """Let a phase begin that waits for a person, now or when it is reached; without a phase, the one that waits.

        Raises Refused for contract while the application sends statements that fail after it, unless `yes`.
        """
        return self.approved(run, phase, yes=yes)[0]

    def approved(self, run: int | str, phase: str | None = None, *, yes: bool = False) -> tuple[Progress, Phase]:
        """The same, with the phase that was approved."""
        with self._record_of_runs() as connection:
            done = commands.approve(connection, run, phase, actor=self._actor, yes=yes)
            return self._tell(connection, done.run), done.phase

    def accept_residual(self, run: int | str) -> Progress:
        """Let a run that paused for rows which the application keeps writing end with them; on record with who asked.

        Raises UsageError for a run that has not paused for such rows, and Refused where a rule of its file needs them right.
        """
        with self._record_of_runs() as connection:
            return self._tell(connection, commands.accept_residual(connection, run, actor=self._actor))

    def after_contract(self, run: int | str) -> tuple[AfterContract, ...]:
        """What the application can no longer do once the run has done its contract, and whether it still does it."""
        with self._record_of_runs() as connection:
            found = waiting.find(connection, run)
            return after_contract.read(connection, [found]).get(found.run, ())

    def retry(self, run: int | str) -> Progress:
        """Try all quarantined rows of a run again, and let it continue."""
        with self._record_of_runs() as connection:
            return self._tell(connection, commands.retry(connection, run, actor=self._actor))

    def pause_all(self) -> Stop:
        """Hold all runs of the database, runs enqueued later included, until `resume_all`. Needs no Redis.

        Their states do not change. Asked for again it changes nothing, and returns who asked first.
        """
        with self._record_of_runs() as connection:
            return commands.stop_all(connection, actor=self._actor)

    def resume_all(self) -> bool:
        """Lift the stop of all runs; False when there was none. A run with a pause of its own stays paused."""
        with self._record_of_runs() as connection:
            return commands.resume_all(connection, actor=self._actor)

    def pace(  # noqa: PLR0913 - what can be changed, each by its name
        self,
        run: int | str | None = None,
        *,
        lanes: int | None = None,
        batch_seconds: float | None = None,
        nice: float | None = None,
        give_way_ms: int | None = None,
        lock_timeout_ms: int | None = None,
        lock_deadline_seconds: float | None = None,
        cancel_blockers: str | None = None,
        cancel_after_seconds: float | None = None,
        max_quarantined: int | None = None,
        windows: Sequence[str] | None = None,
        width: int | None = None,
    ) -> PaceReport:
        """Change the settings named, from a run's next batch on, and return the pace; with none named, only return it.

        `width` is how many lanes of all runs of the database may work at once; it needs no run. `windows=()` means any time.
        """
        given = {
            "lanes": lanes,
            "batch_seconds": batch_seconds,
            "nice": nice,
            "give_way_ms": give_way_ms,
            "lock_timeout_ms": lock_timeout_ms,
            "lock_deadline_seconds": lock_deadline_seconds,
            "cancel_blockers": cancel_blockers,
            "cancel_after_seconds": cancel_after_seconds,
            "max_quarantined": max_quarantined,
            "windows": None if windows is None else list(windows),
        }
        changes = {name: value for name, value in given.items() if value is not None}
        with self._record_of_runs() as connection:
            changed = commands.tune(connection, run, changes, width=width, actor=self._actor)
            found = None if run is None else waiting.find(connection, run)
            return pace.read(connection, self._settings.limits, found, changed=changed)

    def _tell(self, connection: Connection, run: int) -> Progress:
        """Wake the workers: the wish is on record, and the messages only make them look at once.

        The verb is always `wake`, never the wish itself: a `pause` that is delivered late, or twice, must not stop a run
        that was resumed meanwhile.
        """
        now = _progress(connection, waiting.find(connection, run))
        redis_url = self._settings.redis_url
        if redis_url:
            try:
                _sender().send(redis_url, [self._look(run), *lanes.startable(connection, run)])
            except Unreachable as exc:
                self._warn(f"recorded, but the workers could not be woken ({exc}); they will see it by themselves")
        return now

    def _look(self, run: int) -> ControlMessage:
        """Makes the side tasks look at once, that were idle or would look soon."""
        return ControlMessage(target=TARGET, run=run, verb="wake", actor=self._actor)

    # --- connections ---------------------------------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        """The limits of load signals in the settings of this process."""
        return self._settings.limits

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection to the record that is kept open, for a caller that reads often. Raises as every method does."""
        with self._record_of_runs() as connection:
            yield connection

    @contextmanager
    def _record_of_runs(self) -> Iterator[Connection]:
        with waiting.record(self._settings.require_database()) as connection:
            yield connection

    def _patiently(self, look: Callable[[Connection], T]) -> T:
        """Read for a caller that waits: retried while PostgreSQL is away. Raises Unreachable when it stays away."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with self._record_of_runs() as connection:
                    return look(connection)
            except Unreachable:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(POLL_SECONDS)


def _sender() -> ModuleType:
    """The module that sends, imported late: the clients of Redis and Dramatiq are a fifth of the start of `pause`."""
    from backfilld.migrations.wire import send  # noqa: PLC0415 - see above

    return send


def _progress(connection: Connection, run: Run) -> Progress:
    return progress.read(connection, [run])[0]


def _to_watch(connection: Connection, run: int | str | None, seen: set[int]) -> list[Run]:
    if run is not None:
        return [waiting.find(connection, run)]
    return [one for one in runs.listed(connection, ended=True) if one.run in seen or not _is_over(one)]


def _is_over(run: Run | Progress) -> bool:
    return run.state in ENDED | {State.FAILED}


def _load(file: str | Path) -> Migration:
    # Late: the models of all operations are a quarter of the time that `status` takes.
    from backfilld.migrations.file import migration as definition  # noqa: PLC0415 - see above

    return definition.load(file)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
