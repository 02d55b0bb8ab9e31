"""A run that begins after others: it waits until they are verified, and is examined when it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fix_runs import expect

from backfilld.migrations.errors import Refused, UsageError
from backfilld.migrations.file import migration as definition
from backfilld.migrations.holds import Cause
from backfilld.migrations.planning import examine
from backfilld.migrations.record import runs
from backfilld.migrations.record.states import Phase, State
from backfilld.monitoring import progress
from backfilld.producers import commands, enqueueing

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.holds import Hold

#: Adds a column, and waits for its contract.
FIRST = """
name: first
operations:
  - add_column: {table: '"Order"', column: {name: shout, type: text}, backfill: "upper(status)"}
"""
#: Is about that column, which is not there before.
SECOND = """
name: second
after: [first]
operations:
  - add_check: {table: '"Order"', name: shouts, check: "shout = upper(shout)"}
settings: {approve: []}
"""


@pytest.fixture(autouse=True)
def table(engine: Engine) -> None:
    engine.execute('CREATE TABLE "Order" (id bigint PRIMARY KEY, status text)')
    engine.execute("""INSERT INTO "Order" SELECT n, 'open' FROM generate_series(1, 50) n""")


def hold(engine: Engine, run: int) -> Hold | None:
    return progress.read(engine.connection, [engine.run(run)])[0].hold


def wake(engine: Engine, run: int) -> None:
    """Let the coordinator of one run look once."""
    engine.set_pace()
    engine.own.advance(engine.message(run))


def test_it_begins_when_the_other_is_verified_and_may_build_upon_it(engine: Engine) -> None:
    first, second = engine.enqueue(FIRST), engine.enqueue(SECOND)
    wake(engine, second)
    assert (engine.run(second).state, engine.run(second).facts) == (State.QUEUED, ())
    found = hold(engine, second)
    assert found is not None
    assert found.cause is Cause.AFTER
    assert "first" in found.reason
    expect(engine.drive(first), State.WAITING)
    assert engine.run(first).phase is Phase.CONTRACT
    expect(engine.drive(second), State.COMPLETED)
    assert engine.value("SELECT convalidated FROM pg_constraint WHERE conname = 'shouts'") is True


def test_a_run_that_failed_is_waited_for_until_a_person_acts(engine: Engine) -> None:
    engine.execute("""ALTER TABLE "Order" ADD CONSTRAINT quiet CHECK (status IS NOT NULL)""")
    first, second = engine.enqueue(FIRST), engine.enqueue(SECOND)
    commands.cancel(engine.connection, first, actor="test")
    expect(engine.drive(first), State.CANCELLED)
    wake(engine, second)
    found = hold(engine, second)
    assert found is not None
    assert "first, which is cancelled" in found.reason
    first = engine.enqueue(FIRST)
    engine.drive(first)
    expect(engine.drive(second), State.COMPLETED)


def test_what_is_refused_as_it_begins_fails_the_run_and_is_examined_again(engine: Engine) -> None:
    first = engine.enqueue(FIRST)
    second = engine.enqueue(SECOND.replace("shout =", "shuot ="))
    engine.drive(first)
    failed = engine.drive(second)
    expect(failed, State.FAILED)
    assert failed.error is not None
    assert "shuot" in failed.error["message"]
    engine.execute('ALTER TABLE "Order" ADD shuot text')
    commands.resume(engine.connection, second, actor="test")
    expect(engine.drive(second), State.COMPLETED)


def test_a_message_that_came_twice_does_not_fail_a_run_for_its_own_work(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one worker still examines the run, the other has begun it: the column that it finds there is the run's own."""
    first = engine.enqueue(FIRST)
    second = engine.enqueue("after: [first]\n" + FIRST.replace("first", "second").replace("shout", "loud"))
    expect(engine.drive(first), State.WAITING)
    examined = examine.examine

    def slowly(*args: Any, **named: Any) -> examine.Examination:  # Any: passed through
        monkeypatch.setattr(examine, "examine", examined)
        expect(engine.drive(second, until=lambda run: run.phase is Phase.BACKFILL), State.RUNNING)
        found = examined(*args, **named)
        assert found.findings
        return found

    monkeypatch.setattr(examine, "examine", slowly)
    engine.set_pace()
    engine.runner().advance(engine.message(second))
    expect(engine.drive(second), State.WAITING)


def test_it_waits_for_a_run_that_decides_about_its_column(engine: Engine) -> None:
    """The other is verified, and its contract is to come: what it would refuse at `enqueue` is waited for here."""
    change = "name: change\noperations: [{change_type: {table: '\"Order\"', column: status, type: varchar(9)}}]"
    then = (
        "name: then\nafter: [change]\noperations: [{set_not_null: {table: '\"Order\"', column: status}}]\n"
        "settings: {approve: []}"
    )
    first, second = engine.enqueue(change), engine.enqueue(then)
    expect(engine.drive(first), State.WAITING)
    wake(engine, second)
    found = hold(engine, second)
    assert found is not None
    assert (engine.run(second).state, found.cause) == (State.QUEUED, Cause.AFTER)
    assert "change" in found.reason
    commands.approve(engine.connection, first, "contract", actor="test", yes=True)
    expect(engine.drive(first), State.COMPLETED)
    expect(engine.drive(second), State.COMPLETED)
    assert engine.value(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = '\"Order\"'::regclass AND attname = 'status'"
    )


def test_a_run_that_waits_can_be_rolled_back_and_cancelled(engine: Engine) -> None:
    engine.enqueue(FIRST)
    for act, state in ((commands.rollback, State.ROLLED_BACK), (commands.cancel, State.CANCELLED)):
        second = engine.enqueue(SECOND)
        act(engine.connection, second, actor="test")
        expect(engine.drive(second), state)


def test_nobody_waits_for_what_was_never_enqueued(engine: Engine) -> None:
    with pytest.raises(UsageError, match="begins after first, and no run has that name"):
        engine.enqueue(SECOND)


def test_with_nothing_to_wait_for_it_is_refused_at_once(engine: Engine) -> None:
    first = engine.enqueue(FIRST)
    engine.drive(first)
    with pytest.raises(Refused, match="shuot"):
        engine.enqueue(SECOND.replace("shout =", "shuot ="))


# --- one name, several runs


VALUES = """
name: close
parameters: {below: {type: integer}}
operations:
  - backfill: {table: '"Order"', set: {status: "'closed'"}, where: "id <= ${below} AND status <> 'closed'"}
"""


def enqueue(engine: Engine, below: int, *, again: bool = False) -> enqueueing.Enqueued:
    migration = definition.parse(VALUES, parameters={"below": below})
    return enqueueing.enqueue(engine.connection, migration, actor="test", again=again)


def closed(engine: Engine) -> int:
    return int(engine.value("""SELECT count(*) FROM "Order" WHERE status = 'closed'"""))


def test_other_values_are_a_new_run_once_the_first_is_completed(engine: Engine) -> None:
    one = enqueue(engine, 10).run.run
    with pytest.raises(UsageError, match=r"other values \(below=10\) and is queued"):
        enqueue(engine, 20)
    expect(engine.drive(one), State.COMPLETED)
    assert enqueue(engine, 10).run.run == one
    two = enqueue(engine, 20)
    assert two.is_new
    expect(engine.drive(two.run.run), State.COMPLETED)
    assert closed(engine) == 20
    with pytest.raises(UsageError, match="another checksum"):
        enqueueing.enqueue(
            engine.connection,
            definition.parse(VALUES.replace("id <=", "id <"), parameters={"below": 20}),
            actor="test",
        )


def test_the_same_values_run_again_only_when_told_to(engine: Engine) -> None:
    one = enqueue(engine, 10).run.run
    engine.drive(one)
    engine.execute("""UPDATE "Order" SET status = 'open' WHERE id = 5""")
    assert not enqueue(engine, 10).is_new
    two = enqueue(engine, 10, again=True)
    assert two.is_new
    assert not enqueue(engine, 10, again=True).is_new
    expect(engine.drive(two.run.run), State.COMPLETED)
    assert closed(engine) == 10


def test_a_run_that_was_made_and_ended_since_is_not_followed_by_another(engine: Engine) -> None:
    """Two deploys enqueue the same values: the second looked before the first was on record, and writes when that is done."""
    engine.drive(enqueue(engine, 10).run.run)
    migration = definition.parse(VALUES, parameters={"below": 10})
    with pytest.raises(UsageError, match="a newer run named close"):
        runs.insert(engine.connection, migration, engine.run(1).facts, actor="test", known=0)


def test_runs_of_one_name_are_taken_back_the_newest_first(engine: Engine) -> None:
    one = enqueue(engine, 10).run.run
    engine.drive(one)
    two = enqueue(engine, 20).run.run
    engine.drive(two)
    with pytest.raises(UsageError, match=f"backfilld rollback {two}"):
        commands.rollback(engine.connection, one, actor="test")
    commands.rollback(engine.connection, "close", actor="test")
    expect(engine.drive(two), State.ROLLED_BACK)
    assert closed(engine) == 10
    commands.rollback(engine.connection, one, actor="test")
    expect(engine.drive(one), State.ROLLED_BACK)
    assert closed(engine) == 0


# --- SQL in several transactions


STEPS = """
name: steps
operations:
  - sql:
      steps:
        - {run: 'CREATE TABLE public."A" (id bigint)', rollback: 'DROP TABLE public."A"'}
        - {run: 'ALTER TABLE public."A" ADD b text', rollback: 'ALTER TABLE public."A" DROP b'}
        - {run: 'ALTER TABLE public."A" ADD c text', rollback: 'ALTER TABLE public."A" DROP c'}
settings: {approve: []}
"""


def columns(engine: Engine) -> list[str]:
    found = engine.execute(
        "SELECT attname::text AS name FROM pg_attribute WHERE attrelid = to_regclass('public.\"A\"') AND attnum > 0 "
        "AND NOT attisdropped ORDER BY attnum"
    )
    return [row["name"] for row in found]


def test_each_step_of_sql_is_a_transaction_with_a_way_back_of_its_own(engine: Engine) -> None:
    for done in range(4):
        run = engine.enqueue(STEPS)
        engine.drive(run, until=lambda _run, done=done: len(columns(engine)) == done)  # type: ignore[misc] # bound here
        assert len(columns(engine)) == done
        commands.rollback(engine.connection, run, actor="test")
        expect(engine.drive(run), State.ROLLED_BACK)
        assert columns(engine) == []
    run = engine.enqueue(STEPS)
    expect(engine.drive(run), State.COMPLETED)
    assert columns(engine) == ["id", "b", "c"]
