"""A small application that keeps writing while its table is migrated, and keeps a ledger of what it did.

Each session is one user: logged in as `authenticator`, become `authenticated`, with the claims of a token set, so that row level
security decides what it sees. It sends the statements that an application sends, one request after another.
"""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What a session waits between two requests. Together they write about a hundred rows a second, as a busy small project does.
THINK_SECONDS = 0.012
#: Any upper-casing must be right for these too.
STATUSES = ("new", "in progress", "on hold", "à revoir", "Done", "cancelled")

_INSERT: LiteralString = """
    INSERT INTO public.jobs (organisation, customer_id, title, status, total)
    VALUES (%(organisation)s, %(customer)s, %(title)s, %(status)s, %(total)s)
"""
_UPDATE: LiteralString = "UPDATE public.jobs SET status = %(status)s, updated_at = now() WHERE id = %(job)s"
_DELETE: LiteralString = "DELETE FROM public.jobs WHERE id = %(job)s"
_MESSAGE: LiteralString = """
    INSERT INTO public.messages (organisation, job_id, body) VALUES (%(organisation)s, %(job)s, 'your job is done')
"""
_TAKE: LiteralString = "UPDATE public.inventory SET quantity = quantity - 1 WHERE id = %(item)s"

# The next release of the application writes the new column itself: words of its users, which are not what the migration computes.
# It must be out before contract: then the trigger goes.
_INSERT_NEXT: LiteralString = """
    INSERT INTO public.jobs (organisation, customer_id, title, status, total, new_field)
    VALUES (%(organisation)s, %(customer)s, %(title)s, %(status)s, %(total)s, %(typed)s) RETURNING id
"""
_UPDATE_NEXT: LiteralString = """
    UPDATE public.jobs SET status = %(status)s, new_field = upper(%(status)s::text), updated_at = now() WHERE id = %(job)s
"""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """How many rows each table began with; row `id` belongs to organisation `1 + id % ORGANISATIONS`."""

    jobs: int
    customers: int
    inventory: int
    messages: int


ORGANISATIONS = 5


@dataclass(kw_only=True)
class Ledger:
    """What a session did, as PostgreSQL confirmed it."""

    writes: int = 0
    inserted: int = 0
    deleted: int = 0
    #: What users typed into the new column, by the id of the row.
    typed: dict[int, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    #: Of each request, a transaction counting as one.
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long requests took, in seconds."""

    median: float
    p99: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        ordered = sorted(seconds) or [0.0]
        return cls(
            median=ordered[len(ordered) // 2],
            p99=ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)],
            longest=ordered[-1],
        )


class Application:
    """Sessions that write until they are stopped."""

    def __init__(self, url: str, rows: Rows, *, sessions: int) -> None:
        self._stopping = threading.Event()
        self._next_release = threading.Event()
        self._sessions = [
            Session(url, rows, organisation=number, stopping=self._stopping, next_release=self._next_release)
            for number in range(1, sessions + 1)
        ]

    def start(self) -> None:
        for session in self._sessions:
            session.start()

    def stop(self) -> None:
        """Let every session finish its request. Does nothing when they have stopped."""
        self._stopping.set()
        for session in self._sessions:
            if session.ident is not None:
                session.join()

    def release(self) -> None:
        """Put the next release out, which writes the new column; see `is_released`."""
        self._next_release.set()

    @property
    def is_released(self) -> bool:
        """Whether no session sends statements of the old release now."""
        return all(session.has_next_release for session in self._sessions)

    @property
    def writes(self) -> int:
        return sum(session.ledger.writes for session in self._sessions)

    @property
    def growth(self) -> int:
        """Rows of `jobs` inserted, less those deleted."""
        return sum(session.ledger.inserted - session.ledger.deleted for session in self._sessions)

    @property
    def typed(self) -> dict[int, str]:
        """What users typed into the new column, by the id of the row."""
        return {row: text for session in self._sessions for row, text in dict(session.ledger.typed).items()}

    @property
    def errors(self) -> tuple[str, ...]:
        return tuple(error for session in self._sessions for error in session.ledger.errors)

    @property
    def latency(self) -> Latency:
        return Latency.of([one for session in self._sessions for one in session.ledger.seconds])


class Session(threading.Thread):
    """One user of one organisation."""

    def __init__(
        self, url: str, rows: Rows, *, organisation: int, stopping: threading.Event, next_release: threading.Event
    ) -> None:
        super().__init__(name=f"application {organisation}", daemon=True)
        self._url = url
        self._rows = rows
        self._organisation = organisation
        self._stopping = stopping
        self._next_release = next_release
        # A seed: two runs of the demo ask for the same things.
        self._random = random.Random(organisation)  # noqa: S311 - no secret
        self.ledger = Ledger()
        self.has_next_release = False

    def run(self) -> None:
        connection: psycopg.Connection[tuple[Any, ...]] | None = None  # Any: columns; none is read
        while not self._stopping.wait(THINK_SECONDS):
            # Between two requests: the session that says so has sent its last statement of the old release.
            self.has_next_release = self._next_release.is_set()
            began = time.perf_counter()
            try:
                if connection is None or connection.closed:
                    connection = self._log_in()
                self._request(connection)
            except psycopg.Error as exc:
                self.ledger.errors.append(str(exc).strip())
            self.ledger.seconds.append(time.perf_counter() - began)
        if connection is not None:
            connection.close()

    def _log_in(self) -> psycopg.Connection[tuple[Any, ...]]:  # Any: as above
        claims = {
            "sub": f"00000000-0000-4000-8000-{self._organisation:012}",
            "role": "authenticated",
            "app_metadata": {"organisation": self._organisation},
        }
        connection = psycopg.connect(self._url, autocommit=True, application_name="application")
        connection.execute("SET ROLE authenticated")
        connection.execute("SELECT set_config('request.jwt.claims', %s, false)", [json.dumps(claims)])
        return connection

    def _request(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:  # Any: as above
        update, insert = (_UPDATE_NEXT, _INSERT_NEXT) if self.has_next_release else (_UPDATE, _INSERT)
        values: dict[str, Any] = {  # Any: parameters
            "organisation": self._organisation,
            "job": self._one_of(self._rows.jobs),
            "customer": self._one_of(self._rows.customers),
            "item": self._one_of(self._rows.inventory),
            "title": "a new job",
            "status": self._random.choice(STATUSES),
            "total": self._random.randrange(100_000) / 100,
            "typed": f"typed by user {self._organisation}, word {self._random.randrange(10**6)}",
        }
        ledger = self.ledger
        kind = self._random.random()
        if kind < 0.45:
            ledger.writes += connection.execute(update, values).rowcount
        elif kind < 0.85:
            cursor = connection.execute(insert, values)
            ledger.inserted += cursor.rowcount
            ledger.writes += cursor.rowcount
            if self.has_next_release and (row := cursor.fetchone()) is not None:
                ledger.typed[row[0]] = values["typed"]
        elif kind < 0.95:
            ledger.writes += self._finish(connection, update, {**values, "status": "Done"})
        else:
            deleted = connection.execute(_DELETE, values).rowcount
            ledger.deleted += deleted
            ledger.writes += deleted

    def _finish(
        self,
        connection: psycopg.Connection[tuple[Any, ...]],  # Any: as above
        update: LiteralString,
        values: dict[str, Any],  # Any: parameters
    ) -> int:
        """A transaction: the job is done, its customer gets a message, and its parts leave the inventory."""
        with connection.transaction():
            updated = connection.execute(update, values).rowcount
            if updated == 0:  # deleted meanwhile
                return 0
            return updated + connection.execute(_MESSAGE, values).rowcount + connection.execute(_TAKE, values).rowcount

    def _one_of(self, rows: int) -> int:
        """The id of a row of this organisation that is still there."""
        first = (self._organisation - 1) or ORGANISATIONS
        return first + ORGANISATIONS * self._random.randrange(rows // ORGANISATIONS)
