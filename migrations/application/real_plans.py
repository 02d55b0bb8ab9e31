"""How the application's statements are planned on the real tables at this moment, and what running those that read takes."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors

from backfilld.migrations.application.binding import bind, find_way
from backfilld.migrations.application.corpus import leave_no_trace
from backfilld.migrations.application.personas import nobody, take_role
from backfilld.migrations.application.plans import Planned
from backfilld.migrations.application.values import may_run, values
from backfilld.migrations.postgres.connect import apply_settings
from backfilld.migrations.postgres.sqlstates import in_words, server_is_gone

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.application.binding import Bound
    from backfilld.migrations.application.corpus import Statement
    from backfilld.migrations.application.paths import Paths
    from backfilld.migrations.application.personas import Whose
    from backfilld.migrations.application.usable import Plan
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.policies import Persona

#: A statement holds what it reads for as long as planning takes, and no longer.
_SETTINGS = {
    "plan_cache_mode": "force_generic_plan",
    "max_parallel_workers_per_gather": "0",
    "row_security": "on",
    "lock_timeout": "50ms",
    "statement_timeout": "2s",
}
_TIMEOUT_MILLISECONDS = 2000.0
#: What is in the way and not the statement's own: a lock of somebody else, and on a replica what it replays.
_BUSY = (errors.LockNotAvailable, errors.SerializationFailure, errors.DeadlockDetected, errors.QueryCanceled)
#: So often is tried what was in the way.
_TRIES = 3
_FOREIGN = "it is not planned: a function or a view in it belongs to a role with fewer rights, and would run with ours"
#: In all, of one check.
RUN_SECONDS = 30.0
#: Of one statement the median of so many runs is kept.
_TIMES = 5


def plans_of(connection: Connection, statements: Sequence[Statement], paths: Paths) -> dict[str, Plan]:
    """The plan of each statement by its text; none for a statement that cannot be planned. Raises only for the loss of the connection."""
    found: dict[str, Plan] = {}
    for path, several in paths.grouped(statements).items():
        with connection.transaction(force_rollback=True):
            leave_no_trace(connection)
            apply_settings(connection, {**_SETTINGS, "search_path": path})
            for one in several:
                try:
                    plan = find_way(connection, one.text, plans=paths.may_plan(one))[1].plan
                except psycopg.Error as exc:
                    if server_is_gone(exc):
                        raise
                    continue
                if plan is not None:
                    found[one.text] = plan
    return found


class Budget:
    """How long statements may be run in one check, in seconds; what comes later is planned and not run."""

    def __init__(self, seconds: float = RUN_SECONDS) -> None:
        self._until = time.monotonic() + seconds

    @property
    def is_left(self) -> bool:
        return time.monotonic() < self._until


def measure(
    connection: Connection, statement: Statement, paths: Paths, budget: Budget, *, whose: Whose = nobody
) -> Planned:
    """Plan a statement, and run it where it only reads and values for its parameters are known, in a transaction that cannot write.

    As the persona that is chosen by its plan, where there is one. Raises only for the loss of the connection.
    """
    for _ in range(_TRIES):
        try:
            return _measure(connection, statement, paths, budget, whose)
        except _BUSY as exc:
            because = in_words(exc)
    return Planned(error=because, is_busy=True)


def _measure(connection: Connection, statement: Statement, paths: Paths, budget: Budget, whose: Whose) -> Planned:
    persona: Persona | None = None
    path = paths.of(statement)
    try:
        with _reading(connection, path):
            way, bound = find_way(connection, statement.text, plans=paths.may_plan(statement))
        if bound.plan is None:
            return Planned(error=_FOREIGN)
        persona = whose(bound.plan)
        if persona is not None:
            with _reading(connection, path, persona):
                bound = bind(connection, statement.text, way)
        runs = budget.is_left and may_run(statement.text) and bound.plan is not None
        given = values(connection, statement.text, bound.plan, len(bound.types)) if runs and bound.plan else None
    except _BUSY:
        raise
    except psycopg.Error as exc:
        if server_is_gone(exc):
            raise
        return Planned(error=in_words(exc), persona=persona.name if persona is not None else "")
    if given is None:
        return _planned(bound, persona)
    try:
        with _reading(connection, path, persona):
            return _planned(bind(connection, statement.text, way, values=given, times=_TIMES), persona)
    except psycopg.Error as exc:
        if server_is_gone(exc):
            raise
        # It writes after all, it took too long, or a value was not one for it: its plan is known all the same.
        is_late = isinstance(exc, errors.QueryCanceled)
        return replace(_planned(bound, persona), longer_than_milliseconds=_TIMEOUT_MILLISECONDS if is_late else None)


@contextmanager
def _reading(connection: Connection, path: str, persona: Persona | None = None) -> Iterator[None]:
    """A transaction that cannot write, and leaves nothing behind."""
    with connection.transaction(force_rollback=True):
        leave_no_trace(connection)
        apply_settings(connection, {**_SETTINGS, "search_path": path, "transaction_read_only": "on"})
        if persona is not None:
            take_role(connection, persona, path=path)
        yield


def _planned(bound: Bound, persona: Persona | None) -> Planned:
    plan = bound.run[-1] if bound.run else bound.plan
    if plan is None:
        return Planned(error=_FOREIGN)
    return Planned(
        persona=persona.name if persona is not None else "",
        shape=plan.shape,
        indexes=plan.indexes,
        by_index=tuple(sorted(f"{schema}.{name}" for schema, name in plan.by_index)),
        scanned=tuple(sorted(f"{schema}.{name}" for schema, name in plan.scanned)),
        cost=plan.cost,
        buffers=round(median(one.buffers or 0 for one in bound.run)) if bound.run else None,
        milliseconds=round(median(one.milliseconds or 0.0 for one in bound.run), 3) if bound.run else None,
    )
