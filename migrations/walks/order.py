"""The order of a table's rows on disk: who lives by it, what a walk makes of it, and which walk that speaks for.

A new version that finds no room on its page goes to the end of the table. Reads of a range of keys then change pages more often,
a BRIN index reads more ranges, and `pg_stats.correlation`, by which the planner chooses index scans, falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from backfilld.migrations.postgres import catalog
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.run_settings import RunSettings
    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.walks.rewrite import Rewrite

#: From here on rows count as being in the order of a column.
CORRELATED = 0.9
#: An index from which a scan reads so many rows, over so many scans, is read by ranges and not by single keys. Generous: keeping
#: the order costs what one UPDATE would.
RANGE_ROWS, ENOUGH_SCANS = 1000, 100


@dataclass(frozen=True, kw_only=True)
class IndexOrder:
    """An index and the order of its leading column on disk."""

    index: str
    is_brin: bool
    is_clustered: bool
    column: str
    correlation: float | None
    scans: int
    rows_read: int

    @property
    def is_read_by_ranges(self) -> bool:
        return self.scans >= ENOUGH_SCANS and self.rows_read >= RANGE_ROWS * self.scans


@dataclass(frozen=True, kw_only=True)
class WalkChoice:
    """How a table is walked, and why if nobody has asked for it."""

    walk: Literal["pages", "keys", "ordered"]
    because: str = ""
    #: Of an `ordered` walk: rows stay where they are as far as possible, for the sake of a BRIN index; otherwise all of them move
    #: to new pages in their order.
    in_stripes: bool = True

    @property
    def by_pages(self) -> bool:
        return self.walk != "keys"


def walk_for(facts: Facts, settings: RunSettings) -> str:
    """`pages` or `keys`, by the file and the operation alone: pages where they are right, unless the file says otherwise."""
    return "keys" if facts.keys_because or settings.walk == "keys" else "pages"


def choose(connection: Connection, table: Table, facts: Facts, settings: RunSettings) -> WalkChoice:
    """Pages where they are right, in order where something lives by the order, unless the file says otherwise."""
    if walk_for(facts, settings) == "keys":
        return WalkChoice(walk="keys", because=facts.keys_because)
    if settings.walk == "pages":
        return WalkChoice(walk="pages")
    found = of_indexes(connection, table, {target.column for target in facts.targets})
    key = facts.key[0].name if facts.key else None
    because = who_lives_by_it(found, walked_by=key)
    if settings.walk == "auto" and not because:
        return WalkChoice(walk="pages")
    in_stripes = any(one.is_brin for one in found)
    return WalkChoice(walk="ordered", because=because if settings.walk == "auto" else "", in_stripes=in_stripes)


def choose_for(connection: Connection, table: Table, rewrite: Rewrite, settings: RunSettings) -> WalkChoice:
    """As `choose`; rows that are deleted or copied leave the others where they are, and need no room for a next version."""
    if not (rewrite.deletes or rewrite.copies):
        return choose(connection, table, rewrite.facts, settings)
    because = rewrite.facts.keys_because
    by_key = walk_for(rewrite.facts, settings) == "keys"
    return WalkChoice(walk="keys" if by_key else "pages", because=because if by_key else "", in_stripes=False)


def who_lives_by_it(found: Sequence[IndexOrder], *, walked_by: str | None) -> str:
    """Why the order should be kept; empty when nothing is known to live by it.

    How the index of the walk's own key is read says nothing: our batches read it by ranges, too.
    """
    for one in found:
        if one.is_brin:
            return f"the BRIN index {one.index} reads ranges of pages"
    for one in found:
        if one.is_clustered:
            return f"the table is clustered on {one.index}"
    for one in found:
        if abs(one.correlation or 0.0) >= CORRELATED and one.column != walked_by and one.is_read_by_ranges:
            return f"rows are in the order of {one.column}, and a scan of {one.index} reads {one.rows_read // one.scans:,} of them"
    return ""


def of_indexes(connection: Connection, table: Table, written: set[str]) -> list[IndexOrder]:
    """The indexes of a table and its partitions whose leading column is not `written`."""
    tables = [leaf.oid for leaf in catalog.leaves(connection, table)]
    rows = connection.execute(queries(__package__, "walks")["order_on_disk"], {"tables": tables}).fetchall()
    return [IndexOrder(**row) for row in rows if row["column"] not in written]


def correlation_after(before: float, *, moved: float, lanes: int) -> float:
    """What a column's correlation becomes when this part of the rows moves to the end, from so many places at once.

    Rows that stay keep their order, those that move are in order for each lane, and lanes take turns: with values spread evenly
    over the table that gives this sum (docs/benchmarks, `order`: within 0.05).
    """
    return before * ((1 - moved) ** 2 + moved**2 / lanes)
