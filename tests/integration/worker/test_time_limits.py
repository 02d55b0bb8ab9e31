"""Limits of time that a role or a database has for the application's sessions: ours are not cut off by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld import Client
from backfilld.migrations.holds import Cause
from backfilld.migrations.postgres.connect import TIME_LIMITS, connect, open_pool
from backfilld.migrations.record.states import State
from backfilld.migrations.settings import Limits
from backfilld.monitoring import explain
from backfilld.worker.lanes import claim

if TYPE_CHECKING:
    from pathlib import Path

    from fix_runs import Engine

    from backfilld.migrations.postgres.connect import Connection

ADD = """
name: shout
operations:
  - add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)"}
settings: {lanes: 1, walk: keys, approve: []}
"""


@pytest.fixture(autouse=True)
def limits(engine: Engine) -> list[str]:
    """The limits that this server knows, each of a few milliseconds for every session that begins after this."""
    known = [
        row["name"] for row in engine.execute("SELECT name FROM pg_settings WHERE name = ANY(%s)", list(TIME_LIMITS))
    ]
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
    engine.execute("INSERT INTO jobs SELECT n, 'open' FROM generate_series(1, 100) n")
    database = engine.value("SELECT quote_ident(current_database())")
    for name in known:
        engine.execute(f"ALTER DATABASE {database} SET {name} = '100ms'")
    return known


def slow_rows(engine: Engine, seconds: float) -> None:
    """Each row that is written takes so long."""
    engine.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END $$"
    )
    engine.execute("CREATE TRIGGER dawdle BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION dawdle()")


def shown(connection: Connection, limits: list[str]) -> dict[str, str]:
    row = connection.execute(
        "SELECT jsonb_object_agg(name, current_setting(name)) AS shown FROM unnest(%s::text[]) name", [limits]
    ).fetchone()
    assert row is not None
    found: dict[str, str] = row["shown"]
    return found


def test_no_session_of_ours_has_them(engine: Engine, limits: list[str]) -> None:
    with engine.connect() as application:
        assert shown(application, limits) == dict.fromkeys(limits, "100ms")
    with connect(engine.url) as alone, open_pool(engine.url, size=1) as pool, pool.connection() as of_pool:
        for connection in (alone, of_pool):
            assert shown(connection, limits) == dict.fromkeys(limits, "0")


def test_a_run_is_enqueued_and_ends_under_them(engine: Engine, tmp_path: Path) -> None:
    """A batch takes longer than a transaction, a statement and a wait may take in this database."""
    slow_rows(engine, 0.003)
    file = tmp_path / "shout.yaml"
    file.write_text(ADD, encoding="utf-8")
    run = Client(engine.url).record(file).run
    with open_pool(engine.url, size=4) as pool:
        expect(engine.drive(run, runner=engine.runner(pool=pool)), State.COMPLETED)


@pytest.mark.since(17)
def test_a_batch_fits_into_a_limit_that_cannot_be_lifted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a pooler; here our own limit of a transaction is too short."""
    slow_rows(engine, 0.005)
    run = engine.enqueue(ADD)
    (lane,) = engine.drive_to_lanes(run)
    monkeypatch.setattr(claim, "TRANSACTION_TIMEOUT_FACTOR", 0.04)
    engine.step()
    after = engine.lane(run, lane.lane)
    assert after.last_error is not None
    assert after.last_error["class"] == "connection"
    assert "the connection was lost" in after.last_error["message"]
    told = explain.read(engine.connection, engine.run(run), Limits())
    assert told.cause is Cause.ERROR
    assert any("transaction_timeout" in remedy for remedy in told.remedies)
    expect(engine.drive(run), State.COMPLETED)
