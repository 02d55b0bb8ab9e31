"""A stand-in for Supabase's Management API, for the tests alone: what can be recovered, and a restore in place."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "sbp_0123456789abcdef"  # noqa: S105 - of the stand-in
PROJECT = "abcdefghijklmnopqrst"


class ManagementApi(ThreadingHTTPServer):
    """Answers as docs/api of Supabase has it; what `ships` says is added to the latest moment at each look."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        #: What can be recovered now, in whole seconds; None: point-in-time recovery is off.
        self.earliest: int | None = int(time.time()) - 86_400
        self.latest = int(time.time()) - 120
        #: Seconds of WAL that are shipped between two looks.
        self.ships = 60
        #: An answer in place of the next ones: status and body; None: the connection is cut.
        self.instead: tuple[int, bytes] | str | None = ""
        #: What was asked for: the method, the path and the body.
        self.asked: list[tuple[str, str, Any]] = []

    def answer(self, method: str, path: str, token: str) -> tuple[int, bytes]:
        if token != f"Bearer {TOKEN}":
            return 401, b'{"message": "Unauthorized"}'
        if not path.startswith(f"/v1/projects/{PROJECT}"):
            return 404, b'{"message": "not found"}'
        if (method, path.rpartition("/")[2]) == ("POST", "restore-pitr"):
            return 201, b""
        self.latest += self.ships
        data = {}
        if self.earliest is not None:
            data = {
                "earliest_physical_backup_date_unix": self.earliest,
                "latest_physical_backup_date_unix": self.latest,
            }
        return 200, json.dumps(
            {
                "region": "eu-central-1",
                "walg_enabled": True,
                "pitr_enabled": self.earliest is not None,
                "backups": [{"id": 1, "is_physical_backup": True, "status": "COMPLETED", "inserted_at": "2026-05-04"}],
                "physical_backup_data": data,
            }
        ).encode()


class _Handler(BaseHTTPRequestHandler):
    server: ManagementApi

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, json.loads(body) if body else None))
        instead = self.server.instead
        if instead is None:
            self.close_connection = True
            self.connection.close()
            return
        given = instead if isinstance(instead, tuple) else None
        status, answer = given or self.server.answer(self.command, self.path, self.headers.get("Authorization", ""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET  # noqa: N815 - the name is http.server's

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def management_api() -> Iterator[ManagementApi]:
    with ManagementApi() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
