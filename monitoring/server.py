"""The HTTP server of a worker: `/metrics` for Prometheus, `/live` and `/ready` for supervisors and load balancers.

One per supervisor. Where workers are several processes, they leave their numbers in the folder
PROMETHEUS_MULTIPROC_DIR, which the supervisor makes, empties, and names in their environment.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from backfilld.migrations.errors import InvalidSettings
from backfilld.migrations.telemetry import SideTaskFailed, nobody
from backfilld.monitoring.exemplars import WithExemplars
from backfilld.monitoring.words import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from backfilld.migrations.telemetry import Observer

#: A client that does not send its request, or does not read the answer, is let go after this.
CLIENT_TIMEOUT_SECONDS = 10
#: How soon `stop` is heard.
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Check:
    """Whether one thing is as it should be, and what it is instead."""

    ok: bool
    detail: str = ""


#: Checks by name. Called at each request, in that request's thread; one that raises is not ok.
Checks: TypeAlias = "Mapping[str, Callable[[], Check]]"


class Server:
    """Serves from `start` until `stop`; neither waits for a request that is under way."""

    def __init__(  # noqa: PLR0913 - all by keyword, most with a default
        self,
        *,
        host: str,
        port: int,
        live: Checks | None = None,
        ready: Checks | None = None,
        collectors: Sequence[Collector] = (),
        observe: Observer = nobody,
    ) -> None:
        self._host = host
        self._wanted_port = port
        self._live = dict(live or {})
        self._ready = dict(ready or {})
        self._collectors = collectors
        self._observe = observe
        self._http: _HTTP | None = None
        self._thread: Thread | None = None

    @property
    def port(self) -> int:
        """The port it listens on, also when any was asked for. Only between `start` and `stop`."""
        if self._http is None:
            msg = "the HTTP server is not running"
            raise RuntimeError(msg)
        return int(self._http.server_address[1])

    def start(self) -> None:
        """Listen, and serve in a thread. Raises InvalidSettings when host or port cannot be had."""
        registry = _registry(self._collectors)
        routes = {
            "/metrics": lambda accept: _metrics(registry, accept),
            "/live": lambda _accept: _report(self._live),
            "/ready": lambda _accept: _report(self._ready),
        }
        try:
            self._http = _HTTP(self._host, self._wanted_port, routes=routes, observe=self._observe)
        except socket.gaierror as exc:
            raise InvalidSettings("BACKFILLD_HTTP_HOST", f"{self._host!r} is not an address: {exc.strerror}") from exc
        except OSError as exc:
            problem = f"cannot listen on {self._host}:{self._wanted_port}: {exc.strerror}"
            if exc.errno == errno.EADDRINUSE:
                problem += "; give each worker of a host a port of its own, or 0 for any that is free"
            raise InvalidSettings("BACKFILLD_HTTP_PORT", problem) from exc
        self._thread = Thread(target=self._http.serve_forever, args=(POLL_SECONDS,), name="backfilld-http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port. Requests under way are left to end, or to die with the process. Does nothing when not running."""
        if self._http is None or self._thread is None:
            return
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._http = self._thread = None


@dataclass(frozen=True)
class _Answer:
    status: HTTPStatus
    content_type: str
    body: bytes


def _registry(collectors: Sequence[Collector]) -> CollectorRegistry:
    """The numbers of the workers, of this process or of all, and what `collectors` add at each scrape."""
    registry = CollectorRegistry()
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder:
        of_all = MultiProcessCollector(None, path=folder)  # type: ignore[no-untyped-call] # prometheus_client leaves it untyped
        registry.register(WithExemplars(of_all, Path(folder)))
    else:
        registry.register(_OwnMetrics())
    for collector in collectors:
        registry.register(collector)
    return registry


class _OwnMetrics(Collector):
    """The metrics of this process, for `backfilld run` and tests, where there are no others."""

    def collect(self) -> Iterator[Metric]:
        # Late: importing it makes a file in PROMETHEUS_MULTIPROC_DIR, and a supervisor has no numbers of its own.
        from backfilld.monitoring import metrics  # noqa: PLC0415 - see above

        yield from metrics.REGISTRY.collect()


def _metrics(registry: CollectorRegistry, accept: str) -> _Answer:
    encode, content_type = choose_encoder(accept)
    return _Answer(HTTPStatus.OK, content_type, encode(registry))


def _report(checks: Checks) -> _Answer:
    results = {name: _run(check) for name, check in checks.items()}
    ok = all(result.ok for result in results.values())
    wrong = {name: redact(result.detail) for name, result in results.items() if not result.ok}
    body = json.dumps({"ok": ok, "wrong": wrong}) + "\n"
    return _Answer(HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE, "application/json", body.encode())


def _run(check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as exc:  # noqa: BLE001 - a check's edge: a check that breaks counts as failed
        return Check(ok=False, detail=f"{type(exc).__name__}: {exc}")


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_SECONDS
    server: _HTTP

    def do_GET(self) -> None:
        answer = self._answer()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def _answer(self) -> _Answer:
        route = self.server.routes.get(self.path.partition("?")[0])
        if route is None:
            paths = " ".join(self.server.routes)
            return _Answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", f"there is {paths}\n".encode())
        try:
            return route(self.headers.get("Accept", ""))
        except Exception as exc:  # noqa: BLE001 - a request's edge: the next one is not harmed
            self.server.tell(exc)
            return _Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", b"see the log\n")

    def version_string(self) -> str:
        return "backfilld"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature is http.server's; Any too
        """Log nothing: a line per scrape helps no reader."""


class _HTTP(ThreadingMixIn, TCPServer):
    """Not `http.server.HTTPServer`: it asks the DNS for the host's name at start, which can take many seconds."""

    allow_reuse_address = True
    # Neither `stop` nor the end of the process waits for a request.
    daemon_threads = True

    def __init__(
        self, host: str, port: int, *, routes: Mapping[str, Callable[[str], _Answer]], observe: Observer
    ) -> None:
        self.routes = routes
        self._observe = observe
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def tell(self, exc: BaseException) -> None:
        self._observe(SideTaskFailed(task="http", error_class="fatal", message=f"{type(exc).__name__}: {exc}"))

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the signature is socketserver's; Any too
        exc = sys.exception()
        # A client that went away is none of our business.
        if exc is not None and not isinstance(exc, ConnectionError | TimeoutError):
            self.tell(exc)
