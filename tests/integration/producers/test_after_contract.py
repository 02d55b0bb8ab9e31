"""What contract takes from the application is told before it is approved, and whether the application still needs it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import Phase, State
from backfilld.producers.client import Client

if TYPE_CHECKING:
    from pathlib import Path

    from fix_runs import Engine

TEXT = """
name: euros
operations:
  - add_column: {table: jobs, column: {name: total_eur, type: numeric}, backfill: "total * 2", not_null: true}
  - add_column: {table: jobs, column: {name: kind, type: text}, backfill: "'x'", default: "'x'", not_null: true}
  - rename_column: {table: jobs, from: old, to: new}
  - set_not_null: {table: jobs, column: total}
settings: {approve: [contract]}
"""
FAILS = "an INSERT that leaves out jobs.total_eur fails"


@pytest.fixture
def run(engine: Engine) -> int:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, total numeric, old text)")
    engine.execute("INSERT INTO jobs SELECT n, n FROM generate_series(1, 10) n")
    run = engine.enqueue(TEXT)
    expect(engine.drive(run), State.WAITING)
    return run


def came(engine: Engine, run: int, *, seconds_ago: int) -> None:
    engine.execute("DELETE FROM backfilld.omitted_inserts")
    engine.execute(
        "INSERT INTO backfilld.omitted_inserts VALUES (%s, 0, clock_timestamp() - make_interval(secs => %s))",
        run,
        seconds_ago,
    )


def test_status_and_explain_say_what_fails_and_when_it_last_came(engine: Engine, run: int) -> None:
    client = Client(engine.url)
    renamed = {
        "operation": 2,
        "fails": "a statement that names jobs.old fails",
        "last_seconds": None,
        "still_comes": False,
    }
    assert client.status(run).to_json()["after_contract"] == [
        {"operation": 0, "fails": FAILS, "last_seconds": None, "still_comes": False},
        renamed,
    ]
    came(engine, run, seconds_ago=3)
    told = client.explain(run)
    assert any(re.fullmatch(rf"After contract {FAILS}; the last one came \d+ s ago\.", one) for one in told.sentences)
    assert told.remedies[0].startswith("deploy an application")
    first, second = client.status(run).to_json()["after_contract"]
    assert (first["still_comes"], second) == (True, renamed)

    client.approve(run, yes=True)
    expect(engine.drive(run), State.COMPLETED)
    assert client.status(run).after_contract == ()


def test_the_sync_trigger_sees_inserts_that_leave_the_column_out(engine: Engine, run: int) -> None:
    client = Client(engine.url)
    engine.execute("INSERT INTO jobs (id, total, total_eur) VALUES (100, 1, 7)")
    assert not client.after_contract(run)[0].still_comes
    engine.execute("INSERT INTO jobs (id, total) VALUES (101, 1)")
    assert client.after_contract(run)[0].still_comes


def test_a_write_under_the_old_name_of_a_rename_is_seen_too(engine: Engine, run: int) -> None:
    client = Client(engine.url)
    engine.execute("UPDATE jobs SET new = 'x', total = 3 WHERE id = 1")
    assert client.after_contract(run)[1].last_seconds is None
    engine.execute("UPDATE jobs SET old = 'y' WHERE id = 1")
    assert client.after_contract(run)[1].still_comes
    with pytest.raises(Refused, match=r"names jobs\.old fails; the last one came"):
        client.approve(run)


@pytest.mark.parametrize("phase", [None, "contract"])
def test_contract_is_not_approved_while_they_come(engine: Engine, run: int, phase: str | None) -> None:
    client = Client(engine.url)
    came(engine, run, seconds_ago=3)
    with pytest.raises(Refused, match=r"total_eur fails; the last one came \d+ s ago.*--phase contract --yes"):
        client.approve(run, phase)
    expect(engine.run(run), State.WAITING)
    came(engine, run, seconds_ago=3600)
    assert client.approve(run, phase).state is State.RUNNING


def approve(engine: Engine, *arguments: str, answer: str | None = None) -> tuple[int, str]:
    """`backfilld approve` as a script, or with a terminal in front of which somebody answers; its exit code and its output."""
    person, terminal = pty.openpty()
    try:
        if answer is not None:
            os.write(person, f"{answer}\n".encode())
        done = subprocess.run(
            [sys.executable, "-P", "-m", "backfilld", "approve", "euros", *arguments],
            env={**os.environ, "BACKFILLD_DATABASE_URL": engine.url},
            stdin=terminal if answer is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(person)
        os.close(terminal)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_the_command_line_asks_a_person_and_refuses_a_script(engine: Engine, run: int) -> None:
    came(engine, run, seconds_ago=3)
    code, output = approve(engine, "--phase", "contract")
    assert (code, "the last one came" in output, "--yes" in output) == (3, True, True)
    code, output = approve(engine, answer="n")
    assert (code, FAILS in output) == (1, True)
    expect(engine.run(run), State.WAITING)
    assert approve(engine, answer="y")[0] == 0
    expect(engine.run(run), State.RUNNING)


def test_the_plan_ranks_it_high(engine: Engine, tmp_path: Path) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, total numeric, old text)")
    file = tmp_path / "euros.yaml"
    file.write_text(TEXT)
    risks = {
        (risk.operation, risk.level): risk.reason
        for risk in Client(engine.url).plan(file).risks
        if risk.cause == "after_contract"
    }
    assert {*risks} == {(0, "high"), (2, "high"), (3, "medium")}
    assert risks[0, "high"] == f"after contract {FAILS}"


def test_phases_before_contract_are_approved_without_a_question(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, total numeric, old text)")
    run = engine.enqueue(TEXT.replace("[contract]", "[switch, contract]"))
    expect(engine.drive(run), State.WAITING)
    came(engine, run, seconds_ago=3)
    assert engine.run(run).phase is Phase.SWITCH
    assert Client(engine.url).approve(run).state is State.RUNNING
