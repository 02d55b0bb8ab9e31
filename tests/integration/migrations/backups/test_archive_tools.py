"""What pgBackRest and Barman answer is understood, and what they lack is told before a backup is taken: by stand-ins for the tools.

The tools themselves: test_archived.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fix_backups import UNWATCHED

from backfilld.migrations.backup_settings import BackupSettings, BarmanSettings, PgBackRestSettings
from backfilld.migrations.backups import contents, take
from backfilld.migrations.backups.place import BackupFailed, Place
from backfilld.migrations.backups.providers.named import provider_named
from backfilld.migrations.record import backups

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg


def stand_in(folder: Path, answers: dict[str, str]) -> Path:
    """A program that prints what belongs to the first of these words that it is called with; `1:` before it: and fails."""
    cases = "".join(
        f"*' {word} '*) cat <<'END'\n{text.removeprefix('1:')}\nEND\nexit {int(text.startswith('1:'))};;\n"
        for word, text in answers.items()
    )
    (folder / "tool").write_text(f'#!/bin/sh\ncase " $* " in\n{cases}*) echo "what is $*?" >&2; exit 9;;\nesac\n')
    (folder / "tool").chmod(0o755)
    return folder / "tool"


def stanza(system: str, code: int = 0) -> str:
    return json.dumps(
        [{"db": [{"system-id": int(system)}], "status": {"code": code, "message": "missing stanza path"}}]
    )


def with_pgbackrest(place: Place, folder: Path, answers: dict[str, str]) -> Place:
    own = PgBackRestSettings(stanza="main", program=stand_in(folder, answers))
    return replace(place, stores=(), settings=BackupSettings(provider="pgbackrest", pgbackrest=own))


def with_barman(place: Place, folder: Path, answers: dict[str, str], **settings: Any) -> Place:
    own = BarmanSettings(server="main", program=stand_in(folder, answers), **settings)
    return replace(place, stores=(), settings=BackupSettings(provider="barman", barman=own))


def test_pgbackrest_is_asked_before_anything_is_taken(
    place: Place, tmp_path: Path, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    connection.execute("CREATE TABLE jobs (id int)")
    system = contents.server(connection).system_identifier
    for version, info, told in (
        ("pgBackRest 2.40", stanza(system), "pgBackRest 2.41 or newer is needed"),
        ("pgBackRest 2.45", stanza(system, 1), "missing stanza path; pgbackrest --stanza=main check"),
        (
            "pgBackRest 2.45",
            stanza("7"),
            f"is of another server: its system identifier is 7, and this one's is {system}",
        ),
        ("pgBackRest 2.45", "[]", "tells of no stanza main in repository 1"),
        ("pgBackRest 2.45", "no json", "did not answer with JSON alone"),
        ("1:broken", "", "tool ended with 1"),
    ):
        bad = with_pgbackrest(place, tmp_path, {"version": version, "info": info})
        with pytest.raises(BackupFailed) as caught:
            take.take(bad, take.Wanted(requested_by="test"), UNWATCHED)
        assert told in str(caught.value)
    assert backups.listed(connection) == []
    good = with_pgbackrest(place, tmp_path, {"version": "pgBackRest 2.58.0", "info": stanza(system, 2)})
    assert provider_named("pgbackrest").able(good, contents.server(connection)) == "pgBackRest 2.58.0"


def test_barman_is_asked_before_anything_is_taken(
    place: Place, tmp_path: Path, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    """What its check says of backups that are there, or not, keeps none from being taken."""
    connection.execute("CREATE TABLE jobs (id int)")
    server = contents.server(connection)
    shown = json.dumps({"main": {"postgres_systemid": server.system_identifier}})
    few = {"minimum_redundancy_requirements": {"status": "FAILED", "hint": "have 0"}, "directories": {"status": "OK"}}
    bad = few | {"wal_archive": {"status": "FAILED", "hint": "please make sure WAL shipping is setup"}}
    well = {
        "--version": "3.4.0 Barman by EnterpriseDB",
        "show-server": shown,
        "check": f"1:{json.dumps({'main': few})}",
    }
    for answers, settings, told in (
        ({"--version": "3.3.0 Barman"}, {}, "Barman 3.4 or newer is needed"),
        ({}, {"incremental": True}, "for incremental backups Barman 3.11 or newer is needed"),
        ({"show-server": '{"main": {"systemid": "7"}}'}, {}, "is another one: its system identifier is 7"),
        ({"check": f"1:{json.dumps({'main': bad})}"}, {}, "barman check main fails: wal archive (please make sure WAL"),
        ({"check": "1:"}, {}, "tool ended with 1"),
    ):
        with pytest.raises(BackupFailed) as caught:
            take.take(
                with_barman(place, tmp_path, well | answers, **settings), take.Wanted(requested_by="test"), UNWATCHED
            )
        assert told in str(caught.value)
    assert backups.listed(connection) == []
    assert provider_named("barman").able(with_barman(place, tmp_path, well), server).startswith("3.4.0 Barman")
