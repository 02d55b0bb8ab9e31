"""The way back by the journal: rows get their old values, where they are still what the run made them.

The newest batch goes first, so that a row which was changed twice goes back in two steps to what it was at first; a value that the
application wrote in between stops it there. A lane takes one share of all rows, by a hash of their keys, and goes through all
batches: so it meets the changes of a row in their order. Of a key that is one number blocks are shared and not single rows, so
that two lanes do not meet on a page.

The batches of the way there went round the pages of the table in stripes; taken in reverse, they leave room on each page for its
next row as they did then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import tuple_row

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.queries import queries, templates
from backfilld.migrations.record.model import JournalShare
from backfilld.migrations.rollback.journal import Column, Journal, key_name
from backfilld.migrations.rollback.retention import MOST_KEYS, is_kept, table_of
from backfilld.migrations.walks.firing import Beside, firing
from backfilld.migrations.walks.next_batch import JournalSlice
from backfilld.migrations.walks.update_sql import Update

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.definitions import KeyColumn
    from backfilld.migrations.record.model import Key
    from backfilld.migrations.walks.firing import TableCode
    from backfilld.migrations.walks.keys import Query

_SQL = queries(__package__, "journal")
_TEMPLATES = templates(__package__, "undo")

#: No batch has a higher number.
_ABOVE_ALL = 2**63 - 1
#: Less than this is not worth a second lane.
LEAST_ROWS_A_LANE = 1000
#: Into so many blocks a sequential key is cut: enough that lanes have equally many, also once they are divided.
BLOCKS = 1024


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a lane is: batches above `batch` are done, and of this one what comes before a row of an entry."""

    batch: int = _ABOVE_ALL
    entry: int = 0
    #: Rows of the entry that are done.
    row: int = 0

    def to_json(self) -> dict[str, int]:
        return {"batch": self.batch, "entry": self.entry, "row": self.row}

    @classmethod
    def from_json(cls, value: Mapping[str, int] | None) -> Place:
        return cls(**value) if value is not None else cls()


@dataclass(frozen=True, kw_only=True)
class Next:
    """What a lane undoes next, and where it is afterwards."""

    slice: JournalSlice
    after: Place

    @classmethod
    def of(cls, place: Place, seen: tuple[int, ...], *, rows: int) -> Next:
        """`seen` is what `Undo.look` gives; about `rows` rows of the journal."""
        batch, entry, held, pass_, last_entry = seen
        done = place.row if (place.batch, place.entry) == (batch, entry) else 0
        if entry > 0:
            last = min(entry + rows - 1, last_entry)
            covered = JournalSlice(batch=batch, entry=entry, last_entry=last, first=1, last=1, pass_=pass_)
            return cls(slice=covered, after=Place(batch=batch, entry=last + 1))
        last = min(done + rows, held)
        covered = JournalSlice(batch=batch, entry=0, last_entry=0, first=done + 1, last=last, pass_=pass_)
        after = Place(batch=batch, row=last) if last < held else Place(batch=batch, entry=1)
        return cls(slice=covered, after=after)


@dataclass(frozen=True, kw_only=True)
class Undo:
    """The statements that give rows of a table back what they were."""

    journal: Journal
    share: JournalShare

    def look(self, place: Place) -> Query:
        """Gives what comes at `place`; no row at the end of the way."""
        query = _TEMPLATES["next"].format(journal=self._table, operation=sql.Literal(self.journal.operation))
        return query, [place.batch, place.batch, place.entry]

    def query(self, covered: JournalSlice) -> Query:
        """Gives `changed`."""
        query = _TEMPLATES["undo"].format(
            held=self._held,
            update=self._update.query[0],
            left=self._left(sql.SQL("SELECT number FROM undone"), covered),
        )
        return query, covered.parameters

    def firing(self, covered: JournalSlice, code: TableCode) -> Query:
        """The same where the table runs code of its own; a row that a trigger keeps as it is counts as left."""
        beside = Beside(
            carried=[(sql.SQL('"~held"."~number"'), sql.Identifier("~with"))],
            told=[(sql.Identifier("~with"), sql.Identifier("~with"))],
            first=sql.SQL("{}, ").format(self._held),
            first_parameters=covered.parameters,
            last=sql.SQL(", {}").format(self._left(_TEMPLATES["as_asked"], covered)),
        )
        walk = self.journal.walk
        return firing(self._update, walk, walk.table, code, still=None, beside=beside, by_key=True)

    def keys(self, connection: Connection, covered: JournalSlice) -> list[Key]:
        """The keys of the rows that a slice holds of this share."""
        query = _TEMPLATES["keys"].format(held=self._held)
        with connection.cursor(row_factory=tuple_row) as cursor:
            return [tuple(key) for (key,) in cursor.execute(query, covered.parameters)]

    @property
    def _table(self) -> sql.Identifier:
        return table_of("journal", self.journal.run).identifier

    @property
    def _held(self) -> sql.Composed:
        arrays = self.journal.arrays
        key: sql.Composable = sql.SQL('one."~key"')
        if self.share.block > 1:
            key = sql.SQL("ARRAY[one.{} / {}]").format(key_name(0), sql.Literal(self.share.block))
        parts, part = sql.Literal(self.share.parts), sql.Literal(self.share.part)
        share = _TEMPLATES["share" if self.share.parts > 1 else "all"].format(key=key, parts=parts, part=part)
        return _TEMPLATES["held"].format(
            journal=self._table,
            operation=sql.Literal(self.journal.operation),
            key=_list(sql.SQL('kept.{}::text COLLATE "C"').format(key_name(n)) for n, _ in enumerate(self._key)),
            arrays=_list(sql.SQL("j.{}").format(column) for column, _, _ in arrays),
            names=_list(name for _, _, name in arrays),
            share=share,
        )

    def _left(self, undone: sql.Composable, covered: JournalSlice) -> sql.Composed:
        return _TEMPLATES["left"].format(
            run=sql.Literal(self.journal.run),
            operation=sql.Literal(self.journal.operation),
            undone=undone,
            is_later=sql.SQL("true" if covered.pass_ > 1 else "false"),
        )

    @property
    def _update(self) -> Update:
        table, held = self.journal.walk.table, sql.SQL('"~held".{}')
        return Update(
            table=sendable(table.identifier),
            values=[
                (target, one.form.given_back(held.format(self.journal.was(n))))
                for n, (target, one) in enumerate(zip(self.journal.targets, self.journal.columns, strict=True))
            ],
            condition=sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(
                    sendable(sql.Identifier(table.name, one.name)), one.form.given_back(held.format(key_name(n)))
                )
                for n, one in enumerate(self._key)
            ),
            parameters=(),
            needs_work=sql.SQL(" AND ").join(
                one.form.is_same(sendable(sql.Identifier(table.name, one.name)), held.format(self.journal.now(n)))
                for n, one in enumerate(self.journal.columns)
            ),
            source=sql.SQL('"~held"'),
        )

    @property
    def _key(self) -> list[Column]:
        return self.journal.key


def shares(
    connection: Connection, run: int, *, operation: int, lanes: int, key: Sequence[KeyColumn]
) -> tuple[list[JournalShare], int]:
    """The rows that the journal has of an operation, for up to `lanes` lanes, and how many those are; none where it has none."""
    if not is_kept(connection, "journal", run):
        return [], 0
    query = _TEMPLATES["rows"].format(journal=table_of("journal", run).identifier)
    row = connection.execute(query, {"operation": operation}).fetchone()
    rows = int(row["rows"]) if row else 0
    parts = max(1, min(lanes, rows // LEAST_ROWS_A_LANE))
    is_number = [column.type for column in key] in (["smallint"], ["integer"], ["bigint"])
    block = max(rows // BLOCKS, 1) if is_number else 1
    return [JournalShare(parts=parts, part=part, block=block) for part in range(parts)] if rows else [], rows


def split(share: JournalShare) -> tuple[JournalShare, JournalShare]:
    """Two halves of a share."""
    kept = replace(share, parts=2 * share.parts)
    return kept, replace(kept, part=share.part + share.parts)


def leave(connection: Connection, run: int, *, operation: int, key: Key) -> None:
    """Put down that a row cannot be given its old value back."""
    connection.execute(_SQL["leave_row"], {"run": run, "operation": operation, "key": list(key)})


def left(connection: Connection, run: int, *, operation: int) -> dict[str, Any]:
    """What the undo of an operation has left as it is: `left`, how many rows, and the keys of the first. Any: JSON."""
    parameters = {"run": run, "operation": operation, "most": MOST_KEYS}
    return dict(connection.execute(_SQL["undo_rows"], parameters).fetchone() or {})


def _list(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
