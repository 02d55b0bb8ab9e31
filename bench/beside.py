"""What an application feels of it: one pgbench at a fixed rate, beside a run that is paused and resumed again and again."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import sql

from backfilld.migrations.record.states import State
from bench.daemon import Daemon
from bench.effort import tell
from bench.figures import Figure, Section, Series, Spans, Table, Target, number
from bench.load import CLIENTS, TRANSACTIONS_PER_SECOND, Load, percentile
from bench.stage import BenchBroken, accounts, until
from bench.windows import Pair, Window, due_in, pooled, ratios

if TYPE_CHECKING:
    from types import TracebackType

    from bench.effort import Effort
    from bench.load import Transaction
    from bench.stage import Database, Stage, Template
    from bench.windows import Ratio

#: More branches than clients: with fewer, pgbench measures how they wait for each other.
SCALE, SCALE_QUICK = 10, 4
PAIRS, PAIRS_QUICK = 36, 4
#: So short that the canary, which remembers five seconds, still has the run at work when it is resumed: a governor that finds none
#: takes what was learned for another run's.
WINDOW_SECONDS, WINDOW_SECONDS_QUICK = 2.5, 2.0
#: Left out at both ends of a window: what was due in it must not wait for what the other kind left behind.
EDGE_SECONDS = 0.5
#: Caches of new connections are cold, and the baseline has to be learned.
WARM_UP_SECONDS, WARM_UP_SECONDS_QUICK = 10.0, 4.0
#: Until what a CHECKPOINT wrote has left the disk.
SETTLE_SECONDS = 1.5
#: A server that has written for days has files of WAL to write into again. A new one makes each of them when it is needed,
#: 16 MB of zeros that every commit waits for.
WAL_FILES, WAL_FILES_QUICK = 128, 32
LOOK_SECONDS = 0.04

SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
TARGETS = {"p99": 1.15, "p99.9": 1.5}
LEAST_SPEED_PERCENT = 25
#: What pgbench's sessions wait for is told from this share of them on.
WAITS_TOLD = 8


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The run paused, and then at work."""

    paused: Window
    working: Window
    #: The part of its time that a lane worked, and how many lanes, at the end of its window.
    duty_cycle: float
    width: int
    load: float


def measure(stage: Stage, effort: Effort) -> Section:
    quick = effort.is_quick
    template = _template(SCALE_QUICK if quick else SCALE)
    with stage.copy_of(template) as database, Daemon(stage, database, processes=2) as daemon:
        _make_wal_files(database, WAL_FILES_QUICK if quick else WAL_FILES)
        # As wide as a daemon is that has run for a while: its pace grows by a lane every few seconds from its start on.
        database.do("UPDATE backfilld.pace SET width = greatest(width, 2)")
        work = Work(daemon, database)
        alone = statistics.mean(work.whole() for _ in range(1 if quick else 2))
        tell(f"beside: alone {alone:,.0f} rows/s")
        with Load(stage, database) as load:
            time.sleep(WARM_UP_SECONDS_QUICK if quick else WARM_UP_SECONDS)
            with Looks(database) as looks:
                turns = _turns(
                    work,
                    pairs=PAIRS_QUICK if quick else PAIRS,
                    seconds=WINDOW_SECONDS_QUICK if quick else WINDOW_SECONDS,
                )
            work.end()
    transactions = sorted(load.transactions(), key=lambda one: one.due)
    return _section(turns, transactions, looks, alone=alone, rows=template.rows)


def _turns(work: Work, *, pairs: int, seconds: float) -> list[Turn]:
    turns: list[Turn] = []
    while len(turns) < pairs:
        work.prepare()
        paused = _window(seconds)
        work.resume()
        time.sleep(EDGE_SECONDS)
        before = work.rows()
        since = time.time()
        time.sleep(seconds)
        working = Window(since=since, till=time.time(), rows=work.rows() - before)
        is_whole = work.is_walking()
        duty_cycle, width = work.pace()
        time.sleep(EDGE_SECONDS)
        work.pause()
        if not is_whole:
            continue  # the walk came to its end in it
        load = os.getloadavg()[0]
        turns.append(Turn(paused=paused, working=working, duty_cycle=duty_cycle, width=width, load=load))
        tell(f"beside {len(turns)}/{pairs}: {working.rows / working.seconds:,.0f} rows/s, duty cycle {duty_cycle:.2f}")
    return turns


def _window(seconds: float) -> Window:
    time.sleep(EDGE_SECONDS)
    since = time.time()
    time.sleep(seconds)
    till = time.time()
    time.sleep(EDGE_SECONDS)
    return Window(since=since, till=till)


class Work:
    """Runs over the same table, one after the other, that are paused and resumed by the verbs that people use."""

    def __init__(self, daemon: Daemon, database: Database) -> None:
        self._daemon = daemon
        self._database = database
        self._numbers = count(1)
        self._run: int | None = None
        #: Of the pace, as it was when the run was paused.
        self._left: dict[str, Any] | None = None  # Any: a row

    def whole(self) -> float:
        """Rows a second of a whole walk, with nobody beside it."""
        run = self._next()
        self._database.until_state(run, State.WAITING)
        seconds = self._database.one(
            "SELECT extract(epoch FROM max(l.progressed_at) - (SELECT min(e.at) FROM backfilld.events e "
            "WHERE e.run = %(run)s AND e.what = 'phase.backfill'))::float8 FROM backfilld.lanes l "
            "WHERE l.run = %(run)s AND l.kind = 'backfill'",
            {"run": run},
        )
        self._cancel(run)
        return float(self._database.rows / seconds)

    def prepare(self) -> None:
        """A run that is paused in its walk: that of the last window, or a new one where that has walked to its end."""
        if self._run is not None:
            if self._state(self._run) == State.PAUSED and self.is_walking():
                return
            self._cancel(self._run)
        self._run = self._next()
        until("the walk to have begun", lambda: self.rows() > 0)
        self.pause()

    def resume(self) -> None:
        """Until the first batch is there.

        The governor's verdict is what it was when the run was paused: a run that is never paused would not have
        recovered meanwhile.
        """
        run, before = self._require(), self.rows()
        if self._left is not None:
            self._database.do(
                "UPDATE backfilld.pace SET width = %(width)s, rest = %(rest)s, batch_seconds = %(batch_seconds)s, "
                "memory = memory || jsonb_build_object('duty_cycle', %(duty_cycle)s::float8), "
                "sampled_at = clock_timestamp()",
                self._left,
            )
        self._daemon.client.resume(run)
        until("a batch", lambda: self.rows() > before or not self.is_walking())

    def pause(self) -> None:
        run = self._require()
        self._left = self._database.all(
            "SELECT width, rest, batch_seconds, (memory ->> 'duty_cycle')::float8 AS duty_cycle FROM backfilld.pace"
        )[0]
        if self._state(run) != State.WAITING:
            self._daemon.client.pause(run)
            until("the run to be paused", lambda: self._state(run) in (State.PAUSED, State.WAITING))

    def end(self) -> None:
        self._cancel(self._require())

    def rows(self) -> int:
        """Changed by the run so far."""
        return int(
            self._database.one(
                "SELECT coalesce(sum(rows_changed), 0)::bigint FROM backfilld.lanes WHERE run = %s AND kind = 'backfill'",
                [self._require()],
            )
        )

    def is_walking(self) -> bool:
        return bool(
            self._database.one(
                "SELECT count(*) FROM backfilld.lanes WHERE run = %s AND kind = 'backfill' AND done_at IS NULL",
                [self._run],
            )
        )

    def pace(self) -> tuple[float, int]:
        row = self._database.all("SELECT 1 / (1 + rest) AS duty_cycle, width FROM backfilld.pace")[0]
        return row["duty_cycle"], row["width"]

    def _next(self) -> int:
        # As between two migrations. Without it the next one's first rounds would meet what the last one's left, and nothing to change.
        self._database.do(sql.SQL("VACUUM {}").format(sql.Identifier(self._database.table)))
        # So that each has its whole pages to write, as after any checkpoint.
        with suppress(psycopg.errors.InsufficientPrivilege):
            self._database.do("CHECKPOINT")
        time.sleep(SETTLE_SECONDS)
        return self._daemon.rewrite(self._database.table, "revenue", f"bid * {next(self._numbers)}", approve=["verify"])

    def _cancel(self, run: int) -> None:
        self._daemon.client.cancel(run)
        self._database.until_state(run, State.CANCELLED)

    def _require(self) -> int:
        if self._run is None:
            raise BenchBroken("there is no run")
        return self._run

    def _state(self, run: int) -> str:
        return str(self._database.one("SELECT state FROM backfilld.runs WHERE run = %s", [run]))


class Looks:
    """What pgbench's sessions were found doing, looked for again and again from a session of its own."""

    def __init__(self, database: Database) -> None:
        self._url = database.url
        self._over = Event()
        self._thread = Thread(target=self._look, name="looks", daemon=True)
        #: When, what a session waited for, and how long its transaction had lasted by then, in milliseconds.
        self.found: list[tuple[float, str, float]] = []
        self.at: list[float] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        with psycopg.connect(self._url, autocommit=True, application_name="bench looks") as connection:
            while not self._over.wait(LOOK_SECONDS):
                self.at.append(time.time())
                rows = connection.execute(
                    "SELECT coalesce(wait_event_type || ': ' || wait_event, 'running'), "
                    "extract(epoch FROM clock_timestamp() - xact_start)::float8 * 1000 FROM pg_stat_activity "
                    "WHERE application_name = 'pgbench' AND state <> 'idle' AND xact_start IS NOT NULL"
                ).fetchall()
                self.found += [(self.at[-1], event, age) for event, age in rows]

    def within(self, windows: list[Window], *, older_than: float = 0.0) -> dict[str, float]:
        """How many sessions were found in each wait, on average; of transactions that had lasted so many milliseconds."""
        seen = Counter(event for at, event, age in self.found if age >= older_than and _is_within(at, windows))
        looks = sum(_is_within(at, windows) for at in self.at)
        return {event: times / looks for event, times in seen.most_common()} if looks else {}


def _is_within(at: float, windows: list[Window]) -> bool:
    return any(window.since <= at < window.till for window in windows)


def _section(turns: list[Turn], transactions: list[Transaction], looks: Looks, *, alone: float, rows: int) -> Section:
    pairs = [Pair(due_in(transactions, turn.paused), due_in(transactions, turn.working)) for turn in turns]
    found = dict(zip(SHARES, ratios(pairs, list(SHARES.values())), strict=True))
    kinds = {"paused": pooled(pair.without for pair in pairs), "at work": pooled(pair.with_ for pair in pairs)}
    rows_per_second = sum(turn.working.rows for turn in turns) / sum(turn.working.seconds for turn in turns)
    loads = [turn.load for turn in turns]
    return Section(
        name="beside",
        title=f"Beside an application: pgbench at {TRANSACTIONS_PER_SECOND} transactions/s, {2 * len(turns)} windows in turn",
        method=_method(turns, rows, loads),
        tables=(_latencies(kinds, found), _waits(turns, looks, percentile(kinds["paused"], SHARES["p95"]))),
        figures=(
            *(
                Figure(
                    name=f"{mark} at work to {mark} paused",
                    values=(found[mark].value,),
                    unit=f"times, {found[mark].least:.2f} to {found[mark].most:.2f}",
                    target=Target(at="most", value=most),
                )
                for mark, most in TARGETS.items()
            ),
            Figure(
                name="rows/s beside to rows/s alone",
                values=(100 * rows_per_second / alone,),
                unit="%",
                target=Target(at="least", value=LEAST_SPEED_PERCENT),
            ),
            Figure(name="rows/s beside", values=(rows_per_second,), unit="rows/s"),
            Figure(name="duty cycle of a lane", values=tuple(turn.duty_cycle for turn in turns)),
            Figure(name="load of the machine in the last minute", values=tuple(loads)),
        ),
        plots=_plots(pairs, kinds),
    )


def _latencies(kinds: dict[str, list[float]], found: dict[str, Ratio]) -> Table:
    return Table(
        columns=("windows", "transactions", *(f"{mark} ms" for mark in SHARES), "max ms"),
        rows=(
            *(
                (
                    name,
                    number(len(ordered)),
                    *(number(percentile(ordered, share)) for share in SHARES.values()),
                    number(ordered[-1]),
                )
                for name, ordered in kinds.items()
            ),
            ("at work to paused", "", *(str(ratio) for ratio in found.values()), ""),
        ),
    )


def _waits(turns: list[Turn], looks: Looks, slow: float) -> Table:
    """Where the sessions were: the cause of a difference is what they wait for more often."""
    windows = [turn.paused for turn in turns], [turn.working for turn in turns]
    found = [looks.within(kind, older_than=least) for least in (0.0, slow) for kind in windows]
    events = sorted({event for one in found for event in one}, key=lambda event: -found[1].get(event, 0.0))
    return Table(
        columns=(
            f"pgbench's {CLIENTS} sessions, on average",
            *("paused", "at work"),
            *(f"{kind}, after {number(slow)} ms" for kind in ("paused", "at work")),
        ),
        rows=tuple((event, *(number(one.get(event, 0.0)) for one in found)) for event in events[:WAITS_TOLD]),
    )


def _plots(pairs: list[Pair], kinds: dict[str, list[float]]) -> tuple[Spans | Series, ...]:
    marks = tuple(SHARES)
    paused, working = (
        tuple(percentile(ordered, share) for share in SHARES.values())
        for ordered in (kinds["paused"], kinds["at work"])
    )
    return (
        Spans(
            name="beside-latency",
            title="latency of the application in ms, the run paused (hollow) and at work (filled): p50, p95, p99, p99.9",
            marks=marks,
            rows=(("backfilld, default settings", paused, working),),
        ),
        Series(
            name="beside-windows",
            title="p99 of the application in ms, window by window: the run paused and at work",
            lines=(
                ("paused", tuple(percentile(pair.without, SHARES["p99"]) for pair in pairs)),
                ("backfilld at work", tuple(percentile(pair.with_, SHARES["p99"]) for pair in pairs)),
            ),
            across="pair of windows",
        ),
    )


def _method(turns: list[Turn], rows: int, loads: list[float]) -> str:
    seconds = statistics.median(turn.working.seconds for turn in turns)
    return (
        f"One pgbench, its TPC-B transactions from {CLIENTS} clients at {TRANSACTIONS_PER_SECOND} a second, on the table of "
        f"{rows:,} rows whose new column is set (revenue = bid * 1, then bid * 2, and so on: one run after the other). The run "
        "has default settings and is not verified, on a daemon of two processes of one thread each. It is paused and resumed by "
        "the client, and a transaction belongs to the window in which it was due, whenever it ended; latency is pgbench's own, "
        f"from when a transaction was due. {len(turns)} windows of each kind, {seconds:.1f} s, with {EDGE_SECONDS:g} s left out at both "
        "ends. A window counts where the run walks during all of it. What the governor learned is put back when the run is resumed, "
        "so that a pause does not let its duty cycle recover; its baseline does learn from the pauses. In brackets: 95 % of the "
        "ratios when pairs of neighbouring windows are drawn anew (bootstrap). Each run begins after a VACUUM and a CHECKPOINT, and so has its "
        "whole pages to write; files of WAL are there to be written into again, as on a server that is not new. Alone is the mean "
        "of two whole walks of the same kind before pgbench begins. What the sessions do is looked for in pg_stat_activity every "
        f"{1000 * LOOK_SECONDS:.0f} ms (Client: ClientRead inside a transaction is pgbench's own turn); the last two columns count "
        "only transactions that had by then lasted longer than 95 % do while the run is paused. "
        f"The load of the machine was {min(loads):.1f} to {max(loads):.1f} (both are in it)."
    )


def _make_wal_files(database: Database, files: int) -> None:
    with suppress(psycopg.errors.InsufficientPrivilege):
        for _ in range(files):
            database.do("SELECT pg_logical_emit_message(false, 'bench', ''), pg_switch_wal()")
        database.do("CHECKPOINT")


def _template(scale: int) -> Template:
    """pgbench's table with a column to be filled."""
    plain = accounts(scale)

    def fill(stage: Stage, name: str) -> None:
        plain.fill(stage, name)
        with psycopg.connect(stage.url(name), autocommit=True) as connection:
            connection.execute("ALTER TABLE pgbench_accounts ADD COLUMN revenue bigint")

    return replace(plain, name=f"{plain.name}_revenue", fill=fill)
