"""The sync trigger of a column that is added, line by line of its table: whose value is kept, for every way to write a row."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.ddl.column_function import Computed
from backfilld.migrations.operations.ddl.sync_trigger import SyncTrigger

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection

TABLE = TableName("public", "jobs")
TRIGGER = SyncTrigger(table=TABLE, name="sync_test_000")

FILLED = Computed(
    table=TABLE,
    column="shout",
    type="text",
    expression="upper(status)",
    migration="shout",
    operation=0,
    key=("id",),
    reads=("status",),
)
DERIVED = replace(FILLED, derived=True)


def make(connection: Connection, computed: Computed, *, type_: str = "text", default: str = "") -> None:
    connection.execute(
        f"CREATE TABLE jobs (id bigint PRIMARY KEY, status text, n int, shout {type_} {default})".encode()
    )
    for statement in TRIGGER.created(computed.body()):
        connection.execute(statement.sql)
    connection.execute(
        "INSERT INTO backfilld.runs (name, checksum, definition, settings, facts, requested_by) "
        "VALUES ('shout', '', '{}', '{}', '[]', 'test')"
    )


def shout(connection: Connection, key: int = 1) -> Any:  # Any: of whatever type the case is about
    row = connection.execute("SELECT shout FROM jobs WHERE id = %s", [key]).fetchone()
    assert row is not None
    return row["shout"]


def put_down(connection: Connection) -> list[tuple[Any, ...]]:  # Any: JSON
    rows = connection.execute("SELECT key, sqlstate, kept FROM backfilld.quarantine ORDER BY quarantine").fetchall()
    return [tuple(row.values()) for row in rows]


#: INSERT of these columns; what the column then holds where it is filled, and where it is derived.
INSERTS = {
    "nothing given": ("(id, status) VALUES (1, 'a')", "A", "A"),
    "a value": ("(id, status, shout) VALUES (1, 'a', 'own')", "own", "A"),
    "NULL": ("(id, status, shout) VALUES (1, 'a', NULL)", "A", "A"),
    "nothing to compute from": ("(id) VALUES (1)", None, None),
}


@pytest.mark.parametrize("case", INSERTS)
def test_insert(connection: Connection, case: str) -> None:
    values, filled, derived = INSERTS[case]
    for computed, expected in ((FILLED, filled), (DERIVED, derived)):
        with connection.transaction(force_rollback=True):
            make(connection, computed)
            connection.execute(f"INSERT INTO jobs {values}".encode())
            assert shout(connection) == expected


#: What the row holds, an UPDATE of it; and what it holds then where it is filled, and where it is derived.
UPDATES = {
    "computed, another source": (None, "status = 'b'", "B", "B"),
    "computed, another column": (None, "n = 1", "A", "A"),
    "computed, a value given": (None, "shout = 'own'", "own", "A"),
    "computed, to NULL": (None, "shout = NULL", "A", "A"),
    "computed, both": (None, "shout = 'own', status = 'b'", "own", "B"),
    "computed, source to NULL": (None, "status = NULL", None, None),
    "own, another source": ("own", "status = 'b'", "own", "B"),
    "own, another column": ("own", "n = 1", "own", "A"),
    "own, to NULL": ("own", "shout = NULL", "A", "A"),
    "own, another": ("own", "shout = 'mine'", "mine", "A"),
    "own, to what it would be": ("own", "shout = 'A'", "A", "A"),
}


@pytest.mark.parametrize("case", UPDATES)
def test_update(connection: Connection, case: str) -> None:
    held, change, filled, derived = UPDATES[case]
    for computed, expected in ((FILLED, filled), (DERIVED, derived)):
        with connection.transaction(force_rollback=True):
            make(connection, computed)
            connection.execute("INSERT INTO jobs (id, status, shout) VALUES (1, 'a', %s)", [held])
            connection.execute(f"UPDATE jobs SET {change} WHERE id = 1".encode())
            assert shout(connection) == expected


def test_what_cannot_be_repeated_fills_what_is_null(connection: Connection) -> None:
    make(
        connection,
        replace(FILLED, expression="gen_random_uuid()", reads=(), type="uuid", repeatable=False),
        type_="uuid",
    )
    connection.execute("INSERT INTO jobs (id) VALUES (1)")
    before = shout(connection)
    assert before is not None
    connection.execute("UPDATE jobs SET status = 'b', n = 2")
    assert shout(connection) == before


def test_a_default_is_no_value_that_was_given(connection: Connection) -> None:
    make(connection, replace(FILLED, default="'new'"), default="DEFAULT 'new'")
    connection.execute("INSERT INTO jobs (id, status) VALUES (1, 'a')")
    connection.execute("INSERT INTO jobs (id, status, shout) VALUES (2, 'a', 'new'), (3, 'a', 'own')")
    assert [shout(connection, key) for key in (1, 2, 3)] == ["A", "A", "own"]


def test_the_value_is_compared_as_the_column_holds_it(connection: Connection) -> None:
    """A numeric(6, 2) does not hold 1.005: the row still holds what the expression gave."""
    computed = replace(FILLED, expression="status::numeric * 1.005", type="numeric(6,2)")
    make(connection, computed, type_="numeric(6,2)")
    connection.execute("INSERT INTO jobs (id, status) VALUES (1, '1')")
    connection.execute("UPDATE jobs SET status = '2'")
    assert str(shout(connection)) == "2.01"


NUMBER = replace(FILLED, expression="status::integer", type="integer")


def test_what_cannot_be_computed_keeps_what_the_row_has(connection: Connection) -> None:
    for computed, kept in ((NUMBER, "5"), (replace(NUMBER, derived=True), "5")):
        with connection.transaction(force_rollback=True):
            make(connection, computed, type_="integer")
            connection.execute("INSERT INTO jobs (id, status) VALUES (1, '5')")
            connection.execute("UPDATE jobs SET status = 'x'")
            connection.execute("UPDATE jobs SET n = 1")
            assert shout(connection) == 5
            assert put_down(connection) == [(["1"], "22P02", kept)]
            connection.execute("INSERT INTO jobs (id, status) VALUES (2, 'y')")
            assert shout(connection, 2) is None
            assert put_down(connection)[1:] == [(["2"], "22P02", None)]


@pytest.mark.parametrize("computed", [FILLED, DERIVED], ids=["filled", "derived"])
@pytest.mark.parametrize(
    "change",
    [
        "RENAME status TO state",
        "DROP COLUMN status",
        "RENAME shout TO loud",
        "DROP COLUMN shout",
        "RENAME id TO number",
        "ALTER status TYPE integer USING n",
    ],
)
def test_a_column_that_vanishes_fails_no_statement_and_destroys_no_value(
    connection: Connection, computed: Computed, change: str
) -> None:
    make(connection, computed)
    connection.execute("INSERT INTO jobs (id, status) VALUES (1, 'a'), (2, 'b')")
    connection.execute(f"ALTER TABLE jobs {change}".encode())
    connection.execute("UPDATE jobs SET n = 1")
    connection.execute("INSERT INTO jobs VALUES (3)")
    names = {
        row["attname"]
        for row in connection.execute("SELECT attname FROM pg_attribute WHERE attrelid = 'jobs'::regclass")
    }
    column = next((name for name in ("shout", "loud") if name in names), None)
    if column is not None:
        key = "number" if "number" in names else "id"
        rows = connection.execute(f"SELECT {column} AS held FROM jobs WHERE {key} < 3 ORDER BY 1".encode()).fetchall()
        assert [row["held"] for row in rows] == ["A", "B"]


def test_an_insert_that_leaves_the_column_out_is_put_down_once_a_second(connection: Connection) -> None:
    make(connection, replace(FILLED, counts_omitted=True))
    connection.execute("INSERT INTO jobs (id, status, shout) VALUES (1, 'a', 'own')")
    assert connection.execute("SELECT FROM backfilld.omitted_inserts").rowcount == 0
    connection.execute("INSERT INTO jobs (id, status) SELECT n, 'a' FROM generate_series(2, 50) n")
    assert connection.execute("SELECT FROM backfilld.omitted_inserts").rowcount == 1
