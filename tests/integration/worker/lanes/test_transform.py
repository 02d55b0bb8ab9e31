"""Rows changed by a Python function: read, handed over, checked, and written in the batch's own transaction."""

from __future__ import annotations

import importlib
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from fix_daemon import until
from fix_runs import expect
from fix_stops import STOPS

from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.telemetry import BatchRetried, CommitUnknown, RowQuarantined
from backfilld.migrations.walks.sizing import FIRST_ROWS_OF_FUNCTION
from backfilld.producers import commands
from backfilld.worker.lanes import claim, function
from backfilld.worker.lanes.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fix_runs import Engine

    from backfilld.migrations.record.model import Key, Run

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

    def module(self) -> Any:
        """The module as the worker will find it. Any: whatever the test wrote."""
        return importlib.import_module("backfills")

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


def test_rows_may_be_changed_in_place_and_left_out(engine: Engine, site: Site, users: None) -> None:
    """A function may hand back the very rows it got; those it leaves out are not written, and no row version is made."""
    site.write("""
def change(rows):
    kept = []
    for row in rows:
        if row["id"] % 2:
            row["digits"] = row["phone"].strip("+").replace(" ", "")
            kept.append(row)
    return reversed_(kept)

def reversed_(rows):
    return rows[::-1]
""")
    before = engine.value("SELECT array_agg(xmin::text ORDER BY id) FROM users WHERE id % 2 = 0")
    run = engine.enqueue(DIGITS % ("", 0))

    expect(site.drive(run), State.COMPLETED)

    assert right(engine) == ROWS // 2
    assert engine.value("SELECT count(*) FROM users WHERE digits IS NULL") == ROWS // 2
    after = engine.value("SELECT array_agg(xmin::text ORDER BY id) FROM users WHERE id % 2 = 0")
    assert before == after


def test_values_that_do_not_change_are_not_written(engine: Engine, site: Site, users: None) -> None:
    engine.execute("UPDATE users SET digits = '41' || id WHERE id <= 50")
    site.write(KEEP_DIGITS)
    run = engine.enqueue(DIGITS % ("", 0))

    expect(site.drive(run), State.COMPLETED)

    assert right(engine) == ROWS
    lanes = engine.lanes(run, "backfill")
    assert (sum(lane.rows_walked for lane in lanes), sum(lane.rows_changed for lane in lanes)) == (ROWS, ROWS - 50)


def test_the_function_is_handed_what_it_reads_and_the_key(engine: Engine, site: Site, users: None) -> None:
    site.write("""
def change(rows):
    return [{"id": row["id"], "digits": ",".join(sorted(row))} for row in rows]
""")
    run = engine.enqueue(DIGITS % ("", 0))
    expect(site.drive(run), State.COMPLETED)
    assert engine.execute("SELECT DISTINCT digits FROM users") == [{"digits": "id,phone"}]


def test_without_reads_it_is_handed_every_column(engine: Engine, site: Site, users: None) -> None:
    site.write("""
def change(rows):
    return [{**row, "digits": ",".join(row)} for row in rows]
""")
    run = engine.enqueue((DIGITS % ("", 0)).replace("reads: [phone], ", ""))
    expect(site.drive(run), State.COMPLETED)
    assert engine.execute("SELECT DISTINCT digits FROM users") == [{"digits": "id,phone,digits,other"}]


# --- Types

#: A type, a value as PostgreSQL writes it, and the Python class the function is to see.
TYPES = {
    "integer": ("-5", "int"),
    "bigint": ("9223372036854775807", "int"),
    "numeric": ("12345678901234567890.1234567890", "Decimal"),
    "numeric(12,2)": ("1.50", "Decimal"),
    "double precision": ("0.1", "float"),
    "boolean": ("true", "bool"),
    "text": ("a\"b'c\\d{},;%s é 😀\n\tNULL", "str"),
    "character varying(5)": ("abcde", "str"),
    "character(5)": ("ab   ", "str"),
    "bytea": ("\\x00ff5c27", "bytes"),
    "uuid": ("6f1c2b1e-0f0a-4b7e-9a53-3f0f2f6a1b11", "UUID"),
    "date": ("2024-02-29", "date"),
    "time": ("23:59:59.999999", "time"),
    "timestamp": ("2024-02-29 12:00:00.000001", "datetime"),
    "timestamptz": ("2024-02-29 12:00:00.000001+00", "datetime"),
    "interval": ("1 mon 2 days 03:04:05", "str"),
    "json": ('{"a": [1, null, "x"]}', "dict"),
    "jsonb": ('{"a": [1, null, "é"]}', "dict"),
    "integer[]": ("{1,NULL,3}", "list"),
    "text[]": ('{a,NULL,"b,c","","\\"q\\\\"}', "list"),
    "integer[][]": ("{{1,2},{3,4}}", "list"),
    "bytea[]": ('{"\\\\x00ff"}', "list"),
    "jsonb[]": ('{"{\\"a\\": 1}",NULL}', "list"),
    "numrange": ("[1.5,2)", "Range"),
    "tstzrange": ('["2024-01-01 00:00:00+00",)', "Range"),
    "int4multirange": ("{[1,3),[5,8)}", "Multirange"),
    "inet": ("192.168.0.1/24", "IPv4Interface"),
    "mood": ("so so", "str"),
    "mood[]": ('{"so so",sad}', "str"),
    "pair": ('(1,"b c")', "str"),
    "short": ("abc", "str"),
    "point": ("(1,2)", "str"),
    "tsvector": ("'a' 'b'", "str"),
}


def test_values_of_all_types_come_back_as_they_were(engine: Engine, site: Site) -> None:
    """One column a type, copied by the function from one row to its sibling column, with NULL beside it."""
    engine.execute("CREATE TYPE mood AS ENUM ('so so', 'sad'); CREATE TYPE pair AS (a integer, b text)")
    engine.execute("CREATE DOMAIN short AS varchar(3) CHECK (value <> 'xxx')")
    types = {
        type_.replace("mood", "public.mood").replace("pair", "public.pair"): shown for type_, shown in TYPES.items()
    }
    names = [f"c{number}" for number in range(len(types))]
    columns = ", ".join(f"{name} {type_}, {name}_copy {type_}" for name, type_ in zip(names, types, strict=True))
    engine.execute(f"CREATE TABLE kinds (id integer PRIMARY KEY, classes text, {columns})")
    values = [value for value, _ in types.values()]
    engine.execute(
        f"INSERT INTO kinds (id, {', '.join(names)}) SELECT 1, {', '.join(f'%s::text::{type_}' for type_ in types)}",
        *values,
    )
    engine.execute("INSERT INTO kinds (id) VALUES (2)")
    site.write(f"""
def change(rows):
    return [
        {{
            "id": row["id"],
            "classes": ",".join(type(row[name]).__name__ for name in {names}),
            **{{f"{{name}}_copy": row[name] for name in {names}}},
        }}
        for row in rows
    ]
""")
    writes = ", ".join(["classes", *(f"{name}_copy" for name in names)])
    run = engine.enqueue(
        f"name: kinds\noperations: [{{backfill: {{table: kinds, transform: 'backfills:change', writes: [{writes}]}}}}]\n"
        "settings: {max_quarantined: 0}"
    )

    expect(site.drive(run), State.COMPLETED)

    for name, (type_, (value, _)) in zip(names, types.items(), strict=True):
        (copied, empty) = engine.execute(
            f"SELECT {name}_copy::text AS it, {name}_copy::text IS NOT DISTINCT FROM {name}::text AS same FROM kinds ORDER BY id"
        )
        assert copied["same"], (type_, copied)
        assert copied["it"] == (value if type_ != "character(5)" else value.strip()), type_
        assert empty == {"it": None, "same": True}, type_
    assert engine.value("SELECT classes FROM kinds WHERE id = 1") == ",".join(shown for _, shown in types.values())


def test_a_value_too_long_is_not_cut(engine: Engine, site: Site) -> None:
    """A cast to varchar(3) would cut without a word; the row is set aside instead, for a domain and a column alike."""
    engine.execute("CREATE DOMAIN short AS varchar(3)")
    engine.execute(
        "CREATE TABLE users (id integer PRIMARY KEY, a varchar(3), b short, c char(3), d bit(3), phone text)"
    )
    engine.execute("INSERT INTO users (id) SELECT generate_series(1, 5)")
    site.write("""
def change(rows):
    long = {2: "a", 3: "b", 4: "c", 5: "d"}
    return [
        {"id": row["id"], **{name: ("1011" if long.get(row["id"]) == name else "101") for name in "abcd"}} for row in rows
    ]
""")
    run = engine.enqueue((DIGITS % ("", 100)).replace("[digits]", "[a, b, c, d]"))

    expect(site.drive(run), State.PAUSED)

    assert keys(engine, run) == {("2",): "22001", ("3",): "22001", ("4",): "22001", ("5",): "22026"}
    assert engine.execute("SELECT a, b, c, d::text FROM users WHERE id = 1") == [
        {"a": "101", "b": "101", "c": "101", "d": "101"}
    ]
    assert engine.value("SELECT count(*) FROM users WHERE a IS NULL") == 4


# --- Names and keys


def test_names_are_exact_and_quoted(engine: Engine, site: Site) -> None:
    engine.execute('CREATE SCHEMA "Odd Schema"')
    engine.execute(
        'CREATE TABLE "Odd Schema"."Order" ("The Id" bigint, "Order" text, "100% \'x\' ""q""" text, PRIMARY KEY ("The Id"))'
    )
    engine.execute('INSERT INTO "Odd Schema"."Order" SELECT n, n FROM generate_series(1, 20) n')
    site.write("""
def change(rows):
    return [{"The Id": row["The Id"], '100% \\'x\\' "q"': "n" + row["Order"]} for row in rows]
""")
    run = engine.enqueue('''
name: names
operations:
  - backfill:
      table: Odd Schema.Order
      transform: backfills:change
      reads: [Order]
      writes: ["100% 'x' \\"q\\""]
      where: |
        "100% 'x' ""q""" IS NULL AND "Order" <> '100%'
settings: {max_quarantined: 0}
''')

    expect(site.drive(run, batch_rows=7), State.COMPLETED)

    assert engine.lanes(run, "verify"), "the condition told that every row was done"
    assert engine.value('SELECT count(*) FROM "Odd Schema"."Order" WHERE "100% \'x\' ""q""" = \'n\' || "Order"') == 20


def test_a_key_of_several_columns_of_any_type(engine: Engine, site: Site) -> None:
    engine.execute(
        "CREATE TABLE users (a timestamptz, b text, c integer[], phone text, digits text, PRIMARY KEY (a, b, c))"
    )
    engine.execute(
        "INSERT INTO users SELECT '2024-01-01'::timestamptz + n / 10 * interval '1 us', 'it''s \"' || n % 3, ARRAY[n, NULL], '+41 ' || n "
        "FROM generate_series(1, 60) n"
    )
    site.write("""
def change(rows):
    return [{**row, "digits": "41%d" % row["c"][0]} for row in rows]
""")
    run = engine.enqueue(DIGITS % ("", 0))
    expect(site.drive(run, batch_rows=7), State.COMPLETED)
    assert engine.value("SELECT count(*) FROM users WHERE digits = '41' || c[1]") == 60


# --- What the function does wrong

#: The body of the function for the rows 17 and 44, with the SQLSTATE and words of the error.
FAULTS = {
    "raises": (
        "raise ValueError(f'no number: {row[\"phone\"]!r}')",
        "PY001",
        "ValueError: no number: '+41 17' (backfills, line 6, in change)",
    ),
    "ends the program": ("raise SystemExit(3)", "PY001", "SystemExit: 3"),
    "is interrupted": ("raise KeyboardInterrupt", "PY001", "KeyboardInterrupt"),
    "recurses": ("change(rows)", "PY001", "RecursionError"),
    "raises what cannot be stored": ("raise ValueError('a\\0b\\ud800\\nc')", "PY001", r"ValueError: a\0b\ud800 c"),
    "returns nothing": ("return None", "PY002", "returned a value of class NoneType, not a list"),
    "returns a generator": ("return (row for row in rows)", "PY002", "returned a value of class generator, not a list"),
    "returns no dicts": ("return [1]", "PY002", "returned a value of class int instead of a row"),
    "leaves out a column": ("del row['digits']", "PY002", "has no digits"),
    "leaves out the key": ("del row['id']", "PY002", "has no id"),
    "changes the key": ("row['id'] += 1000", "PY002", "a key that was not handed over"),
    "takes a neighbour's key": ("row['id'] = 16; rows.append(dict(row, digits=''))", "PY002", ""),
    "returns a row twice": ("done.append(row)", "PY002", "two returned rows have the same key"),
    "returns another column": ("row['colour'] = 'red'", "PY002", "'colour', which is not among `writes`"),
    "changes what it only reads": ("row['phone'] = '?'", "PY002", "changes phone, which is not among `writes`"),
    "gives a class of its own": ("row['digits'] = object()", "PY002", "digits cannot be a value of class object"),
    "gives a NUL": ("row['digits'] = 'a\\0'", "22021", "invalid byte sequence"),
    "gives half a surrogate pair": ("row['digits'] = '\\ud800'", "PY002", "cannot be sent to PostgreSQL"),
    "gives a dict for a text": ("row['digits'] = {}", "PY002", "digits cannot be a value of class dict"),
    "gives a mixed list": ("row['digits'] = [1, 'a', None]", "PY002", "digits cannot be a value of class list"),
    "breaks a rule of the table": ("row['digits'] = 'bad'", "23514", "users_digits_check"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_row_sets_it_aside_and_the_others_are_changed(
    engine: Engine, site: Site, users: None, fault: str
) -> None:
    # Given
    body, sqlstate, words = FAULTS[fault]
    engine.execute("ALTER TABLE users ADD CHECK (digits <> 'bad')")
    first, then = ("pass", body) if fault.startswith("leaves out") else (body, "pass")
    site.write(f"""
def change(rows):
    done = []
    for row in rows:
        if row["id"] in (17, 44):
            {first}
        row.setdefault("digits", "41" + row["phone"][4:])
        if row["id"] in (17, 44):
            {then}
        done.append(row)
    return done
""")
    run = engine.enqueue(DIGITS % ("", 100))

    # When
    now = site.drive(run)

    # Then
    expect(now, State.PAUSED)
    assert now.error is not None
    assert (now.phase, now.error["class"]) == (Phase.BACKFILL if now.verified_at else Phase.VERIFY, "quarantine")
    assert keys(engine, run) == {("17",): sqlstate, ("44",): sqlstate}
    assert any(words in row.error for row in engine.quarantined(run))
    assert right(engine) == ROWS - 2
    assert engine.value("SELECT count(*) FROM users WHERE id IN (17, 44) AND digits IS NULL") == 2
    assert not engine.told(BatchRetried)
    assert [event.sqlstate for event in engine.told(RowQuarantined)] == [sqlstate] * 2

    # When the function is mended and the rows are tried again
    site.write(KEEP_DIGITS)
    commands.retry(engine.connection, run, actor="ann")

    # Then
    expect(site.drive(run), State.COMPLETED)
    assert not engine.quarantined(run)
    assert right(engine) == ROWS


def test_values_that_python_does_not_have_set_the_row_aside(engine: Engine, site: Site, users: None) -> None:
    engine.execute("ALTER TABLE users ADD COLUMN seen timestamptz DEFAULT now()")
    engine.execute("UPDATE users SET seen = 'infinity' WHERE id = 30")
    site.write(KEEP_DIGITS)
    run = engine.enqueue((DIGITS % ("", 100)).replace("[phone]", "[phone, seen]"))
    expect(site.drive(run), State.PAUSED)
    assert keys(engine, run) == {("30",): "PY002"}
    assert "cannot be represented in Python" in engine.quarantined(run)[0].error
    assert right(engine) == ROWS - 1


def test_more_rows_than_the_cap_pause_the_run_and_nothing_of_the_batch_is_kept(
    engine: Engine, site: Site, users: None
) -> None:
    site.write(KEEP_DIGITS.replace("return", "1 / (rows[0]['id'] < 20 or rows[-1]['id'] >= 1000)\n    return"))
    run = engine.enqueue((DIGITS % ("", 2)).replace("lanes: 2", "lanes: 1"))

    now = site.drive(run, batch_rows=10)

    expect(now, State.PAUSED)
    assert now.error is not None
    assert (now.error["class"], now.error["sqlstate"]) == ("quarantine", "PY001")
    assert "ZeroDivisionError" in str(now.error["message"])
    assert not engine.quarantined(run)
    assert engine.value("SELECT max(id) FROM users WHERE digits IS NOT NULL") == 20


# --- Conditions and verification


def test_a_condition_that_is_false_for_what_was_done_is_verified_by(engine: Engine, site: Site, users: None) -> None:
    """Rows that come to meet it while the walk goes on are found and handed over, and a clean pass is on record."""
    site.write(KEEP_DIGITS)
    engine.execute("CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF new.id = 25 THEN "
                   "INSERT INTO public.users VALUES (0, ''+41 0''), (900, ''+41 900''); END IF; RETURN new; END'")  # fmt: skip
    engine.execute("CREATE TRIGGER late AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION late()")
    run = engine.enqueue(DIGITS % (', where: "digits IS NULL"', 0))

    now = site.drive(run)

    assert (now.state, now.residual_rows, now.pass_) == (State.COMPLETED, 0, 2)
    assert right(engine) == ROWS + 2


@pytest.mark.parametrize("row", ["left out", "unchanged", "written, and still met"])
def test_a_condition_that_rows_still_meet_is_not_walked_by_again(
    engine: Engine, site: Site, users: None, row: str
) -> None:
    """Otherwise the rows that a function leaves as they are would be handed over again and again."""
    answer = {
        "left out": "[]",
        "unchanged": "[dict(row, digits=None) for row in rows]",
        "written, and still met": "[dict(row, digits='still ' + row['phone']) for row in rows]",
    }
    site.write(f"def change(rows):\n    return {answer[row]}\n")
    condition = ", where: \"digits IS NULL OR digits LIKE 'still%'\""
    run = engine.enqueue(DIGITS % (condition, 0))

    now = site.drive(run)

    assert (now.state, now.pass_) == (State.COMPLETED, 1)
    assert engine.lanes(run, "verify") == []
    walked = engine.lanes(run, "backfill")
    assert sum(lane.rows_residual for lane in walked) == ROWS


# --- Transactions


def test_nothing_changes_between_the_read_and_the_write(engine: Engine, site: Site, users: None) -> None:
    """While the function has a row, the application cannot write it, and can read it and refer to it."""
    engine.execute("CREATE TABLE calls (user_id bigint REFERENCES users)")
    run = engine.enqueue((DIGITS % ("", 0)).replace("lanes: 2", "lanes: 1"))
    site.write("""
meanwhile = []

def change(rows):
    for what in meanwhile:
        what(rows[0]["id"])
    return [{"id": row["id"], "digits": "".join(c for c in row["phone"] if c.isdigit())} for row in rows]
""")
    backfills = site.module()

    tried = []

    def meanwhile(id_: int) -> None:
        with engine.connect() as application:
            application.execute("SET lock_timeout = '100ms'")
            application.execute("INSERT INTO calls VALUES (%s)", [id_])
            try:
                application.execute("UPDATE users SET phone = 'x' WHERE id = %s", [id_])
            except Exception as exc:  # noqa: BLE001 - its class is what is looked at
                tried.append(type(exc).__name__)

    backfills.meanwhile.append(meanwhile)
    expect(site.drive(run), State.COMPLETED)
    assert set(tried) == {"LockNotAvailable"}
    assert right(engine) == ROWS


def test_a_worker_that_dies_between_the_read_and_the_write_leaves_nothing(
    engine: Engine, site: Site, users: None
) -> None:
    """The server ends the session while the function has the rows; the batch is done again, once."""
    site.write("""
victims = []

def change(rows):
    if victims:
        victims.pop()()
    return [{"id": row["id"], "digits": (row["digits"] or "") + "x"} for row in rows]
""")
    backfills = site.module()

    run = engine.enqueue((DIGITS % ("", 0)).replace("[phone]", "[digits]").replace("lanes: 2", "lanes: 1"))
    seen = []

    def kill() -> None:
        engine.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'backfilld run=%' "
            "AND state = 'idle in transaction'"
        )
        seen.append(engine.value("SELECT count(*) FROM users WHERE digits IS NOT NULL"))

    backfills.victims += [kill, kill]
    expect(site.drive(run, batch_rows=20), State.COMPLETED)
    assert seen == [0, 0]
    assert engine.execute("SELECT digits, count(*) AS rows FROM users GROUP BY digits") == [
        {"digits": "x", "rows": ROWS}
    ]


def test_a_row_that_the_application_holds_makes_the_batch_come_back_later(
    engine: Engine, site: Site, users: None
) -> None:
    site.write(KEEP_DIGITS)
    run = engine.enqueue((DIGITS % ("", 0)).replace("lanes: 2", "lanes: 1"))
    runner = site.runner()
    with engine.connect() as application, application.transaction():
        application.execute("UPDATE users SET phone = '+41 7' WHERE id = 7")
        engine.drive(run, runner=runner, until=lambda _run: bool(engine.told(BatchRetried)))
        assert [event.sqlstate for event in engine.told(BatchRetried)] == ["55P03"]
        assert right(engine) == 0
    expect(engine.drive(run, runner=runner), State.COMPLETED)
    assert right(engine) == ROWS


def test_a_function_that_does_not_come_back_loses_its_rows_and_keeps_nothing(
    engine: Engine, site: Site, users: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends the idle transaction, so that the application has its rows back; the batch is done again."""
    monkeypatch.setattr("backfilld.worker.lanes.transform.IDLE_SECONDS", 1)
    site.write("""
waits = []

def change(rows):
    if waits:
        waits.pop()()
    return [{"id": row["id"], "digits": "".join(c for c in row["phone"] if c.isdigit())} for row in rows]
""")
    run = engine.enqueue((DIGITS % ("", 0)).replace("lanes: 2", "lanes: 1"))

    def wait() -> None:
        holders = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'backfilld run=%'"
        assert engine.value(holders) == 1
        until("the server to end the transaction", lambda: engine.value(holders) == 0)
        engine.execute("UPDATE users SET other = 'free again'")

    site.module().waits.append(wait)
    expect(site.drive(run), State.COMPLETED)
    assert [event.committed for event in engine.told(CommitUnknown)] == [False]
    assert right(engine) == ROWS


@pytest.mark.parametrize("verb", STOPS)
def test_a_stop_is_obeyed_between_two_calls(
    engine: Engine, site: Site, users: None, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """PostgreSQL cannot cancel a function; it is asked to stop when it comes back."""
    monkeypatch.setattr(function, "CALL_SECONDS", 0.0)  # the record is looked at after each call, however short
    site.write("""
calls = []

def change(rows):
    calls.append(len(rows))
    if len(calls) == 1:
        stop()
    return [{"id": row["id"], "digits": "".join(c for c in row["phone"] if c.isdigit())} for row in rows]
""")
    backfills = site.module()

    run = engine.enqueue((DIGITS % ("", 0)).replace("lanes: 2", "lanes: 1"))
    backfills.stop = lambda: STOPS[verb](engine, run)
    engine.drive(run, runner=site.runner(), until=lambda _run: bool(engine.lanes(run, "backfill")))
    (lane,) = engine.lanes(run, "backfill")

    site.runner().advance(engine.message(run, lane.lane))

    assert backfills.calls == [1], "the first call is for one row, and after it somebody had said stop"
    assert right(engine) == 0
    after = engine.lane(run, lane.lane)
    assert (after.seq, after.attempts, after.last_error) == (lane.seq, 0, None)
    assert not engine.told(BatchRetried)


def test_a_function_that_takes_too_long_gets_a_smaller_batch(
    engine: Engine, site: Site, users: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write("""
import time

sizes = []

def change(rows):
    sizes.append(len(rows))
    until = time.monotonic() + 0.1 * len(rows)
    while time.monotonic() < until:
        pass
    return [{"id": row["id"], "digits": "".join(c for c in row["phone"] if c.isdigit())} for row in rows]
""")
    backfills = site.module()

    monkeypatch.setattr(claim, "LEAST_STATEMENT_TIMEOUT_SECONDS", 0.5)
    run = engine.enqueue(
        (DIGITS % ("", 0))
        .replace("lanes: 2", "lanes: 1, batch_seconds: 0.01")
        .replace("writes: [digits]", 'writes: [digits], where: "id <= 12"')
    )
    runner = site.runner()
    engine.drive(run, runner=runner, until=lambda _run: bool(engine.told(BatchRetried)))
    (retried,) = engine.told(BatchRetried)
    assert (retried.error_class, retried.sqlstate) == ("transient", "57014")
    assert "the function took" in retried.message
    assert engine.lanes(run, "backfill")[0].batch_rows == FIRST_ROWS_OF_FUNCTION // 10
    assert right(engine) == 0

    expect(engine.drive(run, runner=runner, batch_rows=2), State.COMPLETED)
    assert max(backfills.sizes) <= 5
    assert right(engine) == 12


# --- What may not run


@pytest.mark.parametrize(
    ("code", "transform", "allowed", "words"),
    [
        (KEEP_DIGITS, "backfills:change", (), "does not allow; it allows none"),
        (KEEP_DIGITS, "backfills:change", ("backfill", "other"), "it allows backfill, other"),
        (KEEP_DIGITS, "backfills:absent", ("backfills",), "there is no such name"),
        (KEEP_DIGITS, "nowhere:change", ("nowhere",), "No module named 'nowhere'"),
        ("raise SystemExit(1)", "backfills:change", ("backfills",), "cannot be imported: SystemExit: 1"),
        ("def change(:", "backfills:change", ("backfills",), "SyntaxError"),
        ("change = 5", "backfills:change", ("backfills",), "not an ordinary function"),
        ("async def change(rows): ...", "backfills:change", ("backfills",), "not an ordinary function"),
        ("from os import system as change", "backfills:change", ("backfills",), "does not allow"),
    ],
)
def test_what_is_not_allowed_or_not_there_fails_the_run_and_can_be_resumed(
    engine: Engine, site: Site, users: None, code: str, transform: str, allowed: tuple[str, ...], words: str
) -> None:
    # Given
    site.write(code)
    run = engine.enqueue((DIGITS % ("", 0)).replace("backfills:change", transform))

    # When
    now = site.drive(run, transforms=allowed)

    # Then
    expect(now, State.FAILED)
    assert now.error is not None
    assert words in str(now.error["message"])
    assert transform in str(now.error["message"])
    assert right(engine) == 0
    if not allowed or allowed[0] == "backfill":
        assert "BACKFILLD_TRANSFORMS" in str(now.error["message"])
        assert "backfills" not in sys.modules, "nothing was imported"

    # When it is mended
    site.write(KEEP_DIGITS, module=transform.partition(":")[0])
    if transform.endswith("absent"):
        site.write(KEEP_DIGITS.replace("change", "absent"))
    commands.resume(engine.connection, run, actor="ann")

    # Then
    expect(site.drive(run, transforms=("backfills", "nowhere")), State.COMPLETED)
    assert right(engine) == ROWS


def test_enqueue_and_plan_import_nothing(engine: Engine, site: Site, users: None) -> None:
    site.write("raise AssertionError")
    engine.enqueue(DIGITS % ("", 0))
    assert "backfills" not in sys.modules


def test_a_package_allows_its_modules(engine: Engine, site: Site, users: None) -> None:
    (site.folder / "mysite").mkdir()
    (site.folder / "mysite" / "__init__.py").touch()
    (site.folder / "mysite" / "backfills.py").write_text(KEEP_DIGITS)
    run = engine.enqueue((DIGITS % ("", 0)).replace("backfills:change", "mysite.backfills:change"))
    expect(site.drive(run, transforms=("mysite",)), State.COMPLETED)
    assert right(engine) == ROWS


def test_triggers_see_the_settings_of_the_application_when_a_function_gives_the_values(
    engine: Engine, site: Site, users: None
) -> None:
    """Also in the batch that is gone over row by row because a trigger refuses one of them."""
    site.write(KEEP_DIGITS)
    run = engine.enqueue(DIGITS % ("", 5))
    # From here on, because the session that enqueues has begun with other settings.
    database = engine.connection.info.dbname
    engine.execute(f'ALTER DATABASE "{database}" SET search_path = app, public')
    engine.execute("""
CREATE SCHEMA app;
CREATE TABLE app.log (id bigint, path text);
CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF new.id = 33 THEN RAISE 'closed'; END IF;
  INSERT INTO log VALUES (new.id, current_setting('search_path'));
  RETURN new;
END $$;
CREATE TRIGGER note BEFORE UPDATE ON public.users FOR EACH ROW EXECUTE FUNCTION app.note();
""")

    expect(site.drive(run), State.PAUSED)

    assert set(keys(engine, run)) == {("33",)}
    assert right(engine) == ROWS - 1
    assert engine.execute("SELECT path, count(DISTINCT id) AS rows FROM app.log GROUP BY path") == [
        {"path": "app, public", "rows": ROWS - 1}
    ]
