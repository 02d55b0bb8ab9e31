"""`abalance` from integer to bigint on pgbench's own table while pgbench runs: there, back, there again, and back once more."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from fix_daemon import backfilld, until
from fix_postgres import pgbench
from paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fix_daemon import Daemon, Record

EXAMPLE = ROOT / "examples" / "pgbench_abalance_bigint.yaml"
NAME = "pgbench-abalance-bigint"
#: As many as it takes for some batches in each of four lanes; a scale of 1 is 100,000.
ACCOUNTS = 20_000
#: pgbench's own transaction (`tpcb-like`), which takes its accounts from all of a scale.
TRANSACTION = f"""
\\set aid random(1, {ACCOUNTS})
\\set tid random(1, 10)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, 1, :aid, :delta, CURRENT_TIMESTAMP);
END;
"""
#: Long enough for the whole test; it is ended when it has served.
LOAD_SECONDS = 600
#: One statement has one snapshot, and a transaction of pgbench adds the same to all four: they agree at every moment.
SUMS_AGREE = """
SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers)
   AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
   AND (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
   AND (SELECT count(*) FROM pgbench_accounts) = %s
"""
#: The types of all columns of the table, in no order.
COLUMNS = """
SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attname) FROM pg_attribute
WHERE attrelid = 'pgbench_accounts'::regclass AND attnum > 0 AND NOT attisdropped
"""
BEFORE = "abalance integer, aid integer, bid integer, filler character(84)"
AFTER = BEFORE.replace("abalance integer", "abalance bigint")


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Where pgbench writes its complaints."""
    return tmp_path / "pgbench.log"


@pytest.fixture
def load(database_url: str, record: Record, told: Path) -> Iterator[subprocess.Popen[bytes]]:
    """TPC-B-like transactions of four clients, 100 a second, until the test ends."""
    subprocess.run(pgbench("-i", "-q", url=database_url), check=True, capture_output=True)
    # Not by DELETE: its dead rows may be counted after the VACUUM that removes them, and hold the work until the next one.
    record.connection.execute("TRUNCATE pgbench_accounts")
    record.connection.execute(
        "INSERT INTO pgbench_accounts SELECT aid, 1, 0, '' FROM generate_series(1, %s::integer) aid", [ACCOUNTS]
    )
    record.connection.execute("VACUUM ANALYZE pgbench_accounts")
    script = told.with_name("transaction.sql")
    script.write_text(TRANSACTION, encoding="utf-8")
    command = pgbench("-n", "-f", str(script), "-c", "4", "-R", "100", "-T", str(LOAD_SECONDS), url=database_url)
    with told.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    yield process
    process.kill()
    process.wait()


@pytest.mark.soak  # test_change_type has the same sums at the same stops, without pgbench and a daemon
@pytest.mark.timeout(600)
def test_a_wider_column_there_and_back_twice_under_load(
    load: subprocess.Popen[bytes], told: Path, daemon: Daemon, record: Record, database_url: str, redis_url: str
) -> None:
    """At each stop the sums agree, and no statement of pgbench fails in between."""

    def ask(*words: str) -> None:
        answer = backfilld(*words, database_url=database_url, redis_url=redis_url)
        assert answer.returncode == 0, answer.stderr + answer.stdout

    def comes_to(state: str) -> None:
        until(f"the run to be {state}", lambda: record.state(NAME) in {state, "failed", "paused"}, patience_seconds=240)
        run = record.run(NAME)
        assert run["state"] == state, run["error"]
        assert load.poll() is None, told.read_text()
        assert "ERROR" not in told.read_text()
        assert record.one(SUMS_AGREE, ACCOUNTS)

    before = record.one("SELECT count(*) FROM pgbench_history")

    # Switched: the column is wider, and what it was is kept beside it
    ask("enqueue", str(EXAMPLE))
    comes_to("waiting")
    assert AFTER.split(", ")[0] in record.one(COLUMNS)
    ask("gate", NAME)

    # Rolled back: as if nothing had been, but for what pgbench did meanwhile
    ask("rollback", NAME)
    comes_to("rolled_back")
    assert record.one(COLUMNS) == BEFORE

    # Done again, and the old column dropped
    ask("enqueue", str(EXAMPLE))
    comes_to("waiting")
    ask("approve", NAME, "--phase", "contract", "--yes")
    comes_to("completed")
    assert record.one(COLUMNS) == AFTER
    ask("gate", NAME, "--phase", "contract")

    # Restored from what was archived and what was written since
    ask("rollback", NAME)
    comes_to("rolled_back")
    assert record.one(COLUMNS) == BEFORE
    assert record.one("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0

    assert record.one("SELECT count(*) FROM pgbench_history") > before, "pgbench was at work"
    load.terminate()
    load.wait()
    assert "ERROR" not in told.read_text()
    assert record.one(SUMS_AGREE, ACCOUNTS)
