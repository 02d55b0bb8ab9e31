"""A table as the page walk finds it: how full its pages are, how its pages are shared among lanes, and what it will cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.catalog import Leaf
from backfilld.migrations.queries import queries, templates
from backfilld.migrations.record.model import PageRange
from backfilld.migrations.walks import pages

if TYPE_CHECKING:
    from backfilld.migrations.file.run_settings import RunSettings
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.walks.order import WalkChoice
    from backfilld.migrations.walks.rewrite import Rewrite

#: Pages that are looked at, in all leaves together: 4 MB.
SAMPLED_PAGES = 512
#: A header of 23 bytes, some NULL bits and the padding of the columns.
ROW_OVERHEAD_BYTES = 28
#: Longer values are mostly stored out of line, with a pointer of this size in the row.
INLINE_BYTES, POINTER_BYTES = 2000, 18
#: What a group of pages may take of the shared buffers, all lanes together.
SHARE_OF_BUFFERS = 4
#: Groups smaller than this pay too much for transactions, whatever the buffers.
LEAST_PLANNED_GROUP_PAGES = 1024


@dataclass(frozen=True, kw_only=True)
class TableStatistics:
    """What a sample of one table says."""

    leaf: Leaf
    rows_per_page: float
    #: Bytes of a row on its page, on average.
    row_bytes: float
    #: Rounds in which its pages are rewritten.
    stripes: int
    #: The line pointers between which all but a few of its rows are.
    offsets: tuple[int, int] = (1, 255)

    @property
    def rows(self) -> int:
        return round(self.rows_per_page * self.leaf.pages)


def of_leaves(connection: Connection, table: Table, rewrite: Rewrite) -> list[TableStatistics]:
    """Look at a sample of each leaf of a table, or of the table itself."""
    leaves = catalog.leaves(connection, table)
    total = sum(leaf.pages for leaf in leaves)
    written = {target.column for target in rewrite.facts.targets}
    return [_sample(connection, leaf, table, written, total_pages=total) for leaf in leaves]


def of_whole(connection: Connection, table: Table, rewrite: Rewrite) -> TableStatistics:
    """Sample a table as a whole, its partitions included."""
    leaves = catalog.leaves(connection, table)
    written = {target.column for target in rewrite.facts.targets}
    largest = max(leaves, key=lambda leaf: leaf.indexes, default=None)
    whole = Leaf(
        name=table.name,
        oid=table.oid,
        kind=table.kind,
        heap=all(leaf.heap for leaf in leaves),
        filenode=0,
        pages=table.pages,
        row_security_active=table.row_security_active,
        may_update=table.may_update,
        indexes=largest.indexes if largest else 0,
        indexed_columns=largest.indexed_columns if largest else (),
    )
    return _sample(connection, whole, table, written, total_pages=table.pages)


def page_ranges(
    connection: Connection, table: Table, rewrite: Rewrite, settings: RunSettings, choice: WalkChoice
) -> list[tuple[TableName, PageRange, int]]:
    """(leaf, its pages or a part of them, about how many rows that is) for as many lanes as the run wants, or for each leaf.

    One for each leaf where the order is kept: what two lanes move to the end of a file would be mixed there.
    """
    ordered = choice.walk == "ordered"
    statistics = [one for one in of_leaves(connection, table, rewrite) if one.leaf.pages]
    total = sum(one.leaf.pages for one in statistics)
    group = LEAST_PLANNED_GROUP_PAGES if ordered else _group_pages(connection, settings)
    found = []
    for one in statistics:
        pieces = 1 if ordered else max(1, round(settings.lanes * one.leaf.pages / total))
        whole = PageRange(
            first=0,
            last=one.leaf.pages,
            filenode=one.leaf.filenode,
            rows_per_page=one.rows_per_page,
            stripes=one.stripes if choice.in_stripes else 1,
            group_pages=group,
            first_offset=one.offsets[0],
            last_offset=one.offsets[1],
            ordered=ordered,
        )
        for page_range in pages.cut(one.leaf.pages, pieces, page_range=whole):
            count = (page_range.last or 0) - page_range.first
            found.append((one.leaf.name, page_range, round(count * one.rows_per_page)))
    return found


def to_open_end(
    connection: Connection, table: Table, settings: RunSettings, *, rows: int
) -> list[tuple[PageRange, int | None]]:
    """A table's pages in equal ranges, and what comes behind them by the time the last one is looked at."""
    (leaf,) = catalog.leaves(connection, table)
    each = rows / leaf.pages if leaf.pages else 1.0
    whole = PageRange(
        first=0, last=leaf.pages, filenode=leaf.filenode, rows_per_page=each, group_pages=pages.MOST_GROUP_PAGES
    )
    found: list[tuple[PageRange, int | None]] = [
        (page_range, round(((page_range.last or 0) - page_range.first) * each))
        for page_range in pages.cut(leaf.pages, settings.lanes, page_range=whole)
    ]
    return [*found, (replace(whole, first=leaf.pages, last=None), 0)]


def _sample(
    connection: Connection, leaf: Leaf, table: Table, written: set[str], *, total_pages: int
) -> TableStatistics:
    sampled = max(1, SAMPLED_PAGES * leaf.pages // max(total_pages, 1))
    percent = min(100.0, 100.0 * sampled / max(leaf.pages, 1))
    names = [sql.Identifier("s", column.name) for column in table.columns if not column.virtual]
    size = sql.SQL(" + ").join(
        sql.SQL("coalesce(CASE WHEN pg_column_size({0}) > {1} THEN {2} ELSE pg_column_size({0}) END, 0)").format(
            name, sql.Literal(INLINE_BYTES), sql.Literal(POINTER_BYTES)
        )
        for name in names
    )
    row = connection.execute(
        templates(__package__, "pages")["sample"].format(
            size=size if names else sql.SQL("0"), table=leaf.name.identifier, percent=sql.Literal(percent)
        )
    ).fetchone()
    rows, row_bytes, offsets = (row["rows"], row["bytes"], row["offsets"]) if row else (0, 0.0, (1, 255))
    rows_per_page = rows / max(leaf.pages * percent / 100, 1)
    row_bytes += ROW_OVERHEAD_BYTES
    return TableStatistics(
        leaf=leaf,
        rows_per_page=rows_per_page,
        row_bytes=row_bytes,
        offsets=(offsets[0], offsets[1]),
        stripes=pages.stripes_for(
            rows_per_page=rows_per_page,
            row_bytes=row_bytes,
            indexes=leaf.indexes,
            in_place=not written & set(leaf.indexed_columns),
        ),
    )


def _group_pages(connection: Connection, settings: RunSettings) -> int:
    row = connection.execute(queries(__package__, "walks")["shared_buffers"]).fetchone()
    share = (row["pages"] if row else 0) // (SHARE_OF_BUFFERS * settings.lanes)
    return int(min(max(share, LEAST_PLANNED_GROUP_PAGES), pages.MOST_GROUP_PAGES))
