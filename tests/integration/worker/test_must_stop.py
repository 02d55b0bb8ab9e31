"""Every verb that stops a run, and every kind of step that may be under way: the step ends within about a second, and comes
back as it was.

Steps that call a Python function are in `lanes/test_transform.py`: there is no statement that could be cancelled.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from fix_daemon import until
from fix_indexes import aside, open_writer, phase_of_build, to_build
from fix_stops import STOPS

from backfilld.migrations.record.states import Phase
from backfilld.producers import commands
from backfilld.worker.side_tasks.control import Control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from fix_runs import Engine

    from backfilld.migrations.record.model import Lane

ROWS = 20
#: The grace, two looks of the control and the cancel take half of it.
MOST_SECONDS = 1.5

SETTINGS = "settings: {lanes: 1, walk: keys, approve: [], lock_timeout_ms: 1000}"
ADD = f"""
name: add
operations: [{{add_column: {{table: jobs, column: {{name: shout, type: text}}, backfill: "public.loud(status)"}}}}]
{SETTINGS}
"""
IN_PLACE = f'name: in-place\noperations: [{{backfill: {{table: jobs, set: {{n: "n + 1"}}}}}}]\n{SETTINGS}'
DROP = f"name: drop\noperations: [{{drop_column: {{table: jobs, column: n}}}}]\n{SETTINGS}"
INDEX = f"name: index\noperations: [{{create_index: {{table: jobs, name: by_status, columns: [status]}}}}]\n{SETTINGS}"

LOUD = "CREATE OR REPLACE FUNCTION public.loud(text) RETURNS text IMMUTABLE STRICT LANGUAGE plpgsql AS $$ BEGIN %s RETURN upper($1); END $$"
#: The expression of the lanes hangs from now on.
SLOW = LOUD % "PERFORM pg_sleep(60);"
ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
QUEUING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'backfilld run=%'"
)


def hangs(table: str) -> str:
    """Whatever writes the table hangs from now on."""
    return (
        "CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN new; END $$;"
        f"CREATE TRIGGER hang BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION hang()"
    )


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text, n bigint)")
    engine.execute("INSERT INTO jobs SELECT n, 'open', n FROM generate_series(1, %s) n", ROWS)
    engine.execute(LOUD % "")


# --- how each kind of step gets under way: each gives the lane whose next step will hang ---------------------------------


def backfill(engine: Engine) -> Lane:
    (lane,) = engine.drive_to_lanes(engine.enqueue(ADD))
    engine.execute(SLOW)
    return lane


def verify(engine: Engine) -> Lane:
    (lane,) = engine.drive_to_lanes(engine.enqueue(ADD), "verify")
    engine.execute(SLOW)
    return lane


def retry(engine: Engine) -> Lane:
    engine.execute(LOUD % "IF $1 = 'bad' THEN RAISE 'no' USING ERRCODE = '22000'; END IF;")
    engine.execute("UPDATE jobs SET status = 'bad' WHERE id = 7")
    run = engine.enqueue(ADD.replace("lanes: 1", "lanes: 1, max_quarantined: 1"))
    engine.drive(run)
    commands.retry(engine.connection, run, actor="ann")
    (lane,) = engine.lanes(run, "retry")
    engine.execute(SLOW)
    return lane


def archive(engine: Engine) -> Lane:
    run = engine.enqueue(DROP)
    (lane, *_) = engine.drive_to_lanes(run, "archive")
    engine.execute(hangs(f"backfilld.archive_{run}"))
    return lane


def restore(engine: Engine) -> Lane:
    run = engine.enqueue(DROP)
    engine.drive(run)
    commands.rollback(engine.connection, run, actor="ann")
    (lane, *_) = engine.drive_to_lanes(run, "restore")
    engine.execute(hangs("jobs"))
    return lane


def undo(engine: Engine) -> Lane:
    run = engine.enqueue(IN_PLACE)
    engine.drive(run)
    commands.rollback(engine.connection, run, actor="ann")
    (lane,) = engine.drive_to_lanes(run, "undo")
    engine.execute(hangs("jobs"))
    return lane


def ddl(engine: Engine) -> Lane:
    run = engine.enqueue(ADD)
    # What comes first needs no lock: the sync trigger's function is emptied.
    engine.drive(run, until=lambda run: run.phase is Phase.CONTRACT and engine.lane(run.run, 0).cursor == 1)
    return engine.lane(run, 0)


def index_build(engine: Engine) -> Lane:
    run = engine.enqueue(INDEX)
    engine.drive(run, until=to_build)
    return engine.lane(run, 0)


@contextmanager
def reading(engine: Engine) -> Iterator[None]:
    with engine.connect() as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM jobs")
        yield


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of step."""

    prepare: Callable[[Engine], Lane]
    #: Who is in its way meanwhile.
    beside: Callable[[Engine], AbstractContextManager[Any]] = nullcontext  # Any: nobody looks at it
    hangs: Callable[[Engine], object] = lambda engine: engine.value(ASLEEP)
    verbs: tuple[str, ...] = tuple(STOPS)


#: A run that goes back is neither paused nor cancelled; all runs can be stopped.
ON_THE_WAY_BACK = ("pause --all",)
CASES = {
    "backfill": Case(prepare=backfill),
    "verify": Case(prepare=verify),
    "retry": Case(prepare=retry),
    "archive": Case(prepare=archive),
    "restore": Case(prepare=restore, verbs=ON_THE_WAY_BACK),
    "undo": Case(prepare=undo, verbs=ON_THE_WAY_BACK),
    "ddl": Case(prepare=ddl, beside=reading, hangs=lambda engine: engine.value(QUEUING)),
    "index build": Case(prepare=index_build, beside=open_writer, hangs=phase_of_build),
}


@pytest.mark.parametrize(("kind", "verb"), [(kind, verb) for kind, case in CASES.items() for verb in case.verbs])
def test_a_step_under_way_ends_and_comes_back_as_it_was(engine: Engine, kind: str, verb: str) -> None:
    case = CASES[kind]
    lane = case.prepare(engine)
    control = Control(observe=engine.events.append)
    with case.beside(engine), aside(engine, engine.message(lane.run, lane.lane)) as worker:
        until("the step to be under way", lambda: case.hangs(engine), patience_seconds=30)
        # When
        STOPS[verb](engine, lane.run)
        told = time.monotonic()
        while worker.is_alive():
            control.wait(control.run_once(engine.connection), threading.Event())
    # Then
    assert time.monotonic() - told < MOST_SECONDS
    after = engine.lane(lane.run, lane.lane)
    assert (after.seq, after.attempts, after.last_error) == (lane.seq, 0, None)


@pytest.mark.parametrize("kind", ["backfill", "verify", "retry", "archive"])
def test_no_step_of_the_way_forward_begins_while_a_rollback_is_pending(engine: Engine, kind: str) -> None:
    """An archiving lane works on the way back too, but this one was made on the way forward."""
    lane = CASES[kind].prepare(engine)
    with engine.connect() as other, other.transaction():
        # Held, so that the coordinator cannot begin the rollback.
        other.execute("SELECT FROM backfilld.lanes WHERE run = %s AND lane = 0 FOR UPDATE", [lane.run])
        commands.rollback(engine.connection, lane.run, actor="ann")
        told = time.monotonic()
        engine.runner().advance(engine.message(lane.run, lane.lane))
    assert time.monotonic() - told < MOST_SECONDS, "it began, and hung until the server ended it"
    after = engine.lane(lane.run, lane.lane)
    assert (after.seq, after.attempts, after.last_error) == (lane.seq, 0, None)
