"""How a table is walked: the key, and whether pages would be right."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.definitions import PLACE
from backfilld.migrations.walks.firing import table_code

if TYPE_CHECKING:
    from backfilld.migrations.facts import Facts
    from backfilld.migrations.planning.checks.findings import Findings
    from backfilld.migrations.postgres.catalog import Leaf, Table
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.definitions import KeyColumn
    from backfilld.migrations.walks.rewrite import Rewrite


def key_of(table: Table) -> tuple[KeyColumn, ...]:
    """The key that a table is walked by and its rows are named by; empty when there is none."""
    return table.keys[0].columns if table.keys else ()


def with_key(found: Findings, place: str, table: Table, facts: Facts, *, by_place: bool = False) -> Facts:
    """Choose the key that is walked, where the operation has not; `by_place` where it can do without one."""
    if facts.key:
        return facts
    if not table.keys and by_place:
        return replace(facts, key=PLACE)
    if not table.keys:
        found.refuse(
            "key",
            f"{place}: {table.name} has no primary key and no unique key of NOT NULL columns, so it cannot be walked",
            "Add one first, in a migration of its own: `add_primary_key` over columns that are unique together; where there are none, "
            "`add_column` with `default: gen_random_uuid()` before it. (`add_column` with `backfill:` and `not_null: true` alone can do "
            "without, by pages, where no trigger fires for an UPDATE of the table and the expression is repeatable)",
        )
        return facts
    return replace(facts, key=key_of(table))


def needs_no_key(connection: Connection, table: Table, rewrite: Rewrite, *, walk: str) -> bool:
    """Whether rows need no names: pages find them all, because a sync trigger gives its value to a row that is written and moves,
    and the scan that proves NOT NULL misses no row without one.

    Code that an UPDATE runs asks for rows by their key.
    """
    if not (rewrite.synced and rewrite.not_null and rewrite.facts.repeatable) or table.kind != "r" or walk == "keys":
        return False
    if keys_because(connection, table, rewrite.facts):
        return False
    return not table_code(connection, table=table.name, relation=table.name, columns=rewrite.columns).fires


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
