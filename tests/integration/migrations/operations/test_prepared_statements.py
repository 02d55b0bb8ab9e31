"""What docs/operations/change_type.md says of prepared statements, tried with psycopg."""

from __future__ import annotations

import psycopg
import pytest
from fix_runs import Engine, expect

from backfilld.migrations.record.states import Phase, State

#: Executed more often than `prepare_threshold`, psycopg prepares a statement.
OFTEN = 7


def test_psycopg_fails_on_every_call_until_its_statements_go(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n integer, m integer)")
    engine.execute("INSERT INTO jobs VALUES (1, 1, 1)")
    run = engine.enqueue(
        "name: wider\noperations: [{change_type: {table: jobs, column: n, type: bigint}}]\nsettings: {lanes: 1}"
    )
    engine.drive(run, until=lambda run: run.phase is Phase.SWITCH)
    with engine.connect() as application, engine.connect() as unprepared:
        unprepared.prepare_threshold = None

        def ask(what: str, connection: psycopg.Connection[dict[str, object]] = application) -> None:
            connection.execute(f"SELECT {what} FROM jobs WHERE id = %s".encode(), [1]).fetchall()

        for _ in range(OFTEN):
            ask("n")
            ask("m")
            ask("n", unprepared)
        expect(engine.drive(run), State.WAITING)
        for _ in range(3):
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="cached plan must not change result type"):
                ask("n")
            ask("m")
            ask("n", unprepared)
        application.execute("DEALLOCATE ALL")
        ask("n")
