"""Indexes that are built beside a test: who holds a build up, and a worker that takes one step meanwhile."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from backfilld.migrations.postgres import indexes
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_runs import Engine

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run
    from backfilld.migrations.wire.messages import LaneMessage

_BUILDER = "application_name LIKE 'backfilld run=% index'"
BUILDING = f"SELECT count(*) FROM pg_stat_activity WHERE {_BUILDER} AND datname = current_database()"


def index(engine: Engine, name: str, schema: str = "public") -> indexes.Named | None:
    return indexes.find(engine.connection, schema, name)


def to_build(run: Run) -> bool:
    """The next step is the build."""
    return run.phase is Phase.VERIFY and run.verified_at is not None


@contextmanager
def aside(engine: Engine, message: LaneMessage, **runner: Any) -> Iterator[threading.Thread]:
    """A worker that takes one step, beside the test. Any: options of `Engine.runner`."""
    thread = threading.Thread(target=engine.runner(**runner).advance, args=(message,))
    thread.start()
    try:
        yield thread
    finally:
        thread.join(timeout=60)
        assert not thread.is_alive()


@contextmanager
def open_writer(engine: Engine) -> Iterator[Connection]:
    """A transaction that has written the table: a build waits for its end."""
    with engine.connect() as application, application.transaction():
        application.execute("UPDATE jobs SET status = status WHERE id = 1")
        yield application


@contextmanager
def open_snapshot(engine: Engine) -> Iterator[Connection]:
    """A transaction with a snapshot, which has to do with another table: a build waits for it at its end."""
    with engine.connect() as application:
        application.execute("CREATE TABLE IF NOT EXISTS others (id bigint)")
        application.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with application.transaction():
            application.execute("SELECT FROM others")
            yield application


def phase_of_build(engine: Engine) -> str | None:
    rows = engine.execute("SELECT phase FROM pg_stat_progress_create_index WHERE datname = current_database()")
    return rows[0]["phase"] if rows else None
