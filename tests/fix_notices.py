"""Somebody who is told: an HTTP server that remembers what came, and fails, hangs, drips or redirects when told to."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from backfilld.migrations.settings import Channel

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "a key of sixteen characters"  # noqa: S105 - the tests' own


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:  # Any: JSON
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Receiver:
    port: int = 0
    #: What the next requests are answered with; afterwards 200.
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    #: Not set: requests are taken and not answered until it is.
    answering: threading.Event = field(default_factory=threading.Event)
    #: Meanwhile a byte of the answer's head comes now and then, which keeps a limit for each wait from ever being reached.
    drips: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def about(self, about: str) -> list[dict[str, Any]]:  # Any: JSON
        return [request.json for request in self.requests if request.json["about"] == about]


@contextmanager
def receiver() -> Iterator[Receiver]:
    told = Receiver()
    told.answering.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.requests.append(Request(self.path, dict(self.headers.items()), body))
            status = told.statuses.pop(0) if told.statuses else 200
            with suppress(OSError):  # the sender may have given up
                while not told.answering.wait(0.05):
                    if told.drips:
                        self.wfile.write(b"HTTP/1.1 200 OK\r\n" if self.command else b"X-Wait: a\r\n")
                        self.wfile.flush()
                        self.command = ""
                if self.command:
                    self.send_response(status)
                for name, value in told.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield told
        finally:
            told.answering.set()
            server.shutdown()
            thread.join()


def webhook(url: str, **changed: Any) -> Channel:  # Any: fields of a channel
    return Channel(**({"name": "hook", "kind": "webhook", "url": url, "secret": SECRET} | changed))
