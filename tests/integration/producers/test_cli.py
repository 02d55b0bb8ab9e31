"""The command line: what it prints, where, and the exit codes that scripts rely on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_daemon import backfilld
from psycopg.rows import dict_row
from typer.testing import CliRunner

from backfilld.migrations.file.run_settings import RunSettings
from backfilld.migrations.record import audit, lanes, quarantine, runs
from backfilld.migrations.record.model import Bounds
from backfilld.migrations.record.states import LaneKind, Phase, State
from backfilld.monitoring.progress import KEYS
from backfilld.producers import cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fix_golden import Golden
    from typer.testing import Result

    from backfilld.migrations.postgres.connect import Connection

NOWHERE = "redis://127.0.0.1:1/0"
JOBS = """
name: jobs-shout
operations:
- add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)"}
"""


@dataclass
class Shell:
    """A command line in a folder with a migration file, on a database with a table."""

    folder: Path
    connection: Connection
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str) -> Result:
        result = CliRunner().invoke(cli.app, list(arguments), env=self.environment, prog_name="backfilld")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def json(self, *arguments: str) -> dict[str, Any]:  # Any: JSON
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    def write(self, text: str = JOBS) -> str:
        path = self.folder / "jobs.yaml"
        path.write_text(text)
        return str(path)

    def becomes(self, *states: State, error: dict[str, str] | None = None) -> None:
        """What a worker does: the run goes through these states."""
        for state in states:
            with self.connection.transaction():
                held = runs.lock(self.connection, 1)
                assert held is not None
                runs.set_state(
                    self.connection, held, state, actor=runs.WORKER, reason="test", wish=held.wish, error=error
                )

    def enters(self, phase: Phase, *, verified: bool = False) -> None:
        runs.set_phase(self.connection, 1, phase)
        if verified:
            runs.set_residual(self.connection, 1, residual=0, verified=True)


@pytest.fixture
def shell(database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    for name in [name for name in os.environ if name.startswith("BACKFILLD_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # no backfilld.toml of somebody's
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("create table jobs (id bigint primary key, status text not null)")
        environment = {"BACKFILLD_DATABASE_URL": database_url, "BACKFILLD_REDIS_URL": redis_url}
        yield Shell(tmp_path, connection, environment)


# --- every verb --------------------------------------------------------------------------------------------------------


def test_every_verb_has_a_help_text_with_an_example() -> None:
    listed = CliRunner().invoke(cli.app, ["--help"]).stdout
    verbs = "init new plan enqueue run status watch pause resume cancel pace approve quarantine backup gate worker demo schema events uninstall version"
    for verb in verbs.split():
        assert re.search(rf"│ {verb} ", listed), verb
        groups = {"quarantine": "list retry", "backup": "now list show verify prove expire"}
        subcommands = [[one] for one in groups[verb].split()] if verb in groups else [[]]
        for subcommand in subcommands:
            told = CliRunner().invoke(cli.app, [verb, *subcommand, "--help"], prog_name="backfilld")
            assert told.exit_code == 0
            assert f"Example: backfilld {' '.join([verb, *subcommand])}" in told.stdout


def test_the_help_of_every_verb_reads_as_the_golden_file_says(golden: Golden) -> None:
    verbs = re.findall(r"│ ([a-z]+) ", CliRunner().invoke(cli.app, ["--help"]).stdout)
    of_backups = [["backup", verb] for verb in ("now", "list", "show", "verify", "prove", "expire")]
    calls = [[], *([verb] for verb in verbs), ["quarantine", "list"], ["quarantine", "retry"], *of_backups]
    shown = {
        " ".join(["backfilld", *call, "--help"]): CliRunner()
        .invoke(cli.app, [*call, "--help"], prog_name="backfilld")
        .stdout
        for call in calls
    }
    assert golden.holds_cases("help.txt", shown), "look at what `pytest --write-golden` writes, and commit it"
    for text in shown.values():
        assert not re.search(r"\bNAME\b", text), "one word for a run: RUN"


def test_a_migration_from_its_plan_to_its_gate(shell: Shell) -> None:
    """The verbs of an ordinary day, each with its exit code."""
    file = shell.write()
    assert shell("init").stdout == "schema backfilld is up to date\n"

    planned = shell("plan", file)
    assert planned.exit_code == 0
    assert 'ADD COLUMN "shout" text' in planned.stdout
    assert shell.json("plan", file)["phases"][0]["phase"] == "expand"

    first, second = shell.json("enqueue", file), shell.json("enqueue", file)
    assert tuple(first) == KEYS
    assert first == second
    assert (first["run"], first["state"]) == (1, "queued")

    assert shell("gate", "jobs-shout").exit_code == 4
    assert shell.json("pause", "jobs-shout")["wish"] == "pause"
    assert shell("resume", "1").stdout.startswith("jobs-shout (run 1): expand running")
    paced = shell("pace", "1", "--nice", "1.5", "--width", "3").stdout
    assert ("nice 0 → 1.5" in paced, "8 → 3" in paced) == (True, True)
    assert shell("approve", "1", "--phase", "contract").exit_code == 0

    shell.enters(Phase.CONTRACT, verified=True)
    gate = shell("gate", "jobs-shout")
    assert (gate.exit_code, gate.stdout) == (0, "open: switch of jobs-shout is over, and its data is verified\n")
    assert shell("gate", "jobs-shout", "--phase", "contract").exit_code == 4

    shell.enters(Phase.DONE)
    shell.becomes(State.COMPLETED)
    assert shell.json("gate", "jobs-shout", "--phase", "contract")["state"] == "completed"
    assert shell("watch", "1").exit_code == 0
    assert shell("enqueue", file, "--wait").stdout.splitlines()[-1] == "done and verified"

    whats = [event["what"] for event in shell.json("events", "1")["events"]]
    assert [what for what in whats if not what.startswith(("phase", "run.verified"))] == [
        "run.enqueued",
        "run.pausing",
        "run.running",
        "run.tuned",
        "pace.width",
        "run.completed",
    ]
    for told in (shell("events", "1").stdout, shell("events", "1", "--follow").stdout):
        assert "enqueued it, checksum" in told
        assert "completed: test" in told
    assert "completed: test" in shell("status", "1").stdout
    assert "completed" in shell("status").stdout
    assert [run["run"] for run in shell.json("status")["runs"]] == [1]
    assert tuple(shell.json("status", "jobs-shout")) == KEYS


def test_quarantined_rows_are_listed_and_tried_again(shell: Shell) -> None:
    shell("enqueue", shell.write())
    shell.becomes(State.RUNNING, State.PAUSED, error={"class": "quarantine", "message": "1 row"})
    quarantine.set_aside(
        shell.connection, 1, operation=0, relation="jobs", key=("7",), sqlstate="22P02", error="no number"
    )
    assert "no number" in shell("quarantine", "list", "1").stdout
    (row,) = shell.json("quarantine", "list", "jobs-shout")["quarantined"]
    assert (row["table"], row["key"], row["sqlstate"], row["attempts"], row["retry"]) == (
        "jobs",
        ["7"],
        "22P02",
        1,
        False,
    )
    assert "quarantine retry jobs-shout" in shell("quarantine", "list", "1").stdout
    assert shell.json("quarantine", "retry", "1")["state"] == "running"


def test_the_pace_is_shown_and_changed(shell: Shell) -> None:
    """Only what is named is changed, and said with what it was before."""
    shell("enqueue", shell.write())
    shell.connection.execute(
        "UPDATE backfilld.pace SET width = 2, sampled_at = clock_timestamp(), hold_reason = 'replica lag 42, limit 30', "
        """readings = '{"replica_lag_seconds": 42, "blocked_sessions": null, "my_own": """
        """{"value": 1.5, "soft": 1, "hard": 2, "detail": "queue of ann"}}'"""
    )
    order = ["database", "  replica lag", "  blocked sessions", "  my own"]  # ours by importance, and then their own
    of_database = shell("pace").stdout.splitlines()
    assert [line.split(":")[0] for line in of_database] == order
    assert ["42 s" in of_database[1], "queue of ann" in of_database[3]] == [True, True]
    shown = shell("pace", "jobs-shout").stdout.splitlines()
    assert shown[:4] == of_database
    assert [line.strip().split(":")[0] for line in shown[5:]] == [
        name
        for name in RunSettings.model_fields
        if name not in {"allow_functions", "approve", "backup", "journal", "retention_days"}
    ]

    night, day = "Mon-Fri 22:00-06:00 Europe/Berlin", "Sat,Sun 08:00-20:00 UTC"
    changed = shell("pace", "1", "--lanes", "4", "--give-way-ms", "100", "--window", night, "--window", day)
    for part in ("lanes 2 → 4", "give_way_ms 250 → 100", f"windows any time → {night}; {day}"):
        assert part in changed.stdout
    assert f"windows {night}; {day} → any time" in shell("pace", "1", "--lanes", "4", "--any-time").stdout
    told = shell.json("pace", "1", "--max-quarantined", "7")
    assert set(told) == {*KEYS, "settings", "max_width", "readings", "changed"}
    assert told["changed"] == {"max_quarantined": {"before": 100, "after": 7}}
    assert (told["settings"]["lanes"], told["settings"]["windows"], told["max_width"]) == (4, [], 8)
    lag = {"signal": "replica_lag_seconds", "value": 42, "soft": 5, "hard": 30, "detail": ""}
    assert lag in told["readings"]

    assert "8 → 3" in shell("pace", "--width", "3").stdout
    assert shell.json("pace") == {
        "width": 2,
        "max_width": 3,
        "hold_reason": "replica lag 42, limit 30",
        "readings": told["readings"],
        "changed": {},
    }
    events = [event for event in shell.json("events", "1")["events"] if event["what"] == "run.tuned"]
    assert [event["detail"] for event in events] == [
        {"lanes": [2, 4], "give_way_ms": [250, 100], "windows": [[], [night, day]]},
        {"windows": [[night, day], []]},
        {"max_quarantined": [100, 7]},
    ]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--lanes", "65", "--lanes: 65 is not possible: should be less than or equal to 64"),
        ("--give-way-ms", "-1", "--give-way-ms: -1 is not possible"),
        ("--window", "nights", "--window: `nights` is not a window. Write days, hours and a time zone"),
        ("--window", "daily 01:00-02:00 Europe/Berln", "Did you mean Europe/Berlin?"),
    ],
)
def test_a_pace_that_cannot_be_is_refused_with_a_remedy(shell: Shell, option: str, value: str, message: str) -> None:
    shell("enqueue", shell.write())
    result = shell("pace", "1", option, value)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())


def test_all_runs_are_stopped_and_may_go_on(shell: Shell) -> None:
    """Without Redis, which has no part in it; a second stop changes nothing, and neither does a second resume."""
    shell("enqueue", shell.write())
    del shell.environment["BACKFILLD_REDIS_URL"]
    stopped = shell.json("pause", "--all")
    assert list(stopped) == ["stopped", "stopped_by", "stopped_at", "hold_reason"]
    assert re.fullmatch(
        r"stopped for all runs by \S+ at 20\d\d-\d\d-\d\d \d\d:\d\d UTC: backfilld resume --all", stopped["hold_reason"]
    )
    assert shell("pause", "--all").stdout == f"{stopped['hold_reason']}\n"
    now = shell.json("status", "1")
    assert (now["state"], now["hold_reason"]) == ("queued", stopped["hold_reason"])
    assert stopped["hold_reason"] in shell("pace").stdout

    assert shell.json("resume", "--all") == dict.fromkeys(stopped) | {"stopped": False}
    assert shell("resume", "--all").stdout == "there was no stop of all runs\n"
    shell("pause", "--all")
    assert shell("resume", "--all").stdout == "the stop of all runs is lifted\n"
    whats = shell.connection.execute("SELECT what FROM backfilld.events WHERE run IS NULL ORDER BY event").fetchall()
    assert [row["what"] for row in whats] == ["all.stopped", "all.resumed"] * 2


def test_the_schema_is_json_schema() -> None:
    result = CliRunner().invoke(cli.app, ["schema"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["properties"]["operations"]["minItems"] == 1


def test_version_prints_the_version() -> None:
    assert CliRunner().invoke(cli.app, ["version"]).stdout.startswith("backfilld ")


# --- exit codes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["no-such-verb"], 2, "No such command"),
        (["status", "--no-such-option"], 2, "No such option"),
        (["approve", "1"], 2, "there is no run 1"),
        (["approve", "1", "--residual", "--phase", "contract"], 2, "give one of the two"),
        (["approve", "1", "--phase", "done"], 2, "done is not one of expand"),
        (["status", "4711"], 2, "there is no run 4711"),
        (["pause", "jobs"], 2, "there is no run jobs"),
        (["gate", "jobs"], 2, "there is no run jobs"),
        (["watch", "jobs"], 2, "there is no run jobs"),
        (["gate", "jobs", "--phase", "swtich"], 2, "swtich is not one of expand"),
        (["gate", "jobs", "--timeout", "1"], 2, "--timeout needs --wait"),
        (["pause"], 2, "name a run, or all of them: backfilld pause RUN, or backfilld pause --all"),
        (["pause", "jobs", "--all"], 2, "name a run, or all of them"),
        (["pause", ""], 2, "there is no run"),
        (["resume"], 2, "backfilld resume --all"),
        (["pace", "jobs"], 2, "there is no run jobs"),
        (["pace", "--nice", "1"], 2, "backfilld pace RUN --nice"),
        (["pace", "--width", "65"], 2, "--width: 65 is not between 1 and 64"),
        (["pace", "jobs", "--any-time", "--window", "daily 01:00-02:00 UTC"], 2, "give one of the two"),
        (["enqueue", "nowhere.yaml"], 2, "nowhere.yaml:1: the file cannot be read"),
        (["enqueue", "wrong.yaml"], 2, "wrong.yaml:3: operations[0].add_column.colum"),
        (["plan", "wrong.yaml"], 2, "wrong.yaml:3"),
        (["plan", "refused.yaml"], 3, "there is no table jbos"),
        (["enqueue", "refused.yaml"], 3, "Did you mean jobs?"),
        (["run", "refused.yaml"], 3, "there is no table jbos"),
        (["--redis-url", NOWHERE, "enqueue", "right.yaml"], 5, "cannot reach Redis"),
        (["--database-url", "postgresql://127.0.0.1:1/x", "status"], 5, "cannot reach PostgreSQL"),
        # What the hint names is the server that is away.
        (["--database-url", "postgresql://127.0.0.1:1/x", "status"], 5, "BACKFILLD_DATABASE_URL"),
        (["--redis-url", NOWHERE, "enqueue", "right.yaml"], 5, "BACKFILLD_REDIS_URL"),
    ],
)
def test_what_cannot_be_done_has_its_exit_code_and_says_why_on_stderr(
    shell: Shell, arguments: list[str], code: int, message: str
) -> None:
    (shell.folder / "right.yaml").write_text(JOBS)
    (shell.folder / "refused.yaml").write_text(JOBS.replace("table: jobs", "table: jbos"))
    (shell.folder / "wrong.yaml").write_text(JOBS.lstrip().replace(" column: {", " colum: {"))
    result = shell(*arguments)
    assert result.exit_code == code
    assert message in " ".join((result.stdout if arguments[0] == "plan" and code == 3 else result.stderr).split())
    assert runs.listed(shell.connection) == []


def test_without_settings_the_missing_one_is_named(shell: Shell) -> None:
    shell.environment.clear()
    result = shell("status")
    assert (result.exit_code, "BACKFILLD_DATABASE_URL" in result.stderr) == (2, True)


def test_with_json_stdout_stays_empty_and_stderr_has_objects(shell: Shell) -> None:
    refused = shell("enqueue", shell.write(JOBS.replace("table: jobs", "table: jbos")), "--json")
    (error,) = [json.loads(line)["error"] for line in refused.stderr.splitlines()]
    assert refused.stdout == ""
    assert (error["class"], error["exit_code"], error["findings"][0]["check"]) == ("Refused", 3, "table")

    invalid = shell("plan", shell.write("name: x\n"), "--json")
    error = json.loads(invalid.stderr)["error"]
    assert (error["class"], error["exit_code"], error["line"]) == ("InvalidMigration", 2, 1)

    enqueued = shell("enqueue", shell.write(), "--json")  # preflight warns of this one
    assert all("warning" in json.loads(line) for line in enqueued.stderr.splitlines())
    assert json.loads(enqueued.stdout)["run"] == 1

    closed = shell("gate", "jobs-shout", "--json")
    assert (closed.exit_code, closed.stdout) == (4, "")
    assert json.loads(closed.stderr)["error"]["class"] == "NotFinished"


def test_a_password_is_not_printed(shell: Shell) -> None:
    result = shell("--database-url", "postgresql://ann:s3cret@[::1/x", "status")  # libpq repeats what it cannot read
    assert result.exit_code == 2
    assert "BACKFILLD_DATABASE_URL" in result.stderr
    assert "s3cret" not in result.output


def test_a_role_without_rights_gets_a_message_and_no_traceback(shell: Shell, plain_role_url: str) -> None:
    result = shell("--database-url", plain_role_url, "status")
    assert result.exit_code == 1
    assert "permission denied" in result.stderr


@pytest.mark.parametrize(
    ("states", "error", "code", "message"),
    [
        ((), None, 4, "queued in phase expand"),
        ((State.FAILED,), {"class": "fatal", "message": "boom"}, 1, "boom"),
        ((State.RUNNING, State.PAUSED), {"class": "quarantine", "message": "101 rows"}, 1, "101 rows"),
        ((State.PAUSING, State.PAUSED), None, 4, "paused in phase expand"),
        ((State.CANCELLING,), None, 1, "cancelling"),
    ],
)
def test_enqueue_and_wait_tells_whether_it_got_there(
    shell: Shell, states: tuple[State, ...], error: dict[str, str] | None, code: int, message: str
) -> None:
    file = shell.write()
    shell("enqueue", file)
    shell.becomes(*states, error=error)
    result = shell("enqueue", file, "--wait", "--timeout", "0")
    assert (result.exit_code, message in result.stderr) == (code, True)
    assert shell("gate", "1", "--wait", "--timeout", "0").exit_code in {code, 4}
    assert shell("enqueue", file, "--wait", "--timeout", "0", "--json").stdout == ""


def test_waiting_for_an_approval_is_success_and_is_said(shell: Shell) -> None:
    file = shell.write()
    shell("enqueue", file)
    shell.becomes(State.RUNNING)
    shell.enters(Phase.CONTRACT, verified=True)
    shell.becomes(State.WAITING)
    result = shell("enqueue", file, "--wait")
    assert result.exit_code == 0
    assert result.stdout.endswith(
        "verified and ready to use; contract waits for approval\nnext: backfilld approve jobs-shout --phase contract\n"
    )
    assert shell("gate", "jobs-shout").stdout.splitlines()[-1] == "next: backfilld approve jobs-shout --phase contract"
    assert "\x1b" not in result.output
    assert shell.json("enqueue", file, "--wait")["state"] == "waiting"


def test_a_draft_is_printed_or_written_and_never_over_another_file(shell: Shell) -> None:
    printed = shell("new", "jobs", "add_column", "--column", "priority")
    assert printed.exit_code == 0
    written = shell("new", "jobs", "add_column", "--column", "priority", "--write", "first.yaml")
    assert (shell.folder / "first.yaml").read_text() == printed.stdout
    assert written.stdout.splitlines()[-1] == "next: backfilld plan first.yaml"
    assert shell("plan", "first.yaml").exit_code == 0
    again = shell("new", "jobs", "drop_column", "--write", "first.yaml")
    assert (again.exit_code, "not overwritten" in again.stderr) == (2, True)
    assert (shell.folder / "first.yaml").read_text() == printed.stdout


def test_uninstall_says_what_it_would_drop_and_drops_it(shell: Shell) -> None:
    shell("enqueue", shell.write())
    refused = shell("uninstall", "--dry-run")
    assert (refused.exit_code, "backfilld rollback jobs-shout --wait" in refused.stderr) == (3, True)
    shell.connection.execute("DELETE FROM backfilld.runs")
    assert shell("uninstall", "--dry-run").stdout.startswith("would drop the schema backfilld: ")
    told = shell.json("uninstall")
    assert (told["removed"], told["dry_run"], told["lost"]) == (True, False, [])
    assert shell("uninstall").stdout == "there is no schema backfilld in this database\n"


def test_approve_takes_the_phase_that_waits_or_names_the_choices(shell: Shell) -> None:
    shell("enqueue", shell.write(JOBS + "settings: {approve: [switch, contract]}\n"))
    shell.becomes(State.RUNNING)
    ahead = shell("approve", "jobs-shout")
    assert ahead.exit_code == 2
    assert "--phase switch or --phase contract" in ahead.stderr
    shell.enters(Phase.SWITCH, verified=True)
    shell.becomes(State.WAITING)
    # The other phase is approved in advance, and the one that comes first is what to approve next.
    assert "next: backfilld approve jobs-shout --phase switch\n" in shell("approve", "1", "--phase", "contract").stdout
    assert "next: backfilld gate jobs-shout --wait\n" in shell("approve", "1").stdout
    assert [
        event["detail"]["phase"] for event in shell.json("events", "1")["events"] if event["what"] == "phase.approved"
    ] == [
        "contract",
        "switch",
    ]


def test_the_governor_does_not_push_a_runs_own_story_off_its_page(shell: Shell) -> None:
    shell("enqueue", shell.write())
    for width in range(1, 30):
        detail = {"width": width, "reason": "others"}
        audit.record(shell.connection, None, actor=runs.WORKER, what="pace.changed", **detail)
    told = audit.whole_story(shell.connection, 1, most=5, governor=False)
    assert [event["what"] for event in told] == ["run.enqueued"]
    assert len(audit.whole_story(shell.connection, 1, most=5)) == 5
    assert "enqueued it" in shell("status", "1").stdout
    assert "set the pace" in shell("events", "1").stdout


def test_a_run_named_by_its_number_is_answered_by_its_name(shell: Shell) -> None:
    shell("enqueue", shell.write())
    shell.enters(Phase.DONE, verified=True)
    shell.becomes(State.RUNNING, State.COMPLETED)
    assert "jobs-shout" in shell("gate", "1").stdout


def test_who_asked_for_a_pause_is_the_person_and_not_the_worker_that_brought_it_about(shell: Shell) -> None:
    shell("enqueue", shell.write())
    shell("pause", "1")
    shell.becomes(State.PAUSED)
    (sentence,) = shell.json("explain", "1")["sentences"]
    (asked,) = [event["actor"] for event in shell.json("events", "1")["events"] if event["what"] == "run.pausing"]
    assert (asked in sentence, "worker" in sentence) == (True, False)


def test_an_archive_in_contract_and_the_way_back_have_a_progress(shell: Shell) -> None:
    shell("enqueue", shell.write())
    shell.becomes(State.RUNNING)
    shell.enters(Phase.CONTRACT, verified=True)
    for lane, rows in ((1, 300), (2, 100)):
        lanes.insert(
            shell.connection,
            1,
            kind=LaneKind.ARCHIVE,
            operation=0,
            pass_=1,
            relation="jobs",
            bounds=Bounds(),
            rows_expected=500,
        )
        shell.connection.execute(
            "UPDATE backfilld.lanes SET rows_walked = %s, done_at = CASE WHEN lane = 2 THEN now() END WHERE lane = %s",
            [rows, lane],
        )
    # The lane that is over had fewer rows than expected.
    assert shell.json("status", "1")["percent"] == 66.6
    assert "400 of about 600 rows archived" in shell("status", "1").stdout
    shell("rollback", "1")
    assert shell.json("status", "1")["verified"] is False
    assert "400 of about 600 rows archived" in shell("status", "1").stdout


def test_watching_a_run_that_failed_ends_with_1(shell: Shell) -> None:
    shell("enqueue", shell.write())
    shell.becomes(State.FAILED, error={"class": "fatal", "message": "boom"})
    result = shell("watch", "1")
    assert result.exit_code == 1
    assert result.stdout == "jobs-shout (run 1): expand failed, error: boom\n"
    assert shell("watch").stdout == "no run is in progress: backfilld enqueue FILE\n"


def test_a_terminal_without_unicode_gets_question_marks_and_no_traceback(shell: Shell) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "from backfilld.producers.cli import main; main()", "plan", shell.write()],
        env={**_process_environment(shell), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "jobs  0 rows ? " in shown.stdout


def _process_environment(shell: Shell) -> dict[str, str]:
    return {**os.environ, **shell.environment, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_ctrl_c_ends_the_watching_with_130_and_without_a_traceback(shell: Shell) -> None:
    shell("enqueue", shell.write())
    watching = subprocess.Popen(
        [sys.executable, "-c", "from backfilld.producers.cli import main; main()", "watch", "1"],
        env=_process_environment(shell),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert "queued" in watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, stderr = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert "Traceback" not in stderr


# --- becoming another process ------------------------------------------------------------------------------------------


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What this process would become: exec ends it, so that is where the test ends too."""
    commands: list[list[str]] = []

    def execv(_: str, command: list[str]) -> None:
        commands.append(command)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    return commands


def test_run_enqueues_without_redis_and_becomes_the_solo_worker(shell: Shell, become: list[list[str]]) -> None:
    del shell.environment["BACKFILLD_REDIS_URL"]
    result = shell("run", shell.write(), "--json")
    assert result.exit_code == 0
    assert become == [[sys.executable, "-P", "-m", "backfilld.worker.foreground", "1", "--json"]]
    assert result.stdout == ""  # the object is the solo worker's to print
    assert runs.listed(shell.connection)[0].state is State.QUEUED


def test_rollback_here_becomes_the_solo_worker(shell: Shell, become: list[list[str]]) -> None:
    del shell.environment["BACKFILLD_REDIS_URL"]
    shell("run", shell.write())
    assert shell("rollback", "1", "--here").exit_code == 0
    assert become[-1] == [sys.executable, "-P", "-m", "backfilld.worker.foreground", "1"]
    assert runs.listed(shell.connection)[0].state is State.ROLLING_BACK


def test_rollback_waits_when_it_is_told_to(shell: Shell) -> None:
    shell("enqueue", shell.write())
    waited = shell("rollback", "1", "--wait", "--timeout", "0")
    assert waited.exit_code == 4
    assert "is rolling back" in waited.stderr
    assert shell("rollback", "1", "--timeout", "1").exit_code == 2
    assert shell("rollback", "1", "--wait", "--here").exit_code == 2
    assert shell("rollback", "nobody").exit_code == 2


def test_purge_says_what_is_gone_and_rollback_then_what_is_missing(shell: Shell) -> None:
    file = shell.write('name: in-place\noperations: [{backfill: {table: jobs, set: {status: "lower(status)"}}}]')
    shell("enqueue", file)
    assert shell("purge", "in-place").exit_code == 2, "it has not ended"
    url = shell.environment["BACKFILLD_DATABASE_URL"]
    assert backfilld("run", file, database_url=url, redis_url=None).returncode == 0
    early = shell("purge", "in-place")
    assert (early.exit_code, "backfilld purge in-place --now" in early.stderr) == (2, True)
    assert "nothing to drop" in shell("purge").stdout
    assert "possible until" in shell("status", "in-place").stdout
    (purged,) = json.loads(shell("purge", "in-place", "--now", "--json").stdout)["purged"]
    assert (purged["run"], purged["name"], purged["rollback_conflicts"], purged["archive_bytes"]) == (
        1,
        "in-place",
        0,
        0,
    )
    shell.connection.execute("UPDATE backfilld.runs SET purged_at = NULL")
    told = shell("purge", "in-place", "--now").stdout
    assert ("0 B" in told, "bytes" in told, "conflict" in told) == (True, False, False), (
        "in human units, and no 0 of anything"
    )
    refused = shell("rollback", "in-place")
    assert (refused.exit_code, "purge" in refused.stderr) == (3, True)
    assert json.loads(shell("status", "in-place", "--json").stdout)["rollback"]["possible"] is False


def test_worker_becomes_the_worker_with_the_settings_it_was_given(
    shell: Shell, become: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKFILLD_DATABASE_URL", "postgresql://elsewhere/x")  # to be put back after the test
    monkeypatch.setenv("BACKFILLD_REDIS_URL", NOWHERE)
    shell.environment.clear()
    shell("worker")
    shell("--database-url", "postgresql://here/x", "worker", "--processes", "3", "--threads", "4")
    assert become == [
        [sys.executable, "-P", "-m", "backfilld.worker.supervisor", "--processes", "2", "--threads", "2"],
        [sys.executable, "-P", "-m", "backfilld.worker.supervisor", "--processes", "3", "--threads", "4"],
    ]
    assert os.environ["BACKFILLD_DATABASE_URL"] == "postgresql://here/x"
    assert os.environ["BACKFILLD_REDIS_URL"] == NOWHERE


# --- parameters, and a folder of migrations ------------------------------------------------------------------------------


CLOSE = """
name: jobs-close
parameters: {below: {type: integer, description: the first id that stays}}
operations:
- backfill: {table: jobs, set: {status: "'closed'"}, where: "id < ${below} AND status <> 'closed'"}
"""


def test_the_value_of_a_parameter_is_given_shown_and_refused_by_name(shell: Shell) -> None:
    file = shell.write(CLOSE)
    assert "parameter below = 5" in shell("plan", file, "--set", "below=5").stdout
    assert shell.json("enqueue", file, "--set", "below=5")["name"] == "jobs-close"
    for values, said in (
        ([], "the parameter below (integer: the first id that stays) has no value: --set below=VALUE"),
        (["--set", "below=five"], "the parameter below: `five` is not a whole number"),
        (["--set", "below=5", "--set", "above=6"], "no parameter above"),
        (["--set", "below"], "below is not PARAM=VALUE"),
        (["--set", "below=5", "--set", "below=6"], "below is given twice"),
    ):
        result = shell("enqueue", file, *values)
        assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


def test_a_folder_is_enqueued_in_order_and_again_without_harm(shell: Shell) -> None:
    folder = shell.folder / "migrations"
    folder.mkdir()
    (folder / "1.yaml").write_text(JOBS)
    (folder / "2.yml").write_text(
        "{name: check, operations: [{add_check: {table: jobs, name: loud, check: 'shout = upper(shout)'}}]}"
    )
    before = shell("plan", str(folder))
    assert before.exit_code == 0, before.stderr
    assert "check: new" in before.stdout
    assert 'column "shout" does not exist' in before.stdout
    first, second = shell.json("enqueue", str(folder))["runs"]
    assert [first["name"], second["name"]] == ["jobs-shout", "check"]
    assert second["hold_reason"] == "it begins after jobs-shout, which is queued in phase expand"
    assert [one["run"] for one in shell.json("enqueue", str(folder))["runs"]] == [first["run"], second["run"]]
    assert [one["plan"] for one in shell.json("plan", str(folder))["plans"]] == [None, None]
    waited = shell("enqueue", str(folder), "--wait", "--timeout", "0")
    assert waited.exit_code == 4, waited.stderr


def test_a_folder_whose_next_migration_is_refused_enqueues_nothing(shell: Shell) -> None:
    folder = shell.folder / "migrations"
    folder.mkdir()
    (folder / "1.yaml").write_text(JOBS.replace("upper(status)", "upper(stauts)"))
    (folder / "2.yaml").write_text(JOBS.replace("jobs-shout", "second"))
    for verb in ("plan", "enqueue"):
        assert shell(verb, str(folder)).exit_code == 3
    assert shell.connection.execute("SELECT count(*) AS runs FROM backfilld.runs").fetchone() == {"runs": 0}
