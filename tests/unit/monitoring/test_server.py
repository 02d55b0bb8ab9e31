"""The HTTP server of a worker, on the loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from backfilld.migrations.errors import InvalidSettings
from backfilld.migrations.telemetry import Event, SideTaskFailed
from backfilld.monitoring.server import Check, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)


@contextmanager
def _running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _get(server: Server, path: str, *, method: str = "GET", accept: str = "") -> tuple[int, str, str]:
    """Status, content type and body."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, headers={"Accept": accept})
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read().decode()
    finally:
        connection.close()


class _Fixed(Collector):
    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()


def test_metrics_hold_the_process_and_what_collectors_add() -> None:
    def width() -> Iterator[Metric]:
        yield GaugeMetricFamily("backfilld_width", "Width.", value=3)

    with _running(Server(host="127.0.0.1", port=0, collectors=[_Fixed(width)])) as server:
        status, content_type, body = _get(server, "/metrics")
        _, openmetrics, _ = _get(server, "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert status == 200
    assert content_type.startswith("text/plain")
    assert openmetrics.startswith("application/openmetrics-text")
    assert "backfilld_width 3.0\n" in body
    assert "backfilld_reconciler_wakeups_total " in body
    assert 'backfilld_errors_total{class="data"}' in body


COUNT_IN_A_CHILD = """
from backfilld.migrations.telemetry import LanesWoken
from backfilld.monitoring.observers import Observers
Observers()(LanesWoken(lanes=int(__import__("sys").argv[1])))
"""


def test_the_numbers_of_several_processes_add_up_those_of_ended_ones_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    for lanes in ("2", "3"):
        subprocess.run([sys.executable, "-c", COUNT_IN_A_CHILD, lanes], check=True, capture_output=True)
    with _running(Server(host="127.0.0.1", port=0)) as server:
        _, _, body = _get(server, "/metrics")
    assert "backfilld_reconciler_wakeups_total 5.0\n" in body
    # The histogram and the closed sets come through the files as well.
    assert 'backfilld_batch_seconds_bucket{le="0.5",part="statement"} 0.0\n' in body
    assert "pid=" not in body


@pytest.mark.parametrize("path", ["/live", "/ready"])
def test_a_check_that_fails_is_named_with_what_is_wrong(path: str) -> None:
    checks = {
        "database": lambda: Check(ok=False, detail="cannot reach postgresql://u:hunter2@db/app"),
        "redis": lambda: Check(ok=True),
    }
    server = Server(host="127.0.0.1", port=0, live=checks, ready=checks)
    with _running(server):
        status, content_type, body = _get(server, path)
    assert status == 503
    assert content_type == "application/json"
    assert json.loads(body) == {"ok": False, "wrong": {"database": "cannot reach postgresql://u:***@db/app"}}


@pytest.mark.parametrize("path", ["/live", "/ready"])
def test_with_nothing_wrong_the_answer_is_200(path: str) -> None:
    checks = {"redis": lambda: Check(ok=True, detail="fine")}
    server = Server(host="127.0.0.1", port=0, live=checks, ready=checks)
    with _running(server):
        assert _get(server, path)[0] == 200
        assert json.loads(_get(server, path)[2]) == {"ok": True, "wrong": {}}


def test_live_and_ready_are_different_questions() -> None:
    checks = {"database": lambda: Check(ok=False, detail="away")}
    with _running(Server(host="127.0.0.1", port=0, ready=checks)) as server:
        assert (_get(server, "/live")[0], _get(server, "/ready")[0]) == (200, 503)
    with _running(Server(host="127.0.0.1", port=0, live=checks)) as server:
        assert (_get(server, "/live")[0], _get(server, "/ready")[0]) == (503, 200)


def test_a_check_that_raises_is_not_ok() -> None:
    def broken() -> Check:
        raise ZeroDivisionError("by zero")

    with _running(Server(host="127.0.0.1", port=0, ready={"pace": broken})) as server:
        status, _, body = _get(server, "/ready")
        assert _get(server, "/live")[0] == 200
    assert status == 503
    assert json.loads(body)["wrong"] == {"pace": "ZeroDivisionError: by zero"}


def test_other_paths_are_404_and_head_has_no_body() -> None:
    with _running(Server(host="127.0.0.1", port=0)) as server:
        assert _get(server, "/")[0] == 404
        assert _get(server, "/metrics/x")[0] == 404
        assert _get(server, "/live?verbose=1")[0] == 200
        status, _, body = _get(server, "/live", method="HEAD")
    assert (status, body) == (200, "")


def test_a_scrape_that_fails_is_a_500_and_told_and_the_next_request_is_served() -> None:
    def broken() -> Iterator[Metric]:
        raise ZeroDivisionError("by zero")

    told: list[Event] = []
    with _running(Server(host="127.0.0.1", port=0, collectors=[_Fixed(broken)], observe=told.append)) as server:
        assert _get(server, "/metrics")[0] == 500
        assert _get(server, "/live")[0] == 200
    assert told == [SideTaskFailed(task="http", error_class="fatal", message="ZeroDivisionError: by zero")]


def test_a_port_in_use_is_named_by_its_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InvalidSettings) as refused:
        Server(host="127.0.0.1", port=taken.getsockname()[1]).start()
    assert refused.value.variable == "BACKFILLD_HTTP_PORT"
    assert str(taken) not in str(refused.value)


def test_a_host_that_is_no_address_is_named_by_its_variable() -> None:
    with pytest.raises(InvalidSettings) as refused:
        Server(host="256.0.0.1.invalid", port=0).start()
    assert refused.value.variable == "BACKFILLD_HTTP_HOST"


def test_stop_does_not_wait_for_a_check_that_hangs_and_frees_the_port() -> None:
    asked, release = threading.Event(), threading.Event()

    def hangs() -> Check:
        asked.set()
        release.wait(30)
        return Check(ok=True)

    server = Server(host="127.0.0.1", port=0, ready={"slow": hangs})
    server.start()
    port = server.port
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
        assert asked.wait(10)
        stopped = threading.Thread(target=server.stop)
        stopped.start()
        stopped.join(10)
        assert not stopped.is_alive()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        release.set()
        assert client.recv(1000).startswith(b"HTTP/1.0 200")


def test_stop_may_be_called_twice_and_before_start_and_the_server_starts_again() -> None:
    server = Server(host="127.0.0.1", port=0)
    server.stop()
    with _running(server):
        assert _get(server, "/live")[0] == 200
    server.stop()
    with pytest.raises(RuntimeError):
        server.port  # noqa: B018 - reading it is what raises
    with _running(server):
        assert _get(server, "/live")[0] == 200
