"""The way back of a load: rows that are as it left them get their old values, or are deleted where it inserted them.

A row that was inserted goes only while all of it is as it was, columns that were not loaded included, and while no other row refers to
it; else it is left, and named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.loading.loaded_rows import DIGEST, INSERTED, LoadedRows
from backfilld.migrations.queries import templates
from backfilld.migrations.rollback.journal import key_name
from backfilld.migrations.rollback.undo import Undo
from backfilld.migrations.walks.firing import THEIRS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.facts import LoadFacts
    from backfilld.migrations.walks.keys import Query
    from backfilld.migrations.walks.next_batch import JournalSlice

_TEMPLATES = templates(__package__, "unload")


@dataclass(frozen=True, kw_only=True)
class Unload(Undo):
    """The statements of the way back."""

    journal: LoadedRows
    facts: LoadFacts

    def query(self, covered: JournalSlice) -> Query:
        """Gives `changed`; afterwards the application's settings are in force."""
        table, journal = self.journal.walk.table, self.journal
        columns = list(enumerate(journal.columns))
        given = sql.SQL('"~given".{}')
        is_inserted = given.format(INSERTED)
        now = journal.digest(
            [self._column(one.name) for _, one in columns],
            [self._column(name) for name in journal.others],
            inserted=is_inserted,
        )
        untouched = [sql.SQL("{} = {}").format(now, given.format(DIGEST))]
        if found := [sql.SQL("NOT ({})").format(one) for one in self._references()]:
            untouched.append(sql.SQL("(NOT {} OR {})").format(is_inserted, sql.SQL(" AND ").join(found)))
        query = _TEMPLATES["unload"].format(
            held=self._held,
            given=self._given,
            picked=_list(
                [
                    sql.SQL('"~given"."~number"'),
                    given.format(INSERTED),
                    *(given.format(_key(n)) for n, _ in enumerate(journal.key)),
                    *(given.format(_old(n)) for n, _ in columns),
                ]
            ),
            table=sendable(table.identifier),
            name=sendable(sql.Identifier(table.name)),
            same=self._same("~given"),
            same_picked=self._same("~picked"),
            untouched=sql.SQL(" AND ").join(untouched),
            sets=_list(
                sql.SQL('{} = "~picked".{}').format(sendable(sql.Identifier(one.name)), _old(n)) for n, one in columns
            )
            if columns
            else self._key_as_it_is,
            left=self._left(_TEMPLATES["undone"], covered),
            theirs=THEIRS,
        )
        return query, covered.parameters

    def lock(self, covered: JournalSlice) -> Query | None:
        """What is sent before, where other tables may refer to the rows; None where none does."""
        if not self.facts.referrers:
            return None
        table = self.journal.walk.table
        query = _TEMPLATES["lock"].format(
            held=self._held,
            given=self._given,
            table=sendable(table.identifier),
            name=sendable(sql.Identifier(table.name)),
            same=self._same("~given"),
        )
        return query, covered.parameters

    @property
    def _given(self) -> sql.Composed:
        held = sql.SQL('"~held".{}')
        journal = self.journal
        parts = [sql.SQL('"~held"."~number"'), held.format(INSERTED), held.format(DIGEST)]
        parts += [
            sql.SQL("{} AS {}").format(one.form.given_back(held.format(key_name(n))), _key(n))
            for n, one in enumerate(journal.key)
        ]
        parts += [
            sql.SQL("{} AS {}").format(one.form.given_back(held.format(journal.was(n))), _old(n))
            for n, one in enumerate(journal.columns)
        ]
        return _list(parts)

    def _same(self, alias: str) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("{} = {}.{}").format(self._column(one.name), sql.Identifier(alias), _key(n))
            for n, one in enumerate(self.journal.key)
        )

    @property
    def _key_as_it_is(self) -> sql.Composed:
        first = self.journal.key[0].name
        return sql.SQL("{} = {}").format(sendable(sql.Identifier(first)), self._column(first))

    def _references(self) -> list[sql.Composed]:
        return [
            _TEMPLATES["refers"].format(
                relation=sendable(sql.SQL(one.relation)),
                same=sql.SQL(" AND ").join(
                    sql.SQL("child.{} = {}").format(sendable(sql.Identifier(column)), self._column(referenced))
                    for column, referenced in zip(one.columns, one.referenced, strict=True)
                ),
            )
            for one in self.facts.referrers
        ]

    def _column(self, name: str) -> sql.SQL:
        return sendable(sql.Identifier(self.journal.walk.table.name, name))


def _key(number: int) -> sql.Identifier:
    return sql.Identifier(f"~back_key_{number}")


def _old(number: int) -> sql.Identifier:
    return sql.Identifier(f"~back_{number}")


def _list(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
