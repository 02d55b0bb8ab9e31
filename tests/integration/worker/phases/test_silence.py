"""What could not be looked at is a finding: in the plan, in the check that is on record, and in the metric."""

from __future__ import annotations

from itertools import islice, product
from typing import TYPE_CHECKING

import pytest
from fix_contrib import passes
from fix_runs import Engine, expect

from backfilld.migrations.record import code_verdicts
from backfilld.migrations.record.states import State
from backfilld.monitoring.record import RecordCollector
from backfilld.producers.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIGRATION = """
name: revenue
operations:
  - rename_column: {table: jobs, from: total, to: revenue}
application: APPLICATION
settings: {approve: [contract]}
"""


def _nothing(_engine: Engine) -> None:
    """The silence is there already."""


def _evict(engine: Engine) -> None:
    """More statements than `pg_stat_statements.max`, which is 5,000: sums, each of another tree."""
    sums = ("SELECT 1" + "".join(f"{sign}1" for sign in signs) for signs in product("+-*", repeat=8))
    for _ in range(2):
        engine.connection.execute(";".join(islice(sums, 2600)).encode())
    assert engine.value("SELECT dealloc FROM pg_stat_statements_info") > 0


def _uninstall(engine: Engine) -> None:
    engine.execute("DROP EXTENSION pg_stat_statements")


def _in_plpgsql(engine: Engine) -> None:
    engine.execute("CREATE FUNCTION close() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM total FROM jobs; END'")


#: What was done to the server, what the file says of the application, and what each finding is: its kind and its words.
SILENCE: dict[str, tuple[Callable[[Engine], None], str, tuple[tuple[str, str], ...]]] = {
    "no pg_stat_statements": (
        _uninstall,
        "{on_regression: hold}",
        (("unknown", "pg_stat_statements is not installed"),),
    ),
    # Of a role that sent none of them: thousands are quickly counted, and slowly looked at.
    "evictions": (_evict, "{statements: {roles: [pg_monitor]}}", (("unknown", "has evicted statements"),)),
    "files and functions": (
        _in_plpgsql,
        "{statements: {files: [gone/*.sql, '*.sql']}}",
        (
            ("unknown", "no file matches gone/*.sql"),
            ("unknown", "a quote is not closed"),
            ("unchecked", 'at or near "SELEC"'),
            ("unchecked", "COPY of all columns, LOCK and TRUNCATE are not planned"),
            ("unchecked", "it is in PL/pgSQL"),
        ),
    ),
}


def _metric(engine: Engine, kind: str) -> float:
    record = RecordCollector(engine.url)
    try:
        (metric,) = [one for one in record.collect() if one.name == "backfilld_application_findings"]
    finally:
        record.close()
    (value,) = [sample.value for sample in metric.samples if sample.labels["kind"] == kind]
    return float(value)


@pytest.mark.parametrize(("done", "asks", "findings"), SILENCE.values(), ids=SILENCE)
def test_silence_is_a_finding(
    counting_engine: Engine,
    tmp_path: Path,
    done: Callable[[Engine], None],
    asks: str,
    findings: tuple[tuple[str, str], ...],
) -> None:
    engine = counting_engine
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, total numeric); SELECT pg_stat_statements_reset()")
    for name, text in (("a", "SELECT 'open"), ("b", "SELEC total FROM jobs"), ("c", "COPY jobs FROM STDIN")):
        (tmp_path / f"{name}.sql").write_text(text, encoding="utf-8")
    file = tmp_path / "m.yaml"
    file.write_text(MIGRATION.replace("APPLICATION", asks), encoding="utf-8")
    done(engine)

    plan = Client(engine.url).plan(file).to_json()["application"]
    run = engine.enqueue(file)
    checked = Client(engine.url).status(run).application
    assert plan["asked"]
    assert checked is not None
    silent = {
        "unknown": [one["problem"] for one in plan["silence"]],
        "unchecked": [one["because"] for one in plan["cannot_be_checked"]],
    }
    for kind, of_plan in silent.items():
        words = [words for of, words in findings if of == kind]
        told = [one["problem"] for one in checked["findings"] if one["kind"] == kind]
        for several in (of_plan, told):
            assert [sum(word in one for one in several) for word in words] == [1] * len(words), several
            assert len(several) == len(words), several
        assert checked["counts"].get(kind, 0) == _metric(engine, kind) == len(words), kind
    if done is _evict:  # of the whole server, which other tests ask too
        engine.execute("SELECT pg_stat_statements_reset()")


def test_a_command_that_looks_at_nothing_is_a_finding_too(counting_engine: Engine) -> None:
    engine = counting_engine
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, total numeric)")
    asks = "{statements: {window: 1s}, commands: [{name: functions, run: [deno, check], types_to: types.ts}]}"
    least = MIGRATION.replace(
        "rename_column: {table: jobs, from: total, to: revenue}", "drop_column: {table: jobs, column: total}"
    )
    run = engine.enqueue(least.replace("APPLICATION", asks))
    one = {"name": "functions", "passes": True, "fails_from": None, "sees_types": False}
    code_verdicts.put(
        engine.connection,
        run=run,
        checksum=engine.run(run).checksum,
        until="contract",
        commands=[one],
        actor="ann",
    )
    expect(engine.drive(run), State.WAITING)
    checked = Client(engine.url).status(run).application
    assert checked is not None
    assert "createClient<Database>" in next(x["problem"] for x in checked["findings"] if x["kind"] == "unchecked")
    assert _metric(engine, "unchecked") == 1
    passes(engine, run, seconds=10)
    Client(engine.url).approve(
        run, "contract"
    )  # it holds nothing: code that names no table of the migration is right to pass
    expect(engine.drive(run), State.COMPLETED)
