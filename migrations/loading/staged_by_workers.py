"""Sources that a worker sends into their stages: which are asked for, and sending one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.file.operations import Load
from backfilld.migrations.loading import stage
from backfilld.migrations.loading.reader import Unreadable
from backfilld.migrations.postgres.connect import SEMANTICS
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backfilld.migrations.facts import LoadFacts
    from backfilld.migrations.loading.source import Head
    from backfilld.migrations.loading.stage import Staging
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run
    from backfilld.migrations.source_settings import SourceSettings

_SQL = queries(__package__, "loads")

#: Of the session that holds a source: one that says nothing for a minute is one of a worker that is gone.
HOLDING_SESSION = {
    **SEMANTICS,
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
}


class Away(Exception):
    """A source cannot be reached now; the message says why."""


def asked_for(connection: Connection) -> list[Staging]:
    """The sources that runs wait for, and that a worker reads."""
    return [stage.Staging.from_row(row) for row in connection.execute(_SQL["asked_for"]).fetchall()]


def hold(connection: Connection, staging: Staging) -> bool:
    """Hold a source until this transaction ends; False where another session does."""
    row = connection.execute(_SQL["hold_source"], {"run": staging.run, "operation": staging.operation}).fetchone()
    return bool(row and row["held"])


def tell_problem(connection: Connection, staging: Staging, problem: str) -> None:
    """Put down why a source cannot be read now."""
    connection.execute(_SQL["tell_problem"], {"run": staging.run, "operation": staging.operation, "problem": problem})


def send(
    connection: Connection,
    run: Run,
    staging: Staging,
    places: Sequence[SourceSettings],
    *,
    tell: Callable[[Staging], None],
) -> Staging:
    """Send a source into its stage. Raises Refused where it is not as the migration says, and Away."""
    load = run.migration.operations[staging.operation]
    if not isinstance(load, Load):
        msg = f"operation {staging.operation} of {run.name} is no load"
        raise TypeError(msg)
    facts = run.facts[staging.operation].load if run.facts else None
    try:
        return stage.stream(
            connection,
            staging,
            load.source,
            most_refused=run.settings.max_quarantined,
            places=places,
            check=lambda head: _check_bytes(facts, head),
            tell=tell,
        )
    except Refused as exc:
        if isinstance(exc.__cause__, Unreadable) and not stage.has_changed(exc):
            raise Away(str(exc.__cause__)) from exc
        raise


def _check_bytes(facts: LoadFacts | None, head: Head) -> None:
    """What preflight checks where it can read the source. Raises Refused."""
    for one in facts.columns if facts is not None else ():
        if one.field is not None and head.fields[one.field : one.field + 1] and head.fields[one.field] in head.binary:
            if one.plain_type == "bytea":
                continue
            raise Refused(
                [
                    Finding(
                        "columns",
                        f"{head.fields[one.field]} is a field of bytes, and {one.name} is of type {one.type}",
                        "Cancel the run, and say in `columns` what the bytes are: convert_from($…::bytea, 'UTF8') for text",
                    )
                ]
            )
