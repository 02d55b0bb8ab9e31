"""What a walk will cost in space and WAL: orders of magnitude, by what was measured (docs/benchmarks) for tables like it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backfilld.migrations.walks.order import WalkChoice, choose_for, correlation_after, of_indexes
from backfilld.migrations.walks.table_statistics import TableStatistics, of_leaves, of_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.facts import LoadFacts
    from backfilld.migrations.file.run_settings import RunSettings
    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.walks.order import IndexOrder
    from backfilld.migrations.walks.rewrite import Rewrite

BLOCK_BYTES = 8192
#: What a row takes in the WAL beside itself: its headers, and what pruning and the sync trigger's lock write.
STRIPED_WAL_BYTES, PLAIN_WAL_BYTES = 150, 60
#: What an entry of an index takes in the WAL, splits of its pages included.
ENTRY_WAL_BYTES = 110
#: A value of a fixed size; how long a text will be is not known beforehand.
VALUE_BYTES = 8
#: What an entry of an index takes on disk, where the table has none to look at; and what a row takes beside its values.
ENTRY_BYTES, LINE_OVERHEAD_BYTES = 40, 36
#: Below this rows are in no order that could be lost.
NOTABLE_CORRELATION = 0.5
#: An index grows by more than its new entries, as full pages are split in two: from this many rounds on it hardly does.
ROUNDS_WITHOUT_SPLITS = 16


@dataclass(frozen=True, kw_only=True)
class ColumnOrder:
    """A column's `pg_stats.correlation`, and about what it will be."""

    column: str
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """How one operation will walk its table, and what that takes. Sizes in bytes, rough."""

    #: `pages`, `keys` or `ordered`.
    walk: str
    #: Why it is not walked by pages in any order; empty when it is, or when the file asks for something else.
    because: str
    #: Rounds in which a page is rewritten; of the largest leaf.
    stripes: int
    heap_growth_bytes: int
    index_growth_bytes: int
    wal_bytes: int
    #: The part of the rows that move to the end of the table.
    moved_ratio: float = 1.0
    #: What becomes of the order on disk; one for each column that rows are in the order of.
    correlations: tuple[ColumnOrder, ...] = ()


def estimate_cost(connection: Connection, table: Table, rewrite: Rewrite, settings: RunSettings) -> CostEstimate:
    """Look at a sample of a table, and say what walking all of it will take."""
    choice = choose_for(connection, table, rewrite, settings)
    leaves = of_leaves(connection, table, rewrite) if choice.by_pages else [of_whole(connection, table, rewrite)]
    indexes = of_indexes(connection, table, {target.column for target in rewrite.facts.targets})
    lanes = 1 if choice.walk == "ordered" or settings.walk == "ordered" else settings.lanes
    if rewrite.remakes:
        # A second table beside the first, each row and each index entry written once.
        found = cost(table, leaves, choice)
        both = table.heap_bytes + table.index_bytes
        return replace(
            found,
            heap_growth_bytes=table.heap_bytes,
            index_growth_bytes=table.index_bytes,
            wal_bytes=both,
            moved_ratio=0.0,
        )
    if not rewrite.updates:
        found = cost(table, leaves, choice)
        return replace(found, heap_growth_bytes=0, index_growth_bytes=0, moved_ratio=0.0)
    return cost(table, leaves, choice, indexes=indexes, lanes=lanes)


def estimate_load(table: Table, load: LoadFacts, *, rows: int, indexes: int) -> CostEstimate:
    """What a load takes if every line is a new row, which is the most that it can."""
    each = load.bytes_total / max(load.lines, 1) if load.bytes_total else table.heap_bytes / max(rows, 1)
    entry = table.index_bytes / rows if rows else float(indexes * ENTRY_BYTES)
    written = each + LINE_OVERHEAD_BYTES
    return CostEstimate(
        walk="stage",
        because=f"about {load.lines} lines; at most, if all of them are new rows",
        stripes=1,
        heap_growth_bytes=round(load.lines * written),
        index_growth_bytes=round(load.lines * entry),
        # Once into the stage, once into the table with its indexes, once into the journal.
        wal_bytes=round(load.lines * (2 * written + PLAIN_WAL_BYTES + indexes * ENTRY_WAL_BYTES + each)),
    )


def cost(
    table: Table,
    statistics: Sequence[TableStatistics],
    choice: WalkChoice,
    *,
    indexes: Sequence[IndexOrder] = (),
    lanes: int = 1,
) -> CostEstimate:
    """What walking all of a table will take, by what a sample of each of its leaves says."""
    rows = sum(one.rows for one in statistics)
    row_bytes = sum(one.rows * one.row_bytes for one in statistics) / max(rows, 1)
    index_count = max((one.leaf.indexes for one in statistics), default=0)
    largest = max(statistics, key=lambda one: one.leaf.pages, default=None)
    rounds = largest.stripes if largest and choice.by_pages and choice.in_stripes else 1
    heap = table.pages * BLOCK_BYTES
    moved = 1 / rounds
    split = 0.0 if rounds >= ROUNDS_WITHOUT_SPLITS else moved
    entries = moved * rows * index_count * ENTRY_WAL_BYTES
    # In stripes: the first, what rows grow by, and a row for what does not fit evenly.
    grown = VALUE_BYTES / max(row_bytes, VALUE_BYTES)
    each_page = largest.rows_per_page if largest else 1.0
    leaves_page = min(1.0, moved + grown + 1 / max(each_page, 1.0)) if rounds > 1 else 1.0
    each = row_bytes + (STRIPED_WAL_BYTES if rounds > 1 else PLAIN_WAL_BYTES)
    return CostEstimate(
        walk=choice.walk,
        because=choice.because,
        stripes=rounds,
        heap_growth_bytes=round(heap * moved + (rows * VALUE_BYTES if rounds > 1 else 0)),
        index_growth_bytes=round(table.index_bytes * min(1.0, moved + split)),
        # Every page is written whole once after a checkpoint.
        wal_bytes=round(heap + table.index_bytes * min(1.0, 2 * moved) + rows * each + entries),
        moved_ratio=round(leaves_page, 3),
        correlations=_correlations(indexes, moved=leaves_page, lanes=lanes),
    )


def _correlations(indexes: Sequence[IndexOrder], *, moved: float, lanes: int) -> tuple[ColumnOrder, ...]:
    """Of columns that rows are in the order of; what is in no order cannot lose it."""
    before = {one.column: one.correlation for one in indexes if abs(one.correlation or 0.0) >= NOTABLE_CORRELATION}
    return tuple(
        ColumnOrder(
            column=column, before=round(was, 2), after=round(correlation_after(was, moved=moved, lanes=lanes), 2)
        )
        for column, was in before.items()
        if was is not None
    )
