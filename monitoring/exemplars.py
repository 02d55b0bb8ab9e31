"""Exemplars of the batch histogram: for each bucket the run and lane of a recent batch that fell into it.

prometheus_client keeps none where the numbers of several processes are added up. So each process writes its newest to a file
beside its numbers, now and then, and the server adds them to the page. Only OpenMetrics can carry them.
"""

from __future__ import annotations

import json
import os
import threading
import time
from bisect import bisect_left
from contextlib import suppress
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample, Timestamp
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

#: Between two writings of a process; a batch costs no more than a look at the clock.
WRITE_SECONDS = 1.0
#: OpenMetrics allows 128 characters for labels and values; a name that is longer is cut.
NAME_CHARACTERS = 80
#: What is older is of no use to who looks at a panel.
FRESH_SECONDS = 900.0

_FAMILY = "backfilld_batch_seconds"


class Exemplars:
    """The newest batch of each part and bucket, of one process."""

    def __init__(self, folder: Path | None, buckets: Sequence[float]) -> None:
        """Without a folder nothing is kept."""
        self._file = folder / f"exemplars-{os.getpid()}.json" if folder is not None else None
        self._buckets = tuple(buckets)
        self._names = [str(floatToGoString(bucket)) for bucket in buckets]  # type: ignore[no-untyped-call] # prometheus_client's
        self._lock = threading.Lock()
        self._newest: dict[str, tuple[str, str, float, float]] = {}
        self._written_at = 0.0

    def keep(self, part: str, seconds: float, *, run: str, lane: int) -> None:
        """Remember a batch, and write down what is remembered when it is time."""
        if self._file is None:
            return
        number = bisect_left(self._buckets, seconds)
        bucket = self._names[number] if number < len(self._buckets) else "+Inf"
        now = time.time()
        with self._lock:
            self._newest[f"{part} {bucket}"] = (run[:NAME_CHARACTERS], str(lane), seconds, now)
            if now - self._written_at < WRITE_SECONDS:
                return
            self._written_at = now
            text = json.dumps(self._newest)
        self._write(self._file, text)

    @staticmethod
    def _write(file: Path, text: str) -> None:
        # Put in place whole: the reader is another process. A full disk must not fail a batch.
        with suppress(OSError):
            partial = file.with_suffix(f".{threading.get_ident()}")
            partial.write_text(text, encoding="utf-8")
            partial.replace(file)


class WithExemplars(Collector):
    """What a collector gives, with the exemplars that processes have left in a folder."""

    def __init__(self, collector: Collector, folder: Path) -> None:
        self._collector = collector
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        for metric in self._collector.collect():
            yield _with(metric, _read(self._folder)) if metric.name == _FAMILY else metric


def _with(metric: Metric, found: Mapping[tuple[str, str], Exemplar]) -> Metric:
    result = Metric(metric.name, metric.documentation, metric.type)
    for sample in metric.samples:
        exemplar = None
        if sample.name.endswith("_bucket"):
            exemplar = found.get((sample.labels["part"], sample.labels["le"]))
        result.samples.append(Sample(sample.name, sample.labels, sample.value, sample.timestamp, exemplar))
    return result


def _read(folder: Path) -> dict[tuple[str, str], Exemplar]:
    """The newest of all processes. A file that is being removed, or was cut short, is skipped."""
    newest: dict[tuple[str, str], tuple[str, str, float, float]] = {}
    for file in folder.glob("exemplars-*.json"):
        with suppress(OSError, ValueError):
            for key, (run, lane, seconds, at) in json.loads(file.read_text(encoding="utf-8")).items():
                part, _, bucket = key.partition(" ")
                if time.time() - at < FRESH_SECONDS and at > newest.get((part, bucket), ("", "", 0.0, 0.0))[3]:
                    newest[part, bucket] = (run, lane, seconds, at)
    return {
        key: Exemplar({"run": run, "lane": lane}, seconds, Timestamp(int(at), int(at % 1 * 1e9)))
        for key, (run, lane, seconds, at) in newest.items()
    }
