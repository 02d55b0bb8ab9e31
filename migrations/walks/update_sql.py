"""The UPDATE of a batch, in parts that a journal may be put around; its text is `sql/templates/update.sql`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.queries import templates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.facts import Target
    from backfilld.migrations.walks.keys import KeyWalk, Query

_SQL = templates(__package__, "update")

#: The name of the values in the statement that writes them; no column of a user's is called that.
_GIVEN = "~backfilld_new"


@dataclass(frozen=True, kw_only=True)
class Update:
    """An UPDATE in its parts, each with its parameters."""

    table: sql.Composable
    #: The columns that are written, and the value that each of them gets.
    values: Sequence[tuple[Target, sql.Composable]]
    condition: sql.Composable
    parameters: Sequence[Any]  # Any: whatever psycopg can send
    #: Which of the rows that meet the condition are changed.
    needs_work: sql.Composable
    #: Where the values come from; None for expressions over the row.
    source: sql.Composable | None = None
    source_parameters: Sequence[Any] = ()  # Any: as above

    @property
    def sets(self) -> sql.Composable:
        """What stands behind SET."""
        return sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sendable(sql.Identifier(target.column)), value) for target, value in self.values
        )

    @property
    def query(self) -> Query:
        """Without a journal."""
        query = _SQL["update"].format(
            table=self.table,
            sets=self.sets,
            source=sql.SQL("FROM {}").format(self.source) if self.source is not None else sql.SQL(""),
            condition=self.condition,
            needs_work=self.needs_work,
        )
        return query, [*self.source_parameters, *self.parameters]

    def told(self, still: sql.Composable) -> Query:
        """Without a journal; gives `changed` and `residual`: how many rows, and how many of them meet the condition `still`."""
        query, parameters = self.query
        return _SQL["update_told"].format(update=query, still=still), parameters


def given(
    walk: KeyWalk,
    targets: Sequence[Target],
    condition: sql.Composable,
    parameters: Sequence[Any],  # Any: whatever psycopg can send
    *,
    values: Sequence[Sequence[str | None]],
) -> Update:
    """Write `values` (for each column of the key, then for each target, one text a row) to the rows in a range.

    Rows whose values are the same, letter by letter, are not touched.
    """
    keys = [sql.Identifier(f"{_GIVEN}_key_{n}") for n in range(len(walk.key))]
    news = [sql.Identifier(f"{_GIVEN}_{n}") for n in range(len(targets))]
    # The type's text is format_type's own. Without a limit of length: a cast to that would cut, the assignment does not.
    casts = [
        sql.SQL("CAST({} AS {})").format(new, sendable(sql.SQL(target.plain_type)))
        for new, target in zip(news, targets, strict=True)
    ]
    columns = [sendable(sql.Identifier(walk.table.name, target.column)) for target in targets]
    same = sql.SQL(" AND ").join(
        sql.SQL("{} = CAST({} AS {})").format(
            sendable(sql.Identifier(walk.table.name, column.name)), key, sendable(sql.SQL(column.type))
        )
        for column, key in zip(walk.key, keys, strict=True)
    )
    differs = sql.SQL(" OR ").join(
        # As text: equality takes 1.0 for 1.00, and in some types a capital for a small letter.
        sql.SQL('{}::text COLLATE "C" IS DISTINCT FROM {}::text COLLATE "C"').format(column, cast)
        for column, cast in zip(columns, casts, strict=True)
    )
    return Update(
        table=sendable(walk.table.identifier),
        values=list(zip(targets, casts, strict=True)),
        condition=condition,
        parameters=parameters,
        needs_work=sql.SQL("{} AND ({})").format(same, differs),
        source=_SQL["given"].format(
            # Binary, which needs no quoting: as fast as COPY into a temporary table, and half as long as with %s.
            arrays=sql.SQL(", ").join([sql.SQL("%b::text[]")] * len(values)),
            name=sql.Identifier(_GIVEN),
            columns=sql.SQL(", ").join([*keys, *news]),
        ),
        source_parameters=values,
    )


def read(
    walk: KeyWalk, columns: Sequence[str], condition: sql.Composable, *, needs_work: sql.Composable
) -> sql.Composed:
    """The key as texts and then `columns` of the rows in a range that need work, held until the transaction ends."""
    return _SQL["read"].format(
        key=walk.texts(),
        columns=sql.SQL(", ").join(sendable(sql.Identifier(walk.table.name, name)) for name in columns),
        table=sendable(walk.table.identifier),
        condition=condition,
        needs_work=needs_work,
    )


def hold(table: sql.Composable, condition: sql.Composable, parameters: Sequence[Any]) -> Query:  # Any: key values
    """The rows of a range are held until the transaction ends."""
    return _SQL["hold"].format(table=table, condition=condition), [*parameters]


def without_value(table: sql.Composable, column: str, condition: sql.Composable) -> sql.Composed:
    """Gives a row when the column is NULL in some row of a range."""
    return _SQL["without_value"].format(table=table, column=sendable(sql.Identifier(column)), condition=condition)


def keys(walk: KeyWalk, table: sql.Composable, condition: sql.Composable) -> sql.Composed:
    """The keys of the rows in a range, as texts."""
    return _SQL["keys"].format(key=walk.texts(), table=table, condition=condition)
