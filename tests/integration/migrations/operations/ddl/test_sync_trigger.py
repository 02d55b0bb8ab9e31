"""The two-way sync trigger, line by line of its table: which side wins, for every way to write a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.ddl.sync_function import Pair, RollbackConflicts, Side
from backfilld.migrations.operations.ddl.sync_trigger import SyncTrigger

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection

TABLE = TableName("public", "jobs")
TRIGGER = SyncTrigger(table=TABLE, name="sync_test_0")

OLD, NEW = Side(column="old", type="text"), Side(column="new", type="text")
OLD_X, NEW_X = Side(column="old", type="text", default="'x'"), Side(column="new", type="text", default="'x'")


def make_table(connection: Connection, columns: str) -> None:
    connection.execute(f"CREATE TABLE jobs (id bigint PRIMARY KEY, other text, {columns})".encode())


def synced(connection: Connection, pair: Pair, trigger: SyncTrigger = TRIGGER) -> None:
    for statement in trigger.created(pair.body()):
        connection.execute(statement.sql)


def row(connection: Connection, key: int = 1) -> tuple[Any, ...]:  # Any: values of whatever type the case is about
    found = connection.execute("SELECT old, new FROM jobs WHERE id = %s", [key]).fetchone()
    assert found is not None
    return tuple(found.values())


#: UPDATE of a row that holds a, a; and what both sides are then, with the old and with the new for primary.
UPDATES = {
    "the old": ("old = 'b'", "b", "b"),
    "the new": ("new = 'b'", "b", "b"),
    "the old, to NULL": ("old = NULL", None, None),
    "the new, to NULL": ("new = NULL", None, None),
    "both": ("old = 'b', new = 'c'", "b", "c"),
    "both, one to NULL": ("old = NULL, new = 'c'", None, "c"),
    "both, one to what it is": ("old = 'a', new = 'c'", "c", "c"),
    "neither": ("other = 'z'", "a", "a"),
    "both, to the same": ("old = 'd', new = 'd'", "d", "d"),
    "to and fro": ("old = new, new = old", "a", "a"),
}


@pytest.mark.parametrize("case", UPDATES)
@pytest.mark.parametrize("primary", ["old", "new"])
def test_update(connection: Connection, case: str, primary: str) -> None:
    make_table(connection, "old text, new text")
    synced(connection, pair_of(OLD, NEW, primary))
    connection.execute("INSERT INTO jobs (id, old) VALUES (1, 'a')")
    assert row(connection) == ("a", "a")
    change, by_old, by_new = UPDATES[case]
    connection.execute(f"UPDATE jobs SET {change} WHERE id = 1".encode())
    expected = by_old if primary == "old" else by_new
    assert row(connection) == (expected, expected)


#: INSERT of these columns; what both sides are then, with the old and with the new for primary.
INSERTS: dict[str, tuple[dict[str, str | None], str | None, str | None]] = {
    "neither": ({}, None, None),
    "the old": ({"old": "b"}, "b", "b"),
    "the new": ({"new": "b"}, "b", "b"),
    "both": ({"old": "b", "new": "c"}, "b", "c"),
    "the old, and NULL": ({"old": "b", "new": None}, "b", "b"),
    "the new, and NULL": ({"old": None, "new": "c"}, "c", "c"),
    "NULL twice": ({"old": None, "new": None}, None, None),
}

#: The same where both sides have the DEFAULT 'x'.
INSERTS_WITH_DEFAULT: dict[str, tuple[dict[str, str | None], str | None, str | None]] = {
    **INSERTS,
    "neither": ({}, "x", "x"),
    "the old is the default": ({"old": "x"}, "x", "x"),
    "the old is NULL": ({"old": None}, None, None),
    "the new is NULL": ({"new": None}, None, None),
    "the old is the default, the new is not": ({"old": "x", "new": "c"}, "c", "c"),
    "the new is the default, the old is NULL": ({"old": None, "new": "x"}, None, None),
}


def pair_of(old: Side, new: Side, primary: str, *, settled: bool = False) -> Pair:
    first, second = (old, new) if primary == "old" else (new, old)
    return Pair(table=TABLE, primary=first, shadow=second, settled=settled)


def insert(connection: Connection, key: int, values: dict[str, str | None]) -> None:
    columns = sql.SQL(", ").join(map(sql.Identifier, ("id", *values)))
    connection.execute(
        sql.SQL("INSERT INTO jobs ({}) VALUES ({})").format(
            columns, sql.SQL(", ").join(map(sql.Literal, (key, *values.values())))
        )
    )


@pytest.mark.parametrize("primary", ["old", "new"])
@pytest.mark.parametrize("default", ["none", "constant"])
def test_insert(connection: Connection, primary: str, default: str) -> None:
    if default == "none":
        make_table(connection, "old text, new text")
        synced(connection, pair_of(OLD, NEW, primary))
    else:
        make_table(connection, "old text DEFAULT 'x', new text DEFAULT 'x'")
        synced(connection, pair_of(OLD_X, NEW_X, primary))
    cases = INSERTS if default == "none" else INSERTS_WITH_DEFAULT
    for number, (name, (values, by_old, by_new)) in enumerate(cases.items()):
        insert(connection, number, values)
        expected = by_old if primary == "old" else by_new
        assert row(connection, number) == (expected, expected), name
        assert connection.execute("SELECT 1 FROM jobs WHERE old IS DISTINCT FROM new").rowcount == 0


@pytest.mark.parametrize("primary", ["old", "new"])
def test_a_side_that_fills_itself_yields_to_whatever_the_other_holds(connection: Connection, primary: str) -> None:
    """A serial column: its value cannot be told from one that was given."""
    connection.execute("CREATE SEQUENCE s START 100")
    make_table(connection, "old bigint DEFAULT nextval('s'), new bigint")
    synced(
        connection,
        pair_of(Side(column="old", type="bigint", fills_itself=True), Side(column="new", type="bigint"), primary),
    )
    insert(connection, 1, {})
    insert(connection, 2, {"new": "7"})
    insert(connection, 3, {"old": "8"})
    insert(connection, 4, {"old": None})
    assert [row(connection, key) for key in (1, 2, 3, 4)] == [(100, 100), (7, 7), (8, 8), (None, None)]


@pytest.mark.parametrize("type_", ["json", "point", "numeric", "text[]", "pair"])
def test_another_spelling_is_a_change(connection: Connection, type_: str) -> None:
    """Types without an equality, and ones that take different values for the same."""
    connection.execute("CREATE TYPE pair AS (a text, b text)")
    before, after = {
        "json": ('{"a":1}', '{"a": 1}'),
        "point": ("(1,2)", "(1,3)"),
        "numeric": ("1.0", "1.00"),
        "text[]": ("{a,NULL}", "{a,b}"),
        "pair": ("(,)", "(a,)"),
    }[type_]
    make_table(connection, f"old {type_}, new {type_}")
    synced(connection, pair_of(Side(column="old", type=type_), Side(column="new", type=type_), "old"))
    for changed, other in (("old", "new"), ("new", "old")):
        connection.execute("DELETE FROM jobs")
        insert(connection, 1, {changed: before})
        query = f"SELECT {other}::text AS value FROM jobs".encode()
        assert connection.execute(query).fetchone() == {"value": before}
        connection.execute(f"UPDATE jobs SET {changed} = '{after}'".encode())
        assert connection.execute(query).fetchone() == {"value": after}
        connection.execute(f"UPDATE jobs SET {changed} = NULL".encode())
        assert connection.execute(query).fetchone() == {"value": None}


UP = Side(column="new", type="jsonb", expression="payload::jsonb", knows_other_as="payload")
DOWN = Side(column="old", type="text", expression="payload::text || other", knows_other_as="payload")


def test_a_conversion_reads_the_other_side_by_the_name_it_knows(connection: Connection) -> None:
    """And the rest of the row under its own names, whatever is added to the table meanwhile."""
    make_table(connection, "payload boolean, old text, new jsonb")
    synced(connection, pair_of(DOWN, UP, "old"))
    connection.execute("ALTER TABLE jobs DROP payload, ADD later text")
    insert(connection, 1, {"old": "[1]"})
    insert(connection, 2, {"new": "[2]", "other": "!"})
    assert [row(connection, key) for key in (1, 2)] == [("[1]", [1]), ("[2]!", [2])]


def test_until_the_switch_a_row_that_is_touched_agrees_and_what_cannot_be_computed_is_null(
    connection: Connection,
) -> None:
    make_table(connection, "old text, new jsonb")
    insert(connection, 1, {"old": "[1]"})
    insert(connection, 2, {"old": "[2"})
    synced(connection, pair_of(DOWN, UP, "old"))
    connection.execute("UPDATE jobs SET other = 'touched'")
    assert [row(connection, key) for key in (1, 2)] == [("[1]", [1]), ("[2", None)]
    connection.execute("UPDATE jobs SET old = '[1' WHERE id = 1")
    assert row(connection) == ("[1", None)


def test_once_settled_a_row_whose_sides_are_not_written_keeps_both(connection: Connection) -> None:
    """The old text is not replaced by what the conversion would make of the new."""
    make_table(connection, "old text, new jsonb")
    insert(connection, 1, {"old": "[  1]", "new": "[1]"})
    synced(connection, pair_of(DOWN, UP, "new", settled=True))
    connection.execute("UPDATE jobs SET other = ''")
    assert row(connection) == ("[  1]", [1])
    connection.execute("UPDATE jobs SET new = '[3]'")
    assert row(connection) == ("[3]", [3])
    connection.execute("UPDATE jobs SET old = '[4]'")
    assert row(connection) == ("[4]", [4])


def narrow(rollback_conflicts: RollbackConflicts | None) -> Pair:
    return Pair(
        table=TABLE,
        primary=Side(column="new", type="bigint", expression="old::bigint"),
        shadow=Side(column="old", type="integer", expression="new::integer"),
        settled=True,
        rollback_conflicts=rollback_conflicts,
    )


def test_a_value_that_does_not_fit_the_old_type_is_put_down_with_its_key_and_error(connection: Connection) -> None:
    """Under the run that has the migration's name now, once for each row, with what happened last."""
    for state in ("cancelled", "running"):
        connection.execute(
            "INSERT INTO backfilld.runs (name, checksum, definition, settings, facts, requested_by, state, ended_at) "
            "VALUES ('it''s', '', '{}', '{}', '[]', 'ann', %s, CASE WHEN %s = 'cancelled' THEN now() END)",
            [state, state],
        )
    make_table(connection, "old integer, new bigint")
    synced(connection, narrow(RollbackConflicts(migration="it's", operation=3, key=("id", "other"))))
    insert(connection, 1, {"new": "3000000000", "other": "k"})
    assert row(connection) == (None, 3_000_000_000)
    for _ in range(2):
        connection.execute("UPDATE jobs SET new = new + 1")
    found = connection.execute(
        "SELECT m.operation, m.key, m.sqlstate, m.error, r.state FROM backfilld.rollback_conflicts m JOIN backfilld.runs r USING (run)"
    ).fetchall()
    assert found == [
        {"operation": 3, "key": ["1", "k"], "sqlstate": "22003", "error": "integer out of range", "state": "running"}
    ]


def test_what_cannot_be_put_down_is_no_error_of_the_applications(connection: Connection) -> None:
    make_table(connection, "old integer, new bigint")
    synced(connection, narrow(RollbackConflicts(migration="none", operation=0, key=("id", "gone"))))
    insert(connection, 1, {"new": "3000000000"})
    assert row(connection) == (None, 3_000_000_000)


def test_an_primary_that_cannot_be_computed_keeps_what_it_has(connection: Connection) -> None:
    make_table(connection, "old text, new jsonb NOT NULL")
    pair = Pair(
        table=TABLE,
        primary=Side(column="new", type="jsonb", expression="old::jsonb"),
        shadow=Side(column="old", type="text", expression="new::text"),
    )
    synced(connection, pair)
    insert(connection, 1, {"old": "[1]"})
    connection.execute("UPDATE jobs SET old = 'no json'")
    assert row(connection) == ("no json", [1])


def test_silenced_and_dropped_it_does_nothing(connection: Connection) -> None:
    make_table(connection, "old text, new text")
    synced(connection, pair_of(OLD, NEW, "old"))
    connection.execute(TRIGGER.silenced.sql)
    insert(connection, 1, {"old": "a"})
    assert row(connection) == ("a", None)
    connection.execute(TRIGGER.drop.sql)
    connection.execute(TRIGGER.drop_function.sql)
    left = connection.execute(
        "SELECT FROM pg_proc WHERE pronamespace = 'backfilld'::regnamespace AND proname LIKE 'sync%'"
    )
    assert left.rowcount == 0


def test_odd_names(connection: Connection) -> None:
    """Quotes, percent signs, 63 bytes; and a table and columns that are called as the function's own variables are."""
    long = "%s" + "é" * 30 + "x"
    for table, old, new in (('a"b.%s', 'x"%', long), ("new", "backward", "old"), ("Order", "NEW", "select")):
        name = TableName("public", table)
        relation, one, other = name.identifier, sql.Identifier(old), sql.Identifier(new)
        connection.execute(sql.SQL("CREATE TABLE {} (id int, {} int, {} text)").format(relation, one, other))
        pair = Pair(
            table=name,
            primary=Side(column=old, type="integer", expression=sql.SQL("{}::int").format(other).as_string()),
            shadow=Side(column=new, type="text", expression=sql.SQL("v::text || '%s'").as_string(), knows_other_as="v"),
        )
        synced(connection, pair, SyncTrigger(table=name, name="sync_odd_0"))
        connection.execute(sql.SQL("INSERT INTO {} (id, {}) VALUES (1, 5)").format(relation, one))
        connection.execute(sql.SQL("INSERT INTO {} (id, {}) VALUES (2, '6')").format(relation, other))
        found = connection.execute(sql.SQL("SELECT {}, {} FROM {} ORDER BY id").format(one, other, relation)).fetchall()
        assert [tuple(one.values()) for one in found] == [(5, "5%s"), (6, "6")]
        connection.execute(sql.SQL("DROP TABLE {}").format(relation))
        connection.execute(SyncTrigger(table=name, name="sync_odd_0").drop_function.sql)


def test_a_later_trigger_of_a_partition_is_found_too(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE jobs (id int, old text, new text) PARTITION BY LIST (id);"
        "CREATE TABLE jobs_1 PARTITION OF jobs FOR VALUES IN (1);"
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;"
        "CREATE TRIGGER zzz BEFORE UPDATE ON jobs_1 FOR EACH ROW EXECUTE FUNCTION late()"
    )
    synced(connection, pair_of(OLD, NEW, "old"))
    assert connection.execute(TRIGGER.fires_last.sql).fetchall() == []
    connection.execute('ALTER TRIGGER zzz ON jobs_1 RENAME TO "~~"')
    assert connection.execute(TRIGGER.fires_last.sql).fetchall() == [{"tgname": "~~"}]


def test_the_function_is_ours_alone_and_its_path_is_fixed(connection: Connection) -> None:
    """It runs as the daemon's role: nobody else may make a trigger of it."""
    make_table(connection, "old text, new text")
    synced(connection, pair_of(OLD, NEW, "old"))
    ((owner, settings, public),) = (
        tuple(row.values())
        for row in connection.execute(
            "SELECT pg_get_userbyid(proowner) = current_user AS owner, proconfig, "
            "has_function_privilege('public', oid, 'EXECUTE') AS public FROM pg_proc WHERE proname = 'sync_test_0'"
        )
    )
    assert owner
    assert 'search_path=""' in settings
    assert not public


@pytest.mark.parametrize("change", ["RENAME new TO other_name", "RENAME old TO other_name", "DROP new", "DROP old"])
def test_a_column_that_vanishes_fails_no_statement(connection: Connection, change: str) -> None:
    """Another tool has taken one of the two away: statements go through, and what is left keeps what it has."""
    make_table(connection, "old text, new text")
    synced(connection, Pair(table=TABLE, primary=OLD, shadow=NEW))
    connection.execute("INSERT INTO jobs (id, old) VALUES (1, 'a')")
    connection.execute("UPDATE jobs SET other = 'z'")  # plans of the function are made by now
    connection.execute(f"ALTER TABLE jobs {change}".encode())
    connection.execute("UPDATE jobs SET other = 'y'")
    connection.execute("INSERT INTO jobs (id, other) VALUES (2, 'y')")
    found = connection.execute("SELECT * FROM jobs WHERE id = 1").fetchone() or {}
    assert {name: value for name, value in found.items() if name not in {"id", "other"}} in (
        {"old": "a", "other_name": "a"},
        {"other_name": "a", "new": "a"},
        {"old": "a"},
        {"new": "a"},
    )
