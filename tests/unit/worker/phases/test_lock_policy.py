"""When a lock is asked for, when it is only looked at, and who may be sent away."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg import sql

from backfilld.migrations.file.run_settings import RunSettings
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations import Action, Index, Statement
from backfilld.migrations.postgres import locks
from backfilld.migrations.postgres.definitions import IndexDefinition
from backfilld.migrations.postgres.locks import Blocker, LockMode, Needed
from backfilld.worker.phases import lock_policy
from backfilld.worker.phases.lock_policy import BACKOFF, LOOK_SECONDS, RARELY_SECONDS, Wait

JOBS, USERS, OURS = TableName("public", "jobs"), TableName("public", "Users"), TableName("app", "zoo")
NEVER = RunSettings()
READER = Blocker(
    pid=123,
    gid=None,
    application_name="psql",
    role="ann",
    backend_type="client backend",
    state="idle in transaction",
    query="SELECT count(*) FROM jobs",
    transaction_seconds=1.0,
    state_seconds=0.5,
    since=datetime(2026, 1, 1, tzinfo=UTC),
    waits=False,
    is_here=True,
    prevents_wraparound=False,
    is_ours=False,
    may_be_signalled=True,
)
OLD = replace(READER, transaction_seconds=73.0, state_seconds=70.0)
QUERY = replace(OLD, state="active")
VACUUM = replace(QUERY, backend_type="autovacuum worker", application_name="", query="autovacuum: VACUUM public.jobs")
AGAINST_WRAPAROUND = replace(VACUUM, prevents_wraparound=True)
PREPARED = replace(OLD, pid=None, gid="order-7", backend_type=None, state=None, may_be_signalled=False, is_here=False)


def wait(**values: Any) -> Wait:  # Any: fields of Wait
    return Wait(**{"since": 1000.0, "looked_at": 1000.0, **values})


@pytest.mark.parametrize(
    ("state", "blockers", "pause"),
    [
        (wait(), [], 0.0),
        (wait(tries=5, tried_at=999.9), [], 0.0),
        (wait(), [READER], 0.0),
        (wait(tries=1, tried_at=1000.0), [READER], 0.25),
        (wait(tries=3, tried_at=999.5), [READER], 0.5),
        (wait(tries=50, tried_at=1000.0), [READER], BACKOFF.longest_seconds),
        (wait(), [READER, OLD], RARELY_SECONDS),
        (wait(since=990.0), [OLD], 5.0),
        (wait(since=900.0), [OLD], 0.0),
        (wait(since=900.0, tries=1, tried_at=999.0), [OLD], 14.0),
        (wait(), [PREPARED], RARELY_SECONDS),
        (wait(), [VACUUM], 0.0),
        (wait(since=0.0), [AGAINST_WRAPAROUND], None),
        (wait(since=0.0), [READER, AGAINST_WRAPAROUND], None),
    ],
)
def test_a_lock_is_asked_for_when_there_is_a_use_in_it(
    state: Wait, blockers: list[Blocker], pause: float | None
) -> None:
    assert lock_policy.pause_seconds(state, blockers, NEVER) == pause


def test_whoever_may_be_sent_away_is_no_reason_to_hold_back() -> None:
    settings = RunSettings(cancel_blockers="idle")
    assert lock_policy.pause_seconds(wait(), [OLD], settings) == 0.0
    assert lock_policy.pause_seconds(wait(), [QUERY], settings) == RARELY_SECONDS


@pytest.mark.parametrize("pause", [None, 0.0, 0.25, 15.0])
@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_the_way_is_looked_at_again_within_about_a_second(pause: float | None, chance: float) -> None:
    delay = lock_policy.next_look_seconds(pause, chance=chance)
    assert 0.05 < delay <= LOOK_SECONDS * 1.25
    assert lock_policy.next_look_seconds(pause, scans=True, chance=chance) > RARELY_SECONDS / 2


@pytest.mark.parametrize(
    ("blocker", "ways"),
    [
        (OLD, {"idle": "end", "all": "end"}),
        (replace(OLD, state="idle in transaction (aborted)"), {"idle": "end", "all": "end"}),
        (QUERY, {"queries": "cancel", "all": "cancel"}),
        (replace(QUERY, state="fastpath function call"), {}),
        (READER, {}),
        (replace(QUERY, waits=True), {}),
        (VACUUM, {}),
        (AGAINST_WRAPAROUND, {}),
        (PREPARED, {}),
        (replace(QUERY, backend_type="walsender", query="START_REPLICATION 0/0"), {}),
        (replace(QUERY, backend_type="background worker"), {}),
        (replace(OLD, backend_type=None), {}),
        (replace(OLD, is_ours=True, application_name="backfilld run=1 lane=2 seq=3"), {}),
        (replace(OLD, is_here=False), {}),
        (replace(OLD, may_be_signalled=False), {}),
    ],
)
@pytest.mark.parametrize("policy", ["never", "idle", "queries", "all"])
def test_each_policy_sends_away_whom_it_names_and_nobody_else(
    blocker: Blocker, policy: Any, ways: dict[str, str]
) -> None:
    settings = RunSettings(cancel_blockers=policy, cancel_after_seconds=60)
    assert lock_policy.way_out(blocker, settings) == ways.get(policy)
    assert lock_policy.way_out(replace(blocker, state_seconds=59.0), settings) is None


def test_a_wait_goes_on_from_look_to_look_and_not_over_a_hold() -> None:
    first = Wait.of(None, 1000.0)
    later = Wait.of(first.tried().to_json(), 1030.0)
    assert (later.seconds, later.tries, later.tried_at) == (30.0, 1, 1000.0)
    assert Wait.of(later.to_json(), 5000.0) == Wait(since=5000.0, looked_at=5000.0)


def test_people_are_told_of_others_in_the_way_but_not_all_the_time() -> None:
    now = wait()
    assert not now.is_news([])
    assert now.is_news([OLD])
    told = now.told([OLD])
    assert not replace(told, looked_at=2000.0).is_news([OLD])
    another = replace(OLD, pid=7)
    assert not replace(told, looked_at=1001.0).is_news([OLD, another])
    assert replace(told, looked_at=1031.0).is_news([OLD, another])


@pytest.mark.parametrize(
    ("blockers", "words"),
    [
        ([], "waiting for the lock on jobs, which was busy a moment ago"),
        (
            [OLD],
            "waiting for the lock on jobs; held by pid 123 (psql, idle in transaction, 73 s): SELECT count(*) FROM jobs",
        ),
        ([PREPARED], "waiting for the lock on jobs; held by the prepared transaction 'order-7' (73 s)"),
        (
            [replace(OLD, backend_type=None, state=None)],
            "waiting for the lock on jobs; held by pid 123 (this role may not see more; grant it pg_monitor)",
        ),
    ],
)
def test_the_message_says_who_and_since_when(blockers: list[Blocker], words: str) -> None:
    assert lock_policy.in_words("jobs", blockers, NEVER) == words


def test_the_message_says_what_is_never_done() -> None:
    assert "never cancels an autovacuum that prevents wraparound" in lock_policy.in_words(
        "jobs", [AGAINST_WRAPAROUND], NEVER
    )
    refused = lock_policy.in_words("jobs", [replace(OLD, may_be_signalled=False)], RunSettings(cancel_blockers="all"))
    assert "grant it pg_signal_backend" in refused
    assert "pg_signal_backend" not in lock_policy.in_words("jobs", [replace(OLD, may_be_signalled=False)], NEVER)


def test_the_head_of_the_queue_is_named_before_those_who_wait_behind_it() -> None:
    queue = [replace(QUERY, pid=number, waits=True) for number in range(1, 5)] + [OLD]
    words = locks.in_words(queue)
    assert words.startswith("pid 123 (psql, idle in transaction, 73 s)")
    assert "pid 1 (psql, waits itself, 73 s)" in words
    assert words.endswith("; and 2 more")


DEFINITION = IndexDefinition(name="i", unique=False, rest="USING btree (id)", keys=("id",))


def action(*modes: LockMode, table: TableName | None = JOBS, **values: Any) -> Action:
    return Action(
        table=table, statements=tuple(Statement(sql=sql.SQL("SELECT").format(), lock=mode) for mode in modes), **values
    )


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (action(LockMode.NONE), None),
        (action(LockMode.SHARE_UPDATE_EXCLUSIVE, table=None), None),
        (
            action(
                LockMode.ACCESS_EXCLUSIVE, index=Index(schema="public", name="i", present=True, definition=DEFINITION)
            ),
            None,
        ),
        (
            action(LockMode.NONE, LockMode.ACCESS_EXCLUSIVE),
            Needed(tables=(JOBS,), mode=LockMode.ACCESS_EXCLUSIVE, first=False),
        ),
        (action(LockMode.UNKNOWN), None),
        (
            action(LockMode.SHARE_ROW_EXCLUSIVE, LockMode.ACCESS_EXCLUSIVE),
            Needed(tables=(JOBS,), mode=LockMode.ACCESS_EXCLUSIVE, first=True),
        ),
        (
            action(LockMode.NONE, locks=(USERS, OURS)),
            Needed(tables=(OURS, USERS, JOBS), mode=LockMode.ACCESS_EXCLUSIVE, first=True),
        ),
        (
            action(LockMode.SHARE_ROW_EXCLUSIVE, locks=(USERS,)),
            Needed(tables=(USERS, JOBS), mode=LockMode.SHARE_ROW_EXCLUSIVE, first=True),
        ),
    ],
)
def test_the_lock_an_action_needs(one: Action, expected: Needed | None) -> None:
    assert locks.needed(one) == expected


def test_the_statement_that_takes_it() -> None:
    needed = Needed(tables=(TableName("public", 'a"b%'), JOBS), mode=LockMode.ACCESS_EXCLUSIVE, first=True)
    lock = 'LOCK TABLE "public"."a""b%", "public"."jobs" IN ACCESS EXCLUSIVE MODE'
    assert [one.as_string() for one in needed.statements] == [lock]
    outer, inner = TableName("public", "outer"), TableName("Odd", "inner")
    assert [one.as_string() for one in replace(needed, views=(outer, inner)).statements] == [
        'ALTER TABLE IF EXISTS "public"."outer" SET SCHEMA "public"',
        'ALTER TABLE IF EXISTS "Odd"."inner" SET SCHEMA "Odd"',
        lock,
    ]
    assert replace(needed, first=False).statements == ()
