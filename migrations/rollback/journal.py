"""The journal: what a batch replaced, row by row, and the way back by it; the text of its statements is in `sql/templates`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.definitions import KeyColumn
from backfilld.migrations.queries import queries, templates
from backfilld.migrations.record.model import Bounds
from backfilld.migrations.rollback.archive import array, key_array
from backfilld.migrations.rollback.retention import MOST_KEYS, has_partition, partition
from backfilld.migrations.walks.firing import Beside, firing
from backfilld.migrations.walks.keys import KeyWalk, split_within
from backfilld.migrations.walks.update_sql import Update

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.facts import Target
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Key
    from backfilld.migrations.walks.firing import TableCode
    from backfilld.migrations.walks.keys import Query

_SQL = queries(__package__, "journal")
_TEMPLATES = templates(__package__, "journal")

#: RETURNING gives what a row was since this version.
RETURNS_OLD = 180_000


@dataclass(frozen=True, kw_only=True)
class Journal:
    """Where a run writes what an operation replaces."""

    run: int
    operation: int
    #: The table's key, and its name as expressions know it.
    walk: KeyWalk
    #: The columns that are written, in the order of the operation's targets.
    columns: tuple[str, ...]

    def written(self, update: Update, *, still: sql.Composable, version: int) -> Query:
        """The update, which writes into the journal what it replaces; gives what `Update.told` gives.

        Before 18 an UPDATE cannot tell what a row was, so the rows are read first, and locked as the update would.
        """
        changed, parameters = (
            self._changed(update, still) if version >= RETURNS_OLD else self._changed_before_18(update, still)
        )
        kept = self._kept(was=sql.SQL('"~was"'), changed=sql.SQL("changed"))
        return _TEMPLATES["journaled"].format(changed=changed, kept=kept), parameters

    @property
    def beside_firing(self) -> Beside:
        """What `firing` does besides, so that it writes into the journal what it replaces."""
        kept = self._kept(was=sql.SQL('"~with"'), changed=sql.SQL('"~told"'))
        return Beside(
            carried=array(self.walk.table.name, self.columns), columns=self.columns, last=sql.SQL(", {}").format(kept)
        )

    def _kept(self, *, was: sql.Composable, changed: sql.Composable) -> sql.Composed:
        return _TEMPLATES["kept"].format(
            journal=partition("journal", self.run).identifier,
            run=sql.Literal(self.run),
            operation=sql.Literal(self.operation),
            was=was,
            changed=changed,
        )

    def _changed(self, update: Update, still: sql.Composable) -> Query:
        query, parameters = update.query
        changed = _TEMPLATES["changed"].format(
            update=query,
            key=key_array(self.walk),
            was=array("~before", self.columns),
            now=array("~after", self.columns),
            still=still,
        )
        return changed, parameters

    def _changed_before_18(self, update: Update, still: sql.Composable) -> Query:
        table = self.walk.table.name
        keys = [
            (sendable(sql.Identifier(table, one.name)), sql.Identifier(f"~key_{n}"))
            for n, one in enumerate(self.walk.key)
        ]
        picked = update.condition
        if update.source is None:
            picked = sql.SQL("{} AND {}").format(update.condition, update.needs_work)
        changed = _TEMPLATES["changed_before_18"].format(
            picked_key=sql.SQL(", ").join(sql.SQL("{} AS {}").format(*pair) for pair in keys),
            picked_condition=picked,
            was=array(table, self.columns),
            table=update.table,
            sets=update.sets,
            source=sql.SQL("FROM {},").format(update.source) if update.source is not None else sql.SQL("FROM"),
            condition=update.condition,
            same=sql.SQL(" AND ").join(sql.SQL('{} = "~picked".{}').format(*pair) for pair in keys),
            needs_work=update.needs_work,
            key=key_array(self.walk),
            now=array(table, self.columns),
            still=still,
        )
        return changed, [*update.parameters, *update.source_parameters, *update.parameters]


def told_query(update: Update, journal: Journal | None, *, still: sql.Composable | None, version: int) -> Query:
    """The update that gives `changed`, and `residual`: how many of the changed rows meet the condition `still`."""
    if journal is not None:
        return journal.written(update, still=still if still is not None else sql.SQL("false"), version=version)
    return update.told(still) if still is not None else update.query


@dataclass(frozen=True, kw_only=True)
class Undo:
    """Give rows of a table back what they were, and take those out of the journal; a batch of it, over keys of the journal."""

    journal: KeyWalk
    table: KeyWalk
    targets: Sequence[Target]
    operation: int

    def query(self, condition: sql.Composable, parameters: Sequence[Any]) -> Query:
        """Gives `changed`. Any: key values."""
        query = _TEMPLATES["undo"].format(
            held=self._held(condition),
            update=self._update.query[0],
            journal=self.journal.table.identifier,
            name=sql.Identifier(self.journal.table.name),
            operation=sql.Literal(self.operation),
        )
        return query, list(parameters)

    def firing(self, condition: sql.Composable, parameters: Sequence[Any], code: TableCode) -> Query:
        """The same where the table runs code of its own; a row that a trigger keeps as it is stays in the journal."""
        gone = _TEMPLATES["gone"].format(
            journal=self.journal.table.identifier,
            name=sql.Identifier(self.journal.table.name),
            operation=sql.Literal(self.operation),
        )
        beside = Beside(
            carried=sql.SQL('"~held"."~key"'),
            first=sql.SQL("{}, ").format(self._held(condition)),
            first_parameters=parameters,
            last=sql.SQL(", {}").format(gone),
        )
        return firing(self._update, self.table, self.table.table, code, still=None, beside=beside, by_key=True)

    def _held(self, condition: sql.Composable) -> sql.Composed:
        return _TEMPLATES["held"].format(
            # Without the journal's collation, so that the key's own decides when it is compared.
            held_key=sql.SQL(", ").join(
                sql.SQL('key[{}] COLLATE "default" AS {}').format(sql.Literal(n + 1), name)
                for n, (_, name) in enumerate(self._keys)
            ),
            journal=self.journal.table.identifier,
            condition=condition,
            operation=sql.Literal(self.operation),
        )

    @property
    def _update(self) -> Update:
        name = self.table.table.name
        return Update(
            table=sendable(self.table.table.identifier),
            values=[
                (
                    one,
                    sql.SQL('CAST("~held"."~was"[{}] AS {})').format(sql.Literal(n + 1), sendable(sql.SQL(one.type))),
                )
                for n, one in enumerate(self.targets)
            ],
            condition=sql.SQL(" AND ").join(
                sql.SQL('{} = CAST("~held".{} AS {})').format(
                    sendable(sql.Identifier(name, one.name)), held, sendable(sql.SQL(one.type))
                )
                for one, held in self._keys
            ),
            parameters=(),
            needs_work=sql.SQL('{} IS NOT DISTINCT FROM "~held"."~is"').format(
                array(name, [one.column for one in self.targets])
            ),
            source=sql.SQL('"~held"'),
        )

    @property
    def _keys(self) -> list[tuple[KeyColumn, sql.Identifier]]:
        return [(one, sql.Identifier(f"~key_{n}")) for n, one in enumerate(self.table.key)]


def walk_of(run: int) -> KeyWalk:
    """The journal of a run as a table that is walked. Its key has the operation first: see `key_ranges`."""
    key = (KeyColumn(name="operation", type="integer"), KeyColumn(name="key", type="text[]"))
    return KeyWalk(table=partition("journal", run), key=key)


@dataclass(frozen=True, kw_only=True)
class KeyRanges:
    """What the journal holds of an operation, cut for lanes."""

    bounds: list[Bounds]
    #: About how many rows it holds in all.
    rows: int


def key_ranges(connection: Connection, run: int, *, operation: int, lanes: int) -> KeyRanges:
    """Cut what the journal holds of an operation into up to `lanes` ranges of keys; none where nothing was written into it."""
    if not has_partition(connection, "journal", run):
        return KeyRanges(bounds=[], rows=0)
    walk = walk_of(run)
    table = catalog.describe(connection, walk.table)
    query = _TEMPLATES["last_key"].format(journal=walk.table.identifier)
    last = connection.execute(query, {"operation": operation}).fetchone()
    if table is None or last is None:
        return KeyRanges(bounds=[], rows=0)
    rows = catalog.estimate_rows(connection, table)
    # No key is empty, so this comes before every one.
    every = Bounds(after=(str(operation), "{}"), upto=(str(operation), last["key"]))
    return KeyRanges(bounds=split_within(connection, walk, every, lanes=lanes, rows_estimate=rows), rows=rows)


def key_of(connection: Connection, key: Key) -> Key:
    """The key of a row, of which this is the key in the journal."""
    row = connection.execute(_SQL["key_of"], {"key": key[-1]}).fetchone()
    return tuple(row["key"]) if row else key


def left(connection: Connection, run: int, *, operation: int) -> dict[str, Any]:
    """What the journal still holds of an operation: `left`, how many rows, and the keys of the first. Any: JSON."""
    if not has_partition(connection, "journal", run):
        return {"left": 0, "keys": []}
    query = _TEMPLATES["left"].format(journal=partition("journal", run).identifier)
    row = connection.execute(query, {"operation": operation, "most": MOST_KEYS}).fetchone()
    return {"left": row["rows"], "keys": row["keys"]} if row else {}
