"""What preflight refuses, what it warns of, and what it tells the walk. Nothing of it changes the database."""

from __future__ import annotations

import json
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from fix_runs import expect
from psycopg import sql
from psycopg.rows import dict_row

from backfilld.migrations.errors import Refused
from backfilld.migrations.facts import Facts
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine, plan
from backfilld.migrations.postgres import connect, pooler
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.postgres.definitions import KeyColumn
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.telemetry import StateChanged
from backfilld.producers import commands
from backfilld.worker.lanes.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_runs import Engine

    from backfilld.migrations.planning.examine import Examination
    from backfilld.migrations.postgres.connect import Connection


def examined(connection: Connection, *operations: dict[str, Any]) -> Examination:
    text = json.dumps({"name": "m", "operations": operations})
    return examine.examine(connection, definition.parse(text))


def checks(found: Examination) -> list[str]:
    return [finding.check for finding in found.findings]


def told(found: Examination) -> str:
    return "\n".join(map(str, found.findings))


def backfill(
    expression: str = "lower(status)", *, table: str = "jobs", column: str = "slug", **also: str
) -> dict[str, Any]:
    return {"backfill": {"table": table, "set": {column: expression}, **also}}


def add(
    expression: str | None = "upper(status)",
    *,
    table: str = "jobs",
    column: str = "shout",
    type_: str = "text",
    **also: Any,
) -> dict[str, Any]:
    value = {} if expression is None else {"backfill": expression}
    return {"add_column": {"table": table, "column": {"name": column, "type": type_}, **value, **also}}


@pytest.fixture(autouse=True)
def tables(engine: Engine) -> None:
    engine.execute(
        """
        CREATE TABLE jobs (id bigint PRIMARY KEY, status text, slug text, n integer, at timestamptz, data jsonb, raw json,
                           twice integer GENERATED ALWAYS AS (n * 2) STORED, serial bigint GENERATED ALWAYS AS IDENTITY);
        CREATE TABLE keyless (status text, slug text);
        CREATE TABLE "Jobs Of 2024" (id bigint PRIMARY KEY, status text);
        CREATE TABLE other (id bigint PRIMARY KEY, n integer);
        CREATE VIEW a_view AS SELECT * FROM jobs;
        CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM jobs;
        CREATE SEQUENCE a_sequence;
        CREATE TABLE parent (id bigint PRIMARY KEY, status text, slug text);
        CREATE TABLE child (extra text) INHERITS (parent);
        CREATE TABLE parts (id bigint PRIMARY KEY, status text, slug text) PARTITION BY RANGE (id);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (100);
        CREATE TABLE odd_keys (a integer, b integer NOT NULL, c integer NOT NULL, d integer NOT NULL, status text, slug text);
        CREATE UNIQUE INDEX ON odd_keys (a);
        CREATE UNIQUE INDEX ON odd_keys (b) WHERE b > 0;
        CREATE UNIQUE INDEX ON odd_keys (c DESC);
        CREATE UNIQUE INDEX ON odd_keys ((d + 1));
        """
    )


def test_what_can_run_is_not_refused(engine: Engine) -> None:
    found = examined(engine.connection, backfill(), add(), backfill(table="Jobs Of 2024", column="status"))
    assert told(found) == ""
    assert found.facts[0].key == (KeyColumn(name="id", type="bigint"),)
    assert found.facts[0].repeatable
    assert not found.facts[2].repeatable, "it reads what it sets"


REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a missing table": (backfill(table="job"), "table", "there is no table job. Did you mean jobs?"),
    "a table in other letters": (backfill(table="jobs of 2024"), "table", "Did you mean Jobs Of 2024?"),
    "a table of another schema": (backfill(table="app.jobs"), "table", "there is no table app.jobs"),
    "a table like no other": (backfill(table="zzzzzzzzzzzz"), "table", "Name it as schema.table"),
    "a view": (backfill(table="a_view"), "table_kind", "is a view"),
    "a materialized view": (backfill(table="a_matview"), "table_kind", "is a materialized view"),
    "a sequence": (backfill(table="a_sequence"), "table_kind", "is a sequence"),
    "a table of the catalog": (backfill(table="pg_catalog.pg_locks"), "target", "belongs to PostgreSQL itself"),
    "no key": (backfill(table="keyless"), "key", "cannot be walked"),
    "no usable key": (backfill(table="odd_keys"), "key", "cannot be walked"),
    "a parent": (backfill(table="parent"), "inheritance", "inherit"),
    "a column on one partition": (add(table="parts_1"), "partition", "Name the partitioned table"),
    "a missing column": (backfill(column="slugg"), "column", "has no column slugg. Did you mean slug?"),
    "a missing column in the expression": (backfill("lower(statuss)"), "expression", 'column "statuss" does not exist'),
    "a generated column": (backfill("1", column="twice"), "column", "is a generated column"),
    "an identity column": (backfill("1", column="serial"), "column", "is a generated column"),
    "a column of the key": (backfill("id + 1", column="id"), "column", "part of the key"),
    "a column that is there": (add(column="slug"), "column", "already has a column slug"),
    "a system column": (add(column="ctid"), "type", "conflicts with a system column"),
    "a type that does not fit": (backfill("status", column="n"), "expression", "is of type integer but expression is of type text"),
    "a type that does not fit the new column": (add("status", type_="integer"), "expression", "is of type integer"),
    "a type that is none": (add(type_="tekst"), "type", 'type "tekst" does not exist'),
    "an unknown function": (backfill("lowr(status)"), "expression", "function lowr(text) does not exist"),
    "a function without its schema": (backfill("helper(status)"), "expression", "helper(text) does not exist"),
    "an aggregate": (backfill("max(status)"), "expression", "aggregate functions are not allowed"),
    "a window function": (backfill("row_number() OVER ()", column="n"), "expression", "window functions are not allowed"),
    "a set": (backfill("generate_series(1, 2)", column="n"), "expression", "set-returning functions are not allowed"),
    "a default over columns": (add(None, default="status"), "default", "cannot use column reference in DEFAULT"),
    "a default that does not fit": (add(None, type_="integer", default="'x'"), "default", "invalid input syntax"),
    "a condition that is none": (backfill(where="status"), "expression", "boolean"),
    "a condition over nothing": (backfill(where="nothing > 1"), "expression", 'column "nothing" does not exist'),
    "the new column read by its own expression": (add("coalesce(shout, status)"), "expression", "the column that it fills"),
    "a generated column read by the trigger": (add("twice::text"), "expression", "not yet computed"),
    "a statement smuggled in": (backfill("1); DROP TABLE other; --", column="n"), "expression", "closed without being opened"),
    "two statements": (backfill("1; DROP TABLE other", column="n"), "expression", "more than one statement"),
    "a statement in the condition": (backfill(where="true); DROP TABLE other; --"), "expression", "not one expression"),
    "a statement in the default": (add(None, default="'x'); DROP TABLE other; --"), "default", "not one expression"),
    "a statement in the type": (add(type_="text; DROP TABLE other"), "type", "more than one statement"),
    "a column in the type": (add(type_="text, ADD COLUMN more text"), "type", "more than one column"),
    "a subcommand in the type": (add(type_="text, DROP COLUMN slug"), "type", "syntax error"),
    "serial": (add(None, type_="bigserial"), "type", "a default or a constraint"),
    "a default in the type": (add(type_="text DEFAULT 'x'"), "type", "a default or a constraint"),
    "a constraint in the type": (add(type_="text NOT NULL"), "type", "a default or a constraint"),
    "a key in the type": (add(type_="text UNIQUE"), "type", "syntax error"),
    "a check in the type": (add(type_="text CHECK (true)"), "type", "syntax error"),
    "a reference in the type": (add(type_="bigint REFERENCES public.other"), "type", ""),
    "a collation in the type": (add(type_='text COLLATE "C"'), "type", "syntax error"),
    "a generated type": (add(None, type_="text GENERATED ALWAYS AS ('x') STORED"), "type", "a default or a constraint"),
    "a comment that hides the rest": (backfill("status /*"), "expression", "comment is not closed"),
    "a DELETE in a WITH": (
        backfill("(WITH gone AS (DELETE FROM public.other RETURNING 1) SELECT count(*)::text FROM gone)"),
        "expression",
        "data-modifying",
    ),
    "a parameter": (backfill("$1"), "expression", "there is no parameter $1"),
    "a placeholder of ours": (backfill("%s"), "expression", "syntax error"),
    "several columns": (backfill("(status, slug)", column="n"), "expression", "record"),
}  # fmt: skip


def test_refusals_name_the_place_and_the_remedy(engine: Engine) -> None:
    for case, (operation, check, words) in REFUSALS.items():
        found = examined(engine.connection, operation)
        assert checks(found) == [check], (case, told(found))
        assert words in told(found), case
        assert "operations[0]." in told(found), case
        assert all(finding.remedy for finding in found.findings), case
    assert engine.value("SELECT to_regclass('other') IS NOT NULL")


def test_every_refusal_is_told_at_once_and_nothing_is_written(engine: Engine) -> None:
    operations = [backfill(table="job"), add(column="at"), backfill("lowr(status)")]
    assert checks(examined(engine.connection, *operations)) == ["table", "column", "expression"]
    with pytest.raises(Refused):
        engine.enqueue(json.dumps({"name": "m", "operations": operations}))
    assert engine.value("SELECT count(*) FROM backfilld.runs") == 0


def test_preflight_leaves_nothing_behind_and_waits_for_nobody(engine: Engine) -> None:
    with engine.connect() as application, application.transaction():
        application.execute("LOCK TABLE other IN ACCESS EXCLUSIVE MODE")
        application.execute("UPDATE jobs SET n = 1")
        assert told(examined(engine.connection, backfill(), add())) == ""
    assert engine.value("SELECT count(*) FROM pg_class WHERE relpersistence = 't'") == 0
    assert engine.value("SELECT count(*) FROM pg_attribute WHERE attname = 'shout'") == 0


def test_the_shortest_key_is_walked_when_there_is_no_primary_one(engine: Engine) -> None:
    engine.execute("CREATE UNIQUE INDEX ON odd_keys (c, d); CREATE UNIQUE INDEX odd ON odd_keys (d) INCLUDE (a)")
    found = examined(engine.connection, backfill(table="odd_keys"))
    assert told(found) == ""
    assert [column.name for column in found.facts[0].key] == ["d"]


def test_a_default_alone_needs_no_key(engine: Engine) -> None:
    assert told(examined(engine.connection, add(None, table="keyless", default="'x'"))) == ""
    assert checks(examined(engine.connection, add(None, table="keyless", default="random()::text"))) == ["key"]


def test_a_json_column_is_compared_as_text(engine: Engine) -> None:
    found = examined(
        engine.connection, backfill("data::text::json", column="raw"), backfill("'{}'::jsonb", column="data")
    )
    assert [facts.targets[0].as_text for facts in found.facts] == [True, False]
    engine.execute("INSERT INTO jobs (id, data) SELECT n, jsonb_build_object('n', n) FROM generate_series(1, 5) n")
    run = engine.enqueue(json.dumps({"name": "m", "operations": [backfill("data::text::json", column="raw")]}))
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT count(*) FROM jobs WHERE raw::jsonb = data") == 5


# --- who asks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain(engine: Engine, plain_role_url: str) -> Iterator[Connection]:
    with psycopg.connect(plain_role_url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


def role_of(connection: Connection) -> sql.Identifier:
    return sql.Identifier(connection.info.user)


def test_a_role_without_rights_is_refused(engine: Engine, plain: Connection) -> None:
    assert checks(examined(plain, backfill())) == ["privileges"]
    assert checks(examined(plain, add())) == ["ownership", "privileges"]
    engine.connection.execute(sql.SQL("GRANT SELECT, UPDATE ON jobs TO {}").format(role_of(plain)))
    assert checks(examined(plain, backfill())) == []
    assert checks(examined(plain, add())) == ["ownership"]


def test_an_owner_that_may_not_build_an_index_in_the_schema_is_refused(engine: Engine, plain: Connection) -> None:
    """Found out before the run, which would stop where it builds the index, after all the work."""
    role = role_of(plain)
    engine.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    engine.connection.execute(sql.SQL("ALTER TABLE jobs OWNER TO {}").format(role))
    index = {"create_index": {"table": "jobs", "name": "by_status", "columns": ["status"]}}
    found = examined(plain, index)
    assert (checks(found), "GRANT CREATE ON SCHEMA" in told(found)) == (["privileges"], True)
    assert checks(examined(plain, add())) == [], "a column needs no such right"
    engine.connection.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(role))
    assert checks(examined(plain, index)) == []


def test_a_role_that_may_not_make_temporary_tables_is_refused(engine: Engine, plain: Connection) -> None:
    database = sql.Identifier(engine.value("SELECT current_database()"))
    engine.connection.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(database))
    assert checks(examined(plain, backfill())) == ["temporary_tables"]


@pytest.mark.parametrize("force", [True, False])
def test_a_role_from_which_rows_are_hidden_is_refused(engine: Engine, plain: Connection, *, force: bool) -> None:
    engine.connection.execute(sql.SQL("GRANT SELECT, UPDATE ON jobs TO {}").format(role_of(plain)))
    engine.execute("ALTER TABLE jobs ENABLE ROW LEVEL SECURITY")
    if force:
        engine.connection.execute(sql.SQL("ALTER TABLE jobs OWNER TO {}").format(role_of(plain)))
        assert checks(examined(plain, backfill())) == [], "the owner sees every row"
        engine.execute("ALTER TABLE jobs FORCE ROW LEVEL SECURITY")
    found = examined(plain, backfill())
    assert checks(found) == ["row_security"]
    assert "BYPASSRLS" in told(found)


def test_an_expression_over_a_table_whose_rows_are_hidden_is_refused(engine: Engine, plain: Connection) -> None:
    for table in ("jobs", "other"):
        engine.connection.execute(
            sql.SQL("GRANT SELECT, UPDATE ON {} TO {}").format(sql.Identifier(table), role_of(plain))
        )
    engine.execute("ALTER TABLE other ENABLE ROW LEVEL SECURITY")
    found = examined(plain, backfill("(SELECT o.n FROM public.other o WHERE o.id = jobs.id)", column="n"))
    assert checks(found) == ["row_security"]


@pytest.mark.parametrize("hidden", ["jobs", "other"])
def test_row_security_switched_on_later_pauses_the_run_and_hides_nothing(
    engine: Engine, plain: Connection, hidden: str
) -> None:
    """`row_security = off` makes an error of what would be 0 rows in silence."""
    # Given a role that owns all there is, and a run of its
    for relation in (*_control_tables(engine), "public.jobs", "public.other"):
        engine.connection.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(sql.SQL(relation), role_of(plain)))
    engine.connection.execute(sql.SQL("ALTER SCHEMA backfilld OWNER TO {}").format(role_of(plain)))
    for what in ("FUNCTIONS", "SEQUENCES"):
        engine.connection.execute(
            sql.SQL("GRANT ALL ON ALL {} IN SCHEMA backfilld TO {}").format(sql.SQL(what), role_of(plain))
        )
    engine.execute("INSERT INTO jobs (id, n) SELECT n, 0 FROM generate_series(1, 20) n")
    engine.execute("INSERT INTO other SELECT n, n FROM generate_series(1, 20) n")
    expression = "n + 1" if hidden == "jobs" else "(SELECT o.n FROM public.other o WHERE o.id = jobs.id)"
    migration = {"name": "m", "operations": [backfill(expression, column="n")], "settings": {"journal": False}}
    run = engine.enqueue(json.dumps(migration))
    engine.drive_to_lanes(run)

    # When
    engine.execute(f"ALTER TABLE {hidden} ENABLE ROW LEVEL SECURITY; ALTER TABLE {hidden} FORCE ROW LEVEL SECURITY")
    stopping = threading.Event()
    with open_pool(plain.info.dsn + " password=x", size=2) as pool:
        runner = Runner(pool, send=engine.sent.append, observe=engine.events.append, stopping=stopping)
        engine.step(runner=runner)

    # Then
    now = engine.run(run)
    expect(now, State.PAUSED)
    assert now.error is not None
    assert (now.error["class"], now.error["sqlstate"]) == ("privilege", "42501")
    assert f'table "{hidden}"' in now.error["message"]
    assert f"ALTER ROLE {plain.info.user} BYPASSRLS" in now.error["message"]
    assert engine.told(StateChanged)[-1].state is State.PAUSED
    assert engine.execute("SELECT DISTINCT n FROM jobs") == [{"n": 0}]

    # When the remedy was followed, the run continues
    engine.execute(f"ALTER TABLE {hidden} NO FORCE ROW LEVEL SECURITY")
    commands.resume(engine.connection, run, actor="ann")
    with open_pool(plain.info.dsn + " password=x", size=2) as pool:
        runner = Runner(pool, send=engine.sent.append, observe=engine.events.append, stopping=stopping)
        expect(engine.drive(run, runner=runner), State.COMPLETED)
    assert engine.value("SELECT count(*) FROM jobs WHERE n > 0") == 20


def _control_tables(engine: Engine) -> list[str]:
    rows = engine.execute(
        "SELECT oid::regclass::text AS name FROM pg_class WHERE relnamespace = 'backfilld'::regnamespace AND relkind = 'r'"
    )
    return [row["name"] for row in rows]


def test_on_supabase_the_projects_own_role_may(supabase_url: str) -> None:
    """NOSUPERUSER and BYPASSRLS: enough."""
    with psycopg.connect(supabase_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text, slug text)")
        connection.execute("ALTER TABLE jobs ENABLE ROW LEVEL SECURITY")
        connection.execute("ALTER TABLE jobs FORCE ROW LEVEL SECURITY")
        assert told(examined(connection, backfill(), add())) == ""


# --- the server --------------------------------------------------------------------------------------------------------


def test_a_server_that_takes_no_writes_is_refused(engine: Engine) -> None:
    engine.execute("SET default_transaction_read_only = on")
    assert checks(examined(engine.connection, backfill())) == ["read_only"]


@pytest.mark.parametrize(
    ("identity", "refused"), [("DEFAULT", True), ("NOTHING", True), ("FULL", False), ("USING INDEX odd", False)]
)
def test_a_published_table_needs_a_replica_identity(engine: Engine, identity: str, *, refused: bool) -> None:
    engine.execute("CREATE UNIQUE INDEX odd ON odd_keys (d)")
    engine.execute(f"ALTER TABLE odd_keys REPLICA IDENTITY {identity}")
    engine.execute("CREATE PUBLICATION everything FOR TABLE odd_keys, jobs")
    found = examined(engine.connection, backfill(table="odd_keys"))
    assert checks(found) == (["replica_identity"] if refused else [])
    found = examined(engine.connection, backfill())
    assert checks(found) == []
    assert any("everything" in warning for warning in found.warnings)


def test_a_primary_key_is_no_identity_when_the_table_says_nothing(engine: Engine) -> None:
    engine.execute("ALTER TABLE jobs REPLICA IDENTITY NOTHING")
    engine.execute("CREATE PUBLICATION everything FOR TABLE jobs")
    assert checks(examined(engine.connection, backfill())) == ["replica_identity"]
    engine.execute("DROP PUBLICATION everything; CREATE PUBLICATION additions FOR TABLE jobs WITH (publish = 'insert')")
    assert checks(examined(engine.connection, backfill())) == [], "updates are not published"


class TransactionPooler:
    """What PgBouncer and Supavisor do in transaction mode: a free server process for each transaction, the last one first."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._free: list[socket.socket] = []
        self._all: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in self._all:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._all.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            startup = self._startup(client)
            server, greeting = self._connect(startup)
            client.sendall(greeting)
            self._free.append(server)
            held: socket.socket | None = None
            while True:
                message = _message(client)
                if message[:1] == b"X":
                    return
                held = held or self._free.pop()
                held.sendall(message)
                if message[:1] not in {b"Q", b"S"}:
                    continue
                reply = b""
                while not reply.startswith(b"Z"):
                    reply = _message(held)
                    client.sendall(reply)
                if reply.endswith(b"I"):
                    self._free.append(held)
                    held = None
        except OSError:
            return

    def _startup(self, client: socket.socket) -> bytes:
        while True:
            length = _exactly(client, 4)
            body = _exactly(client, struct.unpack("!I", length)[0] - 4)
            if struct.unpack("!I", body[:4])[0] == 0x30000:
                return length + body
            client.sendall(b"N")  # neither TLS nor GSS

    def _connect(self, startup: bytes) -> tuple[socket.socket, bytes]:
        server = socket.create_connection(self._server)
        self._all.append(server)
        server.sendall(startup)
        greeting = b""
        while True:
            message = _message(server)
            greeting += message
            if message.startswith(b"Z"):
                return server, greeting


def _exactly(one: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = one.recv(count - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    return data


def _message(one: socket.socket) -> bytes:
    head = _exactly(one, 5)
    return head + _exactly(one, struct.unpack("!I", head[1:])[0] - 4)


def test_a_pooler_in_transaction_mode_is_refused_for_schema_changes(engine: Engine, plain_role_url: str) -> None:
    parts = urlsplit(plain_role_url)
    assert parts.hostname is not None
    assert parts.port is not None
    between = TransactionPooler(parts.hostname, parts.port)
    url = urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{between.port}"))
    try:
        with connect.connect(url) as through, connect.connect(plain_role_url) as direct:
            engine.connection.execute(sql.SQL("ALTER TABLE jobs OWNER TO {}").format(role_of(direct)))
            assert pooler.in_transaction_mode(through)
            assert not pooler.in_transaction_mode(direct)
            assert checks(examined(through, add())) == ["pooler"]
            assert checks(examined(through, backfill())) == [], "batches are safe there"
            assert checks(examined(direct, add())) == []
    finally:
        between.close()


# --- what is told ------------------------------------------------------------------------------------------------------


def test_triggers_that_our_batches_fire_are_named(engine: Engine) -> None:
    engine.execute(
        "CREATE FUNCTION notify_all() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('x', ''); RETURN new; END $$;"
        "CREATE TRIGGER on_slug AFTER UPDATE OF slug ON jobs FOR EACH ROW EXECUTE FUNCTION notify_all();"
        "CREATE TRIGGER on_status AFTER UPDATE OF status ON jobs FOR EACH ROW EXECUTE FUNCTION notify_all();"
        "CREATE TRIGGER on_insert AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION notify_all();"
        "CREATE TRIGGER switched_off AFTER UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION notify_all();"
        "ALTER TABLE jobs DISABLE TRIGGER switched_off"
    )
    warnings = "\n".join(examined(engine.connection, backfill()).warnings)
    assert "on_slug" in warnings
    assert "has effects outside the database" in warnings
    assert not any(name in warnings for name in ("on_status", "on_insert", "switched_off"))


def test_an_indexed_column_is_told(engine: Engine) -> None:
    engine.execute("CREATE INDEX ON jobs (slug)")
    assert any("slug of jobs is indexed" in warning for warning in examined(engine.connection, backfill()).warnings)


def test_what_becomes_of_the_applications_values_is_told(engine: Engine) -> None:
    for computed, what in ((False, "is kept"), (True, "replaces what the application writes")):
        assert any(what in warning for warning in examined(engine.connection, add(computed=computed)).warnings)


# --- Functions over rows


def transform(*, table: str = "jobs", writes: tuple[str, ...] = ("slug",), **also: Any) -> dict[str, Any]:
    body = {"table": table, "transform": "nowhere.backfills:f", "writes": [*writes], **also}
    return {"backfill": body}


@pytest.mark.parametrize(
    ("operation", "check", "problem"),
    [
        (transform(writes=("slog",)), "column", "jobs has no column slog. Did you mean slug?"),
        (transform(writes=("twice",)), "column", "twice is a generated column"),
        (transform(writes=("serial",)), "column", "serial is a generated column"),
        (transform(writes=("slug", "id")), "column", "id is part of the key"),
        (transform(reads=["status", "stat"]), "column", "jobs has no column stat. Did you mean status?"),
        (transform(where="slog IS NULL"), "expression", 'column "slog" does not exist'),
        (transform(where="slug IS NULL) OR (true"), "expression", "a parenthesis"),
        (transform(table="keyless"), "key", "keyless has no primary key"),
    ],
)
def test_what_a_function_may_not_read_or_write(
    engine: Engine, operation: dict[str, Any], check: str, problem: str
) -> None:
    found = examined(engine.connection, operation)
    assert checks(found) == [check]
    assert problem in told(found)


def test_a_function_is_not_imported_and_its_columns_are_known(engine: Engine) -> None:
    """`nowhere` is no module: the machine that deploys need not have it."""
    engine.execute(
        "CREATE DOMAIN code AS varchar(3); ALTER TABLE jobs ADD COLUMN code code, ADD COLUMN flag character(2)"
    )
    found = examined(engine.connection, transform(writes=("code", "flag"), reads=["status"], where="code IS NULL"))

    assert not found.findings
    (facts,) = found.facts
    assert facts.reads == ("status",)
    assert [(target.type, target.plain_type) for target in facts.targets] == [
        ("public.code", "character varying"),
        ("character(2)", "bpchar"),
    ]
    assert (facts.repeatable, facts.condition_may_end) == (False, True)
    assert Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_what_a_person_should_know_of_a_function_is_told(engine: Engine) -> None:
    engine.execute(
        "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'; "
        "CREATE TRIGGER stamp BEFORE UPDATE OF slug ON jobs FOR EACH ROW EXECUTE FUNCTION stamp()"
    )
    warnings = "\n".join(examined(engine.connection, transform()).warnings)
    assert "BACKFILLD_TRANSFORMS" in warnings
    assert "handed over once" in warnings
    assert "rows added later are not touched" in warnings
    assert "all 9 columns of jobs" in warnings
    assert "the trigger stamp on jobs fires" in warnings
    assert "all 9 columns" not in "\n".join(examined(engine.connection, transform(reads=["n"])).warnings)


def test_the_plan_says_where_the_values_come_from(engine: Engine) -> None:
    migration = definition.parse(
        json.dumps({"name": "m", "operations": [transform(reads=["status"], where="slug IS NULL")]})
    )
    shown = plan.make(migration, examine.examine(engine.connection, migration))

    (backfill_phase,) = [phase for phase in shown.phases if phase.phase is Phase.BACKFILL]
    (update,) = backfill_phase.actions
    assert '("slug") = the values of the Python function nowhere.backfills:f, handed status' in update.sql
    assert "slug IS NULL" in update.sql
    assert "SQL cannot check" in shown.tables[0].notes[0]
    (verify,) = [phase for phase in shown.phases if phase.phase is Phase.VERIFY]
    assert [action.sql for action in verify.actions] == ['SELECT count(*) FROM "public"."jobs" WHERE (slug IS NULL)']
