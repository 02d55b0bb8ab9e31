"""`rebuild` of a table that is in partitions already, while an application writes: the new one has the same, or others."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands
from proof.fingerprint import difference, fingerprint

if TYPE_CHECKING:
    from fix_runs import Engine

EVENTS = """
CREATE SCHEMA "Shop";
CREATE TABLE "Shop"."Events" (
    id integer NOT NULL, "At" date NOT NULL, "Order" integer NOT NULL CHECK ("Order" > 0), note text, legacy text DEFAULT 'l',
    PRIMARY KEY (id, "At")) PARTITION BY RANGE ("At");
CREATE TABLE "Shop"."Events_1" PARTITION OF "Shop"."Events" FOR VALUES FROM ('2024-01-01') TO ('2024-02-01') WITH (fillfactor = 80);
CREATE TABLE "Shop"."Events_2" (LIKE "Shop"."Events" INCLUDING DEFAULTS INCLUDING CONSTRAINTS, CHECK ("At" >= '2024-02-01'));
ALTER TABLE "Shop"."Events" ATTACH PARTITION "Shop"."Events_2" FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
CREATE TABLE "Shop".rest PARTITION OF "Shop"."Events" DEFAULT;
CREATE INDEX "by order" ON "Shop"."Events" ("Order") WHERE note <> 'gone';
CREATE INDEX "of the first" ON "Shop"."Events_1" (note);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := NEW.note || ''!''; RETURN NEW; END';
CREATE TRIGGER touched BEFORE UPDATE ON "Shop"."Events" FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TABLE items (event integer, at date, FOREIGN KEY (event, at) REFERENCES "Shop"."Events" ON DELETE CASCADE ON UPDATE CASCADE);
ALTER TABLE "Shop"."Events" ENABLE ROW LEVEL SECURITY; ALTER TABLE "Shop"."Events_2" ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON "Shop"."Events" FOR SELECT USING ("Order" > 0);
CREATE POLICY own ON "Shop"."Events_2" FOR SELECT USING (note <> '');
CREATE VIEW "Shop".open AS SELECT id, "At" FROM "Shop"."Events" WHERE note = 'new';
GRANT SELECT ON "Shop"."Events" TO PUBLIC; GRANT SELECT ON "Shop".open TO PUBLIC; GRANT SELECT ON "Shop"."Events_1" TO PUBLIC; COMMENT ON TABLE "Shop"."Events_1" IS 'one';
INSERT INTO "Shop"."Events" SELECT n, date '2024-01-01' + n % 70, n, 'n' || n FROM generate_series(1, 300) n;
INSERT INTO items SELECT id, "At" FROM "Shop"."Events" WHERE id <= 30;
"""
TABLE = '"Shop"."Events"'
WIDER: dict[str, Any] = {"columns": {"id": {"type": "bigint"}, "legacy": {"drop": True}}}
HALVES: dict[str, Any] = {
    **WIDER,
    "partition_by": {"range": "At", "every": "6 months", "from": "2024-01-01", "ahead": 1},
}
#: The same by hand, where nobody is at work.
BY_HAND = f"""
DROP VIEW "Shop".open; ALTER TABLE {TABLE} ALTER id TYPE bigint, DROP legacy;
CREATE VIEW "Shop".open AS SELECT id, "At" FROM {TABLE} WHERE note = 'new'; GRANT SELECT ON "Shop".open TO PUBLIC
"""


def rebuild(*, approve: tuple[str, ...] = (), **keys: Any) -> str:
    operation = {"table": "Shop.Events", **keys}
    return json.dumps(
        {"name": "anew", "operations": [{"rebuild": operation}], "settings": {"approve": approve, "lanes": 2}}
    )


@pytest.fixture(autouse=True)
def events(engine: Engine) -> None:
    engine.execute(EVENTS)


def rows(engine: Engine) -> list[dict[str, Any]]:
    return engine.execute(f'SELECT id, "At", "Order", note FROM {TABLE} ORDER BY id, "At"')


def write(engine: Engine, number: int) -> None:
    """New rows, changed ones, ones that move to another partition, ones that go; one partition is written by its own name."""
    default = engine.value(
        f"SELECT partdefid::regclass::text FROM pg_partitioned_table WHERE partrelid = '{TABLE}'::regclass"
    )
    engine.execute(
        f"""
        INSERT INTO {TABLE} (id, "At", "Order", note) VALUES (1000 + {number}, '2024-02-03', 7, 'new'), (2000 + {number}, '2031-01-01', 8, 'far');
        UPDATE {TABLE} SET note = 'changed' WHERE id % 37 = {number};
        UPDATE {TABLE} SET "At" = "At" + 31, id = id + 5000 WHERE id % 41 = {number};
        DELETE FROM {TABLE} WHERE id % 43 = {number};
        UPDATE {default} SET note = 'of the rest' WHERE id % 7 = {number};
        """
    )


def compared(engine: Engine) -> frozenset[str]:
    """Without the rows that PostgreSQL has of `items_event_at_fkey` for each partition: before 18 no VALIDATE marks them."""
    return frozenset(
        one
        for one in fingerprint(engine.connection, positions=False)
        if not one.startswith("position")
        and re.match(r"constraint: public.items \| items_event_at_fkey\d", one) is None
    )


@pytest.mark.parametrize(
    "keys", [pytest.param(WIDER, id="the same"), pytest.param(HALVES, id="others", marks=pytest.mark.soak)]
)
def test_there_and_back_while_it_is_written(engine: Engine, keys: dict[str, Any]) -> None:
    before = compared(engine)
    run = engine.enqueue(rebuild(approve=("switch", "contract"), **keys))
    engine.drive(run, until=lambda run: run.phase is Phase.BACKFILL)
    write(engine, 1)
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY)
    write(engine, 2)
    expect(engine.drive(run), State.WAITING)
    write(engine, 3)
    there = rows(engine)
    commands.approve(engine.connection, run, "switch", actor="ann")
    expect(engine.drive(run), State.WAITING)
    assert rows(engine) == there
    assert engine.value('SELECT pg_typeof(id)::text FROM "Shop".open LIMIT 1') == "bigint"
    write(engine, 4)
    there = rows(engine)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert rows(engine) == there
    assert difference(before, compared(engine)) == ""


def test_to_the_end_as_by_hand_and_back_after_it(engine: Engine) -> None:
    before = compared(engine)
    with engine.connection.transaction(force_rollback=True):
        engine.execute(BY_HAND)
        by_hand = compared(engine)
    run = engine.enqueue(rebuild(**WIDER))
    expect(engine.drive(run), State.COMPLETED)
    assert difference(by_hand, compared(engine)) == ""
    write(engine, 5)
    there = rows(engine)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert rows(engine) == there
    assert difference(before, compared(engine)) == ""


def test_a_partition_that_is_emptied_is_empty_in_both(engine: Engine) -> None:
    run = engine.enqueue(rebuild(approve=("contract",), **WIDER))
    engine.drive_to_lanes(run)
    engine.drive(run, batch_rows=50, until=lambda now: sum(one.rows_walked for one in engine.lanes(now.run)) > 0)
    engine.execute('TRUNCATE "Shop"."Events_1" CASCADE')
    engine.drive(run, until=lambda now: now.phase is Phase.VERIFY)
    engine.execute(
        f'TRUNCATE "Shop".rest CASCADE; INSERT INTO {TABLE} (id, "At", "Order") VALUES (1, \'2024-01-02\', 1)'
    )
    there = rows(engine)
    expect(engine.drive(run), State.WAITING)
    assert rows(engine) == there
    assert 0 < len(there) < 200
    engine.execute('TRUNCATE "Shop"."Events_2" CASCADE')
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert [(one["id"], one["At"].isoformat()) for one in rows(engine)] == [(1, "2024-01-02")]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param(
            f"CREATE TABLE \"Shop\".more PARTITION OF {TABLE} FOR VALUES FROM ('2025-01-01') TO ('2025-02-01')",
            "more",
            id="comes",
            marks=pytest.mark.soak,
        ),
        pytest.param(f'ALTER TABLE {TABLE} DETACH PARTITION "Shop"."Events_2"', "Events_2", id="goes"),
    ],
)
def test_a_partition_that_comes_or_goes_meanwhile_stops_the_switch(engine: Engine, change: str, name: str) -> None:
    engine.execute("DROP TABLE items")
    run = engine.enqueue(rebuild(approve=("switch",), **WIDER))
    expect(engine.drive(run), State.WAITING)
    engine.execute(change)
    there = rows(engine)
    commands.approve(engine.connection, run, "switch", actor="ann")
    expect(engine.drive(run), State.FAILED)
    assert f"the partition '{name}' came, went" in str(engine.run(run).error)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert rows(engine) == there
    assert engine.value("SELECT count(*) FROM pg_trigger WHERE tgname ~ 'backfilld'") == 0


@pytest.mark.soak
def test_an_old_snapshot_cannot_write_a_partition_by_its_own_name_after_the_switch(engine: Engine) -> None:
    run = engine.enqueue(rebuild(approve=("switch", "contract"), **WIDER))
    expect(engine.drive(run), State.WAITING)
    commands.approve(engine.connection, run, "switch", actor="ann")
    engine.drive(run, until=lambda now: now.phase is Phase.SWITCH and engine.lane(now.run, 0).cursor == 2)
    with engine.connect() as old:
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT 1")
        expect(engine.drive(run), State.WAITING)
        with pytest.raises(psycopg.errors.SerializationFailure, match="another table took"):
            old.execute('UPDATE "Shop".rest SET note = note')


@pytest.mark.parametrize(
    ("change", "keys", "message"),
    [
        ("", {"cluster_by": ["id"]}, "have no order"),
        ("", {"columns": {"At": {"type": "timestamptz"}}}, "may mean something else of timestamptz"),
        ("", {"columns": {"At": {"drop": True}}}, "At is in the key"),
        (f"CREATE PUBLICATION p FOR TABLE {TABLE}", {}, "publication p"),
        ('CREATE PUBLICATION p FOR TABLE "Shop".rest', {}, "partition rest is in the publication p"),
        ('ALTER TABLE "Shop".rest ALTER note SET DEFAULT 7', {}, "rest has another DEFAULT of note"),
        ('CREATE VIEW few AS SELECT * FROM "Shop".rest', {}, "rest is read by view public.few itself"),
        (
            'CREATE TRIGGER own BEFORE INSERT ON "Shop".rest FOR EACH ROW EXECUTE FUNCTION touch()',
            {},
            "the trigger own",
        ),
        (
            f"CREATE TABLE \"Shop\".more PARTITION OF {TABLE} FOR VALUES FROM ('2025-01-01') TO ('2025-02-01') PARTITION BY HASH (id)",
            {},
            "more is partitioned itself",
        ),
        ('CREATE SCHEMA other; ALTER TABLE "Shop".rest SET SCHEMA other', {}, "rest is in another schema"),
        ("", {"partition_by": {"hash": "note", "partitions": 2}}, "may be NULL"),
    ],
)
def test_what_is_refused(engine: Engine, change: str, keys: dict[str, Any], message: str) -> None:
    if change:
        engine.execute(change)
    with pytest.raises(Refused, match=message):
        engine.enqueue(rebuild(**keys))
