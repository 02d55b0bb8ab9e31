"""Whether the workers of a database will call the Python functions of a migration, as far as they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.file.operations import Backfill
from backfilld.migrations.record import runs, workers
from backfilld.migrations.record.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.postgres.connect import Connection


def require_allowed(connection: Connection, migration: Migration) -> tuple[str, ...]:
    """Raises Refused for a Python function that no worker here allows; a warning for one that only some allow.

    Workers that are not running cannot be asked, and a run that is there already has its own answer.
    """
    present = [worker for worker in workers.listed(connection) if worker.is_present]
    existing = runs.find(connection, migration.name)
    if not present or (existing is not None and existing.state not in {State.CANCELLED, State.ROLLED_BACK}):
        return ()
    warnings = []
    for operation in migration.operations:
        name = operation.transform if isinstance(operation, Backfill) else None
        if name is None:
            continue
        module = name.partition(":")[0]
        not_there = [worker.worker for worker in present if not worker.allows(module)]
        if not not_there:
            continue
        problem = f"the transform {name} is in a module that {_these(not_there)} not allow"
        remedy = f"Add {module} to BACKFILLD_TRANSFORMS of every worker of this database, and restart them"
        if len(not_there) == len(present):
            raise Refused([Finding("transform", problem, remedy)])
        warnings.append(f"{problem}; a step there fails the run. {remedy}")
    return tuple(warnings)


def _these(names: Sequence[str]) -> str:
    return f"the worker {names[0]} does" if len(names) == 1 else f"the workers {', '.join(names)} do"
