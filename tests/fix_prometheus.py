"""A real Prometheus for the tests of dashboards and alerts: a server on a loopback port, with a folder of its own.

`program` finds what `make prometheus` unpacked, and what the machine has on its PATH. A test of promtool or amtool asks it
for those as well. `Prometheus` is a server that scrapes what it is told to and answers queries.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest
from fix_daemon import until
from fix_postgres import missing_service

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

#: Where `make prometheus` puts the programs: in the environment of this checkout, or the one that runs the tests.
UNPACKED = (Path(__file__).parents[1] / ".venv" / "prometheus" / "bin", Path(sys.prefix) / "prometheus" / "bin")
#: Debian says `prometheus-alertmanager`, everybody else says `alertmanager`.
ALIASES = {"alertmanager": "prometheus-alertmanager", "prometheus-alertmanager": "alertmanager"}
#: One answer of a server that is on this machine.
ANSWER_SECONDS = 30


class QueryRefused(Exception):
    """Prometheus could not run the query; the message is its own."""


@dataclass(frozen=True)
class Sample:
    """One series at one moment."""

    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Series:
    """One series over a range: pairs of a Unix time and a value."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


def program(name: str) -> str:
    """The path of `prometheus`, `promtool`, `alertmanager` or `amtool`; the test skips, or fails in CI, without it."""
    for candidate in filter(None, [name, ALIASES.get(name)]):
        for folder in UNPACKED:
            if (folder / candidate).is_file():
                return str(folder / candidate)
        if found := shutil.which(candidate):
            return found
    return missing_service(f"{name} is not there: make prometheus")


class Prometheus:
    """A server that scrapes every `interval_seconds`. Serves from `ready()`, or the start of a `with`, until `stop()`.

    `jobs` names the addresses (`127.0.0.1:9188`) of each job. Rules are evaluated as often as is scraped.
    A scrape that takes longer than the interval has failed, so on a busy machine a second is short enough.
    It scrapes from five seconds after its start on: that is a constant of Prometheus. Start one per module.
    """

    def __init__(
        self,
        folder: Path,
        *,
        jobs: Mapping[str, Sequence[str]],
        interval_seconds: float = 0.2,
        rule_files: Sequence[Path] = (),
        alertmanager: str | None = None,
    ) -> None:
        binary = program("prometheus")
        folder.mkdir(parents=True, exist_ok=True)
        interval = f"{round(interval_seconds * 1000)}ms"
        # Any: a configuration file. JSON is YAML.
        configuration: dict[str, Any] = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": [str(path) for path in rule_files],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(targets)}]} for job, targets in jobs.items()
            ],
        }
        if alertmanager is not None:
            address = alertmanager.removeprefix("http://").rstrip("/")
            configuration["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [address]}]}]}
        (folder / "prometheus.yml").write_text(json.dumps(configuration), encoding="utf-8")
        self.log = folder / "prometheus.log"
        self._written = self.log.open("wb")
        self.process = subprocess.Popen(
            [
                binary,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                # It says in its log which port it was given.
                "--web.listen-address=127.0.0.1:0",
                "--enable-feature=exemplar-storage",
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._written,
            stderr=subprocess.STDOUT,
        )
        self._address = ""

    def __enter__(self) -> Self:
        try:
            return self.ready()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end."""
        return f"http://{self._address}"

    def ready(self) -> Self:
        """Wait until it answers queries."""
        until("Prometheus to be ready", lambda: self.process.poll() is not None or self._answers())
        if self.process.poll() is not None:
            pytest.fail(f"Prometheus has ended:\n{self.log.read_text(encoding='utf-8')}")
        return self

    def stop(self) -> None:
        """End it, and wait for that. Its files go with the folder."""
        self.process.terminate()
        try:
            self.process.wait(timeout=ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        finally:
            self._written.close()

    def query(self, expression: str, time: float | None = None) -> list[Sample]:
        """What an expression gives now, or at a Unix time. A scalar is a sample without labels.

        Raises QueryRefused when it cannot be run.
        """
        answer = self._get("query", query=expression, time=time)
        if answer["resultType"] == "scalar":
            return [Sample({}, float(answer["result"][1]))]
        return [Sample(one["metric"], float(one["value"][1])) for one in answer["result"]]

    def query_range(self, expression: str, *, start: float, end: float, step_seconds: float) -> list[Series]:
        """What an expression gives from one Unix time to another. Raises QueryRefused when it cannot be run."""
        answer = self._get("query_range", query=expression, start=start, end=end, step=step_seconds)
        return [
            Series(one["metric"], tuple((float(at), float(value)) for at, value in one["values"]))
            for one in answer["result"]
        ]

    def label_values(self, label: str, *selectors: str) -> list[str]:
        """The values of a label, of the series that were there within the last minutes and match any of the selectors."""
        return list(self._get(f"label/{quote(label)}/values", **{"match[]": selectors}))

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that are pending or firing: `labels`, `annotations`, `state`, `value`. Any: JSON."""
        return list(self._get("alerts")["alerts"])

    def exemplars(self, expression: str, *, last_seconds: float = 3600) -> list[dict[str, Any]]:
        """Exemplars of the series in an expression: `seriesLabels` and a list `exemplars`. Any: JSON."""
        now = time.time()
        return list(self._get("query_exemplars", query=expression, start=now - last_seconds, end=now + 1))

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes: `labels`, `health`, `lastError`, `scrapeUrl`. Any: JSON."""
        return list(self._get("targets", state="active")["activeTargets"])

    def scraped(self) -> Self:
        """Wait until every target was scraped from now on: what is true now can be queried afterwards.

        A scrape that failed, on a busy machine for want of time, ends every series of its target.
        """
        asked = time.time()

        def done() -> bool:
            newest = self.query("timestamp(up) and up == 1")
            return len(newest) == len(self.targets()) > 0 and all(one.value > asked for one in newest)

        until("every target to be scraped", done)
        return self

    def _get(self, path: str, **parameters: Any) -> Any:
        """The `data` of an answer. Any: JSON, and whatever urlencode takes."""
        asked = urlencode({name: value for name, value in parameters.items() if value is not None}, doseq=True)
        try:
            with urllib.request.urlopen(
                f"http://{self._address}/api/v1/{path}?{asked}", timeout=ANSWER_SECONDS
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode()
            raise QueryRefused(
                f"{json.loads(said)['error']}: {parameters}" if said.startswith("{") else said
            ) from error

    def _answers(self) -> bool:
        if not self._address:
            # `msg="Listening on" address=127.0.0.1:40123`, in whatever order this version writes it
            for line in self.log.read_text(encoding="utf-8").splitlines():
                if "Listening on" in line and (found := re.search(r"address=(127\.0\.0\.1:[1-9]\d*)", line)):
                    self._address = found[1]
        if not self._address:
            return False
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=ANSWER_SECONDS) as answer,
        ):
            return bool(answer.status == 200)
        return False
