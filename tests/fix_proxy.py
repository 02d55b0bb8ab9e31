"""A TCP proxy that misbehaves when told to: the network between us and PostgreSQL or Redis.

It forwards bytes and knows no protocol. `drop_reply(b"COMMIT")` is the case that matters most here: the server has committed,
and nobody tells the client.
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit, urlunsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

Direction = Literal["request", "reply"]

#: Closing sends RST instead of FIN, as a machine does that has lost its connections.
RESET = struct.pack("ii", 1, 0)


@dataclass
class Drop:
    """One piece of data to swallow: the first in this direction that contains these bytes."""

    direction: Direction
    containing: bytes
    cut: bool
    #: Set when it has happened; `event.wait(5)` in the test.
    event: threading.Event = field(default_factory=threading.Event)


class Proxy:
    """Forwards 127.0.0.1:`port` to one server until told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._drops: list[Drop] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = False
        self._closed = threading.Event()
        self._begin(self._accept)

    def url(self, url: str) -> str:
        """The same URL, through this proxy."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        place = f"127.0.0.1:{self.port}"
        return urlunsplit(parts._replace(netloc=f"{user}@{place}" if user else place))

    @property
    def connections(self) -> int:
        """How many are open now."""
        with self._lock:
            return len(self._pairs)

    def cut(self) -> None:
        """Reset every open connection; new ones are accepted."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _reset(pair)

    def refuse(self) -> None:
        """Reset every open connection and every new one, until `accept()`."""
        self._refusing = True
        self.cut()

    def redirect(self, host: str, port: int) -> None:
        """Forward to another server from now on; what was open to the old one is reset."""
        self._server = (host, port)
        self.cut()

    def accept(self) -> None:
        self._refusing = False

    def stall(self) -> None:
        """Forward nothing in either direction, and close nothing, until `resume()`; new connections stall as well."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def drop_reply(self, containing: bytes = b"", *, cut: bool = True) -> threading.Event:
        """Swallow the next data from the server (that contains these bytes), and cut its connection if so told.

        For PostgreSQL `drop_reply(b"COMMIT")` loses the answer to a commit that has happened. Returns an event that is set
        when it has been done.
        """
        return self._drop(Drop("reply", containing, cut))

    def drop_request(self, containing: bytes = b"", *, cut: bool = True) -> threading.Event:
        """Swallow the next data from a client (that contains these bytes): the server never hears of it."""
        return self._drop(Drop("request", containing, cut))

    def close(self) -> None:
        """Reset what is open and end every thread."""
        self._closed.set()
        # close() alone does not wake a thread in accept(); on macOS shutdown() of a listener is an error, and close() does.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.resume()
        self.cut()
        for thread in self._threads:
            thread.join(timeout=5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _drop(self, drop: Drop) -> threading.Event:
        with self._lock:
            self._drops.append(drop)
        return drop.event

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                if self._refusing:
                    raise ConnectionRefusedError
                server = socket.create_connection(self._server, timeout=5)
            except OSError:
                _reset((client,))
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((client, server))
            self._begin(self._forward, client, server, "request")
            self._begin(self._forward, server, client, "reply")
            if self._closed.is_set() or self._refusing:  # close() or refuse() came between accept() and here
                self.cut()

    def _forward(self, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        with suppress(OSError):  # either end is gone, or cut() closed both
            while data := source.recv(65536):
                self._flowing.wait()
                drop = self._take_drop(direction, data)
                if drop is None:
                    target.sendall(data)
                    continue
                if drop.cut:
                    self._forget(source, target)
                    _reset((source, target))
                drop.event.set()
        self._forget(source, target)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _take_drop(self, direction: Direction, data: bytes) -> Drop | None:
        with self._lock:
            for drop in self._drops:
                if drop.direction == direction and drop.containing in data:
                    self._drops.remove(drop)
                    return drop
        return None

    def _forget(self, *ends: socket.socket) -> None:
        with self._lock:
            self._pairs = [pair for pair in self._pairs if pair[0] not in ends]


def _reset(ends: tuple[socket.socket, ...]) -> None:
    for end in ends:
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            # A thread in recv() keeps the connection open after close(); shutdown() wakes it.
            end.shutdown(socket.SHUT_RD)
            end.close()


@pytest.fixture
def proxy() -> Iterator[Callable[[str], Proxy]]:
    """Call it with a URL to get a Proxy in front of that server; `proxy(url).url(url)` is where to connect."""
    with ExitStack() as open_proxies:

        def through(url: str) -> Proxy:
            parts = urlsplit(url)
            if parts.hostname is None or parts.port is None:
                raise ValueError(f"no host and port to put a proxy before in {url}")
            return open_proxies.enter_context(Proxy(parts.hostname, parts.port))

        yield through
