"""`change_key`: a key gets other values, and all that refers to it with them, while the application writes; there and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_rules import application
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning.examine import examine
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.rollback.check import look
from backfilld.producers import commands
from proof.fingerprint import difference, fingerprint

if TYPE_CHECKING:
    from fix_runs import Engine

KEY = """
name: users-uuid
operations: [{change_key: {table: users, column: id, type: uuid, values: "gen_random_uuid()"}}]
settings: {lanes: 2, approve: %s}
"""
ROWS = 40


@pytest.fixture
def users(engine: Engine) -> Engine:
    """A key with an identity; referred to by itself, by a column that may be NULL, by a part of a key, and by one key of another."""
    engine.execute(
        "CREATE TABLE users (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, boss integer REFERENCES users);"
        "COMMENT ON COLUMN users.id IS 'who'; GRANT SELECT (id) ON users TO PUBLIC;"
        'CREATE TABLE "Orders" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "User" integer NOT NULL REFERENCES users ON DELETE CASCADE,'
        " seller integer CONSTRAINT sold_by REFERENCES users ON DELETE SET NULL);"
        'CREATE INDEX by_user ON "Orders" ("User", id);'
        "CREATE TABLE profiles (user_id integer PRIMARY KEY REFERENCES users ON UPDATE CASCADE ON DELETE CASCADE, bio text);"
        "CREATE TABLE pictures (profile integer REFERENCES profiles ON UPDATE CASCADE ON DELETE CASCADE, n integer, PRIMARY KEY (profile, n))"
    )
    engine.execute(
        f"INSERT INTO users (name, boss) SELECT 'u' || n, CASE WHEN n > 3 THEN n / 3 END FROM generate_series(1, {ROWS}) n;"
        f'INSERT INTO "Orders" ("User", seller) SELECT n, CASE WHEN n % 3 = 0 THEN n / 3 END FROM generate_series(1, {ROWS}) n;'
        f"INSERT INTO profiles SELECT n, 'b' || n FROM generate_series(1, {ROWS}, 2) n;"
        f"INSERT INTO pictures SELECT n, n FROM generate_series(1, {ROWS}, 4) n"
    )
    return engine


def said(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    """What the tables say by name, whatever the keys are."""
    queries = {
        "users": "SELECT u.name, b.name AS boss FROM users u LEFT JOIN users b ON b.id = u.boss",
        "orders": 'SELECT o.id, u.name, s.name AS seller, o.seller IS NULL AS nobody FROM "Orders" o JOIN users u ON u.id = o."User" '
        "LEFT JOIN users s ON s.id = o.seller",
        "profiles": "SELECT p.bio, u.name FROM profiles p JOIN users u ON u.id = p.user_id",
        "pictures": "SELECT x.n, p.bio FROM pictures x JOIN profiles p ON p.user_id = x.profile",
    }
    return {
        name: sorted((tuple(row.values()) for row in engine.execute(query)), key=repr)
        for name, query in queries.items()
    }


def types(engine: Engine) -> set[str]:
    rows = engine.execute(
        "SELECT DISTINCT format_type(atttypid, NULL) AS type FROM pg_attribute WHERE attrelid IN "
        "('users'::regclass, '\"Orders\"'::regclass, 'profiles'::regclass, 'pictures'::regclass) "
        "AND attname IN ('boss', 'User', 'seller', 'user_id', 'profile') OR attrelid = 'users'::regclass AND attname = 'id'"
    )
    return {row["type"] for row in rows}


def rules(engine: Engine) -> set[str]:
    """All constraints and indexes, by name and words."""
    rows = engine.execute(
        "SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid)) AS one FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"
    )
    return {row["one"] for row in rows}


def test_the_key_and_all_that_refers_to_it_change_in_one_switch(users: Engine) -> None:
    before, ruled = said(users), rules(users)
    run = users.enqueue(KEY % "[switch, contract]")
    users.drive(run, until=lambda run: run.phase is Phase.BACKFILL)
    # Rows that come while lanes work, one of which refers to itself.
    users.execute(
        "INSERT INTO users (name) VALUES ('late'); UPDATE users SET boss = id WHERE name = 'late';"
        'INSERT INTO "Orders" ("User", seller) SELECT id, 7 FROM users WHERE name = \'late\';'
        "WITH made AS (INSERT INTO users (name) VALUES ('later') RETURNING id) INSERT INTO profiles SELECT id, 'late' FROM made"
    )
    expect(users.drive(run), State.WAITING)
    assert types(users) == {"integer"}
    # A row that is not there yet when its reference is looked up, and must have a new value all the same.
    users.execute("INSERT INTO users (id, name, boss) OVERRIDING SYSTEM VALUE VALUES (900, 'own boss', 900)")
    before = said(users)
    given = users.execute("SELECT name, id_backfilld_new AS id FROM users")
    commands.approve(users.connection, run, Phase.SWITCH, actor="ann")
    expect(users.drive(run), State.WAITING)
    assert types(users) == {"uuid"}
    assert said(users) == before
    assert users.execute("SELECT name, id FROM users") == given, "a value that was given is never another one"
    assert rules(users) - {one for one in rules(users) if "NOT NULL id_backfilld" in one} >= ruled - {
        one for one in ruled if "NOT NULL" in one
    }
    users.execute("INSERT INTO users (name, boss) SELECT 'new', id FROM users WHERE name = 'late'")
    users.execute('INSERT INTO "Orders" ("User") SELECT id FROM users WHERE name = \'new\'')
    users.execute(
        "DELETE FROM users WHERE name = 'u39'; UPDATE \"Orders\" SET seller = NULL WHERE seller IS NOT NULL AND id < 10"
    )
    after = said(users)
    assert users.value("SELECT id_backfilld_old FROM users WHERE name = 'new'") == ROWS + 3

    commands.rollback(users.connection, run, actor="ann")
    expect(users.drive(run), State.ROLLED_BACK)
    assert (types(users), said(users), rules(users)) == ({"integer"}, after, ruled)

    run = users.enqueue(KEY.replace("users-uuid", "again") % "[contract]")
    expect(users.drive(run), State.WAITING)
    assert said(users) == after
    commands.approve(users.connection, run, Phase.CONTRACT, actor="ann")
    expect(users.drive(run), State.COMPLETED)
    assert said(users) == after
    left = "SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid WHERE attname LIKE '%backfilld%' AND relkind = 'r'"
    assert users.value(f"{left} AND relnamespace = 'public'::regnamespace AND NOT attisdropped") == 0


def numbers(engine: Engine) -> list[dict[str, Any]]:  # Any: values of the tests' own
    return engine.execute("SELECT name, id FROM users ORDER BY name")


def test_it_goes_back_after_contract(users: Engine) -> None:
    """Old values come from the archive, and rows that came since get numbers that no row has had."""
    before, ruled, given = said(users), rules(users), numbers(users)
    was = fingerprint(users.connection, positions=False)
    run = users.enqueue(KEY % "[]")
    expect(users.drive(run), State.COMPLETED)
    assert (types(users), said(users)) == ({"uuid"}, before)
    # Rows that refer to each other, to themselves, and to rows of before; and what was referred to is gone, or is another one.
    users.execute(
        "DELETE FROM users WHERE name = 'u40'; UPDATE users SET boss = (SELECT id FROM users WHERE name = 'u2') WHERE name = 'u30';"
        "INSERT INTO users (name, boss) SELECT 'new', id FROM users WHERE name = 'u1';"
        "UPDATE users SET boss = (SELECT id FROM users WHERE name = 'new') WHERE name IN ('u7', 'new');"
        "INSERT INTO \"Orders\" (\"User\", seller) SELECT n.id, o.id FROM users n, users o WHERE n.name = 'new' AND o.name = 'u3';"
        "WITH made AS (INSERT INTO users (name) VALUES ('newer') RETURNING id), known AS (INSERT INTO profiles (user_id, bio) SELECT id, 'newer' FROM made"
        " RETURNING user_id) INSERT INTO pictures (profile, n) SELECT user_id, 77 FROM known"
    )
    after = said(users)
    commands.rollback(users.connection, run, actor="ann")
    expect(users.drive(run, batch_rows=7), State.ROLLED_BACK)
    assert (types(users), said(users), rules(users)) == ({"integer"}, after, ruled)
    now = {row["name"]: row["id"] for row in numbers(users)}
    assert {row["name"]: row["id"] for row in given if row["name"] != "u40"} == {
        name: number for name, number in now.items() if not str(name).startswith("new")
    }
    assert min(now["new"], now["newer"]) > ROWS
    users.execute("INSERT INTO users (name) VALUES ('last')")
    assert users.value("SELECT id FROM users WHERE name = 'last'") > max(now.values())
    assert difference(was, fingerprint(users.connection, positions=False)) == ""
    assert kept(users) == 0


def kept(engine: Engine) -> int:
    """How many tables are kept."""
    found = engine.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'backfilld' AND tablename ~ '^table_'")
    assert isinstance(found, int)
    return found


_SOAK = pytest.mark.soak


@pytest.mark.parametrize(
    ("key", "given", "to"),
    [
        ("id serial NOT NULL UNIQUE, n bigserial PRIMARY KEY", "", "contract"),
        ("id text DEFAULT 'c' || nextval('shared') PRIMARY KEY", "", "contract"),
        ("id integer NOT NULL UNIQUE, n bigserial PRIMARY KEY", ", down: \"nextval('public.shared')\"", "switch"),
        ("id text PRIMARY KEY", ', down: "left(id::text, 8)"', "contract"),
        pytest.param("id serial PRIMARY KEY", "", "contract", marks=_SOAK),
        pytest.param("id serial NOT NULL UNIQUE, n bigserial PRIMARY KEY", "", "switch", marks=_SOAK),
        pytest.param("id integer DEFAULT nextval('shared') PRIMARY KEY", "", "contract", marks=_SOAK),
        pytest.param("id integer PRIMARY KEY", ", down: \"nextval('public.shared')\"", "switch", marks=_SOAK),
        pytest.param("id integer NOT NULL UNIQUE, n bigserial PRIMARY KEY", ", down: \"nextval('public.shared')\"", "contract", marks=_SOAK),
    ],
)  # fmt: skip
def test_old_values_for_rows_that_have_come_since(engine: Engine, key: str, given: str, to: str) -> None:
    """By the DEFAULT that the key had, or by `down`."""
    engine.execute(
        f"CREATE SEQUENCE shared START 100; CREATE TABLE codes ({key}, name text); INSERT INTO codes (id, name) VALUES ('1', 'one'), ('2', 'two');"
        f"CREATE TABLE uses (n integer PRIMARY KEY, code {'text' if 'text' in key else 'integer'} REFERENCES codes (id));"
        "INSERT INTO uses SELECT 1, min(id) FROM codes"
    )
    if key.startswith("id serial"):
        engine.execute("SELECT setval('codes_id_seq', 50)")
    was, ruled = fingerprint(engine.connection, positions=False), rules(engine)
    run = engine.enqueue(
        f"{{name: codes, operations: [{{change_key: {{table: codes, column: id, type: uuid, values: gen_random_uuid(){given}}}}}], "
        f"settings: {{approve: {'[contract]' if to == 'switch' else '[]'}}}}}"
    )
    expect(engine.drive(run), State.WAITING if to == "switch" else State.COMPLETED)
    added = "INSERT INTO codes (id, name) VALUES (gen_random_uuid(), 'three') RETURNING id"
    engine.execute(f"WITH made AS ({added}) INSERT INTO uses (n, code) SELECT 2, id FROM made")
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    found = engine.execute(
        "SELECT c.id::text AS id, u.n FROM codes c LEFT JOIN uses u ON u.code = c.id ORDER BY c.name"
    )
    assert [(row["id"], row["n"]) for row in (found[0], found[2])] == [("1", 1), ("2", None)]
    assert found[1]["n"] == 2
    assert found[1]["id"] not in {"1", "2", None}
    assert (difference(was, fingerprint(engine.connection, positions=False)), rules(engine), kept(engine)) == (
        "",
        ruled,
        0,
    )


def test_a_row_that_nothing_gives_an_old_value_blocks_the_way_back(engine: Engine) -> None:
    engine.execute(
        "CREATE TABLE codes (id integer PRIMARY KEY, name text); INSERT INTO codes VALUES (1, 'one'), (2, 'two');"
        "CREATE TABLE uses (n integer PRIMARY KEY, code integer REFERENCES codes)"
    )
    run = engine.enqueue(
        "{name: codes, operations: [{change_key: {table: codes, column: id, type: uuid, values: gen_random_uuid()}}], settings: {approve: []}}"
    )
    expect(engine.drive(run), State.COMPLETED)
    assert look(engine.connection, engine.run(run)).possible
    late = engine.value("INSERT INTO codes (id, name) VALUES (gen_random_uuid(), 'late') RETURNING id::text")
    checked = look(engine.connection, engine.run(run))
    assert (checked.possible, checked.blocked_by, checked.keys) == (False, 1, ((late,),))
    with pytest.raises(Refused, match="nothing gives them a value of the old type"):
        commands.rollback(engine.connection, run, actor="ann")
    # One that comes once the way back has begun stops it, by its key; a person gives it a value.
    engine.execute("DELETE FROM codes WHERE name = 'late'")
    commands.rollback(engine.connection, run, actor="ann")
    engine.drive(run, until=lambda _: bool(engine.lanes(run, "restore")))
    late = engine.value("INSERT INTO codes (id, name) VALUES (gen_random_uuid(), 'later') RETURNING id::text")
    expect(engine.drive(run), State.FAILED)
    assert late in str(engine.run(run).error)
    engine.execute("INSERT INTO uses SELECT 7, id FROM codes WHERE name = 'one'")
    engine.execute("UPDATE codes SET id_backfilld_old = 3 WHERE name = 'later'")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.execute("SELECT id, name FROM codes ORDER BY id") == [
        {"id": 1, "name": "one"}, {"id": 2, "name": "two"}, {"id": 3, "name": "later"},
    ]  # fmt: skip
    assert engine.value("SELECT code FROM uses WHERE n = 7") == 1


@pytest.mark.parametrize("steps", [15, 33, *(pytest.param(n, marks=pytest.mark.soak) for n in (1, 9, 24, 41))])
def test_it_goes_back_from_the_middle(users: Engine, steps: int) -> None:
    """After so many of the coordinator's steps; the proof goes back from each statement."""
    before, was = said(users), fingerprint(users.connection, positions=False)
    run = users.enqueue(KEY % "[contract]")
    users.drive(run, until=lambda run: users.lane(run.run, 0).seq >= steps)
    commands.rollback(users.connection, run, actor="ann")
    expect(users.drive(run), State.ROLLED_BACK)
    assert (difference(was, fingerprint(users.connection, positions=False)), said(users)) == ("", before)


def test_an_application_writes_all_the_while(users: Engine) -> None:
    """By names alone: its statements mean the same before the switch and after it."""
    run = users.enqueue(KEY % "[contract]")
    with application(
        users,
        "INSERT INTO users (name, boss) SELECT 'w{n}', (SELECT id FROM users WHERE name = 'u5')",
        'INSERT INTO "Orders" ("User") SELECT id FROM users WHERE name = \'w{n}\' LIMIT 1',
        "UPDATE users SET boss = (SELECT id FROM users WHERE name = 'u6') WHERE name = 'w{n}'",
        "DELETE FROM users WHERE name = 'w{n}'",
        threads=1,
    ) as failures:
        expect(users.drive(run, batch_rows=25), State.WAITING)
        commands.rollback(users.connection, run, actor="ann")
        expect(users.drive(run), State.ROLLED_BACK)
    assert failures == []


def test_what_hangs_on_the_columns_is_made_anew(users: Engine) -> None:
    """Views that join by them, views of views, policies, statistics, checks, and triggers that fire for them; there and back."""
    users.execute(
        "CREATE VIEW boss_of AS SELECT u.name, b.name AS boss, count(o.id) AS orders FROM users u LEFT JOIN users b ON b.id = u.boss "
        'LEFT JOIN "Orders" o ON o."User" = u.id GROUP BY u.id, b.id;'
        "CREATE VIEW fans AS SELECT p.user_id, b.boss FROM profiles p JOIN users u ON u.id = p.user_id JOIN boss_of b ON b.name = u.name;"
        "COMMENT ON VIEW fans IS 'who'; GRANT SELECT ON fans, boss_of TO PUBLIC;"
        "ALTER TABLE pictures ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON pictures USING (EXISTS (SELECT FROM profiles p WHERE p.user_id "
        "= pictures.profile)); CREATE STATISTICS both_of ON boss, name FROM users;"
        'ALTER TABLE "Orders" ADD CONSTRAINT sold CHECK (seller IS NULL OR id > 0);'
        "CREATE TABLE changes (what text); CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO public.changes VALUES (tg_op); RETURN NULL; END $$;"
        "CREATE TRIGGER noted AFTER UPDATE OF boss, name ON users FOR EACH ROW WHEN (old.boss IS DISTINCT FROM new.boss) "
        "EXECUTE FUNCTION noted(); ALTER TABLE users ENABLE ALWAYS TRIGGER noted"
    )
    was, ruled = fingerprint(users.connection, positions=False), rules(users)
    seen = (
        users.execute("SELECT name, boss, orders FROM boss_of ORDER BY name"),
        users.value("SELECT count(*) FROM fans"),
    )
    run = users.enqueue(KEY % "[contract]")
    expect(users.drive(run), State.WAITING)
    assert (
        users.execute("SELECT name, boss, orders FROM boss_of ORDER BY name"),
        users.value("SELECT count(*) FROM fans"),
    ) == seen
    assert users.value("SELECT count(*) FROM changes") == 0
    users.execute("UPDATE users SET boss = NULL WHERE name = 'u9'; INSERT INTO users (name) VALUES ('new')")
    assert users.value("SELECT count(*) FROM changes") == 1
    with pytest.raises(psycopg.errors.CheckViolation):
        users.execute(
            'INSERT INTO "Orders" (id, "User", seller) OVERRIDING SYSTEM VALUE SELECT -1, id, id FROM users LIMIT 1'
        )
    commands.approve(users.connection, run, Phase.CONTRACT, actor="ann")
    expect(users.drive(run), State.COMPLETED)
    commands.rollback(users.connection, run, actor="ann")
    expect(users.drive(run), State.ROLLED_BACK)
    assert (difference(was, fingerprint(users.connection, positions=False)), rules(users)) == ("", ruled)


@pytest.mark.since(15)
def test_lists_of_columns_in_publications_name_the_new_columns(engine: Engine) -> None:
    """Two columns of one table in one list, and a column of another table; there and back."""
    engine.execute(
        "CREATE TABLE users (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, boss integer REFERENCES users);"
        "CREATE TABLE profiles (user_id integer PRIMARY KEY REFERENCES users, bio text); INSERT INTO users (name, boss) VALUES ('a', 1);"
        "CREATE PUBLICATION news FOR TABLE users (boss, id), profiles (user_id); CREATE PUBLICATION few FOR TABLE users (id)"
    )
    listed = (
        "SELECT pubname, tablename, ARRAY(SELECT a FROM unnest(attnames) a WHERE a !~ 'backfilld' ORDER BY 1)::text[] AS columns "
        "FROM pg_publication_tables ORDER BY 1, 2"
    )
    numbered = "SELECT p.pubname, array_agg(a.attname ORDER BY a.attname) AS columns FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs) GROUP BY 1 ORDER BY 1"
    had, named = engine.execute(listed), engine.execute(numbered)
    run = engine.enqueue(KEY % "[contract]")
    expect(engine.drive(run), State.WAITING)
    assert (engine.execute(listed), engine.execute(numbered)) == (had, named)
    commands.approve(engine.connection, run, Phase.CONTRACT, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert (engine.execute(listed), engine.execute(numbered)) == (had, named)
    engine.execute("ALTER PUBLICATION few SET TABLE users (id) WHERE (id > 7)")
    with pytest.raises(Refused, match="the publication few sends rows of users by a filter"):
        engine.enqueue(KEY.replace("users-uuid", "again") % "[]")


@pytest.mark.parametrize(
    ("made", "check", "words"),
    [
        ("CREATE VIEW odd AS SELECT boss + 1 AS more FROM users", "column_dependents", "the view public.odd is not accepted"),
        ("CREATE MATERIALIZED VIEW kept AS SELECT boss FROM users", "column_dependents", "the materialized view public.kept reads it"),
        ("ALTER TABLE users ADD CHECK (boss IS NULL OR id IS NOT NULL)", "column_dependents", "which both change"),
        ("ALTER TABLE pictures ALTER profile SET DEFAULT 1", "references", "has a DEFAULT"),
        ('ALTER TABLE "Orders" ALTER CONSTRAINT sold_by DEFERRABLE', "references", "is deferrable"),
        ("ALTER TABLE users ADD CHECK (id > 0)", "column_dependents", "users_id_check cannot be kept with the new type"),
        ("CREATE INDEX both_of ON users (id, boss)", "index", "which both change"),
        ("CREATE TABLE others (id integer PRIMARY KEY REFERENCES users, n integer); ALTER TABLE others ADD FOREIGN KEY (id) REFERENCES items",
         "references", "which keeps its values"),
        ("CREATE TABLE keyless (who integer REFERENCES users)", "key", "has no primary key"),
    ],
)  # fmt: skip
def test_what_is_refused(users: Engine, made: str, check: str, words: str) -> None:
    users.execute("CREATE TABLE items (id integer PRIMARY KEY)")
    users.execute(made)
    before = fingerprint(users.connection)
    with pytest.raises(Refused, match=words) as refused:
        examine(users.connection, definition.parse(KEY % "[]")).require()
    assert {one.check for one in refused.value.findings} == {check}
    assert difference(before, fingerprint(users.connection)) == ""
