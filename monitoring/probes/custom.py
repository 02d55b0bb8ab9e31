"""The operator's own load signals: a number from SQL, from Prometheus or from any HTTP server.

Each reading has a thread of its own, and no other thread waits for it: a signal that hangs delays nothing else, and once its last
value is old it counts as unreadable.
"""

from __future__ import annotations

import base64
import http.client
import json
import math
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never
from urllib.parse import quote, unquote, urlsplit

import psycopg

from backfilld.migrations import exchange
from backfilld.migrations.holds import STALE_SECONDS
from backfilld.migrations.postgres.connect import apply_settings, connect
from backfilld.migrations.postgres.sessions import named
from backfilld.monitoring.probes.reading import Reading, unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.settings import Signal

#: How long the first reading waits, so that a worker does not begin with a hold.
FIRST_SECONDS = 0.5
#: More than this is not a number, nor an answer of Prometheus to a query that gives one.
MOST_BYTES = 1_000_000


class Custom:
    """Reads the operator's signals, each in its own time."""

    def __init__(self, signals: Sequence[Signal], *, database_url: str) -> None:
        self._sources = [_Source(signal, database_url) for signal in signals]

    def read(self) -> list[Reading]:
        """What is known of each signal at this moment; asks for the next value, and waits for none but the first."""
        for source in self._sources:
            source.ask()
        deadline = time.monotonic() + FIRST_SECONDS
        for source in self._sources:
            source.wait_for_first(deadline)
        return [source.read() for source in self._sources]


@dataclass
class _Source:
    """One signal, its last value and the thread that fetches the next."""

    signal: Signal
    database_url: str
    _value: float | None = None
    #: When the value came (`time.monotonic`).
    _at: float = -math.inf
    #: What went wrong since.
    _error: str = "no answer yet"
    _fetching: Future[float] | None = None
    _asked: bool = False

    def ask(self) -> None:
        """Start to fetch the next value, unless that is under way."""
        self._take_up()
        if self._fetching is None:
            self._fetching = Future()
            threading.Thread(
                target=self._fetch_into, args=(self._fetching,), name=f"signal {self.signal.name}", daemon=True
            ).start()

    def wait_for_first(self, deadline: float) -> None:
        if not self._asked and self._fetching is not None:
            self._asked = True
            wait([self._fetching], max(0.0, deadline - time.monotonic()))

    def read(self) -> Reading:
        """The last value, or why there is none."""
        self._take_up()
        if self._value is None or time.monotonic() - self._at > STALE_SECONDS:
            return unreadable(self.signal.name, self._error)
        return Reading(signal=self.signal.name, value=self._value, detail=self._error)

    def _take_up(self) -> None:
        if self._fetching is None or not self._fetching.done():
            return
        fetched, self._fetching = self._fetching, None
        error = fetched.exception()
        if error is None:
            self._value, self._at, self._error = fetched.result(), time.monotonic(), ""
        else:
            self._error = str(error).strip() or type(error).__name__

    def _fetch_into(self, future: Future[float]) -> None:
        try:
            future.set_result(_comparable(self._fetch()))
        except BaseException as exc:  # noqa: BLE001 - a thread's edge: told where the signal is read
            future.set_exception(exc)

    def _fetch(self) -> float:
        match self.signal.kind:
            case "sql":
                return self._ask_database()
            case "promql":
                return _of_prometheus(
                    _get(
                        self.signal,
                        f"{(self.signal.url or '').rstrip('/')}/api/v1/query?query={quote(self.signal.query or '')}",
                    )
                )
            case "http":
                return _number(_get(self.signal, self.signal.url or ""), self.signal.path)
            case _:
                assert_never(self.signal.kind)

    def _ask_database(self) -> float:
        # A connection for each reading: nothing to keep alive or to reopen; a server that is away is a late answer.
        try:
            with (
                connect(self.database_url, application_name=named(f"signal {self.signal.name}")) as connection,
                connection.transaction(),
            ):
                apply_settings(
                    connection,
                    {
                        "statement_timeout": f"{round(self.signal.timeout_seconds * 1000)}ms",
                        "transaction_read_only": "on",
                    },
                )
                row = connection.execute((self.signal.query or "").encode()).fetchone()
        except psycopg.errors.QueryCanceled as exc:
            raise TimeoutError(f"no answer within {self.signal.timeout_seconds:g} s") from exc
        except psycopg.Error as exc:
            raise ValueError(exc.diag.message_primary or str(exc)) from exc
        value = next(iter(row.values()), None) if row else None
        if value is None:
            raise ValueError("the query returned no number")
        return float(value)


def _get(signal: Signal, url: str) -> bytes:
    """The body of the answer. Raises TimeoutError, OSError, ValueError."""
    parts = urlsplit(url)
    host, timeout = parts.hostname or "", signal.timeout_seconds
    late = threading.Event()
    try:
        with exchange.connected(parts, timeout_seconds=timeout, late=late) as client:
            client.request("GET", exchange.target(parts), headers=_headers(signal))
            with client.getresponse() as answer:
                body = answer.read(MOST_BYTES + 1)
    except (OSError, http.client.HTTPException) as exc:
        if late.is_set() or isinstance(exc, TimeoutError):
            raise TimeoutError(f"no answer within {timeout:g} s from {host}") from exc
        raise
    if late.is_set():
        raise TimeoutError(f"no answer within {timeout:g} s from {host}")
    if answer.status != http.client.OK:
        raise ValueError(f"{host} answers {answer.status} {answer.reason}")
    if len(body) > MOST_BYTES:
        raise ValueError(f"{host} answers with more than {MOST_BYTES} bytes")
    return body


def _headers(signal: Signal) -> dict[str, str]:
    headers = {"Accept": "application/json", "User-Agent": "backfilld"}
    parts = urlsplit(signal.url or "")
    if signal.authorization is not None:
        headers["Authorization"] = signal.authorization.get_secret_value()
    elif parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return headers


def _of_prometheus(body: bytes) -> float:
    """The number of an instant query: a scalar, or a vector of one. Raises ValueError."""
    answer = _json(body)
    if not isinstance(answer, dict) or answer.get("status") != "success":
        why = answer.get("error") if isinstance(answer, dict) else None
        raise ValueError(f"Prometheus refuses the query: {why or 'no reason was given'}")
    data: dict[str, Any] = answer.get("data") or {}
    result: Any = data.get("result")
    match data.get("resultType"):
        case "scalar":
            return float(result[1])
        case "vector" if len(result) == 1:
            return float(result[0]["value"][1])
        case "vector":
            # None is not 0: a series that is gone may be a server that is.
            raise ValueError(f"the query returns {len(result)} series, and one is needed")
        case other:
            raise ValueError(f"the query returns a {other}, and one number is needed")


def _number(body: bytes, path: str | None) -> float:
    """The number in a body: all of it, or what is at `path` in its JSON. Raises ValueError."""
    if path is None:
        return float(body.decode("utf-8", "replace").strip())
    found = _json(body)
    for step in path.split("."):
        try:
            found = found[int(step)] if isinstance(found, list) else found[step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(f"the answer contains nothing at {path}") from None
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        raise ValueError(f"the value at {path} of the answer is not a number")  # noqa: TRY004 - the answer's mistake, not a type of ours
    return float(found)


def _comparable(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be compared with a limit")
    return value


def _json(body: bytes) -> Any:  # Any: JSON from another program
    try:
        return json.loads(body)
    except ValueError:
        raise ValueError("the answer is not JSON") from None
