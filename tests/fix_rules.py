"""Rules about data under test: what stands at a moment, the way back from every step, and an application that goes on writing."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from fix_runs import PACE_SECONDS, Engine, expect
from psycopg.rows import dict_row

from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import schema
from backfilld.migrations.record.states import State
from backfilld.producers import commands
from proof.fingerprint import difference, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

#: More steps than any of these runs takes.
_MANY_STEPS = 100
#: Every other step: it is steps of one kind that follow one another, and `proof/test_proof.py` dies at any statement of them.
_STRIDE = 2


@contextmanager
def engine_at(url: str) -> Iterator[Engine]:
    """An engine for a database that has no control schema yet, as the role of the URL."""
    with (
        psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection,
        open_pool(url, size=4) as pool,
    ):
        schema.ensure(connection)
        engine = Engine(url=url, connection=connection, pool=pool)
        engine.set_pace()
        yield engine


def rules(engine: Engine, table: str = "orders") -> dict[str, str]:
    """The constraints of a table by name, as PostgreSQL writes them, with NOT VALID where they are not proved."""
    rows = engine.execute(
        "SELECT conname AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint "
        "WHERE conrelid = %s::regclass AND contype IN ('c', 'f')",
        table,
    )
    return {row["name"]: row["definition"] for row in rows}


def shape(engine: Engine, table: str = "orders") -> list[dict[str, object]]:
    """All that these operations change of a table and its partitions."""
    return engine.execute(
        "SELECT r.oid::regclass::text AS relation, conname AS name, pg_get_constraintdef(c.oid) AS definition "
        "FROM (SELECT oid FROM pg_class WHERE oid = %s::regclass UNION SELECT relid FROM pg_partition_tree(%s::regclass)) r "
        "JOIN pg_constraint c ON c.conrelid = r.oid UNION ALL "
        "SELECT r.oid::regclass::text, attname, attnotnull::text "
        "FROM (SELECT oid FROM pg_class WHERE oid = %s::regclass UNION SELECT relid FROM pg_partition_tree(%s::regclass)) r "
        "JOIN pg_attribute a ON a.attrelid = r.oid AND attnum > 0 ORDER BY 1, 2, 3",
        *[table] * 4,
    )


def back_from_every_other_step(engine: Engine, text: str, table: str = "orders") -> int:
    """Roll the migration back after every other step of its coordinator, the last one included; returns how many there were.

    Each time the table is as it was before.
    """
    before = shape(engine, table)
    for steps in range(0, _MANY_STEPS, _STRIDE):
        engine.sent.clear()
        run = engine.enqueue(text)
        engine.drive(run, until=lambda run, steps=steps: engine.lane(run.run, 0).seq >= steps)  # type: ignore[misc] # a default
        completed = engine.run(run).state is State.COMPLETED
        commands.rollback(engine.connection, run, actor="ann")
        expect(engine.drive(run), State.ROLLED_BACK)
        assert shape(engine, table) == before, f"after {steps} steps"
        if completed:
            return steps
    msg = "the run is never completed"
    raise AssertionError(msg)


@contextmanager
def application(engine: Engine, *statements: str, threads: int = 2) -> Iterator[list[psycopg.Error]]:
    """An application that runs these statements again and again; gives the errors it meets. `{n}` is a number of its own."""
    stop, failures, counts = threading.Event(), list[psycopg.Error](), [0] * threads

    def write(thread: int) -> None:
        with engine.connect() as connection:
            while not stop.is_set():
                counts[thread] += 1
                for statement in statements:
                    try:
                        connection.execute(
                            statement.replace("{n}", str(1000 * (thread + 1) + counts[thread] % 50)).encode()
                        )
                    except psycopg.Error as exc:
                        failures.append(exc)
                stop.wait(PACE_SECONDS)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
    for writer in writers:
        writer.start()
    try:
        yield failures
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert all(counts), "every writer wrote"


def whole_way_back_from_every_other_step(engine: Engine, text: str) -> int:
    """Roll the migration back after every other step of its coordinator, the last one included; returns how many there were.

    Each time all that the catalog says of the database is as it was before.
    """
    before = fingerprint(engine.connection, positions=False)
    for steps in range(0, _MANY_STEPS, _STRIDE):
        engine.sent.clear()
        run = engine.enqueue(text)
        engine.drive(run, until=lambda run, steps=steps: engine.lane(run.run, 0).seq >= steps)  # type: ignore[misc] # a default
        completed = engine.run(run).state is State.COMPLETED
        commands.rollback(engine.connection, run, actor="ann")
        expect(engine.drive(run), State.ROLLED_BACK)
        assert difference(before, fingerprint(engine.connection, positions=False)) == "", f"after {steps} steps"
        if completed:
            return steps
    msg = "the run is never completed"
    raise AssertionError(msg)
