"""The examples as they stand, on the tables they are about: to the end, and back from there to what was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from migrations.states import State
from producers import commands
from proof.fingerprint import difference, fingerprint

if TYPE_CHECKING:
    from fix_runs import Engine

EXAMPLES = Path(__file__).parents[2] / "examples"
#: pgbench makes its own tables; here they are as small as they need to be.
PGBENCH = """
    CREATE TABLE pgbench_accounts (aid integer PRIMARY KEY, bid integer, abalance integer, filler character(84));
    INSERT INTO pgbench_accounts SELECT n, 1, n % 7 - 3, '' FROM generate_series(1, 500) n
"""
#: In the order of their keys, what every table holds.
CONTENTS = """
    SELECT format('SELECT %L || t::text AS row FROM %I t ORDER BY 1', relname || ': ', relname) AS query
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname
"""


def contents(engine: Engine) -> list[str]:
    return [
        row["row"] for table in engine.execute(CONTENTS) for row in engine.execute(table["query"].replace("%", "%%"))
    ]


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_an_example_there_and_back(engine: Engine, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given the tables, and for the Python function the module where the worker finds it
    monkeypatch.syspath_prepend(str(EXAMPLES))
    engine.execute((EXAMPLES / "schema.sql").read_text(encoding="utf-8"))
    engine.execute(PGBENCH)
    catalog, rows = fingerprint(engine.connection, positions=False), contents(engine)

    # When the example goes all the way
    text = file.read_text(encoding="utf-8").replace("myapp.backfills:", "backfills:")
    run = engine.enqueue(text)
    runner = engine.runner(transforms=["backfills"])
    while (now := engine.drive(run, runner=runner)).state is State.WAITING:
        commands.approve(engine.connection, run, now.phase, actor="ann")
    expect(engine.run(run), State.COMPLETED)
    assert (fingerprint(engine.connection, positions=False), contents(engine)) != (catalog, rows), (
        "it changed something"
    )

    # Then nothing of it is left once it is taken back
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run, runner=runner), State.ROLLED_BACK)
    assert difference(catalog, fingerprint(engine.connection, positions=False)) == ""
    assert sorted(contents(engine)) == sorted(rows)
