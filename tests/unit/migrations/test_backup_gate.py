"""What a run waits for, and what is done about it next: a table of cases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from backfilld.migrations.backup_settings import BackupSettings, Schedule, seconds_of
from backfilld.migrations.backups.gate import Next, judge, level_of, need_of, touched
from backfilld.migrations.file.backup_gate import BackupGate
from backfilld.migrations.file.migration import parse
from backfilld.migrations.record.backups import Backup, Copy, TableSum

if TYPE_CHECKING:
    from backfilld.migrations.backup_settings import Level

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
RUN = 7


def backup(minutes: float = 5, **known: Any) -> Backup:
    """One that was taken so many minutes ago for the run. Any: fields of it."""
    at = NOW - timedelta(minutes=minutes)
    fields: dict[str, Any] = dict.fromkeys(Backup.__dataclass_fields__)
    tables = (TableSum(table="jobs", rows=1, checksum="1"), TableSum(table="users", rows=1, checksum="1"))
    copies = (Copy(store="east", region=""), Copy(store="west", region=""))
    fields |= {
        "kind": "logical",
        "scope": "tables",
        "details": {},
        "backup": 1,
        "run": RUN,
        "state": "taken",
        "tables": tables,
        "copies": copies,
    }
    return Backup(**{**fields, "began_at": at, "snapshot_at": at, "taken_at": at, **known})


CASES: dict[str, tuple[Level, list[Backup], Next]] = {
    "off": ("off", [], Next.NOTHING),
    "none there": ("recent", [], Next.TAKE),
    "another run's is recent": ("recent", [backup(run=None)], Next.NOTHING),
    "it is too old": ("recent", [backup(61)], Next.TAKE),
    "it lacks a table": ("recent", [backup(tables=())], Next.TAKE),
    "it lacks a copy": ("recent", [backup(copies=(Copy(store="east", region=""),))], Next.TAKE),
    "it failed": ("recent", [backup(state="failed")], Next.TAKE),
    "another run's is not its own": ("taken", [backup(run=6)], Next.TAKE),
    "taken": ("taken", [backup()], Next.NOTHING),
    "taken long before it goes on": ("taken", [backup(61)], Next.TAKE),
    "not read back": ("verified", [backup()], Next.VERIFY),
    "read back": ("verified", [backup(verified_at=NOW)], Next.NOTHING),
    "not read back, and to be proved": ("proved", [backup()], Next.VERIFY),
    "not restored": ("proved", [backup(verified_at=NOW)], Next.PROVE),
    "proved": ("proved", [backup(verified_at=NOW, proved_at=NOW)], Next.NOTHING),
    "proving took longer than it may be old": ("proved", [backup(300, verified_at=NOW, proved_at=NOW)], Next.NOTHING),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_next(case: str) -> None:
    level, known, expected = CASES[case]
    need = need_of(BackupGate(max_age="1h", copies=("east", "west")), BackupSettings(), level, ["jobs"])
    assert judge(need, known, run=RUN, now=NOW)[0] is expected


@pytest.mark.parametrize(
    ("said", "settings", "has_stores", "size", "level"),
    [
        ("verified", BackupSettings(require="off"), True, 10, "verified"),
        (None, BackupSettings(require="taken"), True, 10, "taken"),
        (None, BackupSettings(), False, 10, "off"),
        (None, BackupSettings(), True, 10, "proved"),
        (None, BackupSettings(), True, 2**31, "recent"),
    ],
)
def test_the_file_comes_first_then_the_settings_then_what_is_cheap(
    said: Level | None, settings: BackupSettings, *, has_stores: bool, size: int, level: Level
) -> None:
    assert level_of(BackupGate(require=said), settings, keeps=has_stores, size=size)[0] == level


@pytest.mark.parametrize(
    ("operations", "backup_settings", "expected"),
    [
        ("[{backfill: {table: jobs, set: {a: '1'}}}, {set_not_null: {table: jobs, column: a}}]", "{}", ["jobs"]),
        ("[{sql: {run: SELECT, rollback: SELECT}}]", "{}", None),
        ("[{sql: {table: jobs, run: SELECT, rollback: SELECT}}]", "{}", ["jobs"]),
        ("[{backfill: {table: jobs, set: {a: '1'}}}]", "{tables: all}", None),
        ("[{backfill: {table: jobs, set: {a: '1'}}}]", "{tables: [a.B]}", ["a.B"]),
    ],
    ids=["named once", "raw SQL may touch any", "raw SQL with its table", "all", "a list"],
)
def test_which_tables_a_run_touches(operations: str, backup_settings: str, expected: list[str] | None) -> None:
    migration = parse(f"{{name: a, operations: {operations}, settings: {{backup: {backup_settings}}}}}")
    found = touched(migration)
    assert (found if found is None else [str(one) for one in found]) == expected


@pytest.mark.parametrize(("text", "seconds"), [("90 s", 90), ("1.5h", 5400), ("2d", 172_800), ("15min", 900)])
def test_a_length_of_time_is_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "0h", "1 week", "-1h"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no length of time"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("every", "prove_every", "oldest"),
    [
        (None, None, {}),
        ("1h", None, {"newest": 3600}),
        (None, "1d", {"proved": 86_400}),
        ("1h", "1d", {"newest": 3600, "proved": 86_400 + 3600}),
    ],
)
def test_how_old_backups_become_by_the_clock(
    every: str | None, prove_every: str | None, oldest: dict[str, float]
) -> None:
    schedule = Schedule(every=every, prove_every=prove_every)
    assert BackupSettings(schedule=schedule).oldest_seconds == oldest
