"""The journal: what an in-place change replaces is kept in the batch's own transaction, and given back where nobody wrote since."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from fix_daemon import until
from fix_runs import expect
from psycopg import sql

from backfilld.migrations.facts import Target
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.definitions import KeyColumn
from backfilld.migrations.record import audit
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.rollback import journal
from backfilld.migrations.rollback.journal import RETURNS_OLD, Journal
from backfilld.migrations.settings import Limits
from backfilld.migrations.walks.keys import KeyWalk
from backfilld.migrations.walks.update_sql import Update
from backfilld.monitoring import explain
from backfilld.monitoring.display import sentence
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.postgres.connect import Connection

ROWS = 60
TABLE = '"Odd Schema"."Order"'
COLUMN = '"a%b ""c"""'
#: Values of every kind that a text could lose, by the type of the column, each with another value of it.
VALUES = {
    "text": ("CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN E'\\\\ \" '' \\n {,}' ELSE n::text END", "'new'"),
    "varchar(20)": ("'ä' || n", "'new'"),
    "char(8)": ("'x' || n", "'new'"),
    "text[]": (
        "CASE n % 3 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE ARRAY['a,b', NULL, '\"', 'NULL'] END",
        "'{new}'::text[]",
    ),
    "jsonb": ("CASE n % 3 WHEN 0 THEN 'null' WHEN 1 THEN NULL ELSE jsonb_build_object('k', n) END", "'{}'::jsonb"),
    "json": ("('{\"b\" : ' || n || ',  \"a\":1}')::json", "'{}'::json"),
    "bytea": ("decode(lpad(to_hex(n), 8, '0'), 'hex')", "'\\x00'::bytea"),
    "timestamptz": ("CASE n WHEN 1 THEN 'infinity' ELSE timestamptz '2024-02-29 23:59:59.999999+00' END", "now()"),
    "interval": ("make_interval(months => n, days => -n, secs => n / 7.0)", "interval '1 day'"),
    "double precision": ("CASE n WHEN 1 THEN 'NaN' WHEN 2 THEN '-0' WHEN 3 THEN '-Infinity' ELSE 1.0 / n END", "7"),
    "real": ("(1.0 / n)::real", "7"),
    "numeric(30, 20)": ("n::numeric(30, 20) / 7", "7"),
}


def make(engine: Engine, type_: str = "text", value: str = "'v' || n") -> None:
    engine.execute(
        f'CREATE SCHEMA "Odd Schema"; CREATE TABLE {TABLE} (tenant text COLLATE "POSIX", id bigint, "old" text, '
        f"{COLUMN} {type_}, PRIMARY KEY (tenant, id))"
    )
    engine.execute(
        f'INSERT INTO {TABLE} (tenant, id, "old", {COLUMN}) '
        f"SELECT 't,\" ' || n % 3, n, 'o' || n, {value} FROM generate_series(1, {ROWS}) n"
    )


def contents(engine: Engine) -> list[dict[str, object]]:
    return engine.execute(f'SELECT tenant, id, "old", {COLUMN}::text AS text FROM {TABLE} ORDER BY tenant, id')


def migration(sets: dict[str, str], where: str | None = None, **settings: object) -> str:
    operation = {"table": "Odd Schema.Order", "set": sets} | ({"where": where} if where else {})
    return json.dumps(
        {
            "name": "in-place",
            "operations": [{"backfill": operation}],
            "settings": {"lanes": 3, "approve": []} | settings,
        }
    )


def journaled(engine: Engine, run: int) -> int:
    return int(engine.value(f"SELECT sum(rows) FROM backfilld.journal_{run}"))


def back(engine: Engine, run: int, *, batch_rows: int = 7) -> dict[str, object]:
    """Roll a run back; returns what was told of its undo."""
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run, batch_rows=batch_rows), State.ROLLED_BACK)
    told = engine.execute("SELECT detail FROM backfilld.events WHERE run = %s AND what = 'undo.done'", run)
    return dict(told[0]["detail"]) if told else {}


@pytest.mark.parametrize("walk", ["keys", "pages"])
@pytest.mark.parametrize("type_", VALUES)
def test_every_value_comes_back_as_it_was(engine: Engine, type_: str, walk: str) -> None:
    value, new = VALUES[type_]
    make(engine, type_, value)
    before = contents(engine)
    if walk == "pages" and new == "now()":
        new = "timestamptz '2020-01-01'"
    run = engine.enqueue(migration({'a%b "c"': new, "old": "'n%' || id"}, walk=walk if new != "now()" else "keys"))
    expect(engine.drive(run, batch_rows=9), State.COMPLETED)
    assert contents(engine) != before
    assert journaled(engine, run) == ROWS
    told = back(engine, run)
    assert contents(engine) == before
    assert (told["changed"], told["left"]) == (ROWS, 0)


def test_rows_that_somebody_wrote_since_are_kept_and_told(engine: Engine) -> None:
    make(engine)
    run = engine.enqueue(migration({'a%b "c"': 'upper("old")'}))
    expect(engine.drive(run, batch_rows=9), State.COMPLETED)
    engine.execute(f"UPDATE {TABLE} SET {COLUMN} = 'mine' WHERE id IN (3, 33)")
    engine.execute(f"UPDATE {TABLE} SET \"old\" = 'another column' WHERE id = 4")
    engine.execute(f"DELETE FROM {TABLE} WHERE id = 5")
    engine.execute(f"INSERT INTO {TABLE} VALUES ('new', 1000, 'o', 'p')")
    told = back(engine, run)
    assert (told["changed"], told["left"]) == (ROWS - 3, 3)
    assert sorted(told["keys"], key=str) == [['t," 0', "3"], ['t," 0', "33"], ['t," 2', "5"]]  # type: ignore[call-overload] # Any: JSON
    # And people read of them: in the story of the run, and in its explanation
    (event,) = [one for one in audit.story(engine.connection, run) if one["what"] == "undo.done"]
    explained = " ".join(explain.read(engine.connection, engine.run(run), Limits()).sentences)
    assert all('t," 2, 5' in words for words in (sentence(event), explained))
    now = {row["id"]: row["text"] for row in contents(engine)}
    assert now.pop(1000) == "p"
    assert (now.pop(3), now.pop(33)) == ("mine", "mine")
    assert now == {n: f"v{n}" for n in range(1, ROWS + 1) if n not in {3, 5, 33}}


def test_a_row_changed_twice_goes_back_to_what_it_was_at_first_unless_somebody_wrote_in_between(engine: Engine) -> None:
    make(engine)
    run = engine.enqueue(migration({'a%b "c"': 'upper("old")'}))
    engine.drive(run, batch_rows=9, until=lambda run: run.phase is Phase.VERIFY)
    engine.execute(f"UPDATE {TABLE} SET \"old\" = 'again' WHERE id IN (6, 7)")
    engine.execute(f"UPDATE {TABLE} SET {COLUMN} = 'mine' WHERE id = 7")
    expect(engine.drive(run, batch_rows=9), State.COMPLETED)
    assert engine.run(run).pass_ > 1
    told = back(engine, run)
    assert (told["changed"], told["left"]) == (ROWS + 1, 0), "row 6 went back twice"
    now = {row["id"]: row["text"] for row in contents(engine)}
    assert (now[6], now[7]) == ("v6", "mine")


@pytest.mark.parametrize("seed", range(2))
def test_from_the_middle_of_the_walk_and_of_the_undo(engine: Engine, seed: int) -> None:
    """Increments, which nobody could tell twice from once; stopped, killed and turned back at any step."""
    choice = random.Random(seed)
    make(engine, "bigint", "n")
    before = contents(engine)
    for _ in range(6):
        run = engine.enqueue(migration({'a%b "c"': f"{COLUMN} + 1"}, walk="keys"))
        for _ in range(choice.randint(1, 20)):
            if engine.run(run).state is State.COMPLETED:
                break
            engine.step(batch_rows=8)
        commands.rollback(engine.connection, run, actor="ann")
        for _ in range(choice.randint(0, 12)):
            if engine.run(run).state is State.ROLLED_BACK:
                break
            engine.step(batch_rows=8)
            engine.sent.clear()  # a worker died, and its message with it
        expect(engine.drive(run, batch_rows=8), State.ROLLED_BACK)
        assert contents(engine) == before
        engine.sent.clear()


def test_rows_that_are_wide_are_kept_each_by_itself(engine: Engine) -> None:
    """A batch of documents would not fit into one value of PostgreSQL's, nor into memory."""
    make(
        engine,
        value="CASE WHEN n % 3 = 0 THEN (SELECT string_agg(md5(n::text || i), '') FROM generate_series(1, 90) i) ELSE 'v' || n END",
    )
    before = contents(engine)
    run = engine.enqueue(migration({'a%b "c"': "reverse(" + COLUMN + ")", "old": "'x'"}, walk="keys"))
    expect(engine.drive(run, batch_rows=30), State.COMPLETED)
    kept = engine.execute(f"SELECT rows, cardinality(old_0_0) AS old FROM backfilld.journal_{run} WHERE entry > 0")
    assert [(row["rows"], row["old"]) for row in kept] == [(1, 1)] * (ROWS // 3)
    assert journaled(engine, run) == ROWS
    told = back(engine, run, batch_rows=4)
    assert (told["changed"], told["left"]) == (ROWS, 0)
    assert contents(engine) == before


def test_lanes_of_an_undo_share_the_rows_and_can_be_divided(engine: Engine) -> None:
    rows = 4000
    engine.execute(
        "CREATE TABLE jobs (id bigint PRIMARY KEY, n bigint);"
        f"INSERT INTO jobs SELECT n, n FROM generate_series(1, {rows}) n"
    )
    run = engine.enqueue('name: many\noperations: [{backfill: {table: jobs, set: {n: "-id"}}}]\nsettings: {lanes: 2}')
    expect(engine.drive(run, batch_rows=500), State.COMPLETED)
    commands.rollback(engine.connection, run, actor="ann")
    engine.drive(
        run, batch_rows=100, until=lambda run: sum(x.rows_changed for x in engine.lanes(run.run, "undo")) > 300
    )
    engine.execute("UPDATE backfilld.runs SET settings = jsonb_set(settings, '{lanes}', '4') WHERE run = %s", run)
    expect(engine.drive(run, batch_rows=100), State.ROLLED_BACK)
    assert engine.value("SELECT count(*) FROM jobs WHERE n = id") == rows
    lanes = engine.lanes(run, "undo")
    assert len(lanes) == 4
    assert all(lane.rows_changed for lane in lanes)
    assert sum(lane.rows_changed for lane in lanes) == rows


def test_what_no_longer_fits_is_set_aside_and_the_rest_goes_back(engine: Engine) -> None:
    make(engine)
    run = engine.enqueue(migration({'a%b "c"': 'upper("old")'}))
    expect(engine.drive(run), State.COMPLETED)
    engine.execute(f"ALTER TABLE {TABLE} ADD CHECK ({COLUMN} NOT IN ('v8', 'v18'))")
    told = back(engine, run, batch_rows=20)
    assert (told["changed"], told["left"]) == (ROWS - 2, 2)
    assert {row.key[1]: row.sqlstate for row in engine.quarantined(run)} == {"8": "23514", "18": "23514"}
    now = {row["id"]: row["text"] for row in contents(engine)}
    assert (now[8], now[18], now[9]) == ("O8", "O18", "v9")


def test_rows_that_are_set_aside_are_not_journaled_and_the_others_are(engine: Engine) -> None:
    make(engine)
    engine.execute(f'UPDATE {TABLE} SET "old" = n::text FROM generate_series(1, {ROWS}) n WHERE n = id AND n <> 9')
    before = contents(engine)
    run = engine.enqueue(migration({'a%b "c"': '("old"::integer * 2)::text'}))
    expect(engine.drive(run, batch_rows=20), State.PAUSED)
    assert journaled(engine, run) == ROWS - 1
    back(engine, run)
    assert contents(engine) == before


def test_a_condition_that_ends_is_told_as_without_a_journal(engine: Engine) -> None:
    make(engine, "bigint", "n")
    before = contents(engine)
    run = engine.enqueue(migration({'a%b "c"': f"{COLUMN} - 20"}, where=f"{COLUMN} > 20"))
    expect(engine.drive(run, batch_rows=9), State.COMPLETED)
    assert engine.value(f"SELECT max({COLUMN}) FROM {TABLE}") == 40, "one visit each"
    assert journaled(engine, run) == ROWS - 20
    back(engine, run)
    assert contents(engine) == before


def test_rows_that_touch_no_index_are_counted_as_without_a_journal(engine: Engine) -> None:
    make(engine)
    run = engine.enqueue(migration({'a%b "c"': "'x'"}, walk="pages"))
    expect(engine.drive(run), State.COMPLETED)
    assert sum(lane.rows_changed for lane in engine.lanes(run, "backfill")) == ROWS
    assert engine.value("SELECT sum(rows_hot) FROM backfilld.lanes") > 0


def test_two_operations_share_the_journal_and_not_its_rows(engine: Engine) -> None:
    make(engine)
    engine.execute(
        "CREATE TABLE jobs (id bigint PRIMARY KEY, n bigint); INSERT INTO jobs SELECT n, n FROM generate_series(1, 30) n"
    )
    before = contents(engine)
    run = engine.enqueue(
        'name: two\noperations: [{backfill: {table: jobs, set: {n: "n + 1"}}}, '
        '{backfill: {table: Odd Schema.Order, set: {old: "\'x\'"}}}, {backfill: {table: jobs, set: {n: "n * 2"}}}]'
    )
    expect(engine.drive(run, batch_rows=9), State.COMPLETED)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run, batch_rows=9), State.ROLLED_BACK)
    assert contents(engine) == before
    assert engine.value("SELECT count(*) FROM jobs WHERE n = id") == 30


def test_every_row_of_the_journal_is_walked(engine: Engine) -> None:
    engine.execute(
        "CREATE TABLE jobs (id bigint PRIMARY KEY, n bigint); INSERT INTO jobs SELECT n FROM generate_series(1, 1200) n"
    )
    run = engine.enqueue('name: many\noperations: [{backfill: {table: jobs, set: {n: "id"}}}]')
    expect(engine.drive(run), State.COMPLETED)
    told = back(engine, run, batch_rows=150)
    assert (told["changed"], told["left"]) == (1200, 0)
    assert engine.value("SELECT count(*) FROM jobs WHERE n IS NULL") == 1200


def test_a_partitioned_table(engine: Engine) -> None:
    engine.execute(
        "CREATE TABLE parts (id bigint PRIMARY KEY, v text) PARTITION BY RANGE (id);"
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (30);"
        "CREATE TABLE parts_2 PARTITION OF parts DEFAULT; INSERT INTO parts SELECT n, 'v' || n FROM generate_series(1, 60) n"
    )
    for walk in ("pages", "keys"):
        run = engine.enqueue(
            json.dumps(
                {
                    "name": walk,
                    "operations": [{"backfill": {"table": "parts", "set": {"v": "'x'"}}}],
                    "settings": {"walk": walk},
                }
            )
        )
        expect(engine.drive(run, batch_rows=9), State.COMPLETED)
        back(engine, run)
        assert engine.value("SELECT count(*) FROM parts WHERE v = 'v' || id") == 60


def test_the_partition_is_nobodys_to_read(engine: Engine) -> None:
    make(engine)
    engine.execute(
        "CREATE ROLE backfilld_reader; ALTER DEFAULT PRIVILEGES IN SCHEMA backfilld GRANT ALL ON TABLES TO backfilld_reader"
    )
    try:
        run = engine.enqueue(migration({"old": "'x'"}))
        expect(engine.drive(run), State.COMPLETED)
        (table,) = engine.execute(
            "SELECT c.relrowsecurity, has_table_privilege('backfilld_reader', c.oid, 'SELECT') AS may "
            "FROM pg_class c WHERE c.oid = %s::regclass",
            f"backfilld.journal_{run}",
        )
        assert table == {"relrowsecurity": True, "may": False}
    finally:
        engine.execute("DROP OWNED BY backfilld_reader; DROP ROLE backfilld_reader")


@pytest.mark.parametrize(
    "version", [pytest.param(RETURNS_OLD, marks=pytest.mark.since(RETURNS_OLD // 10_000)), 140_000]
)
def test_both_ways_to_know_what_a_row_was(engine: Engine, version: int) -> None:
    """The statement for servers from 18 on, and the one for those before, which every server understands."""
    make(engine)
    name = TableName("Odd Schema", "Order")
    walk = KeyWalk(table=name, key=(KeyColumn(name="tenant", type="text"), KeyColumn(name="id", type="bigint")))
    targets = (Target(column='a%b "c"', type="text"), Target(column="old", type="text"))
    kept = Journal(run=77, operation=3, walk=walk, targets=targets)
    journal.make(engine.connection, 77, [kept])
    for _ in range(2):  # the second time a row that is ours already is changed again
        query, parameters = journal.written(
            Update(
                table=name.identifier,
                values=[(Target(column='a%b "c"', type="text"), sql.SQL('"a%%b ""c""" || \'!\''))],
                condition=sql.SQL("id <= %s"),
                parameters=[5],
                needs_work=sql.SQL("\"old\" <> 'o4'"),
            ),
            [kept],
            still=sql.SQL("true"),
            pass_=1,
            version=version,
        )
        engine.connection.execute(query, parameters)
    rows = engine.execute(
        "SELECT batch, rows, kept.* FROM backfilld.journal_77, unnest(key_3_0, key_3_1, old_3_0, old_3_1, new_3_0, new_3_1) "
        "AS kept (tenant, id, old, old2, new, new2) ORDER BY batch, id"
    )
    assert [tuple(row.values()) for row in rows] == [
        (batch, 4, f't," {n % 3}', n, f"v{n}" + "!" * (batch - 1), f"o{n}", f"v{n}" + "!" * batch, f"o{n}")
        for batch in (1, 2)
        for n in (1, 2, 3, 5)
    ]


def test_of_two_batches_that_change_one_row_the_later_has_the_higher_number(engine: Engine) -> None:
    """Whichever began first: the undo takes the higher number first, and a row must go back as it came."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n bigint); INSERT INTO jobs VALUES (1, 0), (2, 0)")
    target = Target(column="n", type="bigint", plain_type="bigint")
    walk = KeyWalk(table=TableName("public", "jobs"), key=(KeyColumn(name="id", type="bigint"),))
    kept = Journal(run=77, operation=0, walk=walk, targets=(target,))
    journal.make(engine.connection, 77, [kept])

    def batch(connection: Connection, least: int) -> None:
        update = Update(
            table=walk.table.identifier,
            values=[(target, sql.SQL("n + 1"))],
            condition=sql.SQL("id >= %s"),
            parameters=[least],
            needs_work=sql.SQL("true"),
        )
        version = connection.info.server_version
        connection.execute(*journal.written(update, [kept], still=sql.SQL("false"), pass_=1, version=version))

    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%~was_0_0%' AND datname = current_database()"
    with engine.connect() as application, engine.connect() as early, ThreadPoolExecutor() as pool:
        with application.transaction():
            application.execute("UPDATE jobs SET n = n WHERE id = 1")
            begun = pool.submit(batch, early, 1)
            until("the batch to wait for the application", lambda: engine.value(waits))
            batch(engine.connection, 2)
        begun.result()
    found = engine.execute(
        "SELECT old FROM backfilld.journal_77, unnest(key_0_0, old_0_0) AS kept (id, old) WHERE id = 2 ORDER BY batch"
    )
    assert [row["old"] for row in found] == [0, 1]
