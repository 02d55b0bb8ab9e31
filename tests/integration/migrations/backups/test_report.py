"""`plan` says what the gate of a run will do, why, and what is missing; nothing is taken."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_backups import UNWATCHED
from psycopg.rows import dict_row
from rich.console import Console

from backfilld import Client
from backfilld.migrations.backup_settings import BackupSettings, CommandSettings, StoreSettings
from backfilld.migrations.backups import programs, report, take
from backfilld.migrations.backups.place import Place
from backfilld.migrations.backups.take import Wanted
from backfilld.migrations.file.migration import parse
from backfilld.migrations.record import backups
from backfilld.monitoring import display

if TYPE_CHECKING:
    from pathlib import Path

    from backfilld.migrations.backups.report import GateReport

FILE = "{{name: jobs, operations: [{{backfill: {{table: jobs, set: {{status: upper(status)}}}}}}], settings: {{backup: {}}}}}"


@pytest.fixture(autouse=True)
def jobs(connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE TABLE jobs AS SELECT i AS id, 'a' AS status FROM generate_series(1, 20) i")


def look(connection: psycopg.Connection[dict[str, Any]], place: Place, asked: str = "{}") -> GateReport | None:
    return report.look(connection, place, parse(FILE.format(asked)), has_record=True)


def test_the_default_of_the_target_is_told_with_its_reason(
    place: Place, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    small = look(connection, place)
    assert small is not None
    assert (small.require, small.because.partition(" (")[0]) == (
        "proved",
        "the tables are small enough for it to be cheap",
    )
    assert ([one.table for one in small.tables], small.bytes > 0, small.missing) == (["jobs"], True, ())
    assert (small.provider, small.copies, small.next, small.backup) == ("pg_dump", ("east", "west"), "take", None)
    assert small.version is not None
    assert "pg_dump (PostgreSQL)" in small.version

    large = look(connection, replace(place, settings=BackupSettings(proved_up_to_bytes=0)))
    assert large is not None
    assert large.require == "recent"
    assert look(connection, replace(place, stores=())) is None, "nobody asks for one, and there is no place for it"
    said = look(connection, replace(place, stores=()), "{require: taken}")
    assert said is not None
    assert (said.because, "BACKFILLD_STORES" in said.missing[0]) == ("its file says so", True)
    assert backups.listed(connection) == []


def test_a_recent_backup_that_will_do_is_named(place: Place, connection: psycopg.Connection[dict[str, Any]]) -> None:
    taken = take.take(place, Wanted(requested_by="test"), UNWATCHED)
    found = look(connection, place, "{require: recent}")
    assert found is not None
    assert (found.next, found.backup, found.missing) == ("nothing", taken.backup, ())


def test_what_is_missing_is_told(
    place: Place,
    connection: psycopg.Connection[dict[str, Any]],
    plain_role: tuple[str, str],
    plain_role_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pg_dump that crashes, row security, a store that nobody knows, no server to restore with, no room, no extension."""
    connection.execute(f"ALTER TABLE jobs ENABLE ROW LEVEL SECURITY; GRANT ALL ON jobs TO {plain_role[0]}")
    with_dump(tmp_path, "kill -SEGV $$")
    crashing = replace(place, settings=BackupSettings(programs=tmp_path))
    with psycopg.connect(plain_role_url, row_factory=dict_row) as as_role:
        found = report.look(as_role, crashing, parse(FILE.format("{copies: [north]}")), has_record=False)
    assert found is not None
    crashed, unknown, hidden = found.missing
    assert found.version is None
    assert "pg_dump --version ends with" in crashed
    assert "no store is called north" in unknown
    assert f"row security hides rows of jobs from the role {plain_role[0]}" in hidden

    bin_only = tmp_path / "client"
    bin_only.mkdir()
    with_dump(bin_only, "echo 'pg_dump (PostgreSQL) 99.1'")
    without_server = look(connection, replace(place, settings=BackupSettings(programs=bin_only)))
    assert without_server is not None
    assert "has no initdb and postgres to restore with" in without_server.missing[0]

    monkeypatch.setattr("backfilld.migrations.backups.scratch.ROOM", 1e12)
    no_room = look(connection, place)
    assert no_room is not None
    assert "set TMPDIR to a larger place" in no_room.missing[0]


def with_dump(folder: Path, does: str) -> None:
    (folder / "pg_dump").write_text(f"#!/bin/sh\n{does}\n")
    (folder / "pg_dump").chmod(0o755)


def test_an_extension_that_the_scratch_server_lacks_is_told(
    contrib_database_url: str, stores: tuple[StoreSettings, ...]
) -> None:
    """A table with its type cannot be restored there: hstore is on the one server, and not beside the other's programs."""
    place = Place(url=contrib_database_url, settings=BackupSettings(), stores=stores)
    with psycopg.connect(contrib_database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("CREATE EXTENSION hstore; CREATE DOMAIN tags AS hstore")
        connection.execute("CREATE TABLE jobs (id int PRIMARY KEY, status text, tags tags, more hstore[])")
        found = report.look(connection, place, parse(FILE.format("{}")), has_record=False)
    assert found is not None
    assert ["the scratch server has no extension hstore" in one for one in found.missing] == [True]


def test_a_script_that_joins_no_snapshot_cannot_be_proved(
    place: Place, connection: psycopg.Connection[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "own.sh").write_text("""#!/bin/sh\necho '{"version": "own 1"}'\n""")
    (tmp_path / "own.sh").chmod(0o755)
    command = CommandSettings(path=tmp_path / "own.sh")
    settings = BackupSettings(provider="command", command="own", commands={"own": command})
    found = look(connection, replace(place, stores=(), settings=settings), "{require: proved, copies: [east]}")
    assert found is not None
    assert (found.version, found.copies) == ("own 1", ("command",))
    copy, snapshot = found.missing
    assert "it makes no copy in store east" in copy
    assert "snapshot = true" in snapshot


def test_plan_shows_it_and_programs_read_it(
    database_url: str,
    stores: tuple[StoreSettings, ...],
    monkeypatch: pytest.MonkeyPatch,
    connection: psycopg.Connection[Any],
    tmp_path: Path,
) -> None:
    connection.execute("ALTER TABLE jobs ADD PRIMARY KEY (id)")
    monkeypatch.setenv(
        "BACKFILLD_STORES", json.dumps([one.model_dump(mode="json", exclude_none=True) for one in stores])
    )
    (tmp_path / "jobs.yaml").write_text(FILE.format("{require: verified, max_age: 1h}"))
    made = Client(database_url).plan(tmp_path / "jobs.yaml")

    told = json.loads(json.dumps(made.to_json()))["backup"]
    keys = {"provider", "require", "because", "max_age_seconds", "tables", "bytes", "copies", "next", "missing"}
    assert keys <= told.keys()
    assert (told["require"], told["tables"][0]["table"], told["missing"]) == ("verified", "jobs", [])
    page = io.StringIO()
    Console(file=page, width=80, color_system=None).print(display.plan(made))
    assert "before it begins one must be verified" in page.getvalue()
    assert "its file says so" in page.getvalue()


#: What builds of PostgreSQL 18.4 and 17.10 say.
WITHOUT = "invalid compression specification: this build does not support compression with ZSTD"
WITH = 'connection to server on socket "/nowhere/.s.PGSQL.5432" failed: No such file or directory'


@pytest.mark.parametrize(
    ("major", "says", "compression"), [(17, WITH, "zstd:1"), (18, WITHOUT, "gzip:1"), (15, WITH, "1")]
)
def test_the_best_compression_that_a_build_has_is_tried(
    tmp_path: Path, major: int, says: str, compression: str
) -> None:
    with_dump(tmp_path, f"echo 'pg_dump: error: {says}' >&2; exit 1")
    build = programs.Programs(folder=tmp_path, major=major, version="")
    assert programs.compression(build) == compression
