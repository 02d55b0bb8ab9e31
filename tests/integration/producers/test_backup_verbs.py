"""The verbs about backups, as a person types them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from fix_daemon import backfilld
from typer.testing import CliRunner

from backfilld import Client, UsageError
from backfilld.migrations.record import backups
from backfilld.producers.cli import app

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import psycopg
    from typer.testing import Result

    from backfilld.migrations.backup_settings import StoreSettings


@pytest.fixture
def shell(
    database_url: str,
    stores: tuple[StoreSettings, ...],
    monkeypatch: pytest.MonkeyPatch,
    connection: psycopg.Connection[Any],
) -> Callable[..., Result]:
    """The command, with two stores, on a database with a table."""
    listed = [one.model_dump(mode="json", exclude_none=True) for one in stores]
    monkeypatch.setenv("BACKFILLD_STORES", json.dumps(listed))
    monkeypatch.setenv("BACKFILLD_DATABASE_URL", database_url)
    connection.execute("CREATE TABLE jobs AS SELECT i AS id FROM generate_series(1, 20) i")
    return lambda *words: CliRunner().invoke(app, list(words))


def test_a_backup_is_taken_shown_and_proved(shell: Callable[..., Result]) -> None:
    taken = shell("backup", "now", "--table", "jobs", "--json")
    assert taken.exit_code == 0, taken.stderr
    one = json.loads(taken.stdout)
    number = str(one["backup"])
    assert (one["level"], one["scope"], one["tables"][0]["rows"]) == ("verified", "tables", 20)

    assert "verified" in shell("backup", "list").stdout
    proved = shell("backup", "prove", number)
    assert (proved.exit_code, "proved" in proved.stdout) == (0, True), proved.stderr
    shown = shell("backup", "show", number).stdout
    assert "copy: east (region-east)" in shown
    assert "copy: west (region-west)" in shown
    assert "jobs: 20 rows, checksum" in shown
    assert json.loads(shell("backup", "list", "--json").stdout)["backups"][0]["level"] == "proved"
    assert shell("backup", "expire").stdout == "nothing to remove\n"


def test_what_a_copy_has_lost_is_told_with_exit_code_1(
    shell: Callable[..., Result], stores: tuple[StoreSettings, ...]
) -> None:
    one = json.loads(shell("backup", "now", "--table", "jobs", "--json").stdout)
    assert stores[1].path is not None
    file = stores[1].path / one["label"] / "rows.dump"
    file.write_bytes(file.read_bytes()[:-1])

    told = shell("backup", "verify", str(one["backup"]))
    assert told.exit_code == 1
    assert f"backup {one['backup']} is bad: rows.dump in store west has {file.stat().st_size} bytes" in told.stderr
    assert "failed" in shell("backup", "list").stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("now", "--copy", "north"), 1, "no store is called north"),
        (("now", "--table", 'a"b'), 2, "not a table name"),
        (("now", "--table", "nothing"), 1, "there is nothing to back up"),
        (("show", "99"), 2, "there is no backup 99"),
        (("prove",), 2, "there is no backup yet"),
    ],
    ids=["no such store", "no name", "no such table", "no such backup", "none yet"],
)
def test_what_cannot_be_is_told(shell: Callable[..., Result], words: tuple[str, ...], code: int, told: str) -> None:
    answer = shell("backup", *words)
    assert (answer.exit_code, told in answer.stderr) == (code, True), answer.stderr


def test_a_store_that_is_set_twice_is_refused(shell: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "BACKFILLD_STORES",
        '[{"name": "a", "kind": "folder", "path": "/a"}, {"name": "a", "kind": "folder", "path": "/b"}]',
    )
    answer = shell("backup", "now")
    assert (answer.exit_code, "two stores have the name a" in answer.stderr) == (2, True)


def test_python_does_what_the_verbs_do(shell: Callable[..., Result], database_url: str) -> None:
    client = Client(database_url)
    taken = client.backup_now(["jobs"], copies=["west"])

    assert [one.backup for one in client.backups()] == [taken.backup]
    assert client.verify_backup(taken.backup).level == "verified"
    assert client.expire_backups() == []
    with pytest.raises(UsageError):
        client.backup(99)


def test_a_real_worker_goes_through_the_gate_with_what_its_settings_say(
    database_url: str, stores: tuple[StoreSettings, ...], connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """From `backfilld.toml` to the record: the processes are put together as an operator starts them."""
    connection.execute("CREATE TABLE jobs (id int PRIMARY KEY, status text)")
    connection.execute("INSERT INTO jobs SELECT i, 'a' FROM generate_series(1, 20) i")
    lines = ['[backup]\nrequire = "verified"\ncopies = ["west"]\n']
    lines += [f'[[stores]]\nname = "{one.name}"\nkind = "folder"\npath = "{one.path}"\n' for one in stores]
    (tmp_path / "backfilld.toml").write_text("\n".join(lines))
    (tmp_path / "jobs.yaml").write_text("{name: jobs, operations: [{backfill: {table: jobs, set: {status: \"'b'\"}}}]}")

    done = backfilld("run", "jobs.yaml", "--json", database_url=database_url, redis_url=None, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (found,) = backups.listed(connection)
    assert (found.level, [copy.store for copy in found.copies]) == ("verified", ["west"])
    assert connection.execute("SELECT count(*) AS n FROM jobs WHERE status = 'b'").fetchone() == {"n": 20}
