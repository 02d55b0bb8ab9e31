"""`load`: lines of a file become rows, in batches; what cannot be loaded is set aside; the way back is exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fix_runs import expect

from backfilld.migrations.record import runs
from backfilld.migrations.record.states import State
from backfilld.producers import commands, staging

if TYPE_CHECKING:
    from pathlib import Path

    from fix_runs import Engine

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


def start(engine: Engine, text: str) -> int:
    run = engine.enqueue(text)
    found = runs.get(engine.connection, run)
    assert found is not None
    staging.send_files(engine.connection, found)
    return run


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
    run = start(engine, migration(write(tmp_path / "orders.csv", *GOOD)))
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
        lines.append(content.encode() if isinstance(content, str) else content)
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
    run = start(engine, migration(tmp_path / "bad.csv"))
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
