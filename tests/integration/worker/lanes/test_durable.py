"""What waits for the disk when it commits, and what becomes of a lane that a crash has taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_runs import expect

from backfilld.migrations.postgres.connect import connect
from backfilld.migrations.record import step_context
from backfilld.migrations.record.states import State

if TYPE_CHECKING:
    from fix_runs import Engine

FILE = "name: once\noperations: [{{backfill: {{table: jobs, set: {{n: '{}'}}}}}}]\nsettings: {{lanes: 1, {}}}\n"
ROWS = 30


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n integer NOT NULL)")
    engine.execute("INSERT INTO jobs SELECT n, n FROM generate_series(1, %s) n", ROWS)


def listen(engine: Engine, setting: str) -> None:
    """Have batches and events tell how they commit, in a database where the default is `setting`."""
    name = psycopg.conninfo.conninfo_to_dict(engine.url)["dbname"]
    engine.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = {setting}')
    engine.execute("CREATE TABLE told (who text, waits text)")
    engine.execute(
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO public.told VALUES (tg_argv[0], pg_catalog.current_setting('synchronous_commit')); RETURN NULL; END $$"
    )
    for who, on in (
        ("batch", "UPDATE ON jobs"),
        ("event", "INSERT ON backfilld.events"),
        ("run", "UPDATE ON backfilld.runs"),
    ):
        engine.execute(f"CREATE TRIGGER tell AFTER {on} FOR EACH STATEMENT EXECUTE FUNCTION tell({who})")


@pytest.mark.parametrize(
    ("server", "expression", "settings", "batches", "others"),
    [
        ("on", "n + 1", "", "off", "on"),
        ("remote_apply", "n + 1", "", "off", "remote_apply"),
        ("local", "n + 1", "durable_batches: true", "local", "local"),
        # A role's or a database's own `off` is for the application, whose gates these are not.
        ("off", "n + 1", "", "off", "on"),
        ("off", "n + 1", "durable_batches: true", "on", "on"),
        # An application may have acted upon a value that would be another the next time.
        ("on", "(random() * 9)::integer", "", "on", "on"),
    ],
)
def test_batches_alone_do_not_wait(
    engine: Engine, server: str, expression: str, settings: str, batches: str, others: str
) -> None:
    listen(engine, server)
    with connect(engine.url) as person:
        engine.connection = person  # whose commands are the command line's
        run = engine.enqueue(FILE.format(expression, settings))
        expect(engine.drive(run), State.COMPLETED)
        told = {(row["who"], row["waits"]) for row in engine.execute("SELECT DISTINCT who, waits FROM public.told")}
    assert told == {("batch", batches), ("event", others), ("run", others)}


def test_what_was_known_of_a_lane_before_a_crash_is_not_its_next_batch(engine: Engine) -> None:
    """Behind a pooler a worker's connection outlives the server: its `seq` is another batch's by now, done by another worker."""
    run = engine.enqueue(FILE.format("n + 1", "walk: keys"))
    (lane,) = engine.drive_to_lanes(run)
    engine.execute("UPDATE backfilld.lanes SET batch_rows = 3")
    engine.execute("CREATE TABLE saved AS SELECT * FROM backfilld.lanes")
    engine.own.advance(engine.message(run, lane.lane))
    before = engine.lane(run, lane.lane)
    assert before.seq == lane.seq + 1
    context = step_context.read(engine.connection, run)

    # The crash takes the batch back, and what another worker does in its place is longer.
    engine.execute("UPDATE jobs SET n = id")
    engine.execute(
        "UPDATE backfilld.lanes l SET seq = s.seq, cursor = s.cursor, batch_rows = %s FROM saved s "
        "WHERE (s.run, s.lane) = (l.run, l.lane) AND l.kind = 'backfill'",
        ROWS - 5,
    )
    engine.own.advance(engine.message(run, lane.lane))
    assert engine.lane(run, lane.lane).seq == before.seq

    with engine.pool.connection() as connection:
        engine.own._step(connection, before, context)
    late = [message for message in engine.sent if message.seq == before.seq]
    assert late, "the message of the batch that is no more"
    for message in (*late, *late):
        engine.own.advance(message)
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT count(*) FROM jobs WHERE n <> id + 1") == 0
