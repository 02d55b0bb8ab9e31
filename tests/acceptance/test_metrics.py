"""What a worker serves is what docs/reference/metrics.md says it does, and stays right across kills and hosts."""

from __future__ import annotations

import re
import urllib.request
from typing import TYPE_CHECKING

import pytest
from fix_daemon import Daemon, Record, until
from fix_postgres import new_database
from paths import ROOT
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from backfilld import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from backfilld.producers.demo.servers import EmbeddedValkey

PAGE = ROOT / "docs" / "reference" / "metrics.md"
_ROW = re.compile(r"^\| `(backfilld_\w+)` \| (\w+) \|([^|]*)\| (.*) \|$", re.MULTILINE)
ROWS = 5_000


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels of each metric on the page."""
    return {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _ in _ROW.findall(PAGE.read_text(encoding="utf-8"))
    }


def families(daemon: Daemon) -> dict[str, Metric]:
    """By the name that queries use."""
    found = text_string_to_metric_families(daemon.get("/metrics"))
    return {f"{one.name}_total" if one.type == "counter" else one.name: one for one in found}


@pytest.fixture(scope="module")
def daemon(
    admin_url: str, template: str, valkey_process: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """One for all of these tests, which fix_scene.Together keeps in one process: what they ask of it they may ask in any order."""
    valkey_process.start()
    valkey_process.flush()
    with new_database(admin_url, copy_of=template) as url:
        running = Daemon(url, valkey_process.url, tmp_path_factory.mktemp("metrics") / "daemon.log")
        try:
            yield running.ready()
        finally:
            running.stop()


@pytest.fixture(scope="module")
def enqueued(daemon: Daemon) -> str:
    """A run of which every row has been walked and one is set aside; its name."""
    record = Record(daemon.database_url)
    with record.connection as connection:
        connection.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, n text NOT NULL)")
        connection.execute(
            f"INSERT INTO jobs SELECT g, CASE WHEN g = 77 THEN 'x' ELSE g::text END FROM generate_series(1, {ROWS}) g".encode()
        )
        connection.execute("ANALYZE jobs")
        file = daemon.log.with_name("jobs.yaml")
        file.write_text(
            "name: jobs-number\noperations:\n"
            "  - add_column: {table: jobs, column: {name: number, type: bigint}, backfill: 'n::bigint'}\n"
            "settings: {lanes: 2, batch_seconds: 0.1}\n",
            encoding="utf-8",
        )
        Client(daemon.database_url, daemon.redis_url).enqueue(file)
        until("a row set aside", lambda: record.one("SELECT count(*) FROM backfilld.quarantine") == 1)
        until("the walk", lambda: record.walked() >= ROWS)
    return "jobs-number"


def test_every_metric_that_is_served_is_documented_and_the_other_way_round(enqueued: str, daemon: Daemon) -> None:
    """Names, types and labels."""
    until("a verdict", lambda: daemon.metric("backfilld_pace_age_seconds") < 60)
    served = families(daemon)
    page = documented()

    assert set(served) == set(page)
    for name, (kind, labels) in page.items():
        family = served[name]
        used = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
        assert family.type == kind, name
        assert not family.samples or used == labels, name


def test_open_metrics_is_served_with_exemplars_that_name_the_run_and_the_lane(enqueued: str, daemon: Daemon) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    request = urllib.request.Request(f"http://127.0.0.1:{daemon.port}/metrics", headers=accept)

    def exemplars() -> list[dict[str, str]]:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
            text = answer.read().decode()
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        found = open_metrics(text)  # type: ignore[no-untyped-call] # prometheus_client leaves it untyped
        batches = {family.name: family for family in found}["backfilld_batch_seconds"]
        return [sample.exemplar.labels for sample in batches.samples if sample.exemplar is not None]

    first = until("an exemplar", exemplars)[0]
    assert (first["run"], first.keys()) == (enqueued, {"run", "lane"})


def test_a_second_host_tells_the_same_of_the_record_and_a_killed_process_takes_no_count_with_it(
    enqueued: str, daemon: Daemon, tmp_path: Path
) -> None:
    """Whoever adds up over hosts what comes from the record counts double; whoever compares does not."""
    changed = f'backfilld_rows_total{{outcome="changed",run="{enqueued}"}}'
    batches = 'backfilld_batch_seconds_count{part="commit"}'
    other = Daemon(daemon.database_url, daemon.redis_url, tmp_path / "other.log", processes=1).ready()
    try:
        assert other.metric(changed) == daemon.metric(changed) == ROWS - 1
        assert other.metric("backfilld_build_info" + _labels(other, "backfilld_build_info")) == 1
    finally:
        other.stop()

    counted = daemon.metric(batches)
    daemon.kill_lanes()
    until("its successor", lambda: sum(_restarts(daemon)) >= 1 and len(daemon.children("lanes")) == 2)

    assert counted > 0
    assert daemon.metric(batches) >= counted


def _labels(daemon: Daemon, name: str) -> str:
    (found,) = re.findall(rf"^{name}(\{{.*\}}) ", daemon.get("/metrics"), re.MULTILINE)
    return str(found)


def _restarts(daemon: Daemon) -> list[float]:
    return [sample.value for sample in families(daemon)["backfilld_child_restarts_total"].samples]
