"""Waiting for runs from Python: until they are done, until a gate is open, and for whatever happens next."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from backfilld.migrations.errors import NotFinished, Unreachable
from backfilld.migrations.record import audit, runs
from backfilld.migrations.record.states import ENDED, Phase, State
from backfilld.monitoring import progress
from backfilld.producers import waiting
from backfilld.producers.looking import Looking, progress_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run
    from backfilld.monitoring.progress import Progress

#: How often a waiting caller reads the record: neither a person nor the database notices.
POLL_SECONDS = 0.5
#: Waiting outlives a restart of PostgreSQL, as the run does; an absence longer than this is an error.
PATIENCE_SECONDS = 60.0

T = TypeVar("T")


class Following(Looking):
    """The methods that wait. They outlive a minute without PostgreSQL, as a run does."""

    def wait(
        self,
        run: int | str,
        timeout: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Progress:
        """Return when a run is completed, or verified and usable and only waits for an approval.

        Raises RunStopped when it failed, was cancelled, or was paused by what it met, and NotFinished after `timeout` seconds.
        An approval that is missing earlier, of the switch for one, is waited for: somebody else may give it.
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
            return found, progress_of(connection, found)

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


def _to_watch(connection: Connection, run: int | str | None, seen: set[int]) -> list[Run]:
    if run is not None:
        return [waiting.find(connection, run)]
    return [one for one in runs.listed(connection, ended=True) if one.run in seen or not _is_over(one)]


def _is_over(run: Run | Progress) -> bool:
    return run.state in ENDED | {State.FAILED}
