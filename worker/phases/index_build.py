"""One index, built or dropped CONCURRENTLY: the one kind of step that no transaction holds together.

    hold the lane, as for every step; the statement goes over a session of its own
    end what a worker that is gone left running, and remove what it left INVALID
    run the statement, and look up three times a second     told to stop? cancel it, and remove what it leaves
    look at the catalog: what is asked for is there, or the step is not done

The catalog tells the outcome, never the statement's answer: after a lost connection there is none.
Between two looks the transaction that holds the lane is idle: it has no snapshot and no lock on the table, for which the build
would wait.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres import indexes
from backfilld.migrations.postgres.connect import SEMANTICS, open_session
from backfilld.migrations.postgres.sessions import Doing, SessionName, named, tidying
from backfilld.migrations.postgres.sqlstates import classify
from backfilld.migrations.record import audit, runs, step_context
from backfilld.worker.phases import ddl

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from backfilld.migrations.operations import Action, Index
    from backfilld.migrations.postgres.connect import Connection, Pool
    from backfilld.migrations.postgres.indexes import Named
    from backfilld.migrations.record.model import Lane

#: How often is looked whether the run is still meant to work: a pause takes effect within about a second.
LOOK_SECONDS = 0.3
#: A worker that is asked to stop lets a build continue for so long; less than the time after which it is left to the server.
DRAIN_SECONDS = 10.0
#: How long a session may take to end once it is asked to.
END_SECONDS = 5.0
#: How long an INVALID index may take to drop before a pause takes effect; the next attempt drops it otherwise.
HASTY_SECONDS = 0.5

#: No time limit, for lock waits neither: readers and writers do not queue behind this lock, a session that does makes the build
#: give way (`give_way.sql`), and a limit would only leave an INVALID index behind, again and again.
_SETTINGS = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    **SEMANTICS,
}


@dataclass(frozen=True, kw_only=True)
class IndexBuilds:
    """What a worker needs to carry out actions that build or drop an index."""

    pool: Pool
    stopping: threading.Event

    def carry_out(self, connection: Connection, lane: Lane, action: Action) -> None:
        """Carry out an action with an index. `connection` is in the transaction that holds the lane.

        Raises Refused, psycopg.Error, and ChangedMeanwhile when the run or the worker is asked to stop.
        """
        if action.index is None:
            msg = f"run {lane.run}: the action is about no index"
            raise TypeError(msg)
        _IndexBuild(connection, lane, action, action.index, self).run()


class _IndexBuild:
    """One attempt at one action."""

    def __init__(self, connection: Connection, lane: Lane, action: Action, index: Index, parts: IndexBuilds) -> None:
        self._connection = connection
        self._lane = lane
        self._action = action
        self._index = index
        self._pool = parts.pool
        self._stopping = parts.stopping
        #: The server's process behind the session that builds.
        self._pid = 0
        #: When the worker was seen to be asked to stop (`time.monotonic`).
        self._stopping_since: float | None = None

    def run(self) -> None:
        self._stand_aside()
        with self._session() as session:
            self._end_others()
            found = self._find()
            if self._index.present:
                self._build(session, found)
            elif found is not None and self._is_ours(found):
                began = time.monotonic()
                self._execute(session, self._action.statements[0].sql)
                self._tell("index.dropped", began)
        ddl.check(self._connection, self._action)

    def _build(self, session: Connection, found: Named | None) -> None:
        if found is not None and not self._is_ours(found):
            raise self._in_the_way(found)
        if found is not None and found.valid:
            return
        if found is not None:
            self._execute(session, self._removal)
        began = time.monotonic()
        try:
            self._execute(session, self._action.statements[0].sql)
        except psycopg.Error as exc:
            if self._holds_the_lane and classify(exc) in {"data", "fatal"}:
                # The run stops for a person. What is INVALID and unique refuses duplicates all the same, so it goes first.
                self._execute(session, self._removal)
            else:
                self._remove_hastily(session)
            raise
        except runs.ChangedMeanwhile:
            self._remove_hastily(session)
            raise
        found = self._find()
        if found is None or not self._is_ours(found) or not found.valid:
            raise self._in_the_way(found)
        self._tell("index.built", began)

    def _find(self) -> Named | None:
        return indexes.find(self._connection, self._index.schema, self._index.name)

    def _is_ours(self, found: Named) -> bool:
        return found.table == self._action.table and self._index.definition.same_as(found.definition)

    def _in_the_way(self, found: Named | None) -> Refused:
        """What has the name is not what was to be built."""
        name = TableName(self._index.schema, self._index.name)
        if found is None:
            problem = f"the index {name} was built and then dropped by another session"
        elif found.definition is None or found.table != self._action.table:
            problem = f"{name} exists and is not an index of {self._action.table}, which needs one of that name"
        elif self._is_ours(found):
            problem = f"the index {name} was built, and is INVALID"
        else:
            problem = f"there is already another index {name}: {found.definition.rest}"
        return Refused([Finding("index", problem, "Drop or rename it, then resume; or roll the run back")])

    # --- what an attempt leaves behind ---------------------------------------------------------------------------------

    @property
    def _removal(self) -> sql.Composed:
        """May wait for sessions that use the table, as the build did, and be asked to stop."""
        name = sql.Identifier(self._index.schema, self._index.name)
        return sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(name)

    def _remove_hastily(self, session: Connection) -> None:
        """Remove what is INVALID before the run stops or tries again; what does not go at once is left to the next attempt.

        Without the lane nothing is removed: it is another worker's by now, and perhaps the index is too.
        """
        if not self._holds_the_lane or session.info.transaction_status is not TransactionStatus.IDLE:
            return
        with suppress(psycopg.Error):
            found = self._find()
            if found is None or found.valid or not self._is_ours(found):
                return
            # Not under the name of a batch, or the one who asked for the stop would cancel this too.
            _set(session, "application_name", tidying(self._lane.run))
            _set(session, "statement_timeout", f"{HASTY_SECONDS}s")
            try:
                session.execute(self._removal)
            except psycopg.errors.QueryCanceled:
                audit.record(session, self._lane.run, actor=runs.WORKER, what="index.left_invalid", **self._named)

    def _end_others(self) -> None:
        """End what a worker that is gone has left running, and wait until it has ended: it must not touch what we build."""
        left = indexes.end_sessions(self._connection, self._lane.run, but=self._pid, patience_seconds=END_SECONDS)
        if left:
            msg = f"sessions {', '.join(map(str, left))} of an earlier attempt have not ended"
            raise psycopg.errors.ObjectInUse(msg)

    # --- the statement, and looking up meanwhile -----------------------------------------------------------------------

    def _execute(self, session: Connection, statement: sql.Composed) -> None:
        """Run a statement aside, for as long as the run is meant to work and the lane is ours."""
        self._look_up()
        outcome: Future[None] = Future()
        # A thread that the end of the process does not wait for: then the session is closed, and the server ends the build.
        Thread(
            target=_run_into, args=(outcome, session, statement), name=f"backfilld-index-{self._lane.run}", daemon=True
        ).start()
        try:
            while not wait([outcome], timeout=LOOK_SECONDS).done:
                self._look_up()
        except BaseException:
            self._cancel(session)
            wait([outcome], timeout=END_SECONDS)
            raise
        outcome.result()

    def _look_up(self) -> None:
        """Raises ChangedMeanwhile when the run or this worker is asked to stop, and psycopg.Error when the lane is lost."""
        context = step_context.read(self._connection, self._lane.run)
        # A statement with parameters leaves its portal open, and with it a snapshot for which a build would wait for ever;
        # one without is a simple query, which takes the portal's place and ends.
        self._connection.execute("SELECT")
        if context.why_stop is not None:
            raise runs.ChangedMeanwhile
        if self._stopping.is_set():
            self._stopping_since = self._stopping_since or time.monotonic()
            if time.monotonic() - self._stopping_since > DRAIN_SECONDS:
                raise runs.ChangedMeanwhile

    def _cancel(self, session: Connection) -> None:
        with suppress(psycopg.Error):
            if self._holds_the_lane:
                self._connection.execute("SELECT pg_cancel_backend(%s)", [self._pid])
            else:
                session.cancel_safe(timeout=END_SECONDS)

    @property
    def _holds_the_lane(self) -> bool:
        return self._connection.info.transaction_status is TransactionStatus.INTRANS

    def _stand_aside(self) -> None:
        """The transaction that holds the lane only looks up: a cancel is meant for the session that builds."""
        self._connection.execute(
            "SELECT set_config(s.name, v.value, true) FROM (VALUES ('application_name', %s), ('transaction_timeout', '0')) "
            "v (name, value) JOIN pg_settings s ON s.name = v.name",
            [named(f"waits for an index, run={self._lane.run}")],
        )

    @contextmanager
    def _session(self) -> Iterator[Connection]:
        session = open_session(
            self._pool,
            application_name=str(SessionName(run=self._lane.run, lane=0, seq=self._lane.seq, doing=Doing.INDEX)),
            settings={**_SETTINGS, "default_tablespace": self._index.definition.tablespace},
        )
        try:
            # A pooler tells another one in its greeting.
            row = session.execute("SELECT pg_backend_pid() AS pid").fetchone()
            self._pid = row["pid"] if row else 0
            yield session
        finally:
            session.close()

    @property
    def _named(self) -> dict[str, str]:
        return {"index": str(TableName(self._index.schema, self._index.name)), "table": str(self._action.table)}

    def _tell(self, what: str, began: float) -> None:
        seconds = round(time.monotonic() - began, 1)
        audit.record(self._connection, self._lane.run, actor=runs.WORKER, what=what, **self._named, seconds=seconds)


def _run_into(outcome: Future[None], session: Connection, statement: sql.Composed) -> None:
    try:
        session.execute(statement)
        outcome.set_result(None)
    except BaseException as exc:  # noqa: BLE001 - a thread's edge: raised again in the thread that waits
        outcome.set_exception(exc)


def _set(session: Connection, name: str, value: str) -> None:
    session.execute("SELECT set_config(%s, %s, false)", [name, value])
