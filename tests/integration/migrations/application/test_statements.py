"""What a plan says of the application's statements, on a server that counts them."""

from __future__ import annotations

import io
import json
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg.rows import dict_row
from rich.console import Console

from backfilld.migrations.application import check, query_files
from backfilld.migrations.application.binding import find_way
from backfilld.migrations.application.corpus import QueryFile, Statement
from backfilld.migrations.application.real_plans import Budget, measure
from backfilld.migrations.errors import UsageError
from backfilld.migrations.file import migration as definition
from backfilld.migrations.file.application import Statements
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.planning import examine
from backfilld.migrations.postgres.connect import connect
from backfilld.monitoring import display
from backfilld.monitoring.display import application as display_application
from backfilld.producers.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fix_runs import Engine

    from backfilld.migrations.application.report import Report
    from backfilld.migrations.postgres.connect import Connection

TABLES = """
CREATE EXTENSION pg_stat_statements;
CREATE TABLE jobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, status text, total numeric, device_info text, made timestamptz);
CREATE INDEX "By Status" ON jobs (status);
CREATE INDEX jobs_total_idx ON jobs (total);
CREATE TABLE customers (id bigint PRIMARY KEY, name text);
INSERT INTO jobs (status, total, device_info, made) SELECT 's' || n, n, '{}', now() FROM generate_series(1, 3000) n;
ANALYZE jobs;
CREATE FUNCTION dear() RETURNS numeric LANGUAGE sql AS 'SELECT max(total) FROM public.jobs';
CREATE FUNCTION old_status(one bigint) RETURNS text LANGUAGE sql AS 'SELECT status FROM jobs WHERE id = one';
CREATE FUNCTION in_plpgsql() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM total FROM jobs; END';
SELECT pg_stat_statements_reset();
"""


@pytest.fixture
def connection(contrib_database_url: str) -> Iterator[Connection]:
    with psycopg.connect(contrib_database_url, autocommit=True, row_factory=dict_row) as one:
        one.execute(TABLES.encode())
        yield one


def send(connection: Connection, *statements: str) -> None:
    """As the application does."""
    for statement in statements:
        connection.execute(statement.encode())


def checked(connection: Connection, text: str, *files: QueryFile) -> Report:
    migration = definition.parse(text)
    found = examine.examine(connection, migration)
    assert not found.findings
    return check.check(connection, migration, found.facts, rows=found.rows, files=files)


RENAME = "name: a\noperations:\n  - rename_column: {table: jobs, from: total, to: revenue}\n"


def test_exactly_the_statements_that_name_the_old_column_break_in_contract(connection: Connection) -> None:
    send(
        connection,
        "SELECT id, total FROM jobs WHERE id = 7",
        "SELECT id, status FROM public.jobs WHERE status = 'x' LIMIT 3",
        'UPDATE "public"."jobs" SET total = 5 WHERE id = 1',
        "SELECT name FROM customers",
        "SELECT jobs.status FROM jobs JOIN customers c USING (id) WHERE c.name = 'total'",
        "SELECT count(*) FROM jobs WHERE made > now() - interval '3 days'",
        "SELECT extract(year FROM made) FROM jobs LIMIT 1",
    )
    with connection.transaction(), connection.cursor() as cursor:  # as pg_dump does
        cursor.execute(b"LOCK TABLE public.jobs, public.customers IN ACCESS SHARE MODE")
        with cursor.copy(b"COPY public.jobs (id, total) TO stdout;") as dump:
            list(dump)
    report = checked(connection, RENAME)
    broken = {(one.statement, str(one.phase), one.sqlstate) for one in report.breaks}
    assert broken == {
        ("SELECT id, total FROM jobs WHERE id = $1", "contract", "42703"),
        ('UPDATE "public"."jobs" SET total = $1 WHERE id = $2', "contract", "42703"),
        ("SELECT max(total) FROM public.jobs", "contract", "42703"),
    }, report
    assert report.unchecked == 1, report.cannot_be_checked
    assert not report.loses_index


def test_an_index_that_is_dropped_is_lost_by_the_statements_that_use_it_today(connection: Connection) -> None:
    send(
        connection,
        "SELECT id FROM jobs WHERE status = 'x'",
        "SELECT id FROM public.jobs WHERE total = 7",
        "SELECT count(*) FROM jobs WHERE status LIKE '%y%'",  # which never used it
    )
    report = checked(connection, "name: a\noperations:\n  - drop_index: {table: jobs, name: By Status}\n")
    assert not report.breaks
    (lost,) = report.loses_index
    assert (lost.statement, str(lost.phase)) == ("SELECT id FROM jobs WHERE status = $1", "contract")
    assert (lost.table, lost.rows, lost.indexes, lost.calls) == ("jobs", 3000, ("By Status",), 1)


def test_a_changed_type_breaks_what_the_new_type_cannot_do(connection: Connection) -> None:
    send(
        connection,
        "SELECT id, device_info FROM jobs WHERE id = 1",
        "SELECT upper(device_info) FROM jobs WHERE id = 1",
        "UPDATE jobs SET device_info = '{}' WHERE id = 1",
    )
    report = checked(
        connection,
        "name: a\noperations:\n  - change_type: {table: jobs, column: device_info, type: jsonb, up: 'device_info::jsonb', "
        "down: 'device_info::text'}\n",
    )
    assert [(one.statement, str(one.phase)) for one in report.breaks] == [
        ("SELECT upper(device_info) FROM jobs WHERE id = $1", "switch")
    ]
    assert not report.loses_index, report


@pytest.mark.parametrize(
    ("operation", "broken", "phase"),
    [
        ("drop_column: {table: jobs, column: total}", {"SELECT total FROM jobs", "SELECT j.* FROM jobs j WHERE j.total > $1"}, "contract"),
        ("rename_table: {table: jobs, to: tasks}", {"SELECT total FROM jobs", "SELECT j.* FROM jobs j WHERE j.total > $1", "SELECT status FROM public.jobs", "SELECT to_jsonb(jobs) FROM jobs"}, "contract"),
        ("drop_table: {table: jobs}", {"SELECT total FROM jobs", "SELECT j.* FROM jobs j WHERE j.total > $1", "SELECT status FROM public.jobs", "SELECT to_jsonb(jobs) FROM jobs"}, "contract"),
        ("add_column: {table: jobs, column: {name: x, type: text}, backfill: status}", set(), ""),
    ],
)  # fmt: skip
def test_what_is_taken_away_breaks_what_names_it(
    connection: Connection, operation: str, broken: set[str], phase: str
) -> None:
    send(
        connection,
        "SELECT total FROM jobs",
        "SELECT j.* FROM jobs j WHERE j.total > 5",
        "SELECT status FROM public.jobs",
        "SELECT to_jsonb(jobs) FROM jobs",  # of which the copy is the row only without a schema
        "SELECT jobs.name FROM customers jobs",  # an alias
        "SELECT name FROM customers",
    )
    report = checked(connection, f"name: a\noperations:\n  - {operation}\n")
    told = {one.statement for one in report.breaks if one.source == "pg_stat_statements"}
    assert told == broken, report
    assert {str(one.phase) for one in report.breaks} <= {phase}


def test_a_name_means_what_the_search_path_of_the_role_makes_of_it(connection: Connection) -> None:
    """`jobs` of another schema is not the table; `Order` in a schema of its own is."""
    send(
        connection,
        'CREATE SCHEMA "Odd Schema"; CREATE TABLE "Odd Schema".jobs (id bigint PRIMARY KEY, total numeric)',
        'CREATE TABLE "Odd Schema"."Order" (id bigint, "Part" text, total numeric, PRIMARY KEY (id, "Part"))',
        'DROP ROLE IF EXISTS odd_app; CREATE ROLE odd_app; GRANT ALL ON SCHEMA "Odd Schema" TO odd_app',
        'GRANT ALL ON ALL TABLES IN SCHEMA "Odd Schema" TO odd_app; ALTER ROLE odd_app SET search_path = "Odd Schema"',
        'SET ROLE odd_app; SET search_path = "Odd Schema"',
        "SELECT total FROM jobs WHERE id = 1",
        'SELECT total FROM "Order" WHERE "Part" = \'a\'',
        "RESET ROLE; RESET search_path",
    )
    try:
        report = checked(connection, RENAME)
        assert [one.source for one in report.breaks] == ["function public.dear()"]
        odd = RENAME.replace("table: jobs", "table: Odd Schema.Order")
        (broken,) = checked(connection, odd).breaks
        assert (broken.statement, broken.roles) == ('SELECT total FROM "Order" WHERE "Part" = $1', ("odd_app",))
        roles = odd + "application: {statements: {roles: [somebody_else]}}\n"
        assert not checked(connection, roles).breaks
    finally:
        connection.execute('DROP SCHEMA "Odd Schema" CASCADE; DROP ROLE odd_app')


def test_a_function_of_rows_breaks_where_the_row_gets_another_shape(connection: Connection) -> None:
    """As computed fields of PostgREST are, whose bodies need not name the table; and what a column that comes does to them."""
    send(
        connection,
        "CREATE FUNCTION doubled(one jobs, jobs int) RETURNS numeric LANGUAGE sql AS 'SELECT jobs * one.total'",
        "CREATE FUNCTION stated(several jobs[]) RETURNS text LANGUAGE sql AS 'SELECT several[1].status'",
        "CREATE FUNCTION listed() RETURNS SETOF jobs LANGUAGE sql AS 'SELECT id, status, total, device_info, made FROM jobs'",
    )
    report = checked(connection, RENAME)
    broken = {one.source: str(one.phase) for one in report.breaks if one.source != "function public.dear()"}
    assert broken == {
        "function public.doubled(one public.jobs, jobs integer)": "contract",
        "function public.listed()": "expand",
    }, report
    send(connection, "ALTER TABLE jobs ADD COLUMN revenue numeric")
    with pytest.raises(psycopg.errors.InvalidFunctionDefinition):
        send(connection, "SELECT * FROM listed()")

    report = checked(connection, "name: a\noperations:\n  - rename_table: {table: jobs, to: tasks}\n")
    unchecked = {one.source: one.because for one in report.cannot_be_checked}
    assert "gets another name" in unchecked["function public.doubled(one public.jobs, jobs integer)"]


def test_files_of_queries_are_checked_with_their_lines(connection: Connection) -> None:
    files = [
        QueryFile("queries/a.sql", "SELECT 1;\n\n-- jobs\nSELECT total\n FROM jobs WHERE id = $1;\nSELECT nothing FROM jobs"),
        QueryFile("queries/b.sql", "SELECT total FROM jobs WHERE status = 'it is not closed"),
        QueryFile("queries/c.sql", BAD),
        QueryFile("queries/d.sql", "-- none yet\n"),
    ]  # fmt: skip
    report = checked(connection, RENAME, *files)
    broken = {one.source for one in report.breaks if one.source.startswith("q")}
    assert broken == {"queries/a.sql:4", "queries/c.sql:10"}
    unchecked = {one.source: one.because for one in report.cannot_be_checked if one.source.startswith("q")}
    assert unchecked == {
        "queries/a.sql:6": 'it does not bind today: column "nothing" does not exist',
        "queries/c.sql:1": 'syntax error at or near "SELEC" (line 1)',
        "queries/c.sql:3": 'syntax error at or near "customers" (line 4)',
        "queries/c.sql:6": "COPY of all columns, LOCK and TRUNCATE are not planned: look whether the migration changes what they mean",
        "queries/c.sql:7": 'syntax error at or near "%" (line 8)',
        "queries/c.sql:11": "syntax error at end of input (line 11)",
    }
    assert {(one.check, one.problem) for one in report.silence} == {
        ("statement_files", "queries/b.sql:1 cannot be read as SQL: a quote is not closed"),
        ("statement_files", "queries/d.sql has no statement"),
    }


#: What is wrong stands beside what is right: other commands, what `pg_stat_statements` writes, and names that nobody has.
BAD = """SELEC total FROM jobs;
BEGIN; SET LOCAL search_path = public; CREATE TABLE x (a int); COMMIT;
SELECT 1
  FRM customers;
SELECT id FROM no_such_table WHERE made > now() - interval $1; COPY customers TO STDOUT;
COPY jobs FROM STDIN; COPY public.jobs (status, made) FROM STDIN; CALL no_such_procedure();
SELECT name
FROM customers WHERE id = %s;

SELECT total FROM jobs;
SELECT total FROM jobs WHERE"""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfeS\x00", "queries/a.sql of application.statements.files is not UTF-8 text. Save it as UTF-8"),
        ("SELECT 1".encode("utf-16-le"), "has a NUL character, so it is no text"),
        (b"--" + b"x" * query_files.MOST_BYTES, "makes more than 10 MiB of SQL. Name the files of queries alone"),
    ],
    ids=["no UTF-8", "NUL", "huge"],
)
def test_a_file_that_is_no_text_is_refused_before_anything_is_asked(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "a.sql").write_bytes(content)
    (tmp_path / "m.yaml").write_text(RENAME + "application: {statements: {files: ['queries/*.sql']}}\n")
    with pytest.raises(UsageError, match=says):
        query_files.read(definition.load(tmp_path / "m.yaml"))


@pytest.mark.parametrize("statements", [200, pytest.param(1000, marks=pytest.mark.soak)])
def test_statements_are_checked_in_time_and_keep_nobody_waiting(connection: Connection, statements: int) -> None:
    """Somebody else's DDL on the table, again and again meanwhile, never waits as long as its own lock_timeout."""
    texts = [
        f"SELECT id, {'total' if number % 10 == 0 else 'status'} FROM jobs JOIN customers c USING (id) WHERE id = $1 AND {number} = {number};"
        for number in range(statements)
    ]
    stop, waited, done = threading.Event(), 0, 0

    def change() -> None:
        nonlocal waited, done
        with psycopg.connect(connection.info.dsn, password=connection.info.password, autocommit=True) as other:
            other.execute("SET lock_timeout = '400ms'")
            while not stop.is_set():
                try:
                    # ACCESS EXCLUSIVE, so that it waits for whoever only reads.
                    table = ("jobs", "customers")[done % 2]
                    other.execute(f"ALTER TABLE {table} REPLICA IDENTITY FULL".encode())
                    done += 1
                except psycopg.errors.LockNotAvailable:
                    waited += 1

    beside = threading.Thread(target=change)
    migration = definition.parse(RENAME)
    found = examine.examine(connection, migration)
    beside.start()
    try:
        began = time.monotonic()
        report = check.check(
            connection, migration, found.facts, rows=found.rows, files=[QueryFile("q.sql", "\n".join(texts))]
        )
        seconds = time.monotonic() - began
    finally:
        stop.set()
        beside.join()
    assert sum(one.source.startswith("q.sql") for one in report.breaks) == statements // 10
    assert report.checked >= statements
    assert seconds < 60
    assert (waited, done > 5) == (0, True), (waited, done)


def test_the_command_shows_what_breaks_and_what_nobody_can_know(
    contrib_database_url: str, connection: Connection, tmp_path: Path
) -> None:
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "jobs.sql").write_text("SELECT id FROM jobs WHERE total > $1 AND id = 7;\n")
    file = tmp_path / "a.yaml"
    file.write_text(RENAME + "application: {statements: {files: ['queries/*.sql', 'gone/*.sql']}}\n")
    send(connection, "SELECT total FROM jobs WHERE id = 1")
    client = Client(contrib_database_url)
    told = client.plan(file).to_json()["application"]
    assert {one["statement"] for one in told["breaks"]} == {
        "SELECT total FROM jobs WHERE id = $1",
        "SELECT id FROM jobs WHERE total > $1 AND id = 7",
        "SELECT max(total) FROM public.jobs",
    }
    assert (told["unchecked"], told["loses_index"]) == (1, ())
    assert [one["problem"] for one in told["silence"]] == ["no file matches gone/*.sql"]
    assert json.loads(json.dumps(told))["breaks"][0]["phase"] == "contract"
    console = Console(width=120, file=io.StringIO())
    console.print(display.plan(client.plan(file)))
    text = console.file.getvalue()  # type: ignore[attr-defined] # a StringIO
    assert "contract breaks 3" in text
    assert "in_plpgsql" in text
    assert 'column "total" does not exist (42703)' in text


def test_what_cannot_be_read_is_said(engine: Engine) -> None:
    """Without pg_stat_statements, and without anything that was asked for, nothing was found to be right."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, total numeric)")
    report = checked(engine.connection, RENAME + "application: {statements: {files: [a.sql]}}\n")
    assert [one.check for one in report.silence] == ["pg_stat_statements", "statement_files"]
    assert report.asked
    shown = display_application.report(report)
    assert shown is not None
    assert display_application.report(checked(engine.connection, RENAME)) is None


@pytest.fixture
def project_url(contrib_database_url: str) -> Iterator[str]:
    """As on Supabase: our role owns the tables and is no superuser, and another role, which policies are for, sends statements."""
    with psycopg.connect(contrib_database_url, autocommit=True) as admin:
        admin.execute(PROJECT.encode())
        parts = urlsplit(contrib_database_url)
        yield urlunsplit(parts._replace(netloc=f"project_owner:secret@{parts.netloc.rpartition('@')[2]}"))
        name = parts.path.removeprefix("/")
        admin.execute("DROP OWNED BY project_owner, project_app CASCADE")
        admin.execute(
            f'REVOKE ALL ON DATABASE "{name}" FROM project_owner; DROP ROLE project_owner, project_app'.encode()
        )


PROJECT = """
CREATE SCHEMA extensions; CREATE EXTENSION pg_stat_statements SCHEMA extensions;
CREATE ROLE project_app; CREATE ROLE project_owner LOGIN PASSWORD 'secret' BYPASSRLS; GRANT project_app TO project_owner;
GRANT CREATE ON SCHEMA public TO project_owner; GRANT USAGE ON SCHEMA extensions TO project_owner;
DO $$ BEGIN EXECUTE format('GRANT CREATE, TEMPORARY ON DATABASE %I TO project_owner', current_database()); END $$;
SET ROLE project_owner;
CREATE TABLE jobs (id bigint, "Part" text, total numeric, PRIMARY KEY (id, "Part"));
ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON jobs TO project_app USING ("Part" = current_user::text);
GRANT SELECT, UPDATE ON jobs TO project_app;
RESET ROLE;
SELECT extensions.pg_stat_statements_reset();
SET ROLE project_app; SELECT "Part", total FROM jobs WHERE id = 4; RESET ROLE;
"""


def test_a_role_that_is_no_superuser_finds_what_it_may_read_and_says_what_not(
    contrib_database_url: str, project_url: str
) -> None:
    with connect(project_url) as own:
        report = checked(own, RENAME)
        assert [one.check for one in report.silence] == ["statement_texts"]
        assert "GRANT pg_read_all_stats TO project_owner" in report.silence[0].remedy
        with psycopg.connect(contrib_database_url, autocommit=True) as admin:
            admin.execute("GRANT pg_read_all_stats TO project_owner")
        report = checked(own, RENAME)
        assert not report.silence
        (broken,) = report.breaks
        assert (broken.statement, broken.roles) == ('SELECT "Part", total FROM jobs WHERE id = $1', ("project_app",))


def test_nothing_of_a_role_with_fewer_rights_is_called(contrib_database_url: str, project_url: str) -> None:
    """A function that is immutable by its word runs when a statement with it is planned: as us, it could do what we may."""
    with psycopg.connect(contrib_database_url, autocommit=True) as admin:
        admin.execute("GRANT pg_read_all_stats TO project_owner; GRANT CREATE ON SCHEMA public TO project_app")
        admin.execute("CREATE SEQUENCE called; GRANT ALL ON called TO PUBLIC; SET ROLE project_app")
        admin.execute(
            "CREATE FUNCTION evil() RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT nextval(''public.called'')'"
        )
        admin.execute("SELECT total FROM jobs WHERE id = evil()")
        admin.execute("RESET ROLE")
        before = admin.execute("SELECT last_value FROM called").fetchone()
        with connect(project_url) as own:
            (broken,) = [one for one in checked(own, RENAME).breaks if "evil" in one.statement]
            assert str(broken.phase) == "contract"
        assert admin.execute("SELECT last_value, is_called FROM called").fetchone() == (*(before or ()), True)
        admin.execute("DROP FUNCTION evil; DROP SEQUENCE called")


def test_files_are_enough_on_every_version(engine: Engine) -> None:
    """Bound, planned and measured on the version under test, whatever the normaliser of statements wrote."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text, total numeric, made timestamptz)")
    engine.execute("INSERT INTO jobs SELECT n, 's' || n, n, now() FROM generate_series(1, 3000) n")
    engine.execute("CREATE INDEX jobs_status_idx ON jobs (status); ANALYZE jobs")
    texts = (
        "SELECT total FROM jobs WHERE id = $1 AND made > now() - interval $2 LIMIT $3",
        "SELECT extract($1 from made), generate_series($2, $3) FROM jobs",
        "SELECT id FROM jobs WHERE status = ANY ($1) AND total > $2",
        "SELECT $2 + $3 FROM jobs WHERE total > $1",
    )
    report = checked(engine.connection, RENAME, QueryFile("q.sql", ";\n".join(texts)))
    assert not report.cannot_be_checked
    assert {one.source for one in report.breaks} == {"q.sql:1", "q.sql:3", "q.sql:4"}
    drop = "name: a\noperations:\n  - drop_index: {table: jobs, index: x}\n".replace(
        "index: x", "name: jobs_status_idx"
    )
    (lost,) = checked(engine.connection, drop, QueryFile("q.sql", ";\n".join(texts))).loses_index
    assert (lost.source, lost.indexes) == ("q.sql:3", ("jobs_status_idx",))

    tables = [TableName("public", "jobs")]
    one = Statement(text=texts[2], source="q.sql:3")
    paths = check.paths_of(engine.connection, [one], tables, Statements())
    found = measure(engine.connection, one, paths, Budget())
    assert found.indexes == ("jobs_status_idx",)
    assert found.buffers is not None
    assert found.buffers > 0
    writes = Statement(text="UPDATE jobs SET total = 0 WHERE id = 1", source="q.sql:9")
    assert measure(engine.connection, writes, paths, Budget()).buffers is None
    fails = Statement(text="SELECT nothing FROM jobs", source="q.sql:9")
    assert "nothing" in measure(engine.connection, fails, paths, Budget()).error
    assert engine.value("SELECT count(*) FROM jobs WHERE total = 0") == 0
    engine.execute(
        "CREATE SEQUENCE s; CREATE FUNCTION next_one() RETURNS bigint LANGUAGE sql AS 'SELECT nextval(''public.s'')'"
    )
    calls = Statement(text="SELECT next_one() FROM jobs WHERE id = 1", source="q.sql:9")
    assert measure(engine.connection, calls, paths, Budget()).buffers is None
    assert engine.value("SELECT is_called FROM s") is False
    with engine.connect() as other, other.transaction():
        other.execute("LOCK TABLE jobs")  # which says nothing of the statement
        assert measure(engine.connection, one, paths, Budget()).is_busy


def test_a_statement_that_was_bound_holds_no_lock(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, total numeric)")
    held = "SELECT count(*) AS n FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'public.jobs'::regclass"
    with engine.connection.transaction():
        for text in ("SELECT total FROM jobs WHERE id = $1", "UPDATE jobs SET total = $1", "SELECT x FROM jobs"):
            with suppress(psycopg.errors.UndefinedColumn):
                find_way(engine.connection, text)
            assert engine.value(held) == 0


VIEWS = """
CREATE TABLE customers (id bigint PRIMARY KEY, name text);
CREATE TABLE jobs (id bigint PRIMARY KEY, status text, total numeric, details text, customer_id bigint);
CREATE INDEX jobs_status_idx ON jobs (status);
INSERT INTO jobs SELECT n, 's' || n, n, '{}', n FROM generate_series(1, 3000) n;
INSERT INTO customers SELECT n, 'c' || n FROM generate_series(1, 3000) n;
CREATE VIEW "Open" AS SELECT j.id, j.status, j.total, j.details AS info, c.name FROM jobs j JOIN customers c ON c.id = j.customer_id;
CREATE VIEW above AS SELECT id, status, total, info FROM "Open" WHERE total > 0;
CREATE MATERIALIZED VIEW kept AS SELECT status FROM jobs;
ANALYZE;
"""
THROUGH = (
    "SELECT id FROM above WHERE status = $1",
    'SELECT id FROM public."Open" WHERE status = $1',
    "SELECT sum(total) FROM above",
    'SELECT name FROM "Open" WHERE name = $1 AND total > 5',
    "SELECT count(*) FROM kept WHERE status = $1",
    "SELECT upper(info) FROM above WHERE id = $1",
)


def test_a_statement_through_a_view_is_judged_by_what_the_view_reads(engine: Engine) -> None:
    engine.execute(VIEWS)
    queries = QueryFile("q.sql", ";\n".join(THROUGH))

    def found(operation: str) -> tuple[set[str], set[str]]:
        report = checked(engine.connection, f"name: a\noperations:\n  - {operation}\n", queries)
        assert not report.cannot_be_checked
        assert not report.untried
        return {one.source for one in report.breaks}, {one.source for one in report.loses_index}

    assert found("drop_index: {table: jobs, name: jobs_status_idx}") == (set(), {"q.sql:1", "q.sql:2"})
    # The views are made anew over the column's new type; what is renamed keeps its name in them.
    assert found("change_type: {table: jobs, column: details, type: jsonb}") == ({"q.sql:6"}, set())
    assert found("rename_column: {table: jobs, from: total, to: revenue}") == (set(), set())
    assert found("rename_table: {table: jobs, to: tasks}") == (set(), set())
    held = engine.value(
        "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND mode <> 'ExclusiveLock' AND relation > 16384"
    )
    assert held == 0


def test_where_views_are_in_the_way_the_rest_is_judged_all_the_same(engine: Engine) -> None:
    """PostgreSQL refuses the statement while a view reads the column, as it will in the run; what that does to views nobody knows."""
    engine.execute(VIEWS)
    files = QueryFile("q.sql", f"{THROUGH[0]};\nSELECT details FROM jobs;\nSELECT status FROM jobs")
    drop = """
name: a
operations:
  - sql:
      table: jobs
      phase: contract
      run: ALTER TABLE public.jobs DROP COLUMN details
      rollback: ALTER TABLE public.jobs ADD COLUMN details text
      allow: [ban-drop-column]
"""
    report = checked(engine.connection, drop, files)
    assert [one.source for one in report.breaks] == ["q.sql:2"]
    assert [(one.source, "views" in one.because) for one in report.cannot_be_checked] == [("q.sql:1", True)]
    assert (report.checked, report.untried) == (2, ())


PARTS = """
CREATE TABLE jobs (id bigint, made date, status text, total numeric, PRIMARY KEY (id, made)) PARTITION BY RANGE (made);
CREATE TABLE "Jobs 25" PARTITION OF jobs FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE jobs_26 PARTITION OF jobs FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY HASH (id);
CREATE TABLE jobs_26_0 PARTITION OF jobs_26 FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE INDEX jobs_status_idx ON jobs (status);
INSERT INTO jobs SELECT n, date '2025-06-01' + n / 10, 's' || n, n FROM generate_series(1, 5000) n;
ANALYZE;
"""


def test_a_statement_that_reads_partitions_is_judged_as_one_of_their_table(engine: Engine) -> None:
    engine.execute(PARTS)
    queries = QueryFile(
        "q.sql",
        "SELECT id FROM jobs WHERE status = $1;\n"
        "SELECT id FROM jobs_26_0 WHERE status = $1;\n"
        'SELECT total FROM "Jobs 25" WHERE status = $1;\n'
        "SELECT count(total) FROM jobs_26;\n",
    )
    drop = """
name: a
operations:
  - sql:
      table: jobs
      phase: switch
      run: DROP INDEX public.jobs_status_idx
      rollback: CREATE INDEX jobs_status_idx ON public.jobs (status)
      allow: [require-concurrent-index-creation]
"""
    report = checked(engine.connection, drop, queries)
    assert {one.source for one in report.loses_index} == {"q.sql:1", "q.sql:2", "q.sql:3"}, report
    assert {one.table for one in report.loses_index} == {"jobs"}
    assert not report.breaks
    report = checked(engine.connection, RENAME, queries)
    assert {one.source for one in report.breaks} == {"q.sql:3", "q.sql:4"}, report


PLPGSQL = """
CREATE TABLE jobs (id bigint PRIMARY KEY, status text, total numeric);
CREATE FUNCTION plain() RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT max(total) FROM public.jobs); END $$;
CREATE FUNCTION dynamic() RETURNS SETOF numeric LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'SELECT total FROM jobs'; END $$;
CREATE FUNCTION other() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) FROM jobs WHERE status = 'x;y'); END $$;
CREATE FUNCTION never() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT nothing FROM jobs); END $$;
CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.total := 5; RETURN NEW; END $$;
CREATE TRIGGER t BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.status = 'never') EXECUTE FUNCTION fires();
"""


@pytest.mark.archives
def test_functions_in_plpgsql_are_checked_where_there_is_somebody_who_can(plpgsql_checking: Connection) -> None:
    plpgsql_checking.execute(PLPGSQL)
    report = checked(plpgsql_checking, RENAME)
    assert {(one.source, one.sqlstate) for one in report.breaks} == {
        ("function public.plain()", "42703"),
        ("function public.dynamic()", "42703"),
        ("function public.fires()", "42703"),
    }
    assert [one.source for one in report.cannot_be_checked] == ["function public.never()"]
