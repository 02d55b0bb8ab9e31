"""A small stand-in for PostgREST, for the tests alone: GET of a table or view with columns, aliases, filters, order and limit.

Errors are worded as PostgREST words them: the SQLSTATE in `code`, and 400 or 404 for the status.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import psycopg
import pytest
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator


class Rest(ThreadingHTTPServer):
    """Serves the schema public of one database at `url`."""

    daemon_threads = True

    def __init__(self, database_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.database_url = database_url
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        #: What requests brought along, newest last.
        self.headers: list[dict[str, str]] = []
        #: Answers in place of the database's, by path: status and body.
        self.instead: dict[str, tuple[int, bytes]] = {}

    def answer(self, path: str) -> tuple[int, bytes]:
        parts = urlsplit(path)
        if parts.path in self.instead:
            return self.instead[parts.path]
        try:
            with psycopg.connect(self.database_url, autocommit=True) as connection:
                row = connection.execute(_query(parts.path.rpartition("/")[2], dict(parse_qsl(parts.query)))).fetchone()
        except psycopg.Error as exc:
            status = 404 if exc.sqlstate == "42P01" else 400
            return status, json.dumps({"code": exc.sqlstate, "message": exc.diag.message_primary}).encode()
        assert row is not None
        return 200, row[0].encode()


def _query(table: str, asked: dict[str, str]) -> sql.Composed:
    columns = [_column(one) for one in asked.pop("select", "*").split(",")]
    order = asked.pop("order", "").partition(".")[0]  # ascending, as all who ask here want
    limit = int(asked.pop("limit", "1000"))
    filters = [_filter(name, *value.split(".", 1)) for name, value in asked.items()]
    return sql.SQL(
        "SELECT coalesce(json_agg(row_to_json(x)), '[]')::text FROM (SELECT {} FROM public.{} WHERE {} {} LIMIT {}) x"
    ).format(
        sql.SQL(", ").join(columns),
        sql.Identifier(table),
        sql.SQL(" AND ").join([sql.SQL("true"), *filters]),
        sql.SQL("ORDER BY {}").format(sql.Identifier(order)) if order else sql.SQL(""),
        sql.Literal(limit),
    )


def _filter(name: str, operator: str, value: str) -> sql.Composed:
    comparison = sql.SQL({"eq": "=", "gt": ">"}[operator])
    return sql.SQL("{} {} {}").format(sql.Identifier(name), comparison, sql.Literal(value))


def _column(text: str) -> sql.Composable:
    alias, colon, name = text.rpartition(":")
    if name == "*":
        return sql.SQL("*")
    return sql.SQL("{} AS {}").format(sql.Identifier(name), sql.Identifier(alias if colon else name))


class _Handler(BaseHTTPRequestHandler):
    server: Rest

    def do_GET(self) -> None:
        self.server.headers.append(dict(self.headers.items()))
        status, body = self.server.answer(self.path)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
        """Nothing: the tests say what they ask."""


@contextmanager
def serving(database_url: str) -> Iterator[Rest]:
    """An API before a database."""
    server = Rest(database_url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def rest(database_url: str) -> Iterator[Rest]:
    """An API before the test's database."""
    with serving(database_url) as server:
        yield server
