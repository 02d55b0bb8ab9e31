"""The network between a worker and a database that is not in the same room."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from types import TracebackType

READ_BYTES = 65_536


class Delay:
    """Forwards a port of our own to a server's, each byte half a round trip late, and none of them slower for it."""

    def __init__(self, url: str, *, round_trip_seconds: float) -> None:
        self._parts = urlsplit(url)
        self._one_way_seconds = round_trip_seconds / 2
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="delay", daemon=True)
        #: Tasks that nobody refers to are collected while they run.
        self._pipes: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(timeout=10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The server's URL, by way of here."""
        user = self._parts.netloc.rpartition("@")[0]
        return urlunsplit(self._parts._replace(netloc=f"{user}@127.0.0.1:{self._port}"))

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        for source, sink in ((reader, server_writer), (server_reader, writer)):
            pipe = asyncio.create_task(self._pipe(source, sink))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """What is read waits for its time in a queue, so that one piece's delay does not add to the next one's."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(due - self._loop.time())
                sink.write(data)
                await sink.drain()
                if not data:
                    return

        delivery = asyncio.create_task(deliver())
        try:
            with suppress(ConnectionError):
                while data := await source.read(READ_BYTES):
                    waiting.put_nowait((self._loop.time() + self._one_way_seconds, data))
            waiting.put_nowait((self._loop.time() + self._one_way_seconds, b""))
            with suppress(ConnectionError):
                await delivery
        finally:
            delivery.cancel()
            sink.close()
