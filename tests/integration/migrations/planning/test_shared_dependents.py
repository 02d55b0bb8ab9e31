"""Two operations of one file exchange a column each, and something hangs on both columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import State
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

OPERATIONS = {
    "n": "change_type: {table: jobs, column: n, type: bigint}",
    "total": "change_type: {table: jobs, column: total, type: bigint}",
    "amount": "rename_column: {table: jobs, from: total, to: amount}",
    "number": "rename_column: {table: jobs, from: n, to: number}",
}
THINGS = {
    "view": "CREATE VIEW seen AS SELECT id, n, total FROM jobs",
    "trigger": "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'; "
    "CREATE TRIGGER t BEFORE UPDATE OF n, total ON jobs FOR EACH ROW EXECUTE FUNCTION f()",
    "check": "ALTER TABLE jobs ADD CHECK (n <= total)",
    "policy": "CREATE POLICY p ON jobs USING (n <= total)",
    "statistics": "CREATE STATISTICS s ON n, total FROM jobs",
    "foreign key": "CREATE TABLE pairs (a integer, b integer, UNIQUE (a, b)); INSERT INTO pairs SELECT n, n FROM generate_series(1, 20) n; "
    "ALTER TABLE jobs ADD FOREIGN KEY (n, total) REFERENCES pairs (a, b)",
    "unique": "ALTER TABLE jobs ADD UNIQUE (n, total)",
    "index": "CREATE INDEX ON jobs (n) WHERE total > 3",
}
#: What comes along with both, for each pair in the order of the file.
ALONG = {
    ("n", "total"): {"view", "trigger"},
    ("n", "amount"): set(THINGS) - {"unique", "index"},
    ("amount", "n"): set(),
    ("number", "amount"): set(THINGS),
}


def table(engine: Engine, thing: str) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n integer, total integer)")
    engine.execute("INSERT INTO jobs SELECT n, n, n FROM generate_series(1, 20) n")
    engine.execute(THINGS[thing])


def text(pair: tuple[str, str]) -> str:
    return f"name: two\noperations: [{', '.join(f'{{{OPERATIONS[one]}}}' for one in pair)}]\nsettings: {{lanes: 1, approve: []}}"


@pytest.mark.parametrize(("pair", "thing"), [(pair, thing) for pair, along in ALONG.items() for thing in sorted(along)])
def test_what_comes_along_with_both_does_so_there_and_back(engine: Engine, pair: tuple[str, str], thing: str) -> None:
    table(engine, thing)
    run = engine.enqueue(text(pair))
    expect(engine.drive(run), State.COMPLETED)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)


@pytest.mark.parametrize(
    ("pair", "thing"), [(pair, thing) for pair, along in ALONG.items() for thing in sorted(THINGS.keys() - along)]
)
def test_what_does_not_is_refused_with_what_to_do(engine: Engine, pair: tuple[str, str], thing: str) -> None:
    table(engine, thing)
    with pytest.raises(Refused, match="hangs on") as refused:
        engine.enqueue(text(pair))
    (finding,) = refused.value.findings
    other_order = thing in ALONG.get((pair[1], pair[0]), ())
    assert finding.remedy.startswith("Put the change of type before" if other_order else "Give each a file of its own")
