"""Whether an index can be dropped, and built again should it be missed."""

from __future__ import annotations

import difflib
from datetime import UTC
from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts
from backfilld.migrations.planning.checks.walks import key_of
from backfilld.migrations.postgres import indexes

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import DropIndex
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.indexes import Named


def examine(case: Case, operation: DropIndex) -> Facts:
    nothing = Facts(relation=str(case.table.name))
    found = indexes.find(case.connection, case.table.name.schema, operation.name)
    if found is None or found.definition is None or found.table != case.table.name:
        _refuse_absent(case, operation, found)
        return nothing
    if found.kind == "I":
        case.refuse(
            "partitioned",
            f"{operation.name} is an index of a partitioned table, which PostgreSQL cannot drop CONCURRENTLY",
            "Drop it with an `sql` operation; that blocks the application for a moment",
        )
        return nothing
    uses = indexes.uses(case.connection, found.oid)
    if uses is None or _needed(case, operation.name, uses):
        return nothing
    if uses.clustered:
        case.warn(f"{case.table.name} is clustered on {operation.name}; CLUSTER without an index name will fail")
    if uses.scans:
        since = f"since {uses.counted_since.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if uses.counted_since else "so far"
        case.warn(
            f"{operation.name} was used {uses.scans} times {since} on this server: make sure that those queries "
            "do not need it"
        )
    if found.definition.unique and found.valid:
        case.warn(f"{operation.name} is unique; without it duplicates are accepted")
    return Facts(relation=str(case.table.name), index=found.definition, key=key_of(case.table))


def _refuse_absent(case: Case, operation: DropIndex, found: Named | None) -> None:
    if found is not None:
        of = f"an index of {found.table}" if found.table is not None else "no index"
        case.refuse("index", f"{operation.name} is {of}", f"Name an index of {case.table.name}")
        return
    names = [one.definition.name for one in indexes.of_table(case.connection, case.table.oid) if one.definition]
    near = difflib.get_close_matches(operation.name, names, n=1)
    remedy = (
        f"Did you mean {near[0]}? Names are exact, never folded" if near else f"It has: {', '.join(names) or 'none'}"
    )
    case.refuse("index", f"{case.table.name} has no index {operation.name}", remedy)


def _needed(case: Case, name: str, uses: indexes.Uses) -> bool:
    """Put down what cannot be without the index."""
    for constraint in uses.constraints:
        case.refuse(
            "constraint",
            f"{name} belongs to the constraint {constraint} of {case.table.name} and can only be dropped with it",
            f"To drop a UNIQUE constraint use `drop_constraint`; others by DROP CONSTRAINT {constraint} in an `sql` operation",
        )
    if not uses.constraints:
        for key in uses.foreign_keys:
            case.refuse("foreign_key", f"the foreign key {key} depends on {name}", "Drop the foreign key first")
    if uses.replica_identity:
        case.refuse(
            "replica_identity",
            f"{name} is the replica identity of {case.table.name}: without it, published updates and deletes fail",
            f"First ALTER TABLE {case.table.name.identifier.as_string()} REPLICA IDENTITY DEFAULT, or use "
            "another index",
        )
    if uses.attached:
        case.refuse(
            "partitioned",
            f"{name} is part of an index of a partitioned table",
            "Drop the index of the partitioned table with an `sql` operation",
        )
    return bool(uses.constraints or uses.foreign_keys or uses.replica_identity or uses.attached)
