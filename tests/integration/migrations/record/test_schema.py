"""The control schema: made once, refused when it is newer, and with rules that PostgreSQL itself holds."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from backfilld.migrations.errors import Refused
from backfilld.migrations.record import pace, schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_runs import Engine

    from backfilld.migrations.postgres.connect import Connection


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Connection]:
    with psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


def test_it_is_made_once(empty: Connection) -> None:
    assert schema.version(empty) == 0
    assert schema.ensure(empty) == list(range(1, schema.newest() + 1))
    assert schema.version(empty) == schema.newest()
    assert schema.ensure(empty) == []
    schema.check(empty)
    assert pace.read(empty).age_seconds is None, "nothing may work before a reading"


def test_workers_that_start_together_make_it_once(empty_database_url: str) -> None:
    applied: list[list[int]] = []
    together = threading.Barrier(4)

    def start() -> None:
        with psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as connection:
            together.wait()
            applied.append(schema.ensure(connection))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == [[], [], [], list(range(1, schema.newest() + 1))]


def test_a_newer_one_is_refused(engine: Engine) -> None:
    engine.execute("INSERT INTO backfilld.schema_version (version) VALUES (99)")
    for ask in (schema.check, schema.ensure):
        with pytest.raises(Refused, match="has version 99") as refused:
            ask(engine.connection)
        assert refused.value.exit_code == 3


def test_a_failure_leaves_what_was_there(empty: Connection) -> None:
    empty.execute("CREATE SCHEMA backfilld; CREATE TABLE backfilld.pace (mine integer)")
    with pytest.raises(psycopg.errors.DuplicateTable):
        schema.ensure(empty)
    assert schema.version(empty) == 0
    tables = empty.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'backfilld'::regnamespace AND relkind = 'r'"
    )
    assert tables.fetchall() == [{"relname": "pace"}]


def test_an_event_trigger_that_cannot_run_in_our_sessions_is_refused_by_name(empty: Connection) -> None:
    empty.execute(
        "CREATE TABLE ddl_log (tag text);"
        "CREATE FUNCTION log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO ddl_log VALUES (tg_tag); END $$;"
        "CREATE EVENT TRIGGER logs ON ddl_command_end EXECUTE FUNCTION log_ddl()"
    )
    with pytest.raises(Refused, match=r"the event trigger logs \(public.log_ddl\(\)\)"):
        schema.ensure(empty)
    assert schema.version(empty) == 0
    empty.execute("ALTER FUNCTION log_ddl() SET search_path = public")
    assert schema.ensure(empty)


def test_a_role_that_may_not_is_refused_with_a_remedy(empty: Connection, plain_role: tuple[str, str]) -> None:
    name, password = plain_role
    with (
        psycopg.connect(empty.info.dsn, user=name, password=password, autocommit=True, row_factory=dict_row) as plain,
        pytest.raises(Refused, match="backfilld init"),
    ):
        schema.ensure(plain)


def test_on_supabase_the_projects_own_role_makes_it(supabase_url: str) -> None:
    with psycopg.connect(supabase_url, autocommit=True, row_factory=dict_row) as connection:
        assert schema.ensure(connection)
        rows = connection.execute(
            "SELECT r.rolname, c.relname FROM pg_class c CROSS JOIN pg_roles r "
            "WHERE c.relnamespace = 'backfilld'::regnamespace AND c.relkind = 'r' AND r.rolname IN ('anon', 'authenticated') "
            "AND has_table_privilege(r.oid, c.oid, 'SELECT') AND has_schema_privilege(r.oid, 'backfilld', 'USAGE')"
        ).fetchall()
    assert rows == [], "the API's roles see nothing of it"


def test_nobody_else_reads_it(engine: Engine, plain_role_url: str) -> None:
    with psycopg.connect(plain_role_url, autocommit=True) as plain:
        for table in ("runs", "lanes", "quarantine", "events"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                plain.execute(sql.SQL("SELECT FROM backfilld.{}").format(sql.Identifier(table)))
    assert engine.value("SELECT relrowsecurity FROM pg_class WHERE oid = 'backfilld.quarantine'::regclass")


RUN = "INSERT INTO backfilld.runs (name, checksum, definition, settings, facts, requested_by) VALUES ('m', 'c', '{}', '{}', '[]', 'me')"

#: A rule about data, and a statement that breaks it.
RULES: dict[str, tuple[str, str]] = {
    "completed_only_when_verified": (
        "UPDATE backfilld.runs SET state = 'completed', phase = 'done', ended_at = now()",
        "completed_only_when_verified",
    ),
    "completed only at the end": (
        "UPDATE backfilld.runs SET state = 'completed', phase = 'verify', ended_at = now(), verified_at = now()",
        "completed_only_when_verified",
    ),
    "not verified any more": (
        ("UPDATE backfilld.runs SET state = 'completed', phase = 'done', ended_at = now(), verified_at = now(); "
        "UPDATE backfilld.runs SET verified_at = NULL"),
        "completed_only_when_verified",
    ),
    "ended without a time": ("UPDATE backfilld.runs SET state = 'cancelled'", "ended_when_it_ended"),
    "a time without an end": ("UPDATE backfilld.runs SET ended_at = now()", "ended_when_it_ended"),
    "a wish without its state": ("UPDATE backfilld.runs SET wish = 'pause'", "a_wish_is_a_state"),
    "a wish with another's state": ("UPDATE backfilld.runs SET wish = 'cancel', state = 'pausing'", "a_wish_is_a_state"),
    "a failure without an error": ("UPDATE backfilld.runs SET state = 'failed'", "a_failure_has_an_error"),
    "a state that is none": ("UPDATE backfilld.runs SET state = 'sleeping'", "runs_state_check"),
    "a phase that is none": ("UPDATE backfilld.runs SET phase = 'sleeping'", "runs_phase_check"),
    "a name in use": (RUN, "runs_name_in_use"),
    "a coordinator that walks": (
        "INSERT INTO backfilld.lanes (run, lane, kind, operation, relation) VALUES (1, 0, 'verify', 0, 'jobs')",
        "lane_zero_conducts",
    ),
    "a second coordinator": ("INSERT INTO backfilld.lanes (run, lane, kind) VALUES (1, 1, 'coordinator')", "lane_zero_conducts"),
    "a walk of nothing": ("INSERT INTO backfilld.lanes (run, lane, kind) VALUES (1, 1, 'verify')", "a_walk_has_an_operation"),
    "a batch of nothing": ("INSERT INTO backfilld.lanes (run, lane, kind, batch_rows) VALUES (1, 0, 'coordinator', 0)", "lanes_batch_rows_check"),
    "a lane of no run": ("INSERT INTO backfilld.lanes (run, lane, kind) VALUES (99, 0, 'coordinator')", "lanes_run_fkey"),
    "a second pace": ("INSERT INTO backfilld.pace (only_row) VALUES (false)", "pace_only_row_check"),
    "a pace of the same": ("INSERT INTO backfilld.pace DEFAULT VALUES", "pace_pkey"),
    "a width too wide": ("UPDATE backfilld.pace SET width = 65", "pace_width_check"),
    "a stop that nobody asked for": ("UPDATE backfilld.pace SET stopped_at = now()", "a_stop_has_somebody_who_asked"),
    "a permit too many": ("INSERT INTO backfilld.permits VALUES (65)", "permits_permit_check"),
    "a row set aside twice": (
        ("INSERT INTO backfilld.quarantine (run, operation, relation, key, sqlstate, error) "
        "SELECT 1, 0, 'jobs', '[\"1\"]', '23505', '' FROM generate_series(1, 2)"),
        "quarantine_run_operation_key_key",
    ),
}  # fmt: skip


def test_the_rules_are_the_databases_own(engine: Engine) -> None:
    engine.execute(RUN)
    for case, (statement, constraint) in RULES.items():
        with pytest.raises(psycopg.errors.IntegrityError) as broken, engine.connection.transaction():
            engine.execute(statement)
        assert broken.value.diag.constraint_name == constraint, case


@pytest.mark.parametrize("state", ["cancelled", "rolled_back"])
def test_a_name_is_free_again_after_its_run_was_taken_back(engine: Engine, state: str) -> None:
    engine.execute(RUN)
    engine.execute("UPDATE backfilld.runs SET state = %s, ended_at = now(), rollback = '{}'", state)
    engine.execute(RUN)
    assert engine.value("SELECT count(*) FROM backfilld.runs") == 2


def test_a_run_takes_its_record_with_it(engine: Engine) -> None:
    engine.execute(RUN)
    engine.execute("INSERT INTO backfilld.lanes (run, lane, kind) VALUES (1, 0, 'coordinator')")
    engine.execute("INSERT INTO backfilld.events (run, actor, what) VALUES (1, 'me', 'x')")
    engine.execute("DELETE FROM backfilld.runs")
    left: list[dict[str, Any]] = engine.execute(
        "SELECT (SELECT count(*) FROM backfilld.lanes) AS lanes, (SELECT count(*) FROM backfilld.events) AS events"
    )
    assert left == [{"lanes": 0, "events": 0}]
