"""The operator's own signals over HTTP: what counts as an answer, and that one that hangs delays nothing."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fix_daemon import until
from pydantic import ValidationError

from backfilld.migrations.settings import Limits, Settings, Signal, limits_by_name
from backfilld.monitoring.probes import Custom, Reading, custom

if TYPE_CHECKING:
    from collections.abc import Iterator


class Answers:
    """A server that says what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.body: bytes = b"1"
        self.status = 200
        self.asked: list[tuple[str, dict[str, str]]] = []


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def url(answers: Answers) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.asked.append((self.path, dict(self.headers.items())))
            self.send_response(answers.status)
            self.end_headers()
            self.wfile.write(answers.body)

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def http(url: Any, **changed: Any) -> Signal:  # Any: fields of a signal
    return Signal(**({"name": "load", "kind": "http", "url": url, "soft": 1, "hard": 2} | changed))


def prometheus(url: str, **changed: Any) -> Signal:  # Any: as above
    return http(url, **({"kind": "promql", "query": "sum(rate(errors[1m]))"} | changed))


def first(signal: Signal) -> Reading:
    (reading,) = Custom([signal], database_url="").read()
    return reading


@pytest.mark.parametrize(
    ("body", "path", "value"),
    [
        ("0.75", None, 0.75),
        (" 12\n", None, 12),
        ("-3e2", None, -300),
        ('{"data": {"load": [1.5, 2.5]}}', "data.load.1", 2.5),
        ('[{"value": "7"}]', "0.value", 7),
    ],
)
def test_a_number_in_the_body_or_in_its_json(
    answers: Answers, url: str, body: str, path: str | None, value: float
) -> None:
    answers.body = body.encode()
    assert first(http(url, path=path)) == Reading(signal="load", value=value)


@pytest.mark.parametrize(
    ("body", "path", "why"),
    [
        ("busy", None, "could not convert"),
        ("", None, "could not convert"),
        ("NaN", None, "cannot be compared with a limit"),
        ("inf", None, "cannot be compared with a limit"),
        ("{}", "load", "nothing at load"),
        ("[1]", "1", "nothing at 1"),
        ("[1]", "load", "nothing at load"),
        ("3", "load", "nothing at load"),
        ('{"load": true}', "load", "is not a number"),
        ('{"load": null}', "load", "is not a number"),
        ("<html>", "load", "is not JSON"),
    ],
)
def test_what_is_no_number_cannot_be_read(answers: Answers, url: str, body: str, path: str | None, why: str) -> None:
    answers.body = body.encode()
    reading = first(http(url, path=path))
    assert reading.value is None
    assert why in reading.detail


def test_an_answer_that_is_an_error_is_none(answers: Answers, url: str) -> None:
    answers.status = 503
    assert first(http(url)).detail == "127.0.0.1 answers 503 Service Unavailable"


def test_an_answer_without_end_is_none(answers: Answers, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom, "MOST_BYTES", 10)
    answers.body = b"1" * 11
    assert first(http(url)).detail == "127.0.0.1 answers with more than 10 bytes"


def test_prometheus_is_asked_as_its_api_wants(answers: Answers, url: str) -> None:
    answers.body = json.dumps(
        {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "0.25"]}]}}
    ).encode()
    assert first(prometheus(f"{url}/prom/")).value == 0.25
    ((path, _),) = answers.asked
    assert urlsplit(path).path == "/prom/api/v1/query"
    assert parse_qs(urlsplit(path).query) == {"query": ["sum(rate(errors[1m]))"]}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"status": "success", "data": {"resultType": "scalar", "result": [1, "3"]}}, 3.0),
        ({"status": "success", "data": {"resultType": "vector", "result": []}}, "0 series, and one is needed"),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, "returns a matrix"),
        (
            {"status": "success", "data": {"resultType": "vector", "result": [{"value": [1, "NaN"]}]}},
            "cannot be compared with a limit",
        ),
        ({"status": "error", "error": "parse error"}, "refuses the query: parse error"),
        ([], "refuses the query: no reason was given"),
    ],
)
def test_what_prometheus_answers(answers: Answers, url: str, answer: object, outcome: float | str) -> None:
    answers.body = json.dumps(answer).encode()
    reading = first(prometheus(url))
    if isinstance(outcome, str):
        assert reading.value is None
        assert outcome in reading.detail
    else:
        assert reading.value == outcome


def test_credentials_travel_in_the_header(answers: Answers, url: str) -> None:
    first(http(url, authorization="Bearer secret"))
    first(http(url.replace("http://", "http://user:p%40ss@")))
    assert [headers.get("Authorization") for _, headers in answers.asked] == ["Bearer secret", "Basic dXNlcjpwQHNz"]


def test_the_last_value_counts_until_it_is_old(answers: Answers, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One failed answer is no hold; a quarter of a minute without one is."""
    answers.body = b"0.5"
    signals = Custom([http(url)], database_url="")
    assert signals.read()[0] == Reading(signal="load", value=0.5)
    answers.status = 500
    until("the failure to be told", lambda: "500" in signals.read()[0].detail)
    assert signals.read()[0].value == 0.5
    monkeypatch.setattr(custom, "STALE_SECONDS", 0.0)
    reading = signals.read()[0]
    assert reading.value is None
    assert "500" in reading.detail
    monkeypatch.undo()
    answers.status = 200
    until("the answer", lambda: signals.read()[0].detail == "")


@contextmanager
def _silent() -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def _dribbling() -> Iterator[str]:
    """A server that sends a header's byte now and then, and never comes to an end."""
    ended = threading.Event()

    def dribble(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not ended.wait(0.02):
                try:
                    client.sendall(b"x")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=dribble, args=(server,))
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        thread.join()


@pytest.mark.parametrize("server", [_silent, _dribbling])
def test_a_server_that_hangs_is_given_up_in_time_and_delays_nobody(server: Any, answers: Answers, url: str) -> None:
    """Any: one of the two above."""
    with server() as hangs:
        signals = Custom([http(hangs, name="hangs", timeout_seconds=0.8), http(url, name="well")], database_url="")
        signals.read()
        began = time.monotonic()
        while (reading := signals.read())[0].detail == "no answer yet":
            assert time.monotonic() - began < 30
        assert time.monotonic() - began < 5
    assert reading[0].value is None
    assert reading[0].detail == "no answer within 0.8 s from 127.0.0.1"
    assert reading[1].value == 1


def test_a_reading_waits_for_nobody() -> None:
    with _silent() as hangs:
        signals = Custom([http(hangs, timeout_seconds=10)], database_url="")
        signals.read()
        before = threading.active_count()
        began = time.monotonic()
        for _ in range(50):
            signals.read()
        assert time.monotonic() - began < 1
        assert threading.active_count() <= before, "one thread for a signal, however often it is read"


def test_nobody_there_cannot_be_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert "refused" in first(http(f"http://127.0.0.1:{port}")).detail


# --- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"name": "replica_lag_seconds"}, "a built-in signal"),
        ({"name": "Not A Label"}, "pattern"),
        ({"soft": 3}, "must be below hard"),
        ({"url": None}, "needs url"),
        ({"query": "SELECT 1"}, "has no query"),
        ({"url": "file:///etc/passwd"}, "must begin with http"),
        ({"timeout_seconds": 60}, "less than or equal to 10"),
        ({"kind": "promql", "query": "up", "path": "a"}, "has no path"),
        ({"kind": "sql", "url": None}, "needs query"),
        ({"kind": "sql", "query": "SELECT 1"}, "has no url"),
        ({"kind": "soap"}, "'sql', 'promql' or 'http'"),
    ],
)
def test_a_signal_that_makes_no_sense_is_refused(changed: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        http(**{"url": "http://127.0.0.1", **changed})


def test_names_are_given_once() -> None:
    with pytest.raises(ValidationError, match="two signals have the name load"):
        Settings(signals=(http("http://127.0.0.1"), http("http://127.0.0.1")))


def test_signals_and_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    signals = [{"name": "queue", "kind": "sql", "query": "SELECT count(*) FROM jobs", "soft": -5, "hard": 10}]
    monkeypatch.setenv("BACKFILLD_SIGNALS", json.dumps(signals))
    monkeypatch.setenv("BACKFILLD_LIMITS__CONNECTIONS", "off")
    settings = Settings()
    judged = limits_by_name(settings.limits, settings.signals)
    assert set(judged) == set(Limits.model_fields) - {"connections", "wal_bytes_per_second"} | {"queue"}
    assert (judged["queue"].soft, judged["queue"].hard) == (-5, 10)


def test_secrets_are_not_shown() -> None:
    shown = repr(http("http://user:hush@127.0.0.1", authorization="Bearer hush"))
    assert "hush" not in shown
