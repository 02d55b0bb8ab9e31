"""Trouble of four kinds, each told in three places: by `explain`, by the alert that fires, and by the panel that shows it.

The rules are those that are shipped, with minutes as seconds, so that an alert which has to last three of them fires within a
test. What has to be older than a test can wait for is made older in the record.
"""

from __future__ import annotations

import json
import re
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from fix_daemon import Daemon, Record, until
from fix_prometheus import Prometheus
from paths import ROOT

from backfilld import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from backfilld.monitoring.explain.explanation import Explanation
    from backfilld.producers.demo.servers import EmbeddedPostgres

RULES = ("recording.yaml", "alerts.yaml")
JOB = "backfilld"
SCRAPE_SECONDS = 0.25
LAG = {"soft": 0.5, "hard": 1.5}
POISON = """
name: parts-number
operations:
  - backfill: {table: parts, set: {n: "code::integer"}, where: "n IS NULL"}
settings: {lanes: 1, max_quarantined: 1}
"""
BLOCKED = """
name: orders-note
operations:
  - add_column: {table: orders, column: {name: note, type: text}}
settings: {lock_deadline_seconds: 500000}
"""


@dataclass
class Watch:
    """Those who are asked."""

    client: Client
    record: Record
    prometheus: Prometheus
    #: The port of the worker, where there is one.
    port: int

    def explained(self, run: str, *parts: str) -> Explanation:
        """Wait until `explain` says all of this."""
        said: Explanation | None = None

        def says() -> bool:
            nonlocal said
            said = self.client.explain(run)
            return all(part in " ".join([*said.sentences, *said.remedies]) for part in parts)

        until(f"explain {run} to say {parts}", says)
        assert said is not None
        return said

    def fires(self, name: str, **labels: str) -> dict[str, Any]:
        """Wait until the alert fires with these labels. Any: JSON."""

        def found() -> list[dict[str, Any]]:
            return [
                alert
                for alert in self.prometheus.alerts()
                if alert["state"] == "firing" and ({"alertname": name} | labels).items() <= alert["labels"].items()
            ]

        return dict(until(f"{name} to fire", found)[0])

    def nothing_else_fires(self, *expected: str) -> None:
        """No alert but these, and the one of side tasks that turn too rarely for a clock that runs sixty times as fast."""
        firing = {one["labels"]["alertname"] for one in self.prometheus.alerts() if one["state"] == "firing"}
        assert firing <= {*expected, "BackfilldLoopStuck"}

    def shows(
        self, dashboard: str, title: str, *, least: float, most: float = float("inf"), run: str = "", **labels: str
    ) -> None:
        """Wait until a panel shows a value between these for these labels."""
        file = ROOT / "monitoring" / "grafana" / "dashboards" / f"{dashboard}.json"
        (panel,) = [one for one in _panels(json.loads(file.read_text(encoding="utf-8"))) if one["title"] == title]
        known = {"job": JOB, "run": run, "instance": ".+"}
        expression = re.sub(r"\$(\w+)", lambda name: known[name[1]], panel["targets"][0]["expr"])

        def drawn() -> bool:
            samples = self.prometheus.query(expression)
            return any(least <= one.value <= most and labels.items() <= one.labels.items() for one in samples)

        until(f"the panel '{title}' to show it for {labels}", drawn)


def _panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def _quick_rules(folder: Path) -> list[Path]:
    """The rules with seconds for minutes; days stay, and so do limits."""
    folder.mkdir()
    for name in RULES:
        text = (ROOT / "monitoring" / "prometheus" / name).read_text(encoding="utf-8")
        text = re.sub(r"(for: \d+)m$", r"\1s", text, flags=re.MULTILINE)
        (folder / name).write_text(re.sub(r"\[(\d+)m\]", r"[\1s]", text), encoding="utf-8")
    return [folder / name for name in RULES]


def _enqueue(watch: Watch, folder: Path, text: str) -> str:
    name = text.split()[1]
    file = folder / f"{name}.yaml"
    file.write_text(text, encoding="utf-8")
    watch.client.enqueue(file)
    return name


def test_trouble_is_told_by_explain_by_the_alert_and_by_the_panel(
    embedded_database_url: str,
    redis_url: str,
    standby: EmbeddedPostgres,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """A poisoned row, somebody who blocks DDL, a standby that falls behind, and a worker that dies."""
    with ExitStack() as stack:
        record = Record(embedded_database_url)
        stack.callback(record.connection.close)
        for statement in (
            "CREATE TABLE parts (id bigint PRIMARY KEY, code text NOT NULL, n integer)",
            "INSERT INTO parts SELECT g, CASE WHEN g = 77 THEN 'x' ELSE g::text END FROM generate_series(1, 500) g",
            "CREATE TABLE orders (id bigint PRIMARY KEY)",
            "ANALYZE",
        ):
            record.connection.execute(statement.encode())
        daemon = Daemon(
            embedded_database_url,
            redis_url,
            tmp_path / "daemon.log",
            processes=1,
            variables={"BACKFILLD_LIMITS__REPLICA_LAG_SECONDS": json.dumps(LAG)},
        )
        stack.callback(daemon.stop)
        daemon.ready()
        prometheus = stack.enter_context(
            Prometheus(
                tmp_path / "prometheus",
                jobs={JOB: [f"127.0.0.1:{daemon.port}"]},
                interval_seconds=SCRAPE_SECONDS,
                rule_files=_quick_rules(tmp_path / "rules"),
            )
        )
        watch = Watch(Client(embedded_database_url, redis_url, actor="test"), record, prometheus, daemon.port)

        _a_poisoned_row(watch, tmp_path)
        run = _a_blocker(watch, tmp_path, stack, embedded_database_url)
        _a_standby_that_falls_behind(watch, run, standby)
        _a_dead_worker(watch, run, daemon)


def _a_poisoned_row(watch: Watch, folder: Path) -> None:
    run = _enqueue(watch, folder, POISON)

    watch.explained(run, "1 row is quarantined", f"backfilld quarantine list {run}")
    assert watch.fires("BackfilldQuarantineNearLimit", run=run)["labels"]["severity"] == "warning"
    watch.shows("run", "How close is it to its limit of quarantined rows?", least=1, run=run)


def _a_blocker(watch: Watch, folder: Path, stack: ExitStack, url: str) -> str:
    blocker = stack.enter_context(psycopg.connect(url, application_name="report"))
    blocker.execute("SELECT FROM orders")
    run = _enqueue(watch, folder, BLOCKED)

    told = watch.explained(run, "the lock on orders", "report", f"pg_terminate_backend({blocker.info.backend_pid})")
    assert told.cause == "lock"
    # An hour ago: between two looks nobody holds the lane.
    watch.record.connection.execute(
        "UPDATE backfilld.lanes SET lock_wait = jsonb_set(lock_wait, '{since}', "
        "to_jsonb((lock_wait ->> 'since')::float8 - 3600)) WHERE lane = 0 AND lock_wait IS NOT NULL"
    )
    alert = watch.fires("BackfilldRunBlocked", run=run)
    assert alert["annotations"]["runbook_url"].endswith("backfilld-run-blocked.md")
    # The first run has paused itself by now: all that is left of it is its poisoned row.
    quarantine = ("BackfilldQuarantineNearLimit", "BackfilldQuarantineGrowing", "BackfilldRunPaused")
    watch.fires("BackfilldRunPaused", run="parts-number", **{"class": "quarantine"})
    watch.nothing_else_fires("BackfilldRunBlocked", *quarantine, "BackfilldResidualRowsFound")
    watch.shows("run", "What holds it?", least=3600, run=run, cause="lock")
    return run


def _a_standby_that_falls_behind(watch: Watch, run: str, standby: EmbeddedPostgres) -> None:
    with psycopg.connect(standby.url(), autocommit=True) as replica:
        replica.execute("SELECT pg_wal_replay_pause()")
        try:
            # The canary of the governor writes, and that is not replayed.
            told = watch.explained(run, "replica lag", "once it is below 1.5", "pg_stat_replication")
            assert told.cause == "load"
            watch.fires("BackfilldReplicaLag", job=JOB)
            watch.shows("governor", "What holds all work now?", least=0.1, reason="replica_lag_seconds")
        finally:
            replica.execute("SELECT pg_wal_replay_resume()")
    until("the hold to end", lambda: watch.record.one("SELECT hold_reason IS NULL FROM backfilld.pace"))


def _a_dead_worker(watch: Watch, run: str, daemon: Daemon) -> None:
    watch.prometheus.scraped()
    daemon.stop(signal.SIGKILL)
    until("its children to end", lambda: not daemon.children("lanes") and not daemon.children("control"))
    # It was a minute ago.
    watch.record.connection.execute("UPDATE backfilld.pace SET sampled_at = sampled_at - interval '1 minute'")

    told = watch.explained(run, "no load reading", "backfilld worker")
    assert told.cause == "blind"
    assert watch.fires("BackfilldNoWorker", job=JOB)["labels"]["severity"] == "page"
    watch.shows("fleet", "Is every host there?", least=0, most=0, instance=f"127.0.0.1:{watch.port}")
