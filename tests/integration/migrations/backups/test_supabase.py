"""A run of a Supabase project begins once the moment before it can be recovered, and a person can go back there."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fix_backups import UNWATCHED
from fix_runs import expect
from fix_supabase import PROJECT, TOKEN
from typer.testing import CliRunner

from backfilld.migrations.backup_settings import BackupSettings, SupabaseSettings
from backfilld.migrations.backups import prove, take
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.backups.prove import BadBackup
from backfilld.migrations.backups.take import Wanted
from backfilld.migrations.record import backups
from backfilld.migrations.record.states import State
from backfilld.producers.cli import app

if TYPE_CHECKING:
    import psycopg
    from fix_runs import Engine
    from fix_supabase import ManagementApi

    from backfilld.migrations.backups.place import Place

WANTED = Wanted(requested_by="test")
FILE = "{name: jobs, operations: [{backfill: {table: jobs, set: {status: \"'b'\"}}}]}"


@pytest.fixture
def project(place: Place, management_api: ManagementApi, connection: psycopg.Connection[Any]) -> Place:
    connection.execute("CREATE TABLE jobs (id int PRIMARY KEY, status text); INSERT INTO jobs VALUES (1, 'a')")
    return at(place, management_api)


def at(place: Place, api: ManagementApi, **settings: Any) -> Place:
    given = {"project": PROJECT, "token": TOKEN, "url": api.url, "poll_seconds": 0.05, **settings}
    return replace(place, stores=(), settings=BackupSettings(provider="supabase", supabase=SupabaseSettings(**given)))


def test_a_run_begins_a_second_after_a_moment_that_can_be_recovered(
    engine: Engine, project: Place, management_api: ManagementApi, monkeypatch: pytest.MonkeyPatch, governed: None
) -> None:
    """The file says nothing: with point-in-time recovery the moment is put on record. It is waited for, and given as it was."""
    run = engine.enqueue(FILE)
    runner = engine.runner(backups=project)
    for _ in range(2):
        engine.step(runner=runner)
    (taken,) = backups.listed(engine.connection)
    assert (taken.level, taken.error, taken.run) == ("taken", None, run)
    assert len(management_api.asked) > 2, "it was asked again until the moment could be recovered"
    expect(engine.drive(run, runner=runner), State.COMPLETED)

    moment = taken.details["moment"]
    assert taken.snapshot_at is not None
    assert taken.snapshot_at.timestamp() == moment
    assert taken.began_at.timestamp() < moment, "the marker is from before it"
    first = engine.value("SELECT extract(epoch FROM min(at)) FROM backfilld.events WHERE what = 'backup.gate'")
    assert first >= moment + 1, "a whole second lies between it and the first change"
    assert prove.verify(project, taken.backup, UNWATCHED).level == "verified"
    assert TOKEN not in str(engine.execute("SELECT b::text FROM backfilld.backups b"))

    # A person goes back, and not before the workers are gone: the restored record has the run queued.
    monkeypatch.setenv("BACKFILLD_DATABASE_URL", engine.url)
    monkeypatch.setenv("BACKFILLD_BACKUP", _as_json(project))
    page = CliRunner().invoke(app, ["explain", "jobs", "--emergency"]).stdout
    assert "backfilld restore jobs --in-place --yes" in page
    assert (answer := restore()).exit_code == 2
    assert "all that was written since" in answer.stderr
    engine.execute("INSERT INTO backfilld.workers (worker, works, transforms) VALUES ('host:1', true, '{}')")
    assert (answer := restore("--yes")).exit_code == 2
    assert "stop the workers first (host:1)" in answer.stderr
    engine.execute("DELETE FROM backfilld.workers")
    assert ("POST" in {method for method, _, _ in management_api.asked}) is False
    assert (answer := restore("--yes")).exit_code == 0, answer.stderr
    assert "backfilld cancel jobs" in answer.stdout
    posted = [asked for asked in management_api.asked if asked[0] == "POST"]
    path = f"/v1/projects/{PROJECT}/database/backups/restore-pitr"
    assert posted == [("POST", path, {"recovery_time_target_unix": moment})]

    # An answer that is none leaves open whether it was begun.
    management_api.instead = (502, b"bad gateway")
    assert (answer := restore("--yes")).exit_code == 1
    assert "answers 502" in answer.stderr


def restore(*words: str) -> Any:
    return CliRunner().invoke(app, ["restore", "jobs", "--in-place", *words])


def _as_json(project: Place) -> str:
    supabase = project.settings.supabase
    assert supabase is not None
    told = supabase.model_dump(mode="json") | {"token": TOKEN}
    return json.dumps({"provider": "supabase", "supabase": told})


CASES: dict[str, tuple[tuple[int, bytes] | None, str]] = {
    "the token is wrong": ((401, b"{}"), "answers 401 .*: the token is not valid"),
    "the plan lacks it": ((402, b"{}"), "answers 402 .*: the plan of the project does not include it"),
    "it may not": ((403, b"{}"), "answers 403 .*: the token may not do it"),
    "no such project": ((404, b"{}"), "answers 404 .*: there is no project"),
    "too many": ((429, b"{}"), "answers 429 .*: too many requests"),
    "it is down": ((503, f"sorry {TOKEN}".encode()), "answers 503 .*: sorry …"),
    "it is cut": (None, "127.0.0.1 cannot be asked"),
    "no JSON": ((200, b"<html>"), "did not answer with JSON"),
    "a list": ((200, b"[]"), "with JSON that is no object"),
    "nothing yet": ((200, b'{"pitr_enabled": true, "physical_backup_data": {}}'), "nothing to recover to yet"),
    "off": (
        (200, b'{"pitr_enabled": false, "backups": [{"id": 1}, {"id": 2}]}'),
        r"point-in-time recovery is off for project abcdefghijklmnopqrst \(2 daily backups",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_api_cannot_do_is_told_and_nothing_is_on_record(
    project: Place, management_api: ManagementApi, connection: psycopg.Connection[dict[str, Any]], case: str
) -> None:
    management_api.instead, told = CASES[case]
    with pytest.raises(BackupFailed, match=told) as caught:
        take.take(project, WANTED, UNWATCHED)
    assert TOKEN not in str(caught.value)
    assert backups.listed(connection) == []


def test_a_moment_that_never_can_be_recovered_is_given_up(
    place: Place, project: Place, management_api: ManagementApi, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    management_api.ships = 0
    with pytest.raises(BackupFailed, match=r"cannot be recovered after 0 s: the project can be recovered from"):
        take.take(at(place, management_api, wait_seconds=0.2), WANTED, UNWATCHED)
    (failed,) = backups.listed(connection)
    assert failed.state == "failed"


def test_a_moment_that_was_given_up_meanwhile_is_found(project: Place, management_api: ManagementApi) -> None:
    taken = take.take(project, WANTED, UNWATCHED)
    management_api.earliest = taken.details["moment"] + 60
    with pytest.raises(BadBackup, match=r"the project can be recovered from .*, and not to"):
        prove.verify(project, taken.backup, UNWATCHED)


def test_it_cannot_be_proved_and_says_so(project: Place) -> None:
    taken = take.take(project, WANTED, UNWATCHED)
    with pytest.raises(BackupFailed, match="it can be verified, and not proved"):
        prove.prove(project, taken.backup, UNWATCHED)
    with pytest.raises(ValueError, match="in place only"):
        BackupSettings(provider="supabase", require="proved", supabase=project.settings.supabase)
