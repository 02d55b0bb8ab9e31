"""Rows changed by a Python function: read, handed over, checked, and written in the batch's own transaction."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from migrations.events import BatchRetried, RowQuarantined
from migrations.states import Phase, State
from producers import commands
from worker.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fix_runs import Engine

    from migrations.model import Key, Run

ROWS = 60

DIGITS = """
name: digits
operations:
  - backfill: {table: users, transform: "backfills:change", reads: [phone], writes: [digits]%s}
settings: {lanes: 2, max_quarantined: %d}
"""

KEEP_DIGITS = """
def change(rows):
    return [{"id": row["id"], "digits": "".join(c for c in row["phone"] if c.isdigit())} for row in rows]
"""


class Site:
    """A worker whose functions are in one module of the test's, and that was told to allow it."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder

    def write(self, code: str, *, module: str = "backfills") -> None:
        """The module's code, as a worker started from now on finds it."""
        (self.folder / f"{module}.py").write_text(code)
        sys.modules.pop(module, None)

    def runner(self, *, transforms: tuple[str, ...] = ("backfills",)) -> Runner:
        stopping = threading.Event()
        stopping.set()
        engine = self.engine
        return Runner(
            engine.pool, send=engine.sent.append, observe=engine.events.append, stopping=stopping, transforms=transforms
        )

    def drive(self, run: int, *, batch_rows: int = 15, transforms: tuple[str, ...] = ("backfills",)) -> Run:
        return self.engine.drive(run, batch_rows=batch_rows, runner=self.runner(transforms=transforms))


@pytest.fixture
def site(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions within a second would be one
    before = set(sys.modules)
    yield Site(engine, tmp_path)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def users(engine: Engine) -> None:
    engine.execute("CREATE TABLE users (id bigint PRIMARY KEY, phone text NOT NULL, digits text, other text)")
    engine.execute("INSERT INTO users SELECT n, '+41 ' || n, NULL, 'x' FROM generate_series(1, %s) n", ROWS)


def right(engine: Engine) -> int:
    return int(engine.value("SELECT count(*) FROM users WHERE digits = '41' || id"))


def keys(engine: Engine, run: int) -> dict[Key, str]:
    return {row.key: row.sqlstate for row in engine.quarantined(run)}


def test_every_row_gets_what_the_function_gives(engine: Engine, site: Site, users: None) -> None:
    site.write(KEEP_DIGITS)
    run = engine.enqueue(DIGITS % ("", 0))

    now = site.drive(run)

    expect(now, State.COMPLETED)
    assert now.verified_at is not None
    assert right(engine) == ROWS
    assert engine.value("SELECT count(*) FROM users WHERE phone = '+41 ' || id AND other = 'x'") == ROWS
    lanes = engine.lanes(run, "backfill")
    assert sum(lane.rows_walked for lane in lanes) == sum(lane.rows_changed for lane in lanes) == ROWS
