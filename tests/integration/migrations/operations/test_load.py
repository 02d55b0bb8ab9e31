"""`load`: lines of a file become rows, in batches; what cannot be loaded is set aside; the way back is exact."""

from __future__ import annotations

import gzip
import json
import re
import threading
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa
import pytest
import zstandard
from fix_daemon import until
from fix_runs import expect
from pyarrow import parquet

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.file.operations import Load
from backfilld.migrations.loading import check, export, stage, upsert
from backfilld.migrations.queries import queries
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.settings import Limits
from backfilld.monitoring import explain, progress
from backfilld.producers import commands, enqueueing, pacing, staging
from backfilld.worker.lanes import claim

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.record.model import Run

NAME = '"odd s"."Order %s"'


@pytest.fixture(autouse=True)
def table(engine: Engine) -> None:
    engine.execute('CREATE SCHEMA "odd s"')
    engine.execute(
        f"""
        CREATE TABLE makers (maker text PRIMARY KEY);
        INSERT INTO makers VALUES ('acme'), ('zeta');
        CREATE TABLE {NAME} (
            tenant text, id integer, "Price %" numeric(10, 2) NOT NULL CHECK ("Price %" >= 0), code varchar(5) UNIQUE, detail jsonb,
            tags text[], maker text REFERENCES makers, seen timestamptz DEFAULT now(), note text DEFAULT 'of its own',
            PRIMARY KEY (tenant, id)
        );
        INSERT INTO {NAME} (tenant, id, "Price %", code, detail, tags, maker)
        SELECT 'a', n, n, 'c' || n, jsonb_build_object('n', n), ARRAY['x', NULL, '"q"'], 'acme' FROM generate_series(1, 20) n
    """
    )


def migration(path: Path, more: str = "", settings: str = "lanes: 2, approve: []") -> str:
    return f"""
name: orders
operations:
  - load: {{table: 'odd s.Order %s', from: {{file: {path}}}, key: [tenant, id]{more}}}
settings: {{{settings}}}
"""


def rows(engine: Engine) -> list[dict[str, Any]]:
    return engine.execute(f"SELECT * FROM {NAME} ORDER BY tenant, id")


def counts(engine: Engine, run: int) -> dict[str, int]:
    (found,) = engine.execute(
        "SELECT lines, inserted, updated, same, set_aside, duplicates FROM backfilld.load_counts WHERE run = %s", run
    )
    return found


def write(path: Path, *lines: str, header: str = "tenant,id,Price %,code,detail,tags,maker") -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


GOOD = [
    'a,1,1.00,c1,"{""n"": 1}","{x,NULL,""\\""q\\""""}",acme',  # the same
    'a,2,2.5,c2,"{""n"": 2}","{x}",zeta',
    "b,1,7,n1,,,",
    '"b",2,8,,"{""long"":\n""a, b""}",{},acme',
    "b,3,1,n3,,,acme",
    "b,3,2,n4,,,acme",
]


@pytest.mark.parametrize("batch_rows", [2, 1000])
def test_rows_are_inserted_and_updated_and_go_back(engine: Engine, tmp_path: Path, batch_rows: int) -> None:
    before = rows(engine)
    run = engine.enqueue(migration(write(tmp_path / "orders.csv", *GOOD)))
    expect(engine.drive(run, batch_rows=batch_rows), State.COMPLETED)
    assert counts(engine, run) == {"lines": 6, "inserted": 3, "updated": 1, "same": 1, "set_aside": 0, "duplicates": 1}
    after = {(one["tenant"], one["id"]): one for one in rows(engine)}
    assert (after["b", 3]["code"], after["b", 2]["detail"], after["b", 1]["note"]) == (
        "n4",
        {"long": "a, b"},
        "of its own",
    )
    assert (str(after["a", 2]["Price %"]), after["a", 2]["maker"], after["a", 3]["maker"]) == ("2.50", "zeta", "acme")
    assert engine.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'stage%%'") == 0
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run, batch_rows=batch_rows), State.ROLLED_BACK)
    assert rows(engine) == before


#: Lines of every kind that cannot be loaded, each with the SQLSTATE that it gets; the last is good.
BAD = {
    "too few fields": ("x,1,1", "22P04"),
    "too many fields": ("x,1,1,,,,acme,more", "22P04"),
    "a quote in a field": ('x,2,3,a"b,,,', "22P04"),
    "a quote that is not closed": ('x,3,3,"ab,,,', "22P04"),
    "no UTF-8": (b"x,4,3,\xff\xfe,,,", "22021"),
    "a NUL": (b"x,4,3,a\x00b,,,", "22021"),
    "the end of data": ("\\.", "22P04"),
    "no number": ("x,5a,3,,,,", "22P02"),
    "out of range": ("x,99999999999,3,,,,", "22003"),
    "no JSON": ("x,6,3,,{,,", "22P02"),
    "no array": ("x,6,3,,,{,", "22P02"),
    "NULL": ("x,7,,,,,", "23502"),
    "a key that is NULL": (",7,1,,,,", "23502"),
    "a CHECK": ("x,8,-1,,,,", "23514"),
    "no parent": ("x,9,1,,,,nobody", "23503"),
    "too long": ("x,10,1,abcdef,,,", "22001"),
    "taken by another row": ("x,11,1,c5,,,", "23505"),
    "taken by another line": ("x,12,1,new,,,", None),
    "the same as another line": ("x,13,1,new,,,", "23505"),
}


def bad_file(path: Path) -> dict[int, str]:
    """A file with good lines between bad ones; returns the SQLSTATE of each bad line by its number."""
    lines, expected = [b"tenant,id,Price %,code,detail,tags,maker"], {}
    for number, (content, sqlstate) in enumerate(BAD.values()):
        lines.append(content if isinstance(content, bytes) else str(content).encode())
        if sqlstate is not None:
            expected[len(lines)] = sqlstate
        lines.append(f"good,{number},1.5,,,,zeta".encode())
    path.write_bytes(b"\n".join(lines))  # without a line break at the end
    return expected


@pytest.mark.parametrize("batch_rows", [3, 1000])
def test_lines_that_cannot_be_loaded_are_set_aside_with_their_errors(
    engine: Engine, tmp_path: Path, batch_rows: int
) -> None:
    expected = bad_file(tmp_path / "bad.csv")
    before = rows(engine)
    run = engine.enqueue(migration(tmp_path / "bad.csv"))
    expect(engine.drive(run, batch_rows=batch_rows), State.COMPLETED)
    aside = engine.execute("SELECT line, sqlstate, error, byte_offset, record FROM backfilld.load_lines ORDER BY line")
    assert {one["line"]: one["sqlstate"] for one in aside} == expected
    content = (tmp_path / "bad.csv").read_bytes()
    assert all(
        content[one["byte_offset"] :].startswith(one["record"]) for one in aside if one["byte_offset"] is not None
    )
    assert sum(one["record"] is not None for one in aside) == 7
    found = counts(engine, run)
    assert found == {
        "lines": 2 * len(BAD),
        "inserted": len(BAD) + 1,
        "updated": 0,
        "same": 0,
        "set_aside": len(BAD) - 1,
        "duplicates": 0,
    }
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert rows(engine) == before


# --- the file --------------------------------------------------------------------------------------------------------------


def enqueue_only(engine: Engine, text: str) -> Run:
    return enqueueing.enqueue(engine.connection, definition.parse(text), actor="test").run


def test_a_file_that_was_cut_off_goes_on_from_there(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file goes away half-way: the run waits, and the same file continues it; another one is refused."""
    monkeypatch.setattr(stage, "BLOCK_BYTES", 40)
    path = write(tmp_path / "orders.csv", *(f"z,{n},{n},,,," for n in range(100)))
    content = path.read_bytes()
    run = enqueue_only(engine, migration(path))
    seen: list[int] = []

    def lose(now: stage.Staging) -> None:
        seen.append(now.lines)
        if len(seen) == 7:
            raise KeyboardInterrupt

    staging_of = stage.read(engine.connection, run.run, 0)
    (load,) = run.migration.operations
    assert staging_of is not None
    assert isinstance(load, Load)
    with pytest.raises(KeyboardInterrupt):
        stage.stream(engine.connection, staging_of, load.source, most_refused=0, tell=lose)
    engine.sent.append(engine.message(run.run))
    engine.step()
    engine.step()
    said = engine.lane(run.run, 0).last_error
    assert said is not None
    assert (said["class"], "are staged" in said["message"]) == ("staging", True)

    path.unlink()
    with pytest.raises(Refused, match="cannot be read"):
        staging.send_files(engine.connection, run)
    for changed in (content + b"z,1000,1,,,,\n", content.replace(b"z,1,1", b"z,1,2")):
        path.write_bytes(changed)
        with pytest.raises(Refused, match="is not the file any more"):
            staging.send_files(engine.connection, run)
    path.write_bytes(content)
    staging.send_files(engine.connection, run)
    expect(engine.drive(run.run), State.COMPLETED)
    assert counts(engine, run.run)["inserted"] == 100
    assert engine.value(f"SELECT count(*) FROM {NAME} WHERE tenant = 'z'") == 100


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_packed_json_lines_are_read(engine: Engine, tmp_path: Path, suffix: str) -> None:
    lines = [
        {"tenant": "j", "id": 1, "Price %": 1.5, "detail": {"a": [1, None]}, "tags": "{x}", "maker": None},
        {"tenant": "j", "id": 2, "Price %": "2", "note": "not in the first line, so not a field"},
        {"tenant": "j", "id": 3},
    ]
    content = ("".join(json.dumps(one) + "\n" for one in lines) + "{broken\n").encode()
    path = tmp_path / f"orders.ndjson.{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == "gz" else zstandard.compress(content))
    text = migration(path).replace("}, key", ", format: ndjson}, key")
    run = engine.enqueue(text)
    expect(engine.drive(run), State.COMPLETED)
    assert counts(engine, run) == {"lines": 4, "inserted": 2, "updated": 0, "same": 0, "set_aside": 2, "duplicates": 0}
    assert [(one["id"], str(one["Price %"]), one["detail"]) for one in rows(engine) if one["tenant"] == "j"] == [
        (1, "1.50", {"a": [1, None]}),
        (2, "2.00", None),
    ]
    assert [one.sqlstate for one in engine.quarantined(run)] == ["23502", "22P02"]
    assert list(export.as_json_lines(engine.connection, run))[1] == "{broken\n"


MOMENT = datetime(2026, 7, 1, 1, 2, 3, 4, tzinfo=UTC)
#: Values of every type that a Parquet file may have, each with the column that it goes into, and as PostgreSQL then has it.
TYPED: dict[str, tuple[str, Any, list[Any], list[Any]]] = {
    "small": ("smallint", pa.float64(), [1.0, None], [1, None]),
    "large": ("numeric", pa.uint64(), [2**64 - 1, None], [Decimal(2**64 - 1), None]),
    "real": ("real", pa.float32(), [0.1, float("inf")], [0.1, float("inf")]),
    "double": ("float8", pa.float64(), [0.1 + 0.2, 1e300], [0.1 + 0.2, 1e300]),
    "price": ("numeric(20,4)", pa.decimal128(20, 4), [Decimal("1.5000"), None], [Decimal("1.5000"), None]),
    "yes": ("boolean", pa.bool_(), [True, False], [True, False]),
    "text": ("text", pa.string(), ['a "b",\nc\\N', ""], ['a "b",\nc\\N', ""]),
    "code": ("text", pa.dictionary(pa.int8(), pa.string()), ["x", None], ["x", None]),
    "raw": ("bytea", pa.binary(), [b"\x00\xff", b""], [b"\x00\xff", b""]),
    "label": ("text", pa.binary(), ["ä".encode(), None], ["ä", None]),
    "who": ("uuid", pa.uuid(), [UUID(int=5).bytes, None], [UUID(int=5), None]),
    "day": ("date", pa.date32(), [date(2026, 2, 28), None], [date(2026, 2, 28), None]),
    "clock": ("time", pa.time64("us"), [time(1, 2, 3, 4), None], [time(1, 2, 3, 4), None]),
    "plain": (
        "timestamp",
        pa.timestamp("us"),
        [MOMENT.replace(tzinfo=None), None],
        [MOMENT.replace(tzinfo=None), None],
    ),
    "moment": (
        "timestamptz",
        pa.timestamp("ns", "Europe/Berlin"),
        [MOMENT, None],
        [MOMENT, None],
    ),
}


def test_a_parquet_file_gives_every_type_its_value(engine: Engine, tmp_path: Path) -> None:
    columns = ", ".join(f'"{name}" {type_}' for name, (type_, *_) in TYPED.items())
    engine.execute(f"CREATE TABLE typed (id int PRIMARY KEY, {columns})")
    table = pa.table(
        {"id": [1, 2, None], **{name: pa.array([*given, None], type_) for name, (_, type_, given, _) in TYPED.items()}}
        | {"pair": pa.array([{"x": 1}, None, None])}
    )
    path = tmp_path / "typed.parquet"
    parquet.write_table(table, path)
    text = f"name: typed\noperations: [{{load: {{table: typed, from: {{file: {path}, format: parquet}}, key: [id]}}}}]\nsettings: {{approve: []}}"
    with pytest.raises(Refused, match=re.escape("these fields cannot be loaded: pair (struct<x: int64>)")):
        engine.enqueue(text)
    wanted = {name: f'$"{name}"' if name == "moment" else name for name in ("id", *TYPED)}
    text = text.replace("key:", f"columns: {json.dumps(wanted)}, key:")
    with pytest.raises(Refused, match=re.escape("label is a field of bytes, and label is of type text")):
        engine.enqueue(text)
    with pytest.raises(Refused, match="pair is a field of type struct"):
        engine.enqueue(text.replace('"label": "label"', '"label": "pair"'))
    run = engine.enqueue(text.replace('"label": "label"', """"label": "convert_from($label::bytea, 'UTF8')\""""))
    expect(engine.drive(run), State.COMPLETED)
    (first, second) = engine.execute("SELECT * FROM typed ORDER BY id")
    assert first == {"id": 1, **{name: expected[0] for name, (*_, expected) in TYPED.items()}}
    assert second == {"id": 2, **{name: expected[1] for name, (*_, expected) in TYPED.items()}}
    assert [(one.key, one.sqlstate) for one in engine.quarantined(run)] == [(("line 3",), "23502")]


def test_a_parquet_file_that_was_cut_off_goes_on_with_the_next_row_group(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "BLOCK_BYTES", 1)
    path = tmp_path / "orders.parquet"

    def write_file(price: int) -> None:
        found = {
            "tenant": ["z"] * 50,
            "id": [*range(50)],
            "Price %": [price] * 49 + [-1],
            "code": ["\0" if n == 7 else None for n in range(50)],
        }
        parquet.write_table(pa.table(found), path, row_group_size=10)

    write_file(1)
    run = enqueue_only(engine, migration(path).replace("}, key", ", format: parquet}, key"))
    (load,) = run.migration.operations
    begun = stage.read(engine.connection, run.run, 0)
    assert isinstance(load, Load)
    assert begun is not None

    def lose(now: stage.Staging) -> None:
        if now.lines == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.stream(engine.connection, begun, load.source, most_refused=1, tell=lose)
    write_file(2)
    with pytest.raises(Refused, match="is not the file any more"):
        staging.send_files(engine.connection, run)
    write_file(1)
    staging.send_files(engine.connection, run)
    expect(engine.drive(run.run), State.COMPLETED)
    assert counts(engine, run.run) == {
        "lines": 50,
        "inserted": 48,
        "updated": 0,
        "same": 0,
        "set_aside": 2,
        "duplicates": 0,
    }
    told = explain.read(engine.connection, engine.run(run.run), Limits())
    assert "2 lines were set aside, because they could not be loaded." in told.sentences
    assert [(one.key, one.sqlstate) for one in engine.quarantined(run.run)] == [
        (("line 8",), "22021"),
        (("line 50",), "23514"),
    ]


def test_expressions_make_values_of_fields(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "de.csv", "1;1,50;ab;$id 100%s", "2;zwei;;", header="id;Preis EUR;code;text")
    more = """, columns: {tenant: "'de'", id: id, 'Price %': 'replace($"Preis EUR", '','', ''.'')::numeric',
      code: "nullif(upper($code), '$id')", note: text}"""
    text = migration(path, more).replace(f"file: {path}", f"file: {path}, delimiter: ';'")
    run = engine.enqueue(text)
    expect(engine.drive(run, batch_rows=1), State.COMPLETED)
    (one,) = [one for one in rows(engine) if one["tenant"] == "de"]
    assert (one["id"], str(one["Price %"]), one["code"], one["note"]) == (1, "1.50", "AB", "$id 100%s")
    assert [(aside.key, aside.sqlstate) for aside in engine.quarantined(run)] == [(("line 3",), "22P02")]


# --- rows that are there ----------------------------------------------------------------------------------------------------

MODES = {
    "upsert": ("", (1, 1, 1, 0)),
    "left as they are": (", on_conflict: nothing", (1, 0, 2, 0)),
    "no row may be there": (", on_conflict: error", (1, 0, 0, 2)),
    "insert": (", mode: insert", (1, 0, 0, 2)),
    "insert, and leave others": (", mode: insert, on_conflict: nothing", (1, 0, 2, 0)),
    "update": (", mode: update", (0, 1, 1, 1)),
    "newer": (", on_conflict: newer(id)", (1, 0, 2, 0)),
    "newer price": (", on_conflict: 'newer(Price %)'", (1, 1, 1, 0)),
}


@pytest.mark.parametrize("what", MODES)
def test_what_becomes_of_rows_that_are_there(engine: Engine, tmp_path: Path, what: str) -> None:
    more, wanted = MODES[what]
    before = rows(engine)
    path = write(tmp_path / "o.csv", "a,1,1", "a,2,3", "m,1,1", header="tenant,id,Price %")
    run = engine.enqueue(migration(path, more))
    expect(engine.drive(run), State.COMPLETED)
    found = counts(engine, run)
    assert tuple(found[name] for name in ("inserted", "updated", "same", "set_aside")) == wanted
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert rows(engine) == before


@pytest.mark.parametrize(
    ("which", "price", "aside"), [("last", "3.00", 0), ("first", "1.00", 0), ("quarantine", None, 3)]
)
def test_one_of_several_lines_counts(engine: Engine, tmp_path: Path, which: str, price: str | None, aside: int) -> None:
    path = write(tmp_path / "o.csv", "k,01,1", "k,1,2", "k, 1,3", header="tenant,id,Price %")
    run = engine.enqueue(migration(path, f", duplicates: {which}"))
    expect(engine.drive(run, batch_rows=1), State.COMPLETED)
    assert [str(one["Price %"]) for one in rows(engine) if one["tenant"] == "k"] == [price] * (price is not None)
    assert (counts(engine, run)["set_aside"], counts(engine, run)["duplicates"]) == (aside, 0 if aside else 2)


def test_nothing_is_written_before_it_is_approved_and_too_many_bad_lines_stop_it(
    engine: Engine, tmp_path: Path
) -> None:
    before = rows(engine)
    path = write(tmp_path / "o.csv", *GOOD, "x,1,-1,,,,", "x,2,1,,,,nobody", 'x,3,1,"a"b,,,')
    run = engine.enqueue(migration(path, settings="approve: [backfill], max_quarantined: 2"))
    paused = engine.drive(run)
    expect(paused, State.PAUSED)
    assert paused.error is not None
    assert paused.error["class"] == "quarantine"
    pacing.tune(engine.connection, run, {"max_quarantined": 3}, width=None, actor="test")
    commands.resume(engine.connection, run, actor="test")
    expect(engine.drive(run), State.WAITING)
    load = progress.read(engine.connection, [engine.run(run)])[0].load
    assert load is not None
    assert load["found"] == {"looked_at": 6, "new": 4, "changed": 1, "same": 1}
    assert load["reasons"] == {"23514": 1, "23503": 1, "22P04": 1}
    assert rows(engine) == before
    # The parent comes, and the line is loaded after all.
    engine.execute("INSERT INTO makers VALUES ('nobody')")
    commands.retry(engine.connection, run, actor="test")
    commands.approve(engine.connection, run, "backfill", actor="test")
    expect(engine.drive(run), State.COMPLETED)
    assert counts(engine, run) == {"lines": 9, "inserted": 4, "updated": 1, "same": 1, "set_aside": 2, "duplicates": 1}
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert rows(engine) == before


def test_lines_that_are_set_aside_come_back_as_a_file_that_can_be_loaded(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "o.csv", 'x,1,-1,"a,b",,,', 'x,2,many,"",,,acme', "x,3")
    run = engine.enqueue(migration(path))
    expect(engine.drive(run), State.COMPLETED)
    text = "".join(export.as_csv(engine.connection, run))
    head, *lines = text.splitlines()
    assert (
        head
        == "tenant,id,Price %,code,detail,tags,maker,backfilld_line,backfilld_sqlstate,backfilld_error,backfilld_record"
    )
    assert lines[0].startswith('x,1,-1,"a,b",,,,2,23514,')
    assert lines[1].startswith('x,2,many,"",,,acme,3,22P02,')
    assert lines[2].startswith(",,,,,,,4,22P04,")
    assert lines[2].endswith(',"x,3"')
    fixed = tmp_path / "fixed.csv"
    fixed.write_text("\n".join([head, *lines[:2]]).replace(",-1,", ",1,").replace("many", "2"))
    again = engine.enqueue(migration(fixed).replace("name: orders", "name: fixed"))
    expect(engine.drive(again), State.COMPLETED)
    assert [(one["id"], one["code"]) for one in rows(engine) if one["tenant"] == "x"] == [(1, "a,b"), (2, "")]


# --- beside others ----------------------------------------------------------------------------------------------------------


def test_what_others_write_meanwhile_stays_on_both_ways(engine: Engine, tmp_path: Path) -> None:
    """The application changes and deletes rows between the lanes and verify, and more of them before the way back."""
    engine.execute(
        f"CREATE TABLE lines (id int PRIMARY KEY, t text, o int, FOREIGN KEY (t, o) REFERENCES {NAME} ON DELETE CASCADE)"
    )
    path = write(tmp_path / "o.csv", *(f"a,{n},{n + 1}" for n in range(1, 40)), header="tenant,id,Price %")
    run = engine.enqueue(migration(path))
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY)
    engine.execute(f"""UPDATE {NAME} SET "Price %" = 0 WHERE id IN (5, 25); DELETE FROM {NAME} WHERE id IN (6, 26)""")
    done = engine.drive(run)
    expect(done, State.COMPLETED)
    assert engine.value(f"""SELECT count(*) FROM {NAME} WHERE "Price %" = 0""") == 2
    engine.execute(
        f"UPDATE {NAME} SET note = 'changed since' WHERE id IN (7, 27); INSERT INTO lines VALUES (1, 'a', 28)"
    )
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run), State.ROLLED_BACK)
    found = {one["id"]: (str(one["Price %"]), one["note"]) for one in rows(engine)}
    assert found == {
        **{n: (f"{n}.00", "of its own") for n in range(1, 21) if n != 6},
        5: ("0.00", "of its own"),
        7: ("7.00", "changed since"),
        25: ("0.00", "of its own"),
        27: ("28.00", "changed since"),
        28: ("29.00", "of its own"),
    }
    assert engine.value("SELECT count(*) FROM lines") == 1
    (left,) = engine.execute("SELECT detail FROM backfilld.events WHERE what = 'undo.done'")
    assert left["detail"]["left"] == 6


#: What the application makes of a row, and that it is another one then, however alike.
ALIKE = {
    1: "n = 1.50",
    2: "n = NULL",
    3: "a = 'x', b = 'yz'",
    4: "a = b, b = a",
    5: "a = ''",
    6: "d = 4294967296",
    7: """j = '{"k":  1}'""",
}


@pytest.mark.parametrize("more", [0, 40], ids=["at once", "looked at"])
def test_a_row_that_is_alike_is_not_the_same(engine: Engine, tmp_path: Path, more: int) -> None:
    """Of what was written the journal has a digest; rows that only look as they were, or are equal, are the application's."""
    engine.execute("""
        CREATE TABLE alike (id int PRIMARY KEY, n numeric, a text, b text, d bigint, j json);
        INSERT INTO alike SELECT n, 0, 'old', 'old', 0, '{}' FROM generate_series(1, 5) n;
        INSERT INTO alike SELECT n, 1.5, 'xy', 'z', 1, '{"k": 1}' FROM generate_series(100, 139) n
    """)
    before = {one["id"]: one for one in engine.execute("SELECT * FROM alike")}
    lines = [f'{n},1.5,xy,z,1,"{{""k"": 1}}"' for n in (*range(1, 21), *range(100, 100 + more))]
    path = write(tmp_path / "alike.csv", *lines, header="id,n,a,b,d,j")
    run = engine.enqueue(
        f"name: alike\noperations: [{{load: {{table: alike, from: {{file: {path}}}, key: [id]}}}}]\nsettings: {{approve: []}}"
    )
    expect(engine.drive(run), State.COMPLETED)
    for n, sets in ALIKE.items():
        engine.execute(f"UPDATE alike SET {sets} WHERE id = {n}")
    theirs = {one["id"]: one for one in engine.execute("SELECT * FROM alike WHERE id = ANY(%s)", list(ALIKE))}
    engine.execute("UPDATE alike SET n = n, a = a")
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run), State.ROLLED_BACK)
    found = {one["id"]: one for one in engine.execute("SELECT * FROM alike")}
    assert {n: found[n] for n in ALIKE} == theirs
    assert [repr(found[n]) for n in ALIKE] == [repr(theirs[n]) for n in ALIKE]
    assert {n: one for n, one in found.items() if n not in ALIKE} == {n: before[n] for n in before if n not in ALIKE}


def test_rows_that_a_load_inserts_are_no_growth_that_holds_it(engine: Engine, tmp_path: Path) -> None:
    """A table that is all but empty becomes many times as large, and the governor's hold would never end."""
    path = write(tmp_path / "o.csv", *(f"z,{n},{n}" for n in range(20_000)), header="tenant,id,Price %")
    run = engine.enqueue(migration(path))
    engine.drive_to_lanes(run)
    (changing,) = engine.execute(queries("backfilld.monitoring.probes", "probes")["changing"])
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY)
    size = engine.value("SELECT pg_table_size(to_regclass(%s))", NAME)
    assert size > 10 * 2**16
    assert (size - changing["bytes_before"]) / changing["bytes_before"] < Limits().table_growth.soft  # type: ignore[union-attr] # not switched off by default


def test_the_journal_is_compressed_only_where_that_is_worth_its_time(engine: Engine, tmp_path: Path) -> None:
    run = engine.enqueue(migration(write(tmp_path / "o.csv", *GOOD)))
    engine.drive_to_lanes(run)
    found = engine.execute(
        """
        SELECT format_type(a.atttypid, NULL) AS type, a.attstorage::text AS storage, a.attcompression::text AS compression
        FROM pg_attribute a WHERE a.attrelid = %s::regclass AND a.attndims > 0
        """,
        f"backfilld.journal_{run}",
    )
    (has_lz4,) = engine.execute("SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'")
    texts = ("x", "l") if "lz4" in has_lz4["enumvals"] else ("e", "")
    assert {(one["type"], one["storage"], one["compression"]) for one in found} == {
        ("bigint[]", "e", ""),
        ("integer[]", "e", ""),
        ("boolean[]", *texts),
        ("text[]", *texts),
        ("character varying[]", *texts),
        ("numeric[]", *texts),
        ("jsonb[]", *texts),
    }


def staged(engine: Engine, run: int) -> tuple[int, str, list[str]]:
    """The file of the stage on disk, who may read it, and its lines as they lie."""
    found = stage.read(engine.connection, run, 0)
    assert found is not None
    name = str(found.table.identifier.as_string(engine.connection))
    (of,) = engine.execute(
        "SELECT relfilenode::bigint AS file, relacl::text AS acl FROM pg_class WHERE oid = %s::regclass", name
    )
    lines = engine.execute(f"SELECT s::text AS line FROM {name} s ORDER BY s.ctid")
    return of["file"], of["acl"], [one["line"] for one in lines]


@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_lines_come_into_the_order_of_their_keys(engine: Engine, tmp_path: Path, kind: str) -> None:
    """In rounds, by the key as its type has it, not as the text that stands in the file; what else is in a line, and its number, stay."""
    engine.execute("CREATE TABLE plain (id int PRIMARY KEY, part text)")
    engine.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")  # as careless as some are
    keys = [n * 37 % 101 for n in range(100)]
    if kind == "csv":
        path = write(tmp_path / "p.csv", *(f"p{n},{n}" for n in keys), header="part,id")
    else:
        path = tmp_path / "p.ndjson"
        path.write_text("".join(f'{{"part": "p{n}", "id": {n}}}\n' for n in keys))
    text = f"name: plain\noperations: [{{load: {{table: plain, from: {{file: {path}, format: {kind}}}, key: [id]}}}}]\nsettings: {{lanes: 2, approve: []}}\n"
    run = engine.enqueue(text)
    engine.drive(run, until=lambda _: bool(engine.lanes(run, "check")))
    file, acl, lines = staged(engine, run)
    engine.drive_to_lanes(run)
    now = staged(engine, run)

    assert now[0] != file
    assert now[1] == acl
    assert "{=" not in acl
    assert sorted(now[2]) == sorted(lines)
    found = [(int(line.strip("(").split(",")[0]), int(re.findall(r"p(\d+)", line)[0])) for line in now[2]]
    assert found == sorted(found, key=lambda one: (one[0] % check.STRIPES, one[1]))
    assert {line % check.STRIPES for line, _ in found} == set(range(check.STRIPES))
    expect(engine.drive(run, batch_rows=7), State.COMPLETED)
    assert engine.value("SELECT count(*) FROM plain WHERE part = 'p' || id") == 100


@pytest.mark.parametrize(
    ("keys", "most"),
    [([*range(199, 0, -1)], 0), ([5, *range(10, 500), 7], 2**30)],
    ids=["too large", "nearly in order"],
)
def test_lines_that_need_not_come_into_order_stay_where_they_are(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: list[int], most: int
) -> None:
    monkeypatch.setattr(check, "MOST_PUT_IN_ORDER_BYTES", most)
    run = engine.enqueue(migration(write(tmp_path / "o.csv", *(f"z,{n},1" for n in keys), header="tenant,id,Price %")))
    engine.drive(run, until=lambda _: bool(engine.lanes(run, "check")))
    before = staged(engine, run)
    engine.drive_to_lanes(run)
    assert staged(engine, run) == before
    expect(engine.drive(run), State.COMPLETED)


@pytest.mark.parametrize(("same", "attempts"), [(["a,2,2", "a,3,3"], 1), ([], None)], ids=["looked at", "at once"])
def test_a_row_that_is_written_between_the_look_and_the_write_is_looked_at_again(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: list[str], attempts: int | None
) -> None:
    """The batch has seen the row as it was, and waits for it: what the way back brings is what the application wrote meanwhile.

    Where most lines differ, PostgreSQL 18 writes without that look, and is told what it replaces.
    """
    monkeypatch.setattr(claim, "LOCK_TIMEOUT_SECONDS", 20.0)
    path = write(tmp_path / "o.csv", "a,1,9", *same, header="tenant,id,Price %")
    run = engine.enqueue(migration(path))
    (lane,) = engine.drive_to_lanes(run)
    with engine.connect() as other:
        with other.transaction():
            other.execute(f"""UPDATE {NAME} SET "Price %" = 4 WHERE id = 1""".encode())
            batch = threading.Thread(target=engine.own.advance, args=[engine.message(run, lane.lane)])
            batch.start()
            until("the batch to wait", lambda: engine.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        batch.join()
    if attempts is None:
        attempts = 0 if engine.connection.info.server_version >= upsert.WRITES_AT_ONCE else 1
    assert engine.lane(run, lane.lane).attempts == attempts
    expect(engine.drive(run), State.COMPLETED)
    assert counts(engine, run)["updated"] == 1
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert str(rows(engine)[0]["Price %"]) == "4.00"


def test_a_lane_that_claims_what_it_has_not_done_is_found_out(engine: Engine, tmp_path: Path) -> None:
    """Verify finds the row that is not as its line says, and the counts do not agree: such a run never completes."""
    path = write(tmp_path / "o.csv", "a,1,9", "b,1,1", header="tenant,id,Price %")
    run = engine.enqueue(migration(path))
    engine.drive_to_lanes(run)
    engine.execute("UPDATE backfilld.lanes SET done_at = now(), cursor = NULL WHERE kind = 'backfill'")
    failed = engine.drive(run)
    expect(failed, State.FAILED)
    assert failed.error is not None
    assert "2 lines, and 0 inserted" in failed.error["message"]
    assert failed.pass_ == 2
    assert str(rows(engine)[0]["Price %"]) == "9.00"


def test_triggers_fire_under_the_applications_settings_and_one_that_keeps_a_row_is_told(
    engine: Engine, tmp_path: Path
) -> None:
    engine.execute(
        f"""
        CREATE TABLE told (what text, id int);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.id = 3 THEN RETURN NULL; END IF;
            INSERT INTO told VALUES (TG_OP, NEW.id); RETURN NEW; END $$;
        CREATE TRIGGER tell BEFORE INSERT OR UPDATE ON {NAME} FOR EACH ROW EXECUTE FUNCTION tell();
        """
    )
    path = write(tmp_path / "o.csv", "a,1,1", "a,2,9", "a,3,9", "b,1,1", header="tenant,id,Price %")
    run = engine.enqueue(migration(path))
    expect(engine.drive(run), State.COMPLETED)
    told = {(one["what"], one["id"]) for one in engine.execute("SELECT what, id FROM told")}
    assert told == {("UPDATE", 2), ("INSERT", 1)}
    assert [(one.key, one.sqlstate) for one in engine.quarantined(run)] == [(("line 4",), "40001")]


def test_a_partitioned_table_and_an_identity_column(engine: Engine, tmp_path: Path) -> None:
    engine.execute("""
        CREATE TABLE parts (id bigint GENERATED ALWAYS AS IDENTITY, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
        CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
        INSERT INTO parts (day, v) SELECT date '2026-01-01' + n * 10, 'v' || n FROM generate_series(1, 6) n
    """)
    before = engine.execute("SELECT * FROM parts ORDER BY id")
    path = write(
        tmp_path / "p.csv", "2,2026-01-21,new", "50,2026-01-05,fifty", "51,2026-09-05,one more", header="id,day,v"
    )
    text = f"name: p\noperations: [{{load: {{table: parts, from: {{file: {path}}}, key: [id, day]}}}}]\nsettings: {{approve: []}}"
    with pytest.raises(Refused, match="GENERATED ALWAYS AS IDENTITY"):
        engine.enqueue(text)
    run = engine.enqueue(text.replace("key:", "identity: true, key:"))
    expect(engine.drive(run), State.COMPLETED)
    assert counts(engine, run)["inserted"] == 2
    assert engine.value("INSERT INTO parts (day) VALUES ('2026-01-02') RETURNING id") == 52
    engine.execute("DELETE FROM parts WHERE id = 52")
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.execute("SELECT * FROM parts ORDER BY id") == before


REFUSED = {
    "no such key": ("", "key: [tenant]", "no unique index over tenant alone"),
    "no such field": (
        "",
        "key: [tenant, id], columns: {tenant: $tenat, id: id}",
        "has no field tenat; did you mean tenant",
    ),
    "a column of the table": (
        "",
        "key: [tenant, id], columns: {tenant: lower(tenant), id: id}",
        "reads tenant of the table",
    ),
    "the clock": (
        "",
        "key: [tenant, id], columns: {tenant: $tenant, id: id, seen: now()}",
        "gives another value each time",
    ),
    "a NOT NULL column": ("", "key: [tenant, id], columns: {tenant: tenant, id: id}", "Price % must not be NULL"),
    "a rule": (f"CREATE RULE keep AS ON INSERT TO {NAME} DO INSTEAD NOTHING", "key: [tenant, id]", "the rule keep"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_loaded_is_refused(engine: Engine, tmp_path: Path, what: str) -> None:
    statement, keys, said = REFUSED[what]
    if statement:
        engine.execute(statement)
    text = migration(write(tmp_path / "o.csv", *GOOD)).replace("key: [tenant, id]", keys)
    with pytest.raises(Refused, match=re.escape(said)):
        engine.enqueue(text)
    assert engine.value("SELECT count(*) FROM backfilld.runs") == 0


def test_a_query_of_the_same_database_is_a_source(engine: Engine) -> None:
    engine.execute("""
        CREATE SCHEMA imports;
        CREATE TABLE imports.orders (tenant text, id text, price text, tags text[]);
        INSERT INTO imports.orders VALUES ('q', '1', '1.50', ARRAY['a', NULL]), ('q', '2', 'free', '{}'), ('', '3', '3', NULL)
    """)
    before = rows(engine)
    source = """{query: "SELECT tenant, id, price AS \\"Price %\\", tags FROM imports.orders"}"""
    text = migration(Path("-")).replace("{file: -}", source)
    for wrong, said in (
        ("imports.orders", "imports.order"),
        ("id,", "id; DROP TABLE x,"),
        ("price AS", "id AS tenant, price AS"),
    ):
        with pytest.raises(Refused, match="query"):
            engine.enqueue(text.replace(wrong, said, 1))
    run = engine.enqueue(text)
    expect(engine.drive(run), State.COMPLETED)
    assert counts(engine, run) == {"lines": 3, "inserted": 2, "updated": 0, "same": 0, "set_aside": 1, "duplicates": 0}
    assert [one["tags"] for one in rows(engine) if one["tenant"] == "q"] == [["a", None]]
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert rows(engine) == before


def test_a_text_that_is_too_long_is_never_cut(engine: Engine, tmp_path: Path) -> None:
    """A cast to varchar(5) would do it without an error; blanks at the end may go, as in an INSERT."""
    path = write(tmp_path / "o.csv", "x,1,1,abcdef", "x,2,1,abcde   ", header="tenant,id,Price %,code")
    run = engine.enqueue(
        migration(path, """, columns: {tenant: tenant, id: id, 'Price %': 'Price %', code: "$code || ''"}""")
    )
    expect(engine.drive(run), State.COMPLETED)
    assert [(one.key, one.sqlstate) for one in engine.quarantined(run)] == [(("line 2",), "22001")]
    assert [one["code"] for one in rows(engine) if one["tenant"] == "x"] == ["abcde"]


def test_lines_that_only_all_lines_together_forbid_count_for_the_limit(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "o.csv", "k,1,1", "k,1,2", header="tenant,id,Price %")
    run = engine.enqueue(migration(path, ", duplicates: quarantine", "approve: [], max_quarantined: 1"))
    paused = engine.drive(run)
    expect(paused, State.PAUSED)
    assert paused.error is not None
    assert "2 lines are set aside, and the run allows 1; no row is written yet" in paused.error["message"]
