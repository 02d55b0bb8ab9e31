"""A load whose workers, and whose sender, are killed at any statement: every line is accounted for, and the way back is exact."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_postgres import new_database
from psycopg.rows import dict_row

from proof.child import Job
from proof.kills import Kill
from proof.nursery import Nursery

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from psycopg import Connection

ROWS = 120
#: Of workers on the way there, and as many on the way back.
MOST_DEATHS = 10
#: Lines that cannot be loaded, of several kinds.
BAD = ("only one field", '7,"x', "8,1,a,b", "x9,1,no key", "10,many,no number", "11,-5,below zero")
SCHEMA = f"""
    CREATE TABLE goods (id bigint PRIMARY KEY, stock integer CHECK (stock >= 0), name text, kept text DEFAULT 'its own');
    CREATE INDEX goods_name ON goods (name);
    INSERT INTO goods SELECT n, n, 'as given ' || n FROM generate_series(1, {ROWS}, 2) n;
    UPDATE goods SET name = 'of old ' || id WHERE id % 3 = 0;
"""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as one:
        yield one


def make_file(path: Path) -> dict[str, int]:
    """Lines in no order, with bad ones and duplicates between; returns what is to become of them."""
    chance = random.Random(1)
    lines = [f"{n},{n},as given {n}" for n in range(1, ROWS + 1)]
    chance.shuffle(lines)
    for number, bad in enumerate(BAD):
        lines.insert(number * 17 + 3, bad)
    lines += [f"{n},{n},as given {n}" for n in range(1, 6)]  # the same keys once more
    path.write_text("id,stock,name\n" + "\n".join(lines) + "\n")
    there = [*range(1, ROWS + 1, 2)]
    old = [n for n in there if n % 3 == 0]
    return {
        "lines": ROWS + len(BAD) + 5,
        "inserted": ROWS - len(there),
        "updated": len(old),
        "same": len(there) - len(old),
        "set_aside": len(BAD),
        "duplicates": 5,
    }


def goods(connection: Connection[dict[str, Any]]) -> list[dict[str, Any]]:
    return connection.execute("SELECT * FROM goods ORDER BY id").fetchall()


def work(url: str, nursery: Nursery, migration: str, ask: str, chance: random.Random) -> tuple[str, int]:
    """Workers one after the other, most of which die, until one comes to the end; returns the run's state, and how many died."""
    for died in range(MOST_DEATHS + 1):
        kill = Kill(at=chance.randrange(1, 60), sent=chance.random() < 0.5) if died < MOST_DEATHS else None
        (outcome,) = nursery.run(Job(url=url, migration=migration, asks=(ask,), kill=kill))
        if not outcome.killed:
            assert not outcome.said.get("error"), outcome.said
            return str(outcome.said["state"]), died
    pytest.fail("the run does not come to rest")


def there_and_back(admin_url: str, template: str, nursery: Nursery, path: Path, seed: int) -> int:
    chance = random.Random(seed)
    expected = make_file(path)
    migration = f"name: goods\noperations: [{{load: {{table: goods, from: {{file: {path}}}, key: [id]}}}}]\nsettings: {{lanes: 2, approve: []}}"
    with (
        new_database(admin_url, copy_of=template) as url,
        psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection,
    ):
        connection.execute(SCHEMA.encode())
        before = goods(connection)
        state, died = work(url, nursery, migration, "enqueue", chance)
        assert state == "completed"
        (found,) = connection.execute(
            "SELECT lines, inserted, updated, same, set_aside, duplicates FROM backfilld.load_counts"
        ).fetchall()
        assert found == expected
        after = goods(connection)
        assert [(one["id"], one["stock"], one["name"], one["kept"]) for one in after] == [
            (n, n, f"as given {n}", "its own") for n in range(1, ROWS + 1)
        ]
        state, more = work(url, nursery, migration, "rollback", chance)
        assert state == "rolled_back"
        assert goods(connection) == before
        assert connection.execute("SELECT FROM pg_class WHERE relname LIKE 'stage%'").fetchall() == []
        return died + more


@pytest.mark.parametrize("seed", [1])
def test_killed_at_any_statement(admin_url: str, template: str, nursery: Nursery, tmp_path: Path, seed: int) -> None:
    assert there_and_back(admin_url, template, nursery, tmp_path / "goods.csv", seed) > 3


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 60))
def test_killed_at_any_statement_for_long(
    admin_url: str, template: str, nursery: Nursery, tmp_path: Path, seed: int
) -> None:
    there_and_back(admin_url, template, nursery, tmp_path / "goods.csv", seed)
