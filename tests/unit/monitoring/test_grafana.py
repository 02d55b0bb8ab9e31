"""The dashboards as files: built from the code, in Grafana's own form, each panel a question with an answer to act on.

Whether the queries find anything is tests/acceptance/test_dashboards.py's to say.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import typer.main
import yaml
from fix_grafana import DASHBOARDS, GRAFANA, panels, wrong
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import prometheus
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel
from paths import ROOT

from backfilld.monitoring.grafana import build
from backfilld.producers.cli import app

if TYPE_CHECKING:
    from pathlib import Path

#: What the data source of Prometheus reads of an annotation, beside what the SDK knows of: for what Grafana 11 does with
#: them there is no schema, only its code.
OF_PROMETHEUS = {"titleFormat", "textFormat", "tagKeys", "step"}
REFERENCE = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
OF_THE_RECORD, OF_A_HOST = (
    set(re.findall(r"(?m)^\| `(\w+)`", part)) for part in REFERENCE.partition("## A worker host")[::2]
)


def is_table(_dashboard: object, panel: object) -> bool:
    return isinstance(panel, dict) and panel["type"] == "table"


def has_overrides(_dashboard: object, panel: object) -> bool:
    return isinstance(panel, dict) and bool(panel["fieldConfig"]["overrides"])


PANELS = [
    pytest.param(dashboard, panel, id=f"{name}: {panel['title']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in panels(dashboard)
]


def expressions(dashboard: dict[str, Any]) -> list[str]:
    """Every query of a dashboard: of its panels, and of its annotations. Any: JSON."""
    of_panels = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
    return of_panels + [annotation["expr"] for annotation in dashboard["annotations"]["list"]]


def metrics(expression: str) -> set[str]:
    """The metrics of the reference in an expression; a histogram by its name, a counter as it is written there."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"backfilld_\w+", expression)}


# --- from the code -------------------------------------------------------------------------------------------------------


def test_the_files_are_what_the_code_builds(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--check"]) == 0, capsys.readouterr()


def test_a_file_that_differs_is_named_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "dashboards"
    folder.mkdir()
    monkeypatch.setattr(build, "FOLDER", folder)
    (folder / "of_old.json").write_text("{}", encoding="utf-8")
    assert build.main(["--check"]) == 1
    assert "dashboards/of_old.json" in capsys.readouterr().out.splitlines()
    assert build.main([]) == build.main(["--check"]) == 0
    assert {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")} == DASHBOARDS
    assert build.main(["--chekc"]) == 2


def test_nothing_of_the_product_needs_what_builds_them() -> None:
    packages = ("migrations", "monitoring", "worker", "producers")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py") if GRAFANA not in path.parents]
    assert files
    assert not [
        path for path in files if re.search(r"monitoring\.grafana|grafana_foundation_sdk", path.read_text("utf-8"))
    ]


# --- Grafana's form ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_as_grafana_s_schema_has_it(name: str) -> None:
    """No key that the schema does not know, and no value of another type than it says."""
    plain = json.loads(json.dumps(DASHBOARDS[name]))
    for annotation in plain["annotations"]["list"]:
        assert set(annotation) >= OF_PROMETHEUS
        for key in OF_PROMETHEUS:
            del annotation[key]

    assert not wrong(plain, Dashboard, name)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("options", "texMode"), "auto", "options.texMode: not in the schema"),
        (("fieldConfig", "defaults", "untis"), "s", "defaults.untis: not in the schema"),
        (("targets", 0, "legend"), "runs", "legend: not in the schema"),
        (("gridPos", "w"), "6", "grid_pos.w: '6' is no int"),
        (("options", "textMode"), "loud", "text_mode: 'loud' is no BigValueTextMode"),
        (("fieldConfig", "defaults", "thresholds", "mode"), "some", "mode: 'some' is no ThresholdsMode"),
        (("fieldConfig", "defaults", "thresholds", "steps", 0, "value"), "1", "value: '1' is no float"),
        (("links",), [{"titel": "x"}], "titel: not in the schema"),
        (("title",), 7, "title: 7 is no str"),
    ],
)
def test_what_is_not_in_the_schema_would_be_found(place: tuple[str | int, ...], value: object, told: str) -> None:
    panel = json.loads(json.dumps(next(panel for panel in panels(DASHBOARDS["runs"]) if panel["type"] == "stat")))
    assert not wrong(panel, Panel, "panel")
    part = panel
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    assert [line for line in wrong(panel, Panel, "panel") if told in line], wrong(panel, Panel, "panel")


@pytest.mark.parametrize(("dashboard", "panel"), [case for case in PANELS if has_overrides(*case.values)])
def test_an_override_is_a_setting_that_the_panel_has(dashboard: dict[str, Any], panel: dict[str, Any]) -> None:
    """An override may hold anything, to the schema: here each is tried as a setting of all fields. Any: JSON."""
    for override in panel["fieldConfig"]["overrides"]:
        assert override["matcher"]["id"] == "byName"
        tried = json.loads(json.dumps(panel))
        for wanted in override["properties"]:
            name = wanted["id"].removeprefix("custom.")
            defaults = tried["fieldConfig"]["defaults"]
            (defaults if name == wanted["id"] else defaults.setdefault("custom", {}))[name] = wanted["value"]
        assert not wrong(tried, Panel, panel["title"])


def test_every_target_is_a_query_of_prometheus() -> None:
    register_default_plugins()
    for dashboard in DASHBOARDS.values():
        for panel in Dashboard.from_json(dashboard).panels or []:
            for target in getattr(panel, "targets", None) or []:
                assert isinstance(target, prometheus.Dataquery)


def test_uids_titles_and_ids_are_told_apart() -> None:
    for key in ("uid", "title"):
        assert len({dashboard[key] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS) == 4
    for dashboard in DASHBOARDS.values():
        assert 8 <= len(dashboard["uid"]) <= 40
        rows = [row for row in dashboard["panels"] if row["type"] == "row"]
        ids = Counter(panel["id"] for panel in [*panels(dashboard), *rows])
        assert set(ids.values()) == {1}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_panel_lies_on_another(name: str) -> None:
    taken: Counter[tuple[int, int]] = Counter()
    rows = [row for row in DASHBOARDS[name]["panels"] if row["type"] == "row"]
    for panel in [*panels(DASHBOARDS[name]), *rows]:
        at = panel["gridPos"]
        assert 0 <= at["x"] < at["x"] + at["w"] <= 24, panel["title"]
        assert at["h"] > 0
        taken.update((at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"]))
    assert set(taken.values()) == {1}


def test_the_runs_are_seen_without_scrolling() -> None:
    """A screen of 1080 lines shows some twenty units of the grid below Grafana's own bars."""
    first_row = min(panel["gridPos"]["y"] for panel in DASHBOARDS["runs"]["panels"] if panel["type"] == "row")
    assert first_row <= 20


# --- what an operator reads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dashboard", "panel"), PANELS)
def test_a_panel_asks_and_says_what_to_do(dashboard: dict[str, Any], panel: dict[str, Any]) -> None:
    """Any: JSON."""
    assert panel["title"].endswith("?")
    assert len(panel["description"]) > 25
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert 'job="$job"' in target["expr"]
        # A table's columns have names instead. Elsewhere the name of a series would be its labels.
        assert bool(target["legendFormat"]) == (panel["type"] != "table")
    known = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval", "__range"}
    for text in [panel["title"], panel["description"], *(target["expr"] for target in panel["targets"])]:
        assert set(re.findall(r"\$(\w+)", text)) <= known


@pytest.mark.parametrize(("dashboard", "panel"), [case for case in PANELS if is_table(*case.values)])
def test_a_column_has_a_query_or_a_label_behind_it(dashboard: dict[str, Any], panel: dict[str, Any]) -> None:
    """Any: JSON."""
    renamed = panel["transformations"][1]["options"]["renameByName"]
    values = {f"Value #{target['refId']}" for target in panel["targets"]}
    assert values <= set(renamed)
    labels = set(
        re.findall(r"\w+", " ".join(re.findall(r"max by \(([^)]*)\)", " ".join(t["expr"] for t in panel["targets"]))))
    )
    assert set(renamed) - values <= labels
    assert {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]} == set(renamed.values())


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_two_panels_say_the_same(name: str) -> None:
    """The same question may be asked of this moment and of the time before it."""
    asked = Counter(
        (panel["targets"][0]["instant"], *sorted(target["expr"] for target in panel["targets"]))
        for panel in panels(DASHBOARDS[name])
    )
    titles = Counter(panel["title"] for panel in panels(DASHBOARDS[name]))
    assert {*asked.values(), *titles.values()} == {1}, (asked.most_common(1), titles.most_common(1))


def test_commands_that_are_named_exist() -> None:
    command = typer.main.get_command(app)
    assert hasattr(command, "commands")
    texts = [panel["description"] for dashboard in DASHBOARDS.values() for panel in panels(dashboard)]
    texts += [mark["textFormat"] for dashboard in DASHBOARDS.values() for mark in dashboard["annotations"]["list"]]
    named = set(re.findall(r"\bbackfilld (\w+)", " ".join(texts)))
    assert {"approve", "resume", "explain", "quarantine"} <= named <= set(command.commands)


# --- what is asked -------------------------------------------------------------------------------------------------------


def test_every_metric_is_shown_somewhere_and_none_is_made_up() -> None:
    asked = {name for dashboard in DASHBOARDS.values() for text in expressions(dashboard) for name in metrics(text)}
    assert asked == OF_THE_RECORD | OF_A_HOST


def test_what_is_on_record_is_compared_over_hosts_and_never_added_up() -> None:
    """What each host can reach is its own to say, and is asked for host by host, or for the worst of them."""
    beginning = r"(?:max (?:without \(instance\)|by \([^)]+\)) \((?:(?:rate|last_over_time|max_over_time)\()?| or )$"
    for dashboard in DASHBOARDS.values():
        for text in expressions(dashboard):
            for found in re.finditer(r"backfilld_\w+", text):
                if found[0] in OF_THE_RECORD - {"backfilld_database_up"}:
                    assert re.search(beginning, text[: found.start()]), text
                if found[0] in OF_A_HOST - {"backfilld_redis_up", "backfilld_queue_messages"} and "rate" in text:
                    assert re.search(r"sum by \([^)]+\) \((rate|increase)\($", text[: found.start()]), text


# --- what Grafana is told to load ----------------------------------------------------------------------------------------


def test_the_provisioning_names_what_is_mounted() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text("utf-8"))
    (source,) = sources["datasources"]
    assert (source["type"], source["uid"], source["url"]) == (
        "prometheus",
        "backfilld-prometheus",
        "http://prometheus:9090",
    )
    (link,) = source["jsonData"]["exemplarTraceIdDestinations"]
    # `$$` is a dollar sign to Grafana's provisioning.
    assert link["url"] == f"/d/{DASHBOARDS['run']['uid']}?var-run=$${{__value.raw}}"
    assert link["name"] == "run"

    providers = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "backfilld.yaml").read_text("utf-8"))
    (provider,) = providers["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
    assert {sources["apiVersion"], providers["apiVersion"]} == {1}


def test_dashboards_lead_to_each_other() -> None:
    for dashboard in DASHBOARDS.values():
        (link,) = dashboard["links"]
        assert link["type"] == "dashboards"
        assert set(link["tags"]) <= set(dashboard["tags"])
        assert link["includeVars"]
        assert link["keepTime"]


def test_a_run_leads_to_its_dashboard() -> None:
    run = DASHBOARDS["run"]
    known = {variable["name"] for variable in run["templating"]["list"]}
    links = re.findall(r'"url": "([^"]+)"', json.dumps(DASHBOARDS["runs"]))
    assert {url.partition("?")[0] for url in links} == {f"/d/{run['uid']}"}
    assert {url.rpartition("&")[2] for url in links} == {"var-run=${__value.raw}", "var-run=${__field.labels.run}"}
    assert {name for url in links for name in re.findall(r"var-(\w+)=", url)} <= known
    for panel in panels(DASHBOARDS["runs"]):
        if "__field.labels.run" in json.dumps(panel):
            assert all(
                "run" in target["expr"].partition("{")[0] + target["legendFormat"] for target in panel["targets"]
            )
