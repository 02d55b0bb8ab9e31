"""`backfilld run`: one process that works on runs until their end, one after the other, with lanes, side tasks and progress.

With no Redis configured the queue is in memory; the record is in PostgreSQL as ever, so `backfilld pause` from another
terminal works, and a daemon may take the run over afterwards.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import psycopg
from rich.console import Console

from backfilld.migrations import settings as settings_
from backfilld.migrations.errors import BackfilldError, Unreachable
from backfilld.migrations.holds import blind_because
from backfilld.migrations.postgres import connect
from backfilld.migrations.record import pace, runs
from backfilld.migrations.record.lanes import startable
from backfilld.migrations.record.states import ENDED, Phase, State
from backfilld.migrations.wire.broker import connect_broker, in_memory
from backfilld.migrations.wire.send import check, sender
from backfilld.monitoring import display, logs, progress
from backfilld.monitoring.next_command import next_command
from backfilld.monitoring.observers import Observers
from backfilld.worker.lanes.wiring import start_lanes
from backfilld.worker.side_tasks.presence import announced
from backfilld.worker.side_tasks.wiring import start_side_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.record.model import Run
    from backfilld.migrations.settings import Settings
    from backfilld.migrations.wire.broker import AnyBroker
    from backfilld.migrations.wire.send import Sender
    from backfilld.monitoring.progress import Progress

#: How often progress is read and shown.
SHOW_SECONDS = 0.5
#: How long to wait for the governor's first reading; without one the reconciler wakes the lanes later.
FIRST_READING_SECONDS = 5.0
#: How long a database that went away may stay away.
PATIENCE_SECONDS = 60.0


def main() -> int:
    """Work on each run until it has ended, waits for a person, or is stopped. Returns the exit code; the first failure ends it."""
    parser = argparse.ArgumentParser(prog="backfilld run")
    parser.add_argument("runs", type=int, nargs="+", metavar="run")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--cancel", action="store_true", help="the run is to be cancelled: that is no failure")
    parser.add_argument("--folder", action="store_true", help="the runs are of a folder: --json prints a list")
    parser.add_argument(
        "--threads", type=int, default=None, help="lanes worked on at once; as many as the run has by default"
    )
    arguments = parser.parse_args()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signal, _frame: stopping.set())
    logs.configure(level="warning")
    try:
        seen = _work(
            settings_.load(), arguments.runs, threads=arguments.threads, quiet=arguments.as_json, stopping=stopping
        )
    except (BackfilldError, psycopg.Error) as exc:
        return _fail(exc, as_json=arguments.as_json)
    if arguments.as_json:
        shown = [one.to_json() for one in seen]
        print(json.dumps({"runs": shown} if arguments.folder else shown[0]))  # noqa: T201 - the command's answer
    else:
        for one in seen:
            if then := next_command(one.name, one.state, one.phase, error_class=one.error_class):
                print(f"next: {then}")  # noqa: T201 - the command's answer
    if arguments.cancel and seen[-1].state is State.CANCELLED:
        return 0
    return _exit_code(seen[-1], stopped=stopping.is_set())


def _fail(exc: BackfilldError | psycopg.Error, *, as_json: bool) -> int:
    """One message on stderr, as every verb has it. Returns the exit code."""
    code = exc.exit_code if isinstance(exc, BackfilldError) else Unreachable.exit_code
    message = str(exc).strip()
    error = json.dumps({"error": {"class": type(exc).__name__, "exit_code": code, "message": message}})
    print(error if as_json else f"error: {message}", file=sys.stderr)  # noqa: T201 - the command's answer
    return code


def _work(
    settings: Settings, wanted: Sequence[int], *, threads: int | None, quiet: bool, stopping: threading.Event
) -> list[Progress]:
    """Work on the runs in turn; how each stands at last, up to the first that did not get where it should."""
    url = settings.require_database()
    with connect.connected(url) as connection:
        found = [_found(connection, run) for run in wanted]
        if all(run.state in ENDED for run in found):
            seen = [_look(connection, run.run) for run in found]
            with display.Watch(Console(quiet=quiet)) as watch:
                watch.show(seen)
            return seen
    observe = Observers()
    broker = _broker(settings, observe)
    tasks = start_side_tasks(settings, broker, observe=observe, consume_control=False)
    width = threads or max(run.settings.lanes for run in found)
    lanes = start_lanes(settings, broker, threads=width, observe=observe)
    seen = []
    try:
        with announced(url, transforms=settings.transforms, look=lambda: (True, None)):
            for run in wanted:
                _wake(url, run, sender(broker))
                with display.Watch(Console(quiet=quiet)) as watch:
                    seen.append(_watch(url, run, watch, stopping))
                if _exit_code(seen[-1], stopped=stopping.is_set()):
                    break
    finally:
        lanes.stop()
        tasks.stop()
        broker.close()
    return seen


def _broker(settings: Settings, observe: Observers) -> AnyBroker:
    """Redis where it is there, so that a daemon helps; without it the work is done here all the same."""
    if settings.redis_url is None:
        return in_memory()
    try:
        check(settings.redis_url)
    except Unreachable as exc:
        print(f"warning: {exc}; working in this process alone", file=sys.stderr)  # noqa: T201 - the command's answer
        return in_memory()
    return connect_broker(settings.redis_url, observe=observe)


def _wake(url: str, run: int, send: Sender) -> None:
    """Wake the run's lanes as soon as there is a reading of the load, without which they would only be held."""
    with connect.connected(url) as connection:
        deadline = time.monotonic() + FIRST_READING_SECONDS
        while blind_because(pace.read(connection).age_seconds) and time.monotonic() < deadline:
            time.sleep(0.02)
        for message in startable(connection, run):
            try:
                send(message)
            except Exception:  # noqa: BLE001 - whatever the broker raises: the reconciler wakes the lanes a little later
                return


def _watch(url: str, run: int, watch: display.Watch, stopping: threading.Event) -> Progress:
    """Show the run until there is nothing more to do here. Raises Unreachable when the database stays away."""
    away_since: float | None = None
    while True:
        try:
            with connect.connected(url) as connection:
                while True:
                    now = _look(connection, run)
                    away_since = None
                    watch.show([now])
                    if now.state in ENDED | {State.WAITING, State.FAILED, State.PAUSED} or stopping.wait(SHOW_SECONDS):
                        return now
        except (psycopg.Error, Unreachable):
            away_since = away_since or time.monotonic()
            if stopping.is_set() or time.monotonic() - away_since > PATIENCE_SECONDS:
                raise
            stopping.wait(SHOW_SECONDS)


def _look(connection: connect.Connection, run: int) -> Progress:
    return progress.read(connection, [_found(connection, run)])[0]


def _found(connection: connect.Connection, run: int) -> Run:
    found = runs.get(connection, run)
    if found is None:
        msg = f"there is no run {run}"
        raise BackfilldError(msg)
    return found


def _exit_code(last: Progress, *, stopped: bool) -> int:
    if last.state in {State.COMPLETED, State.ROLLED_BACK}:
        return 0
    if last.state is State.WAITING:
        return 0 if last.verified and last.phase.is_past(Phase.SWITCH) else 4
    if stopped and last.state not in ENDED | {State.FAILED}:
        return 4
    return 1


if __name__ == "__main__":
    sys.exit(main())
