"""The archive: what its entries hold, which of them are found for a range of keys, and what comes back out of it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.definitions import KeyColumn
from backfilld.migrations.record.model import Bounds
from backfilld.migrations.rollback import archive
from backfilld.migrations.rollback.archive import Archive
from backfilld.migrations.rollback.journal import WIDE_BYTES
from backfilld.migrations.walks.keys import KeyWalk

if TYPE_CHECKING:
    from fix_runs import Engine

RUN, OPERATION = 7, 2
TABLE = TableName("public", "Order")
WALK = KeyWalk(table=TABLE, key=(KeyColumn(name="Tenant", type="text"), KeyColumn(name="id", type="bigint")))
ARCHIVE = Archive(run=RUN, operation=OPERATION, walk=WALK)
ALL = Bounds()


@pytest.fixture(autouse=True)
def orders(engine: Engine) -> None:
    engine.execute(
        'CREATE TABLE "Order" ("Tenant" text COLLATE "C", id bigint, gone text, came text, PRIMARY KEY ("Tenant", id))'
    )
    engine.execute(
        "INSERT INTO \"Order\" SELECT (ARRAY['A', 'B', 'c'])[1 + n / 20], n, 'g' || n, 'c' || n FROM generate_series(0, 59) n"
    )
    ARCHIVE.make(engine.connection)


def copy(engine: Engine, bounds: Bounds) -> tuple[int, int]:
    condition, parameters = WALK.within(bounds)
    row = engine.connection.execute(ARCHIVE.copy(condition, old=("gone",), new=("came",)), parameters).fetchone()
    assert row is not None
    return row["changed"], row["missing"]


def missing(engine: Engine, bounds: Bounds = ALL) -> int:
    condition, parameters = WALK.within(bounds)
    row = engine.connection.execute(ARCHIVE.unarchived(condition), parameters).fetchone()
    assert row is not None
    return int(row["rows"])


def sizes(engine: Engine) -> list[int]:
    """How many rows each entry holds."""
    rows = engine.execute(f"SELECT rows, cardinality(old_{OPERATION}) AS held FROM {ARCHIVE.table} ORDER BY entry")
    assert all(row["rows"] == row["held"] for row in rows)
    return [row["rows"] for row in rows]


def contents(engine: Engine) -> dict[tuple[str, str], tuple[str | None, str | None]]:
    rows = engine.execute("SELECT operation, key, old, new FROM backfilld.archived(%s)", RUN)
    assert {row["operation"] for row in rows} <= {OPERATION}
    return {(row["key"][0], row["key"][1]): (row["old"], row["new"]) for row in rows}


def table(engine: Engine) -> dict[tuple[str, str], tuple[str | None, str | None]]:
    rows: list[dict[str, Any]] = engine.execute('SELECT "Tenant", id::text, gone, came FROM "Order"')
    return {(row["Tenant"], row["id"]): (row["gone"], row["came"]) for row in rows}


def test_a_batch_is_one_entry_and_is_not_copied_again(engine: Engine) -> None:
    halves = (Bounds(upto=("B", "29")), Bounds(after=("B", "29")))
    assert [copy(engine, half) for half in halves] == [(30, 30), (30, 30)]
    assert sizes(engine) == [30, 30]
    assert contents(engine) == table(engine)
    # A batch that covers both, one within an entry, and one across their border.
    assert [
        copy(engine, one)
        for one in (ALL, Bounds(after=("A", "3"), upto=("A", "9")), Bounds(after=("B", "25"), upto=("c", "45")))
    ] == [(0, 0)] * 3
    assert missing(engine) == missing(engine, Bounds(after=("B", "25"), upto=("B", "33"))) == 0


def test_what_comes_later_than_its_neighbours_has_an_entry_of_its_own(engine: Engine) -> None:
    copy(engine, ALL)
    engine.execute('UPDATE "Order" SET gone = NULL WHERE id = 7; UPDATE "Order" SET came = \'x\' WHERE id = 8')
    engine.execute("INSERT INTO \"Order\" VALUES ('B', 200, 'new', 'row'), ('b', 1, NULL, NULL)")
    assert copy(engine, ALL) == (4, 2)
    assert sizes(engine) == [60, 1, 1, 1, 1]
    assert copy(engine, ALL) == (0, 0)
    assert contents(engine) == table(engine)


def test_rows_behind_all_others_are_an_entry_again(engine: Engine) -> None:
    copy(engine, ALL)
    engine.execute("INSERT INTO \"Order\" SELECT 'd', n, 'new', NULL FROM generate_series(1, 5) n")
    assert copy(engine, Bounds(after=("c", "59"))) == (5, 5)
    assert sizes(engine) == [60, 5]
    assert contents(engine) == table(engine)


def test_an_entry_is_not_larger_than_a_few_rows_of_it_are_worth(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "ENTRY_ROWS", 25)
    copy(engine, ALL)
    assert sizes(engine) == [25, 25, 10]
    assert contents(engine) == table(engine)
    assert copy(engine, Bounds(after=("B", "24"), upto=("c", "51"))) == (0, 0)


def test_a_wide_row_is_kept_alone(engine: Engine) -> None:
    # Random, as the size is that of the compressed value.
    engine.execute(
        "UPDATE \"Order\" SET gone = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, %s) n) WHERE id = 7",
        WIDE_BYTES // 20,
    )
    copy(engine, ALL)
    assert sorted(sizes(engine)) == [1, 59]
    assert contents(engine) == table(engine)


@pytest.mark.parametrize("seed", range(4))
def test_by_chance(engine: Engine, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of any range over a table that is written meanwhile: the newest copy of a row counts, whichever entry has it."""
    monkeypatch.setattr(archive, "ENTRY_ROWS", 5)
    chance = random.Random(seed)
    for number in range(60):
        match chance.randrange(4):
            case 0:
                engine.execute('UPDATE "Order" SET gone = %s WHERE id = %s', f"u{number}", chance.randrange(60))
            case 1:
                engine.execute('DELETE FROM "Order" WHERE id = %s', chance.randrange(60))
            case 2:
                tenant, id_ = chance.choice("ABcDe"), chance.randrange(100, 1000)
                engine.execute('INSERT INTO "Order" VALUES (%s, %s) ON CONFLICT DO NOTHING', tenant, id_)
            case _:
                ends = sorted((chance.choice("ABcDe"), chance.randrange(60)) for _ in range(2))
                after, upto = ((tenant, str(id_)) for tenant, id_ in ends)
                copy(engine, Bounds(after=after, upto=upto))
    gaps = missing(engine)
    changed, found = copy(engine, ALL)
    assert found == gaps <= changed
    assert copy(engine, ALL) == (0, 0)
    held, there = contents(engine), table(engine)
    assert {key: held[key] for key in there} == there
    overlap = sql.SQL(
        "SELECT count(*) AS pairs FROM {archive} a JOIN {archive} b ON a.entry < b.entry AND a.rows > 1 AND b.rows > 1 "
        "AND (a.first_2_0, a.first_2_1) <= (b.last_2_0, b.last_2_1) AND (b.first_2_0, b.first_2_1) <= (a.last_2_0, a.last_2_1)"
    ).format(archive=ARCHIVE.table.identifier)
    assert engine.connection.execute(overlap).fetchone() == {"pairs": 0}
