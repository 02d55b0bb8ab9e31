"""The lock policy against a real PostgreSQL: who is in the way is named, waited for, or sent away; and nobody else is."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import psycopg
import pytest
from fix_postgres import embedded
from fix_runs import PACE_SECONDS, Engine, expect
from psycopg import sql
from psycopg.pq import PipelineStatus
from psycopg.rows import dict_row

from backfilld.migrations.file.run_settings import RunSettings
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations import Action, Statement
from backfilld.migrations.postgres import locks
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import schema, step_context
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.telemetry import BatchRetried, BlockerSentAway, CommitUnknown, LaneHeld
from backfilld.producers import commands, pacing, waiting
from backfilld.worker.phases import ddl, lock_policy
from backfilld.worker.phases.lock_watch import Blocked, LockWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fix_proxy import Proxy

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.locks import Blocker
    from backfilld.producers.demo.servers import EmbeddedPostgres

ADD = """
name: shout
operations:
  - add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)", not_null: true}
settings: {lanes: 1, walk: keys, approve: [], %s}
"""
JOBS, USERS = TableName("public", "jobs"), TableName("public", "users")
EVERYTHING = locks.Needed(tables=(JOBS,), mode=locks.LockMode.ACCESS_EXCLUSIVE, first=False)
#: For tests that wait for a condition: a wait of this length means that it never comes.
PATIENCE_SECONDS = 30.0


@pytest.fixture(autouse=True)
def tables(engine: Engine) -> None:
    make_tables(engine.connection)


def make_tables(connection: Connection) -> None:
    connection.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text)")
    connection.execute("INSERT INTO jobs SELECT n, 'open' FROM generate_series(1, 40) n")
    connection.execute("CREATE TABLE users (id bigint PRIMARY KEY, name text)")
    connection.execute("INSERT INTO users SELECT n, 'ann' FROM generate_series(1, 40) n")


@contextmanager
def reading(engine: Engine, name: str = "reporting") -> Iterator[Connection]:
    """A session that has read the table and not ended its transaction."""
    with closing(engine.connect()) as reader:
        reader.execute("SELECT set_config('application_name', %s, false)", [name])
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM jobs")
        yield reader


def until(look: Callable[[], Any]) -> Any:  # Any: what is looked for
    """Look again and again until there is something to see."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (seen := look()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)  # the grain of looking at another session; nothing is assumed to have happened after it
    return seen


def has_column(engine: Engine) -> bool:
    columns = engine.value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'jobs'::regclass AND attname = 'shout'")
    return bool(columns)


def is_old(engine: Engine, pid: int, seconds: float) -> Callable[[], bool]:
    """Whether a session has been at what it does for so long."""
    age = "SELECT extract(epoch FROM clock_timestamp() - state_change) > %s AS old FROM pg_stat_activity WHERE pid = %s"
    return lambda: bool(engine.value(age, seconds, pid))


def what_happened(engine: Engine, what: str) -> list[dict[str, Any]]:
    rows = engine.execute("SELECT detail FROM backfilld.events WHERE what = %s ORDER BY event", what)
    return [row["detail"] for row in rows]


def wait_of(engine: Engine, run: int) -> dict[str, Any]:
    """What the coordinator's lane remembers of its wait."""
    wait = engine.lane(run, 0).lock_wait
    assert wait is not None
    return dict(wait)


# --- Waiting, and saying for whom


def test_whoever_is_in_the_way_is_named_and_when_he_goes_the_run_goes_on(engine: Engine) -> None:
    run = engine.enqueue(ADD % "")
    with reading(engine) as reader:
        engine.step()
        (retried,) = engine.told(BatchRetried)
        assert retried.sqlstate == "55P03"
        assert retried.message.startswith(
            f"waiting for the lock on jobs; held by pid {reader.info.backend_pid} (reporting, idle in transaction, "
        )
        assert retried.message.endswith("SELECT count(*) FROM jobs")
        assert retried.delay_seconds <= lock_policy.LOOK_SECONDS * 1.25, "it looks again within about a second"
        (told,) = what_happened(engine, "lock.waiting")
        assert told["message"] == retried.message
        assert [one["pid"] for one in told["blockers"]] == [reader.info.backend_pid]
        assert waiting.find(engine.connection, run).state is State.QUEUED
        reader.execute("ROLLBACK")
    # The next look finds the way free, and takes it, however short ago the last try was.
    engine.step()
    assert has_column(engine)
    assert len(what_happened(engine, "lock.had")) == 1
    assert engine.lane(run, 0).last_error is None


def test_the_one_at_the_head_of_the_queue_is_named_first(engine: Engine) -> None:
    """Another DDL waits before us: it is in the way too, but it is not the reason."""
    engine.enqueue(ADD % "lock_timeout_ms: 1000")
    with reading(engine) as reader, engine.connect() as other:
        waiting = threading.Thread(target=_ignore_cancel, args=(other, "ALTER TABLE jobs ADD COLUMN theirs text"))
        waiting.start()
        until(lambda: engine.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        engine.step()
        (retried,) = engine.told(BatchRetried)
        head, behind = retried.message.split("; held by ")[1].split("; ")
        assert head.startswith(f"pid {reader.info.backend_pid} (reporting, idle in transaction")
        assert behind.startswith(f"pid {other.info.backend_pid} (waits itself")
        other.cancel()
        waiting.join()


def _ignore_cancel(connection: Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute(statement.encode())


def test_behind_an_old_transaction_nothing_is_tried_and_nobody_queues(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_policy, "OLD_SECONDS", 0.5)
    run = engine.enqueue(ADD % "")
    with reading(engine) as reader:
        until(is_old(engine, reader.info.backend_pid, 0.5))
        for _ in range(3):
            engine.step()
        assert engine.told(BatchRetried) == []
        held = engine.told(LaneHeld)
        assert len(held) == 3
        assert f"held by pid {reader.info.backend_pid} (reporting" in held[-1].reason
        assert (wait_of(engine, run)["tries"], engine.lane(run, 0).batches_retried) == (0, 0)
        assert len(what_happened(engine, "lock.waiting")) == 1, "the same one is told once"
        # A quarter of a minute later it is tried nevertheless: of many that overlap, one is always old.
        engine.execute(
            "UPDATE backfilld.lanes SET lock_wait = jsonb_set(lock_wait, '{since}', "
            "to_jsonb((lock_wait ->> 'since')::float8 - %s)) WHERE lane = 0",
            lock_policy.RARELY_SECONDS,
        )
        engine.step()
        assert len(engine.told(BatchRetried)) == 1
    expect(engine.drive(run), State.COMPLETED)


class Application(threading.Thread):
    """Reads and writes the table again and again; an error ends it."""

    def __init__(self, engine: Engine, statement: bytes) -> None:
        super().__init__()
        self._connection, self._statement = engine.connect(), statement
        self.stopping = threading.Event()
        self.statements = 0
        self.longest_seconds = 0.0
        self.error: psycopg.Error | None = None

    def run(self) -> None:
        with self._connection as connection:
            while not self.stopping.is_set():
                began = time.monotonic()
                try:
                    connection.execute(self._statement)
                except psycopg.Error as exc:
                    self.error = exc
                    return
                self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
                self.statements += 1
                self.stopping.wait(PACE_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.join()


def went_on(everybody: Sequence[Application], before: Sequence[int]) -> bool:
    """Whether each of them has had a statement of his done since."""
    return all(one.error or one.statements > done for one, done in zip(everybody, before, strict=True))


def test_readers_and_writers_go_on_while_a_reader_never_ends(engine: Engine) -> None:
    """None of theirs has to wait for him: they queue behind our tries alone, and those end by themselves."""
    run = engine.enqueue(ADD % "lock_timeout_ms: 50")
    with reading(engine), ExitStack() as stack:
        writers = [
            stack.enter_context(Application(engine, b"UPDATE jobs SET status = status WHERE id = %d" % number))
            for number in range(1, 4)
        ]
        readers = [stack.enter_context(Application(engine, b"SELECT count(*) FROM jobs")) for _ in range(2)]
        everybody = (*writers, *readers)
        for _ in range(8):
            before = [one.statements for one in everybody]
            engine.step()
            until(partial(went_on, everybody, before))
        assert engine.told(BatchRetried), "it was tried"
        assert engine.run(run).phase is Phase.EXPAND
    assert [one.error for one in everybody] == [None] * 5
    assert max(one.longest_seconds for one in everybody) < 5.0, "they waited for the reader, not for a try of 50 ms"
    expect(engine.drive(run), State.COMPLETED)


# --- The deadline


def test_at_its_deadline_the_run_pauses_and_says_who_was_in_the_way_and_resume_tries_again(engine: Engine) -> None:
    run = engine.enqueue(ADD % "lock_deadline_seconds: 1")
    with reading(engine) as reader:
        now = engine.drive(run)
        expect(now, State.PAUSED)
        assert now.error is not None
        assert now.error["class"] == "blocked"
        assert f"held by pid {reader.info.backend_pid} (reporting" in now.error["message"]
        assert "then resume" in now.error["message"]
        (paused,) = what_happened(engine, "run.paused")
        assert paused["reason"] == now.error["message"]
        # When told to go on, it has its whole time again
        commands.resume(engine.connection, run, actor="ann")
        engine.step()
        assert engine.run(run).state is State.RUNNING
        assert wait_of(engine, run)["since"] > 0
    expect(engine.drive(run), State.COMPLETED)


def test_a_way_back_that_is_blocked_fails_at_its_deadline_and_can_be_resumed(engine: Engine) -> None:
    run = engine.enqueue(ADD % "lock_deadline_seconds: 1")
    engine.drive(run, until=lambda run: run.phase is Phase.VERIFY)
    commands.rollback(engine.connection, run, actor="ann")
    with reading(engine):
        now = engine.drive(run)
        expect(now, State.FAILED)
        assert now.error is not None
        assert now.error["class"] == "blocked"
        assert has_column(engine)
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert not has_column(engine)


# --- Sending away


@pytest.mark.parametrize(
    ("policy", "gone"), [("never", set()), ("idle", {"idle"}), ("queries", {"query"}), ("all", {"idle", "query"})]
)
def test_each_policy_sends_away_those_it_names(engine: Engine, policy: str, gone: set[str]) -> None:
    seconds = 3  # so that who has only just come is younger on a busy machine, too
    settings = f"lock_timeout_ms: 300, cancel_blockers: {policy}, cancel_after_seconds: {seconds}"
    run = engine.enqueue(ADD % settings)
    outcome: dict[str, str | None] = {}

    def query(connection: Connection) -> None:
        try:
            connection.execute("SELECT pg_sleep(30), count(*) FROM jobs")
        except psycopg.errors.QueryCanceled:
            outcome["query"] = "cancelled"

    # Given one who is idle in his transaction, one whose query runs, and one who has only just come
    with reading(engine, "idle") as idle, engine.connect() as busy:
        busy.execute("SET application_name = 'query'")
        running = threading.Thread(target=query, args=(busy,))
        running.start()
        until(is_old(engine, idle.info.backend_pid, seconds))
        until(is_old(engine, busy.info.backend_pid, seconds))
        with reading(engine, "new") as new:
            # When
            engine.step()
            # Then
            (still,) = engine.execute("SELECT 1 AS alive FROM pg_stat_activity WHERE pid = %s", new.info.backend_pid)
            assert still, "one who has only just come is not sent away"
            new.execute("SELECT")
            new.execute("ROLLBACK")
        sent_away = engine.told(BlockerSentAway)
        assert {event.application_name for event in sent_away} == gone
        assert {event.pid for event in sent_away} <= {idle.info.backend_pid, busy.info.backend_pid}
        for how, name, statement in (
            ("ended", "idle", "SELECT count(*) FROM jobs"),
            ("cancelled", "query", "pg_sleep"),
        ):
            recorded = what_happened(engine, f"blocker.{how}")
            assert [one["application_name"] for one in recorded] == ([name] if name in gone else [])
            assert all(statement in one["query"] and one["seconds"] >= seconds for one in recorded)
        if "idle" in gone:
            with pytest.raises(psycopg.OperationalError):
                idle.execute("SELECT")
        else:
            idle.execute("ROLLBACK")
        if "query" not in gone:
            busy.cancel()
        running.join()
        assert outcome == {"query": "cancelled"}
    expect(engine.drive(run), State.COMPLETED)


def test_once_the_blocker_is_sent_away_the_same_try_gets_the_lock(engine: Engine) -> None:
    engine.enqueue(ADD % "lock_timeout_ms: 1000, cancel_blockers: idle, cancel_after_seconds: 1")
    with reading(engine) as reader:
        until(is_old(engine, reader.info.backend_pid, 1.0))
        engine.step()
        assert has_column(engine)
        assert engine.told(BatchRetried) == []
        assert len(what_happened(engine, "blocker.ended")) == 1


def test_a_walsender_is_never_sent_away(engine: Engine) -> None:
    """A replication connection may hold a table as well: a new subscription copies it so."""
    run = engine.enqueue(ADD % "lock_timeout_ms: 500, cancel_blockers: all, cancel_after_seconds: 1")
    with psycopg.connect(engine.url, autocommit=True, replication="database") as sender:
        sender.execute("BEGIN")
        sender.execute("SELECT count(*) FROM jobs")
        until(is_old(engine, sender.info.backend_pid, 1.0))
        (blocker,) = locks.holders(engine.connection, EVERYTHING)
        assert blocker.backend_type == "walsender"
        engine.step()
        assert len(engine.told(BatchRetried)) == 1
        assert engine.told(BlockerSentAway) == []
        sender.execute("ROLLBACK")
    expect(engine.drive(run), State.COMPLETED)


def test_the_walsender_of_a_standby_is_told_from_an_application(
    embedded_postgres: EmbeddedPostgres, standby: EmbeddedPostgres
) -> None:
    """Whatever it was seen to do, nothing is sent to it."""
    assert standby.port != embedded_postgres.port
    with psycopg.connect(embedded_postgres.url(), autocommit=True, row_factory=dict_row) as connection:
        row = until(
            lambda: connection.execute(
                "SELECT r.pid, a.state, a.state_change FROM pg_stat_replication r JOIN pg_stat_activity a USING (pid) "
                "WHERE a.backend_type = 'walsender' AND r.state = 'streaming'"
            ).fetchone()
        )
        seen = replace(_blocker(pid=row["pid"]), state=row["state"], since=row["state_change"])
        for ends in (False, True):
            assert not locks.send_away(connection, seen, waiting=connection.info.backend_pid, ends=ends)
        assert lock_policy.way_out(replace(seen, backend_type="walsender"), RunSettings(cancel_blockers="all")) is None
        assert connection.execute("SELECT FROM pg_stat_replication WHERE pid = %s", [row["pid"]]).fetchall()


def _blocker(**values: Any) -> Blocker:  # Any: fields of Blocker
    known: dict[str, Any] = dict.fromkeys(locks.Blocker.__dataclass_fields__)
    known |= {"application_name": "", "waits": False, "is_here": True, "is_ours": False, "may_be_signalled": True}
    return locks.Blocker(**{**known, **values})


def test_nobody_is_sent_away_who_is_not_in_the_way_any_more(engine: Engine) -> None:
    """Between the look and the signal he went on: the same session, another moment."""
    with reading(engine) as reader:
        (blocker,) = locks.holders(engine.connection, EVERYTHING)
        assert blocker.is_idle
        assert not locks.send_away(engine.connection, blocker, waiting=engine.connection.info.backend_pid, ends=True)
        reader.execute("SELECT")


def test_what_a_role_may_not_signal_it_knows_beforehand(
    engine: Engine, plain_role: tuple[str, str], plain_role_url: str
) -> None:
    with (
        psycopg.connect(plain_role_url, autocommit=True, row_factory=dict_row) as plain,
        reading(engine),
        psycopg.connect(plain_role_url, autocommit=True) as own,
    ):
        engine.execute(f'GRANT SELECT ON jobs TO "{plain_role[0]}"')
        own.execute("BEGIN")
        own.execute("SELECT count(*) FROM jobs")
        found = {blocker.pid: blocker for blocker in locks.holders(plain, EVERYTHING)}
        superuser = next(found[pid] for pid in found if pid != own.info.backend_pid)
        assert (superuser.backend_type, superuser.may_be_signalled) == (None, False)
        assert "grant it pg_monitor" in str(superuser)
        assert found[own.info.backend_pid].may_be_signalled
        # Nor does pg_signal_backend reach a superuser, whom others with it would be
        engine.execute(f'GRANT pg_signal_backend, pg_monitor TO "{plain_role[0]}"')
        found = {blocker.pid: blocker for blocker in locks.holders(plain, EVERYTHING)}
        assert not found[superuser.pid].may_be_signalled
        assert found[superuser.pid].backend_type == "client backend"
        engine.execute(f'REVOKE pg_signal_backend, pg_monitor FROM "{plain_role[0]}"')


def test_autovacuum_goes_for_us_and_a_prepared_transaction_is_named() -> None:
    """On a server of its own, where autovacuum comes at once and takes very long, and transactions can be prepared."""
    eager = {
        "autovacuum_naptime": "1s",
        "autovacuum_vacuum_cost_delay": "100ms",
        "autovacuum_vacuum_cost_limit": "1",
        "max_prepared_transactions": "2",
    }
    with embedded(settings=eager) as server, ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(server.url(), autocommit=True, row_factory=dict_row))
        pool = stack.enter_context(open_pool(server.url(), size=4))
        schema.ensure(connection)
        make_tables(connection)
        engine = Engine(url=server.url(), connection=connection, pool=pool)
        engine.set_pace()
        # Given a vacuum that is in the middle of the table
        engine.execute("ALTER TABLE jobs SET (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0)")
        engine.execute("INSERT INTO jobs SELECT n, repeat('x', 500) FROM generate_series(41, 4000) n")
        engine.execute("UPDATE jobs SET status = status || 'y'")
        engine.hand_in_counts()
        (vacuum,) = until(lambda: locks.holders(connection, EVERYTHING))
        assert (vacuum.backend_type, vacuum.prevents_wraparound) == ("autovacuum worker", False)
        # When we ask for the table, it goes
        run = engine.enqueue(ADD % "lock_timeout_ms: 500")
        engine.drive(run, until=lambda run: run.state is State.RUNNING)
        assert has_column(engine)

        # Given a transaction that was prepared and forgotten
        engine.drive(run, until=lambda run: run.phase is Phase.SWITCH)
        engine.execute("ALTER TABLE jobs SET (autovacuum_enabled = off)")
        with engine.connect() as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM jobs")
            other.execute("PREPARE TRANSACTION 'order-7'")
        pacing.tune(connection, run, {"cancel_blockers": "all", "cancel_after_seconds": 1}, width=None, actor="ann")
        engine.step()
        error = engine.lane(run, 0).last_error
        assert error is not None
        assert "held by the prepared transaction 'order-7' (" in error["message"]
        assert engine.told(BlockerSentAway) == []
        engine.execute("ROLLBACK PREPARED 'order-7'")
        expect(engine.drive(run), State.COMPLETED)


# --- Several tables, and one round trip


def both() -> Action:
    """An action on two tables."""
    comments = (sql.SQL("COMMENT ON TABLE {} IS 'both'").format(table.identifier) for table in (USERS, JOBS))
    return Action(
        table=USERS,
        locks=(USERS, JOBS),
        statements=tuple(Statement(sql=comment, lock=locks.LockMode.ACCESS_EXCLUSIVE) for comment in comments),
    )


def step_of(engine: Engine, connection: Connection, action: Action, run: int) -> None:
    """One action, as the coordinator does it."""
    lock_watch = LockWatch(
        engine.pool, engine.lane(run, 0), step_context.read(connection, run), observe=engine.events.append
    )
    with connection.transaction(), lock_watch.watching():
        connection.execute("SET LOCAL lock_timeout = '500ms'")
        lock_watch.before(connection, action)
        with ddl.together(connection, action):
            ddl.execute(connection, action)


def test_an_action_on_two_tables_locks_both_in_order_of_their_names_or_nothing(engine: Engine) -> None:
    run = engine.enqueue(ADD % "lock_timeout_ms: 500")
    with engine.connect() as ours, engine.connect() as application:
        # Given an application that has users, and wants jobs next
        application.execute("BEGIN")
        application.execute("UPDATE users SET name = 'bob' WHERE id = 1")
        failed: list[BaseException] = []

        def ask() -> None:
            try:
                step_of(engine, ours, both(), run)
            except Blocked as exc:
                failed.append(exc)

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: engine.value("SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass AND NOT granted"))
        assert engine.value(
            "SELECT granted FROM pg_locks WHERE relation = 'jobs'::regclass AND mode = 'AccessExclusiveLock' AND granted"
        )
        # When each waits for the other, it is we who go
        application.execute("UPDATE jobs SET status = 'mine' WHERE id = 1")
        application.execute("COMMIT")
        asking.join()
        (blocked,) = failed
        assert isinstance(blocked, Blocked)
        assert blocked.sqlstate in {"55P03", "40P01"}
        assert f"pid {application.info.backend_pid} " in str(blocked)
        step_of(engine, ours, both(), run)
    assert engine.value("SELECT obj_description('jobs'::regclass)") == "both"


def test_statements_go_in_one_round_trip_unless_one_of_them_is_several(engine: Engine) -> None:
    several = sql.SQL("COMMENT ON TABLE jobs IS 'a'; COMMENT ON TABLE users IS 'b'").format()
    raw = Action(table=None, statements=(Statement(sql=several, lock=locks.LockMode.ACCESS_EXCLUSIVE),))
    with engine.connect() as connection:
        for action, status in ((both(), PipelineStatus.ON), (raw, PipelineStatus.OFF)):
            with connection.transaction(), ddl.together(connection, action):
                assert connection.pgconn.pipeline_status == status
                ddl.execute(connection, action)
    assert engine.value("SELECT obj_description('users'::regclass)") == "b"


@pytest.mark.parametrize("committed", [True, False])
def test_a_connection_cut_at_the_commit_of_ddl(
    engine: Engine, proxy: Callable[[str], Proxy], *, committed: bool
) -> None:
    """Nothing is guessed and nothing done twice: the lane's `seq` tells whether column and checkpoint are there."""
    run = engine.enqueue(ADD % "")
    between = proxy(engine.url)
    with open_pool(between.url(engine.url), size=3) as pool:
        happened = between.drop_reply(b"COMMIT") if committed else between.drop_request(b"COMMIT")
        engine.step(runner=engine.runner(pool=pool))
        assert happened.is_set()
        (unknown,) = engine.told(CommitUnknown)
        assert (unknown.lane, unknown.committed) == (0, committed)
        assert has_column(engine) is committed
        assert engine.lane(run, 0).seq == int(committed)
        expect(engine.drive(run, runner=engine.runner(pool=pool)), State.COMPLETED)
    assert engine.value("SELECT count(*) FROM jobs WHERE shout = 'OPEN'") == 40
