"""What a walk will cost in space and WAL: orders of magnitude, by what was measured (docs/benchmarks) for tables like it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.walks.table_statistics import TableStatistics, of_leaves, of_whole, walk_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.run_settings import RunSettings
    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.walks.rewrite import Rewrite

BLOCK_BYTES = 8192
#: What a row takes in the WAL beside itself: its headers, and what pruning and the sync trigger's lock write.
STRIPED_WAL_BYTES, PLAIN_WAL_BYTES = 150, 60
#: What an entry of an index takes in the WAL, splits of its pages included.
ENTRY_WAL_BYTES = 110
#: A value of a fixed size; how long a text will be is not known beforehand.
VALUE_BYTES = 8
#: An index grows by more than its new entries, as full pages are split in two: from this many rounds on it hardly does.
ROUNDS_WITHOUT_SPLITS = 16


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """How one operation will walk its table, and what that takes. Sizes in bytes, rough."""

    walk: str
    #: Why it is not walked by pages; empty when it is, or when the file asks for keys.
    because: str
    #: Rounds in which a page is rewritten; of the largest leaf.
    stripes: int
    heap_growth_bytes: int
    index_growth_bytes: int
    wal_bytes: int


def estimate_cost(connection: Connection, table: Table, rewrite: Rewrite, settings: RunSettings) -> CostEstimate:
    """Look at a sample of a table, and say what walking all of it will take."""
    walk = walk_for(rewrite.facts, settings)
    leaves = of_leaves(connection, table, rewrite) if walk == "pages" else [of_whole(connection, table, rewrite)]
    return cost(table, leaves, walk=walk, because=rewrite.facts.keys_because)


def cost(table: Table, statistics: Sequence[TableStatistics], *, walk: str, because: str = "") -> CostEstimate:
    """What walking all of a table will take, by what a sample of each of its leaves says."""
    rows = sum(one.rows for one in statistics)
    row_bytes = sum(one.rows * one.row_bytes for one in statistics) / max(rows, 1)
    indexes = max((one.leaf.indexes for one in statistics), default=0)
    rounds = max(statistics, key=lambda one: one.leaf.pages).stripes if statistics and walk == "pages" else 1
    heap = table.pages * BLOCK_BYTES
    moved = 1 / rounds
    split = 0.0 if rounds >= ROUNDS_WITHOUT_SPLITS else moved
    entries = moved * rows * indexes * ENTRY_WAL_BYTES
    each = row_bytes + (STRIPED_WAL_BYTES if rounds > 1 else PLAIN_WAL_BYTES)
    return CostEstimate(
        walk=walk,
        because=because,
        stripes=rounds,
        heap_growth_bytes=round(heap * moved + (rows * VALUE_BYTES if rounds > 1 else 0)),
        index_growth_bytes=round(table.index_bytes * min(1.0, moved + split)),
        # Every page is written whole once after a checkpoint.
        wal_bytes=round(heap + table.index_bytes * min(1.0, 2 * moved) + rows * each + entries),
    )
