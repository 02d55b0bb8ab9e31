"""Other runs on the table that have not ended: which of them are in the way of a new one, and which are not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine
from backfilld.producers import commands

if TYPE_CHECKING:
    from pathlib import Path

    from fix_runs import Engine

    from backfilld.migrations.errors import Finding


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text, slug text)")
    engine.execute("INSERT INTO jobs SELECT n, 's' || n, 'x' FROM generate_series(1, 5) n")


#: A run that waits for contract; and what may come beside it, and what may not, each with the column that it is about.
LIVE: dict[str, dict[str, Any]] = {  # Any: a file as JSON
    "add": ({"add_column": {"table": "jobs", "column": {"name": "loud", "type": "text"}, "backfill": "upper(status)"}}),
    "rename": {"rename_column": {"table": "jobs", "from": "status", "to": "state"}},
    "retype": {"change_type": {"table": "jobs", "column": "status", "type": "varchar(50)"}},
    "drop": {"drop_column": {"table": "jobs", "column": "status"}},
    "write": {"backfill": {"table": "jobs", "set": {"slug": "lower(status)"}, "where": "slug = 'x'"}},
    "check": {"add_check": {"table": "jobs", "name": "small", "check": "length(status) < 50"}},
}
IN_THE_WAY: dict[str, tuple[str, dict[str, Any]]] = {
    "rename of a column that a trigger reads": (
        "add",
        {"rename_column": {"table": "jobs", "from": "status", "to": "state"}},
    ),
    "rename of the column that is added": ("add", {"rename_column": {"table": "jobs", "from": "loud", "to": "x"}}),
    "another type for what is read": (
        "add",
        {"change_type": {"table": "jobs", "column": "status", "type": "varchar(50)"}},
    ),
    "drop of what is read": ("add", {"drop_column": {"table": "jobs", "column": "status"}}),
    "drop of what is added": ("add", {"drop_column": {"table": "jobs", "column": "loud"}}),
    "a column computed from one that is added": (
        "add",
        {"add_column": {"table": "jobs", "column": {"name": "x", "type": "text"}, "backfill": "lower(loud)"}},
    ),
    "second rename, of what is left over": (
        "rename",
        {"rename_column": {"table": "jobs", "from": "status", "to": "x"}},
    ),
    "second rename, of the new name": ("rename", {"rename_column": {"table": "jobs", "from": "state", "to": "x"}}),
    "drop of what is left over": ("rename", {"drop_column": {"table": "jobs", "column": "status"}}),
    "an index on a name that goes": ("rename", {"create_index": {"table": "jobs", "name": "x", "columns": ["status"]}}),
    "a column computed from a name that goes": (
        "rename",
        {"add_column": {"table": "jobs", "column": {"name": "x", "type": "text"}, "backfill": "lower(status)"}},
    ),
    "rename of what gets another type": ("retype", {"rename_column": {"table": "jobs", "from": "status", "to": "x"}}),
    "a second change of type": (
        "retype",
        {"change_type": {"table": "jobs", "column": "status", "type": "varchar(60)"}},
    ),
    "rename of what is dropped": ("drop", {"rename_column": {"table": "jobs", "from": "status", "to": "x"}}),
    "rename of what a rule is about": ("check", {"rename_column": {"table": "jobs", "from": "status", "to": "x"}}),
    "a second write of the same column": ("write", {"backfill": {"table": "jobs", "set": {"slug": "upper(status)"}}}),
    "rename of what is written": ("write", {"rename_column": {"table": "jobs", "from": "slug", "to": "x"}}),
    "rename of the key": ("add", {"rename_column": {"table": "jobs", "from": "id", "to": "number"}}),
    "raw rename": ("add", {"sql": {"run": "ALTER TABLE public.jobs RENAME status TO state", "rollback": "SELECT 1"}}),
    "raw drop": ("add", {"sql": {"run": "ALTER TABLE public.jobs DROP COLUMN loud", "rollback": "SELECT 1"}}),
    "triggers disabled": (
        "add",
        {"sql": {"run": "ALTER TABLE public.jobs DISABLE TRIGGER ALL", "rollback": "SELECT 1"}},
    ),
    "the table renamed": ("add", {"sql": {"run": "ALTER TABLE public.jobs RENAME TO tasks", "rollback": "SELECT 1"}}),
    "the table dropped": ("add", {"sql": {"run": "DROP TABLE public.jobs", "rollback": "SELECT 1"}}),
}
BESIDE: dict[str, tuple[str, dict[str, Any]]] = {
    "another column, from the same source": (
        "add",
        {"add_column": {"table": "jobs", "column": {"name": "x", "type": "text"}, "backfill": "lower(status)"}},
    ),
    "an index on what is added": ("add", {"create_index": {"table": "jobs", "name": "x", "columns": ["loud"]}}),
    "a write of what is read": ("add", {"backfill": {"table": "jobs", "set": {"status": "lower(status)"}}}),
    "a write of what is added": ("add", {"backfill": {"table": "jobs", "set": {"loud": "lower(loud)"}}}),
    "rename of another": ("add", {"rename_column": {"table": "jobs", "from": "slug", "to": "x"}}),
    "raw, of another": (
        "add",
        {"sql": {"run": "ALTER TABLE public.jobs ALTER slug SET STATISTICS 500", "rollback": "SELECT 1"}},
    ),
    "a write of another column": ("write", {"backfill": {"table": "jobs", "set": {"status": "slug"}}}),
    "another type for another": ("rename", {"change_type": {"table": "jobs", "column": "slug", "type": "varchar(50)"}}),
}


def examined(engine: Engine, operation: dict[str, Any]) -> list[Finding]:
    text = json.dumps({"name": "second", "operations": [operation]})
    return examine.examine(engine.connection, definition.parse(text)).findings


@pytest.mark.parametrize("live", LIVE)
def test_a_run_that_has_not_ended_is_in_the_way_of_those_that_need_its_columns(engine: Engine, live: str) -> None:
    first = {
        "name": "first",
        "operations": [LIVE[live]],
        "settings": {"approve": ["verify" if live in {"check", "write"} else "contract"]},
    }
    engine.drive(engine.enqueue(json.dumps(first)))
    for case, (of, operation) in IN_THE_WAY.items():
        if of == live:
            refused = [one for one in examined(engine, operation) if one.check == "live_run"]
            assert refused, case
            assert all(
                "the run first" in one.problem and "backfilld rollback first" in one.remedy for one in refused
            ), case
    for case, (of, operation) in BESIDE.items():
        if of == live:
            assert examined(engine, operation) == [], case


def test_a_cancelled_run_is_in_the_way_while_its_trigger_is_there(engine: Engine) -> None:
    run = engine.enqueue(json.dumps({"name": "first", "operations": [LIVE["add"]]}))
    engine.drive(run)
    commands.cancel(engine.connection, run, actor="ann")
    engine.drive(run)
    rename = {"rename_column": {"table": "jobs", "from": "status", "to": "state"}}
    assert [one.check for one in examined(engine, rename)] == ["live_run"]
    commands.rollback(engine.connection, run, actor="ann")
    engine.drive(run)
    assert examined(engine, rename) == []


#: What may not come beside a run that gives a key other values and has not ended, and what may.
BESIDE_A_KEY: dict[str, tuple[bool, dict[str, Any]]] = {
    "a walk by the key": (False, {"backfill": {"table": "jobs", "set": {"slug": "upper(slug)"}}}),
    "a walk of what refers to it, by that": (False, {"backfill": {"table": "notes", "set": {"text": "upper(text)"}}}),
    "a walk by another key": (True, {"backfill": {"table": "files", "set": {"path": "upper(path)"}}}),
    "a load": (
        False,
        {"load": {"table": "jobs", "from": {"file": "jobs.csv"}, "columns": {"id": "id", "slug": "slug"}, "key": ["id"]}},
    ),
    "rows deleted": (False, {"delete_rows": {"table": "notes", "where": "text IS NULL"}}),
    "a column that is moved to what refers": (
        False,
        {"move_column": {"from": "jobs", "column": "status", "to": "notes", "on": "job"}},
    ),
    "split in two": (
        False,
        {"change_columns": {"table": "jobs", "up": {"a": "left(slug, 1)", "b": "substr(slug, 2)"}, "down": {"slug": "a || b"}}},
    ),
    "a column computed from what refers": (
        False,
        {"add_column": {"table": "files", "column": {"name": "x", "type": "text"}, "backfill": "job::text"}},
    ),
    "an index on what refers": (False, {"create_index": {"table": "files", "name": "x", "columns": ["job"]}}),
    "the foreign key dropped": (False, {"drop_constraint": {"table": "files", "name": "files_job_fkey"}}),
    "another foreign key to it": (
        False,
        {"add_foreign_key": {"table": "others", "name": "x", "columns": ["job"], "references": {"table": "jobs"}}},
    ),
    "another key": (False, {"change_key": {"table": "jobs", "column": "id", "type": "uuid", "values": "gen_random_uuid()"}}),
    "a table made anew": (False, {"rebuild": {"table": "files", "with": {"fillfactor": 80}}}),
    "another type for what refers": (False, {"change_type": {"table": "files", "column": "job", "type": "integer"}}),
    "another column of what refers": (True, {"change_type": {"table": "files", "column": "path", "type": "varchar(90)"}}),
    "a rule": (True, {"add_check": {"table": "jobs", "name": "small", "check": "length(status) < 50"}}),
}  # fmt: skip


def test_no_run_knows_rows_by_a_key_that_is_exchanged(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the switch it would walk by one key and find another; and after it, should the run be taken back."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.csv").write_text("id,slug\n1,b\n")
    engine.execute(
        "CREATE TABLE notes (job bigint PRIMARY KEY REFERENCES jobs, text text);"
        "CREATE TABLE files (id bigint PRIMARY KEY, job bigint REFERENCES jobs, path text); CREATE TABLE others (id bigint PRIMARY KEY, job bigint)"
    )
    first = {
        "name": "first",
        "operations": [
            {"change_key": {"table": "jobs", "column": "id", "type": "uuid", "values": "gen_random_uuid()"}}
        ],
        "settings": {"approve": ["switch"]},
    }
    engine.drive(engine.enqueue(json.dumps(first)))
    found = {case: [one.check for one in examined(engine, operation)] for case, (_, operation) in BESIDE_A_KEY.items()}
    assert {case: set(checks) for case, checks in found.items()} == {
        case: set() if may else {"live_run"} for case, (may, _) in BESIDE_A_KEY.items()
    }


#: What decides about a column that a load writes, finds rows by, or compares on its way back.
BESIDE_A_LOAD: dict[str, dict[str, Any]] = {
    "rename of what is loaded": {"rename_column": {"table": "jobs", "from": "status", "to": "state"}},
    "another type for the key": {"change_type": {"table": "jobs", "column": "id", "type": "numeric"}},
    "other values for the key": {
        "change_key": {"table": "jobs", "column": "id", "type": "uuid", "values": "gen_random_uuid()"}
    },
    "drop of what is not loaded": {"drop_column": {"table": "jobs", "column": "slug"}},
    "the table anew": {"rebuild": {"table": "jobs", "with": {"fillfactor": 80}}},
}


def test_a_load_and_what_decides_about_its_columns_come_one_after_the_other(engine: Engine, tmp_path: Path) -> None:
    """Without `columns` the fields of the file say which columns those are."""
    file = tmp_path / "jobs.csv"
    file.write_text("id,status\n1,done\n")
    load = {"load": {"table": "jobs", "from": {"file": str(file)}, "key": ["id"]}}
    run = engine.enqueue(json.dumps({"name": "first", "operations": [load]}))
    for case, operation in BESIDE_A_LOAD.items():
        assert {one.check for one in examined(engine, operation)} == {"live_run"}, case
    added = {"add_column": {"table": "jobs", "column": {"name": "loud", "type": "text"}}}
    assert examined(engine, added) == []
    commands.cancel(engine.connection, run, actor="ann")
    engine.drive(run)

    rename = {"name": "renamed", "operations": [LIVE["rename"]], "settings": {"approve": ["contract"]}}
    engine.drive(engine.enqueue(json.dumps(rename)))
    assert {one.check for one in examined(engine, load)} == {"live_run"}
    file.write_text("id,slug\n1,done\n")
    assert examined(engine, load) == []
