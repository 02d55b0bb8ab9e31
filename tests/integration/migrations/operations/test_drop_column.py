"""`drop_column`: nothing goes before every row's value is in the archive, and the way back brings all of it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_postgres import cases
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine, plan
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

DROP = """
name: gone
operations: [{drop_column: {table: Odd Schema.Order, column: 'a%%b "c"'}}]
settings: {lanes: 3, approve: %s}
"""
ROWS = 60
#: Values of every kind that a text could lose, by the type of the column.
VALUES = {
    "text": "CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN E'\\\\ \" '' \\n {,}' ELSE n::text END",
    "varchar(20)": "'ä' || n",
    "char(8)": "'x' || n",
    "text[]": "CASE n % 3 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE ARRAY['a,b', NULL, '\"', 'NULL', n::text] END",
    "integer[][]": "ARRAY[[n, 1], [NULL, 2]]",
    "jsonb": "CASE n % 3 WHEN 0 THEN 'null' WHEN 1 THEN NULL ELSE jsonb_build_object('k', n, 'x', '\"') END",
    "json": "('{\"b\" : ' || n || ',  \"a\":1}')::json",
    "bytea": "decode(lpad(to_hex(n), 8, '0'), 'hex')",
    "timestamptz": "CASE n WHEN 1 THEN 'infinity' ELSE timestamptz '2024-02-29 23:59:59.999999+00' + n * interval '1 day' END",
    "interval": "make_interval(months => n, days => -n, secs => n / 7.0)",
    "double precision": "CASE n WHEN 1 THEN 'NaN' WHEN 2 THEN '-0' WHEN 3 THEN '-Infinity' ELSE 1.0 / n END",
    "real": "(1.0 / n)::real",
    "numeric": "CASE n WHEN 1 THEN 'NaN' ELSE n::numeric(30, 20) / 7 END",
    "uuid": "gen_random_uuid()",
    "int4range": "int4range(n, n + 5)",
    "tsvector": "to_tsvector('simple', 'word' || n)",
    "public.mood": "CASE n % 2 WHEN 0 THEN 'so so' ELSE NULL END::public.mood",
    "public.pair": "ROW(n, 'a,\"b')::public.pair",
    "public.short": "'s' || n",
}


def make(engine: Engine, type_: str = "text", value: str = "'v' || n", column: str = "") -> None:
    engine.execute(
        "CREATE TYPE public.mood AS ENUM ('so so'); CREATE TYPE public.pair AS (a int, b text);"
        "CREATE DOMAIN public.short AS varchar(5) CHECK (VALUE <> 'x');"
        'CREATE SCHEMA "Odd Schema";'
        'CREATE TABLE "Odd Schema"."Order" (tenant text COLLATE "POSIX", id bigint, "old" text, "key" text, '
        f'"a%b ""c""" {type_} {column}, PRIMARY KEY (tenant, id));'
    )
    engine.execute(
        'INSERT INTO "Odd Schema"."Order" (tenant, id, "old", "a%b ""c""") '
        f"SELECT 't,\" ' || n % 3, n, 'o' || n, {value} FROM generate_series(1, {ROWS}) n"
    )


def contents(engine: Engine) -> list[dict[str, object]]:
    return engine.execute(
        'SELECT tenant, id, "old", "a%b ""c"""::text AS text, pg_column_size("a%b ""c""") AS size '
        'FROM "Odd Schema"."Order" ORDER BY tenant, id'
    )


def picture(engine: Engine) -> list[dict[str, object]]:
    """All that the catalog says of the column, its number aside."""
    return engine.execute(
        """
        SELECT 'column' AS what, a.attname::text || format_type(a.atttypid, a.atttypmod) || a.attnotnull || a.attcollation
               || coalesce(a.attacl::text, '') || coalesce(col_description(a.attrelid, a.attnum), '')
               || coalesce(pg_get_expr(d.adbin, d.adrelid), '') AS value
        FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = '"Odd Schema"."Order"'::regclass AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT 'constraint', conname || pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid = '"Odd Schema"."Order"'::regclass
        UNION ALL SELECT 'index', pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = '"Odd Schema"."Order"'::regclass
        ORDER BY 1, 2
        """
    )


def columns(engine: Engine) -> int:
    return int(
        engine.value(
            'SELECT count(*) FROM pg_attribute WHERE attrelid = \'"Odd Schema"."Order"\'::regclass AND attnum > 0 '
            "AND NOT attisdropped"
        )
    )


@pytest.mark.parametrize("type_", VALUES)
def test_every_value_comes_back_as_it_was(engine: Engine, type_: str) -> None:
    make(engine, type_, VALUES[type_])
    before, was = contents(engine), picture(engine)
    run = engine.enqueue(DROP % "[]")
    expect(engine.drive(run, batch_rows=9), State.COMPLETED)
    assert columns(engine) == 4
    assert engine.value(f"SELECT count(*) FROM backfilld.archived({run})") == ROWS

    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run, batch_rows=9), State.ROLLED_BACK)
    assert (contents(engine), picture(engine)) == (before, was)


def test_what_the_column_carried_comes_back_with_it(engine: Engine) -> None:
    make(engine, 'text COLLATE "C"', "'v' || n", "NOT NULL DEFAULT 'd%'")
    engine.execute(
        'CREATE TABLE public.codes (code text COLLATE "C" PRIMARY KEY);'
        "INSERT INTO public.codes SELECT 'v' || n FROM generate_series(1, 100) n; INSERT INTO public.codes VALUES ('d%');"
        'ALTER TABLE "Odd Schema"."Order" ADD CONSTRAINT "chk %" CHECK ("a%b ""c""" <> \'\'),'
        ' ADD CONSTRAINT fk FOREIGN KEY ("a%b ""c""") REFERENCES public.codes ON DELETE CASCADE;'
        'COMMENT ON COLUMN "Odd Schema"."Order"."a%b ""c""" IS \'it\'\'s %\';'
        'GRANT SELECT ("a%b ""c""") ON "Odd Schema"."Order" TO PUBLIC;'
    )
    before, was = contents(engine), picture(engine)
    run = engine.enqueue(DROP % "[]")
    engine.drive(run, until=lambda run: run.phase is Phase.CONTRACT)
    engine.execute('INSERT INTO "Odd Schema"."Order" (tenant, id, "a%b ""c""") VALUES (\'left out\', 1, NULL)')
    expect(engine.drive(run), State.COMPLETED)
    engine.execute('INSERT INTO "Odd Schema"."Order" (tenant, id) VALUES (\'since\', 1)')
    commands.rollback(engine.connection, run, actor="ann")
    engine.drive(run)
    # The row that was written with NULL while that was allowed has NULL in the archive.
    expect(engine.run(run), State.FAILED)
    engine.execute('UPDATE "Odd Schema"."Order" SET "a%b ""c""" = \'v1\' WHERE tenant = \'left out\'')
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert picture(engine) == was
    now = {(row["tenant"], row["id"]): row for row in contents(engine)}
    assert now.pop(("since", 1))["text"] == "d%"
    assert now.pop(("left out", 1))["text"] == "v1"
    assert list(now.values()) == before
    (told,) = engine.execute("SELECT detail FROM backfilld.events WHERE what = 'restore.done'")
    assert told["detail"] == {"operation": 0, "rows": ROWS + 2, "changed": ROWS + 1, "missing": 1}


def test_its_indexes_come_back_with_it(engine: Engine) -> None:
    """Built beside a working application: an ordinary one, one of an expression with a condition, and a UNIQUE constraint's."""
    make(engine)
    engine.execute(
        'CREATE INDEX plain ON "Odd Schema"."Order" ("a%b ""c""" DESC);'
        'CREATE INDEX "half %" ON "Odd Schema"."Order" (lower("a%b ""c""")) WHERE "a%b ""c""" <> \'v2\';'
        'ALTER TABLE "Odd Schema"."Order" ADD CONSTRAINT "uniq %" UNIQUE ("a%b ""c""")'
    )
    before, was = contents(engine), picture(engine)
    run = engine.enqueue(DROP % "[]")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value('SELECT count(*) FROM pg_index WHERE indrelid = \'"Odd Schema"."Order"\'::regclass') == 1
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert (contents(engine), picture(engine)) == (before, was)
    assert engine.value("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0


def test_nothing_is_dropped_before_every_row_has_its_copy(engine: Engine) -> None:
    """Rows that come in behind the lanes are found by a second look, and rows that changed are copied again."""
    make(engine)
    run = engine.enqueue(DROP % "[]")
    lanes = engine.drive_to_lanes(run, "archive")
    while any(lane.done_at is None for lane in engine.lanes(run, "archive")):
        engine.step(batch_rows=7)
        engine.execute(
            "INSERT INTO \"Odd Schema\".\"Order\" SELECT ' ' || count(*), 0, 'o', 'k', 'came' FROM \"Odd Schema\".\"Order\""
        )
    engine.execute('UPDATE "Odd Schema"."Order" SET "a%b ""c""" = \'new\' WHERE id = 7')
    count = engine.value('SELECT count(*) FROM "Odd Schema"."Order"')
    assert len(lanes) == 3
    assert engine.value(f"SELECT count(*) FROM backfilld.archived({run})") < count
    expect(engine.drive(run, batch_rows=7), State.COMPLETED)
    assert engine.value(f"SELECT count(*) FROM backfilld.archived({run})") == count
    assert engine.value(f"SELECT count(*) FROM backfilld.archived({run}) WHERE key[2] = '7' AND old = 'new'") == 1
    rounds = engine.execute("SELECT detail FROM backfilld.events WHERE what = 'archive.round' ORDER BY event")
    assert [row["detail"]["missing"] for row in rounds][1:] == [count - rounds[0]["detail"]["missing"], 0]
    story = [row["what"] for row in engine.execute("SELECT what FROM backfilld.events ORDER BY event")]
    assert story.index("archive.done") > story.index("phase.contract")


@pytest.mark.parametrize("not_null", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_from_after_every_other_step(engine: Engine, *, not_null: bool) -> None:
    """Rolled back from the middle of everything, the application writing all the while."""
    make(engine, column="NOT NULL DEFAULT 'd'" if not_null else "")
    was = picture(engine)
    number = 0
    while True:
        before = contents(engine)
        run = engine.enqueue(DROP % "[]")
        for _ in range(number):
            if engine.run(run).state is State.COMPLETED:
                break
            engine.step(batch_rows=30)
        done = engine.run(run).state is State.COMPLETED
        engine.execute('INSERT INTO "Odd Schema"."Order" (tenant, id) VALUES (\'since\', %s)', number)
        commands.rollback(engine.connection, run, actor="ann")
        expect(engine.drive(run, batch_rows=30), State.ROLLED_BACK)
        assert picture(engine) == was, f"after {number} steps"
        now = contents(engine)
        assert [row for row in now if row in before] == before, f"after {number} steps"
        assert len(now) == len(before) + 1
        engine.sent.clear()
        if done:
            break
        number += 2
    assert number > 12


def constraints_of_ours(engine: Engine) -> int:
    return int(engine.value("SELECT count(*) FROM pg_constraint WHERE conname LIKE 'backfilld%'"))


def add_row_without_a_value(engine: Engine) -> None:
    engine.execute('INSERT INTO "Odd Schema"."Order" (tenant, id, "old") VALUES (\'left out\', 100, \'o\')')


def fix_row(engine: Engine) -> None:
    engine.execute('UPDATE "Odd Schema"."Order" SET "a%b ""c""" = \'v100\' WHERE id = 100')


def test_a_row_without_a_value_is_named_and_its_other_columns_can_be_written_all_the_while(engine: Engine) -> None:
    # Given a run that goes back to NOT NULL, and a row that the application adds meanwhile
    make(engine, column="NOT NULL")
    was = picture(engine)
    run = engine.enqueue(DROP % "[contract]")
    expect(engine.drive(run), State.WAITING)
    commands.rollback(engine.connection, run, actor="ann")
    add_row_without_a_value(engine)

    # When it comes to prove NOT NULL
    for number in range(30):
        if engine.run(run).state is State.FAILED:
            break
        engine.step()
        engine.execute('UPDATE "Odd Schema"."Order" SET "old" = %s WHERE id = 100', str(number))

    # Then the row is named, and no rule is left that could fail a statement of the application
    failed = engine.run(run)
    expect(failed, State.FAILED)
    assert failed.error is not None
    assert failed.error["class"] == "violated"
    assert "(left out, 100)" in failed.error["message"]
    assert constraints_of_ours(engine) == 0
    engine.execute('UPDATE "Odd Schema"."Order" SET "old" = \'mine\' WHERE id = 100')

    # And once it has a value, the run goes back to where it began
    fix_row(engine)
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert picture(engine) == was


def test_a_row_that_comes_after_the_look_takes_the_rule_back(engine: Engine) -> None:
    """The scan meets it, under a rule that is not proved: the rule goes before the run fails, and is looked for again."""
    make(engine, column="NOT NULL")
    was = picture(engine)
    run = engine.enqueue(DROP % "[contract]")
    expect(engine.drive(run), State.WAITING)
    commands.rollback(engine.connection, run, actor="ann")
    engine.drive(run, until=lambda run: bool(run.rollback) and engine.lane(run.run, 0).cursor == 2)
    add_row_without_a_value(engine)
    expect(engine.drive(run), State.FAILED)
    assert (constraints_of_ours(engine), engine.lane(run, 0).cursor) == (0, 1)
    engine.execute('UPDATE "Odd Schema"."Order" SET "old" = \'mine\' WHERE id = 100')

    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.FAILED)
    assert constraints_of_ours(engine) == 0, "nothing is added over a row that is still there"
    fix_row(engine)
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert picture(engine) == was


DOWN = DROP.replace("c\"'}", "c\"', down: '\"old\" || ''-'' || id'}")


@pytest.mark.parametrize("phase", [Phase.CONTRACT, Phase.DONE])
def test_down_gives_rows_that_came_since_their_value(engine: Engine, phase: Phase) -> None:
    """From before contract, when they are NULL, and from after it, when the column comes back."""
    make(engine, column="NOT NULL")
    before, was = contents(engine), picture(engine)
    run = engine.enqueue(DOWN % "[]")
    engine.drive(run, until=lambda run: run.phase is phase)
    engine.execute('INSERT INTO "Odd Schema"."Order" (tenant, id, "old") VALUES (\'since\', 1, \'o\')')
    if phase is Phase.DONE:
        expect(engine.run(run), State.COMPLETED)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert picture(engine) == was
    now = {(row["tenant"], row["id"]): row for row in contents(engine)}
    assert now.pop(("since", 1))["text"] == "o-1"
    assert list(now.values()) == before


def test_plan_says_that_the_first_new_row_blocks_the_way_back(engine: Engine) -> None:
    make(engine, column="NOT NULL")

    def causes(text: str) -> set[str]:
        migration = definition.parse(text % "[]")
        return {risk.cause for risk in plan.make(migration, examine.examine(engine.connection, migration)).risks}

    assert "blocked_rollback" in causes(DROP)
    assert "blocked_rollback" not in causes(DOWN)
    engine.execute('ALTER TABLE "Odd Schema"."Order" ALTER "a%b ""c""" SET DEFAULT 1')
    assert "blocked_rollback" not in causes(DROP)


@pytest.mark.parametrize("down", ['"a%%b ""c"""', "nothing", "id, 1", "pg_sleep(1)::text"])
def test_a_down_that_cannot_give_a_value_is_refused(engine: Engine, down: str) -> None:
    make(engine)
    text = DROP.replace("c\"'}", f"c\"', down: '{down}'}}")
    with pytest.raises(Refused, match="down"):
        engine.enqueue(text % "[]")


REFUSED = {
    "a view": 'CREATE VIEW public.v AS SELECT "a%b ""c""" FROM "Odd Schema"."Order"',
    "a policy": 'CREATE POLICY p ON "Odd Schema"."Order" USING ("a%b ""c""" IS NOT NULL)',
    "a generated column": 'ALTER TABLE "Odd Schema"."Order" ADD g text GENERATED ALWAYS AS ("a%b ""c""" || \'x\') STORED',
    "an inbound foreign key": 'ALTER TABLE "Odd Schema"."Order" ADD UNIQUE ("a%b ""c""");'
    'CREATE TABLE public.f (c text REFERENCES "Odd Schema"."Order" ("a%b ""c"""))',
    "an index of two columns": 'CREATE INDEX ON "Odd Schema"."Order" (id, "a%b ""c""")',
    "an index that mentions it": 'CREATE INDEX ON "Odd Schema"."Order" (id) WHERE "a%b ""c""" IS NULL',
    "a check of two columns": 'ALTER TABLE "Odd Schema"."Order" ADD CHECK ("a%b ""c""" <> "old")',
    "a trigger": "CREATE FUNCTION public.t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;"
    'CREATE TRIGGER t BEFORE UPDATE OF "a%b ""c""" ON "Odd Schema"."Order" FOR EACH ROW EXECUTE FUNCTION public.t()',
    "statistics": 'CREATE STATISTICS public.s ON id, "a%b ""c""" FROM "Odd Schema"."Order"',
    "a sequence": 'CREATE SEQUENCE "Odd Schema".q OWNED BY "Odd Schema"."Order"."a%b ""c"""',
    "a publication": 'CREATE PUBLICATION pub FOR TABLE "Odd Schema"."Order" (tenant, id, "a%b ""c""")',
    "the key": 'ALTER TABLE "Odd Schema"."Order" DROP CONSTRAINT "Order_pkey"; ALTER TABLE "Odd Schema"."Order" '
    'ADD PRIMARY KEY ("a%b ""c""")',
    "no key": 'ALTER TABLE "Odd Schema"."Order" DROP CONSTRAINT "Order_pkey"',
}


@pytest.mark.parametrize("what", cases(REFUSED, since={"a publication": 15}))
def test_what_would_go_with_it_or_keep_it_is_refused(engine: Engine, what: str) -> None:
    make(engine)
    engine.execute(REFUSED[what])
    with pytest.raises(Refused) as refused:
        engine.enqueue(DROP % "[]")
    assert refused.value.findings[0].remedy


def test_an_unknown_column_is_refused(engine: Engine) -> None:
    make(engine)
    with pytest.raises(Refused, match="has no column code"):
        engine.enqueue("name: gone\noperations: [{drop_column: {table: Odd Schema.Order, column: code}}]")


MOVED = """
name: moved
operations: [%s]
settings: {approve: []}
"""
ADDED = "{add_column: {table: jobs, column: {name: label, type: text}, backfill: 'upper(code)', not_null: true}}"
DROPPED = "{drop_column: {table: jobs, column: code}}"


def test_a_column_that_another_was_made_of_goes_with_it_in_one_file(engine: Engine) -> None:
    """In the order of the file: the sync trigger that reads the column is gone before the column is."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, code text)")
    engine.execute("INSERT INTO jobs SELECT n, 'c' || n FROM generate_series(1, 50) n")
    run = engine.enqueue(MOVED % f"{ADDED}, {DROPPED}")
    expect(engine.drive(run, batch_rows=20), State.COMPLETED)
    assert engine.value("SELECT count(*) FROM jobs WHERE label = 'C' || id") == 50
    engine.execute("INSERT INTO jobs (id, label) VALUES (51, 'later')")

    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run, batch_rows=20), State.ROLLED_BACK)
    assert engine.value("SELECT count(*) FROM jobs WHERE code = 'c' || id") == 50
    assert engine.value("SELECT code FROM jobs WHERE id = 51") is None


def test_a_column_that_another_is_made_of_later_in_the_file_is_refused(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, code text)")
    with pytest.raises(Refused, match=r"operations\[1\].add_column also names code"):
        engine.enqueue(MOVED % f"{DROPPED}, {ADDED}")
