"""The workers of this database, as each of them says every few seconds. Nothing depends on it but answers to why nothing moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "workers")

#: How often a worker says that it is there, while nothing changes with it: an idle daemon sends two statements a second in all.
REPORT_SECONDS = 20.0
#: One that has said nothing for so long is not there: two reports, one of which a slow machine may be late with.
PRESENT_SECONDS = 2 * REPORT_SECONDS + 2.0


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker, when it was heard of last."""

    worker: str
    #: A process of it takes work.
    works: bool
    #: What keeps it, or a part of it, from working.
    problem: str | None
    transforms: tuple[str, ...]
    seen_seconds: float

    def allows(self, module: str) -> bool:
        return allows(self.transforms, module)

    @property
    def is_present(self) -> bool:
        return self.seen_seconds < PRESENT_SECONDS


def report(connection: Connection, worker: str, *, works: bool, problem: str | None, transforms: Sequence[str]) -> None:
    """Say that a worker is there, and how it is."""
    connection.execute(
        _SQL["report_worker"],
        {"worker": worker, "works": works, "problem": problem, "transforms": list(transforms)},
    )


def forget(connection: Connection, worker: str) -> None:
    """A worker has stopped. Those that died without a word go a day later."""
    connection.execute(_SQL["forget_workers"], {"worker": worker})


def listed(connection: Connection) -> list[Worker]:
    """All that are on record, the one heard of last first."""
    return [
        Worker(**{**row, "transforms": tuple(row["transforms"])})
        for row in connection.execute(_SQL["workers"]).fetchall()
    ]


def allows(transforms: Sequence[str], module: str) -> bool:
    """Whether a Python function may come from a module: a package's name allows the modules in it."""
    return any(module == one or module.startswith(f"{one}.") for one in transforms)


def nobody_works(workers: Sequence[Worker], *, read_only: bool) -> str | None:
    """Why nobody can take work, or None. Pure. A worker that cannot write cannot say that it is there."""
    if read_only:
        return "the database takes no writes (default_transaction_read_only is on, or it is a standby)"
    present = [worker for worker in workers if worker.is_present]
    if any(worker.works for worker in present):
        return None
    if present:
        return "; ".join(f"the worker {worker.worker} cannot work: {worker.problem}" for worker in present)
    if not workers:
        return "no worker is running for this database"
    last = workers[0]
    return f"no worker has reported for {last.seen_seconds:.0f} s, and the last one was {last.worker}"
