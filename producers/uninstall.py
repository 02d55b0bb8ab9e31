"""Takes backfilld out of a database: the triggers first, each by itself, then the schema with everything that it keeps.

Refused while anything in the application's tables would be left half done: a run that has not ended, or what one has left. What only
the record and the way back would lose is named, and given up with `force`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import errors, sql

from backfilld.migrations.errors import BackfilldError, Finding, Refused, UsageError
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres import catalog
from backfilld.migrations.queries import queries
from backfilld.migrations.record import runs, schema, workers
from backfilld.migrations.record.states import ENDED, State
from backfilld.monitoring.words import moment, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run

_SQL = queries(__package__, "uninstall")

#: A trigger's end locks its table: the application never waits for longer than this behind us, and it is tried again.
LOCK_TIMEOUT = "200ms"
#: For so long the end of a trigger is tried.
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Uninstalled:
    """What was taken out of a database, or would be."""

    #: False for a dry run, and where there was nothing.
    removed: bool
    tables: int = 0
    bytes: int = 0
    #: Triggers that no run accounts for, as `trigger on table`.
    triggers: tuple[str, ...] = ()
    #: What is given up: only with `force`.
    lost: tuple[Finding, ...] = ()


def uninstall(connection: Connection, *, dry_run: bool = False, force: bool = False) -> Uninstalled:
    """Drop the triggers, then the schema; a dry run only looks. Raises Refused, with everything that is in the way.

    Interrupted between two of its steps it has removed some triggers that no run needs; doing it again does the rest.
    """
    schema.check(connection)
    found = schema.version(connection)
    if not found:
        return Uninstalled(removed=False)
    if found < schema.newest():
        msg = "the database has an old schema backfilld; bring it up to date first, so that what it keeps is known: backfilld init"
        raise UsageError(msg)
    in_the_way, lost = list(_in_the_way(connection)), tuple(_lost(connection))
    if in_the_way or (lost and not force):
        raise Refused([*in_the_way, *lost])
    size_ = connection.execute(_SQL["schema"]).fetchone() or {}
    triggers = [
        (TableName(row["schema"], row["table_name"]), row["name"])
        for row in connection.execute(_SQL["triggers"]).fetchall()
    ]
    if not dry_run:
        for table, name in triggers:
            _drop_trigger(connection, table, name)
        _drop_schema(connection)
    return Uninstalled(
        removed=not dry_run,
        tables=size_["tables"],
        bytes=size_["bytes"],
        triggers=tuple(f"{name} on {table}" for table, name in triggers),
        lost=lost,
    )


def _in_the_way(connection: Connection) -> Iterator[Finding]:
    """What nobody can give up: dropping the schema would leave an application's table half changed."""
    owner = connection.execute(_SQL["schema"]).fetchone() or {}
    if not owner["owned"]:
        problem = f"the schema backfilld belongs to {owner['owner']}, and only its owner can drop it"
        yield Finding("schema_owner", problem, f"Connect as {owner['owner']}, or as a member of it")
    yield from (_open(run) for run in runs.with_something_left(connection))
    for worker in workers.listed(connection):
        if worker.is_present:
            yield Finding(
                "worker", f"the worker {worker.worker} is running", "Stop it; one that starts makes the schema anew"
            )
    for left in catalog.named_as_ours(connection):
        if left.kind != "trigger":  # these we drop ourselves
            problem = f"{left.relation} holds what a run left whose record is lost: the {left.kind} {left.name}"
            yield Finding("leftover", problem, f"If nothing needs it: {left.remedy}")


def _open(run: Run) -> Finding:
    back = f"backfilld rollback {run.name} --wait"
    problem = f"the run {run.name} (run {run.run}) is {run.state.words} in phase {run.phase}"
    match run.state:
        case State.CANCELLED:
            problem = f"the run {run.name} (run {run.run}) was cancelled, and what it added is still there"
            return Finding("cancelled_run", problem, f"Take it back: {back}")
        case State.CANCELLING:
            return Finding("open_run", problem, f"Let a worker cancel it, then take it back: {back}")
        case State.WAITING:
            approve = f"backfilld approve {run.name} --phase {run.phase}"
            return Finding("open_run", problem, f"Let it end: {approve}; or take it back: {back}")
        case _:
            return Finding("open_run", problem, f"Let it end, or take it back: {back}")


def _lost(connection: Connection) -> Iterator[Finding]:
    """What is lost with the schema, and nothing else is harmed by."""
    for kept in connection.execute(_SQL["kept"]).fetchall():
        run, bytes_ = kept["run"], kept["bytes"]
        of = runs.get(connection, run)
        if of is None or of.state not in ENDED:
            continue
        until = f" until {moment(of.kept_until)} UTC" if of.kept_until else ""
        what = (
            "what its rollback removed"
            if of.state is State.ROLLED_BACK
            else "old values, without which there is no way back"
        )
        yield Finding(
            "old_values",
            f"the run {of.name} (run {run}) keeps{until} {size(bytes_)} of {what}",
            f"Wait, or drop them: backfilld purge {of.name} --now; or give up all that is kept: backfilld uninstall --force",
        )
    for row in connection.execute(_SQL["dependents"]).fetchall():
        yield Finding(
            "dependent",
            f"the {row['what']} is not backfilld's, and would go with the schema",
            "Drop or change it; or let it go: backfilld uninstall --force",
        )


def _drop_trigger(connection: Connection, table: TableName, name: str) -> None:
    """Raises BackfilldError when its table is in use for too long; nothing is locked meanwhile."""
    drop = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(name), table.identifier)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with connection.transaction():
                connection.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
                connection.execute(drop)
        except errors.LockNotAvailable as exc:
            if time.monotonic() >= deadline:
                msg = f"the trigger {name} cannot be dropped: {table} is in use; end its long transactions, then try again"
                raise BackfilldError(msg) from exc
            time.sleep(0.5)  # not at once: those who queued behind us come first
        else:
            return


def _drop_schema(connection: Connection) -> None:
    """Raises Refused when a run was enqueued meanwhile, and BackfilldError when the record is in use."""
    try:
        with connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', '5s', true)")
            connection.execute("LOCK TABLE backfilld.runs IN ACCESS EXCLUSIVE MODE")
            if meanwhile := list(_in_the_way(connection)):
                raise Refused(meanwhile)
            connection.execute("DROP SCHEMA backfilld CASCADE")
    except errors.LockNotAvailable as exc:
        msg = "the schema backfilld is in use and was not dropped: end the sessions that use it, then try again"
        raise BackfilldError(msg) from exc
