"""The examples as they stand, on the tables they are about: to the end, and back from there to what was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_runs import expect
from paths import ROOT

from backfilld.migrations.record.states import State
from backfilld.producers import commands
from proof.fingerprint import difference, fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from fix_runs import Engine

EXAMPLES = ROOT / "examples"
#: pgbench makes its own tables; here they are as small as they need to be.
PGBENCH = """
    CREATE TABLE pgbench_accounts (aid integer PRIMARY KEY, bid integer, abalance integer, filler character(84));
    INSERT INTO pgbench_accounts SELECT n, 1, n % 7 - 3, '' FROM generate_series(1, 500) n
"""


def contents(engine: Engine) -> list[str]:
    """What every table holds, whatever the order of its columns; a column that was dropped comes back behind the others."""
    tables = engine.execute(
        "SELECT relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname"
    )
    return [
        f"{table['name']}: {row['row']}"
        for table in tables
        for row in engine.execute(f"SELECT to_jsonb(t)::text AS row FROM {table['name']} t ORDER BY 1")
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
    assert contents(engine) == rows
