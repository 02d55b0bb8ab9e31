"""What only the parent of a worker's processes knows: its children, and what waits in Redis."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from backfilld.migrations.errors import Unreachable
from backfilld.migrations.wire.broker import queue_lengths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from backfilld.migrations.wire.broker import BrokerRedis


class Process(Protocol):
    """A child, as far as it is counted here."""

    @property
    def name(self) -> str: ...

    @property
    def alive(self) -> bool: ...

    @property
    def restarts(self) -> int: ...


def version() -> str:
    """Of this program."""
    try:
        return metadata.version("backfilld")
    except metadata.PackageNotFoundError:
        return "from a source tree"


class HostCollector(Collector):
    """Looks at the children and asks Redis, at each scrape."""

    def __init__(self, children: Sequence[Process], client: BrokerRedis) -> None:
        self._children = children
        self._client = client

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("backfilld_build_info", "1.", labels=["version"])
        build.add_metric([version()], 1)
        up = GaugeMetricFamily(
            "backfilld_child_up", "1 when a process of the worker runs and has shown it lately.", labels=["child"]
        )
        restarts = CounterMetricFamily("backfilld_child_restarts", "How often it was replaced.", labels=["child"])
        for child in self._children:
            up.add_metric([child.name], float(child.alive))
            restarts.add_metric([child.name], child.restarts)
        yield from (build, up, restarts)
        yield from self._of_redis()

    def _of_redis(self) -> Iterator[Metric]:
        try:
            lengths = queue_lengths(self._client)
        except Unreachable:
            lengths = {}
        yield GaugeMetricFamily("backfilld_redis_up", "1 when Redis answered.", value=float(bool(lengths)))
        queues = GaugeMetricFamily(
            "backfilld_queue_messages", "Messages that wait in Redis; every host sees the same.", labels=["queue"]
        )
        for queue, messages in lengths.items():
            queues.add_metric([queue], messages)
        yield queues
