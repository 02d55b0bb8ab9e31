"""`change_columns`: columns are split and merged while both versions of the application write, there and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning.examine import examine
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands
from proof.fingerprint import fingerprint

if TYPE_CHECKING:
    from fix_runs import Engine

#: Two words, of which the first is the first word of the name: "Anna Maria Smith" has no way there and back.
SPLIT = """
name: people-names
operations:
  - change_columns:
      table: people
      up: {first: "split_part(name, ' ', 1)", "La%%st": "CAST(split_part(name, ' ', 2) AS varchar(12))"}
      down: {name: 'first || '' '' || "La%%st"'}
settings: {lanes: 2, approve: %s}
"""
MERGE = """
name: merged
operations:
  - change_columns:
      table: people
      up: {name_of: "jsonb_build_object('a', a, 'b', b)"}
      down: {a: "name_of ->> 'a'", b: "(name_of ->> 'b')::integer"}
settings: {approve: %s}
"""
ROWS = 40


@pytest.fixture
def people(engine: Engine) -> Engine:
    engine.execute(
        "CREATE TABLE people (id bigint PRIMARY KEY, name text COLLATE \"C\" NOT NULL CHECK (name <> 'nobody'), n integer,"
        " a text DEFAULT 'a%', b integer UNIQUE); COMMENT ON COLUMN people.name IS 'it''s %';"
        "CREATE INDEX people_name ON people (lower(name)); GRANT SELECT (name) ON people TO PUBLIC"
    )
    engine.execute(
        f"INSERT INTO people SELECT n, 'f' || n || ' l' || n, n, 'a' || n, n FROM generate_series(1, {ROWS}) n"
    )
    return engine


def row(engine: Engine, id_: int, columns: str = 'name, first, "La%st"') -> tuple[object, ...]:
    (found,) = engine.execute(f"SELECT {columns} FROM people WHERE id = {id_}")
    return tuple(found.values())


def to_phase(engine: Engine, run: int, phase: Phase) -> None:
    engine.drive(run, until=lambda run: run.phase is phase)


def test_both_versions_of_the_application_write_from_the_beginning(people: Engine) -> None:
    run = people.enqueue(SPLIT % "[switch, contract]")
    to_phase(people, run, Phase.BACKFILL)
    people.execute("INSERT INTO people (id, name) VALUES (101, 'Ann Old')")
    people.execute("INSERT INTO people (id, first, \"La%st\") VALUES (102, 'Anna Maria', 'New')")
    people.execute("UPDATE people SET first = 'Bea', \"La%st\" = 'X Y' WHERE id = 2")
    people.execute("UPDATE people SET name = 'Only Old' WHERE id = 3")
    people.execute("INSERT INTO people (id, name, first, \"La%st\") VALUES (103, 'Both Of Us', 'Both Of', 'Us')")
    people.execute("INSERT INTO people (id, name, first, \"La%st\") VALUES (104, 'They Differ', 'no', 'no')")
    expect(people.drive(run), State.WAITING)
    wanted = {
        101: ("Ann Old", "Ann", "Old"),
        # What the application wrote stays, though `up` would say otherwise.
        102: ("Anna Maria New", "Anna Maria", "New"),
        2: ("Bea X Y", "Bea", "X Y"),
        3: ("Only Old", "Only", "Old"),
        103: ("Both Of Us", "Both Of", "Us"),
        104: ("They Differ", "They", "Differ"),
        1: ("f1 l1", "f1", "l1"),
    }
    assert {id_: row(people, id_) for id_ in wanted} == wanted
    people.execute("UPDATE people SET n = n + 1")
    assert {id_: row(people, id_) for id_ in wanted} == wanted

    commands.approve(people.connection, run, Phase.SWITCH, actor="ann")
    expect(people.drive(run), State.WAITING)
    people.execute("UPDATE people SET first = 'After' WHERE id = 102")
    people.execute("UPDATE people SET name = 'By Old' WHERE id = 2")
    people.execute("UPDATE people SET name = 'x y', first = 'Wins', \"La%st\" = 'Here' WHERE id = 3")
    people.execute("UPDATE people SET n = 0 WHERE id = 103")
    assert [row(people, id_) for id_ in (102, 2, 3, 103)] == [
        ("After New", "After", "New"),
        ("By Old", "By", "Old"),
        ("Wins Here", "Wins", "Here"),
        ("Both Of Us", "Both Of", "Us"),
    ]
    with pytest.raises(Refused, match=r"a statement that names people.name fails"):
        commands.approve(people.connection, run, Phase.CONTRACT, actor="ann")
    commands.approve(people.connection, run, Phase.CONTRACT, actor="ann", yes=True)
    expect(people.drive(run), State.COMPLETED)
    assert people.value("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'La%st'") == (
        "character varying(12)"
    )
    with pytest.raises(psycopg.errors.UndefinedColumn):
        people.execute("SELECT name FROM people")
    assert people.value("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0


@pytest.mark.parametrize("phase", [Phase.BACKFILL, Phase.VERIFY, Phase.CONTRACT, Phase.DONE])
def test_it_goes_back_from_every_phase(people: Engine, phase: Phase) -> None:
    before, was = people.execute("SELECT * FROM people ORDER BY id"), fingerprint(people.connection, positions=False)
    run = people.enqueue(SPLIT % ("[]" if phase is Phase.DONE else "[contract]"))
    to_phase(people, run, phase) if phase is not Phase.DONE else people.drive(run)
    wrote = phase in {Phase.CONTRACT, Phase.DONE}
    if wrote:
        people.execute("UPDATE people SET first = 'A B' WHERE id = 7")
        people.execute("INSERT INTO people (id, first, \"La%st\") VALUES (500, 'x', 'y')")
    commands.rollback(people.connection, run, actor="ann")
    expect(people.drive(run), State.ROLLED_BACK)
    assert fingerprint(people.connection, positions=False) == was
    now = people.execute("SELECT id, name, n, a, b FROM people ORDER BY id")
    if wrote:
        assert now.pop()["name"] == "x y"
        assert now[6].pop("name") == "A B l7"
        assert before[6].pop("name") == "f7 l7"
    assert now == [{name: one[name] for name in now[number]} for number, one in enumerate(before)]


def test_several_columns_are_merged_and_come_back_as_they_were(people: Engine) -> None:
    people.execute("UPDATE people SET a = NULL, b = NULL WHERE id = 1; UPDATE people SET a = '{\"x, %}' WHERE id = 2")
    before, was = (
        people.execute("SELECT id, name, n, a, b FROM people ORDER BY id"),
        fingerprint(people.connection, positions=False),
    )
    run = people.enqueue(MERGE % "[]")
    expect(people.drive(run), State.COMPLETED)
    assert people.value("SELECT name_of FROM people WHERE id = 5") == {"a": "a5", "b": 5}
    people.execute("""INSERT INTO people (id, name, name_of) VALUES (500, 'n', '{"a": "z", "b": 500}')""")
    commands.rollback(people.connection, run, actor="ann")
    expect(people.drive(run), State.ROLLED_BACK)
    assert fingerprint(people.connection, positions=False) == was
    now = people.execute("SELECT id, name, n, a, b FROM people ORDER BY id")
    assert (now.pop()["b"], now) == (500, before)


def test_what_does_not_fit_is_set_aside_and_named(people: Engine) -> None:
    """On the way there a row in the quarantine; on the way back a statement that did not fail, and a rollback that waits."""
    cast = "CAST(split_part(name, ' ', 2) AS varchar(12))"
    assert cast in SPLIT
    people.execute(
        "UPDATE people SET name = 'f4 2020-02-30' WHERE id = 4; UPDATE people SET name = 'f ' || date '2020-02-28' WHERE id <> 4"
    )
    run = people.enqueue(SPLIT.replace(cast, "CAST(split_part(name, ' ', 2) AS date)") % "[contract]")
    people.drive(run)
    assert [one.key for one in people.quarantined(run)] == [("4",)]
    commands.rollback(people.connection, run, actor="ann")
    expect(people.drive(run), State.ROLLED_BACK)

    run = people.enqueue(MERGE % "[contract]")
    people.drive(run)
    people.execute("""UPDATE people SET name_of = '{"b": "no number"}' WHERE id = 9""")
    assert row(people, 9, "a, b") == (None, None)
    with pytest.raises(Refused, match=r"with their keys: 1 \(9\)"):
        commands.rollback(people.connection, run, actor="ann")
    people.execute("""UPDATE people SET name_of = '{"a": "z", "b": 9}' WHERE id = 9""")
    commands.rollback(people.connection, run, actor="ann")
    expect(people.drive(run), State.ROLLED_BACK)
    assert row(people, 9, "a, b") == ("z", 9)


def test_contract_waits_until_nothing_else_uses_the_old_columns(people: Engine) -> None:
    people.execute("CREATE VIEW names AS SELECT id, name FROM people; CREATE INDEX both_of ON people (name, n)")
    found = examine(people.connection, definition.parse(SPLIT % "[]"))
    assert found.findings == []
    assert any(
        "the view public.names, the index both_of" in told or "view public.names" in told for told in found.warnings
    )
    run = people.enqueue(SPLIT % "[]")
    expect(people.drive(run), State.FAILED)
    assert "the 'index both_of' still uses name" in (people.run(run).error or {})["message"]
    assert (people.run(run).phase, people.lanes(run, "archive")) == (Phase.CONTRACT, []), "before anything is archived"
    people.execute(
        'DROP INDEX both_of; CREATE OR REPLACE VIEW names AS SELECT id, first || \' \' || "La%st" COLLATE "C" AS name FROM people'
    )
    commands.resume(people.connection, run, actor="ann")
    expect(people.drive(run), State.COMPLETED)


@pytest.mark.parametrize(
    ("up", "down", "check"),
    [
        ({"first": "name"}, {"id": "first"}, "column"),
        ({"n": "name"}, {"name": "n"}, "column"),
        ({"first": "name || random()"}, {"name": "first"}, "expression"),
        ({"first": "name"}, {"name": "first || name"}, "expression"),
        ({"first": "nothing"}, {"name": "first"}, "expression"),
        ({"first": "name"}, {"n": "first"}, "expression"),
    ],
)
def test_what_is_refused(people: Engine, up: dict[str, str], down: dict[str, str], check: str) -> None:
    operation = {"change_columns": {"table": "people", "up": up, "down": down}}
    with pytest.raises(Refused) as refused:
        examine(people.connection, definition.parse(f"name: x\noperations: [{operation}]".replace("'", '"'))).require()
    assert [one.check for one in refused.value.findings] == [check]
