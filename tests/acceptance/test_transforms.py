"""A Python function of the user's, in a module on the worker's path, worked by a daemon and by `backfilld run`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from fix_daemon import Daemon, Record, backfilld, until
from paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EXAMPLES = ROOT / "examples"
NAME = "users-phone-e164"
ROWS = 5_000


@pytest.fixture
def users(record: Record) -> None:
    """Every number is Swiss and convertible, but for one of each thousand."""
    record.connection.execute(
        "CREATE TABLE users (id bigint PRIMARY KEY, phone text, country text NOT NULL, phone_e164 text)"
    )
    record.connection.execute(
        "INSERT INTO users SELECT n, CASE n % 1000 WHEN 0 THEN 'none' ELSE '079 ' || lpad(n::text, 7, '0') END, 'CH' "
        f"FROM generate_series(1, {ROWS}) n".encode()
    )


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """The example's module where only the worker finds it, and the variables that say so."""
    package = tmp_path / "site" / "myapp"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "backfills.py").write_text((EXAMPLES / "backfills.py").read_text(encoding="utf-8"), encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "BACKFILLD_TRANSFORMS": "myapp"}


def converted(record: Record) -> bool:
    right = "phone_e164 = '+4179' || lpad(id::text, 7, '0')"
    return bool(record.one(f"SELECT count(*) FILTER (WHERE {right}) = {ROWS - ROWS // 1000} FROM users"))


def daemon(database_url: str, redis_url: str, log: Path, variables: Mapping[str, str]) -> Daemon:
    return Daemon(database_url, redis_url, log, processes=2, threads=1, variables=variables).ready()


@pytest.mark.soak  # in one process it is the same lane
def test_a_daemon_that_was_told_to_allow_the_module_calls_it(
    users: None, record: Record, site: dict[str, str], database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """First one that was not: the run fails and says what to do. Then one that was: the run is resumed and verified."""
    calls = {"database_url": database_url, "redis_url": redis_url}

    # Given a daemon that finds the module, and may not; enqueued while it runs, the run would be refused
    enqueued = backfilld("enqueue", str(EXAMPLES / "users_phone_e164.yaml"), **calls)
    assert enqueued.returncode == 0, enqueued.stderr
    first = daemon(database_url, redis_url, tmp_path / "first.log", {"PYTHONPATH": site["PYTHONPATH"]})
    try:
        until("the run to fail", lambda: record.state(NAME) == "failed")
    finally:
        first.stop()
    assert "Add myapp.backfills to BACKFILLD_TRANSFORMS" in record.run(NAME)["error"]["message"]
    assert record.one("SELECT count(*) FROM users WHERE phone_e164 IS NOT NULL") == 0

    # When one that may takes over, and loses a process on the way
    second = daemon(database_url, redis_url, tmp_path / "second.log", site)
    try:
        assert backfilld("resume", NAME, **calls).returncode == 0
        until("the walk to begin", lambda: record.state(NAME) != "running" or record.walked() > 0)
        second.kill_lanes()
        until("the run to rest", lambda: record.state(NAME) in {"paused", "completed", "failed"})
    finally:
        second.stop()

    # Then all is converted but what cannot be
    assert record.state(NAME) == "paused", record.run(NAME)["error"]
    assert converted(record)
    assert record.one("SELECT count(*) FROM backfilld.quarantine WHERE sqlstate = 'PY001'") == ROWS // 1000
    assert (
        record.one("SELECT error FROM backfilld.quarantine WHERE key = '[\"1000\"]'")
        == "ValueError: 'none' is no phone number (myapp.backfills, line 20, in _e164)"
    )


def test_run_calls_it_in_its_own_process(
    users: None,
    record: Record,
    site: dict[str, str],
    database_url: str,
    tmp_path: Path,
) -> None:
    """Refused at first; then the module is allowed by the file of settings, which `run` reads as the worker does.

    It lies in the folder that `run` is called in, and a package of the application's there has the name of one of ours.
    """
    record.connection.execute("DELETE FROM users WHERE phone = 'none'")
    here = tmp_path / "site"
    (here / "worker").mkdir()
    (here / "worker" / "__init__.py").write_text("raise SystemExit('the worker of the application was imported')\n")
    file = str(EXAMPLES / "users_phone_e164.yaml")

    refused = backfilld("run", file, database_url=database_url, redis_url=None, cwd=here)
    assert refused.returncode == 1
    assert "BACKFILLD_TRANSFORMS" in record.run(NAME)["error"]["message"]

    (here / "backfilld.toml").write_text('transforms = ["myapp.backfills"]\n', encoding="utf-8")
    resumed = backfilld("resume", NAME, database_url=database_url, redis_url=None, cwd=here)
    assert resumed.returncode == 0, resumed.stderr
    done = backfilld("run", file, database_url=database_url, redis_url=None, cwd=here)
    assert done.returncode == 0, (done.stdout, done.stderr, record.run(NAME)["error"])
    assert record.state(NAME) == "completed"
    assert converted(record)
