"""Rows that a run deletes: kept whole in its journal, and inserted again on the way back.

The journal is that of changed rows (`journal.py`) without new values: for each row its key, and its other columns. The way back
goes through it as the undo of changed rows does (`undo.py`). A row whose key another one has by then is left out, and named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.queries import templates
from backfilld.migrations.rollback.journal import Form, Journal, key_name
from backfilld.migrations.rollback.undo import Undo
from backfilld.migrations.walks.firing import THEIRS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from backfilld.migrations.walks.keys import KeyWalk, Query
    from backfilld.migrations.walks.next_batch import JournalSlice

_TEMPLATES = templates(__package__, "deletion")


@dataclass(frozen=True, kw_only=True)
class DeletedRows(Journal):
    """Where a run keeps the rows that an operation deletes; `targets` are their columns but for the key."""

    @property
    def arrays(self) -> list[tuple[sql.Identifier, Form, sql.Identifier]]:
        return super().arrays[: len(self.key) + len(self.columns)]

    @property
    def differs(self) -> sql.Composable:
        return sql.SQL("true")


def delete(  # noqa: PLR0913 - one statement; each part is named where it is called
    walk: KeyWalk,
    table: sql.Composable,
    condition: sql.Composable,
    parameters: Sequence[Any],  # Any: key values
    *,
    needs_work: sql.Composable,
    journals: Sequence[Journal],
    pass_: int,
) -> Query:
    """Delete the rows of a range that need it; gives `changed`, and `undone`: how many a trigger kept.

    Afterwards the application's settings are in force.
    """
    keys = [(_column(walk, one.name), Form.of(one.type), key_name(n)) for n, one in enumerate(walk.key)]
    picked = [(form.kept(column), name) for column, form, name in keys]
    for journal in journals:
        picked += [(one.form.kept(_column(walk, one.name)), journal.was(n)) for n, one in enumerate(journal.columns)]
    query = _TEMPLATES["delete"].format(
        picked=_list(sql.SQL("{} AS {}").format(*pair) for pair in picked),
        table=table,
        condition=condition,
        needs_work=needs_work,
        name=sendable(sql.Identifier(walk.table.name)),
        same=_all(
            sql.SQL("{} = {}").format(column, form.given_back(sql.SQL('"~picked".{}').format(name)))
            for column, form, name in keys
        ),
        returned=_list(sql.SQL('"~picked".{}').format(name) for _, name in picked),
        kept=sql.SQL("").join(sql.SQL(", {}").format(one.kept(sql.SQL('"~gone"'), pass_=pass_)) for one in journals),
        theirs=THEIRS,
    )
    return query, [*parameters, *parameters]


@dataclass(frozen=True, kw_only=True)
class Reinsertion(Undo):
    """The statements that insert the deleted rows of a table again."""

    def query(self, covered: JournalSlice) -> Query:
        """Gives `changed`; afterwards the application's settings are in force."""
        journal, walk = self.journal, self.journal.walk
        keys = [(one, key_name(n)) for n, one in enumerate(journal.key)]
        columns = [*keys, *((one, journal.was(n)) for n, one in enumerate(journal.columns))]
        given = sql.SQL('"~given".{}')
        query = _TEMPLATES["insert"].format(
            held=self._held,
            given=_list(
                sql.SQL("{} AS {}").format(one.form.given_back(sql.SQL('"~held".{}').format(name)), name)
                for one, name in columns
            ),
            table=sendable(walk.table.identifier),
            columns=_list(sendable(sql.Identifier(one.name)) for one, _ in columns),
            values=_list(given.format(name) for _, name in columns),
            taken=_all(sql.SQL("{} = {}").format(_column(walk, one.name), given.format(name)) for one, name in keys),
            returned=_list(sql.SQL("{} AS {}").format(_column(walk, one.name), name) for one, name in keys),
            left=self._left(
                _TEMPLATES["inserted"].format(
                    same=_all(sql.SQL('{} = "~back".{}').format(given.format(name), name) for _, name in keys)
                ),
                covered,
            ),
            theirs=THEIRS,
        )
        return query, covered.parameters


def _column(walk: KeyWalk, column: str) -> sql.SQL:
    return sendable(sql.Identifier(walk.table.name, column))


def _list(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _all(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(" AND ").join(parts)
