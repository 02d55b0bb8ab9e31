"""A scene in which the runs go through whatever a panel can show, with a real Prometheus that looks on.

A row is set aside, a run is paused, load holds the work, a signal cannot be read, all runs are stopped, some end. The moments
have names, so that a test can ask what a panel showed then. Grafana does not run here: what it would do with a query, `asked` does.
"""

from __future__ import annotations

import json
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from fix_daemon import Daemon, Record, until
from fix_grafana import DASHBOARDS, panels
from fix_postgres import new_database
from fix_prometheus import Prometheus, Sample, Series, program
from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped] # xdist has no types

from backfilld import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backfilld.producers.demo.servers import EmbeddedValkey

#: The daemon under two addresses: to Prometheus they are two hosts of one database, and what they say must not be added up.
JOB = "backfilld"
#: The same with one address.
ALONE = "alone"
#: A scrape that takes longer has failed, and this machine may be busy with other tests.
SCRAPE_SECONDS = 1.0
STEP_SECONDS = 1.0
#: From one point to the next where changes are marked: a change is missed where no scrape of a step succeeds.
MARK_SECONDS = 5 * SCRAPE_SECONDS
PEOPLE, NUMBERS, NOT_NUMBERS = 60_000, 4_000, 3

#: A load signal of the operator's, which the scene turns up and down.
SIGNAL = {"name": "rush", "kind": "sql", "query": "SELECT value FROM public.rush", "soft": 10, "hard": 100}

FILES = {
    "people-name": """
        name: people-name
        operations:
          - add_column: {table: people, column: {name: shout, type: text}, backfill: "upper(name)", not_null: true}
        settings: {lanes: 2, batch_seconds: 0.05, nice: 50}
    """,
    "numbers": """
        name: numbers
        operations:
          - backfill: {table: numbers, set: {n: "v::integer"}, where: "n IS NULL"}
        settings: {max_quarantined: 100}
    """,
    "parts-legacy": """
        name: parts-legacy
        operations:
          - drop_column: {table: parts, column: legacy}
    """,
    "parts-catalogue": """
        name: parts-catalogue
        operations:
          - load: {table: catalogue, from: {file: PARTS}, key: [id]}
        settings: {approve: [switch]}
    """,
    "places-spare": """
        name: places-spare
        operations:
          - add_column: {table: places, column: {name: spare, type: text}, backfill: "lower(code)"}
        settings: {approve: [backfill]}
    """,
}


#: Files whose tests share a daemon, or a service that starts slowly.
SHARING = ("test_dashboards.py::", "test_metrics.py::", "test_s3.py::")


class Together(LoadGroupScheduling):  # type: ignore[misc] # as above
    """Tests that share a daemon go to one process, so that it is started once.

    That is what the mark `xdist_group` is for. It hangs a name on the ids of tests, which pytest 9.2 does not look at any more.
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((file for file in SHARING if file in nodeid), None) or str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Together | None:
    """The project's own way of sharing out, unless somebody asked for another."""
    return Together(config, log) if config.getvalue("dist") == "loadgroup" else None


@dataclass
class Scene:
    """What happened, when, and whom to ask about it."""

    daemon: Daemon
    prometheus: Prometheus
    record: Record
    client: Client
    folder: Path
    addresses: list[str]
    began: float = field(default_factory=time.time)
    #: Unix times at which something was as its name says, and had been scraped.
    moments: dict[str, float] = field(default_factory=dict)
    #: The row of the pace while load held the work, when nothing of it moves. Any: columns.
    held_pace: dict[str, Any] = field(default_factory=dict)

    def enqueue(self, name: str) -> None:
        file = self.folder / f"{name}.yaml"
        parts = self.folder / "parts.csv"
        parts.write_text("id,code\n1,new\n2,as it was\n3,inserted\nbad,line\n1,the last one\n", encoding="utf-8")
        file.write_text(FILES[name].replace("PARTS", str(parts)), encoding="utf-8")
        self.client.enqueue(file)

    def until_state(self, name: str, state: str) -> None:
        until(f"{name} to be {state}", lambda: self.record.state(name) == state)

    def rush(self, value: float, what: str, condition: str) -> None:
        """Turn the signal to a value, and wait until the governor has read it and said what follows."""
        self.record.connection.execute("UPDATE rush SET value = %s", [value])
        read = f"SELECT (readings -> 'rush' ->> 'value')::float = {value} AND {condition} FROM backfilld.pace"
        until(f"the governor: {what}", lambda: self.record.one(read))

    def mark(self, moment: str) -> None:
        """It is so now: remember when, once that has been scraped."""
        self.prometheus.scraped()
        self.moments[moment] = time.time()

    def show(self, dashboard: str, title: str, *, at: str = "rest", query: int = 0) -> list[Sample]:
        """What a panel shows at a moment: the answer to one of its queries."""
        (panel,) = [panel for panel in panels(DASHBOARDS[dashboard]) if panel["title"] == title]
        when = self.moments[at]
        expression = self.asked(panel["targets"][query]["expr"], until=when)
        return self.prometheus.query(expression, when)

    def value(self, dashboard: str, title: str, *, at: str = "rest", query: int = 0, **labels: str) -> float:
        """The one value among them that has these labels."""
        found = self.show(dashboard, title, at=at, query=query)
        (one,) = [sample for sample in found if labels.items() <= sample.labels.items()]
        return one.value

    def series(self, expression: str, *, step_seconds: float = STEP_SECONDS, run: str = "people-name") -> list[Series]:
        """What an expression gave over the whole scene."""
        # One step more: the last point of a range is the last whole step.
        end = self.moments["rest"] + step_seconds
        asked = self.asked(expression, until=end, step_seconds=step_seconds, run=run)
        return self.prometheus.query_range(asked, start=self.began, end=end, step_seconds=step_seconds)

    def at_rest(self, expression: str, job: str) -> dict[tuple[tuple[str, str], ...], float]:
        """What an expression gave at the end of the scene, by its labels but for the job."""
        end = self.moments["rest"]
        found = self.prometheus.query(self.asked(expression, until=end, job=job), end)
        return {tuple(sorted({**one.labels, "job": ""}.items())): one.value for one in found}

    def asked(
        self,
        expression: str,
        *,
        until: float,
        job: str = JOB,
        step_seconds: float = STEP_SECONDS,
        run: str = "people-name",
    ) -> str:
        """An expression as Grafana sends it: with its variables put in."""
        known = {
            "job": job,
            "run": run,
            "instance": ".+",
            "signal": SIGNAL["name"],
            "__interval": f"{round(step_seconds * 1000)}ms",
            # Grafana's rule: the step and one scrape, and four scrapes at least.
            "__rate_interval": f"{round(max(step_seconds + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS) * 1000)}ms",
            "__range": f"{round((until - self.began) * 1000)}ms",
        }
        filled = re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda found: str(known[found[1] or found[2]]), expression)
        assert "$" not in filled, filled
        return filled


@pytest.fixture(scope="module")
def scene(
    admin_url: str, template: str, valkey_process: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """Half a minute in the life of four runs."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("dashboards")
    valkey_process.start()
    valkey_process.flush()
    with ExitStack() as stack:
        url = stack.enter_context(new_database(admin_url, copy_of=template))
        record = Record(url)
        stack.callback(record.connection.close)
        make_tables(record)
        daemon = Daemon(
            url,
            valkey_process.url,
            folder / "daemon.log",
            processes=1,
            variables={"BACKFILLD_SIGNALS": json.dumps([SIGNAL])},
        )
        stack.callback(daemon.stop)
        daemon.ready()
        addresses = [f"127.0.0.1:{daemon.port}", f"localhost:{daemon.port}"]
        prometheus = stack.enter_context(
            Prometheus(
                folder / "prometheus",
                jobs={JOB: addresses, ALONE: addresses[:1]},
                interval_seconds=SCRAPE_SECONDS,
            )
        )
        client = Client(url, valkey_process.url, actor="test")
        prometheus.scraped()
        one = Scene(daemon, prometheus, record, client, folder, addresses)
        play(one)
        yield one


def make_tables(record: Record) -> None:
    for statement in (
        "CREATE TABLE rush (value float)",
        "INSERT INTO rush VALUES (NULL)",
        "CREATE TABLE people (id bigint PRIMARY KEY, name text NOT NULL)",
        f"INSERT INTO people SELECT n, 'somebody ' || n FROM generate_series(1, {PEOPLE}) n",
        "CREATE TABLE numbers (id bigint PRIMARY KEY, v text NOT NULL, n integer)",
        f"INSERT INTO numbers SELECT n, CASE WHEN n <= {NOT_NUMBERS} THEN 'many' ELSE n::text END FROM generate_series(1, {NUMBERS}) n",
        "CREATE TABLE parts (id bigint PRIMARY KEY, code text, legacy text)",
        "INSERT INTO parts SELECT n, 'P' || n, 'old ' || n FROM generate_series(1, 2000) n",
        "CREATE TABLE catalogue (id bigint PRIMARY KEY, code text)",
        "INSERT INTO catalogue VALUES (1, 'old'), (2, 'as it was')",
        "CREATE TABLE places (id bigint PRIMARY KEY, code text)",
        "INSERT INTO places SELECT n, 'P' || n FROM generate_series(1, 100) n",
        "ANALYZE",
    ):
        record.connection.execute(statement.encode())


def play(scene: Scene) -> None:
    """What the panels are about, one after the other. The run of people walks while load and a person hold it.

    Each turn of the signal comes while a run is at work: beside none the governor looks several times a minute, not every second.
    """
    client, record = scene.client, scene.record
    walked = "SELECT coalesce(sum(rows_walked), 0) FROM backfilld.lanes JOIN backfilld.runs USING (run) WHERE name = %s"

    # What could be read once counts for a while: only at the start a signal is unreadable at once.
    held = "SELECT memory ->> 'hold_signal' = 'rush' FROM backfilld.pace"
    until("the governor: hold, as a signal cannot be read", lambda: record.one(held))
    scene.mark("unreadable")
    client.pace(width=2)
    scene.enqueue("numbers")
    scene.enqueue("places-spare")
    scene.enqueue("parts-catalogue")
    scene.enqueue("parts-legacy")
    scene.enqueue("people-name")
    scene.rush(0, "go", "hold_reason IS NULL")

    # It rests for long after each batch, so whatever comes next finds it on its way.
    until("people to be walked", lambda: record.one(walked, "people-name"))
    scene.mark("walked")

    scene.rush(50, "slow down", "batch_seconds IS NOT NULL AND hold_reason IS NULL")
    scene.mark("slowed")
    scene.rush(1000, "hold", "memory ->> 'hold_signal' = 'rush'")
    scene.mark("held")
    scene.held_pace = (
        record.connection.execute("SELECT width, max_width, readings FROM backfilld.pace").fetchone() or {}
    )
    client.pause("people-name")
    scene.until_state("people-name", "paused")
    scene.mark("paused")
    client.resume("people-name")
    client.pace("people-name", nice=0)
    scene.rush(0, "go", "hold_reason IS NULL")

    scene.until_state("parts-legacy", "waiting")
    scene.mark("asked")
    client.approve("parts-legacy", "contract")
    scene.until_state("parts-legacy", "completed")
    scene.until_state("places-spare", "waiting")
    client.cancel("places-spare")
    scene.until_state("places-spare", "cancelled")

    client.pause_all()
    scene.mark("stopped")
    client.resume_all()

    scene.until_state("numbers", "paused")
    scene.until_state("people-name", "waiting")
    until("the width to have come back", lambda: record.one("SELECT width = max_width FROM backfilld.pace"))
    until("the ends of runs to be two steps ago", lambda: time.time() > scene.moments["stopped"] + 2 * MARK_SECONDS)
    scene.mark("rest")
