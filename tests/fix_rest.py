"""A small stand-in for PostgREST, for the tests alone: GET of a table or view with columns, aliases, filters, order and limit, and POST of
a function with named arguments.

A request with a token is answered as its role and with its claims, under row level security, where the server knows the secret.
Errors are worded as PostgREST words them: the SQLSTATE in `code`, and 400, 401 or 404 for the status.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
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
        #: Of the tokens; None: nobody looks at them.
        self.secret: str | None = None

    def answer(self, path: str, body: bytes | None = None, token: str | None = None) -> tuple[int, bytes]:
        parts = urlsplit(path)
        if parts.path in self.instead:
            return self.instead[parts.path]
        name = parts.path.rpartition("/")[2]
        asked = _query(name, dict(parse_qsl(parts.query))) if body is None else _call(name, json.loads(body or b"{}"))
        try:
            with psycopg.connect(self.database_url) as connection:
                if self.secret is not None and token is not None:
                    claims = _claims(token, self.secret)
                    connection.execute("SELECT set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
                    connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(claims["role"])))
                row = connection.execute(asked).fetchone()
        except psycopg.Error as exc:
            status = 404 if exc.sqlstate in {"42P01", "42883"} else 400
            return status, json.dumps({"code": exc.sqlstate, "message": exc.diag.message_primary}).encode()
        except ValueError as exc:
            return 401, json.dumps({"code": "PGRST301", "message": str(exc)}).encode()
        assert row is not None
        return 200, row[0].encode()


def _claims(token: str, secret: str) -> dict[str, Any]:
    """What a token claims. Raises ValueError for one that is not signed so, or over."""
    head, body, signature = token.split(".")
    right = base64.urlsafe_b64encode(hmac.digest(secret.encode(), f"{head}.{body}".encode(), hashlib.sha256)).decode()
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=="))
    if right.rstrip("=") != signature:
        msg = "JWSError JWSInvalidSignature"
        raise ValueError(msg)
    if claims.get("exp", time.time() + 1) < time.time():
        msg = "JWT expired"
        raise ValueError(msg)
    return claims


def _call(function: str, arguments: dict[str, Any]) -> sql.Composed:
    given = [sql.SQL("{} => {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in arguments.items()]
    return sql.SQL("SELECT coalesce(json_agg(row_to_json(x)), '[]')::text FROM public.{}({}) x").format(
        sql.Identifier(function), sql.SQL(", ").join(given)
    )


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
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def _answer(self, sent: bytes | None) -> None:
        self.server.headers.append(dict(self.headers.items()))
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        status, body = self.server.answer(self.path, sent, token if kind == "Bearer" else None)
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
