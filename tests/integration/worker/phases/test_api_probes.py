"""API probes: recorded before anything is changed, and compared after the switch, before contract and after it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_daemon import environment
from fix_runs import Engine, expect
from pydantic import SecretStr

from backfilld.migrations.errors import Refused
from backfilld.migrations.holds import Cause
from backfilld.migrations.record import answers, audit, code_verdicts
from backfilld.migrations.record.states import Phase, State
from backfilld.monitoring.checks import tokens
from backfilld.monitoring.checks.targets import Targets
from backfilld.producers.client import Client
from backfilld.worker.lanes.runner import Runner
from backfilld.worker.side_tasks import retention

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fix_rest import Rest

TABLES = """
CREATE TABLE jobs (id bigint PRIMARY KEY, total int, details text, at timestamptz DEFAULT now());
INSERT INTO jobs VALUES (1, 10, '{"a": 1}'), (2, 20, '{}');
CREATE VIEW totals AS SELECT id, total AS sum FROM jobs;
CREATE TABLE nothing (id bigint);
CREATE VIEW clock AS SELECT 1 AS id, clock_timestamp() AS now;
"""

MIGRATION = """
name: jobs-change
operations:
  - rename_column: {table: jobs, from: total, to: revenue}
  - change_type: {table: jobs, column: details, type: jsonb}
application:
  http: PROBES
  on_regression: REGRESSION
settings: {approve: APPROVE}
"""

#: The least that has a switch and a contract.
DROP = MIGRATION.replace(
    """  - rename_column: {table: jobs, from: total, to: revenue}
  - change_type: {table: jobs, column: details, type: jsonb}
""",
    "  - drop_column: {table: jobs, column: details}\n",
)

OLD_NAME = {"name": "old name", "get": "$API/jobs?select=id,total&order=id", "headers": {"apikey": "$KEY"}}
ALL = {"name": "all", "get": "$API/jobs?order=id", "ignore": ["*.at"]}
VIEW = {"name": "view", "get": "$API/totals?order=id"}
NEW_CODE = {"name": "either name", "get": "$API/jobs?select=id,id2:id&order=id"}
CLOCK = {"name": "clock", "get": "$API/clock?select=id,now"}


def _enqueue(
    engine: Engine, *probes: Mapping[str, Any], text: str = DROP, regression: str = "warn", approve: str = "[]"
) -> int:
    text = text.replace("PROBES", json.dumps(probes)).replace("REGRESSION", regression)
    return engine.enqueue(text.replace("APPROVE", approve))


def _runner(engine: Engine, rest: Rest, **more: Any) -> Runner:
    """A worker that may ask this API."""
    stopping = threading.Event()
    stopping.set()
    values = {"API": SecretStr(rest.url), "KEY": SecretStr("s3cret")}
    targets = Targets(**{"allowed": [rest.url], "values": values, **more})
    return Runner(
        engine.pool, send=engine.sent.append, observe=engine.events.append, stopping=stopping, targets=targets
    )


def _of_api(engine: Engine, run: int) -> dict[str, list[str]]:
    """What was found of the API, by moment."""
    return {
        event["detail"]["moment"]: [one["problem"] for one in event["detail"]["findings"] if one["kind"] == "api"]
        for event in audit.story(engine.connection, run)
        if event["what"] == "application.checked"
    }


def test_each_moment_finds_exactly_what_changed_for_those_who_ask(engine: Engine, rest: Rest) -> None:
    engine.execute(TABLES)
    run = _enqueue(engine, OLD_NAME, ALL, VIEW, NEW_CODE, CLOCK, text=MIGRATION)
    expect(engine.drive(run, runner=_runner(engine, rest)), State.COMPLETED)
    found = _of_api(engine, run)

    retyped = "[{0}].details was a text and is an object"
    both = f"{retyped.format(0)}; {retyped.format(1)}"
    changed = [f"the probe all is not answered as before the run: {both}"]
    assert found["after_switch"] == changed
    assert found["before_contract"] == changed
    after = f"{retyped.format(0)}; [0].total is gone; {retyped.format(1)}; [1].total is gone"
    assert found["after_contract"] == [
        "the probe old name is not answered as before the run: it answers 400, and 200 before",
        f"the probe all is not answered as before the run: {after}",
    ]
    assert {one.get("apikey") for one in rest.headers} == {"s3cret", None}
    assert "s3cret" not in json.dumps(audit.story(engine.connection, run), default=str)


def test_contract_is_held_for_an_answer_that_changed_until_it_is_as_before(engine: Engine, rest: Rest) -> None:
    """The planted regression: the API answers a text where an object was. A rollback is offered with it."""
    engine.execute(TABLES)
    runner, client = _runner(engine, rest), Client(engine.url)
    run = _enqueue(engine, VIEW, regression="hold", approve="[contract]")
    expect(engine.drive(run, runner=runner, until=lambda now: now.phase is Phase.SWITCH), State.RUNNING)
    rest.instead["/totals"] = (200, b'[{"id": 1, "sum": "10"}]')
    expect(engine.drive(run, runner=runner), State.WAITING)

    with pytest.raises(Refused, match="the probe view is not answered as before the run") as refused:
        client.approve(run, "contract")
    assert "backfilld rollback jobs-change" in str(refused.value)
    assert "[0].sum was a number and is a text" in str(refused.value)
    engine.execute("UPDATE backfilld.runs SET approved = array_append(approved, 'contract') WHERE run = %s", run)
    engine.execute("UPDATE backfilld.runs SET state = 'running' WHERE run = %s", run)
    engine.hurry()
    for _ in range(3):
        engine.step(runner=runner)
    hold = client.status(run).hold
    assert hold is not None
    assert hold.cause is Cause.APPLICATION
    assert (
        engine.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'jobs'::regclass AND attname = 'details'") == 1
    )
    client.rollback(run)
    expect(engine.drive(run, runner=runner), State.ROLLED_BACK)


@pytest.mark.parametrize(
    ("probe", "instead", "says"),
    [
        ({"name": "p", "get": "$API/nothing"}, {}, "its answer is empty"),
        ({"name": "p", "get": "$API/missing"}, {}, "it answers 404 before anything was changed"),
        ({"name": "p", "get": "$API/jobs"}, {"/jobs": (200, b"<html>")}, "its answer (200) is not JSON"),
        ({"name": "p", "get": "$API/jobs"}, {"/jobs": (200, b"[" + b"1," * 600_000 + b"1]")}, "ask for fewer rows"),
        ({"name": "p", "get": "$MISSING/jobs"}, {}, "BACKFILLD_APPLICATION_VALUES"),
        ({"name": "p", "get": "http://169.254.169.254/latest"}, {}, "BACKFILLD_APPLICATION_TARGETS"),
        ({"name": "p", "post": "$API/rpc/x", "safe": True}, {}, "BACKFILLD_APPLICATION_TARGETS_POST"),
        ({"name": "p", "get": "$GONE/jobs"}, {}, "127.0.0.1 cannot be asked: connection refused"),
    ],
    ids=["empty", "an error", "no JSON", "too much", "no value", "not allowed", "not by POST", "unreachable"],
)
def test_what_proves_nothing_stops_the_run_before_its_first_step(
    engine: Engine, rest: Rest, probe: dict[str, str], instead: dict[str, tuple[int, bytes]], says: str
) -> None:
    engine.execute(TABLES)
    rest.instead |= instead
    gone = "http://127.0.0.1:1"
    values = {"API": SecretStr(rest.url), "GONE": SecretStr(gone)}
    run = _enqueue(engine, probe)
    failed = engine.drive(run, runner=_runner(engine, rest, allowed=[rest.url, gone], values=values))

    expect(failed, State.FAILED)
    assert failed.error is not None
    assert says in failed.error["message"]
    assert engine.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'jobs'::regclass AND attnum > 0") == 4
    assert engine.value("SELECT count(*) FROM backfilld.application_answers") == 0


def test_a_run_that_was_stopped_so_continues_once_its_api_answers(engine: Engine, rest: Rest) -> None:
    engine.execute(TABLES)
    runner = _runner(engine, rest)
    rest.instead["/totals"] = (503, b"")
    run = _enqueue(engine, VIEW)
    expect(engine.drive(run, runner=runner), State.FAILED)
    rest.instead.clear()
    Client(engine.url).resume(run)

    expect(engine.drive(run, runner=runner), State.COMPLETED)
    assert _of_api(engine, run)["after_contract"] == []


def test_answers_that_are_on_record_are_not_recorded_again(engine: Engine, rest: Rest) -> None:
    """As after a kill right behind the recording: what is asked then may no longer be what it was before the run."""
    engine.execute(TABLES)
    run = _enqueue(engine, VIEW)
    stored = {"status": 200, "body": [{"id": 1, "sum": 99}], "milliseconds": 1.0, "volatile": []}
    answers.put(engine.connection, run, "view", moment="before", answer=stored)
    expect(engine.drive(run, runner=_runner(engine, rest)), State.COMPLETED)

    assert answers.at(engine.connection, run, moment="before") == {"view": stored}
    (problem,) = _of_api(engine, run)["after_switch"]
    assert "[0].sum has another value" in problem


def test_a_worker_asks_as_its_settings_allow(rest: Rest, database_url: str, tmp_path: Path) -> None:
    """The whole way: `backfilld run` with the two variables, and without them."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(TABLES)
    text = DROP.replace("PROBES", json.dumps([VIEW])).replace("REGRESSION", "warn").replace("APPROVE", "[]")
    (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
    settings = {
        "BACKFILLD_APPLICATION_TARGETS": rest.url,
        "BACKFILLD_APPLICATION_VALUES": json.dumps({"API": rest.url}),
    }

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "backfilld", "run", "m.yaml"],
            cwd=tmp_path,
            env={**environment(database_url, "redis://127.0.0.1:1"), **more},
            capture_output=True,
            text=True,
            check=False,
        )

    refused = run()
    assert refused.returncode == 1
    assert "BACKFILLD_APPLICATION_VALUES" in refused.stderr
    Client(database_url).resume("jobs-change")
    done = run(**settings)
    assert done.returncode == 0, done.stderr
    assert len(rest.headers) >= 4 * 5  # at each of the four moments


def test_an_api_that_cannot_be_asked_later_proves_nothing_either_way(engine: Engine, rest: Rest) -> None:
    engine.execute(TABLES)
    runner = _runner(engine, rest)
    run = _enqueue(engine, VIEW)
    engine.drive(run, runner=runner, until=lambda now: now.phase is Phase.SWITCH)
    rest.instead["/totals"] = (200, b"<html>")
    expect(engine.drive(run, runner=runner), State.COMPLETED)

    (event, *_) = [one for one in audit.story(engine.connection, run) if one["detail"].get("moment") == "after_switch"]
    told = [(one["kind"], one["problem"]) for one in event["detail"]["findings"] if "probe" in one["problem"]]
    assert told == [("unknown", "the probe view: its answer (200) is not JSON")]


def test_a_worker_without_the_extra_says_what_to_install(
    engine: Engine, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.execute(TABLES)
    monkeypatch.setitem(sys.modules, "deepdiff", None)
    failed = engine.drive(_enqueue(engine, VIEW), runner=_runner(engine, rest))

    expect(failed, State.FAILED)
    assert failed.error is not None
    assert "pip install 'backfilld[application]'" in failed.error["message"]


def test_answers_are_their_owners_alone_and_go_when_the_run_has_ended(engine: Engine, rest: Rest) -> None:
    engine.execute(TABLES)
    run = _enqueue(engine, VIEW, approve="[contract]")
    expect(engine.drive(run, runner=_runner(engine, rest)), State.WAITING)

    assert engine.value("SELECT count(*) FROM backfilld.application_answers") == 2
    engine.execute("CREATE ROLE reader_of_answers")
    try:
        with engine.connect() as other:
            other.execute("SET ROLE reader_of_answers")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.execute("SELECT answer FROM backfilld.application_answers")
    finally:
        engine.execute("DROP ROLE reader_of_answers")
    Client(engine.url).rollback(run)
    expect(engine.drive(run), State.ROLLED_BACK)
    retention.run_once(engine.connection)
    assert engine.value("SELECT count(*) FROM backfilld.application_answers") == 0


POSTED = """
CREATE FUNCTION large(lowest int) RETURNS SETOF jobs LANGUAGE sql STABLE AS 'SELECT * FROM public.jobs WHERE total >= lowest';
ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON jobs USING (id = (current_setting('request.jwt.claims')::json->>'sub')::bigint);
GRANT SELECT ON jobs TO member_of_api;
"""


def test_a_probe_posts_as_a_persona(engine: Engine, rest: Rest) -> None:
    """One persona has a token signed by the worker, the other one of the settings: each gets its own rows alone."""
    engine.execute("CREATE ROLE member_of_api")
    try:
        engine.execute(TABLES)
        engine.execute(POSTED)
        rest.secret = "a secret that the API knows, and the worker too"  # noqa: S105 - of this test
        token = tokens.signed({"role": "member_of_api", "sub": "2"}, secret=rest.secret, now=time.time())
        runner = _runner(
            engine,
            rest,
            allowed_post=[f"{rest.url}/rpc"],
            values={"API": SecretStr(rest.url), "TOKEN": SecretStr(token), "LOWEST": SecretStr("5")},
            jwt_secret=SecretStr(rest.secret),
            jwt_roles=["member_of_api"],
        )
        personas = {
            "one": {"role": "member_of_api", "claims": {"sub": "1"}},
            "two": {"role": "member_of_api", "token": "$TOKEN"},
        }
        large = {"name": "large", "post": "$API/rpc/large", "safe": True, "body": {"lowest": "$LOWEST"}, "as": "one"}
        own = {"name": "own", "get": "$API/jobs?select=id", "as": "two"}
        text = DROP.replace("application:\n", f"application:\n  personas: {json.dumps(personas)}\n")
        run = _enqueue(engine, large, own, text=text, approve="[contract]")
        expect(engine.drive(run, runner=runner), State.WAITING)

        recorded = answers.at(engine.connection, run, moment="before")
        assert [[row["id"] for row in recorded[name]["body"]] for name in ("large", "own")] == [[1], [2]]
        Client(engine.url).approve(run, "contract")
        expect(engine.drive(run, runner=runner), State.COMPLETED)
        (problem,) = _of_api(engine, run)["after_contract"]
        assert problem == "the probe large is not answered as before the run: [0].details is gone"
        told = json.dumps(audit.story(engine.connection, run), default=str)
        assert "POST $API/rpc/large as one" in told
        assert not any(one in told for one in (token, rest.secret))
    finally:
        engine.execute("DROP OWNED BY member_of_api; DROP ROLE member_of_api")


COMMANDS = """
name: jobs-change
operations:
  - drop_column: {table: jobs, column: details}
application:
  commands: [{name: worker, run: [mypy, src]}]
settings: {approve: [contract]}
"""


def test_contract_wants_a_verdict_on_the_code(engine: Engine) -> None:
    """None is on record; then one that fails; then one that passes. Nobody counts statements here, and the file does not ask for that."""
    engine.execute(TABLES)
    client = Client(engine.url)
    run = engine.enqueue(COMMANDS)
    expect(engine.drive(run), State.WAITING)

    def refused() -> str:
        with pytest.raises(Refused) as found:
            client.approve(run, "contract")
        return "\n".join(one.problem for one in found.value.findings if "command" in one.problem)

    def verdict(*, until: str, fails_from: str | None) -> None:
        one = {"name": "worker", "passes": fails_from is None, "fails_from": fails_from}
        checksum = engine.run(run).checksum
        code_verdicts.put(engine.connection, run=None, checksum=checksum, until=until, commands=[one], actor="ann")

    assert "no verdict is on record of the command worker" in refused()
    verdict(until="switch", fails_from=None)
    assert "no verdict is on record of the command worker" in refused()
    verdict(until="contract", fails_from="contract")
    assert "the command worker fails from contract on" in refused()
    verdict(until="contract", fails_from=None)
    client.approve(run, "contract")
    expect(engine.drive(run), State.COMPLETED)
