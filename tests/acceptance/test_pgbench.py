"""The main job on real input: pgbench's own tables, changed while pgbench runs against them and everything is killed."""

from __future__ import annotations

import random
import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from fix_daemon import backfilld, until
from fix_postgres import pgbench
from paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fix_daemon import Daemon, Record

EXAMPLE = ROOT / "examples" / "pgbench_abalance_cents.yaml"
NAME = "pgbench-abalance-cents"
#: Long enough for the whole test; it is ended when it has served.
LOAD_SECONDS = 600
#: A scale of pgbench is 100,000 accounts.
SCALE = 2
ACCOUNTS = SCALE * 100_000
#: So that a failure can be told again.
SEED = 20261122


@pytest.fixture
def accounts(database_url: str) -> None:
    subprocess.run(pgbench("-i", "-s", str(SCALE), "-q", url=database_url), check=True, capture_output=True)


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Where pgbench writes its complaints."""
    return tmp_path / "pgbench.log"


@pytest.fixture
def load(accounts: None, database_url: str, told: Path) -> Iterator[subprocess.Popen[bytes]]:
    """TPC-B-like transactions of four clients, 200 a second, until the test ends."""
    command = pgbench("-n", "-c", "4", "-R", "200", "-T", str(LOAD_SECONDS), url=database_url)
    with told.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    yield process
    process.kill()
    process.wait()


def walked_so_far(record: Record, share: float) -> None:
    """Wait for a share of the rows, or for the end."""
    until(f"{share:.0%} of the rows", lambda: record.state(NAME) == "waiting" or record.walked() >= share * ACCOUNTS)


@pytest.mark.soak  # workers killed beside writers: tests/proof; Redis: test_outages.py
def test_a_column_is_filled_and_kept_right_under_load_while_workers_and_redis_are_killed(
    load: subprocess.Popen[bytes], told: Path, daemon: Daemon, record: Record, database_url: str, redis_url: str
) -> None:
    """No row is wrong, no sum is off and no statement of the application fails, whatever is killed meanwhile."""
    chance = random.Random(SEED)

    # When it is enqueued, and workers are killed and Redis is wiped as it goes
    assert backfilld("enqueue", str(EXAMPLE), database_url=database_url, redis_url=redis_url).returncode == 0
    broker = redis.Redis.from_url(redis_url)
    for share in sorted(chance.uniform(0.05, 0.9) for _ in range(3)):
        walked_so_far(record, share)
        if chance.random() < 0.7:
            daemon.kill_lanes()
        broker.flushall()
    broker.close()
    until("the data to be verified", lambda: record.state(NAME) == "waiting")

    # Then every row is right, while contract waits and the load goes on
    assert load.poll() is None, told.read_text()
    for _ in range(5):
        wrong = "SELECT count(*) FROM pgbench_accounts WHERE abalance_cents IS DISTINCT FROM abalance * 100"
        assert record.one(wrong) == 0
    assert record.run(NAME)["residual_rows"] == 0
    gate = ("gate", NAME)
    assert backfilld(*gate, database_url=database_url, redis_url=redis_url).returncode == 0
    assert backfilld(*gate, "--phase", "contract", database_url=database_url, redis_url=redis_url).returncode == 4
    assert record.one("SELECT attnotnull FROM pg_attribute WHERE attname = 'abalance_cents'")
    assert record.one("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '~backfilld%%'") == 1

    # And the money is all there
    load.terminate()
    load.wait()
    assert not [line for line in told.read_text().splitlines() if "ERROR" in line or "aborted" in line]
    sums = (
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers) "
        "AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history) "
        "AND (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)"
    )
    assert record.one(sums)
    assert record.one("SELECT count(*) FROM pgbench_history") > 0
    assert record.one("SELECT count(*) FROM pgbench_accounts") == ACCOUNTS

    # When contract is approved
    approve = backfilld("approve", NAME, "--phase", "contract", "--yes", database_url=database_url, redis_url=redis_url)
    assert approve.returncode == 0, approve.stderr
    until("the run to be completed", lambda: record.state(NAME) == "completed")

    # Then what only the change needed is gone
    assert record.one("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '~backfilld%%'") == 0
    assert (
        record.one(
            "SELECT count(*) FROM pg_proc WHERE pronamespace = 'backfilld'::regnamespace AND prorettype = 'trigger'::regtype"
        )
        == 0
    )
    with pytest.raises(psycopg.errors.NotNullViolation):
        record.connection.execute("UPDATE pgbench_accounts SET abalance_cents = NULL WHERE aid = 1")
