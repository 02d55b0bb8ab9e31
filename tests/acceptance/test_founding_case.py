"""The case this project was founded for: `jobs`, a text column that is to be jsonb, and a column that is to be renamed.

37 of 3,000 rows are not JSON, and the application writes all the while, under either name.
"""

from __future__ import annotations

import json
import random
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_daemon import backfilld, until
from paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_daemon import Daemon, Record

EXAMPLE = ROOT / "examples" / "jobs_founding_case.yaml"
NAME = "jobs-founding-case"
ROWS = 3_000
BROKEN = 37
SEED = 20261123


class Application:
    """Two releases of one application at once: each writes the job's money under the name it knows."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.errors: list[str] = []
        #: Job by job, what was written last.
        self.written: dict[int, int] = {}
        self._stop = threading.Event()
        self._new_name = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(half,)) for half in (0, 1)]
        for thread in self._threads:
            thread.start()

    def knows_the_new_name(self) -> None:
        """The new release is deployed beside the old one."""
        self._new_name.set()

    def forgets_the_old_name(self) -> None:
        """The old release is gone, which is when contract may be approved."""
        self.stop()
        self._stop.clear()
        self._threads = [threading.Thread(target=self._work, args=(1,))]
        self._threads[0].start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, half: int) -> None:
        chance = random.Random(SEED + half)
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.is_set():
                job = chance.randrange(1, ROWS // 2) * 2 + half
                cents = chance.randrange(1_000_000)
                name = "revenue" if half and self._new_name.is_set() else "total"
                try:
                    connection.execute(f"UPDATE jobs SET {name} = %s WHERE id = %s".encode(), [cents, job])
                    self.written[job] = cents
                except psycopg.Error as exc:
                    self.errors.append(f"{name}: {exc}")
                self._stop.wait(0.005)  # some 200 writes a second; a pace, nothing is waited for


@pytest.fixture
def jobs(record: Record) -> list[int]:
    """The table; returns the keys of the rows that are not JSON."""
    record.connection.execute(
        "CREATE TABLE jobs (id bigint PRIMARY KEY, device_info text, total integer NOT NULL DEFAULT 0 CHECK (total >= 0))"
    )
    record.connection.execute("CREATE INDEX jobs_total_idx ON jobs (total)")
    record.connection.execute("CREATE VIEW rich_jobs AS SELECT id, total FROM jobs WHERE total > 900000")
    record.connection.execute(
        'INSERT INTO jobs SELECT n, CASE WHEN n % 10 = 0 THEN NULL ELSE format(\'{"os": "v%%s"}\', n) END, n % 100 '
        f"FROM generate_series(1, {ROWS}) n".encode()
    )
    broken = sorted(random.Random(SEED).sample(range(1, ROWS), BROKEN))
    record.connection.execute("UPDATE jobs SET device_info = 'iPhone; 11' WHERE id = ANY (%s)", [broken])
    return broken


@pytest.fixture
def application(jobs: list[int], database_url: str) -> Iterator[Application]:
    one = Application(database_url)
    yield one
    one.stop()


@pytest.mark.soak  # its parts: test_change_type.py, test_rename_column.py, the demo
def test_broken_rows_are_told_by_key_and_mended_and_either_name_can_be_written(
    jobs: list[int], application: Application, daemon: Daemon, record: Record, database_url: str, redis_url: str
) -> None:
    def command(*arguments: str) -> str:
        done = backfilld(*arguments, database_url=database_url, redis_url=redis_url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    # The walk is over, and the rows that are not JSON stand between the run and its switch.
    command("enqueue", str(EXAMPLE))
    until("the run to stop at the broken rows", lambda: record.state(NAME) == "paused")
    assert str(BROKEN) in record.run(NAME)["error"]["message"]
    rows = json.loads(command("quarantine", "list", NAME, "--json"))["quarantined"]
    assert sorted(int(row["key"][0]) for row in rows) == jobs
    assert {row["sqlstate"] for row in rows} == {"22P02"}
    assert all("json" in row["error"] for row in rows)
    assert backfilld("gate", NAME, database_url=database_url, redis_url=redis_url).returncode != 0
    assert record.one("SELECT atttypid::regtype::text FROM pg_attribute WHERE attname = 'device_info'") == "text"

    # They are mended and retried, and the new release is deployed as soon as the gate is open.
    record.connection.execute(
        "UPDATE jobs SET device_info = json_build_object('model', device_info) WHERE id = ANY (%s)", [jobs]
    )
    command("quarantine", "retry", NAME)
    until("the switch", lambda: record.state(NAME) in {"waiting", "failed", "paused"})
    assert record.state(NAME) == "waiting", record.run(NAME)["error"]
    command("gate", NAME)
    application.knows_the_new_name()
    assert record.one("SELECT device_info ->> 'model' FROM jobs WHERE id = %s", jobs[0]) == "iPhone; 11"
    assert record.one("SELECT count(*) FROM jobs WHERE device_info = '{}'") == ROWS // 10 - sum(
        job % 10 == 0 for job in jobs
    )
    for _ in range(20):
        assert record.one("SELECT count(*) FROM jobs WHERE total IS DISTINCT FROM revenue") == 0

    # Nobody knows the old name any more: contract.
    application.forgets_the_old_name()
    command("approve", NAME, "--phase", "contract", "--yes")
    until("the end", lambda: record.state(NAME) in {"completed", "failed", "paused"})
    assert record.state(NAME) == "completed", record.run(NAME)["error"]
    application.stop()

    # No statement failed, no write is lost, and what hung on the columns hangs on them still.
    assert application.errors == []
    assert len(application.written) > 100
    rows = record.connection.execute(
        "SELECT id, revenue FROM jobs WHERE id = ANY (%s)", [list(application.written)]
    ).fetchall()
    found = {row["id"]: row["revenue"] for row in rows}
    assert found == application.written
    columns = record.connection.execute(
        "SELECT attname AS name, atttypid::regtype::text AS type FROM pg_attribute "
        "WHERE attrelid = 'jobs'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname"
    ).fetchall()
    assert [(row["name"], row["type"]) for row in columns] == [
        ("device_info", "jsonb"),
        ("id", "bigint"),
        ("revenue", "integer"),
    ]
    assert "(revenue)" in record.one("SELECT pg_get_indexdef('jobs_total_idx'::regclass)")
    assert record.one("SELECT count(*) FROM rich_jobs") == record.one(
        "SELECT count(*) FROM jobs WHERE revenue > 900000"
    )
    assert record.one("SELECT count(*) FROM jobs") == ROWS
    assert record.one("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '~backfilld%%'") == 0
