"""The UPDATE of a batch on a table that runs code of its own for it: triggers, mainly. Its text is `sql/templates/firing.sql`.

An expression means the same everywhere because it is evaluated under our settings (`SEMANTICS`). The code of users' that an
UPDATE runs was written for the application's: a function may name tables without their schema, read what a policy shows it, or
ask for the local day. One statement does both: it computes the values, changes the settings, writes the rows by their key, and
changes the settings back to read what was written.

Not two statements, of which the second is sent under the application's search_path: its own functions and operators would be
looked up there, and whoever may create one in a schema on that path could have it called as our role.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from psycopg import sql

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.postgres.connect import SEMANTICS
from backfilld.migrations.queries import queries, templates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.walks.keys import KeyWalk, Query
    from backfilld.migrations.walks.update_sql import Update

_SQL = templates(__package__, "firing")

#: Asks what `TableCode` holds, of `table`, `relation` and `columns`; by a function, whose plan the session keeps: planning the query
#: takes five times as long as running it, and each batch asks.
TABLE_CODE = queries(__package__, "walks")["table_code"]
#: The same where there may be no schema of ours.
_TABLE_CODE = queries("backfilld.migrations.postgres", "table_code")["table_code"]

_NOTHING, _TRUE = sql.SQL(""), sql.SQL("true")

#: Is sent before a statement `by_key`.
JOIN_BY_KEY = queries(__package__, "walks")["join_by_key"]
#: What that changes: a trigger's own statements are planned as always.
_JOINS = ("enable_hashjoin", "enable_mergejoin")

#: Has the settings of the application from here on, for what waits for COMMIT.
THEIRS = _SQL["theirs"].format(names=sql.SQL(", ").join(map(sql.Literal, (*SEMANTICS, *_JOINS))))
#: Our settings, in the middle of a statement.
OURS = _SQL["ours"].format(
    pairs=sql.SQL(", ").join(sql.SQL("({}, {})").format(*map(sql.Literal, pair)) for pair in SEMANTICS.items())
)


@dataclass(frozen=True, kw_only=True)
class TableCode:
    """What code of a table's own an UPDATE of some columns runs."""

    #: Whether there is any.
    fires: bool = False
    #: The partitioned table or the partition has triggers for statements, which fire for the table that the statement names: the
    #: former, as in the application's.
    by_parent: bool = False
    #: BEFORE triggers for rows, in the order in which they fire: each may change what is written, or keep it from being.
    may_change: tuple[str, ...] = ()

    @classmethod
    def from_row(cls, row: Mapping[str, Any] | None) -> Self:
        """None is the row of a table that is gone."""
        return cls(**{**row, "may_change": tuple(row["may_change"])}) if row is not None else cls()


def table_code(connection: Connection, *, table: TableName, relation: TableName, columns: Sequence[str]) -> TableCode:
    """What an UPDATE of `columns` runs, in rows of `relation`, which is `table` or a partition of it."""
    return TableCode.from_row(
        connection.execute(_TABLE_CODE, asked(table=table, relation=relation, columns=columns)).fetchone()
    )


def asked(*, table: TableName, relation: TableName, columns: Sequence[str]) -> dict[str, object]:
    """The parameters of `TABLE_CODE`."""
    return {
        "table": table.identifier.as_string(),
        "relation": relation.identifier.as_string(),
        "columns": list(columns),
    }


#: An expression and its name in a statement.
Named = tuple["sql.Composable", "sql.Identifier"]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What the statement does besides the update: parts of its WITH, and what they need of a row as it was."""

    #: Of the row before it is written: what is carried along, by name.
    carried: Sequence[Named] = ()
    #: Of the row after it: what `~told` has of the key (as `~key_N`) and of what was carried.
    told: Sequence[Named] = ()
    #: Columns whose values, as they were written, `~told` has too: how, and by which name.
    columns: Sequence[tuple[str, Callable[[sql.Composable], sql.Composable], sql.Identifier]] = ()
    #: What the values come from, with a comma at its end, and its parameters.
    first: sql.Composable | None = None
    first_parameters: Sequence[Any] = ()  # Any: whatever psycopg can send
    #: What is done with `~told`, with a comma before it.
    last: sql.Composable | None = None


def firing(  # noqa: PLR0913 - one statement; each part is named where it is called
    update: Update,
    walk: KeyWalk,
    relation: TableName,
    code: TableCode,
    *,
    still: sql.Composable | None,
    beside: Beside,
    by_key: bool = False,
) -> Query:
    """Gives `changed`, `residual` (how many of the changed rows meet the condition `still`) and `undone` (how many rows do not
    hold what they were to get). Afterwards the application's settings are in force.

    With `by_key` the condition of the update is over more than the table, and picks the rows only; `JOIN_BY_KEY` is to be sent
    before, as where the code is `by_parent`.
    """
    name = sql.Identifier(walk.table.name)
    keys = [
        (sendable(sql.Identifier(walk.table.name, one.name)), sql.Identifier(f"~key_{n}"))
        for n, one in enumerate(walk.key)
    ]
    news = [
        (target, value, sql.Identifier(f"~new_{n}"), sql.Identifier(f"~is_{n}"))
        for n, (target, value) in enumerate(update.values)
    ]
    held = {target.column: now for target, _, _, now in news}
    by_key = by_key or code.by_parent
    written = walk.table if code.by_parent else relation
    picked = [sql.SQL("{} AS {}").format(*pair) for pair in keys]
    # A literal alone would be text, which is not assigned to every type. Without a limit of length: a cast to that would cut.
    picked += [
        sql.SQL("CAST({} AS {}) AS {}").format(value, sendable(sql.SQL(target.plain_type or target.type)), new)
        for target, value, new, _ in news
    ]
    picked += [sql.SQL("{} AS {}").format(*pair) for pair in beside.carried]
    returned = [sql.SQL("{} AS {}").format(*pair) for pair in keys]
    returned += [sql.SQL('"~picked".{}').format(name) for _, name in beside.carried]
    for target, _, new, now in news:
        column = sendable(sql.Identifier(walk.table.name, target.column))
        returned.append(sql.SQL('{} AS {}, "~picked".{} AS {}').format(column, now, new, new))
    if still is not None:
        row = sql.SQL('CAST({}.* AS {}) AS "~row"').format(sendable(name), sendable(written.identifier))
        returned.append(row)
    query = _SQL["firing"].format(
        first=beside.first or _NOTHING,
        picked=_list(picked),
        rows=update.table if update.source is None else sql.SQL("{}, {}").format(update.table, update.source),
        condition=update.condition,
        needs_work=update.needs_work,
        name=sendable(name),
        table=sendable(walk.table.identifier) if code.by_parent else update.table,
        sets=_list(
            sql.SQL('{} = "~picked".{}').format(sendable(sql.Identifier(target.column)), new)
            for target, _, new, _ in news
        ),
        within=_TRUE if by_key else update.condition,
        same=_all(sql.SQL('{} = "~picked".{}').format(*pair) for pair in keys),
        returned=_list(returned),
        told=sql.SQL("").join(
            sql.SQL("{} AS {}, ").format(value, name)
            for value, name in [*beside.told, *((form(held[column]), name) for column, form, name in beside.columns)]
        ),
        still=_SQL["still"].format(still=still, name=sendable(name)) if still is not None else sql.SQL("false"),
        as_asked=_all(
            sql.SQL('CAST({} AS {})::text COLLATE "C" IS NOT DISTINCT FROM {}::text COLLATE "C"').format(
                new, sendable(sql.SQL(target.type)), now
            )
            for target, _, new, now in news
        ),
        last=beside.last or _NOTHING,
        theirs=THEIRS,
        ours=OURS,
    )
    again = () if by_key else update.parameters
    return query, [*beside.first_parameters, *update.source_parameters, *update.parameters, *again]


def _list(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _all(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(" AND ").join(parts)
