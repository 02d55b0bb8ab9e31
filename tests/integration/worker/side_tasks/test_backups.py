"""Backups by the clock: taken, proved, given up; one worker does it."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fix_backups import files_of

from backfilld.migrations.backup_settings import BackupSettings, Schedule
from backfilld.migrations.record import audit, backups
from backfilld.migrations.telemetry import Event, SideTaskFailed
from backfilld.worker.side_tasks.backups import BackupKeeper, what_is_due

if TYPE_CHECKING:
    import psycopg

    from backfilld.migrations.backups.place import Place

HOURLY = BackupSettings(schedule=Schedule(every="1h", prove_every="1d"), keep="2h")


def keeper(place: Place, told: list[Event] | None = None) -> BackupKeeper:
    observe = (told if told is not None else []).append
    return BackupKeeper(replace(place, settings=HOURLY), observe=observe, stopping=threading.Event())


def test_the_clock_takes_one_proves_it_and_gives_up_the_oldest(
    place: Place, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    connection.execute("CREATE TABLE jobs AS SELECT i AS id FROM generate_series(1, 20) i")
    one = keeper(place)
    levels = []
    for _ in range(3):
        one.run_once(connection)
        one.join()
        levels.append([found.level for found in backups.listed(connection)])
    assert levels == [["verified"], ["proved"], ["proved"]]
    (found,) = backups.listed(connection)
    assert (found.scope, found.requested_by, "jobs" in {sums.table for sums in found.tables}) == (
        "all",
        "the clock",
        True,
    )

    # An hour later, and then two: the second is the newest, and the first the newest that was proved.
    connection.execute("UPDATE backfilld.backups SET snapshot_at = snapshot_at - interval '61 min'")
    one.run_once(connection)
    one.join()
    connection.execute(
        "UPDATE backfilld.backups SET expires_at = clock_timestamp(), proved_at = taken_at, verified_at = taken_at"
    )
    one.run_once(connection)
    one.join()
    assert [found.level for found in backups.listed(connection)] == ["proved", "expired"]
    assert len(files_of(place.stores)) == 6


def test_two_workers_take_one(place: Place, connection: psycopg.Connection[dict[str, Any]]) -> None:
    connection.execute("CREATE TABLE jobs AS SELECT 1 AS id")
    with connection.transaction():
        assert backups.hold(connection, backups.CLOCK, 0)
        one = keeper(place)
        one.run_once(connection)
        one.join()
        assert backups.listed(connection) == []


def test_what_fails_is_told_and_not_tried_again_at_once(
    place: Place, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    connection.execute("CREATE TABLE jobs AS SELECT 1 AS id")
    path = place.stores[0].path
    assert path is not None
    path.parent.mkdir(parents=True)
    path.touch()
    told: list[Event] = []
    one = keeper(place, told)
    for _ in range(2):
        one.run_once(connection)
        one.join()

    (event,) = told
    assert isinstance(event, SideTaskFailed)
    assert "store east" in event.message
    (failed,) = backups.listed(connection)
    assert failed.state == "failed"
    events = connection.execute("SELECT detail FROM backfilld.events WHERE what = 'backup.failed'").fetchall()
    assert len(events) == 1
    assert audit.story(connection, 0) == []


def test_nothing_is_due_without_a_store_or_a_schedule(place: Place) -> None:
    now = datetime(2026, 5, 4, tzinfo=UTC)
    assert what_is_due(place, [], now=now) is None
    assert what_is_due(replace(place, settings=HOURLY), [], now=now) is not None
    assert what_is_due(replace(place, settings=HOURLY, stores=()), [], now=now + timedelta(days=9)) is None
