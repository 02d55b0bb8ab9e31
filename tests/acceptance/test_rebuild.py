"""A table of pgbench's is cut into partitions while TPC-B runs against it: there, back, again, contracted and restored."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from fix_daemon import backfilld, until
from fix_postgres import pgbench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fix_daemon import Daemon, Record

ACCOUNTS = 100_000
#: Long enough for the whole test; it is ended when it has served.
LOAD_SECONDS = 900
MIGRATION = """
name: {name}
operations:
  - rebuild:
      table: pgbench_accounts
      with: {{fillfactor: 90}}
      partition_by: {{range: aid, every: 25000, from: 1, ahead: 1}}
settings: {{lanes: 2, approve: [switch, contract]}}
"""
#: A transaction of TPC-B writes all four, so in each snapshot these are the same.
SUMS = (
    "SELECT (SELECT sum(abalance) FROM pgbench_accounts) AS accounts, (SELECT sum(tbalance) FROM pgbench_tellers) AS tellers, "
    "(SELECT sum(bbalance) FROM pgbench_branches) AS branches, (SELECT sum(delta) FROM pgbench_history) AS history, "
    "(SELECT count(*) FROM pgbench_accounts) AS rows, (SELECT count(*) FROM pgbench_history) AS transactions"
)


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Where pgbench writes its complaints."""
    return tmp_path / "pgbench.log"


@pytest.fixture
def load(database_url: str, told: Path) -> Iterator[subprocess.Popen[bytes]]:
    """TPC-B of four clients with prepared statements, until the test ends."""
    subprocess.run(pgbench("-i", "-q", url=database_url), check=True, capture_output=True)
    command = pgbench("-n", "-M", "prepared", "-c", "4", "-R", "200", "-T", str(LOAD_SECONDS), url=database_url)
    with told.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    yield process
    process.kill()
    process.wait()


@pytest.mark.soak
def test_accounts_are_cut_into_partitions_under_load(
    load: subprocess.Popen[bytes],
    told: Path,
    daemon: Daemon,
    record: Record,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    """No account is lost, no sum is off at any stop, and no statement of the application fails."""
    del daemon
    transactions = [0]

    def call(*arguments: str) -> None:
        done = backfilld(*arguments, database_url=database_url, redis_url=redis_url)
        assert done.returncode == 0, done.stderr

    def to_the_switch(name: str) -> None:
        file = tmp_path / f"{name}.yaml"
        file.write_text(MIGRATION.format(name=name))
        call("enqueue", str(file))
        until("the rows to be there twice", lambda: record.state(name) == "waiting")
        call("approve", name, "--phase", "switch", "--yes")
        until("the switch", lambda: record.run(name)["phase"] == "contract" and record.state(name) == "waiting")

    def stop(kind: str) -> None:
        assert load.poll() is None, told.read_text()
        (row,) = record.connection.execute(SUMS.encode()).fetchall()
        assert row["accounts"] == row["tellers"] == row["branches"] == row["history"]
        assert row["rows"] == ACCOUNTS
        assert row["transactions"] > transactions[-1], "the application has stood still"
        transactions.append(row["transactions"])
        assert record.one("SELECT relkind::text FROM pg_class WHERE oid = 'pgbench_accounts'::regclass") == kind

    stop("r")
    to_the_switch("cut")
    stop("p")
    call("rollback", "cut")
    until("the way back", lambda: record.state("cut") == "rolled_back")
    stop("r")
    to_the_switch("cut-again")
    stop("p")
    call("approve", "cut-again", "--phase", "contract", "--yes")
    until("the run to be completed", lambda: record.state("cut-again") == "completed")
    stop("p")
    call("rollback", "cut-again")
    until("the way back after contract", lambda: record.state("cut-again") == "rolled_back")
    stop("r")
    load.terminate()
    load.wait()
    assert not [line for line in told.read_text().splitlines() if "ERROR" in line or "aborted" in line]
    left = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '~backfilld%%'"
    assert record.one(left) == 0
    assert record.one("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'backfilld\\_%%'") == 0
