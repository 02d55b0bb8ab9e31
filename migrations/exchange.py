"""One HTTP exchange with a limit for all of it.

`http.client`, as the limit of urllib and requests is one for each wait: a server that sends a byte a second would never pass it.
Here a timer cuts the connection. Redirects are not followed: the operator named the place.
"""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from urllib.parse import SplitResult


@contextmanager
def connected(
    url: SplitResult, *, timeout_seconds: float, late: threading.Event
) -> Iterator[http.client.HTTPConnection]:
    """A connection that is cut when the time is over, after `late` is set: an answer that was cut may look like one that ended.

    Raises OSError, http.client.HTTPException, and ValueError for a port that is none.
    """
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    client = kind(url.hostname or "", url.port, timeout=timeout_seconds)
    opened: list[socket.socket] = []

    def cut() -> None:
        late.set()
        with suppress(OSError, AttributeError):  # not connected yet, or gone already
            # The client lets go of its socket once the answer has begun, and has one before it says that it is connected.
            (opened[0] if opened else client.sock).shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout_seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        with closing(client):
            client.connect()
            opened.append(client.sock)
            yield client
    finally:
        timer.cancel()
        for one in opened:
            one.close()


def target(url: SplitResult) -> str:
    """What is asked for: the path with its query."""
    return (url.path or "/") + (f"?{url.query}" if url.query else "")
