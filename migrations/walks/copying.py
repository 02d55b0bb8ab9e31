"""One table brought over to another and kept the same by a journal of keys; the statements are `sql/templates/copying.sql`.

A trigger on the source writes down the key of each row that is written, and nothing else: it cannot fail a statement, and no
statement waits for it. In any snapshot, each row whose key is not in the journal is right in the target. So a row is brought over
by its key, however often it was written; and what a comparison finds is repaired by writing its key down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.queries import templates
from backfilld.migrations.walks.rewrite import expression

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.definitions import KeyColumn
    from backfilld.migrations.record.model import Key
    from backfilld.migrations.walks.keys import Query

_SQL = templates(__package__, "copying")

#: A key of integers may be wider in one of the two tables.
_AS_WIDE_AS_CAN_BE = {"smallint": "bigint", "integer": "bigint"}


@dataclass(frozen=True, kw_only=True)
class CopiedColumn:
    """A column of the target that has its values from the source."""

    name: str
    type: str
    #: SQL over the row of the source; None: the column of the same name, as it is.
    expression: str | None = None


@dataclass(frozen=True, kw_only=True)
class KeptColumn:
    """A column that the target alone has. A row that is brought anew keeps its value."""

    name: str
    #: SQL over the row of the source: the value of a row that was not there.
    expression: str


@dataclass(frozen=True, kw_only=True)
class Copying:
    """From one table to another."""

    source: TableName
    target: TableName
    #: The key by which rows are known in both.
    key: tuple[KeyColumn, ...]
    journal: TableName
    columns: tuple[CopiedColumn, ...]
    kept: tuple[KeptColumn, ...] = ()
    #: The target is a table from which the application has turned: what has no place in it stands in the way back alone.
    backwards: bool = False

    def copy(self, table: sql.Composable, condition: sql.Composable) -> sql.Composed:
        """Copy the rows that meet a condition; `table` is the source as the condition names it."""
        values = self._values(named=True)
        return _SQL["copy"].format(
            target=self._target, columns=self._columns, values=values, table=table, condition=condition
        )

    def keys_out(self) -> sql.Composed:
        """For a statement that is sent without parameters."""
        return unsent(_SQL["keys_out"].format(target=self._target, journal=self._journal, same_key=self._same_key()))

    def drain(self, *, rows: int | None) -> sql.Composed:
        """Bring over the first `rows` entries of the journal; None for all. Gives `taken`, `keys` and `written`."""
        return _SQL["drain"].format(
            journal=self._journal,
            rows=sql.Literal(rows) if rows is not None else sql.SQL("ALL"),
            journal_key=self._names("j"),
            names=self._names(),
            target=self._target,
            same_key=self._same_key(),
            gone=self._gone(),
            bring=self._bring(named=sql.SQL("named"), gone=sql.SQL("gone")),
        )

    def drain_all(self) -> sql.Composed:
        """The same, of all entries, for a statement that is sent without parameters."""
        return unsent(self.drain(rows=None))

    def taken(self) -> sql.Composed:
        """Take all entries of the journal; gives the columns of their keys as texts."""
        return _SQL["taken"].format(journal=self._journal, key_texts=self._texts("j"))

    def remember(self, keys: Sequence[Key]) -> Query:
        """Put what the target alone has of these rows into a temporary table of the transaction."""
        given, arrays = self._given(keys)
        return _SQL["remember"].format(
            gone=self._gone(), target=self._target, named=given, same_key=self._same_key()
        ), arrays

    def remove(self, keys: Sequence[Key]) -> Query:
        """Take these rows from the target."""
        given, arrays = self._given(keys)
        return _SQL["remove"].format(target=self._target, named=given, same_key=self._same_key()), arrays

    def empty(self) -> sql.Composed:
        """Take all rows from the target."""
        return _SQL["empty"].format(target=self._target)

    def bring(self, keys: Sequence[Key]) -> Query:
        """Bring these rows, which the target does not have; after `remember`."""
        given, arrays = self._given(keys)
        return self._bring(named=given, gone=sql.SQL("pg_temp.backfilld_gone")), arrays

    def compare(self, condition: sql.Composable, *, carefully: bool) -> sql.Composed:
        """Compare a range, and write down what differs. Gives `rows` of the source, and `residual`: those that were written down.

        Parameters, with `carefully`: the range's, run and operation twice, the range's, run and operation twice; without: the first
        run and operation are not asked for. Carefully: rows that are set aside are not computed, as that is an error.
        """
        aside = self._not_aside([_cast_text(self._of(self.source.name, one.name)) for one in self.key])
        keys = [sql.SQL("d.k{}").format(number) for number, _ in enumerate(self.key, start=1)]
        return _SQL["compare"].format(
            journal=self._journal,
            journal_key=self._names("j"),
            source_key=self._wide_key(),
            values=self._values(named=False),
            source=self._source,
            condition=condition,
            not_aside_source=aside if carefully else sql.SQL("true"),
            target_values=_listed(self._of(self.source.name, one.name) for one in self.columns),
            aliased_target=sql.SQL("{} AS {}").format(self._target, _name(self.source.name)),
            either_key=_listed(
                sql.SQL("coalesce(s.k{0}, t.k{0}) AS k{0}").format(number) for number, _ in enumerate(self.key, start=1)
            ),
            both_keys=_all(sql.SQL("s.k{0} = t.k{0}").format(number) for number, _ in enumerate(self.key, start=1)),
            first=sql.SQL("k1"),
            names=self._names(),
            noted_is_d=_all(sql.SQL("j.k{0} = d.k{0}").format(number) for number, _ in enumerate(self.key, start=1)),
            not_aside=self._not_aside([_cast_text(one) for one in keys]),
        )

    def waiting(self, *, most: int) -> sql.Composed:
        """How many keys wait, counted up to `most`, and for how many `seconds` the first does."""
        return _SQL["waiting"].format(journal=self._journal, most=sql.Literal(most))

    def release(self) -> sql.Composed:
        """Forget of the rows that were put aside those that have their place now, or are no more; run and operation are sent."""
        return _SQL["release"].format(
            journal=self._journal,
            target=self._target,
            source=self._source,
            journal_is_aside=_all(
                sql.SQL("j.k{} = {}").format(number, value) for number, value in enumerate(self._aside(), start=1)
            ),
            target_is_aside=self._is_aside("t"),
            source_is_aside=self._is_aside(self.source.name),
        )

    def _is_aside(self, alias: str) -> sql.Composed:
        """The key of a row is that of an entry `q` of the quarantine."""
        return _all(
            sql.SQL("{} = {}").format(self._of(alias, one.name), value)
            for one, value in zip(self.key, self._aside(), strict=True)
        )

    def _aside(self) -> list[sql.Composed]:
        return [
            sql.SQL("(q.key ->> {})::{}").format(number, sendable(sql.SQL(type_)))
            for number, type_ in enumerate(self.key_types)
        ]

    @property
    def key_types(self) -> list[str]:
        """The types of the journal's columns."""
        return [_AS_WIDE_AS_CAN_BE.get(one.type, one.type) for one in self.key]

    def _bring(self, *, named: sql.Composable, gone: sql.Composable) -> sql.Composed:
        copied = [sql.SQL("s.v{}").format(number) for number, _ in enumerate(self.columns, start=1)]
        kept = [
            sql.SQL("CASE WHEN g.k1 IS NULL THEN s.d{0} ELSE g.o{0} END").format(number)
            for number, _ in enumerate(self.kept, start=1)
        ]
        return _SQL["bring"].format(
            target=self._target,
            columns=self._columns,
            chosen=_listed([*copied, *kept]),
            source_key=self._wide_key(),
            values=self._values(named=True),
            source=self._source,
            named=named,
            source_is_named=self._same_key(self.source.name),
            gone=gone,
            gone_is_source=_all(
                sql.SQL("g.k{0} = s.k{0}").format(number) for number, _ in enumerate(self.key, start=1)
            ),
        )

    def _values(self, *, named: bool = False) -> sql.Composed:
        """What the target's columns get, over the row of the source; with `named`, what it alone has too."""
        values = [self._value(one) for one in self.columns]
        if not named:
            return _listed(values)
        copied = [sql.SQL("{} AS v{}").format(one, number) for number, one in enumerate(values, start=1)]
        kept = [
            sql.SQL("{} AS d{}").format(expression(one.expression), number)
            for number, one in enumerate(self.kept, start=1)
        ]
        return _listed([*copied, *kept])

    def _value(self, column: CopiedColumn) -> sql.Composable:
        if column.expression is None:
            return self._of(self.source.name, column.name)
        return sql.SQL("CAST({} AS {})").format(expression(column.expression), sendable(sql.SQL(column.type)))

    def _given(self, keys: Sequence[Key]) -> Query:
        """Keys as a relation, and its parameters: an array of texts for each column."""
        numbers = range(1, len(self.key) + 1)
        casts = _listed(
            sql.SQL("u.t{0}::{1} AS k{0}").format(number, sendable(sql.SQL(type_)))
            for number, type_ in zip(numbers, self.key_types, strict=True)
        )
        arrays = _listed(sql.SQL("%s::text[]") for _ in numbers)
        names = _listed(sql.SQL("t{}").format(number) for number in numbers)
        return _SQL["given"].format(keys=casts, arrays=arrays, names=names), [
            list(one) for one in zip(*keys, strict=True)
        ]

    def _gone(self) -> sql.Composed:
        """What is known of a row of the target that goes: its key, and what the source does not have."""
        keys = [
            sql.SQL("{}::{} AS k{}").format(self._of("t", one.name), sendable(sql.SQL(type_)), number)
            for number, (one, type_) in enumerate(zip(self.key, self.key_types, strict=True), start=1)
        ]
        kept = [
            sql.SQL("{} AS o{}").format(self._of("t", one.name), number)
            for number, one in enumerate(self.kept, start=1)
        ]
        return _listed([*keys, *kept])

    def _same_key(self, alias: str = "t") -> sql.Composed:
        return _all(
            sql.SQL("{} = j.k{}").format(self._of(alias, one.name), number)
            for number, one in enumerate(self.key, start=1)
        )

    def _wide_key(self) -> sql.Composed:
        """The key of a row of the source, or of the target under the source's name."""
        return _listed(
            sql.SQL("{}::{} AS k{}").format(self._of(self.source.name, one.name), sendable(sql.SQL(type_)), number)
            for number, (one, type_) in enumerate(zip(self.key, self.key_types, strict=True), start=1)
        )

    def _not_aside(self, key_texts: Sequence[sql.Composable]) -> sql.Composed:
        return _SQL["not_aside"].format(key_texts=_listed(key_texts))

    def _names(self, alias: str = "") -> sql.Composed:
        qualifier = f"{alias}." if alias else ""
        return _listed(sql.SQL(f"{qualifier}k{number}") for number, _ in enumerate(self.key, start=1))

    def _texts(self, alias: str) -> sql.Composed:
        return _listed(
            sql.SQL("{}.k{}::text AS t{}").format(sql.SQL(alias), number, number)
            for number, _ in enumerate(self.key, start=1)
        )

    @staticmethod
    def _of(alias: str, column: str) -> sql.SQL:
        return sendable(sql.Identifier(alias, column))

    @property
    def _columns(self) -> sql.Composed:
        return _listed(_name(one) for one in (*(one.name for one in self.columns), *(one.name for one in self.kept)))

    @property
    def _source(self) -> sql.SQL:
        return sendable(self.source.identifier)

    @property
    def _target(self) -> sql.SQL:
        return sendable(self.target.identifier)

    @property
    def _journal(self) -> sql.SQL:
        return sendable(self.journal.identifier)


def unsent(query: sql.Composable) -> sql.Composed:
    """A statement for sending without parameters: percent signs stand for themselves then."""
    return sql.Composed([sql.SQL(query.as_string().replace("%%", "%"))])


def _name(column: str) -> sql.SQL:
    return sendable(sql.Identifier(column))


def _cast_text(value: sql.Composable) -> sql.Composed:
    return sql.SQL("{}::text").format(value)


def _listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _all(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(" AND ").join(parts)
