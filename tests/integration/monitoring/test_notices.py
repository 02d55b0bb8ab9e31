"""Which news there is: derived from the record, written down once for each channel, and no values of rows in it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from fix_notices import webhook
from fix_runs import expect

from backfilld.migrations.record import notices as store
from backfilld.migrations.record.states import State
from backfilld.monitoring.notices import News, word
from backfilld.producers import commands, pacing

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.settings import Channel

MIGRATION = 'name: {0}\noperations: [{{backfill: {{table: counters {0}, set: {{n: "n + 1"}}}}}}]'


def enqueue(engine: Engine, name: str) -> int:
    """A run on a table of its own: two may not write one column at a time."""
    engine.execute(f'CREATE TABLE IF NOT EXISTS "counters {name}" (LIKE counters INCLUDING ALL)')
    engine.execute(f'INSERT INTO "counters {name}" TABLE counters ON CONFLICT DO NOTHING')
    return engine.enqueue(MIGRATION.format(name))


ALL = ("approval", "failed", "held", "completed", "rolled_back", "paused", "cancelled", "quarantine")


@pytest.fixture
def run(engine: Engine) -> int:
    engine.execute("CREATE TABLE counters (id bigint PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    engine.execute("INSERT INTO counters (id) SELECT generate_series(1, 10)")
    return enqueue(engine, "inc")


def hook(**changed: Any) -> Channel:  # Any: fields of a channel
    return webhook("https://example.com", about=ALL, **changed)


def look(engine: Engine, *channels: Channel) -> None:
    """What a worker does that has just started."""
    News(channels or (hook(),)).look(engine.connection)


def told(engine: Engine, channel: str = "hook") -> list[tuple[str, int]]:
    """What was written down, in order: about and ordinal."""
    rows = engine.execute("SELECT about, ordinal FROM backfilld.notices WHERE channel = %s ORDER BY notice", channel)
    return [(row["about"], row["ordinal"]) for row in rows]


def subjects(engine: Engine) -> list[str]:
    rows = engine.execute("SELECT about, facts FROM backfilld.notices ORDER BY notice")
    return [word("id", row["about"], row["facts"]).subject for row in rows]


def put(engine: Engine, run: int, state: str, **columns: str) -> None:
    """The run is in a state from now on, as the engine would have written it."""
    ended = "clock_timestamp()" if state in {"completed", "rolled_back", "cancelled"} else "NULL"
    more = {
        "failed": """, error = '{"class": "fatal", "sqlstate": "42703", "message": "m"}'""",
        "completed": ", phase = 'done', verified_at = clock_timestamp()",
        "rolled_back": ", rollback = '{}'",
    }.get(state, "")
    more += "".join(f", {name} = {value}" for name, value in columns.items())
    engine.execute(
        f"UPDATE backfilld.runs SET state = '{state}', state_since = clock_timestamp(), ended_at = {ended}{more} WHERE run = {run}"
    )


def earlier(engine: Engine, table: str, *columns: str, hours: float) -> None:
    """Move moments of the record into the past."""
    sets = ", ".join(f"{column} = {column} - make_interval(secs => {hours * 3600})" for column in columns)
    engine.execute(f"UPDATE backfilld.{table} SET {sets}")


def later(engine: Engine, *, hours: float) -> None:
    """Let time pass: everything the record knows is that much longer ago."""
    earlier(engine, "notice_channels", "since", hours=hours)
    earlier(engine, "runs", "state_since", "created_at", "ended_at", hours=hours)
    earlier(engine, "notices", "since", "created_at", "next_try_at", hours=hours)
    earlier(engine, "notice_holds", "since", "seen_at", "told_at", hours=hours)


# --- once --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "about"),
    [
        ("waiting", "approval"),
        ("failed", "failed"),
        ("paused", "paused"),
        ("completed", "completed"),
        ("rolled_back", "rolled_back"),
        ("cancelled", "cancelled"),
    ],
)
def test_a_state_is_told_once_however_often_workers_start(engine: Engine, run: int, state: str, about: str) -> None:
    look(engine)
    assert told(engine) == []
    put(engine, run, state)
    look(engine)
    look(engine)
    assert told(engine) == [(about, 0)]
    engine.execute("UPDATE backfilld.notices SET delivered_at = clock_timestamp()")
    look(engine)
    assert told(engine) == [(about, 0)]


def test_a_state_that_is_entered_again_is_told_again(engine: Engine, run: int) -> None:
    look(engine)
    for state in ("failed", "running", "failed"):
        put(engine, run, state)
        look(engine)
        engine.execute("UPDATE backfilld.notices SET delivered_at = clock_timestamp()")
    assert told(engine) == [("failed", 0), ("failed", 0)]


def test_two_workers_that_look_at_once_make_one_notice(engine: Engine, run: int) -> None:
    look(engine)
    for number in range(8):
        put(engine, enqueue(engine, f"other{number}"), "waiting")
    put(engine, run, "failed")
    together = threading.Barrier(4)

    def work() -> None:
        with engine.connect() as connection:
            together.wait()
            News([hook()]).look(connection)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(told(engine)) == [("approval", 0)] * 8 + [("failed", 0)]


def test_each_channel_is_told_what_it_asked_for(engine: Engine, run: int) -> None:
    channels = (
        hook(),
        webhook("https://example.com", name="few", about=["completed"]),
        hook(name="others", runs=["x*"]),
    )
    look(engine, *channels)
    for state in ("waiting", "completed"):
        put(engine, run, state)
        look(engine, *channels)
        engine.execute("UPDATE backfilld.notices SET delivered_at = clock_timestamp()")
    assert told(engine) == [("approval", 0), ("completed", 0)]
    assert told(engine, "few") == [("completed", 0)]
    assert told(engine, "others") == []


def test_a_pause_that_a_person_asked_for_is_not_told(engine: Engine, run: int) -> None:
    look(engine)
    engine.drive_to_lanes(run)
    commands.pause(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.PAUSED)
    look(engine)
    assert told(engine) == []


# --- nothing old -------------------------------------------------------------------------------------------------------


def test_a_channel_that_is_new_tells_nothing_old(engine: Engine, run: int) -> None:
    for state in ("completed", "rolled_back", "cancelled"):
        put(engine, enqueue(engine, f"old-{state.replace('_', '-')}"), state)
    put(engine, run, "waiting")
    look(engine)
    look(engine)
    assert told(engine) == []


def test_what_waits_for_a_person_when_a_channel_is_new_is_told_by_the_first_reminder(engine: Engine, run: int) -> None:
    put(engine, run, "waiting")
    earlier(engine, "runs", "state_since", "created_at", hours=1000)
    look(engine)
    later(engine, hours=23.9)
    look(engine)
    assert told(engine) == []
    later(engine, hours=0.2)
    look(engine)
    assert told(engine) == [("approval", 1)]
    assert subjects(engine) == ["inc still waits for approval of expand, for 42 days now"]


def test_a_channel_that_was_away_for_a_month_begins_where_it_is(engine: Engine, run: int) -> None:
    look(engine)
    put(engine, run, "completed")
    later(engine, hours=720)
    put(engine, enqueue(engine, "new"), "completed")
    look(engine)
    assert subjects(engine) == ["new is completed"]


# --- reminders, and what is not true any more --------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["waiting", "failed", "paused"])
def test_a_run_that_goes_on_waiting_for_a_person_is_told_of_again(engine: Engine, run: int, state: str) -> None:
    about = {"waiting": "approval"}.get(state, state)
    look(engine)
    put(engine, run, state)
    look(engine)
    for hours in (23, 2, 2, 22):  # 23, 25, 27 and 49 in all
        later(engine, hours=hours)
        look(engine)
    assert told(engine) == [(about, 0), (about, 1), (about, 2)]
    put(engine, run, "running")
    later(engine, hours=100)
    look(engine)
    assert told(engine) == []  # none of them was delivered, and none is true any more


def test_reminders_can_be_switched_off(engine: Engine, run: int) -> None:
    channel = hook(remind_hours=0)
    look(engine, channel)
    put(engine, run, "waiting")
    look(engine, channel)
    later(engine, hours=500)
    look(engine, channel)
    assert told(engine) == [("approval", 0)]


def test_what_was_approved_before_it_could_be_told_is_dropped_and_an_end_is_not(engine: Engine, run: int) -> None:
    look(engine)
    other = enqueue(engine, "other")
    put(engine, run, "waiting")
    put(engine, other, "completed")
    look(engine)
    put(engine, run, "running")
    put(engine, other, "rolling_back", rollback="'{}'")
    look(engine)
    assert told(engine) == [("completed", 0)]


# --- held --------------------------------------------------------------------------------------------------------------


def hold(engine: Engine, reason: str | None = "replica lag is 40 s") -> None:
    engine.set_pace(hold_reason=reason)


@pytest.fixture
def held(engine: Engine, run: int) -> int:
    """A run that has been seen held for a moment."""
    engine.drive_to_lanes(run)
    hold(engine)
    look(engine)
    return run


def stay(engine: Engine, *, minutes: float, channels: tuple[Channel, ...] = ()) -> None:
    """The run stays held for so long, and is looked at all along."""
    later(engine, hours=minutes / 60)
    engine.execute("UPDATE backfilld.notice_holds SET seen_at = clock_timestamp() - interval '10 seconds'")
    hold(engine)
    look(engine, *channels)


def release(engine: Engine, *, minutes: float) -> None:
    """The run is released for so long, and then held again."""
    later(engine, hours=minutes / 60)
    hold(engine)
    look(engine)


def test_a_hold_is_told_when_it_has_lasted_and_once(engine: Engine, held: int) -> None:
    stay(engine, minutes=14)
    assert told(engine) == []
    stay(engine, minutes=1)
    stay(engine, minutes=60)
    assert told(engine) == [("held", 0)]
    assert subjects(engine) == ["inc has been held for 15 minutes"]
    (facts,) = (row["facts"] for row in engine.execute("SELECT facts FROM backfilld.notices"))
    assert (facts["hold"]["cause"], facts["name"], facts["phase"]) == ("load", "inc", "backfill")
    assert "replica lag is 40 s" not in str(facts)


def test_a_hold_that_flaps_is_one_and_one_that_was_told_ends_only_with_a_long_release(
    engine: Engine, held: int
) -> None:
    for _ in range(15):
        stay(engine, minutes=0.5)
        release(engine, minutes=0.5)
    assert told(engine) == [("held", 0)]
    engine.execute("UPDATE backfilld.notices SET delivered_at = clock_timestamp()")
    for _ in range(2):
        release(engine, minutes=14)
        stay(engine, minutes=16)
    assert told(engine) == [("held", 0)]
    release(engine, minutes=16)
    assert told(engine) == [("held", 0)]
    stay(engine, minutes=15)
    assert told(engine) == [("held", 0), ("held", 0)]


def test_short_holds_far_apart_do_not_add_up(engine: Engine, held: int) -> None:
    for _ in range(4):
        stay(engine, minutes=8)
        release(engine, minutes=1.1)
    assert told(engine) == []


def test_a_hold_that_is_over_before_it_could_be_told_is_dropped_and_told_when_it_comes_back(
    engine: Engine, held: int
) -> None:
    stay(engine, minutes=16)
    assert told(engine) == [("held", 0)]
    later(engine, hours=2 / 60)
    hold(engine, None)
    look(engine)
    assert told(engine) == []
    hold(engine)
    look(engine)
    stay(engine, minutes=16)
    assert told(engine) == [("held", 0)]


def test_a_hold_of_the_whole_database_is_one_notice(engine: Engine, held: int) -> None:
    for name in ("two", "three"):
        engine.drive_to_lanes(enqueue(engine, name))
    channels = (hook(), hook(name="other", runs=["t*"]))
    hold(engine)
    look(engine, *channels)
    stay(engine, minutes=16, channels=channels)
    assert told(engine) == told(engine, "other") == [("held", 0)]
    assert subjects(engine) == [
        "inc and 2 other runs have been held for 16 minutes",
        "two and 1 other run have been held for 16 minutes",
    ]


def test_windows_and_approvals_are_no_holds_to_be_told(engine: Engine, run: int) -> None:
    opens = engine.value("SELECT to_char(now() AT TIME ZONE 'UTC' + interval '3 hours', 'HH24:00')")
    closes = engine.value("SELECT to_char(now() AT TIME ZONE 'UTC' + interval '4 hours', 'HH24:00')")
    pacing.tune(engine.connection, run, {"windows": [f"daily {opens}-{closes} UTC"]}, width=None, actor="ann")
    put(engine, enqueue(engine, "waiting"), "waiting")
    hold(engine)
    look(engine)
    assert engine.execute("SELECT run FROM backfilld.notice_holds") == []


def test_a_run_of_which_one_lane_retries_while_others_move_is_not_held(engine: Engine, run: int) -> None:
    lane = engine.drive_to_lanes(run)[0].lane
    look(engine)
    engine.execute(
        """UPDATE backfilld.lanes SET attempts = 3, last_error = '{"class": "transient", "sqlstate": "40P01", "message": "m"}' """
        "WHERE lane = %s",
        lane,
    )
    engine.execute("UPDATE backfilld.lanes SET progressed_at = clock_timestamp() WHERE run = %s", run)
    engine.set_pace()
    look(engine)
    assert engine.execute("SELECT run FROM backfilld.notice_holds") == []
    earlier(engine, "lanes", "progressed_at", hours=1)
    engine.set_pace()
    look(engine)
    assert [row["run"] for row in engine.execute("SELECT run FROM backfilld.notice_holds")] == [run]
    assert told(engine) == []  # since this look: for how long the lane has retried nobody knows


# --- what is in it -----------------------------------------------------------------------------------------------------

SECRETS = ("ann@example.com", "4711")


def nothing_of_rows(engine: Engine) -> None:
    rows = engine.execute("SELECT about, facts, last_error FROM backfilld.notices")
    assert rows
    for row in rows:
        message = word("id", row["about"], row["facts"])
        for secret in SECRETS:
            assert secret not in str(row)
            assert secret not in str(message)


def test_no_value_and_no_key_of_a_row_is_in_a_notice_though_the_error_quotes_both(engine: Engine) -> None:
    engine.execute("CREATE TABLE people (id bigint PRIMARY KEY, email text NOT NULL, n integer)")
    engine.execute("INSERT INTO people VALUES (4711, 'ann@example.com', NULL)")
    look(engine)
    run = engine.enqueue(
        'name: mails\noperations: [{backfill: {table: people, set: {n: "email::integer"}}}]\nsettings: {max_quarantined: 0}'
    )
    stopped = engine.drive(run)
    expect(stopped, State.PAUSED)
    assert stopped.error is not None
    assert all(secret in str(stopped.error) for secret in SECRETS)
    look(engine)
    assert ("paused", 0) in told(engine)
    nothing_of_rows(engine)
    (facts,) = (row["facts"] for row in engine.execute("SELECT facts FROM backfilld.notices WHERE about = 'paused'"))
    assert facts["problem"]["sqlstate"] == "22P02"
    assert word("id", "paused", facts).payload["sqlstate"] == "22P02"


def test_nor_is_what_a_lane_waits_for_in_the_notice_of_a_hold(engine: Engine, run: int) -> None:
    engine.drive_to_lanes(run)
    engine.execute(
        "UPDATE backfilld.lanes SET last_error = "
        """'{"class": "blocked", "sqlstate": null, "message": "held by pid 1: SELECT ''ann@example.com'', 4711"}' WHERE lane = 0"""
    )
    earlier(engine, "lanes", "progressed_at", hours=1)
    engine.set_pace()
    look(engine)
    later(engine, hours=16 / 60)
    engine.execute("UPDATE backfilld.notice_holds SET seen_at = clock_timestamp()")
    engine.set_pace()
    look(engine)
    assert told(engine) == [("held", 0)]
    nothing_of_rows(engine)


def test_rows_set_aside_are_told_at_the_first_and_then_at_ten(engine: Engine, run: int) -> None:
    look(engine)
    for rows in (1, 2, 9, 12, 13):
        engine.execute(
            "INSERT INTO backfilld.quarantine (run, operation, relation, key, sqlstate, error) "
            "SELECT %s, 0, 'counters', to_jsonb(ARRAY[n::text]), '22P02', 'ann@example.com' FROM generate_series(1, %s) n "
            "ON CONFLICT DO NOTHING",
            run,
            rows,
        )
        look(engine)
    assert told(engine) == [("quarantine", 0), ("quarantine", 1)]
    first, second = subjects(engine)
    assert ("1 row" in first, "1 rows" in first, "12 rows" in second) == (True, False, True)
    nothing_of_rows(engine)


def test_the_database_is_named_without_user_and_password(engine: Engine, run: int) -> None:
    look(engine)
    put(engine, run, "failed")
    look(engine)
    (facts,) = (row["facts"] for row in engine.execute("SELECT facts FROM backfilld.notices"))
    assert facts["database"].endswith(f"/{engine.connection.info.dbname}")
    assert "@" not in facts["database"]


def test_what_is_looked_at_costs_no_transaction_id_when_nothing_is_new(engine: Engine, run: int) -> None:
    """Every two seconds, for ever: an idle worker writes nothing."""
    news = News([hook()])
    news.look(engine.connection)
    before = engine.value("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
    for _ in range(3):
        news.look(engine.connection)
    assert engine.value("SELECT pg_snapshot_xmax(pg_current_snapshot())::text") == before


def test_the_numbers_of_notices_are_counted(engine: Engine, run: int) -> None:
    look(engine)
    put(engine, run, "failed")
    look(engine, hook(), hook(name="later"))
    assert store.count(engine.connection) == (1, 0)
