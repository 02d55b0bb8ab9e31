"""The Python client: what it writes to the record, what it sends, and what it refuses. Workers are played by the tests."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dramatiq
import psycopg
import pytest
import redis
from psycopg.rows import dict_row

from backfilld import Client
from backfilld.migrations.errors import BackfilldError, InvalidMigration, NotFinished, Refused, Unreachable, UsageError
from backfilld.migrations.record import audit, lanes, pace, quarantine, runs
from backfilld.migrations.record.model import Bounds
from backfilld.migrations.record.states import LaneKind, Phase, State, Wish
from backfilld.producers import following, locked, waiting
from backfilld.producers.waiting import RunStopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fix_proxy import Proxy

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run

#: Nothing listens there.
NOWHERE = "redis://127.0.0.1:1/0"

JOBS = """
name: jobs-shout
operations:
  - add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)"}
  - backfill: {table: people, set: {name: "trim(name)"}, where: "name <> trim(name)"}
settings: {batch_seconds: 0.5}
"""
OTHER = JOBS.replace("upper(status)", "lower(status)")


@dataclass
class Site:
    """A database with two tables, a migration file, and a client that remembers its warnings."""

    database_url: str
    redis_url: str
    folder: Path
    connection: Connection
    warnings: list[str] = field(default_factory=list)

    def client(self, **changes: Any) -> Client:  # Any: arguments of Client
        given = {"database_url": self.database_url, "redis_url": self.redis_url, "actor": "ann@laptop"}
        return Client(**{**given, "warn": self.warnings.append, **changes})

    def file(self, text: str = JOBS) -> Path:
        path = self.folder / "migration.yaml"
        path.write_text(text)
        return path

    def enqueued(self, name: str = "jobs-shout") -> int:
        """A run; another one than the first is of tables of its own, as two may not write one column."""
        text = JOBS.replace("jobs-shout", name)
        if name != "jobs-shout":
            for table in ("jobs", "people"):
                self.connection.execute(f'CREATE TABLE "{table} {name}" (LIKE {table} INCLUDING ALL)'.encode())
                text = text.replace(f"table: {table},", f"table: {table} {name},")
        return self.client().enqueue(self.file(text)).run

    def run(self) -> Run:
        """The newest run, as the record has it."""
        return runs.listed(self.connection, ended=True)[0]

    def becomes(self, *states: State, error: dict[str, str] | None = None) -> None:
        """What a worker does: the run goes through these states."""
        for state in states:
            with self.connection.transaction():
                held = runs.lock(self.connection, self.run().run)
                assert held is not None
                runs.set_state(
                    self.connection, held, state, actor=runs.WORKER, reason="test", wish=held.wish, error=error
                )

    def enters(self, phase: Phase, *, verified: bool = False) -> None:
        runs.set_phase(self.connection, self.run().run, phase)
        if verified:
            runs.set_residual(self.connection, self.run().run, residual=0, verified=True)

    def events(self) -> list[tuple[str, str]]:
        return [(event["actor"], event["what"]) for event in self.client().events(self.run().run)]

    def sent(self, queue: str) -> list[tuple[Any, ...]]:
        """What waits in a queue of Redis, as (actor, *args)."""
        with redis.Redis.from_url(self.redis_url) as client:
            bodies = client.hgetall(f"{{backfilld}}:{queue}.msgs").values()
        messages = [dramatiq.Message.decode(body) for body in bodies]
        return sorted((message.actor_name, *message.args) for message in messages)

    def forget_sent(self) -> None:
        with redis.Redis.from_url(self.redis_url) as client:
            client.flushdb()


@pytest.fixture
def site(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Site]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        _make_tables(connection)
        yield Site(database_url, redis_url, tmp_path, connection)


def _make_tables(connection: psycopg.Connection[Any]) -> None:
    connection.execute("create table jobs (id bigint primary key, status text not null)")
    connection.execute("create table people (id bigint primary key, name text not null)")
    connection.execute("insert into jobs select n, 'open' from generate_series(1, 100) n")


# --- enqueue -----------------------------------------------------------------------------------------------------------


def test_enqueue_writes_a_run_with_its_conductor_and_wakes_it(site: Site) -> None:
    now = site.client().enqueue(site.file())
    assert (now.name, now.phase, now.state, now.rows_done) == ("jobs-shout", Phase.EXPAND, State.QUEUED, 0)
    assert [lane.kind for lane in site.client().lanes(now.run)] == ["coordinator"]
    assert site.run().requested_by == "ann@laptop"
    assert site.events() == [("ann@laptop", "run.enqueued")]
    assert site.sent("lanes") == [("advance_lane", "default", now.run, 0, 0)]


def test_enqueue_again_finds_the_run_and_leaves_it_alone(site: Site) -> None:
    run = site.enqueued()
    site.becomes(State.RUNNING)
    site.connection.execute("alter table jobs add column shout text")  # the run's own doing: preflight would refuse
    before = (site.run(), site.events())
    again = site.client().enqueue(site.file("# a comment changes nothing\n" + JOBS))
    assert again.run == run
    assert (site.run(), site.events()) == before
    assert site.client().record(site.file()).run == run


def test_enqueue_with_other_settings_says_that_they_were_not_taken_over(site: Site) -> None:
    site.enqueued()
    site.warnings.clear()
    site.client().enqueue(site.file(JOBS.replace("batch_seconds: 0.5", "batch_seconds: 2")))
    (warning,) = site.warnings
    assert "batch_seconds" in warning
    assert site.run().settings.batch_seconds == 0.5


def test_enqueue_refuses_another_migration_of_the_same_name_and_says_what_to_do(site: Site) -> None:
    site.enqueued()
    ours = site.run().checksum.removeprefix("sha256:")[:12]
    with pytest.raises(UsageError, match=rf"{ours}.*new name.*backfilld cancel jobs-shout") as caught:
        site.client().enqueue(site.file(OTHER))
    assert "sha256" not in str(caught.value)
    assert len(site.client().runs()) == 1


def test_a_name_is_free_again_after_a_cancel(site: Site) -> None:
    first = site.enqueued()
    site.client().cancel(first)
    site.becomes(State.CANCELLED)
    second = site.client().enqueue(site.file(OTHER))
    assert second.run != first
    assert site.client().status("jobs-shout").run == second.run


def test_two_deploys_at_once_get_the_same_run(site: Site) -> None:
    file, together, found = site.file(), threading.Barrier(2), []

    def deploy() -> None:
        together.wait()
        found.append(site.client().enqueue(file).run)

    threads = [threading.Thread(target=deploy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [site.run().run] * 2


def test_without_redis_nothing_is_written(empty_database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "migration.yaml"
    file.write_text(JOBS)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        _make_tables(connection)
        with pytest.raises(Unreachable, match="Redis"):
            Client(empty_database_url, NOWHERE).enqueue(file)
        assert connection.execute("select to_regnamespace('backfilld')").fetchone() == (None,)


def test_the_first_enqueue_makes_the_schema(empty_database_url: str, redis_url: str, tmp_path: Path) -> None:
    file = tmp_path / "migration.yaml"
    file.write_text(JOBS)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        _make_tables(connection)
    warnings: list[str] = []
    client = Client(empty_database_url, redis_url, warn=warnings.append)
    with pytest.raises(UsageError, match="backfilld init"):
        client.runs()
    client.enqueue(file)
    assert [run.name for run in client.runs()] == ["jobs-shout"]
    assert client.init() == []


def test_a_refused_migration_is_not_written_and_not_sent(site: Site) -> None:
    site.connection.execute("drop table people")
    with pytest.raises(Refused) as caught:
        site.enqueued()
    assert [finding.check for finding in caught.value.findings] == ["table"]
    assert site.client().runs() == []
    assert site.sent("lanes") == []


def test_a_file_that_is_wrong_is_found_before_anything_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "migration.yaml"
    file.write_text("name: x\noperations: []\n")
    with pytest.raises(InvalidMigration):
        Client("postgresql://127.0.0.1:1/x", NOWHERE).enqueue(file)


def test_losing_redis_after_the_commit_leaves_a_run_that_the_workers_will_find(
    site: Site, proxy: Callable[[str], Proxy]
) -> None:
    through = proxy(site.redis_url)

    def warn(text: str) -> None:
        site.warnings.append(text)
        through.refuse()  # preflight's warning comes after the commit, and before anything is sent

    now = site.client(redis_url=through.url(site.redis_url), warn=warn).enqueue(site.file())
    assert "they will find it" in site.warnings[-1]
    assert now.state is State.QUEUED
    assert site.sent("lanes") == []
    assert [message.run for message in lanes.due(site.connection, grace_seconds=0)] == [now.run]


def test_record_needs_no_redis(site: Site) -> None:
    now = site.client(redis_url=NOWHERE).record(site.file())
    assert (now.run, now.state) == (site.run().run, State.QUEUED)


def test_plan_changes_nothing(site: Site) -> None:
    plan = site.client(redis_url=None).plan(site.file())
    assert not plan.refused
    assert [table.name for table in plan.tables] == ["jobs", "people"]
    assert site.client().runs() == []


# --- looking -----------------------------------------------------------------------------------------------------------


def test_an_unknown_run_is_answered_with_what_there_is(site: Site) -> None:
    with pytest.raises(UsageError, match="none yet"):
        site.client().status("jobs-shout")
    site.enqueued()
    with pytest.raises(UsageError, match="Did you mean jobs-shout"):
        site.client().status("jobs-shuot")
    with pytest.raises(UsageError, match="There is jobs-shout"):
        site.client().status(4711)


def test_status_is_found_by_id_and_by_name(site: Site) -> None:
    run = site.enqueued()
    runs.set_totals(site.connection, run, rows_total=100)
    now = site.client().status(str(run))
    assert now.to_json() == site.client().status("jobs-shout").to_json()
    assert now.rows_total == 100
    assert now.hot_update_ratio is None


def test_runs_are_listed_newest_first_with_those_that_ended(site: Site) -> None:
    first = site.enqueued()
    site.client().cancel(first)
    site.becomes(State.CANCELLED)
    second = site.enqueued()
    assert [now.run for now in site.client().runs()] == [second, first]
    assert [now.run for now in site.client().runs(ended=False)] == [second]


def test_every_verb_says_that_postgresql_is_away(site: Site) -> None:
    client = site.client(database_url="postgresql://127.0.0.1:1/x")
    for verb in (client.runs, lambda: client.status(1), lambda: client.pause(1), lambda: client.gate("x"), client.init):
        with pytest.raises(Unreachable, match="PostgreSQL"):
            verb()


# --- control -----------------------------------------------------------------------------------------------------------

BOOM = {"class": "fatal", "message": "boom"}

#: How a worker and a person bring a fresh run into each state.
WAYS: dict[State, tuple[State, ...]] = {
    State.QUEUED: (),
    State.RUNNING: (State.RUNNING,),
    State.WAITING: (State.RUNNING, State.WAITING),
    State.PAUSING: (State.RUNNING, State.PAUSING),
    State.PAUSED: (State.RUNNING, State.PAUSED),
    State.CANCELLING: (State.CANCELLING,),
    State.CANCELLED: (State.CANCELLING, State.CANCELLED),
    State.FAILED: (State.FAILED,),
}


#: What becomes of a run in each state; None: the verb is refused.
VERBS: dict[str, dict[State, State | None]] = {
    "pause": {
        State.QUEUED: State.PAUSING,
        State.RUNNING: State.PAUSING,
        State.WAITING: State.PAUSING,
        State.PAUSING: State.PAUSING,
        State.PAUSED: State.PAUSED,
        State.FAILED: None,
        State.CANCELLING: None,
        State.CANCELLED: None,
    },
    "resume": {
        State.QUEUED: State.QUEUED,
        State.RUNNING: State.RUNNING,
        State.WAITING: None,
        State.PAUSING: State.RUNNING,
        State.PAUSED: State.RUNNING,
        State.FAILED: State.RUNNING,
        State.CANCELLING: None,
        State.CANCELLED: None,
    },
    "cancel": {
        State.QUEUED: State.CANCELLING,
        State.RUNNING: State.CANCELLING,
        State.WAITING: State.CANCELLING,
        State.PAUSING: State.CANCELLING,
        State.PAUSED: State.CANCELLING,
        State.FAILED: State.CANCELLING,
        State.CANCELLING: State.CANCELLING,
        State.CANCELLED: State.CANCELLED,
    },
}


def test_a_rollback_that_stopped_is_resumed_and_was_asked_for_once(site: Site) -> None:
    """By ann, who stays the one that asked, whoever resumes it."""
    run = site.client(actor="ann@x").enqueue(site.file()).run
    site.client(actor="ann@x").rollback(run)
    site.becomes(State.FAILED, error={"message": "a row breaks a rule"})
    assert not any("rollback" in one for one in site.client().explain(run).remedies)

    site.client(actor="bob@y").resume(run)

    assert [event["actor"] for event in site.client().events(run) if event["detail"].get("again")] == ["bob@y"]
    asked = audit.first(site.connection, run, what="run.rolling_back")
    assert asked is not None
    assert asked["actor"] == "ann@x"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_in_each_state(site: Site, verb: str) -> None:
    """Either it writes the wish with who asked, or it changes nothing; a second time it changes nothing."""
    assert set(VERBS[verb]) == set(WAYS)
    ask = getattr(site.client(), verb)
    for before, after in VERBS[verb].items():
        name = f"jobs-{before}"
        site.enqueued(name)
        site.becomes(*WAYS[before], error=BOOM if before is State.FAILED else None)
        was = site.events()
        if after is None:
            with pytest.raises(UsageError, match=name):
                ask(name)
            assert (site.run().state, site.events()) == (before, was)
            continue
        now = ask(name)
        assert (now.state, site.run().state) == (after, after)
        wishes = {State.PAUSING: Wish.PAUSE, State.CANCELLING: Wish.CANCEL}
        if after is not before:
            assert now.wish is wishes.get(after)
            assert site.events() == [*was, ("ann@laptop", f"run.{after}")]
        ask(name)
        assert len(site.events()) == len(was) + (after is not before)


def test_a_control_verb_wakes_the_workers_and_names_who_asked(site: Site) -> None:
    run = site.enqueued()
    site.forget_sent()
    site.client().pause(run)
    assert site.sent("control") == [("apply_control", "default", run, "wake", "ann@laptop")]
    assert site.sent("lanes") == []
    site.becomes(State.PAUSED)
    site.client().resume(run)
    assert site.sent("lanes") == [("advance_lane", "default", run, 0, 0)]


@pytest.mark.parametrize("away", [NOWHERE, None])
def test_control_needs_no_redis(site: Site, away: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    run = site.enqueued()
    site.warnings.clear()
    monkeypatch.delenv("BACKFILLD_REDIS_URL", raising=False)
    assert site.client(redis_url=away).pause(run).state is State.PAUSING
    assert len(site.warnings) == (away is not None)
    assert all("recorded" in warning for warning in site.warnings)


def test_resume_forgets_the_error_and_lets_every_lane_work_at_once(site: Site) -> None:
    run = site.enqueued()
    site.becomes(State.FAILED, error=BOOM)
    coordinator = lanes.read(site.connection, run, 0)
    assert coordinator is not None
    lanes.postpone(site.connection, coordinator, delay_seconds=3600, attempts=7, error=BOOM)
    now = site.client().resume(run)
    assert now.errors == ()
    woken = lanes.read(site.connection, run, 0)
    assert woken is not None
    assert (woken.attempts, woken.last_error) == (0, None)
    assert [message.lane for message in lanes.startable(site.connection, run)] == [0]


def test_a_run_that_is_held_by_a_long_step_is_left_as_it_is(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locked, "LOCK_TIMEOUT", "50ms")
    run = site.enqueued()
    with psycopg.connect(site.database_url) as other:
        other.execute("select from backfilld.runs for update")
        with pytest.raises(BackfilldError, match="nothing was changed"):
            site.client().pause(run)
    assert site.run().state is State.QUEUED


# --- approve and gate --------------------------------------------------------------------------------------------------


def test_approve_lets_a_waiting_run_go_on(site: Site) -> None:
    run = site.enqueued()
    site.becomes(State.RUNNING)
    site.enters(Phase.CONTRACT, verified=True)
    site.becomes(State.WAITING)
    site.connection.execute("update backfilld.lanes set next_run_at = null")  # a coordinator that waits sleeps
    site.forget_sent()
    assert site.client().approve(run, "contract").state is State.RUNNING
    assert site.events()[-2:] == [("ann@laptop", "phase.approved"), ("ann@laptop", "run.running")]
    assert site.sent("lanes") == [("advance_lane", "default", run, 0, 0)]


def test_approving_in_advance_or_twice_or_another_phase_wakes_nobody(site: Site) -> None:
    run = site.enqueued()
    client = site.client()
    client.approve(run, "verify")
    client.approve(run, "verify")
    assert site.run().approved == {Phase.VERIFY}
    assert [what for _, what in site.events()].count("phase.approved") == 1
    site.becomes(State.RUNNING)
    site.enters(Phase.SWITCH)
    site.becomes(State.WAITING)
    assert client.approve(run, "contract").state is State.WAITING  # not what it waits for
    assert client.approve(run, "expand").state is State.WAITING  # over already
    assert site.run().approved == {Phase.VERIFY, Phase.CONTRACT}


def test_only_phases_that_can_wait_can_be_approved(site: Site) -> None:
    run = site.enqueued()
    for phase in ("done", "contrat", ""):
        with pytest.raises(UsageError, match="expand, backfill, verify, switch, contract"):
            site.client().approve(run, phase)


def test_a_gate_opens_when_its_phase_is_over_and_the_data_proved(site: Site) -> None:
    run = site.enqueued()
    site.becomes(State.RUNNING)
    asked = ["expand", "backfill", "verify", "switch", "contract", None]
    for phase, verified, opened in [
        (Phase.EXPAND, False, set()),
        (Phase.BACKFILL, False, {"expand"}),
        (Phase.VERIFY, False, {"expand", "backfill"}),
        (Phase.SWITCH, True, {"expand", "backfill", "verify"}),
        (Phase.CONTRACT, True, {"expand", "backfill", "verify", "switch", None}),
        (Phase.DONE, True, {"expand", "backfill", "verify", "switch", "contract", None}),
        (Phase.DONE, False, {"expand", "backfill"}),
    ]:
        runs.set_residual(site.connection, run, residual=0, verified=verified)
        runs.set_phase(site.connection, run, phase)
        assert {one for one in asked if site.client().gate("jobs-shout", one)} == opened


def test_the_gate_of_a_run_that_will_not_get_there_is_an_error(site: Site) -> None:
    for state in (State.FAILED, State.CANCELLING, State.CANCELLED):
        site.enqueued(f"jobs-{state}")
        site.becomes(*WAYS[state], error=BOOM if state is State.FAILED else None)
        with pytest.raises(RunStopped, match=f"jobs-{state}"):
            site.client().gate(f"jobs-{state}")


def test_the_story_of_a_run_holds_what_happened_to_all_runs_meanwhile(site: Site) -> None:
    site.client().pause_all()
    site.client().resume_all()
    run = site.enqueued()
    site.client().pause_all()
    whats = [event["what"] for event in site.client().events(run)]
    assert whats == ["run.enqueued", "all.stopped"]
    assert [event["run"] for event in site.client().events(run)] == [run, None]


def test_following_ends_with_the_run_and_tells_each_event_once(site: Site) -> None:
    run = site.enqueued()
    following = site.client().follow(run)
    assert [event["what"] for event in next(following)] == ["run.enqueued"]
    site.becomes(State.RUNNING, State.FAILED, error={"class": "fatal", "message": "boom"})
    assert [event["what"] for news in following for event in news] == ["run.running", "run.failed"]


def test_recent_runs_are_those_that_go_on_and_the_last_that_ended(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RECENT_RUNS", 1)
    for _ in range(2):
        site.enqueued()
        site.becomes(State.CANCELLING, State.CANCELLED)
    last = site.enqueued()
    found, left_out = site.client().recent()
    assert ([one.run for one in found], left_out) == ([last, last - 1], 1)


# --- waiting -----------------------------------------------------------------------------------------------------------


def test_wait_returns_when_only_an_approval_is_missing_and_reports_on_the_way(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.001)
    run = site.enqueued()
    phases: list[Phase] = []

    def next_step(now: Any) -> None:  # Any: Progress
        phases.append(now.phase)
        if now.state is State.QUEUED:
            site.becomes(State.RUNNING)
        elif now.phase is Phase.EXPAND:
            site.enters(Phase.BACKFILL)
            site.becomes(State.WAITING)  # for an approval of `backfill`: not what is waited for
        elif now.phase is Phase.BACKFILL:
            site.becomes(State.RUNNING)
            site.enters(Phase.CONTRACT, verified=True)
            site.becomes(State.WAITING)

    now = site.client().wait(run, 60, next_step)
    assert (now.state, now.phase, now.verified) == (State.WAITING, Phase.CONTRACT, True)
    assert phases == [Phase.EXPAND, Phase.EXPAND, Phase.BACKFILL, Phase.CONTRACT]


def test_wait_gives_up_after_its_timeout_and_says_where_the_run_is(site: Site) -> None:
    run = site.enqueued()
    with pytest.raises(NotFinished, match="queued in phase expand"):
        site.client().wait(run, timeout=0)
    with pytest.raises(NotFinished, match="queued in phase expand"):
        site.client().wait_for_gate("jobs-shout", timeout=0)


def test_wait_does_not_wait_for_what_stopped(site: Site) -> None:
    for state, error in ((State.FAILED, BOOM), (State.PAUSED, BOOM), (State.CANCELLED, None)):
        run = site.enqueued(f"jobs-{state}")
        site.becomes(*WAYS[state], error=error)
        with pytest.raises(RunStopped, match="boom" if error else "cancelled"):
            site.client().wait(run, timeout=0)


def test_wait_keeps_waiting_for_a_run_that_a_person_paused(site: Site) -> None:
    run = site.enqueued()
    site.client().pause(run)
    site.becomes(State.PAUSED)
    with pytest.raises(NotFinished):
        site.client().wait(run, timeout=0)


def test_wait_outlives_a_restart_of_postgresql(
    site: Site, proxy: Callable[[str], Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.01)
    run = site.enqueued()
    through = proxy(site.database_url)
    looks: list[State] = []

    def restart(now: Any) -> None:  # Any: Progress
        looks.append(now.state)
        if len(looks) == 1:
            site.becomes(State.RUNNING)
            site.enters(Phase.DONE, verified=True)
            site.becomes(State.COMPLETED)
            through.refuse()
            threading.Timer(0.2, through.accept).start()

    now = site.client(database_url=through.url(site.database_url)).wait(run, 60, restart)
    assert looks == [State.QUEUED, State.COMPLETED]
    assert now.percent == 100.0


def test_wait_does_not_hope_for_ever(
    site: Site, proxy: Callable[[str], Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.1)
    run = site.enqueued()
    through = proxy(site.database_url)
    with pytest.raises(Unreachable):
        site.client(database_url=through.url(site.database_url)).wait(run, 60, lambda _: through.refuse())


def test_watch_shows_runs_to_their_end_and_then_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.001)
    assert list(site.client().watch()) == [[]]
    run = site.enqueued()
    views = site.client().watch()
    assert [now.state for now in next(views)] == [State.QUEUED]
    site.client().cancel(run)
    site.becomes(State.CANCELLED)
    assert [[now.state for now in view] for view in views] == [[State.CANCELLED]]


# --- pace --------------------------------------------------------------------------------------------------------------


def test_pace_changes_what_was_named_and_leaves_the_rest(site: Site) -> None:
    run = site.enqueued()
    before = site.run().settings
    site.client().pace(run, nice=1.5, max_quarantined=0, width=1)
    after = site.run().settings
    assert (after.nice, after.max_quarantined) == (1.5, 0)
    assert after.model_copy(update={"nice": before.nice, "max_quarantined": before.max_quarantined}) == before
    assert (pace.read(site.connection).max_width, pace.read(site.connection).width) == (1, 1)
    assert site.events()[-2:] == [("ann@laptop", "run.tuned"), ("ann@laptop", "pace.width")]


def test_pace_alone_shows_and_changes_nothing(site: Site) -> None:
    run = site.enqueued()
    before = (site.run(), site.events())
    shown = site.client().pace(run)
    assert (shown.settings, shown.changed, shown.max_width) == (site.run().settings, (), 8)
    assert site.client().pace().run is None
    # and so does setting what is set already
    (same,) = site.client().pace(run, nice=site.run().settings.nice).changed
    assert same.before == same.after
    assert (site.run(), site.events()) == before


def test_the_pace_of_a_run_that_has_ended_can_be_looked_at_and_not_changed(site: Site) -> None:
    run = site.enqueued()
    site.becomes(State.CANCELLING, State.CANCELLED)
    assert site.client().pace(run).settings == site.run().settings
    with pytest.raises(UsageError, match="is cancelled"):
        site.client().pace(run, nice=1)


def test_new_windows_wake_what_waits_for_the_old_ones(site: Site) -> None:
    run = site.enqueued()
    site.client().pace(run, windows=["Mon 01:00-02:00 UTC"])
    coordinator = lanes.read(site.connection, run, 0)
    assert coordinator is not None
    lanes.postpone(site.connection, coordinator, delay_seconds=3600)
    assert lanes.due(site.connection, grace_seconds=0) == []
    site.client().pace(run, windows=())
    assert [message.lane for message in lanes.due(site.connection, grace_seconds=0)] == [0]


def test_the_width_needs_no_run(site: Site) -> None:
    assert site.client().pace(width=3).max_width == 3
    assert pace.read(site.connection).max_width == 3


# --- all runs ----------------------------------------------------------------------------------------------------------


def test_a_stop_of_all_runs_holds_them_and_leaves_their_states(site: Site) -> None:
    site.enqueued()
    stop = site.client().pause_all()
    assert (stop.by, site.run().state) == ("ann@laptop", State.QUEUED)
    assert site.client(actor="bob@desk").pause_all() == stop
    later = site.enqueued("jobs-later")
    assert site.client().status(later).hold_reason == stop.reason
    assert site.client().pause(later).state is State.PAUSING

    assert site.client().resume_all()
    assert not site.client().resume_all()
    assert site.run().state is State.PAUSING
    assert site.client().status(1).hold_reason != stop.reason


def test_pace_refuses_values_that_mean_nothing_and_names_the_option(site: Site) -> None:
    run = site.enqueued()
    before = (site.run(), pace.read(site.connection).max_width)
    refused: list[tuple[dict[str, Any], str]] = [  # Any: arguments of `pace`
        ({"lanes": 0}, "--lanes"),
        ({"give_way_ms": 60_001}, "--give-way-ms"),
        ({"windows": ["daily 01:00-02:00 Nowhere"]}, "--window.*no time zone Nowhere"),
        ({"nice": -1.0}, "--nice"),
        ({"batch_seconds": 31.0}, "--batch-seconds"),
        ({"max_quarantined": -1}, "--max-quarantined"),
        ({"nice": 1.0, "width": 0}, "--width"),
        ({"width": 65}, "--width"),
    ]
    for changes, named in refused:
        with pytest.raises(UsageError, match=named):
            site.client().pace(run, **changes)
    assert (site.run(), pace.read(site.connection).max_width) == before


# --- quarantine --------------------------------------------------------------------------------------------------------


def _set_aside(site: Site, run: int, *, operation: int = 0, key: str = "7") -> None:
    quarantine.set_aside(
        site.connection, run, operation=operation, relation="jobs", key=(key,), sqlstate="22P02", error="no number"
    )


def _walks(site: Site, run: int) -> list[tuple[str, int | None, int, str | None]]:
    return [
        (lane.kind, lane.operation, lane.pass_, lane.relation)
        for lane in lanes.of_run(site.connection, run)
        if lane.kind != "coordinator"
    ]


def test_retry_of_a_run_that_verify_stopped_walks_again_with_a_lane_per_operation(site: Site) -> None:
    run = site.enqueued()
    _set_aside(site, run)
    _set_aside(site, run, operation=1)
    site.becomes(State.RUNNING)
    site.enters(Phase.VERIFY)
    site.becomes(State.PAUSED, error=BOOM)
    site.connection.execute("update backfilld.lanes set next_run_at = null")
    now = site.client().retry(run)
    assert (now.state, now.phase, now.errors, site.run().pass_) == (State.RUNNING, Phase.BACKFILL, (), 2)
    assert _walks(site, run) == [("retry", 0, 2, "jobs"), ("retry", 1, 2, "people")]
    assert all(row.retry for row in site.client().quarantine(run))
    assert ("ann@laptop", "quarantine.retry") in site.events()
    assert len(site.sent("lanes")) == 4  # the first wake-up, and now the coordinator and both lanes


def test_retry_during_the_walk_does_not_leave_its_lanes_behind(site: Site) -> None:
    run = site.enqueued()
    _set_aside(site, run)
    site.becomes(State.RUNNING)
    site.enters(Phase.BACKFILL)
    lanes.insert(site.connection, run, kind=LaneKind.BACKFILL, operation=0, pass_=1, relation="jobs", bounds=Bounds())
    for _ in range(2):  # the second time the lane is there already
        site.client().retry(run)
        assert _walks(site, run) == [("backfill", 0, 1, "jobs"), ("retry", 0, 1, "jobs")]
        assert (site.run().pass_, site.run().phase) == (1, Phase.BACKFILL)


def test_retry_says_when_there_is_nothing_to_retry_or_the_run_is_not_there_for_it(site: Site) -> None:
    run = site.enqueued()
    with pytest.raises(UsageError, match="queued"):
        site.client().retry(run)
    site.becomes(State.RUNNING)
    with pytest.raises(UsageError, match="no quarantined rows"):
        site.client().retry(run)
    assert _walks(site, run) == []
