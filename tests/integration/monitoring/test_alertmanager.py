"""Alertmanager as it is shipped: who is told of an alert, and which alerts are silent while their cause is told."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import urllib.request
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from fix_daemon import until
from fix_prometheus import program
from paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

SHIPPED = ROOT / "monitoring" / "prometheus" / "alertmanager.yml"
#: What the configuration names as an example, to be replaced by an operator's own.
PLACEHOLDER = "http://127.0.0.1:5001/"
#: Where Debian's Alertmanager looks for what it writes into mails and chats.
TEXTS = Path("/usr/share/prometheus/alertmanager")
RECEIVERS = {"page": "on-call", "warning": "team", "info": "chat"}
#: Labels that tell one run, host or signal from another; each alert of the tests has all of them.
LABELS = {"run": "jobs-new-field", "instance": "a:9188", "reason": "connections", "loop": "governor"}

RULES = {
    rule["alert"]: rule
    for group in yaml.safe_load((SHIPPED.parent / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}
CONFIGURATION = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
Labels = dict[str, str]


@dataclass(frozen=True)
class Inhibition:
    """An alert that silences another, the two in the same job and with the same labels."""

    rule: int
    cause: Labels
    silent: Labels
    equal: tuple[str, ...]


def _matches(matcher: str, labels: Labels) -> bool:
    name, operator, value = re.fullmatch(r'(\w+)(=~|!=|=)"?([^"]*)"?', matcher).groups()  # type: ignore[union-attr] # another form fails here, as it should
    have = labels.get(name, "")
    if operator == "=~":
        return re.fullmatch(value, have) is not None
    return (have == value) is (operator == "=")


def _candidates(matchers: Sequence[str]) -> list[Labels]:
    """The alerts that matchers of a rule mean, each with labels that meet them."""
    wanted = dict(LABELS)
    for matcher in matchers:
        name, _, value = re.split(r"(=~|!=|=)", matcher.replace('"', ""))
        if name in wanted:
            wanted[name] = value.split("|")[0]
    found = [{**wanted, "alertname": name, "severity": rule["labels"]["severity"]} for name, rule in RULES.items()]
    return [labels for labels in found if all(_matches(matcher, labels) for matcher in matchers)]


def inhibitions() -> list[Inhibition]:
    """Every pair of a cause and an alert that it silences, by the shipped rules."""
    found = []
    for number, rule in enumerate(CONFIGURATION["inhibit_rules"]):
        for cause in _candidates(rule["source_matchers"]):
            for silent in _candidates(rule["target_matchers"]):
                # What is not named by the rule is the same on both sides; what is must meet both.
                labels = {**silent, **{name: cause[name] for name in rule["equal"] if name in LABELS}}
                found.append(Inhibition(number, cause, labels, tuple(rule["equal"])))
    return found


class Told:
    """A receiver of notifications: which alerts arrived at which path."""

    def __init__(self) -> None:
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with told._lock:
                    for alert in message["alerts"]:
                        told._arrived[(self.path.removeprefix("/"), alert["labels"]["id"])] += 1
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self._lock = threading.Lock()
        self._arrived: Counter[tuple[str, str]] = Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def of(self, identity: str) -> set[str]:
        """The receivers that were told of an alert."""
        with self._lock:
            return {path for path, told in self._arrived if told == identity}

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Alertmanager:
    """The real one, on a port of this machine, with the shipped rules and receivers and quicker groups."""

    def __init__(self, folder: Path, told: Told) -> None:
        # As docs/alerts.md says: the # is taken away, and an address is put in.
        text = re.sub(r"^( +)#: ", r"\1", SHIPPED.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert PLACEHOLDER in text
        configuration = yaml.safe_load(text.replace(PLACEHOLDER, told.url))
        for route in [configuration["route"], *configuration["route"]["routes"]]:
            route |= {"group_wait": "100ms", "group_interval": "1s"}
        configuration["route"]["group_by"] = ["..."]
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
        binary = program("alertmanager")
        self.log = folder / "alertmanager.log"
        self._written = self.log.open("wb")
        self._process = subprocess.Popen(
            [
                _at_home(Path(binary), folder),
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
                "--cluster.listen-address=",  # alone: nothing but the loopback port is opened
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._written,
            stderr=subprocess.STDOUT,
        )
        self._address = ""

    def __enter__(self) -> Self:
        try:
            until("Alertmanager to be ready", lambda: self._process.poll() is not None or self._listens())
            assert self._process.poll() is None, self.log.read_text(encoding="utf-8")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._written.close()

    def post(self, alerts: Sequence[Labels]) -> None:
        """Alerts that fire now."""
        request = urllib.request.Request(
            f"http://{self._address}/api/v2/alerts",
            data=json.dumps([{"labels": labels} for labels in alerts]).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=30).close()  # noqa: S310 - as above

    def alerts(self) -> dict[str, dict[str, Any]]:
        """What it knows, by the label `id`: `labels`, `status`, `receivers`. Any: JSON."""
        with urllib.request.urlopen(f"http://{self._address}/api/v2/alerts", timeout=30) as answer:
            return {alert["labels"]["id"]: alert for alert in json.load(answer)}

    def _listens(self) -> bool:
        # `msg="Listening on" address=127.0.0.1:40123`, in whatever order this version writes it
        for line in self.log.read_text(encoding="utf-8").splitlines():
            if "Listening on" in line and (found := re.search(r"address=(127\.0\.0\.1:[1-9]\d*)", line)):
                self._address = found[1]
        return bool(self._address)


def _at_home(binary: Path, folder: Path) -> str:
    """A binary that starts where Debian's package was unpacked and not installed.

    Debian's reads texts of notifications from a folder of the system, and ends without them. No webhook uses them. So a copy
    is told to look below its working directory, by a path that is as long.
    """
    if TEXTS.is_dir() or (code := binary.read_bytes()).find(str(TEXTS).encode()) < 0:
        return str(binary)
    copy = folder / binary.name
    copy.write_bytes(code.replace(str(TEXTS).encode(), f"{TEXTS.relative_to('/')}/".encode()))
    copy.chmod(0o755)
    texts = folder / TEXTS.relative_to("/")
    texts.mkdir(parents=True)
    for name in ("default.tmpl", "email.tmpl"):
        (texts / name).touch()
    return str(copy)


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    told = Told()
    try:
        yield told
    finally:
        told.stop()


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory, told: Told) -> Iterator[Alertmanager]:
    with Alertmanager(tmp_path_factory.mktemp("alertmanager"), told) as running:
        yield running


def _amtool(*arguments: str) -> str:
    answer = subprocess.run(
        [program("amtool"), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_the_configuration_is_valid_as_it_comes_and_tells_nobody() -> None:
    _amtool("check-config", str(SHIPPED))

    assert [receiver for receiver in CONFIGURATION["receivers"] if set(receiver) != {"name"}] == []


@pytest.mark.parametrize("name", RULES)
def test_an_alert_goes_to_the_receiver_of_its_severity(name: str) -> None:
    severity = RULES[name]["labels"]["severity"]
    said = _amtool("config", "routes", "test", f"--config.file={SHIPPED}", f"alertname={name}", f"severity={severity}")

    assert said.split() == [RECEIVERS[severity]]


def test_a_cause_is_told_and_what_follows_from_it_is_not(alertmanager: Alertmanager, told: Told) -> None:
    """Each pair of the inhibition rules: silent with its cause, told alone, and told when the cause is somebody else's."""
    # Given every cause, in a job of its own
    pairs = inhibitions()
    causes = [{**pair.cause, "job": f"job-{n}", "id": f"cause-{n}"} for n, pair in enumerate(pairs)]
    alertmanager.post(causes)
    until("all causes to be known", lambda: {one["id"] for one in causes} <= set(alertmanager.alerts()))

    # When what it silences fires beside it, alone, and beside a cause in another run, host or job
    silent = [{**pair.silent, "job": f"job-{n}", "id": f"silent-{n}"} for n, pair in enumerate(pairs)]
    alone = [{**pair.silent, "job": f"alone-{n}", "id": f"alone-{n}"} for n, pair in enumerate(pairs)]
    elsewhere = [
        {**pair.silent, "job": f"job-{n}", pair.equal[-1]: f"other-{n}", "id": f"elsewhere-{n}"}
        for n, pair in enumerate(pairs)
    ]
    alertmanager.post([*silent, *alone, *elsewhere])

    # Then all are told but those beside their own cause
    expected = {one["id"]: {RECEIVERS[one["severity"]]} for one in [*causes, *alone, *elsewhere]}
    until(
        "everything that is to be told to be told",
        lambda: all(told.of(identity) == receivers for identity, receivers in expected.items()),
    )
    # They came last, and went through the same pipeline: what was to be told of the first would have arrived.
    known = alertmanager.alerts()
    assert {one["id"] for one in silent if told.of(one["id"])} == set()
    assert {one["id"] for one in silent if known[one["id"]]["status"]["state"] != "suppressed"} == set()
    assert {pair.rule for pair in pairs} == set(range(len(CONFIGURATION["inhibit_rules"])))


@pytest.mark.parametrize(
    ("cause", "follows"),
    [
        ("BackfilldDatabaseUnreachable", set(RULES) - {"BackfilldDatabaseUnreachable"}),
        ("BackfilldNoWorker", {"BackfilldWorkerGone", "BackfilldRunStalled", "BackfilldGovernorBlind"}),
        ("BackfilldWorkerGone", {"BackfilldRunStalled", "BackfilldGovernorBlind", "BackfilldControlUnserved"}),
        ("BackfilldStopForgotten", {"BackfilldRunStalled", "BackfilldRunBlocked"}),
        ("BackfilldRunFailed", {"BackfilldQuarantineNearLimit", "BackfilldResidualRowsStay"}),
        ("BackfilldReplicaLag", {"BackfilldHeldByLoad"}),
        ("BackfilldRedisUnreachable", {"BackfilldLanesUnserved", "BackfilldMessagesLost"}),
    ],
)
def test_what_follows_from_a_cause(cause: str, follows: set[str]) -> None:
    """The pairs above are of the rules themselves; these are what was meant by them."""
    silenced = {pair.silent["alertname"] for pair in inhibitions() if pair.cause["alertname"] == cause}

    assert follows <= silenced


def test_nothing_but_a_page_silences_a_page() -> None:
    wrong = [pair for pair in inhibitions() if pair.silent["severity"] == "page" != pair.cause["severity"]]

    assert wrong == []


def test_no_two_alerts_silence_each_other() -> None:
    """Or the one that comes later takes the first one's word away."""
    pairs = {(pair.cause["alertname"], pair.silent["alertname"]) for pair in inhibitions()}

    assert {pair for pair in pairs if pair[::-1] in pairs} == set()


def test_the_table_in_the_docs_says_the_same() -> None:
    """docs/alerts.md draws the rules; `…` is everything else."""
    text = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    section = text.partition("## One cause, one person")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w[^|]*) \| ([^|]*) \| (job[^|]*) \|$", section, re.MULTILINE)
    drawn = Counter((causes, within) for causes, _, within in rows)
    short = {name.removeprefix("Backfilld"): name for name in RULES}

    assert len(rows) == len(CONFIGURATION["inhibit_rules"]) == sum(drawn.values())
    for (causes, silences, within), rule in zip(rows, CONFIGURATION["inhibit_rules"], strict=True):
        assert within.split(", ") == rule["equal"]
        assert _named(causes, short) == {one["alertname"] for one in _candidates(rule["source_matchers"])}
        if "…" not in silences:
            assert _named(silences, short) == {one["alertname"] for one in _candidates(rule["target_matchers"])}


def _named(cell: str, short: dict[str, str]) -> set[str]:
    return {short[word] for word in re.findall(r"\w+", cell) if word in short}
