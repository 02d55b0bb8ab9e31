"""Every kind of key a table may be walked by, and every name it may have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_runs import expect
from psycopg import sql

from backfilld.migrations.record.states import State
from backfilld.migrations.telemetry import BatchCommitted
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

AWKWARD_TEXTS = r"""
    (ARRAY['it''s', '100%', '%s', '%(run)s', 'back\slash', '"quoted"', '', ' ', '  ', 'a', 'A', 'ä', 'Ä', 'z', 'Z', 'ß', 'ss',
           'łódź', '日本', '😀', E'new\nline', E'tab\t', '{}', '$1', '--', '/*', ';', 'NULL', 'null', '\x00', U&'\00E9',
           U&'e\0301', 'a b', 'a-b', 'ab', 'a_b', 'AB', 'aB', 'Ab'])
"""


@dataclass(frozen=True)
class Keyed:
    """A table by the definition of its key columns and a query that gives its keys."""

    columns: str
    key: str
    rows: str
    #: Statements that must come first; a feature the server was built without skips the case.
    before: str = ""
    #: What stands for the primary key.
    constraint: str = "PRIMARY KEY ({key})"


def texts(type_: str) -> Keyed:
    return Keyed(f"k {type_}", "k", f"SELECT unnest{AWKWARD_TEXTS}")


CASES = {
    "integer": Keyed("k integer", "k", "SELECT n * 7 - 300 FROM generate_series(1, 43) n"),
    "bigint with gaps": Keyed("k bigint", "k", "SELECT (n - 40) * 1000000000000000::bigint FROM generate_series(1, 43) n"),
    "bigint at its ends": Keyed("k bigint", "k", "VALUES (-9223372036854775808), (-1), (0), (1), (9223372036854775807)"),
    "smallint": Keyed("k smallint", "k", "SELECT n FROM generate_series(-20, 20) n"),
    "uuid": Keyed("k uuid", "k", "SELECT md5(n::text)::uuid FROM generate_series(1, 43) n"),
    "text": texts("text"),
    'text in "C"': texts('text COLLATE "C"'),
    "text in ICU": texts('text COLLATE "und-x-icu"'),
    "text in German": texts('text COLLATE "de-x-icu"'),
    "text without order of its own": Keyed(
        "k text COLLATE odd",
        "k",
        "VALUES ('a'), ('B'), ('ß'), ('c'), ('100%'), ('d')",
        before="CREATE COLLATION odd (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    ),
    "varchar": texts("varchar(20)"),
    "char": Keyed("k char(5)", "k", "VALUES ('a'), ('a b'), ('ab'), ('abcde'), (''), (' b'), ('%s'), ('''')"),
    "timestamptz": Keyed(
        "k timestamptz",
        "k",
        "SELECT timestamptz '2024-03-31 00:59:59.999990+00' + n * interval '1 microsecond' FROM generate_series(1, 40) n "
        "UNION ALL VALUES (timestamptz 'infinity'), ('-infinity'), ('4713-01-01 00:00:00+00 BC'), ('294276-12-31 23:59:59.999999+00')",
    ),
    "timestamp": Keyed(
        "k timestamp", "k", "SELECT timestamp '2024-10-27 01:59:59' + n * interval '13 minutes' FROM generate_series(1, 40) n"
    ),
    "date": Keyed(
        "k date", "k", "SELECT date '2024-02-01' + n FROM generate_series(1, 40) n UNION ALL VALUES (date 'infinity'), ('-infinity')"
    ),
    "time": Keyed("k time", "k", "VALUES (time '00:00'), ('23:59:59.999999'), ('24:00'), ('12:30')"),
    "interval": Keyed("k interval", "k", "SELECT n * interval '1 day 3 hours' FROM generate_series(-20, 20) n"),
    "numeric": Keyed(
        "k numeric",
        "k",
        "SELECT n / 7.0 FROM generate_series(-20, 20) n UNION ALL VALUES ('NaN'), ('Infinity'), ('-Infinity'), (1e100), (1e-100)",
    ),
    "numeric with a scale": Keyed("k numeric(6,2)", "k", "SELECT n / 100.0 FROM generate_series(-20, 20) n"),
    "double precision": Keyed(
        "k double precision",
        "k",
        "SELECT n / 3.0::float8 FROM generate_series(-20, 20) n UNION ALL VALUES ('NaN'), ('Infinity'), ('-Infinity'), (5e-324)",
    ),
    "bytea": Keyed("k bytea", "k", "SELECT decode(md5(n::text), 'hex') FROM generate_series(1, 40) n UNION VALUES (''::bytea)"),
    "boolean": Keyed("k boolean", "k", "VALUES (true), (false)"),
    "inet": Keyed("k inet", "k", "SELECT '10.0.0.0'::inet + n FROM generate_series(1, 40) n UNION VALUES ('::1'::inet)"),
    "enum": Keyed(
        "k mood", "k", "VALUES ('so so'::mood), ('it''s'), ('100%'), ('A')",
        before="CREATE TYPE mood AS ENUM ('so so', 'it''s', '100%', 'A')",
    ),
    "enum of an odd name": Keyed(
        'k "odd; ""100%s"" Type"', "k", "VALUES ('b'::\"odd; \"\"100%s\"\" Type\"), ('a')",
        before='CREATE TYPE "odd; ""100%s"" Type" AS ENUM (\'b\', \'a\')',
    ),
    "domain": Keyed(
        "k positive", "k", "SELECT n FROM generate_series(1, 50) n",
        before="CREATE DOMAIN positive AS integer CHECK (VALUE > 0)",
    ),
    "composite": Keyed(
        "a text, b integer, c uuid",
        "a, b, c",
        f"SELECT t, n, md5(n::text)::uuid FROM unnest{AWKWARD_TEXTS} t, generate_series(0, 1) n",
    ),
    "composite in another order": Keyed(
        "a integer, b integer", "b, a", "SELECT n % 7, n / 7 FROM generate_series(1, 80) n"
    ),
    "unique, not primary": Keyed(
        "k integer NOT NULL, other integer DEFAULT 1",
        "k",
        "SELECT n FROM generate_series(1, 40) n",
        constraint="CONSTRAINT odd UNIQUE ({key})",
    ),
    "with included columns": Keyed(
        "k integer, other integer DEFAULT 1",
        "k",
        "SELECT n FROM generate_series(1, 40) n",
        constraint="PRIMARY KEY ({key}) INCLUDE (other)",
    ),
}  # fmt: skip


def enqueue(engine: Engine, table: str, *, key: str = "k") -> int:
    """In every row `seen` must become its key, and `visits` one more."""
    return engine.enqueue(
        f"""
        name: visit
        operations:
          - backfill: {{table: {table}, set: {{visits: "visits + 1"}}}}
          - add_column: {{table: {table}, column: {{name: seen, type: text}}, backfill: 'ROW({key})::text', not_null: true}}
        settings: {{lanes: 4, walk: keys, approve: []}}
        """
    )


def assert_all_right(engine: Engine, run: int, table: str, key: str) -> None:
    expect(engine.run(run), State.COMPLETED)
    rows = engine.value(f"SELECT count(*) FROM {table}")
    assert engine.value(f"SELECT count(*) FROM {table} WHERE visits <> 1") == 0
    with engine.connection.transaction():
        engine.execute("SET LOCAL TimeZone = 'UTC'")
        assert engine.value(f"SELECT count(*) FROM {table} WHERE seen IS DISTINCT FROM ROW({key})::text") == 0
    for operation in (0, 1):
        lanes = [lane for lane in engine.lanes(run, "backfill") if lane.operation == operation]
        assert sum(lane.rows_walked for lane in lanes) == rows
    assert sum(lane.rows_walked for lane in engine.lanes(run, "verify")) == rows
    assert not engine.quarantined(run)


@pytest.mark.parametrize("case", CASES)
def test_a_walk_by_any_key_visits_every_row_once(engine: Engine, case: str) -> None:
    keyed = CASES[case]
    try:
        engine.execute(keyed.before or "SELECT")
        engine.execute(
            f"CREATE TABLE t ({keyed.columns}, visits integer NOT NULL DEFAULT 0, {keyed.constraint.format(key=keyed.key)})"
        )
    except (psycopg.errors.UndefinedObject, psycopg.errors.FeatureNotSupported) as exc:
        pytest.skip(f"this server has no {exc.diag.message_primary}")
    engine.execute(f"INSERT INTO t ({keyed.key}) {keyed.rows}")
    rows = engine.value("SELECT count(*) FROM t")
    run = enqueue(engine, "t", key=keyed.key)
    engine.drive(run, batch_rows=6)
    assert_all_right(engine, run, "t", keyed.key)
    batches = [event for event in engine.told(BatchCommitted) if event.kind == "backfill"]
    assert max(batch.rows_walked for batch in batches) <= 6
    assert len(batches) >= rows // 6


@pytest.mark.parametrize("case", ["text", "composite", "enum of an odd name", "timestamptz", "bytea", "numeric"])
def test_a_quarantined_row_is_known_by_its_key(engine: Engine, case: str) -> None:
    """Set aside, recognised by verify as set aside, and found again for the retry: each by the key as text."""
    keyed = CASES[case]
    engine.execute(keyed.before or "SELECT")
    engine.execute(
        f"CREATE TABLE t ({keyed.columns}, n integer DEFAULT 0, ok boolean DEFAULT false, {keyed.constraint.format(key=keyed.key)})"
    )
    engine.execute(f"INSERT INTO t ({keyed.key}) {keyed.rows}")
    engine.execute("ALTER TABLE t ADD CHECK (n = 0 OR ok)")
    rows = engine.value("SELECT count(*) FROM t")
    run = engine.enqueue(
        'name: q\noperations: [{backfill: {table: t, set: {n: "1"}}}]\nsettings: {max_quarantined: 1000, walk: keys}'
    )
    expect(engine.drive(run, batch_rows=30), State.PAUSED)
    assert len(engine.quarantined(run)) == rows

    engine.execute("UPDATE t SET ok = true")
    engine.execute("UPDATE backfilld.quarantine SET retry = true")
    commands.retry(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT count(*) FROM t WHERE n = 1") == rows


NAMES = [
    ("Odd Schema", "Order", "Select"),
    ("public", "Table", 'a""b'.replace('""', '"')),
    ("100%", "%s", "%s"),
    ("select", "from", "where"),
    ("public", "user", "order"),
    ("public", 'quo"te', "back\\slash"),
    ("public", "s", "s"),
    ("public", "q", "key"),
    ("public", "new", "new"),
    ("public", "old", "tg_op"),
    ("public", "лошадь", "ключ"),
    ("public", "x" * 63, "y" * 63),
    ("a.b", "c.d", "e.f"),
    ("public", "{}", "{0}"),
]


@pytest.mark.parametrize(("schema", "table", "column"), NAMES, ids=lambda name: name[:20])
def test_any_name(engine: Engine, schema: str, table: str, column: str) -> None:
    """Of a schema, a table, its key, the column that is written and the one that is added."""
    key, value, copy = column, f"2{column}"[:63], f"3{column}"[:63]
    name = sql.Identifier(schema, table)
    if schema != "public":
        engine.connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    engine.connection.execute(
        sql.SQL("CREATE TABLE {} ({} integer PRIMARY KEY, {} integer NOT NULL DEFAULT 0)").format(
            name, sql.Identifier(key), sql.Identifier(value)
        )
    )
    engine.connection.execute(sql.SQL("INSERT INTO {} SELECT generate_series(1, 40)").format(name))
    written = name.as_string()
    qualified, bare = sql.Identifier(table, value).as_string(), sql.Identifier(value).as_string()
    add = {"table": written, "column": {"name": copy, "type": "integer"}, "backfill": f"{bare} * 2", "not_null": True}
    operations = [
        {"backfill": {"table": written, "set": {value: f"{qualified} + 1"}, "where": f"{bare} = 0"}},
        {"add_column": add},
    ]
    # JSON is YAML.
    run = engine.enqueue(
        json.dumps({"name": "n", "operations": operations, "settings": {"lanes": 3, "approve": []}}, ensure_ascii=False)
    )
    expect(engine.drive(run, batch_rows=9), State.COMPLETED)
    query = sql.SQL("SELECT {} AS value, {} AS copy, count(*) AS rows FROM {} GROUP BY 1, 2")
    rows = engine.connection.execute(query.format(sql.Identifier(value), sql.Identifier(copy), name)).fetchall()
    assert rows == [{"value": 1, "copy": 2, "rows": 40}]


def test_a_partitioned_table_is_walked_whole(engine: Engine) -> None:
    engine.execute(
        """
        CREATE TABLE t (at date, id integer, visits integer NOT NULL DEFAULT 0, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE t_old PARTITION OF t FOR VALUES FROM ('2020-01-01') TO ('2024-01-01') PARTITION BY HASH (id);
        CREATE TABLE t_old_1 PARTITION OF t_old FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE t_old_2 PARTITION OF t_old FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE TABLE t_new PARTITION OF t FOR VALUES FROM ('2024-01-01') TO ('2030-01-01');
        CREATE TABLE t_empty PARTITION OF t DEFAULT;
        INSERT INTO t SELECT date '2022-12-01' + n * 20, n FROM generate_series(1, 70) n
        """
    )
    run = enqueue(engine, "t", key="id, at")
    engine.drive(run, batch_rows=6)
    assert_all_right(engine, run, "t", "id, at")


def test_one_partition_by_itself(engine: Engine) -> None:
    engine.execute(
        """
        CREATE TABLE t (id integer PRIMARY KEY, n integer NOT NULL DEFAULT 0) PARTITION BY RANGE (id);
        CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (1) TO (50);
        CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (50) TO (100);
        INSERT INTO t SELECT generate_series(1, 99)
        """
    )
    run = engine.enqueue('name: one\noperations: [{backfill: {table: t_1, set: {n: "n + 1"}}}]')
    expect(engine.drive(run, batch_rows=10), State.COMPLETED)
    assert engine.execute("SELECT n, count(*) AS rows FROM t GROUP BY n ORDER BY n") == [
        {"n": 0, "rows": 50},
        {"n": 1, "rows": 49},
    ]
