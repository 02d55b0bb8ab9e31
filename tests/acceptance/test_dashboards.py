"""Every query of the dashboards, asked of a real Prometheus that scrapes a real daemon with real runs.

One scene for all tests, `fix_scene`: each query must have had something to show at some moment of it, and what it showed must
agree with the record.
"""

from __future__ import annotations

import http.client
import math
import re
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from fix_grafana import DASHBOARDS, panels
from fix_prometheus import QueryRefused
from fix_scene import ALONE, FILES, JOB, MARK_SECONDS, NOT_NUMBERS, PEOPLE, SCRAPE_SECONDS, SIGNAL
from paths import ROOT

if TYPE_CHECKING:
    from fix_scene import Scene

#: The page says which metrics come from the record, and which from a host. Whether it can be read is each host's own.
REFERENCE = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
OF_THE_RECORD = set(re.findall(r"(?m)^\| `(\w+)`", REFERENCE.partition("## A worker host")[0])) - {
    "backfilld_database_up"
}


#: What the scene has none of: backups, a file that checks its application, and a rebuild. That they are served: test_record.py,
#: test_application_check.py and test_partitions.py.
NOT_IN_THE_SCENE = (
    *("backfilld_backup_", "backfilld_application_findings"),
    *("backfilld_run_behind_", "backfilld_partitions_", "backfilld_default_partition_"),
)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_had_something_to_show(scene: Scene, name: str) -> None:
    wrong = []
    for panel in panels(DASHBOARDS[name]):
        for target in panel["targets"]:
            try:
                # The one at work, the one that paused itself, which alone has an error, and the one that loads a file.
                runs = ("people-name", "numbers", "parts-catalogue")
                series = next((found for run in runs if (found := scene.series(target["expr"], run=run))), [])
            except QueryRefused as error:
                wrong.append(f"{panel['title']} ({target['refId']}): {error}")
                continue
            is_in_the_scene = not any(metric in target["expr"] for metric in NOT_IN_THE_SCENE)
            if is_in_the_scene and all(math.isnan(value) for one in series for _, value in one.points):
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
    # Several scrapes in each step, as the queries ask for: see `Mark` in monitoring/grafana/layout.py.
    marked = {
        annotation["name"]: scene.series(annotation["expr"], step_seconds=MARK_SECONDS)
        for annotation in DASHBOARDS[name]["annotations"]["list"]
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

    (stands,) = scene.show("run", "What are its phase and state?")
    assert (stands.labels["phase"], stands.labels["state"]) == (run["phase"], run["state"]) == ("contract", "waiting")
    since = scene.record.one("SELECT extract(epoch FROM state_since) FROM backfilld.runs WHERE run = %s", run["run"])
    assert stands.value == pytest.approx(scene.moments["rest"] - float(since), abs=2)
    assert scene.value("run", "How far is it?") == 1
    assert scene.value("run", "Is the data proved?") == 1
    assert scene.value("run", "How many rows did the last verification find?") == run["residual_rows"] == 0
    assert scene.value("run", "How many rows are left?", query=0) == run["rows_total"] == PEOPLE
    assert scene.value("run", "How many rows are left?", query=1) == 0
    assert scene.value("run", "What holds it?", cause="approval") == pytest.approx(stands.value, abs=2)


def test_the_table_of_runs_says_what_the_record_says(scene: Scene) -> None:
    title = "What are the phase and state of each run?"
    stands = {sample.labels["run"]: sample.labels for sample in scene.show("runs", title)}
    assert set(stands) == {"people-name", "numbers", "parts-catalogue"}
    for name, labels in stands.items():
        run = scene.record.run(name)
        assert (labels["phase"], labels["state"]) == (run["phase"], run["state"])
        set_aside = scene.record.one("SELECT count(*) FROM backfilld.quarantine WHERE run = %s", run["run"])
        assert scene.value("runs", title, query=5, run=name) == set_aside == (NOT_NUMBERS if name == "numbers" else 0)
    assert scene.value("runs", "How many rows are quarantined?") == NOT_NUMBERS
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
    pace, at = scene.held_pace, "held"
    assert scene.value("governor", "How many lanes could work, and how many did?", at=at, query=0) == pace["width"]
    assert scene.value("governor", "How many lanes could work, and how many did?", at=at, query=1) == pace["max_width"]
    table = "Where is each signal between its limits?"
    signals = pace["readings"]
    assert {sample.labels["signal"] for sample in scene.show("governor", table, at=at)} == set(signals)
    for signal, reading in signals.items():
        assert scene.value("governor", table, at=at, query=1, signal=signal) == reading["soft"]
        assert scene.value("governor", table, at=at, query=2, signal=signal) == reading["hard"]
    assert scene.value("governor", table, at=at, query=0, signal="rush") == 1000


def test_a_hold_by_load_is_seen_where_it_is_looked_for(scene: Scene) -> None:
    (held,) = scene.show("governor", "What holds all work now?", at="held")
    assert held.labels["reason"] == "rush"
    table = "Where is each signal between its limits?"
    assert scene.value("governor", table, at="held", query=3, signal="rush") == 1
    assert scene.value("governor", table, at="slowed", query=3, signal="rush") == pytest.approx(40 / 90)
    assert scene.value("run", "What holds it?", at="held", cause="load") >= 0
    assert scene.value("runs", "What holds the runs?", at="held", cause="load") >= 0
    assert scene.value("runs", "Is all work held?", at="held", query=1) > 0
    assert not scene.show("governor", "What holds all work now?", at="slowed")


def test_a_signal_that_cannot_be_read_is_counted_and_named(scene: Scene) -> None:
    assert scene.value("governor", "How many signals cannot be read?", at="unreadable") == 1
    table = "Where is each signal between its limits?"
    assert scene.value("governor", table, at="unreadable", query=4, signal="rush") == 0
    assert "rush" not in {sample.labels["signal"] for sample in scene.show("governor", table, at="unreadable")}
    assert scene.value("governor", "How many signals cannot be read?") == 0


def test_a_pause_and_the_stop_of_all_are_seen(scene: Scene) -> None:
    waiting = {
        s.labels["run"]: s.labels["state"] for s in scene.show("runs", "Which runs wait for a person?", at="paused")
    }
    assert waiting["people-name"] == "paused"
    assert scene.value("runs", "Is all work held?", at="stopped", query=0) > 0
    assert scene.value("governor", "Did a person stop all runs?", at="stopped") > 0
    assert scene.value("governor", "Did a person stop all runs?") == 0
    # Measured when the pause was seen to be in effect, on record a moment before.
    assert 0 < scene.value("fleet", "How soon does a wish take effect?") < 30


def test_a_second_host_changes_no_number_of_the_record(scene: Scene) -> None:
    """Every host serves the same record, so a panel about it shows with two hosts what it shows with one.

    Rates are not compared: those of two hosts differ by when they were scraped. tests/unit/monitoring/test_grafana.py compares them.
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
    scene.prometheus.scraped()
    assert {(one["health"], one["lastError"]) for one in scene.prometheus.targets()} == {("up", "")}
    # As Prometheus asks for it, but for what it would take instead.
    with closing(http.client.HTTPConnection("127.0.0.1", scene.daemon.port, timeout=10)) as connection:
        connection.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
        answer = connection.getresponse()
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert answer.read().endswith(b"# EOF\n")
    assert all(sample.value for sample in scene.prometheus.query("max_over_time(scrape_samples_scraped[1m])"))


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
