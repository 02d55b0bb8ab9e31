"""The next partitions of a table that a run has cut by ranges are made until a person ends it; no row is lost, no statement waits long."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from fix_runs import expect

from backfilld.migrations.errors import UsageError
from backfilld.migrations.record import partitions as record
from backfilld.migrations.record.states import State
from backfilld.monitoring import families
from backfilld.producers import commands
from backfilld.worker.side_tasks import partitions

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.record.partitions import PartitionedTable

TABLE = '"Shop"."Events"'
SCHEMA = f"""
CREATE SCHEMA "Shop"; CREATE TABLE customers (id bigint PRIMARY KEY); INSERT INTO customers VALUES (1);
CREATE TABLE {TABLE} ("Id" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text COLLATE "C" DEFAULT 'n',
    customer bigint NOT NULL REFERENCES customers ON DELETE CASCADE, twice bigint GENERATED ALWAYS AS (customer * 2) STORED, CHECK (note <> 'x'))
    WITH (fillfactor = 80);
CREATE INDEX ON {TABLE} (customer); ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY;
INSERT INTO {TABLE} (customer) SELECT 1 FROM generate_series(1, 150);
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
"""
TEXT = json.dumps(
    {
        "name": "cut",
        "operations": [
            {"rebuild": {"table": "Shop.Events", "partition_by": {"range": "Id", "every": 100, "from": 1, "ahead": 2}}}
        ],
        "settings": {"approve": ["contract"]},
    }
)


@pytest.fixture
def run(engine: Engine) -> int:
    if engine.version < 17:
        pytest.skip("an identity of a partitioned table")
    engine.execute(SCHEMA)
    if engine.version < 18:
        engine.execute(f'ALTER TABLE {TABLE} DROP CONSTRAINT "Events_customer_fkey"')
    run = engine.enqueue(TEXT)
    expect(engine.drive(run), State.WAITING)
    return run


def there(engine: Engine) -> list[str]:
    rows = engine.execute(
        f"SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = '{TABLE}'::regclass ORDER BY 1"
    )
    return [row["name"].rpartition("_")[2].strip('"') for row in rows]


def look(engine: Engine) -> PartitionedTable:
    partitions.run_once(engine.connection)
    (found,) = record.listed(engine.connection)
    return found


def add(engine: Engine, rows: int) -> None:
    engine.execute(f"INSERT INTO {TABLE} (customer) SELECT 1 FROM generate_series(1, {rows})")


def as_made(engine: Engine, number: int) -> list[dict[str, Any]]:
    """What a partition is made of."""
    return engine.execute(
        "SELECT c.relrowsecurity, c.reloptions, c.relowner, c.relacl::text[] = ARRAY[]::text[] OR NOT EXISTS ("
        "SELECT FROM aclexplode(c.relacl) x WHERE x.grantee <> c.relowner) AS private, "
        "(SELECT array_agg(pg_get_constraintdef(k.oid) ORDER BY pg_get_constraintdef(k.oid)) FROM pg_constraint k WHERE k.conrelid = c.oid) AS rules, "
        "(SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid) AS indexes, "
        "(SELECT array_agg(a.attname || a.attcollation ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0) AS columns "
        f'FROM pg_class c WHERE c.oid = \'"Shop"."Events_{number}"\'::regclass'
    )


def test_the_next_partitions_are_made_as_rows_come_and_after_the_run_until_a_person_ends_it(
    engine: Engine, run: int
) -> None:
    assert there(engine) == ["0", "1", "2", "3", "default"]
    now = look(engine)
    assert (now.partitions_ahead, now.reaches, now.has_strays, now.problem) == (2, "401", False, None)
    add(engine, 100)  # the old table follows: no number is drawn for it
    assert look(engine).reaches == "501"
    assert as_made(engine, 4) == as_made(engine, 1)
    commands.approve(engine.connection, run, "contract", actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    add(engine, 100)
    assert look(engine).partitions_ahead == 2
    assert there(engine) == ["0", "1", "2", "3", "4", "5", "default"]
    engine.execute('DROP TABLE "Shop"."Events_0"')  # what is past does not come back
    assert look(engine).partitions_ahead == 2
    assert "0" not in there(engine)
    made = engine.execute("SELECT detail FROM backfilld.events WHERE what = 'partitions.made' ORDER BY event")
    assert [one["detail"]["partitions"] for one in made] == [["Events_4"], ["Events_5"]]
    commands.end_partitions(engine.connection, "Shop.Events", actor="ann")
    add(engine, 200)
    assert partitions.run_once(engine.connection) == 0
    with pytest.raises(UsageError, match="no worker makes partitions"):
        commands.end_partitions(engine.connection, "Shop.Events", actor="ann")


def test_rows_in_the_default_partition_are_told_and_stop_no_other_partition(engine: Engine, run: int) -> None:
    engine.execute(f'INSERT INTO {TABLE} ("Id", customer) OVERRIDING SYSTEM VALUE VALUES (450, 1)')
    now = look(engine)
    # 450 is the greatest now, and its own partition the one that is missing.
    assert (now.partitions_ahead, now.has_strays) == (0, True)
    assert now.problem is not None
    assert "Events_4 are in the default partition" in now.problem
    assert there(engine) == ["0", "1", "2", "3", "5", "6", "default"]
    values = {
        sample.name: sample.value
        for family in families._of_partitions([now])
        for sample in family.samples
        if sample.labels == {"table": TABLE}
    }
    assert values == {
        "backfilld_partitions_ahead": 0,
        "backfilld_default_partition_rows_found": 1,
    }
    engine.execute(f'DELETE FROM {TABLE} WHERE "Id" = 450')
    now = look(engine)
    assert (now.partitions_ahead, now.has_strays, now.problem) == (2, False, None)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert record.listed(engine.connection) == []
    assert engine.value("SELECT count(*) FROM pg_class WHERE relispartition") == 0


def test_nobody_who_works_with_the_table_is_in_the_way_but_who_reads_the_default_partition_for_long(
    engine: Engine, run: int
) -> None:
    """That one is waited for briefly, and told; a later look makes the partition."""
    add(engine, 100)
    with engine.connect() as application, application.transaction():
        application.execute(f"INSERT INTO {TABLE} (customer) VALUES (1)".encode())
        application.execute(f'SELECT count(*) FROM {TABLE} WHERE "Id" BETWEEN 101 AND 300'.encode())
        assert look(engine).reaches == "501"
    with engine.connect() as application, application.transaction():
        add(engine, 100)
        application.execute(f"SELECT count(*) FROM {TABLE}".encode())
        now = look(engine)
        assert (now.partitions_ahead, now.problem) == (
            1,
            "another session has a lock that Events_5 needs; it is tried again",
        )
    now = look(engine)
    assert (now.partitions_ahead, now.problem) == (2, None)
    assert engine.run(run).state is State.WAITING
