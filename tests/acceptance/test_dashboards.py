"""Every query of the dashboards, asked of a real Prometheus that scrapes a real daemon with real runs.

One scene for all tests: the runs go through whatever a panel can show (a row that is set aside, a pause, a hold by load, a signal
that cannot be read, the stop of all runs, an end), and each query must have had something to show at some moment of it.
Grafana does not run here: what it would do with a query, `asked` does.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fix_daemon import Daemon, Record, until
from fix_grafana import DASHBOARDS, panels
from fix_postgres import new_database
from fix_prometheus import Prometheus, QueryRefused, Sample, Series

from producers import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from producers.embedded import EmbeddedValkey

# One worker of xdist for all: the scene is made once.
pytestmark = pytest.mark.xdist_group("dashboards")

#: The daemon under two addresses: to Prometheus they are two hosts of one database, and what they say must not be added up.
JOB = "backfilld"
#: The same with one address.
ALONE = "alone"
#: The page says which metrics come from the record, and which from a host. Whether it can be read is each host's own.
REFERENCE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
OF_THE_RECORD = set(re.findall(r"(?m)^\| `(\w+)`", REFERENCE.partition("## A worker host")[0])) - {
    "backfilld_database_up"
}
#: A scrape that takes longer has failed, and this machine may be busy with other tests.
SCRAPE_SECONDS = 1.0
STEP_SECONDS = 1.0
PEOPLE, NUMBERS, NOT_NUMBERS = 60_000, 4_000, 3

#: A load signal of the operator's, which the scene turns up and down.
SIGNAL = {"name": "rush", "kind": "sql", "query": "SELECT value FROM rush", "soft": 10, "hard": 100}

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
    "places-spare": """
        name: places-spare
        operations:
          - add_column: {table: places, column: {name: spare, type: text}, backfill: "lower(code)"}
        settings: {approve: [backfill]}
    """,
}


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

    def enqueue(self, name: str) -> None:
        file = self.folder / f"{name}.yaml"
        file.write_text(FILES[name], encoding="utf-8")
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

    def at_rest(self, expression: str, job: str) -> dict[tuple[tuple[str, str], ...], float]:
        """What an expression gave at the end of the scene, by its labels but for the job."""
        end = self.moments["rest"]
        found = self.prometheus.query(self.asked(expression, until=end, job=job), end)
        return {tuple(sorted({**one.labels, "job": ""}.items())): one.value for one in found}

    def asked(self, expression: str, *, until: float, job: str = JOB) -> str:
        """An expression as Grafana sends it: with its variables put in."""
        known = {
            "job": job,
            "run": "people-name",
            "instance": ".+",
            "signal": SIGNAL["name"],
            "__interval": f"{round(STEP_SECONDS * 1000)}ms",
            # Grafana's rule: the step and one scrape, and four scrapes at least.
            "__rate_interval": f"{round(max(STEP_SECONDS + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS) * 1000)}ms",
            "__range": f"{round((until - self.began) * 1000)}ms",
        }
        filled = re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda found: str(known[found[1] or found[2]]), expression)
        assert "$" not in filled, filled
        return filled

    def series(self, expression: str) -> list[Series]:
        """What an expression gave over the whole scene."""
        # One step more: the last point of a range is the last whole step.
        end = self.moments["rest"] + STEP_SECONDS
        asked = self.asked(expression, until=end)
        return self.prometheus.query_range(asked, start=self.began, end=end, step_seconds=STEP_SECONDS)


@pytest.fixture(scope="module")
def scene(
    admin_url: str, template: str, valkey_process: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """Half a minute in the life of four runs."""
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
        "CREATE TABLE places (id bigint PRIMARY KEY, code text)",
        "INSERT INTO places SELECT n, 'P' || n FROM generate_series(1, 100) n",
        "ANALYZE",
    ):
        record.connection.execute(statement.encode())


def play(scene: Scene) -> None:
    """What the panels are about, one after the other. The run of people walks while load and a person hold it."""
    client, record = scene.client, scene.record
    walked = "SELECT coalesce(sum(rows_walked), 0) FROM backfilld.lanes JOIN backfilld.runs USING (run) WHERE name = %s"

    # What could be read once counts for a while: only at the start a signal is unreadable at once.
    held = "SELECT memory ->> 'hold_signal' = 'rush' FROM backfilld.pace"
    until("the governor: hold, as a signal cannot be read", lambda: record.one(held))
    scene.mark("unreadable")
    scene.rush(0, "go", "hold_reason IS NULL")

    client.pace(width=2)
    scene.enqueue("numbers")
    scene.enqueue("places-spare")
    scene.enqueue("parts-legacy")
    scene.enqueue("people-name")

    # It rests for long after each batch, so whatever comes next finds it on its way.
    until("people to be walked", lambda: record.one(walked, "people-name"))
    client.pause("people-name")
    scene.until_state("people-name", "paused")
    scene.mark("paused")

    scene.rush(50, "slow down", "batch_seconds IS NOT NULL AND hold_reason IS NULL")
    scene.mark("slowed")
    scene.rush(1000, "hold", "memory ->> 'hold_signal' = 'rush'")
    client.resume("people-name")
    scene.mark("held")
    client.pace("people-name", nice=0)
    scene.rush(0, "go", "hold_reason IS NULL")

    scene.until_state("parts-legacy", "waiting")
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
    scene.mark("rest")


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_had_something_to_show(scene: Scene, name: str) -> None:
    wrong = []
    for panel in panels(DASHBOARDS[name]):
        for target in panel["targets"]:
            try:
                series = scene.series(target["expr"])
            except QueryRefused as error:
                wrong.append(f"{panel['title']} ({target['refId']}): {error}")
                continue
            if all(math.isnan(value) for one in series for _, value in one.points):
                wrong.append(f"{panel['title']} ({target['refId']}): nothing, ever: {target['expr']}")
            legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            if not all(legend <= set(one.labels) for one in series):
                wrong.append(f"{panel['title']} ({target['refId']}): no such labels: {target['legendFormat']}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_variable_offers_what_there_is(scene: Scene, name: str) -> None:
    """Runs that have ended are offered too: they were there in the time that is shown."""
    offered = {}
    for variable in DASHBOARDS[name]["templating"]["list"]:
        if variable["type"] == "query":
            query = scene.asked(variable["query"]["query"], until=scene.moments["rest"])
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
            assert asked, query
            offered[variable["name"]] = set(scene.prometheus.label_values(asked[2], asked[1]))

    assert offered.pop("job") == {JOB, ALONE}
    assert offered.pop("run", set(FILES)) == set(FILES)
    assert offered.pop("instance", set(scene.addresses)) == set(scene.addresses)
    assert SIGNAL["name"] in offered.pop("signal", {SIGNAL["name"]})
    assert not offered


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_annotation_marks_what_happened(scene: Scene, name: str) -> None:
    marked = {
        annotation["name"]: scene.series(annotation["expr"]) for annotation in DASHBOARDS[name]["annotations"]["list"]
    }

    changes = marked.pop("Changes of runs")
    standings = {(one.labels["run"], one.labels["phase"], one.labels["state"]) for one in changes}
    expected = {("people-name", "backfill", "paused"), ("people-name", "contract", "waiting")}
    if name != "run":
        expected |= {("numbers", "verify", "paused"), ("parts-legacy", "contract", "waiting")}
    assert expected <= standings
    # A change is marked once, not for as long as it lasts.
    (waits,) = [one for one in changes if one.labels["run"] == "people-name" and one.labels["state"] == "waiting"]
    assert len(waits.points) == 1

    ended = {one.labels["run"] for one in marked.pop("Ends of runs")}
    assert ended == (set() if name == "run" else {"places-spare", "parts-legacy"})
    assert {one.labels["reason"] for one in marked.pop("Holds by load", [])} <= {SIGNAL["name"]}
    assert not marked


def test_an_annotation_names_what_it_marks() -> None:
    """Labels in its texts are labels of its query."""
    for dashboard in DASHBOARDS.values():
        for annotation in dashboard["annotations"]["list"]:
            by = set(re.split(r", ?", re.findall(r"max by \(([^)]*)\)", annotation["expr"])[0]))
            used = set(re.findall(r"{{(\w+)}}", annotation["titleFormat"] + annotation["textFormat"]))
            assert used <= by, annotation["name"]


def test_the_numbers_of_a_run_are_those_of_the_record(scene: Scene) -> None:
    run = scene.record.run("people-name")
    lanes = "SELECT coalesce(sum({}), 0) FROM backfilld.lanes WHERE run = %s"

    def counted(metric: str, outcome: str) -> float:
        (one,) = scene.prometheus.query(
            f'max without (instance) ({metric}{{job="{JOB}",run="people-name",outcome="{outcome}"}})',
            scene.moments["rest"],
        )
        return one.value

    assert counted("backfilld_rows_total", "changed") == scene.record.one(lanes.format("rows_changed"), run["run"])
    assert counted("backfilld_rows_total", "changed") == PEOPLE
    assert counted("backfilld_batches_total", "committed") == scene.record.one(
        lanes.format("batches_committed"), run["run"]
    )

    (stands,) = scene.show("run", "Where does it stand?")
    assert (stands.labels["phase"], stands.labels["state"]) == (run["phase"], run["state"]) == ("contract", "waiting")
    since = scene.record.one("SELECT extract(epoch FROM state_since) FROM backfilld.runs WHERE run = %s", run["run"])
    assert stands.value == pytest.approx(scene.moments["rest"] - float(since), abs=2)
    assert scene.value("run", "How far is it?") == 1
    assert scene.value("run", "Is the data proved?") == 1
    assert scene.value("run", "How many rows did the last verification find?") == run["residual_rows"] == 0
    assert scene.value("run", "How many rows are there still to do?", query=0) == run["rows_total"] == PEOPLE
    assert scene.value("run", "How many rows are there still to do?", query=1) == 0
    assert scene.value("run", "What holds it?", cause="approval") == pytest.approx(stands.value, abs=2)


def test_the_table_of_runs_says_what_the_record_says(scene: Scene) -> None:
    title = "Where does each run stand?"
    stands = {sample.labels["run"]: sample.labels for sample in scene.show("runs", title)}
    assert set(stands) == {"people-name", "numbers"}
    for name, labels in stands.items():
        run = scene.record.run(name)
        assert (labels["phase"], labels["state"]) == (run["phase"], run["state"])
        set_aside = scene.record.one("SELECT count(*) FROM backfilld.quarantine WHERE run = %s", run["run"])
        assert scene.value("runs", title, query=5, run=name) == set_aside == (NOT_NUMBERS if name == "numbers" else 0)
    assert scene.value("runs", "How many rows are set aside?") == NOT_NUMBERS
    assert {sample.labels["run"] for sample in scene.show("runs", "Which runs wait for a person?")} == set(stands)
    assert {sample.labels["state"]: sample.value for sample in scene.show("runs", "What are the runs doing?")} == {
        state: scene.record.one("SELECT count(*) FROM backfilld.runs WHERE state = %s", state)
        for state in ("queued", "running", "waiting", "pausing", "paused", "cancelling", "rolling_back", "failed")
    }
    assert {sample.labels["state"]: sample.value for sample in scene.show("runs", "How did runs end?")} == {
        state: scene.record.one("SELECT count(*) FROM backfilld.runs WHERE state = %s", state)
        for state in ("completed", "cancelled", "rolled_back")
    }


def test_the_pace_is_that_of_the_record(scene: Scene) -> None:
    """The width moves by itself, so it is compared while the load holds it at what it is."""
    scene.rush(1000, "hold", "memory ->> 'hold_signal' = 'rush'")
    scene.mark("at the end")
    width, limit = (scene.record.one(f"SELECT {column} FROM backfilld.pace") for column in ("width", "max_width"))
    at = "at the end"
    assert scene.value("governor", "How many lanes might work, and how many did?", at=at, query=0) == width
    assert scene.value("governor", "How many lanes might work, and how many did?", at=at, query=1) == limit
    table = "How is each signal, against its limits?"
    signals = scene.record.one("SELECT readings FROM backfilld.pace")
    assert {sample.labels["signal"] for sample in scene.show("governor", table, at=at)} == set(signals)
    for signal, reading in signals.items():
        assert scene.value("governor", table, at=at, query=1, signal=signal) == reading["soft"]
        assert scene.value("governor", table, at=at, query=2, signal=signal) == reading["hard"]
    assert scene.value("governor", table, at=at, query=0, signal="rush") == 1000


def test_a_hold_by_load_is_seen_where_it_is_looked_for(scene: Scene) -> None:
    (held,) = scene.show("governor", "What holds all work now?", at="held")
    assert held.labels["reason"] == "rush"
    table = "How is each signal, against its limits?"
    assert scene.value("governor", table, at="held", query=3, signal="rush") == 1
    assert scene.value("governor", table, at="slowed", query=3, signal="rush") == pytest.approx(40 / 90)
    assert scene.value("run", "What holds it?", at="held", cause="load") >= 0
    assert scene.value("runs", "Why is nothing moving?", at="held", cause="load") >= 0
    assert scene.value("runs", "Is all work held?", at="held", query=1) > 0
    assert not scene.show("governor", "What holds all work now?", at="slowed")


def test_a_signal_that_cannot_be_read_is_counted_and_named(scene: Scene) -> None:
    assert scene.value("governor", "How many signals cannot be read?", at="unreadable") == 1
    table = "How is each signal, against its limits?"
    assert scene.value("governor", table, at="unreadable", query=4, signal="rush") == 0
    assert "rush" not in {sample.labels["signal"] for sample in scene.show("governor", table, at="unreadable")}
    assert scene.value("governor", "How many signals cannot be read?") == 0


def test_a_pause_and_the_stop_of_all_are_seen(scene: Scene) -> None:
    waiting = {
        s.labels["run"]: s.labels["state"] for s in scene.show("runs", "Which runs wait for a person?", at="paused")
    }
    assert waiting["people-name"] == "paused"
    assert scene.value("runs", "Is all work held?", at="stopped", query=0) > 0
    assert scene.value("governor", "Did a person stop everything?", at="stopped") > 0
    assert scene.value("governor", "Did a person stop everything?") == 0
    # Measured when the pause was seen to be in effect, on record a moment before.
    assert 0 < scene.value("fleet", "How soon is a wish in effect?") < 30


def test_a_second_host_changes_no_number_of_the_record(scene: Scene) -> None:
    """Every host serves the same record, so a panel about it shows with two hosts what it shows with one.

    Rates are not compared: those of two hosts differ by when they were scraped. tests/unit/test_grafana.py has them.
    """
    compared = 0
    for dashboard in DASHBOARDS.values():
        for target in (target for panel in panels(dashboard) for target in panel["targets"]):
            metrics = set(re.findall(r"backfilld_\w+", target["expr"]))
            if metrics and metrics <= OF_THE_RECORD and "rate(" not in target["expr"]:
                both, one = scene.at_rest(target["expr"], JOB), scene.at_rest(target["expr"], ALONE)
                # They were scraped a moment after one another: what counts seconds differs by as much.
                apart = 1.5 * SCRAPE_SECONDS if "seconds" in target["expr"] else 0.5
                assert both == pytest.approx(one, rel=0.01, abs=apart), target["expr"]
                compared += len(one)
    assert compared > 100


def test_prometheus_takes_the_page_as_open_metrics(scene: Scene) -> None:
    assert {(one["health"], one["lastError"]) for one in scene.prometheus.targets()} == {("up", "")}
    # As Prometheus asks for it, but for what it would take instead.
    with closing(http.client.HTTPConnection("127.0.0.1", scene.daemon.port, timeout=10)) as connection:
        connection.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
        answer = connection.getresponse()
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert answer.read().endswith(b"# EOF\n")
    assert all(sample.value for sample in scene.prometheus.query("scrape_samples_scraped"))


def test_a_slow_batch_leads_to_its_run(scene: Scene) -> None:
    """A dot on the latencies: an exemplar, with the labels by which the data source makes its link."""
    targets = [target for panel in panels(DASHBOARDS["fleet"]) for target in panel["targets"] if target.get("exemplar")]
    assert len(targets) == 2
    for target in targets:
        found = scene.prometheus.exemplars(scene.asked(target["expr"], until=scene.moments["rest"]))
        labels = [exemplar["labels"] for series in found for exemplar in series["exemplars"]]
        assert labels
        assert {one["run"] for one in labels} <= set(FILES)
        assert all(int(one["lane"]) >= 0 for one in labels)
