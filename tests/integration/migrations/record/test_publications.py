"""A publication of all tables sends ours on as well: it is told before any harm, and none of our statements fails for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_runs import expect
from psycopg.rows import dict_row

from backfilld.migrations.errors import Refused
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.definitions import KeyColumn
from backfilld.migrations.record import schema
from backfilld.migrations.record.states import State
from backfilld.migrations.rollback import journal
from backfilld.migrations.rollback.archive import Archive
from backfilld.migrations.rollback.journal import Journal
from backfilld.migrations.walks.keys import KeyWalk
from backfilld.producers import commands
from backfilld.producers.client import Client

if TYPE_CHECKING:
    from pathlib import Path

    from fix_runs import Engine

TEXT = """
name: all-kinds
operations:
  - add_column: {table: jobs, column: {name: twice, type: bigint}, backfill: "id * 2", not_null: true}
  - change_type: {table: jobs, column: n, type: bigint}
  - backfill: {table: jobs, set: {m: "m + 1"}}
settings: {lanes: 2, approve: []}
"""


def test_the_schema_is_not_made_where_a_publication_would_send_it_on(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        with pytest.raises(Refused, match=r"everything.*backfilld init --published"):
            schema.ensure(connection)
        assert schema.version(connection) == 0
        assert Client(empty_database_url).init(published=True) == [schema.newest()]
        assert schema.ensure(connection) == [], "a worker that starts finds it"


@pytest.mark.parametrize(
    "what",
    ["ALL TABLES", pytest.param("TABLES IN SCHEMA backfilld", marks=pytest.mark.since(15)), "TABLE backfilld.runs"],
)
def test_the_plan_ranks_it_high(engine: Engine, tmp_path: Path, what: str) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n integer, m integer)")
    file = tmp_path / "jobs.yaml"
    file.write_text(TEXT)

    def risks() -> list[str]:
        return [risk.level for risk in Client(engine.url).plan(file).risks if risk.cause == "published_record"]

    engine.execute("CREATE PUBLICATION ours FOR TABLE jobs")
    assert risks() == []
    engine.execute(f"CREATE PUBLICATION more FOR {what}")
    assert risks() == ["high"]


def test_a_run_and_its_rollback_go_through_while_everything_is_published(engine: Engine) -> None:
    """PostgreSQL refuses UPDATE and DELETE of a published table without a replica identity; the application's included."""
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n integer, m integer)")
    engine.execute("INSERT INTO jobs SELECT n, n, n FROM generate_series(1, 30) n")
    engine.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    run = engine.enqueue(TEXT)
    expect(engine.drive(run), State.COMPLETED)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    commands.purge(engine.connection, run, now=True, actor="ann")


def test_each_of_our_tables_can_be_published(engine: Engine) -> None:
    walk = KeyWalk(table=TableName("public", "jobs"), key=(KeyColumn(name="id", type="bigint"),))
    journal.make(engine.connection, 1, [Journal(run=1, operation=0, walk=walk, targets=())])
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY)")
    Archive(run=1, operation=0, walk=walk).make(engine.connection)
    without = engine.execute(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'backfilld'::regnamespace AND c.relkind IN ('r', 'p') "
        "AND c.relreplident <> 'f' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)"
    )
    assert without == []
