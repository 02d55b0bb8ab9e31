"""The journal: what batches replaced, one row for each of them, in arrays; the text of its statements is in `sql/templates`.

Each run has a table of its own, `backfilld.journal_RUN`, with an array for each key column and for the old and the new values of each
column that an operation writes. It is written in the statement that changes the rows, and only ever added to: a row that the run
has changed twice is in two batches, and the way back takes the newest first (`undo.py`).

Arrays are compressed whole (TOAST). A row for each changed row, with an index to find it again, doubled the WAL of a run; this adds
about 2 % (docs/benchmarks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.queries import queries, templates
from backfilld.migrations.rollback.retention import is_kept, table_of
from backfilld.migrations.walks.firing import Beside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from backfilld.migrations.facts import Target
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.definitions import KeyColumn
    from backfilld.migrations.walks.keys import KeyWalk, Query
    from backfilld.migrations.walks.update_sql import Update

_SQL = queries(__package__, "journal")
_TEMPLATES = templates(__package__, "journal")

#: RETURNING gives what a row was since this version.
RETURNS_OLD = 180_000

#: Types whose values are kept as they are. All others are kept as texts: an array of arrays must have one shape, a type of a user's
#: could not be dropped while the journal has it, and the bare names of some (`character`, `bit`) mean one of length 1.
_EXACT = frozenset(
    {
        "bigint", "integer", "smallint", "boolean", "uuid", "date", "timestamp with time zone", "timestamp without time zone",
    }
)  # fmt: skip
_VARYING = frozenset({"text", "character varying", "bytea", "json", "jsonb", "numeric"})
_FIXED = (_EXACT | {"real", "double precision", "interval"}) - {"boolean"}
_AS_THEY_ARE = _EXACT | _VARYING | {"real", "double precision", "interval"}

#: A row whose values take more than this is kept in an array of its own, which nothing has to hold in memory beside others.
WIDE_BYTES = 1000


@dataclass(frozen=True, kw_only=True)
class Form:
    """How values of a type are kept in the journal."""

    #: As the table has it.
    type: str
    #: Of the elements of its arrays.
    element: str

    @classmethod
    def of(cls, type_: str, plain_type: str = "") -> Form:
        """`plain_type`: without a domain and a limit of length, where that is known."""
        plain = plain_type or type_
        return cls(type=type_, element=plain if plain in _AS_THEY_ARE else "text")

    @property
    def is_fixed(self) -> bool:
        """Whether every value takes as many bytes, and more than one."""
        return self.element in _FIXED

    @property
    def varies(self) -> bool:
        """Whether a value may take many bytes."""
        return self.element in _VARYING

    def kept(self, value: sql.Composable) -> sql.Composed:
        """A value of the table's, as it is kept."""
        if self.element == "text":
            return self._as_text(value)
        return sql.SQL("CAST({} AS {})").format(value, sql.SQL(self.element))

    def given_back(self, kept: sql.Composable) -> sql.Composed:
        """A kept value, as the table has it."""
        return sql.SQL("CAST({} AS {})").format(kept, sendable(sql.SQL(self.type)))

    def is_same(self, value: sql.Composable, kept: sql.Composable) -> sql.Composed:
        """Whether a value of the table's is what was kept, letter by letter: many types take 1.0 for 1.00."""
        if self.element in _EXACT:
            return sql.SQL("{} IS NOT DISTINCT FROM {}").format(value, kept)
        return sql.SQL("{} IS NOT DISTINCT FROM {}").format(self._as_text(value), self._as_text(kept))

    def _as_text(self, value: sql.Composable) -> sql.Composed:
        # With a collation, because the column may have one of its own.
        return sql.SQL('{}::text COLLATE "C"').format(value)


@dataclass(frozen=True, kw_only=True)
class Column:
    """What the journal keeps of a key column, or of one that is written."""

    name: str
    form: Form

    @classmethod
    def of_key(cls, column: KeyColumn) -> Column:
        return cls(name=column.name, form=Form.of(column.type))

    @classmethod
    def of_target(cls, target: Target) -> Column:
        return cls(name=target.column, form=Form.of(target.type, target.plain_type))


@dataclass(frozen=True, kw_only=True)
class Journal:
    """Where a run keeps what an operation replaces."""

    run: int
    operation: int
    #: The table's key, and its name as expressions know it.
    walk: KeyWalk
    targets: Sequence[Target]

    @property
    def key(self) -> list[Column]:
        return [Column.of_key(one) for one in self.walk.key]

    @property
    def columns(self) -> list[Column]:
        """Those that are written."""
        return [Column.of_target(one) for one in self.targets]

    @property
    def arrays(self) -> list[tuple[sql.Identifier, Form, sql.Identifier]]:
        """The columns of its table: name, form, and the name of the value in our statements."""
        number = self.operation
        return [
            *((_array("key", number, n), one.form, key_name(n)) for n, one in enumerate(self.key)),
            *((_array("old", number, n), one.form, self.was(n)) for n, one in enumerate(self.columns)),
            *((_array("new", number, n), one.form, self.now(n)) for n, one in enumerate(self.columns)),
        ]

    def stored(self, *, has_lz4: bool) -> list[sql.Composed]:
        """How its arrays are to lie on disk, as actions of an ALTER TABLE; none: compressed as the server does it."""
        del has_lz4
        return []

    def was(self, number: int) -> sql.Identifier:
        """What a column was before the batch, in our statements; no column of a user's is called that."""
        return sql.Identifier(f"~was_{self.operation}_{number}")

    def now(self, number: int) -> sql.Identifier:
        """What a column is after it."""
        return sql.Identifier(f"~is_{self.operation}_{number}")

    @property
    def differs(self) -> sql.Composable:
        """Whether a row has another value now in a column that is written."""
        return sql.SQL(" OR ").join(
            sql.SQL("NOT {}").format(one.form.is_same(self.was(n), self.now(n))) for n, one in enumerate(self.columns)
        )

    def kept(self, changed: sql.Composable, *, pass_: int) -> sql.Composed:
        """The parts of a statement that keep what it replaced, where a column of this operation has another value now."""
        sizes = [name for _, form, name in self.arrays if form.varies]
        wide = sql.SQL("{} > {}").format(
            sql.SQL(" + ").join(sql.SQL("coalesce(pg_catalog.pg_column_size({}), 0)").format(name) for name in sizes),
            sql.Literal(WIDE_BYTES),
        )
        return _TEMPLATES["kept"].format(
            journal=table_of("journal", self.run).identifier,
            entry=sql.Identifier(f"~entry_{self.operation}"),
            wide_entry=sql.Identifier(f"~wide_{self.operation}"),
            operation=sql.Literal(self.operation),
            number=sql.Literal(pass_),
            columns=_list(column for column, _, _ in self.arrays),
            arrays=_list(sql.SQL("array_agg({})").format(name) for _, _, name in self.arrays),
            alone=_list(sql.SQL("ARRAY[{}]").format(name) for _, _, name in self.arrays),
            names=_list(name for _, _, name in self.arrays),
            wide=wide if sizes else sql.SQL("false"),
            differs=sql.SQL("({})").format(self.differs),
            changed=changed,
        )


def written(update: Update, journals: Sequence[Journal], *, still: sql.Composable, pass_: int, version: int) -> Query:
    """The update, which writes into the journals what it replaces; gives what `Update.told` gives.

    Before 18 an UPDATE cannot tell what a row was, so the rows are read first, and locked as the update would.
    """
    changed, parameters = (
        _changed(update, journals, still) if version >= RETURNS_OLD else _changed_before_18(update, journals, still)
    )
    kept = _all_kept(journals, sql.SQL("changed"), pass_=pass_)
    return _TEMPLATES["journaled"].format(changed=changed, kept=kept), parameters


def beside_firing(journals: Sequence[Journal], *, pass_: int) -> Beside:
    """What `firing` does besides, so that it writes into the journals what it replaces."""
    if not journals:
        return Beside()
    table = journals[0].walk.table.name
    columns = [(one, n, column) for one in journals for n, column in enumerate(one.columns)]
    return Beside(
        carried=[(column.form.kept(_column(table, column.name)), one.was(n)) for one, n, column in columns],
        told=[
            *((column.form.kept(key_name(n)), key_name(n)) for n, column in enumerate(journals[0].key)),
            *((one.was(n), one.was(n)) for one, n, _ in columns),
        ],
        columns=[(column.name, column.form.kept, one.now(n)) for one, n, column in columns],
        last=sql.SQL(", {}").format(_all_kept(journals, sql.SQL('"~told"'), pass_=pass_)),
    )


def told_query(
    update: Update, journals: Sequence[Journal], *, still: sql.Composable | None, pass_: int, version: int
) -> Query:
    """The update that gives `changed`, and `residual`: how many of the changed rows meet the condition `still`."""
    if journals:
        still = still if still is not None else sql.SQL("false")
        return written(update, journals, still=still, pass_=pass_, version=version)
    return update.told(still) if still is not None else update.query


def _changed(update: Update, journals: Sequence[Journal], still: sql.Composable) -> Query:
    query, parameters = update.query
    changed = _TEMPLATES["changed"].format(
        update=query,
        key=_keys("~after", journals[0]),
        was=_values("~before", journals, Journal.was),
        now=_values("~after", journals, Journal.now),
        still=still,
    )
    return changed, parameters


def _changed_before_18(update: Update, journals: Sequence[Journal], still: sql.Composable) -> Query:
    table, key = journals[0].walk.table.name, list(enumerate(journals[0].key))
    picked = update.condition
    if update.source is None:
        picked = sql.SQL("{} AND {}").format(update.condition, update.needs_work)
    changed = _TEMPLATES["changed_before_18"].format(
        picked_key=_list(sql.SQL("{} AS {}").format(_column(table, one.name), key_name(n)) for n, one in key),
        picked_condition=picked,
        was=_values(table, journals, Journal.was),
        table=update.table,
        sets=update.sets,
        source=sql.SQL("FROM {},").format(update.source) if update.source is not None else sql.SQL("FROM"),
        condition=update.condition,
        same=sql.SQL(" AND ").join(
            sql.SQL('{} = "~picked".{}').format(_column(table, one.name), key_name(n)) for n, one in key
        ),
        needs_work=update.needs_work,
        key=_keys(table, journals[0]),
        kept=_list(sql.SQL('"~picked".{}').format(one.was(n)) for one in journals for n, _ in enumerate(one.columns)),
        now=_values(table, journals, Journal.now),
        still=still,
    )
    return changed, [*update.parameters, *update.source_parameters, *update.parameters]


def _all_kept(journals: Sequence[Journal], changed: sql.Composable, *, pass_: int) -> sql.Composed:
    return _list(one.kept(changed, pass_=pass_) for one in journals)


def _keys(table: str, journal: Journal) -> sql.Composed:
    return _list(
        sql.SQL("{} AS {}").format(one.form.kept(_column(table, one.name)), key_name(n))
        for n, one in enumerate(journal.key)
    )


def _values(table: str, journals: Sequence[Journal], name: Callable[[Journal, int], sql.Identifier]) -> sql.Composed:
    return _list(
        sql.SQL("{} AS {}").format(column.form.kept(_column(table, column.name)), name(one, n))
        for one in journals
        for n, column in enumerate(one.columns)
    )


def make(connection: Connection, run: int, journals: Sequence[Journal]) -> None:
    """Make the journal of a run, if it is not there."""
    if is_kept(connection, "journal", run):
        return
    table = table_of("journal", run)
    arrays = [
        sql.SQL("{} {}[]").format(column, sql.SQL(form.element)) for one in journals for column, form, _ in one.arrays
    ]
    connection.execute(_TEMPLATES["journal"].format(journal=table.identifier, arrays=_list(arrays)))
    row = connection.execute(_SQL["has_lz4"]).fetchone()
    if actions := [action for one in journals for action in one.stored(has_lz4=bool(row and row["has_lz4"]))]:
        connection.execute(_TEMPLATES["stored"].format(journal=table.identifier, actions=_list(actions)))
    connection.execute(_SQL["hide"], {"name": table.identifier.as_string()})


def key_name(number: int) -> sql.Identifier:
    """The key of a row, in our statements; no column of a user's is called that."""
    return sql.Identifier(f"~key_{number}")


def _array(what: str, operation: int, number: int) -> sql.Identifier:
    return sql.Identifier(f"{what}_{operation}_{number}")


def _column(table: str, column: str) -> sql.SQL:
    return sendable(sql.Identifier(table, column))


def _list(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
