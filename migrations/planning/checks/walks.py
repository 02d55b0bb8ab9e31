"""How a table is walked: the key, and whether pages would be right."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backfilld.migrations.postgres import catalog

if TYPE_CHECKING:
    from backfilld.migrations.facts import Facts
    from backfilld.migrations.planning.checks.findings import Findings
    from backfilld.migrations.postgres.catalog import Leaf, Table
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.definitions import KeyColumn


def key_of(table: Table) -> tuple[KeyColumn, ...]:
    """The key that a table is walked by and its rows are named by; empty when there is none."""
    return table.keys[0].columns if table.keys else ()


def with_key(found: Findings, place: str, table: Table, facts: Facts) -> Facts:
    """Choose the key that is walked, where the operation has not."""
    if facts.key:
        return facts
    if not table.keys:
        found.refuse(
            "key",
            f"{place}: {table.name} has no primary key and no unique key of NOT NULL columns, so it cannot be walked",
            "Add one first, in a migration of its own: `add_primary_key` over columns that are unique together; where there are none, "
            "`add_column` with `default: gen_random_uuid()` before it",
        )
        return facts
    return replace(facts, key=key_of(table))


def keys_because(connection: Connection, table: Table, facts: Facts) -> str:
    """Why a table cannot be walked by pages; empty when it can."""
    if facts.once_because:
        return f"{facts.once_because}, and a row that moves to another page would be updated twice or not at all"
    because = [reason for leaf in catalog.leaves(connection, table) if (reason := _not_by_pages(leaf))]
    deciding = catalog.partition_columns(connection, table)
    moving = sorted({target.column for target in facts.targets} & {name for name in deciding if name is not None})
    if moving:
        because.append(f"{', '.join(moving)} is in the partition key")
    if None in deciding:
        because.append("the partition key is an expression")
    return because[0] if because else ""


def _not_by_pages(leaf: Leaf) -> str:
    if leaf.kind == "f":
        return f"{leaf.name} is a foreign table"
    if not leaf.heap:
        return f"{leaf.name} is not stored as PostgreSQL's heap"
    if leaf.row_security_active:
        return f"row security is active on {leaf.name} itself"
    return "" if leaf.may_update else f"this role may not read and update {leaf.name} itself"
