"""`rebuild` of a table into partitions, by ranges, lists and hash, while an application writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands
from proof.fingerprint import fingerprint

if TYPE_CHECKING:
    from fix_runs import Engine

EVENTS = """
CREATE SCHEMA "Shop";
CREATE TABLE "Shop"."Events" (
    id bigserial PRIMARY KEY, "At" timestamptz NOT NULL, status text NOT NULL, "Order" integer NOT NULL, note text)
    WITH (fillfactor = 90);
CREATE INDEX "Events by order" ON "Shop"."Events" ("Order") WHERE status <> 'gone';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := NEW.note || ''!''; RETURN NEW; END';
CREATE TRIGGER touched BEFORE UPDATE ON "Shop"."Events" FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE "Shop"."Events" ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON "Shop"."Events" FOR SELECT USING ("Order" > 0);
CREATE VIEW "Shop".open AS SELECT id, "At" FROM "Shop"."Events" WHERE status = 'new';
GRANT SELECT ON "Shop"."Events" TO PUBLIC; GRANT SELECT ON "Shop".open TO PUBLIC;
INSERT INTO "Shop"."Events" ("At", status, "Order", note)
SELECT timestamptz '2023-12-30 20:00+00' + n * interval '6 hours', CASE n % 3 WHEN 0 THEN 'new' WHEN 1 THEN 'paid' ELSE 'sent' END, n, 'n' || n
FROM generate_series(1, 1000) n;
"""
MONTHS = {"range": "At", "every": "1 month", "from": "2024-01-01", "ahead": 2}
#: By what, and with which key; each has rows in several partitions.
WAYS: dict[str, dict[str, Any]] = {
    "months": {"partition_by": MONTHS, "primary_key": ["id", "At"]},
    "ids": {"partition_by": {"range": "id", "every": 200, "from": 1}},
    "list": {"partition_by": {"list": "status", "values": {"open": ["new", "paid"]}}, "primary_key": ["id", "status"]},
    "hash": {"partition_by": {"hash": "id", "partitions": 3}},
}
TABLE = '"Shop"."Events"'


def rebuild(*, approve: tuple[str, ...] = (), **keys: Any) -> str:
    operation = {"table": "Shop.Events", **keys}
    return json.dumps(
        {"name": "cut", "operations": [{"rebuild": operation}], "settings": {"approve": approve, "lanes": 2}}
    )


@pytest.fixture(autouse=True)
def events(engine: Engine) -> None:
    engine.execute(EVENTS)


def rows(engine: Engine) -> list[dict[str, Any]]:
    return engine.execute(f'SELECT id, "At", status, "Order", note FROM {TABLE} ORDER BY id')


def write(engine: Engine) -> None:
    """What an application does: new rows, changed ones, ones that move to another partition, and ones that go."""
    engine.execute(
        f"""
        INSERT INTO {TABLE} ("At", status, "Order", note) VALUES ('2024-02-03', 'new', 7, 'written'), ('2031-01-01', 'odd', 8, 'far');
        UPDATE {TABLE} SET note = 'changed' WHERE id % 97 = 3;
        UPDATE {TABLE} SET "At" = "At" + interval '2 months', status = 'sent' WHERE id % 89 = 5;
        DELETE FROM {TABLE} WHERE id % 101 = 7;
        """
    )


@pytest.mark.parametrize("way", WAYS)
def test_there_and_back_while_it_is_written(engine: Engine, way: str) -> None:
    before = fingerprint(engine.connection)
    run = engine.enqueue(rebuild(approve=("switch", "contract"), **WAYS[way]))
    engine.drive(run, until=lambda run: run.phase is Phase.BACKFILL)
    write(engine)
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY)
    write(engine)
    expect(engine.drive(run), State.WAITING)
    write(engine)
    there = rows(engine)
    commands.approve(engine.connection, run, "switch", actor="ann")
    expect(engine.drive(run), State.WAITING)
    assert engine.value(f"SELECT relkind::text FROM pg_class WHERE oid = '{TABLE}'::regclass") == "p"
    assert rows(engine) == there
    assert engine.value(f"SELECT count(DISTINCT tableoid) FROM {TABLE}") > 1
    assert engine.value('SELECT count(*) FROM "Shop".open') == sum(one["status"] == "new" for one in there)
    write(engine)
    there = rows(engine)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert rows(engine) == there
    assert {one for one in fingerprint(engine.connection, positions=False) if "last_value" not in one} == {
        one for one in before if not one.startswith("position") and "last_value" not in one
    }


def test_to_the_end_and_back_after_it(engine: Engine) -> None:
    run = engine.enqueue(rebuild(**WAYS["months"]))
    expect(engine.drive(run), State.COMPLETED)
    write(engine)
    there = rows(engine)
    parts = {
        one["name"]
        for one in engine.execute("SELECT relname::text AS name FROM pg_class WHERE relispartition AND relkind = 'r'")
    }
    assert {"Events_2024_01", "Events_2024_09", "Events_default"} <= parts
    default = engine.value('SELECT count(*) FROM ONLY "Shop"."Events_default"')
    assert default == sum(not "2024-01" <= one["At"].isoformat() < "2031" for one in there) > 1
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert rows(engine) == there
    assert engine.value("SELECT count(*) FROM pg_class WHERE relispartition") == 0


def test_nobody_comes_to_a_partition_but_by_its_table(engine: Engine) -> None:
    engine.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")
    run = engine.enqueue(rebuild(**WAYS["list"]))
    expect(engine.drive(run), State.COMPLETED)
    found = engine.execute(
        "SELECT relname, relrowsecurity AS secured, reloptions AS options, "
        "EXISTS (SELECT FROM aclexplode(relacl) x WHERE x.grantee <> relowner) AS granted "
        "FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY 1"
    )
    assert [(one["relname"], one["secured"], one["options"], one["granted"]) for one in found] == [
        ("Events_default", True, ["fillfactor=90"], False),
        ("Events_open", True, ["fillfactor=90"], False),
    ]


@pytest.mark.parametrize(
    ("change", "keys", "message"),
    [
        ("", {"partition_by": MONTHS}, r"primary_key: \[id, At\]"),
        ("", {"partition_by": MONTHS, "primary_key": ["At", "id"]}, "Begin primary_key with id"),
        (f'ALTER TABLE {TABLE} ALTER "At" DROP NOT NULL', WAYS["months"], "set_not_null"),
        (f'ALTER TABLE {TABLE} ADD UNIQUE ("Order")', WAYS["months"], "unique without At"),
        (
            f"CREATE TABLE items (event bigint REFERENCES {TABLE})",
            WAYS["months"],
            "items_event_fkey of items refers to id",
        ),
        ('CREATE TABLE "Shop"."Events_2024_02" (id integer)', WAYS["months"], "Events_2024_02"),
        (f"CREATE PUBLICATION p FOR TABLE {TABLE}", WAYS["months"], "publication p"),
        ("", {"partition_by": {"range": "At", "every": 7, "from": 1}, "primary_key": ["id", "At"]}, "no range"),
        ("", {"partition_by": {"range": "id", "every": 1, "from": -9000}}, "more than 1,000"),
        ("", {"partition_by": {"hash": "nope"}}, "nope"),
    ],
)
def test_what_is_refused(engine: Engine, change: str, keys: dict[str, Any], message: str) -> None:
    if change:
        engine.execute(change)
    with pytest.raises(Refused, match=message):
        engine.enqueue(rebuild(**keys))
