"""Alert and recording rules: promtool runs their cases, and each alert has what the person it tells will need."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from fix_daemon import Daemon, backfilld, until
from fix_prometheus import Prometheus, program
from paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from fix_daemon import Record

PROMETHEUS = ROOT / "monitoring" / "prometheus"
RULE_FILES = [PROMETHEUS / "recording.yaml", PROMETHEUS / "alerts.yaml"]
CASES = sorted(PROMETHEUS.glob("tests/*.yaml"))
SEVERITIES = {"page", "warning", "info"}
#: Every host sees the same queue; the other metrics of a host are its own.
SHARED = {"backfilld_queue_messages"}
#: Asked whether it is more than 0, which a restart answers as well.
COMPARED = {"backfilld_loop_ticks_total"}


class Documented(NamedTuple):
    """A metric as docs/reference/metrics.md has it."""

    kind: str
    from_record: bool


class Use(NamedTuple):
    """A metric in an expression, with what it stands in, the outermost first: `max by job,run`, `rate`."""

    metric: str
    inside: list[str]


@functools.cache
def _yaml(path: Path) -> Any:
    """Any: YAML."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    """All rules. Any: YAML."""
    return [rule for path in RULE_FILES for group in _yaml(path)["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"]: rule for rule in rules() if "record" in rule}


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def documented() -> dict[str, Documented]:
    """The metrics of the reference page, by the name that is queried."""
    found: dict[str, Documented] = {}
    section = ""
    for line in (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line
        if row := re.match(r"\| `(backfilld_\w+)` \| (\w+) \|", line):
            found[row[1]] = Documented(row[2], from_record="from the record" in section)
    return found


def uses(expression: str) -> list[Use]:
    """Each metric of an expression, and the functions and aggregations around it."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\b(on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    bare = re.sub(
        r"\b(sum|avg|min|max|count|group)\s+(by|without)\s*\(([^)]*)\)",
        lambda m: f"{m[1]}@{m[2]}@{m[3].replace(' ', '')}",
        bare,
    )
    stack: list[str] = []
    found: list[Use] = []
    word = ""
    for piece in re.findall(r"[a-zA-Z_:][\w:@,]*|\{[^}]*\}|[()]|\S", bare):
        if piece == "(":
            stack.append(word.replace("@", " "))
        elif piece == ")":
            stack.pop()
        elif re.fullmatch(r"[\w:]*backfilld_[\w:]*|up", piece):
            found.append(Use(piece, [name for name in stack if name]))
        word = piece if re.fullmatch(r"[a-z_]\w*(@[\w@,]*)?", piece) else ""
    return found


# --- promtool ------------------------------------------------------------------------------------------------------------


def _promtool(*arguments: str | Path) -> None:
    answer = subprocess.run(
        [program("promtool"), *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_rules_are_valid() -> None:
    _promtool("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)


def test_the_configuration_is_valid_and_names_both_files() -> None:
    _promtool("check", "config", "--lint=all", "--lint-fatal", PROMETHEUS / "prometheus.yml")
    named = [PROMETHEUS / name for name in _yaml(PROMETHEUS / "prometheus.yml")["rule_files"]]

    assert named == RULE_FILES


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_cases(path: Path) -> None:
    """Each fires when it is to, with these labels and texts, and not in the case beside it."""
    _promtool("test", "rules", path)


# --- what each alert must have -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_what_a_person_needs(name: str) -> None:
    rule = ALERTS[name]
    annotations = rule["annotations"]
    page = ROOT / annotations["runbook_url"]

    assert rule["labels"]["severity"] in SEVERITIES
    assert "for" in rule
    assert set(annotations) == {"summary", "description", "runbook_url", "dashboard"}
    assert len(annotations["summary"]) <= 120
    assert len(annotations["description"]) > len(annotations["summary"])
    assert page == ROOT / "docs" / "runbooks" / f"{_kebab(name)}.md"
    assert page.read_text(encoding="utf-8").startswith(f"# {name}\n")


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_leads_to_a_dashboard_that_is_there(name: str) -> None:
    link = urlsplit(ALERTS[name]["annotations"]["dashboard"])
    boards = {
        board["uid"]: board for path in ROOT.glob("monitoring/grafana/dashboards/*.json") if (board := _json(path))
    }
    variables = {f"var-{one['name']}" for one in boards[link.path.removeprefix("/d/")]["templating"]["list"]}

    assert set(parse_qs(link.query)) <= variables


def _json(path: Path) -> Any:
    """Any: JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_case_that_fires_and_one_that_does_not(name: str) -> None:
    cases = [
        case
        for path in CASES
        for group in _yaml(path)["tests"]
        for case in group.get("alert_rule_test", [])
        if case["alertname"] == name
    ]
    fires = [alert for case in cases for alert in case["exp_alerts"]]

    assert fires
    assert all(set(alert["exp_annotations"]) == set(ALERTS[name]["annotations"]) for alert in fires)
    assert any(not case["exp_alerts"] for case in cases)


def test_every_recording_rule_has_a_case() -> None:
    tested = " ".join(
        str(case["expr"])
        for path in CASES
        for group in _yaml(path)["tests"]
        for case in group.get("promql_expr_test", [])
    )

    assert {name for name in RECORDED if name not in tested} == set()


def test_every_page_of_the_runbooks_is_an_alerts_and_ends_in_commands() -> None:
    pages = sorted((ROOT / "docs" / "runbooks").glob("*.md"))

    assert {page.stem for page in pages} == {_kebab(name) for name in ALERTS}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        last = text[text.rindex("```bash\n") :]
        assert text.rstrip().endswith("```"), page.name
        assert "\nbackfilld " in last, page.name


def test_the_table_of_alerts_is_complete() -> None:
    """docs/alerts.md has each alert once, with its severity and its page."""
    text = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(Backfilld\w+)\]\(runbooks/([\w-]+)\.md\) \| (\w+) \|", text, re.MULTILINE)

    assert sorted(rows) == sorted((name, _kebab(name), rule["labels"]["severity"]) for name, rule in ALERTS.items())


# --- what the expressions ask for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ALERTS, *RECORDED])
def test_an_expression_asks_for_what_there_is(name: str) -> None:
    """Each metric is in the reference; what is recorded is recorded; and the record is never added up over hosts."""
    known = documented()
    found = uses((ALERTS | RECORDED)[name]["expr"])

    assert found
    for metric, inside in found:
        if metric == "up" or metric in RECORDED:
            continue
        served = metric if metric in known else re.sub(r"_(bucket|sum|count)$", "", metric)
        assert served in known, metric
        _check_adding_up(metric, known[served], inside)


def _check_adding_up(metric: str, known: Documented, inside: list[str]) -> None:
    aggregations = [name for name in inside if " " in name]
    over_hosts = [name for name in aggregations if name.startswith(("sum", "avg", "count")) and "instance" not in name]
    if known.from_record or metric in SHARED:
        # A sum within a host, as over the states of runs, is one: the maximum over hosts comes after it.
        assert [name for name in over_hosts if not name.startswith("sum without state")] == [], metric
        assert aggregations, f"{metric} would be told once for each host"
        assert aggregations[0].startswith("max"), metric
        return
    if aggregations and "instance" not in aggregations[0]:
        assert aggregations[0].startswith("sum"), metric
    if known.kind in {"counter", "histogram"} and metric not in COMPARED:
        assert {"rate", "increase"} & set(inside), f"{metric} begins at 0 again when a worker restarts"


def test_what_an_expression_asks_for_is_understood() -> None:
    """The reading above is of ours, and is tried here."""
    assert uses('max by (job, run) (sum without (state) (a_backfilld_x{y="backfilld_z"})) and on (job) up == 1') == [
        Use("a_backfilld_x", ["max by job,run", "sum without state"]),
        Use("up", []),
    ]
    assert uses("histogram_quantile(0.9, sum by (le) (rate(backfilld_b_bucket[5m])))") == [
        Use("backfilld_b_bucket", ["histogram_quantile", "sum by le", "rate"])
    ]


# --- a real run ------------------------------------------------------------------------------------------------------------

#: Absent as long as nothing is the matter: docs/reference/metrics.md
ABSENT_WHEN_WELL = {"backfilld_hold_info", "backfilld_run_error_info"}
#: And where nobody takes backups, or has cut a table into partitions.
ABSENT_HERE = {
    "backfilld_backup_age_seconds",
    "backfilld_backup_proved_age_seconds",
    "backfilld_backup_scheduled_age_seconds",
    "backfilld_default_partition_rows_found",
    "backfilld_partitions_ahead",
}


def test_a_run_that_is_well_raises_no_alert(database_url: str, redis_url: str, record: Record, tmp_path: Path) -> None:
    """And every metric that an expression asks for is there, with the labels it asks for."""
    record.connection.execute((ROOT / "examples" / "schema.sql").read_bytes())
    daemon = Daemon(database_url, redis_url, tmp_path / "daemon.log", processes=1).ready()
    try:
        with Prometheus(
            tmp_path / "prometheus", jobs={"backfilld": [f"127.0.0.1:{daemon.port}"]}, rule_files=RULE_FILES
        ) as prometheus:
            example = ["enqueue", str(ROOT / "examples" / "jobs_new_field.yaml"), "--wait"]
            assert backfilld(*example, database_url=database_url, redis_url=redis_url).returncode == 0
            assert record.state("jobs-new-field") == "waiting"
            prometheus.scraped()

            asked = {use.metric for rule in rules() for use in uses(rule["expr"])} - set(RECORDED)
            asked -= ABSENT_WHEN_WELL | ABSENT_HERE
            # Over a minute: on a busy machine a scrape fails for want of time, and every series has ended until the next.
            assert {metric for metric in asked if not prometheus.query(f"last_over_time({metric}[1m])")} == set()
            active = "job:backfilld_runs_active:max"
            until(
                "the rules to say that no run is active", lambda: [one.value for one in prometheus.query(active)] == [0]
            )
            # One began to wait before the first scrape: that nothing is scraped.
            until("no alert to be pending or to fire", lambda: prometheus.alerts() == [])
    finally:
        daemon.stop()
