"""The key walk: a table in the order of a unique key, a range of rows at a time.

Ranges are found by counting rows, never by adding to a number, so gaps in the key cost nothing. Keys travel as text with a
cast, so any type works whose order the index knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import tuple_row

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.queries import templates
from backfilld.migrations.record.model import Bounds, Key

if TYPE_CHECKING:
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.definitions import KeyColumn

_SQL = templates(__package__, "keys")

#: A statement and its parameters.
Query = tuple[sql.Composed, list[Any]]  # Any: whatever psycopg can send

#: A column of integers may have become wider since the key was put on record, and its values with it. Its index serves all three.
_AS_WIDE_AS_CAN_BE = {"smallint": "bigint", "integer": "bigint"}
#: Tables up to this many rows are split by all their keys; larger ones by a sample of about as many.
SAMPLE_ROWS = 50_000


@dataclass(frozen=True, kw_only=True)
class KeyWalk:
    """A table and the unique key it is walked by."""

    table: TableName
    key: tuple[KeyColumn, ...]

    def within(self, bounds: Bounds) -> tuple[sql.Composable, list[str]]:
        """The condition for keys in `bounds`."""
        conditions: list[sql.Composable] = []
        parameters: list[str] = []
        for operator, edge in ((">", bounds.after), ("<=", bounds.upto)):
            if edge is not None:
                conditions.append(sql.SQL("{} {} {}").format(self._row(), sql.SQL(operator), self._values()))
                parameters += edge
        return (sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true")), parameters

    def at(self, key: Key) -> tuple[sql.Composable, list[str]]:
        """The condition for exactly one key."""
        return sql.SQL("{} = {}").format(self._row(), self._values()), list(key)

    def bound(self, bounds: Bounds, rows: int) -> Query:
        """The key `rows` rows into `bounds`; no row when there are fewer left."""
        condition, parameters = self.within(bounds)
        query = _SQL["bound"].format(key=self.texts(), table=self._table, condition=condition, order=self._order())
        return query, [*parameters, rows - 1]

    def count(self, bounds: Bounds) -> Query:
        """How many rows `bounds` holds."""
        condition, parameters = self.within(bounds)
        return _SQL["count"].format(table=self._table, condition=condition), list(parameters)

    def last(self) -> Query:
        """The greatest key; no row for an empty table."""
        return _SQL["last"].format(key=self.texts(), table=self._table, order=self._order(descending=True)), []

    def tiles(self, tiles: int, *, sample_percent: float, within: Bounds = Bounds()) -> Query:  # noqa: B008 - a frozen value
        """The last key of each of `tiles` equal shares of the rows in a range, by all rows or by a sample of pages."""
        condition, parameters = self.within(within)
        sample = sql.SQL("TABLESAMPLE SYSTEM ({})").format(sample_percent) if sample_percent < 100 else sql.SQL("")
        names = sql.SQL(", ").join(sendable(sql.Identifier(column.name)) for column in self.key)
        sampled = [sendable(sql.Identifier("s", column.name)) for column in self.key]
        descending = sql.SQL(", ").join(sql.SQL("{} DESC").format(column) for column in sampled)
        texts = sql.SQL(", ").join(sql.SQL("{}::text").format(column) for column in sampled)
        query = _SQL["tiles"].format(
            key=texts,
            names=names,
            order=self._order(),
            table=self._table,
            sample=sample,
            descending=descending,
            condition=condition,
        )
        return query, [tiles, *parameters]

    def _row(self) -> sql.Composable:
        return _tuple([self._column(column) for column in self.key])

    def _values(self) -> sql.Composable:
        # The type comes from format_type, which quotes what needs quoting.
        types = [_AS_WIDE_AS_CAN_BE.get(column.type, column.type) for column in self.key]
        return _tuple([sql.SQL("%s::{}").format(sendable(sql.SQL(type_))) for type_ in types])

    def texts(self) -> sql.Composed:
        """The key of a row, each column as text."""
        return sql.SQL(", ").join(sql.SQL("{}::text").format(self._column(column)) for column in self.key)

    def _order(self, *, descending: bool = False) -> sql.Composed:
        # Qualified, because a bare name would mean the output column, which is text.
        direction = sql.SQL(" DESC" if descending else "")
        return sql.SQL(", ").join(sql.Composed([self._column(column), direction]) for column in self.key)

    def _column(self, column: KeyColumn) -> sql.SQL:
        return sendable(sql.Identifier(self.table.name, column.name))

    @property
    def _table(self) -> sql.SQL:
        return sendable(self.table.identifier)


def _tuple(parts: list[sql.Composable]) -> sql.Composable:
    # A row of one column would be `ROW(a)`, which no index serves.
    return parts[0] if len(parts) == 1 else sql.SQL("({})").format(sql.SQL(", ").join(parts))


def fetch_key(connection: Connection, query: Query) -> Key | None:
    """The one key a query gives, or None."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(*query).fetchone()


def split(connection: Connection, walk: KeyWalk, *, lanes: int, rows_estimate: int) -> list[Bounds]:
    """Cut the table into up to `lanes` ranges of about equally many rows, by the real distribution of its keys.

    The last range ends at the greatest key of this moment: rows added later are the sync trigger's and verify's.
    An empty table has none.
    """
    last = fetch_key(connection, walk.last())
    if last is None:
        return []
    return split_within(connection, walk, Bounds(upto=last), lanes=lanes, rows_estimate=rows_estimate)


def split_within(
    connection: Connection, walk: KeyWalk, bounds: Bounds, *, lanes: int, rows_estimate: int
) -> list[Bounds]:
    """Cut a range of keys into up to `lanes` ranges; it ends at a key that is there. `rows_estimate` is of the whole table."""
    last = bounds.upto
    with connection.cursor(row_factory=tuple_row) as cursor:
        query = walk.tiles(lanes, sample_percent=_percent(rows_estimate), within=bounds)
        edges: list[Key] = cursor.execute(*query).fetchall()[: lanes - 1]
    starts: list[Key | None] = [bounds.after, *edges]
    ends: list[Key | None] = [*edges, last]
    # A sample may end at the last key itself, and a table of few rows gives fewer tiles.
    return [
        Bounds(after=start, upto=end)
        for start, end in zip(starts, ends, strict=True)
        if start is None or start not in (end, last)
    ]


def middle(connection: Connection, walk: KeyWalk, bounds: Bounds, *, rows_estimate: int) -> Key | None:
    """A key that has about as many rows of `bounds` before it as after it; None when a sample of the table shows none.

    `rows_estimate` is of the whole table.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        edges: list[Key] = cursor.execute(
            *walk.tiles(2, sample_percent=_percent(rows_estimate), within=bounds)
        ).fetchall()
    return edges[0] if len(edges) > 1 and edges[0] != bounds.upto else None


def _percent(rows_estimate: int) -> float:
    return 100.0 if rows_estimate <= SAMPLE_ROWS else max(100.0 * SAMPLE_ROWS / rows_estimate, 0.001)
