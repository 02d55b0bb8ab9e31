"""The WAL is received without a gap, whatever happens to who receives it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_daemon import until
from fix_physical import physical_place
from psycopg.rows import dict_row

from backfilld.migrations.backups import contents
from backfilld.migrations.backups.physical import receiver, segments
from backfilld.migrations.telemetry import Event, SideTaskFailed
from backfilld.worker.side_tasks.wal_receiver import WalKeeper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.producers.demo.servers import EmbeddedPostgres

Rows = psycopg.Connection[dict[str, Any]]  # Any: a column has the type it has
SEGMENT_BYTES = 16 * 1024**2


@pytest.fixture
def session(physical_postgres: EmbeddedPostgres) -> Iterator[Rows]:
    with psycopg.connect(physical_postgres.url(), autocommit=True, row_factory=dict_row) as connection:
        yield connection
        # Of a killed one the server may know nothing yet.
        until("the slot to be free", lambda: not (known := receiver.slot(connection, "backfilld")) or not known.active)
        connection.execute("SELECT pg_drop_replication_slot('backfilld') FROM pg_replication_slots")


def received(session: Rows) -> bool:
    """All that is on disk at this moment."""
    here = (session.execute("SELECT pg_current_wal_flush_lsn()::text AS lsn").fetchone() or {})["lsn"]
    known = receiver.slot(session, "backfilld")
    if known is None or not known.active or known.received is None:
        return False
    return segments.position(known.received) >= segments.position(here)


def pid_of(folder: Path) -> int:
    """The pg_receivewal that writes below this folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"/pg_receivewal") and any(bytes(folder) in word for word in words):
                return int(process.name)
    return 0


def test_a_receiver_that_is_killed_continues_where_it_was(
    session: Rows, physical_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    """From its partial segment, without a gap: all segments of a stretch are there and whole."""
    place = physical_place(physical_postgres.url(), tmp_path)
    told: list[Event] = []
    keeper = WalKeeper(place, observe=told.append)
    assert keeper.run_once(session) == 1
    until("all WAL to be received", lambda: received(session))
    other = WalKeeper(place, observe=told.append)
    assert other.run_once(session) == 0, "one is enough"

    os.kill(pid_of(tmp_path), signal.SIGKILL)
    session.execute("CREATE TABLE IF NOT EXISTS filling (); SELECT pg_switch_wal()")
    session.execute("CREATE TABLE IF NOT EXISTS filled (); SELECT pg_switch_wal()")
    until("the keeper to hold the slot", lambda: keeper.run_once(session) == 1)
    until("all WAL to be received", lambda: received(session))
    keeper.stop()

    system = contents.server(session).system_identifier
    (stretch,) = receiver.stretches(tmp_path / "wal", system)
    numbers = sorted(segments.number(one.name, SEGMENT_BYTES) for one in stretch.iterdir() if len(one.name) >= 24)
    assert len(numbers) >= 3
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert {one.stat().st_size for one in stretch.iterdir() if len(one.name) >= 24} == {SEGMENT_BYTES}
    (said,) = session.execute(
        "SELECT detail ->> 'error' AS error FROM backfilld.events WHERE what = 'backup.wal'"
    ).fetchall()
    assert "pg_receivewal ended with" in said["error"]
    assert told == []


def test_what_is_lacking_is_told_once_a_minute(
    session: Rows, physical_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    session.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '-1'")
    session.execute("SELECT pg_reload_conf()")
    until(
        "the setting to be read",
        lambda: (session.execute("SHOW max_slot_wal_keep_size").fetchone() or {})["max_slot_wal_keep_size"] == "-1",
    )
    told: list[Event] = []
    keeper = WalKeeper(physical_place(physical_postgres.url(), tmp_path), observe=told.append)
    try:
        assert keeper.run_once(session) + keeper.run_once(session) == 0
    finally:
        session.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        session.execute("SELECT pg_reload_conf()")
    (problem,) = told
    assert isinstance(problem, SideTaskFailed)
    assert "max_slot_wal_keep_size is -1" in problem.message
    assert receiver.slot(session, "backfilld") is None
    keeper.stop()


def test_a_stretch_is_continued_only_where_the_slot_has_what_comes_next() -> None:
    """pg_receivewal asks for the segment after its newest file; what another host has received is not kept."""
    names = ["000000010000000000000004", "000000010000000000000005.partial", "receiver.log"]
    assert segments.continues_with(names, SEGMENT_BYTES) == 5
    assert segments.continues_with(names[:1], SEGMENT_BYTES) == 5
    assert segments.continues_with(["receiver.log"], SEGMENT_BYTES) is None
    assert segments.number("0000000200000001000000FF", SEGMENT_BYTES) == 511
    assert segments.names(1, "0/FF000028", "1/1000001", SEGMENT_BYTES) == [
        "0000000100000000000000FF",
        "000000010000000100000000",
        "000000010000000100000001",
    ]
    assert segments.names(1, "0/1000028", "0/2000000", SEGMENT_BYTES) == ["000000010000000000000001"]


def test_segments_that_no_backup_needs_are_removed(tmp_path: Path) -> None:
    for stretch, names in (("0001", ("2", "3")), ("0002", ("4", "5", "6.partial"))):
        (tmp_path / "7" / stretch).mkdir(parents=True)
        for name in names:
            (tmp_path / "7" / stretch / f"00000001000000000000000{name}").touch()
    assert receiver.prune(tmp_path, "7", "000000020000000000000005") == 3
    assert [one.name for one in receiver.stretches(tmp_path, "7")] == ["0002"]
    assert receiver.find(tmp_path, "7", "000000010000000000000005") is not None
    assert receiver.find(tmp_path, "7", "000000010000000000000006") is not None
    assert receiver.find(tmp_path, "7", "000000010000000000000004") is None
