"""What happens in the demo, in order. Every step waits for something that was seen, and for nothing else.

build, start, enqueue
at a fifth    pause through the control queue; nothing moves; resume
near half     SIGKILL one worker process in the middle of a batch, and wipe Valkey at the same moment
verified      put the application's next release out, and approve contract
completed     check everything with plain SQL, without any code of backfilld
"""

from __future__ import annotations

import os
import signal
import time
from importlib import resources
from typing import TYPE_CHECKING, LiteralString, TypeVar

import psutil

from backfilld.migrations.errors import BackfilldError
from backfilld.migrations.record import runs
from backfilld.migrations.record.states import Phase, State
from backfilld.monitoring import display, progress
from backfilld.producers.client import Client
from backfilld.producers.demo.account import Checked, Paused, Struck, Told
from backfilld.producers.demo.application import Application
from backfilld.producers.demo.site import PROCESSES, THREADS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from backfilld.migrations.postgres.connect import Connection, Row
    from backfilld.monitoring.progress import Progress
    from backfilld.producers.demo.application import Rows
    from backfilld.producers.demo.screen import Screen
    from backfilld.producers.demo.site import Site

EXAMPLE = "jobs_new_field.yaml"
SESSIONS = 2

PAUSE_AT_PERCENT = 20.0
KILL_AT_PERCENT = 40.0
#: The application's writes that the stillness of a pause must outlast: more than a second's worth, two looks of the reconciler.
WRITES_WHILE_PAUSED = 250
#: The same for the wait for an approval, and for the time after contract.
WRITES = 100
#: So many words do users type into the new column while contract waits.
TYPED = 20

#: How often a condition is looked at. Latencies are measured with this grain.
POLL_SECONDS = 0.01
#: How often a terminal is shown something new.
SHOW_SECONDS = 0.25
#: Nothing here takes a third of this on a slow machine: what does not come by then does not come.
PATIENCE_SECONDS = 90.0

T = TypeVar("T")


class DemoFailed(BackfilldError):
    """Something that the demo waited for did not happen."""


class Story:
    """One demo, from an empty folder to a database that was looked through."""

    def __init__(self, site: Site, screen: Screen) -> None:
        self._site = site
        self._screen = screen
        #: The superuser's eye on the record, in its own session.
        self._look: Connection
        self._client: Client
        self._warnings: list[str] = []
        #: The run's id, once there is one.
        self._run = 0
        self._shown_at = 0.0

    def run(self) -> Told:
        """Do all of it. Raises DemoFailed when something does not happen, naming it."""
        screen, site = self._screen, self._site
        screen.title("backfilld demo: a migration under load, on temporary servers")
        rows = self._build()
        with site.superuser() as self._look:
            jobs_before = self._count_jobs()
            self._start_daemon()
            application = Application(site.application_url, rows, sessions=SESSIONS)
            site.on_the_way_out(application.stop)
            application.start()
            self._until(lambda: application.writes, "the application writes")
            screen.step(f"An application writes: {SESSIONS} sessions as `authenticated`, under RLS")
            self._enqueue()
            paused = self._pause(application)
            struck = self._strike()
            self._finish(application)
            screen.step("Completed; checking the result with plain SQL, as superuser")
            application.stop()
            checked = self._check(application.typed)
        code = site.daemon.stop()
        screen.step("Worker stopped; removing the servers and their folders")
        return Told(
            jobs_before=jobs_before,
            growth=application.growth,
            writes=application.writes,
            latency=application.latency,
            errors=application.errors,
            paused=paused,
            struck=struck,
            checked=checked,
            daemon_exit_code=code,
        )

    # --- before the run --------------------------------------------------------------------------------------------------

    def _build(self) -> Rows:
        screen, site = self._screen, self._site
        screen.busy("starting PostgreSQL and Valkey")
        site.start_servers()
        screen.step("PostgreSQL 18 and Valkey started, in temporary folders")
        screen.busy("creating a schema like that of Supabase")
        rows = site.build()
        screen.step(f"A schema like that of Supabase: {rows.jobs:,} jobs, RLS on all four tables")
        return rows

    def _start_daemon(self) -> None:
        self._screen.busy("starting backfilld worker")
        self._site.start_daemon()
        lanes = [f"lanes-{number}" for number in range(1, PROCESSES + 1)]
        self._until(lambda: set(lanes) <= set(self._site.daemon.children()), "the worker starts its processes")
        self._screen.step(f"backfilld worker started: {PROCESSES} processes, {THREADS} threads each, as NOSUPERUSER")

    def _enqueue(self) -> None:
        self._client = Client(self._site.database_url, self._site.valkey.url, actor="demo", warn=self._warnings.append)
        with resources.as_file(resources.files(__package__).joinpath(EXAMPLE)) as file:
            self._run = self._client.enqueue(file).run
        self._warnings.clear()  # what preflight had to say; from here on a warning means that a command went amiss
        self._screen.step(f"Enqueued {EXAMPLE}: new_field = upper(status), NOT NULL")

    # --- in the middle of it ---------------------------------------------------------------------------------------------

    def _pause(self, application: Application) -> Paused:
        self._until(lambda: self._percent() >= PAUSE_AT_PERCENT, f"{PAUSE_AT_PERCENT:.0f} % are done")
        heard = self._site.daemon.count("control.applied")
        began = time.perf_counter()
        self._client.pause(self._run)
        acknowledged = time.perf_counter() - began
        self._until(lambda: self._stands()["state"] == State.PAUSED, "the run is paused")
        paused = time.perf_counter() - began
        self._screen.step(
            f"At {self._percent():.0f} %: pause. Recorded after {acknowledged:.2f} s, paused after {paused:.2f} s"
        )

        before, writes = self._lanes(), application.writes
        self._until(lambda: application.writes >= writes + WRITES_WHILE_PAUSED, "the application keeps writing")
        after = self._lanes()
        self._screen.step(f"{application.writes - writes} writes of the application later, no lane has moved; resume")
        self._client.resume(self._run)
        self._until(lambda: self._lanes() != after, "the run moves again")
        # The worker logs a control message when it has been applied, which may be a moment after the run is paused.
        self._until(lambda: self._site.daemon.count("control.applied") >= heard + 2, "the control queue is served")
        return Paused(
            acknowledged_seconds=acknowledged,
            seconds=paused,
            is_still=before == after,
            warnings=tuple(self._warnings),
        )

    def _strike(self) -> Struck:
        daemon = self._site.daemon
        self._until(lambda: self._percent() >= KILL_AT_PERCENT, f"{KILL_AT_PERCENT:.0f} % are done")
        child, at_work = self._until(
            lambda: max(self._at_work().items(), key=lambda one: len(one[1]), default=None), "a lane is at work"
        )
        victim = daemon.children()[child]
        os.kill(victim, signal.SIGKILL)
        self._site.valkey.flush()
        began, struck_at = time.perf_counter(), self._now()
        open_lanes = self._open_lanes()
        self._screen.step(f"At {self._percent():.0f} %: SIGKILL to one of the two processes, and FLUSHALL to Valkey")

        self._until(
            lambda: (
                not self._look.execute(
                    "SELECT FROM backfilld.lanes WHERE run = %s AND lane = ANY(%s) AND progressed_at <= %s",
                    [self._run, open_lanes, struck_at],
                ).fetchall()
            ),
            "every open lane makes a checkpoint again",
        )
        recovered = time.perf_counter() - began
        # The server ends the sessions of a process that is gone.
        lost = self._until(lambda: self._gone(at_work), "PostgreSQL rolls back the batches of the dead process")
        lanes = ("lane " if len(lost) == 1 else "lanes ") + " and ".join(str(lane) for lane in sorted(lost.values()))
        self._screen.step(f"PostgreSQL rolled back {lanes}; all lanes moved after {recovered:.1f} s")
        self._until(lambda: daemon.children()[child] != victim, "the dead process is replaced")
        return Struck(lanes_lost=len(lost), lanes_open=len(open_lanes), seconds=recovered)

    def _finish(self, application: Application) -> None:
        self._until(
            lambda: self._stands()["state"] == State.WAITING and self._stands()["phase"] == Phase.CONTRACT,
            "the data is verified, and contract waits",
        )
        self._screen.step("Verified, and NOT NULL set; contract waits for approval")
        writes = application.writes
        self._until(lambda: application.writes >= writes + WRITES, "the application keeps writing")
        application.release()
        self._until(lambda: application.is_released, "the application's next release is deployed")
        self._until(lambda: len(application.typed) >= TYPED, "users type words of their own into new_field")
        self._screen.step("Users type words of their own into new_field; contract is approved")
        # The release before stopped a moment ago, and its last INSERT counts as one that still comes.
        self._client.approve(self._run, Phase.CONTRACT, yes=True)
        self._until(lambda: self._stands()["state"] == State.COMPLETED, "the run is completed")
        writes = application.writes
        self._until(lambda: application.writes >= writes + WRITES, "the application keeps writing")

    # --- afterwards ------------------------------------------------------------------------------------------------------

    def _check(self, typed: Mapping[int, str]) -> Checked:
        """What is true of the database, asked without any of our code that wrote it."""
        record = self._row(
            """
            SELECT r.state, r.phase, r.verified_at IS NOT NULL AS verified,
                   (SELECT count(*) FROM backfilld.quarantine q WHERE q.run = r.run) AS quarantined,
                   coalesce(r.rows_total, 0) AS walked,
                   (SELECT extract(epoch FROM max(e.at) - min(e.at)) FROM backfilld.events e
                    WHERE e.run = r.run AND e.what IN ('phase.backfill', 'phase.verify'))::float8 AS seconds
            FROM backfilld.runs r WHERE r.run = %s
            """,
            [self._run],
        )
        data = self._row(
            """
            SELECT count(*) AS jobs,
                   count(*) FILTER (WHERE t.word IS NULL AND j.new_field IS DISTINCT FROM upper(j.status)) AS residual,
                   count(*) FILTER (WHERE j.new_field = t.word) AS kept
            FROM public.jobs j LEFT JOIN unnest(%s::bigint[], %s::text[]) AS t (id, word) USING (id)
            """,
            [list(typed), list(typed.values())],
        )
        catalog = self._row(
            """
            SELECT (SELECT attnotnull FROM pg_attribute
                    WHERE attrelid = 'public.jobs'::regclass AND attname = 'new_field') AS not_null,
                   (SELECT count(*) FROM pg_trigger
                    WHERE tgrelid = 'public.jobs'::regclass AND NOT tgisinternal) AS triggers,
                   (SELECT count(*) FROM pg_constraint
                    WHERE conrelid = 'public.jobs'::regclass AND conname LIKE 'backfilld%%') AS constraints
            """,
            [],
        )
        return Checked(
            state=record["state"],
            phase=record["phase"],
            verified=record["verified"],
            quarantined=record["quarantined"],
            rows_walked=record["walked"],
            backfill_seconds=record["seconds"],
            jobs_after=data["jobs"],
            residual_rows=data["residual"],
            words_typed=len(typed),
            words_kept=data["kept"],
            not_null=catalog["not_null"],
            objects_left=catalog["triggers"] + catalog["constraints"],
        )

    # --- looking ---------------------------------------------------------------------------------------------------------

    def _until(self, condition: Callable[[], T | None], what: str) -> T:
        """Look until `condition` is true, and return what it gives. Raises DemoFailed when it does not come."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := condition()):
            if self._site.daemon.has_ended:
                raise self._failed(f"the worker ended before {what}")
            if time.monotonic() > deadline:
                raise self._failed(f"after {PATIENCE_SECONDS:.0f} s this is still not true: {what}")
            self._show()
            time.sleep(POLL_SECONDS)
        return found

    def _failed(self, problem: str) -> DemoFailed:
        where = [display.line(self._progress())] if self._run else []
        errors = self._site.daemon.errors()
        return DemoFailed("\n".join([problem, *where, *(["the worker's log:"] if errors else []), *errors]))

    def _show(self) -> None:
        if not self._run or time.monotonic() - self._shown_at < SHOW_SECONDS:
            return
        self._shown_at = time.monotonic()
        now = self._progress()
        if now.state is State.FAILED:
            raise self._failed("the run failed")
        self._screen.progress(now)

    def _progress(self) -> Progress:
        run = runs.get(self._look, self._run)
        if run is None:
            msg = f"run {self._run} is not on record"
            raise DemoFailed(msg)
        return progress.read(self._look, [run])[0]

    def _percent(self) -> float:
        return self._progress().percent

    def _stands(self) -> Row:
        return self._row("SELECT state, phase FROM backfilld.runs WHERE run = %s", [self._run])

    def _lanes(self) -> list[Row]:
        """How far every lane is."""
        return self._look.execute(
            "SELECT lane, seq, cursor, rows_walked FROM backfilld.lanes WHERE run = %s AND lane > 0 ORDER BY lane",
            [self._run],
        ).fetchall()

    def _open_lanes(self) -> list[int]:
        found = self._look.execute(
            "SELECT lane FROM backfilld.lanes WHERE run = %s AND kind = 'backfill' AND done_at IS NULL", [self._run]
        ).fetchall()
        return [row["lane"] for row in found]

    def _at_work(self) -> dict[str, dict[int, int]]:
        """Lanes in a transaction at this moment, by the process and the session that have them: the name of a session says which lane,
        and the port it comes from whose it is.
        """
        found = self._look.execute(
            """
            SELECT pid, client_port, substring(application_name FROM 'lane=(\\d+)')::integer AS lane FROM pg_stat_activity
            WHERE application_name LIKE 'backfilld run=%%' AND xact_start IS NOT NULL AND usename = 'postgres'
              AND application_name NOT LIKE '%% lane=0 %%'
            """
        ).fetchall()
        at_work: dict[str, dict[int, int]] = {}
        for child, process in self._site.daemon.children().items() if found else ():
            ports = {one.laddr[1] for one in psutil.Process(process).net_connections("tcp")}
            if sessions := {row["pid"]: row["lane"] for row in found if row["client_port"] in ports}:
                at_work[child] = sessions
        return at_work

    def _gone(self, sessions: dict[int, int]) -> dict[int, int]:
        alive = self._look.execute("SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s)", [list(sessions)]).fetchall()
        return {pid: lane for pid, lane in sessions.items() if pid not in {row["pid"] for row in alive}}

    def _now(self) -> object:
        return self._row("SELECT clock_timestamp() AS now", [])["now"]

    def _count_jobs(self) -> int:
        return int(self._row("SELECT count(*) AS jobs FROM public.jobs", [])["jobs"])

    def _row(self, query: LiteralString, values: list[object]) -> Row:
        row = self._look.execute(query, values).fetchone()
        if row is None:
            msg = "the record has no such row"
            raise DemoFailed(msg)
        return row
