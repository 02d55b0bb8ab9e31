"""Plans of the application's statements on a replica that is named; a replica that cannot be used is told, and the primary left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from fix_daemon import until
from fix_runs import Engine, expect
from psycopg.rows import dict_row

from backfilld.migrations.application.replica import NotUsable, reader
from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import audit
from backfilld.migrations.record.states import State
from backfilld.producers import enqueueing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backfilld.producers.demo.servers import EmbeddedPostgres

#: Plans under these show where they were made: by default the statement uses its index.
NO_INDEXES = "-c enable_indexscan=off -c enable_bitmapscan=off"

MIGRATION = """
name: without-note
operations:
  - drop_column: {table: jobs, column: note}
application:
  statements: {files: [jobs.sql], window: 1s}
  on_regression: warn
settings: {approve: []}
"""


@pytest.fixture
def primary(embedded_database_url: str) -> Iterator[Engine]:
    with (
        psycopg.connect(embedded_database_url, autocommit=True, row_factory=dict_row) as connection,
        open_pool(embedded_database_url, size=4) as pool,
    ):
        engine = Engine(url=embedded_database_url, connection=connection, pool=pool)
        engine.set_pace()
        engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text, note text)")
        engine.execute("INSERT INTO jobs SELECT n, 's' || n, repeat('x', 100) FROM generate_series(1, 2000) n")
        engine.execute("CREATE INDEX jobs_status_idx ON jobs (status)")
        engine.execute("VACUUM ANALYZE jobs")
        yield engine


def follower(standby: EmbeddedPostgres, engine: Engine, *, options: str = "") -> str:
    """Where the same database is on the standby."""
    return standby.url(urlsplit(engine.url).path.removeprefix("/")) + (f"?options={quote(options)}" if options else "")


def enqueue(engine: Engine, folder: Path, replica_url: str) -> int:
    (folder / "jobs.sql").write_text("SELECT id FROM jobs WHERE status = 's7';\n", encoding="utf-8")
    (folder / "m.yaml").write_text(MIGRATION, encoding="utf-8")
    migration = definition.load(folder / "m.yaml")
    return enqueueing.enqueue(engine.connection, migration, actor="test", replica_url=replica_url).run.run


def test_statements_are_planned_on_the_replica_that_is_named(
    primary: Engine, standby: EmbeddedPostgres, tmp_path: Path
) -> None:
    where = follower(standby, primary, options=NO_INDEXES)
    run = enqueue(primary, tmp_path, where)
    expect(primary.drive(run, runner=primary.runner(replica_url=where)), State.COMPLETED)
    plans = primary.value("SELECT plans FROM backfilld.application_statements WHERE plans <> '{}' LIMIT 1")
    assert {moment: plan["shape"] for moment, plan in plans.items()} == dict.fromkeys(
        ("before", "after_switch", "before_contract"), "Seq Scan jobs"
    )
    assert plans["before"]["buffers"] is not None  # it was run, not only planned


def test_a_replica_that_lags_or_is_none_is_not_asked(
    primary: Engine, standby: EmbeddedPostgres, tmp_path: Path
) -> None:
    where = follower(standby, primary)
    with psycopg.connect(standby.url(), autocommit=True) as there:
        there.execute("SELECT pg_wal_replay_pause()")
        state = "SELECT pg_get_wal_replay_pause_state()"
        until("replay to pause", lambda: there.execute(state).fetchone() == ("paused",))
        try:
            with (
                pytest.raises(NotUsable, match=r"lags: it lacks [0-9]+ bytes of WAL") as lagging,
                reader(primary.connection, where, catch_up_seconds=0.0),
            ):
                pytest.fail("it does not have all that is committed")
        finally:
            there.execute("SELECT pg_wal_replay_resume()")
    assert "remove the setting" in lagging.value.finding.remedy

    # At enqueue nothing is written; in a worker it is told, and nothing is planned in its place.
    for url, says in (
        (primary.url, "names no replica"),
        (standby.url(), "names the database postgres"),
        ("postgresql://127.0.0.1:1/x", "cannot be asked"),
        ("postgresql://[", "is not a URL"),
    ):
        with pytest.raises(Refused, match=says) as refused:
            enqueue(primary, tmp_path, url)
        assert [one.check for one in refused.value.findings] == ["application_replica"]
    assert primary.value("SELECT count(*) FROM backfilld.runs") == 0

    run = enqueue(primary, tmp_path, where)
    expect(primary.drive(run, runner=primary.runner(replica_url=primary.url)), State.COMPLETED)
    told = [
        one["problem"]
        for event in audit.story(primary.connection, run)
        if event["what"] == "application.checked" and event["detail"]["moment"] in {"after_switch", "before_contract"}
        for one in event["detail"]["findings"]
        if "REPLICA" in one["problem"]
    ]
    assert told == ["BACKFILLD_APPLICATION_REPLICA_URL names no replica: that server does not follow another"] * 2
    plans = primary.value("SELECT plans FROM backfilld.application_statements WHERE plans <> '{}' LIMIT 1")
    assert list(plans) == ["before"]


def test_a_replica_of_another_system_is_none_of_this_database(primary: Engine, contrib_database_url: str) -> None:
    with (
        pytest.raises(NotUsable, match="names a server of another system"),
        reader(primary.connection, contrib_database_url),
    ):
        pytest.fail("it is another system")
