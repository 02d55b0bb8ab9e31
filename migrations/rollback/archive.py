"""The archive: what a contract removes, and the values that come back out of it; the text of its statements is in `sql/templates`.

How an operation that removes a column uses it, its `contract` and the way back of that:

    Walk(kind="archive", operation=number, table=table, key=facts.key, archived=Archived(old=("total",), new=("revenue",)))
    Action(DROP COLUMN total, back=(
        Action(ADD COLUMN total),
        Walk(kind="restore", operation=number, table=table, key=facts.key, rewrite=Rewrite(
            table=table, facts=facts, assignments=(Assignment(target=target, expression=restored(
                table=table, type_="integer", new=("revenue",), fallback="revenue::integer")),))),
    ))

`archived.new` and `restored`'s `new` name the same columns, or none where nothing replaced the one that goes. Several columns that go
together are kept as one text, the array of theirs; `restored`'s `place` says which of them is meant. `facts.key` must be filled, which preflight does for an operation that walks: see `backfilld.migrations.planning.checks.walks.with_key`.

Each run has a table of its own, `backfilld.archive_RUN`. An entry holds up to a thousand rows of a batch in arrays, which are compressed
whole: 8 bytes of WAL for a row of numbers or short texts, where a row for each row, with an index to find it by, took 377. Entries are
found by the range of keys that they hold. No two entries of several rows overlap: rows that are looked at again, because they are
new or have changed since, get entries of their own, and the newest of a row counts. `backfilld.archived(run)` shows them to people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.queries import queries, templates
from backfilld.migrations.rollback.journal import WIDE_BYTES, Column
from backfilld.migrations.rollback.retention import table_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.walks.keys import KeyWalk

_SQL = queries(__package__, "archive")
_TEMPLATES = templates(__package__, "archive")

#: Rows of an entry, at most. Whoever restores a few rows reads the entry whole, and more rows are hardly compressed any better.
ENTRY_ROWS = 1000

_OLD, _NEW = sql.Identifier("~old"), sql.Identifier("~new")


def restored(*, table: TableName, type_: str, fallback: str, new: Sequence[str] = (), place: int | None = None) -> str:
    """SQL over a row of `table`, beside its row of `Archive.source`: the value it had when it was archived, or else `fallback`.

    The archived value counts while what replaced it is still what it was, letter by letter; with no `new` it always counts.
    `fallback` is an expression over the row, for rows that were written or added since. `place` is the number of the column among
    those that were archived together, from 1; None where it was archived alone.
    """
    same = f' AND "~archived"."~new" IS NOT DISTINCT FROM {_text(table, new).as_string()}' if new else ""
    value = '"~archived"."~old"' if place is None else f'(CAST("~archived"."~old" AS text[]))[{place}]'
    return (
        f'CASE WHEN "~archived"."~is_held"{same} THEN CAST({value} AS {type_}) '  # the type is format_type's own
        f"ELSE (\n{fallback}\n) END"
    )


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Where a run keeps the column that an operation removes."""

    run: int
    operation: int
    #: The table's key, and its name as expressions know it.
    walk: KeyWalk

    @property
    def table(self) -> TableName:
        return table_of("archive", self.run)

    def make(self, connection: Connection) -> None:
        """Make it, if it is not there; blocks no other session."""
        archive = self.table.identifier
        known = {"archive": archive.as_string(), "operation": self.operation}
        row = connection.execute(_SQL["has_operation"], known).fetchone()
        if row and row["there"]:
            return
        connection.execute(_TEMPLATES["archive"].format(archive=archive))
        connection.execute(_SQL["hide"], {"archive": archive.as_string()})
        connection.execute(_TEMPLATES["columns"].format(archive=archive, columns=self._definitions(connection)))
        for template in ("by_last", "several_by_last"):
            name = sql.Identifier(f"{self.table.name}_{self.operation}_{template}")
            connection.execute(
                _TEMPLATES[template].format(
                    name=name, archive=archive, last=_list(self._lasts), operation=sql.Literal(self.operation)
                )
            )

    def copy(self, condition: sql.Composable, *, old: Sequence[str], new: Sequence[str] = ()) -> sql.Composed:
        """Copy the columns `old` and `new` of rows that meet the condition, where the archive does not have them as they are.

        Gives `changed`, the rows that were copied, and `missing`, those of them that the archive did not have at all.
        """
        names = self._names
        kept = [one.form.kept(name) for one, name in zip(self._key, names, strict=True)]
        measured = [one for one, column in zip(kept, self._key, strict=True) if column.form.varies]
        wide = sql.SQL(" + ").join(
            sql.SQL("coalesce(pg_catalog.pg_column_size({}), 0)").format(one)
            for one in (*measured, sql.Identifier("~old_now"), sql.Identifier("~new_now"))
        )
        values = [*kept, _OLD, _NEW]
        return _TEMPLATES["copy"].format(
            held=self._held(condition, old=old, new=new),
            names=_list(names),
            wide=sql.SQL("{} > {}").format(wide, sql.Literal(WIDE_BYTES)),
            archive=self.table.identifier,
            operation=sql.Literal(self.operation),
            columns=_list([*self._firsts, *self._lasts, *self._arrays]),
            most=sql.Literal(ENTRY_ROWS),
            ends=_list(
                sql.SQL("{}({}) OVER part AS {}").format(sql.SQL(which), name, end)
                for which, ends in (("first_value", self._firsts), ("last_value", self._lasts))
                for name, end in zip(names, ends, strict=True)
            ),
            end_names=_list([*self._firsts, *self._lasts]),
            gathered=_list(sql.SQL("array_agg({} ORDER BY {})").format(one, _list(names)) for one in values),
            alone=_list(sql.SQL("ARRAY[{}]").format(one) for one in values),
        )

    def unarchived(self, condition: sql.Composable) -> sql.Composed:
        """Give `rows`: how many rows that meet the condition the archive does not have."""
        return _TEMPLATES["unarchived"].format(held=self._held(condition))

    def missing(self, *, limit: int) -> sql.Composed:
        """The keys (`key text[]`) of rows of the whole table that the archive does not have, a few at most, and how many `rows` there are."""
        return _TEMPLATES["missing"].format(
            held=self._held(sql.SQL("true")),
            key=sql.SQL(", ").join(sql.SQL("{}::text").format(name) for name in self._names),
            names=_list(self._names),
            limit=sql.Literal(limit),
        )

    def source(self, condition: sql.Composable) -> sql.Composed:
        """What `restored` reads, for the rows that meet the condition."""
        return _TEMPLATES["source"].format(held=self._held(condition), names=_list(self._names))

    @property
    def same(self) -> sql.Composed:
        """That a row of the table is the one beside it in `source`."""
        return sql.SQL(" AND ").join(
            sql.SQL('{} = "~archived".{}').format(self._column(one), name)
            for one, name in zip(self._key, self._names, strict=True)
        )

    def _held(self, condition: sql.Composable, *, old: Sequence[str] = (), new: Sequence[str] = ()) -> sql.Composed:
        names, table = self._names, self.walk.table
        kept = [sql.Identifier(f"~kept_{n}") for n, _ in enumerate(names)]
        of_entry = [
            one.form.given_back(sql.SQL("one.{}").format(name)) for one, name in zip(self._key, kept, strict=True)
        ]
        values = [
            sql.SQL("{} AS {}").format(sendable(_text(table, columns)) if columns else sql.SQL("NULL::text"), name)
            for columns, name in ((old, _OLD), (new, _NEW))
        ]
        return _TEMPLATES["held"].format(
            key=_list(
                sql.SQL("{} AS {}").format(self._column(one), name) for one, name in zip(self._key, names, strict=True)
            ),
            values=_list(values),
            table=sendable(table.identifier),
            condition=condition,
            ascending=_list(names),
            descending=_list(sql.SQL("{} DESC").format(name) for name in names),
            arrays=_list(self._arrays),
            archive=self.table.identifier,
            operation=sql.Literal(self.operation),
            first=_row(self._firsts),
            last=_row(self._lasts),
            first_names=_list(self._firsts),
            last_names=_list(self._lasts),
            from_first=_row(self._at("~first")),
            from_last=_row(self._at("~last")),
            names=_list(names),
            kept=_list(kept),
            unnested=_list(of_entry),
            of_entry=_row(of_entry),
            near_arrays=_list(sql.SQL("near.{}").format(name) for name in self._arrays),
        )

    def _definitions(self, connection: Connection) -> sql.Composed:
        """Its columns for this operation, as ALTER TABLE adds them."""
        rows = connection.execute(
            _SQL["collations"],
            {"table": self.walk.table.identifier.as_string(), "columns": [one.name for one in self._key]},
        )
        collations = {row["name"]: row["collation"] for row in rows}
        columns = [
            sql.SQL("{} {}{}").format(
                name,
                sql.SQL(one.form.type),  # format_type's own
                sql.SQL(f" COLLATE {found}" if (found := collations.get(one.name)) else ""),  # quoted by PostgreSQL
            )
            for names in (self._firsts, self._lasts)
            for one, name in zip(self._key, names, strict=True)
        ]
        elements = [*(one.form.element for one in self._key), "text", "text"]
        columns += [
            sql.SQL("{} {}[]").format(name, sql.SQL(element))
            for name, element in zip(self._arrays, elements, strict=True)
        ]
        return _list(sql.SQL("ADD COLUMN {}").format(column) for column in columns)

    @property
    def _key(self) -> list[Column]:
        return [Column.of_key(one) for one in self.walk.key]

    # Names: of the columns of the archive, and in our statements; no column of a user's is called that.

    @property
    def _firsts(self) -> list[sql.Identifier]:
        return self._named("first")

    @property
    def _lasts(self) -> list[sql.Identifier]:
        return self._named("last")

    @property
    def _arrays(self) -> list[sql.Identifier]:
        values = [sql.Identifier(f"{what}_{self.operation}") for what in ("old", "new")]
        return [*self._named("key"), *values]

    def _named(self, what: str) -> list[sql.Identifier]:
        return [sql.Identifier(f"{what}_{self.operation}_{n}") for n, _ in enumerate(self.walk.key)]

    @property
    def _names(self) -> list[sql.Identifier]:
        return [sql.Identifier(f"~key_{n}") for n, _ in enumerate(self.walk.key)]

    def _at(self, end: str) -> list[sql.Composed]:
        """The first or the last key of the batch's rows."""
        return [sql.SQL("(SELECT {} FROM {})").format(name, sql.Identifier(end)) for name in self._names]

    def _column(self, column: Column) -> sql.SQL:
        return sendable(sql.Identifier(self.walk.table.name, column.name))


def _text(table: TableName, columns: Sequence[str]) -> sql.Composed:
    """One column as a text, or several as that of the array of their texts."""
    # Qualified, so that no other column can be meant; with a collation, because the column may have one of its own.
    texts = [sql.SQL('{}::text COLLATE "C"').format(sql.Identifier(table.name, column)) for column in columns]
    return texts[0] if len(texts) == 1 else sql.SQL('ARRAY[{}]::text COLLATE "C"').format(_list(texts))


def _list(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _row(parts: list[sql.Identifier] | list[sql.Composed]) -> sql.Composable:
    # A row of one column would be `ROW(a)`, which no index serves.
    return parts[0] if len(parts) == 1 else sql.SQL("({})").format(_list(parts))
