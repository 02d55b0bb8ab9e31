"""The view on a real record: what is shown, what each key asks before it does anything, and what happens when the database goes."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row
from textual.widgets import Static

from backfilld import Client
from backfilld.migrations.file import migration as definition
from backfilld.migrations.record import lanes, runs
from backfilld.migrations.record.model import Bounds
from backfilld.migrations.record.states import LaneKind, Phase, State
from backfilld.producers import enqueueing
from backfilld.producers.watch import Watch, reading
from backfilld.producers.watch.questions import PaceForm, Question, Reading
from backfilld.producers.watch.runs_table import RunsTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from fix_proxy import Proxy
    from textual.pilot import Pilot

    from backfilld.migrations.postgres.connect import Connection

#: Generous; reaching it is a failure, not a measurement.
PATIENCE_SECONDS = 60.0

FRAMES = str.maketrans(dict.fromkeys("▌│┃", " "))

JOBS = """
name: "jobs-shout"
operations:
- add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)"}
"""


@dataclass
class Record:
    """A database with a table, and runs that the test moves."""

    url: str
    connection: Connection
    views: list[Watch] = field(default_factory=list)

    def enqueue(self, name: str = "jobs-shout", table: str = "jobs") -> int:
        text = JOBS.replace("jobs-shout", name).replace("table: jobs", f"table: {table}")
        return enqueueing.enqueue(self.connection, definition.parse(text), actor="deploy@ci").run.run

    def becomes(self, run: int, *states: State, error: dict[str, Any] | None = None) -> None:
        for state in states:
            with self.connection.transaction():
                held = runs.lock(self.connection, run)
                assert held is not None
                runs.set_state(self.connection, held, state, actor="worker", reason="test", wish=held.wish, error=error)

    def ends(self, run: int, *states: State) -> None:
        """It ends in the last of these states, as the record wants it."""
        if states[-1] is State.COMPLETED:
            runs.set_residual(self.connection, run, residual=0, verified=True)
            runs.set_phase(self.connection, run, Phase.DONE)
        error = {"class": "fatal", "message": "boom"} if states[-1] is State.FAILED else None
        self.becomes(run, *states, error=error)

    def waits_for_approval(self, run: int) -> None:
        self.becomes(run, State.RUNNING)
        runs.set_phase(self.connection, run, Phase.CONTRACT)
        self.becomes(run, State.WAITING)

    def state(self, run: int) -> State:
        found = runs.get(self.connection, run)
        assert found is not None
        return found.state

    def last_event(self) -> tuple[str, str]:
        row = self.connection.execute("SELECT actor, what FROM backfilld.events ORDER BY event DESC LIMIT 1").fetchone()
        assert row is not None
        return row["actor"], row["what"]

    def view(self, run: int | None = None, url: str | None = None) -> Watch:
        return Watch(lambda warn: Client(url or self.url, actor="ann@laptop", warn=warn), run=run)


@pytest.fixture
def record(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    monkeypatch.setattr(reading, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(reading, "RETRY_SECONDS", 0.1)
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text NOT NULL)")
        connection.execute("CREATE TABLE people (id bigint PRIMARY KEY, status text NOT NULL)")
        yield Record(database_url, connection)


@dataclass
class Sight:
    """A view that is open, its keys, and what stands on its screen."""

    view: Watch
    pilot: Pilot[int]

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    @property
    def text(self) -> str:
        """The screen, as a person reads it: what is on top, without its frames."""
        strips = self.view.screen._compositor.render_strips()
        return "\n".join(strip.text.translate(FRAMES).rstrip() for strip in strips)

    async def until(self, what: str, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"waited in vain: {what}\n{self.text}")
            await self.pilot.pause(0.02)

    async def shows(self, text: str) -> None:
        # A toast or a table may break the line.
        await self.until(f"{text!r} on the screen", lambda: " ".join(text.split()) in " ".join(self.text.split()))


@asynccontextmanager
async def opened(view: Watch, size: tuple[int, int] = (120, 40)) -> AsyncIterator[Sight]:
    async with view.run_test(size=size, notifications=True) as pilot:
        sight = Sight(view, pilot)
        await sight.until("the first picture", lambda: view.picture is not None)
        await pilot.pause()
        yield sight


def look(view: Watch, act: Callable[[Sight], Awaitable[None]], size: tuple[int, int] = (120, 40)) -> None:
    """Open the view, and act."""

    async def run() -> None:
        async with opened(view, size) as sight:
            await act(sight)

    asyncio.run(run())


# --- showing -----------------------------------------------------------------------------------------------------------


def test_a_run_is_shown_with_its_lanes_its_pace_the_load_and_its_story(record: Record) -> None:
    run = record.enqueue()
    record.becomes(run, State.RUNNING)
    runs.set_phase(record.connection, run, Phase.BACKFILL)
    runs.set_totals(record.connection, run, rows_total=1000)
    lanes.insert(
        record.connection,
        run,
        kind=LaneKind.BACKFILL,
        operation=0,
        pass_=1,
        relation="jobs",
        bounds=Bounds(),
        rows_expected=1000,
    )
    record.connection.execute("UPDATE backfilld.lanes SET rows_walked = 250 WHERE lane = 1")
    record.connection.execute(
        "UPDATE backfilld.pace SET width = 3, rest = 0.5, sampled_at = clock_timestamp(), held_since = clock_timestamp(), "
        "hold_reason = 'replica lag 42, limit 30', readings = "
        """'{"replica_lag_seconds": {"value": 42, "soft": 5, "hard": 30}, "lock_waiters": {"value": null, "soft": 4, "hard": 20}}'"""
    )

    async def act(sight: Sight) -> None:
        for text in (
            "jobs-shout run 1",
            "backfill held",
            "250 of about 1,000 rows",
            "hold replica lag 42, limit 30",
            "25.0% backfill",
            "3 of at most 8 lanes",
            "0.5 s after each second of work",
            "42 s of 30 s",
            "unreadable of 20",
            "enqueued it, checksum",
            "deploy@ci",
        ):
            await sight.shows(text)

    look(record.view(), act)


@pytest.mark.parametrize("size", [(60, 20), (60, 12), (200, 60)])
def test_a_window_of_any_size_shows_what_matters(record: Record, size: tuple[int, int]) -> None:
    run = record.enqueue("jobs-shout-with-a-name-that-is-longer-than-a-column")
    record.waits_for_approval(run)

    async def act(sight: Sight) -> None:
        for text in ("jobs-shout-with-a-name", "waiting", "waiting for approval of contract", "a approve", "q quit"):
            await sight.shows(text)
        assert max(len(line) for line in sight.text.splitlines()) <= size[0]

    look(record.view(), act, size)


def test_a_window_that_changes_its_size_is_drawn_anew(record: Record) -> None:
    record.enqueue()

    async def act(sight: Sight) -> None:
        await sight.shows("phase")
        await sight.pilot.resize_terminal(60, 20)
        await sight.until("columns to drop out", lambda: "phase" not in sight.text.splitlines()[2])

    look(record.view(), act)


def test_nothing_a_database_says_is_read_as_markup(record: Record) -> None:
    run = record.enqueue()
    record.connection.execute(
        "UPDATE backfilld.runs SET name = 'jobs-[bold]x[/bold]-[@click=quit]'"
    )  # no file may say so
    record.becomes(run, State.RUNNING, State.FAILED, error={"class": "fatal", "message": "no [red]foo[/nope] \x1b[31m"})

    async def act(sight: Sight) -> None:
        await sight.shows("jobs-[bold]x[/bold]-[@click=quit] run 1")
        await sight.shows("no [red]foo[/nope] \\x1b[31m")
        await sight.press("p")
        await sight.shows("Pause jobs-[bold]x[/bold]-[@click=quit] (run 1)?")
        await sight.press("y")
        await sight.shows("run jobs-[bold]x[/bold]-[@click=quit] is failed;")

    look(record.view(), act)


def test_without_colours_there_are_none(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    run = record.enqueue()
    record.becomes(run, State.FAILED, error={"class": "fatal", "message": "boom"})
    monkeypatch.setenv("NO_COLOR", "1")

    async def act(sight: Sight) -> None:
        await sight.shows("boom")
        assert sight.view.no_color
        filters = sight.view._filters
        for strip in sight.view.screen._compositor.render_strips():
            for segment in strip.apply_filter(filters[-1], sight.view.screen.styles.background):
                assert segment.style is None or segment.style.color is None or segment.style.color.is_default

    look(record.view(), act)


def test_the_arrows_choose_a_run_and_new_ones_do_not_move_the_choice(record: Record) -> None:
    first, second = record.enqueue("first"), record.enqueue("second", "people")

    async def act(sight: Sight) -> None:
        def chosen() -> int | None:
            return sight.view.chosen.run if sight.view.chosen else None

        await sight.until("the newest to be chosen", lambda: chosen() == second)
        await sight.press("down")
        await sight.until("the other to be chosen", lambda: chosen() == first)
        record.connection.execute("CREATE TABLE more (id bigint PRIMARY KEY, status text NOT NULL)")
        record.enqueue("third", "more")
        await sight.until("the third to be listed", lambda: sight.view.query_one(RunsTable).row_count == 3)
        assert sight.view.query_one(RunsTable).chosen == first
        await sight.until("the first to be chosen still", lambda: chosen() == first)

    look(record.view(), act)


def test_a_run_that_ends_is_shown_to_its_end(record: Record) -> None:
    run = record.enqueue()
    view = record.view()

    async def act(sight: Sight) -> None:
        record.ends(run, State.RUNNING, State.COMPLETED)
        await sight.until("its end", lambda: view.chosen is not None and view.chosen.state is State.COMPLETED)
        await sight.press("q")

    look(view, act)
    assert view.return_value == 0


def test_without_runs_it_says_how_to_begin_and_shows_the_first_one_that_comes(record: Record) -> None:
    async def act(sight: Sight) -> None:
        await sight.shows("backfilld enqueue FILE")
        record.enqueue()
        await sight.shows("jobs-shout run 1")

    look(record.view(), act)


@pytest.mark.parametrize(
    ("states", "code"),
    [((), 0), ((State.RUNNING, State.COMPLETED), 0), ((State.FAILED,), 1), ((State.CANCELLING, State.CANCELLED), 1)],
)
def test_the_exit_code_says_whether_what_was_watched_ended_well(
    record: Record, states: tuple[State, ...], code: int
) -> None:
    run = record.enqueue()
    if states:
        record.ends(run, *states)
    view = record.view(run)

    async def act(sight: Sight) -> None:
        await sight.press("q")

    look(view, act)
    assert view.return_value == code


def test_ctrl_c_ends_the_watching_and_not_the_run(record: Record) -> None:
    run = record.enqueue()
    view = record.view(run)

    async def act(sight: Sight) -> None:
        await sight.press("ctrl+c")

    look(view, act)
    assert (view.return_value, record.state(run)) == (130, State.QUEUED)


# --- asking and doing --------------------------------------------------------------------------------------------------


def test_pause_asks_first_and_then_pauses(record: Record) -> None:
    run = record.enqueue()

    async def act(sight: Sight) -> None:
        await sight.press("p")
        await sight.shows("Pause jobs-shout (run 1)?")
        await sight.shows("none is lost")
        assert record.state(run) is State.QUEUED
        await sight.press("y")
        await sight.until("the pause on record", lambda: record.state(run) is State.PAUSING)
        await sight.shows("jobs-shout (run 1): expand pausing")

    look(record.view(), act)
    assert record.last_event() == ("ann@laptop", "run.pausing")


def test_esc_is_always_no(record: Record) -> None:
    run = record.enqueue()
    record.waits_for_approval(run)
    before = record.last_event()

    async def act(sight: Sight) -> None:
        for key in ("p", "r", "c", "R", "P", "s", "a"):
            await sight.press(key)
            await sight.until("the question", lambda: isinstance(sight.view.screen, Question | PaceForm))
            if key == "s":
                await sight.press("right")
            await sight.press("escape")
            await sight.until("the question to be gone", lambda: len(sight.view.screen_stack) == 1)

    look(record.view(), act)
    assert (record.state(run), record.last_event()) == (State.WAITING, before)


@pytest.mark.parametrize(("key", "state"), [("c", State.CANCELLING), ("R", State.ROLLING_BACK)])
def test_what_is_grave_takes_a_second_key(record: Record, key: str, state: State) -> None:
    run = record.enqueue()
    record.becomes(run, State.RUNNING)

    async def act(sight: Sight) -> None:
        await sight.press(key, "enter")  # before the yes it means nothing
        await sight.press("y")
        await sight.shows("Enter do it")
        assert isinstance(sight.view.screen, Question)
        assert record.state(run) is State.RUNNING
        await sight.press("enter")
        await sight.until(f"it to be {state}", lambda: record.state(run) is state)

    look(record.view(), act)


def test_resume_lets_a_failed_run_go_on(record: Record) -> None:
    run = record.enqueue()
    record.becomes(run, State.FAILED, error={"class": "fatal", "message": "boom"})

    async def act(sight: Sight) -> None:
        await sight.press("r")
        await sight.shows("It retries where it failed")
        await sight.press("y")
        await sight.until("it to go on", lambda: record.state(run) is State.RUNNING)

    look(record.view(), act)


def test_approve_lets_the_phase_begin_that_waits(record: Record) -> None:
    run = record.enqueue()
    record.waits_for_approval(run)

    async def act(sight: Sight) -> None:
        await sight.press("a")
        await sight.shows("Approve contract of jobs-shout (run 1)?")
        await sight.press("y")
        await sight.until("the approval", lambda: record.state(run) is State.RUNNING)

    look(record.view(), act)


def test_approving_what_does_not_wait_says_so(record: Record) -> None:
    record.enqueue()

    async def act(sight: Sight) -> None:
        await sight.press("a")
        await sight.shows("jobs-shout waits for no approval: it is queued")

    look(record.view(), act)


def test_all_runs_are_stopped_and_go_on(record: Record) -> None:
    record.enqueue()

    async def act(sight: Sight) -> None:
        await sight.press("P", "y")
        await sight.shows("all runs are stopped")
        await sight.shows("P continue all")
        await sight.press("P")
        await sight.shows("They were stopped by ann@laptop")
        await sight.press("y")
        await sight.until("the stop to be lifted", lambda: record.last_event() == ("ann@laptop", "all.resumed"))

    look(record.view(), act)


def test_the_pace_is_set_by_steps_and_says_before_what_will_be_set(record: Record) -> None:
    run = record.enqueue()

    async def act(sight: Sight) -> None:
        await sight.press("s")
        await sight.shows("Nothing is changed yet.")
        await sight.press("right", "right", "down", "left")
        await sight.shows("Will be set: nice 0 → 0.5, lanes 2 → 1, from the next batch on.")
        await sight.press("enter")
        await sight.shows("nice 0 → 0.5, lanes 2 → 1")
        found = runs.get(record.connection, run)
        assert found is not None
        assert (found.settings.nice, found.settings.lanes, found.settings.batch_seconds) == (0.5, 1, 0.5)

    look(record.view(), act)


def test_what_the_record_refuses_is_shown_and_the_view_goes_on(record: Record) -> None:
    run = record.enqueue()
    record.ends(run, State.RUNNING, State.COMPLETED)

    async def act(sight: Sight) -> None:
        await sight.press("c", "y", "enter")
        await sight.shows("run jobs-shout is completed; there is nothing left to cancel")
        await sight.press("question_mark")
        await sight.shows("Every change is confirmed first")

    look(record.view(run), act)


def test_explain_tells_in_words_and_any_way_out_leads_back(record: Record) -> None:
    record.waits_for_approval(record.enqueue())

    async def act(sight: Sight) -> None:
        await sight.press("e")
        await sight.until("the explanation", lambda: isinstance(sight.view.screen, Reading))
        await sight.shows("backfilld approve jobs-shout --phase contract")
        await sight.press("q")
        await sight.until("the way back", lambda: len(sight.view.screen_stack) == 1)

    look(record.view(), act)


# --- the database goes away --------------------------------------------------------------------------------------------


def test_a_database_that_goes_away_is_told_and_found_again(
    record: Record, proxy: Callable[[str], Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    between = proxy(record.url)
    record.enqueue()

    async def act(sight: Sight) -> None:
        await sight.shows("jobs-shout")
        between.refuse()
        await sight.shows("PostgreSQL has not answered for")
        await sight.press("p", "y")  # what is asked meanwhile is answered too
        await sight.shows("cannot reach PostgreSQL")
        between.accept()
        trouble = sight.view.query_one("#trouble", Static)
        await sight.until("it to be back", lambda: not trouble.display)

    look(record.view(url=between.url(record.url)), act)


def test_a_database_that_hangs_keeps_no_key_waiting_and_is_found_again(
    record: Record, proxy: Callable[[str], Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PATIENCE_SECONDS", 1.0)
    between = proxy(record.url)
    run = record.enqueue()
    view = record.view(url=between.url(record.url))

    async def act(sight: Sight) -> None:
        await sight.shows("jobs-shout")
        between.stall()
        await sight.press("P", "y")
        await sight.shows("no answer for")
        await sight.shows("PostgreSQL has not answered for")
        began = time.monotonic()
        await sight.press("question_mark")
        await sight.shows("Every change is confirmed first")
        await sight.press("escape")
        assert time.monotonic() - began < 5
        between.resume()
        await sight.until("it to be back", lambda: not sight.view.query_one("#trouble", Static).display)
        record.becomes(run, State.RUNNING)
        await sight.until("news", lambda: view.chosen is not None and view.chosen.state is State.RUNNING)

    look(view, act)


def test_it_can_be_left_while_the_database_hangs(record: Record, proxy: Callable[[str], Proxy]) -> None:
    between = proxy(record.url)
    record.enqueue()
    began = time.monotonic()

    async def act(sight: Sight) -> None:
        between.stall()
        await sight.press("P", "y", "q")

    look(record.view(url=between.url(record.url)), act)
    assert time.monotonic() - began < 20
