"""`delete_rows`: rows go in batches, whole rows come back, and what follows a deleted row is refused or named."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine, plan
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.telemetry import CommitUnknown
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.planning.examine import Examination

#: Its name as it is, and in statements with parameters.
NAME = '"odd s"."Order %s"'
SENT = NAME.replace("%", "%%")
ROWS = 60
DELETE = """
name: prune
operations:
  - delete_rows: {table: 'odd s.Order %%s', where: "%s"}
settings: {lanes: 2, approve: [], walk: %s}
"""


@pytest.fixture(autouse=True)
def table(engine: Engine) -> None:
    engine.execute('CREATE SCHEMA "odd s"')
    engine.execute(
        f"""
        CREATE TABLE {NAME} (
            tenant text, id bigint GENERATED ALWAYS AS IDENTITY, "Status" text, tags text[], detail jsonb, price numeric(12, 3),
            day date, twice text GENERATED ALWAYS AS ("Status" || '!') STORED, wide text,
            PRIMARY KEY (tenant, id)
        );
        INSERT INTO {NAME} (tenant, "Status", tags, detail, price, day, wide)
        SELECT 't' || n % 3, CASE WHEN n % 2 = 0 THEN 'draft' ELSE 'open' END, ARRAY['a,b', NULL, '"q" ' || n],
               CASE WHEN n % 5 > 0 THEN jsonb_build_object('n', n, 'x', NULL) END, n / 8.0, date '2026-01-01' + n,
               CASE WHEN n % 10 = 0 THEN repeat('wide ', 400) END
        FROM generate_series(1, {ROWS}) n
    """
    )


def rows(engine: Engine) -> list[dict[str, Any]]:
    return engine.execute(f"SELECT * FROM {NAME} ORDER BY tenant, id")


def migration(where: str = "\\\"Status\\\" = 'draft'", walk: str = "auto") -> str:
    return DELETE % (where, walk)


def examined(engine: Engine) -> Examination:
    return examine.examine(engine.connection, definition.parse(migration()))


@pytest.mark.parametrize("walk", ["pages", "keys"])
def test_rows_are_deleted_and_come_back_as_they_were(engine: Engine, walk: str) -> None:
    before = rows(engine)
    run = engine.enqueue(migration(walk=walk))
    done = engine.drive(run, batch_rows=7)
    expect(done, State.COMPLETED)
    assert done.verified_at is not None
    assert [one for one in before if one["Status"] != "draft"] == rows(engine)
    assert sum(lane.rows_changed for lane in engine.lanes(run, "backfill")) == ROWS / 2
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run, batch_rows=5), State.ROLLED_BACK)
    assert rows(engine) == before


def test_it_goes_back_from_every_step(engine: Engine) -> None:
    before = rows(engine)
    for steps in range(1, 30, 3):
        run = engine.enqueue(migration())
        left = iter(range(steps))
        state = engine.drive(run, batch_rows=7, until=lambda _run, left=left: next(left, None) is None).state  # type: ignore[misc] # bound here
        commands.rollback(engine.connection, run, actor="test")
        expect(engine.drive(run, batch_rows=5, shuffle=random.Random(steps)), State.ROLLED_BACK)
        assert rows(engine) == before, steps
        if state is State.COMPLETED:
            return
    pytest.fail("the run never came to its end")


def test_rows_that_come_meanwhile_go_too_and_one_whose_key_is_taken_stays_out(engine: Engine) -> None:
    run = engine.enqueue(migration())
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY)
    engine.execute(f"""INSERT INTO {NAME} (tenant, "Status") VALUES ('late', 'draft')""")
    expect(engine.drive(run), State.COMPLETED)
    assert not [one for one in rows(engine) if one["Status"] == "draft"]
    engine.execute(
        f"""INSERT INTO {NAME} (tenant, id, "Status") OVERRIDING SYSTEM VALUE VALUES ('t2', 2, 'of another')"""
    )
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run), State.ROLLED_BACK)
    found = rows(engine)
    assert len(found) == ROWS + 1
    assert [one["Status"] for one in found if one["id"] == 2] == ["of another"]
    (done,) = engine.execute("SELECT detail FROM backfilld.events WHERE what = 'undo.done'")
    assert (done["detail"]["left"], done["detail"]["keys"]) == (1, [["t2", "2"]])
    assert engine.quarantined(run) == [], "a key that is taken is no error"


def test_rows_that_others_refer_to_are_set_aside_by_key(engine: Engine) -> None:
    engine.execute(f"""
        CREATE TABLE lines (id bigint PRIMARY KEY, tenant text, ordered bigint, FOREIGN KEY (tenant, ordered) REFERENCES {NAME});
        INSERT INTO lines VALUES (1, 't1', 4), (2, 't0', 6)
    """)
    found = examined(engine)
    assert found.findings == []
    assert any("to which public.lines refers" in one for one in found.warnings)
    assert any("no index of public.lines begins with tenant, ordered" in one for one in found.warnings)
    run = engine.enqueue(migration())
    expect(engine.drive(run, batch_rows=9), State.PAUSED)
    assert {(one.key, one.sqlstate) for one in engine.quarantined(run)} == {
        (("t1", "4"), "23503"),
        (("t0", "6"), "23503"),
    }
    assert [one["id"] for one in rows(engine) if one["Status"] == "draft"] == [6, 4]
    engine.execute("DELETE FROM lines")
    commands.retry(engine.connection, run, actor="test")
    expect(engine.drive(run), State.COMPLETED)


def test_a_trigger_of_the_application_sees_its_own_settings_and_may_keep_a_row(engine: Engine) -> None:
    """Its function names a table without a schema, which is found by the application's search_path alone."""
    engine.execute(f"""
        CREATE TABLE gone (id bigint, by text);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO gone VALUES (coalesce(OLD.id, NEW.id), TG_OP); RETURN NULL; END $$;
        CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF OLD.id = 10 AND NOT EXISTS (SELECT FROM gone WHERE by = 'may go') THEN RETURN NULL; END IF; RETURN OLD; END $$;
        CREATE TRIGGER tell AFTER INSERT OR DELETE ON {NAME} FOR EACH ROW EXECUTE FUNCTION tell();
        CREATE TRIGGER keep BEFORE DELETE ON {NAME} FOR EACH ROW EXECUTE FUNCTION keep();
    """)
    warnings = examined(engine).warnings
    assert any("the trigger keep" in one and "may keep the row" in one for one in warnings)
    run = engine.enqueue(migration())
    paused = engine.drive(run)
    expect(paused, State.PAUSED)
    assert paused.error is not None
    assert paused.error["class"] == "undone"
    engine.execute("INSERT INTO gone VALUES (0, 'may go')")
    commands.resume(engine.connection, run, actor="test")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT count(*) FROM gone WHERE by = 'DELETE'") == ROWS / 2
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.value("SELECT count(*) FROM gone WHERE by = 'INSERT'") == ROWS / 2


def test_a_partitioned_table_is_walked_leaf_by_leaf_and_filled_again(engine: Engine) -> None:
    engine.execute("""
        CREATE TABLE parts (id bigint PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (20);
        CREATE TABLE high PARTITION OF parts FOR VALUES FROM (20) TO (100);
        INSERT INTO parts SELECT n, 'v' || n FROM generate_series(1, 40) n
    """)
    run = engine.enqueue(
        "name: p\noperations: [{delete_rows: {table: parts, where: 'id % 2 = 0'}}]\nsettings: {approve: []}"
    )
    expect(engine.drive(run, batch_rows=4), State.COMPLETED)
    assert {lane.relation for lane in engine.lanes(run, "backfill")} == {"low", "high"}
    assert engine.value("SELECT count(*) FROM parts") == 20
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.value("SELECT count(*) FROM parts") == 40


def test_without_a_journal_there_is_no_way_back(engine: Engine) -> None:
    run = engine.enqueue(migration().replace("settings: {", "settings: {journal: off, "))
    expect(engine.drive(run), State.COMPLETED)
    assert len(rows(engine)) == ROWS / 2
    with pytest.raises(Refused, match="without a journal"):
        commands.rollback(engine.connection, run, actor="test")


def test_the_plan_says_what_is_deleted(engine: Engine) -> None:
    change = definition.parse(migration())
    made = plan.make(change, examine.examine(engine.connection, change))
    (statement,) = next(one.actions for one in made.phases if one.phase is Phase.BACKFILL)
    assert statement.sql.startswith(f"DELETE FROM {NAME} WHERE ")


REFUSED = {
    "a cascade": (
        f"CREATE TABLE lines (id int, t text, o bigint, FOREIGN KEY (t, o) REFERENCES {NAME} ON DELETE CASCADE)",
        "of public.lines deletes rows that refer to a deleted row",
    ),
    "a key set to NULL": (
        f"CREATE TABLE lines (id int, t text, o bigint, FOREIGN KEY (t, o) REFERENCES {NAME} ON DELETE SET NULL)",
        "of public.lines sets columns to NULL",
    ),
    "a rule": (f"CREATE RULE keep AS ON DELETE TO {NAME} DO INSTEAD NOTHING", "the rule keep rewrites every DELETE"),
    "no key": (f'ALTER TABLE {NAME} DROP CONSTRAINT "Order %s_pkey"', "so it cannot be walked"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_taken_back_is_refused(engine: Engine, what: str) -> None:
    statement, said = REFUSED[what]
    engine.execute(statement)
    assert any(said in str(one) for one in examined(engine).findings), examined(engine).findings


def test_a_condition_over_the_clock_is_refused_and_the_way_round_is_named(engine: Engine) -> None:
    found = examine.examine(engine.connection, definition.parse(migration("day < now()")))
    (finding,) = found.findings
    assert "now()" in finding.problem
    assert "parameters" in finding.remedy


def test_the_rights_that_it_needs_are_asked_for(engine: Engine, plain_role_url: str) -> None:
    with psycopg.connect(plain_role_url, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
        role = connection.info.user
        engine.execute(f'GRANT USAGE ON SCHEMA "odd s" TO "{role}"')
        engine.execute(f'GRANT SELECT, UPDATE, DELETE ON {NAME} TO "{role}"')
        found = examine.examine(connection, definition.parse(migration()))
        assert [one.check for one in found.findings] == ["privileges"]
        engine.execute(f'GRANT INSERT ON {NAME} TO "{role}"')
        assert examine.examine(connection, definition.parse(migration())).findings == []


#: Ends its own server process at some of the batches of ours that it is called in.
DIE = """
CREATE SEQUENCE calls;
CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF current_setting('backfilld.batch', true) = 'on' AND nextval('public.calls') % TG_ARGV[0]::integer = 1 THEN
        PERFORM pg_terminate_backend(pg_backend_pid());
    END IF;
    RETURN NULL;
END $$
"""


@pytest.mark.parametrize(
    "when",
    [
        f"CREATE TRIGGER die AFTER DELETE OR INSERT ON {NAME} FOR EACH STATEMENT EXECUTE FUNCTION public.die(7)",
        (
            f"CREATE CONSTRAINT TRIGGER die AFTER DELETE OR INSERT ON {NAME} DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION public.die(61)"
        ),
        "CREATE TRIGGER die AFTER UPDATE ON backfilld.lanes FOR EACH ROW WHEN (new.seq > old.seq) EXECUTE FUNCTION public.die(7)",
    ],
    ids=["in the batch", "in the commit", "at the checkpoint"],
)
def test_whatever_is_killed_no_row_is_lost_or_doubled_beside_a_writer(engine: Engine, when: str) -> None:
    engine.execute(DIE)
    engine.execute(when)
    writer = random.Random(when)
    before = {(one["tenant"], one["id"]): one for one in rows(engine)}

    def write(_run: object) -> bool:
        """The application adds a row that meets the condition, one that does not, and changes one that does not."""
        for status in ("draft", "open"):
            engine.execute(f"INSERT INTO {SENT} (tenant, \"Status\", price) VALUES ('new', %s, 1)", status)
        changed = writer.choice([key for key, one in before.items() if one["Status"] == "open"])
        engine.execute(f"UPDATE {SENT} SET price = price + 1 WHERE (tenant, id) = (%s, %s)", *changed)
        before[changed]["price"] += 1
        return len(engine.told(CommitUnknown)) >= 3

    run = engine.enqueue(migration())
    engine.drive(run, batch_rows=5, until=write)
    expect(engine.drive(run, batch_rows=5), State.COMPLETED)
    assert not [one for one in rows(engine) if one["Status"] == "draft"]
    killed = len(engine.told(CommitUnknown))
    assert killed
    commands.rollback(engine.connection, run, actor="test")
    expect(engine.drive(run, batch_rows=5), State.ROLLED_BACK)
    assert len(engine.told(CommitUnknown)) > killed
    found = rows(engine)
    assert [one for one in found if one["tenant"] != "new"] == sorted(
        before.values(), key=lambda one: (one["tenant"], one["id"])
    )
    of_others = [one["Status"] for one in found if one["tenant"] == "new"]
    assert of_others.count("draft") == of_others.count("open")
