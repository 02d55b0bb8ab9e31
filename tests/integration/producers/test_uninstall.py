"""Out of a database: refused while something would be left half done, and afterwards nothing of ours is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backfilld.migrations.errors import BackfilldError, Refused
from backfilld.migrations.record import runs, schema, workers
from backfilld.migrations.record.states import State
from backfilld.producers import commands
from backfilld.producers import uninstall as module
from backfilld.producers.uninstall import uninstall

if TYPE_CHECKING:
    from fix_runs import Engine

ADDED = """
name: jobs-shout
operations:
- add_column: {table: Odd Schema.Jobs, column: {name: shout, type: text}, backfill: "upper(status)"}
"""
RENAMED = "{name: jobs-state, operations: [{rename_column: {table: Odd Schema.Jobs, from: status, to: state}}]}"
IN_PLACE = "{name: in-place, operations: [{backfill: {table: Odd Schema.Jobs, set: {status: lower(status)}}}]}"


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    engine.execute('CREATE SCHEMA "Odd Schema"')
    engine.execute('CREATE TABLE "Odd Schema"."Jobs" (id bigint PRIMARY KEY, status text)')
    engine.execute('INSERT INTO "Odd Schema"."Jobs" SELECT n, \'Done\' FROM generate_series(1, 50) n')


def refusal(engine: Engine, *, force: bool = False) -> list[str]:
    with pytest.raises(Refused) as refused:
        uninstall(engine.connection, force=force)
    assert schema.version(engine.connection), "nothing was dropped"
    return [finding.check for finding in refused.value.findings]


def test_a_database_without_runs_is_left_as_it_was(engine: Engine) -> None:
    looked = uninstall(engine.connection, dry_run=True)
    assert (looked.removed, schema.version(engine.connection)) == (False, schema.newest())
    done = uninstall(engine.connection)
    assert (done.removed, done.tables, done.triggers, done.lost) == (True, looked.tables, (), ())
    assert engine.value("SELECT to_regnamespace('backfilld')") is None
    assert uninstall(engine.connection).removed is False, "doing it again is no error"


@pytest.mark.parametrize("text", [ADDED, RENAMED])
def test_no_half_pair_of_columns_is_left(engine: Engine, text: str) -> None:
    """A run that waits for contract is open, force or not; so is one that was cancelled and not taken back."""
    run = engine.enqueue(text)
    assert engine.drive(run).state is State.WAITING
    assert refusal(engine) == refusal(engine, force=True) == ["open_run"]
    commands.cancel(engine.connection, run, actor="ann")
    engine.drive(run)
    assert refusal(engine, force=True) == ["cancelled_run"]
    commands.rollback(engine.connection, run, actor="ann")
    assert engine.drive(run).state is State.ROLLED_BACK
    assert uninstall(engine.connection, force=True).removed  # what the rollback removed may be archived
    columns = engine.execute(
        'SELECT attname FROM pg_attribute WHERE attrelid = \'"Odd Schema"."Jobs"\'::regclass AND attnum > 0 AND NOT attisdropped'
    )
    assert [row["attname"] for row in columns] == ["id", "status"]


def test_old_values_are_named_and_given_up_with_force_alone(engine: Engine) -> None:
    run = engine.enqueue(IN_PLACE)
    assert engine.drive(run).state is State.COMPLETED
    engine.execute("CREATE VIEW public.our_runs AS SELECT name FROM backfilld.runs")
    assert refusal(engine) == ["old_values", "dependent"]
    lost = uninstall(engine.connection, force=True, dry_run=True).lost
    assert "in-place (run 1) keeps" in lost[0].problem
    assert "view our_runs" in lost[1].problem
    assert uninstall(engine.connection, force=True).removed
    assert engine.value("SELECT to_regnamespace('backfilld')") is None


def test_a_trigger_that_no_run_accounts_for_goes_before_the_schema(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what else has a name of ours is for a person to look at."""
    run = engine.enqueue(ADDED)
    engine.drive(run)
    engine.execute("DELETE FROM backfilld.runs")
    (trigger,) = uninstall(engine.connection, dry_run=True).triggers
    assert trigger.endswith(" on Odd Schema.Jobs")

    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    with engine.connect() as reader, reader.transaction():
        reader.execute('SELECT FROM "Odd Schema"."Jobs"')
        with pytest.raises(BackfilldError, match=r"the trigger .* cannot be dropped"):
            uninstall(engine.connection)
    assert schema.version(engine.connection), "nothing is dropped by CASCADE"

    engine.execute('ALTER TABLE "Odd Schema"."Jobs" ADD COLUMN status_backfilld_old text')
    assert refusal(engine, force=True) == ["leftover"]
    engine.execute('ALTER TABLE "Odd Schema"."Jobs" DROP COLUMN status_backfilld_old')
    assert uninstall(engine.connection).triggers == (trigger,)
    assert engine.execute("SELECT FROM pg_trigger WHERE tgname ~ 'backfilld'") == []


def test_a_worker_and_a_newer_schema_and_another_owner_are_in_the_way(engine: Engine) -> None:
    workers.report(engine.connection, "db1:4711", works=True, problem=None, transforms=())
    assert refusal(engine, force=True) == ["worker"]
    workers.forget(engine.connection, "db1:4711")
    engine.execute("INSERT INTO backfilld.schema_version (version) VALUES (99)")
    assert refusal(engine, force=True) == ["schema_version"]


def test_a_run_that_is_enqueued_meanwhile_is_not_lost(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first look and the lock another session may enqueue: the second look, under the lock, finds it."""
    before = module._drop_schema

    def after_an_enqueue(connection: object) -> None:
        engine.enqueue(ADDED)
        before(engine.connection)
        assert connection

    monkeypatch.setattr(module, "_drop_schema", after_an_enqueue)
    assert refusal(engine) == ["open_run"]
    assert [run.name for run in runs.listed(engine.connection)] == ["jobs-shout"]
    assert [run.name for run in runs.listed(engine.connection)] == ["jobs-shout"]


def test_a_table_that_is_put_away_is_named(engine: Engine) -> None:
    run = engine.enqueue("{name: gone, operations: [{drop_table: {table: Odd Schema.Jobs}}], settings: {approve: []}}")
    assert engine.drive(run).state is State.COMPLETED
    assert refusal(engine) == ["old_values"]
    assert uninstall(engine.connection, force=True).removed
