"""The data folder of a new server is made from the stores alone, whole or not at all, and recovers to what was asked for."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_backups import UNWATCHED
from fix_daemon import until
from typer.testing import CliRunner

from backfilld.migrations.backups.physical import new_server, recovery
from backfilld.migrations.backups.physical.new_server import Moment
from backfilld.migrations.backups.place import BackupFailed
from backfilld.producers.cli import app

if TYPE_CHECKING:
    from pathlib import Path

    from fix_physical import Taken
    from typer.testing import Result

    from backfilld.migrations.backups.physical.new_server import NewServer


def make(chain: Taken, into: Path, moment: Moment = Moment(), **more: Any) -> NewServer:  # noqa: B008 - frozen
    return new_server.make(replace(chain.place, url=""), into, UNWATCHED, moment=moment, **more)


@pytest.fixture
def later(taken_chain: Taken) -> str:
    """A place in the WAL after both backups, up to which it was received."""
    with psycopg.connect(taken_chain.place.url, autocommit=True) as connection:
        (lsn,) = connection.execute("SELECT restart_lsn::text FROM pg_replication_slots").fetchone() or ("",)
    return str(lsn)


def test_what_was_asked_for_is_what_recovery_is_told(
    chain: Taken, tmp_path: Path, later: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the newest backup before it, by a command that needs no database."""
    monkeypatch.delenv("BACKFILLD_DATABASE_URL", raising=False)
    monkeypatch.setenv(
        "BACKFILLD_STORES", json.dumps([one.model_dump(mode="json", exclude_none=True) for one in chain.place.stores])
    )
    monkeypatch.setenv("BACKFILLD_BACKUP", chain.place.settings.model_dump_json(exclude_defaults=True))
    made = shell("backup", "recover", str(tmp_path / "at"), "--lsn", later, "--json")
    assert made.exit_code == 0, made.stderr
    told = json.loads(made.stdout)
    assert (told["label"], told["store"]) == (chain.incremental.label, "east")
    assert told["target"] == {"recovery_target_lsn": later, "recovery_target_inclusive": "off"}

    data = tmp_path / "at"
    assert {"recovery.signal", "postgresql.auto.conf.before", "backfilld_wal"} <= {one.name for one in data.iterdir()}
    settings = (data / "postgresql.auto.conf").read_text()
    for line in (f"recovery_target_lsn = '{later}'", "synchronous_standby_names = ''", "archive_mode = 'off'"):
        assert line in settings
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == [], "nothing of the making is left"

    again = shell("backup", "recover", str(data))
    assert (again.exit_code, "is not empty" in again.stderr) == (1, True)
    printed = shell("backup", "recover", str(tmp_path / "mark"), "--label", chain.whole.label, "--store", "west")
    assert printed.exit_code == 0, printed.stderr
    assert f"recovery_target_name = {chain.whole.restore_point}" in printed.stdout
    assert f"pg_ctl start --pgdata={tmp_path / 'mark'}" in printed.stdout


def test_one_that_is_killed_leaves_nothing(chain: Taken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was unpacked is a whole server's rows."""
    monkeypatch.setattr(recovery, "recover_to", lambda *_args, **_kwargs: os.kill(os.getpid(), signal.SIGKILL))
    child = os.fork()
    if child == 0:
        make(chain, tmp_path / "new" / "data", Moment())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    until("what was unpacked to go", lambda: not list((tmp_path / "new").iterdir()))


def test_what_cannot_be_recovered_to_is_told_and_nothing_is_left(chain: Taken, tmp_path: Path, later: str) -> None:
    into = tmp_path / "new" / "data"
    long_ago = datetime.now(UTC) - timedelta(days=1)
    for moment, more, told in (
        (Moment(at=long_ago), {}, f"there is no physical backup of before {long_ago.isoformat()}"),
        (Moment(lsn="0/1"), {}, "there is no physical backup of before WAL 0/1"),
        (Moment(lsn="FF/1"), {}, "FF/1 is in 00000001000000FF00000000 (it comes from"),
        (Moment(), {"label": "other/1"}, f"there is no backup other/1: store east has {chain.incremental.label}"),
        (Moment(), {"store": "north"}, "no store is called north"),
    ):
        with pytest.raises(BackupFailed) as caught:
            make(chain, into, moment, **more)
        assert told in str(caught.value)
    assert not into.exists()
    assert not list((tmp_path / "new").glob("*")) if (tmp_path / "new").exists() else True

    # A flipped byte is found on the way, and the other store has a copy.
    harmed = chain.folder / "stores" / "east" / chain.whole.label / "data.tar.gz"
    harmed.write_bytes(harmed.read_bytes()[:-1])
    with pytest.raises(BackupFailed, match=r"data\.tar\.gz in store east has \d+ bytes|cannot be unpacked"):
        make(chain, into)
    assert not into.exists()
    assert make(chain, into, store="west").store == "west"


def test_a_store_that_several_servers_share_is_told_apart(chain: Taken, tmp_path: Path) -> None:
    """The newest backup may be of another server: which one is meant must be said."""
    of_other = f"other/20990101T000000Z-1-{chain.whole.label[-8:]}"
    for store in ("east", "west"):
        folder = chain.folder / "stores" / store
        shutil.copytree(folder / chain.whole.label, folder / of_other)
        manifest = json.loads((folder / of_other / "manifest.json").read_text())
        changed = manifest | {"system_identifier": "7", "snapshot_at": "2099-01-01T00:00:00+00:00", "label": of_other}
        (folder / of_other / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(
        BackupFailed, match=f"several servers: say which with --label, one of {of_other}, .*{chain.whole.label}"
    ):
        make(chain, tmp_path / "data")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--lsn", "0/1", "--latest"), "give one of --lsn, --at and --latest"),
        (("--lsn", "yesterday"), "yesterday is no place in the WAL"),
        (("--at", "yesterday"), "yesterday is no instant"),
        (("--at", "2026-05-04T12:00:00"), "has no time zone; write 2026-05-04T12:00:00Z"),
        ((), "no store is set in this process"),
    ],
)
def test_what_is_not_understood_is_refused(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    answer = shell("backup", "recover", str(tmp_path / "data"), *words)
    assert answer.exit_code in {1, 2}
    assert told in answer.stderr


def shell(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))
