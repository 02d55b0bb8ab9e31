"""Backups by a script of the operator's: allowed by name, told in variables, believed when it answers as agreed."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fix_backups import UNWATCHED
from fix_daemon import until
from fix_postgres import VERSION
from fix_runs import expect
from pydantic import SecretStr

from backfilld.migrations.backup_settings import BackupSettings, CommandSettings
from backfilld.migrations.backups import programs, prove, rescue, take
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.backups.prove import BadBackup
from backfilld.migrations.backups.take import Wanted
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.record import backups
from backfilld.migrations.record.states import State

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg
    from fix_runs import Engine

    from backfilld.migrations.backups.place import Place

SECRET = "hunter2-and-more"  # noqa: S105 - it must not be found on record
ORDERS = TableName("public", "Order")
WANTED = Wanted(requested_by="test", tables=(ORDERS,))

#: As an operator would write it: a dump in the snapshot, and a database beside to look at it.
SCRIPT = """#!/bin/sh
set -eu
file="$FOLDER/$BACKFILLD_BACKUP.dump"
scratch="${PGDATABASE}_looked_at"
case $1 in
able) echo '{"version": "our script 3"}' ;;
take)
    echo "$BACKFILLD_TABLES" >"$FOLDER/tables"
    "$BIN/pg_dump" -Fc --snapshot="$BACKFILLD_SNAPSHOT" --exclude-schema=backfilld -f "$file"
    printf '{"reference": "%s", "kept": "the vault", "bytes": 7}' "$file" ;;
verify)
    if [ -f "$BACKFILLD_REFERENCE" ]; then echo '{"whole": true}'; else echo '{"whole": false, "problem": "it is gone"}'; fi ;;
restore)
    "$BIN/createdb" "$scratch" >&2
    "$BIN/pg_restore" --no-owner -d "$scratch" "$BACKFILLD_REFERENCE" >&2
    echo "{\\"url\\": \\"postgresql://$PGUSER:$PGPASSWORD@$PGHOST:$PGPORT/$scratch\\"}" ;;
discard) "$BIN/dropdb" --if-exists "$scratch" >&2; echo '{}' ;;
esac
"""


@pytest.fixture
def scripted(place: Place, tmp_path: Path, connection: psycopg.Connection[Any]) -> Place:
    """A place whose backups are taken by the script, of a database with a table."""
    connection.execute('CREATE TABLE "Order" (id int PRIMARY KEY, "Order" text)')
    connection.execute("INSERT INTO \"Order\" SELECT i, 'row ' || i FROM generate_series(1, 100) i")
    return with_script(place, tmp_path, SCRIPT, snapshot=True)


def with_script(place: Place, folder: Path, text: str, **settings: Any) -> Place:
    script = folder / "backup.sh"
    found = programs.find(None, server_major=VERSION)
    script.write_text(text.replace("$FOLDER", str(folder)).replace("$BIN", str(found.folder)))
    script.chmod(0o755)
    command = CommandSettings(path=script, values={"VAULT_TOKEN": SecretStr(SECRET)}, **settings)
    return replace(
        place, stores=(), settings=BackupSettings(provider="command", command="vault", commands={"vault": command})
    )


def test_a_backup_of_a_script_is_taken_looked_at_and_proved(
    scripted: Place, tmp_path: Path, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    taken = take.take(scripted, WANTED, UNWATCHED)
    connection.execute('DELETE FROM "Order" WHERE id > 90')

    proved = prove.prove(scripted, taken.backup, UNWATCHED)
    assert (proved.level, proved.kind, proved.tool_version, proved.bytes) == ("proved", "external", "our script 3", 7)
    assert json.loads((tmp_path / "tables").read_text()) == [["public", "Order"]]
    assert [(one.table, one.rows) for one in proved.tables] == [("Order", 100)]
    assert proved.details["kept"] == "the vault"
    # Rows come back from it as from any other.
    (found,) = rescue.rescue(scripted, proved, [ORDERS], schema="rescue", watch=UNWATCHED)
    assert (found.missing, found.different) == (10, 0)
    assert connection.execute("SELECT FROM pg_database WHERE datname ~ 'looked_at'").fetchall() == []
    (row,) = connection.execute("SELECT b::text AS row FROM backfilld.backups b").fetchall()
    assert SECRET not in row["row"]


def test_one_that_is_gone_is_found(scripted: Place) -> None:
    taken = take.take(scripted, WANTED, UNWATCHED)
    os.unlink(taken.details["reference"])  # noqa: PTH108 - a text of the record
    with pytest.raises(BadBackup, match="it is gone"):
        prove.verify(scripted, taken.backup, UNWATCHED)


def test_a_run_waits_for_the_script(engine: Engine, place: Place, tmp_path: Path, governed: None) -> None:
    engine.execute("CREATE TABLE jobs (id int PRIMARY KEY, status text); INSERT INTO jobs VALUES (1, 'a')")
    scripted = with_script(place, tmp_path, SCRIPT, snapshot=True)
    run = engine.enqueue(
        "{name: jobs, operations: [{backfill: {table: jobs, set: {status: \"'b'\"}}}], settings: {backup: {require: verified}}}"
    )
    runner = engine.runner(backups=scripted)
    for _ in range(4):  # steps of the gate: told, taken, told, verified
        engine.step(runner=runner)
    assert [(one.level, one.error) for one in backups.listed(engine.connection)] == [("verified", None)]
    expect(engine.drive(run, runner=runner), State.COMPLETED)
    (found,) = backups.listed(engine.connection)
    assert (found.level, found.run, found.scope) == ("verified", run, "tables")


#: What a script does, and what is said of it.
BAD = {
    "it fails": ("echo no space for $VAULT_TOKEN >&2; exit 3", "ended with 3: no space for …"),
    "it is killed": ("kill -9 $$", r"was ended by signal 9 \(SIGKILL\): it said nothing"),
    "it prints nothing": ("", "did not answer with JSON alone .*: with nothing"),
    "it chats": ("echo done; echo '{}'", "did not answer with JSON alone .*: done"),
    "it prints two": ("""echo '{"reference": "a", "kept": "b"}' '{}'""", "did not answer with JSON alone"),
    "it prints a list": ("echo '[]'", "answers what is not expected: the answer"),
    "it leaves out a key": ("""echo '{"reference": "a"}'""", "answers what is not expected: kept: Field required"),
    "it has a key of its own": (
        """echo '{"reference": "a", "kept": "b", "password": "c"}'""",
        "answers what is not expected: password: Extra inputs",
    ),
    "it tells a secret": (
        """printf '{"reference": "%s", "kept": "b"}' "$VAULT_TOKEN" """,
        "a secret of the settings in it",
    ),
    "it takes too long": ("sleep 60", "backup.sh took longer than 0.5 s, and was ended"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_script_that_does_not_do_as_agreed_has_taken_nothing(
    scripted: Place, tmp_path: Path, connection: psycopg.Connection[dict[str, Any]], case: str
) -> None:
    does, told = BAD[case]
    seconds = 0.5 if "long" in case else 30.0
    script = f"""#!/bin/sh\nif [ "$1" = able ]; then echo '{{"version": "1"}}'; exit; fi\n{does}\n"""
    bad = with_script(scripted, tmp_path, script, seconds=seconds)

    with pytest.raises(BackupFailed, match=told) as caught:
        take.take(bad, WANTED, UNWATCHED)
    assert SECRET not in str(caught.value)
    (failed,) = backups.listed(connection)
    assert (failed.state, SECRET in str(failed.error)) == ("failed", False)


def test_a_script_that_cannot_is_asked_before_anything_is_on_record(
    scripted: Place, tmp_path: Path, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    bad = with_script(scripted, tmp_path, "#!/bin/sh\necho 'no vault today' >&2; exit 1\n")
    with pytest.raises(BackupFailed, match="ended with 1: no vault today"):
        take.take(bad, WANTED, UNWATCHED)
    assert backups.listed(connection) == []


def test_a_restore_into_this_very_database_proves_nothing(
    scripted: Place, tmp_path: Path, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    itself = with_script(scripted, tmp_path, SCRIPT.replace("$PGPORT/$scratch", "$PGPORT/$PGDATABASE"), snapshot=True)

    taken = take.take(itself, WANTED, UNWATCHED)
    with pytest.raises(BackupFailed, match="this database itself"):
        prove.prove(itself, taken.backup, UNWATCHED)
    found = backups.get(connection, taken.backup)
    assert found is not None
    assert found.level == "verified"


def test_what_is_told_to_stop_is_gone_with_its_children(scripted: Place, tmp_path: Path) -> None:
    script = """#!/bin/sh\nif [ "$1" = able ]; then echo '{"version": "1"}'; exit; fi\nsleep 300 & echo $! >"$FOLDER/child"\nwait\n"""
    slow = with_script(scripted, tmp_path, script)
    stopped = threading.Event()

    class Told(Exception):
        pass

    def stop() -> str | None:
        if (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip():
            stopped.set()
            raise Told
        return None

    with pytest.raises(Told):
        take.take(slow, WANTED, stop)
    child = int((tmp_path / "child").read_text())
    until("the script's child to be gone", lambda: not _runs(child))


def _runs(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as stat:  # noqa: PTH123 - as short as it gets
            return stat.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"provider": "command"}, "needs backup.command"),
        ({"command": "other"}, "backup.commands has no other"),
        ({"provider": "command", "command": "a", "commands": {"a": {"path": "b"}}}, "must be absolute"),
    ],
)
def test_a_script_that_is_not_allowed_is_refused_at_start(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        BackupSettings(**given)
