"""The statements that keep old values and give them back: of the archive and of the journal, for one batch each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from backfilld.migrations.identifiers import sendable
from backfilld.migrations.rollback import retention

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.facts import Target
    from backfilld.migrations.operations import Archived
    from backfilld.migrations.walks.keys import KeyWalk, Query

#: RETURNING gives what a row was since this version.
RETURNS_OLD = 180_000


#: Nothing is known of a journal that nobody has analyzed: taken for a large one, a batch of it would be joined to the whole table.
BY_KEY = "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"


@dataclass(frozen=True, kw_only=True)
class Update:
    """An UPDATE in its parts, each with its parameters."""

    table: sql.Composable
    sets: sql.Composable
    condition: sql.Composable
    parameters: Sequence[Any]  # Any: whatever psycopg can send
    #: Which of the rows that meet the condition are changed.
    also: sql.Composable
    #: Where the values come from; None for expressions over the row.
    source: sql.Composable | None = None
    source_parameters: Sequence[Any] = ()  # Any: as above

    @property
    def query(self) -> Query:
        """Without a journal."""
        source = sql.SQL(" FROM {}").format(self.source) if self.source is not None else sql.SQL("")
        query = sql.SQL("UPDATE {} SET {}{} WHERE {} AND {}").format(
            self.table, self.sets, source, self.condition, self.also
        )
        return query, [*self.source_parameters, *self.parameters]


@dataclass(frozen=True, kw_only=True)
class Journal:
    """Where a run writes what an operation replaces."""

    run: int
    operation: int
    #: The table's key, and its name as expressions know it.
    walk: KeyWalk
    #: The columns that are written, in the order of the operation's targets.
    columns: tuple[str, ...]

    def written(self, update: Update, *, returning: sql.Composable, version: int) -> Query:
        """The update, which writes into the journal what it replaces: a statement whose `changed` gives `returning` of each row.

        Before 18 an UPDATE cannot tell what a row was, so the rows are read first, and locked as the update would.
        """
        head = self._changed_18(update, returning) if version >= RETURNS_OLD else self._changed(update, returning)
        query, parameters = head
        journaled = sql.SQL(
            "{head}, journaled AS (INSERT INTO {journal} AS journal (run, operation, key, old, new) "
            'SELECT {run}, {operation}, "~key", "~was", "~is" FROM changed ON CONFLICT (operation, key, run) DO UPDATE '
            # Changed again by us alone, a row goes back to what it was at first; an application's value in between is what it
            # goes back to otherwise.
            "SET old = CASE WHEN journal.new IS NOT DISTINCT FROM excluded.old THEN journal.old ELSE excluded.old END, "
            "new = excluded.new)"
        ).format(
            head=query,
            journal=retention.partition("journal", self.run).identifier,
            run=sql.Literal(self.run),
            operation=sql.Literal(self.operation),
        )
        return journaled, parameters

    def _changed_18(self, update: Update, returning: sql.Composable) -> Query:
        query, parameters = update.query
        changed = sql.SQL(
            'WITH changed AS ({update} RETURNING WITH (OLD AS "~before", NEW AS "~after") '
            '{key} AS "~key", {was} AS "~was", {now} AS "~is", {returning})'
        ).format(
            update=query,
            key=key_array(self.walk),
            was=_array("~before", self.columns),
            now=_array("~after", self.columns),
            returning=returning,
        )
        return changed, parameters

    def _changed(self, update: Update, returning: sql.Composable) -> Query:
        table = self.walk.table.name
        keys = [
            (sendable(sql.Identifier(table, one.name)), sql.Identifier(f"~key_{n}"))
            for n, one in enumerate(self.walk.key)
        ]
        picked = sql.SQL(
            '"~picked" AS MATERIALIZED (SELECT {keys}, {was} AS "~was" FROM {table} WHERE {condition} FOR NO KEY UPDATE)'
        )
        changed = sql.SQL(
            "WITH {picked}, changed AS (UPDATE {table} SET {sets} FROM {sources} WHERE {condition} AND {same} AND {also} "
            'RETURNING {key} AS "~key", "~picked"."~was" AS "~was", {now} AS "~is", {returning})'
        ).format(
            picked=picked.format(
                keys=sql.SQL(", ").join(sql.SQL("{} AS {}").format(*pair) for pair in keys),
                was=_array(table, self.columns),
                table=update.table,
                condition=update.condition
                if update.source is not None
                else sql.SQL("{} AND {}").format(update.condition, update.also),
            ),
            table=update.table,
            sets=update.sets,
            sources=sql.SQL(", ").join(
                [*([update.source] if update.source is not None else []), sql.Identifier("~picked")]
            ),
            condition=update.condition,
            same=sql.SQL(" AND ").join(sql.SQL('{} = "~picked".{}').format(*pair) for pair in keys),
            also=update.also,
            key=key_array(self.walk),
            now=_array(table, self.columns),
            returning=returning,
        )
        return changed, [*update.parameters, *update.source_parameters, *update.parameters]


def undoing(
    journal: KeyWalk, table: KeyWalk, targets: Sequence[Target], condition: sql.Composable, *, operation: int
) -> sql.Composed:
    """Give rows back what they were, where they are still what we made them, and take those out of the journal.

    `condition` is over the journal. Gives `changed`, the rows that went back. The others, which somebody has written or
    removed since, stay in the journal.
    """
    keys = [(one, sql.Identifier(f"~key_{n}")) for n, one in enumerate(table.key)]
    return sql.SQL(
        'WITH "~held" AS MATERIALIZED (SELECT key AS "~key", old AS "~was", new AS "~is", {keys} FROM {journal} '
        "WHERE {condition} AND operation = {operation}), "
        'undone AS (UPDATE {table} SET {sets} FROM "~held" WHERE {same} AND {current} IS NOT DISTINCT FROM "~held"."~is" '
        'RETURNING "~held"."~key" AS key), '
        "gone AS (DELETE FROM {journal} USING undone WHERE {name}.operation = {operation} AND {name}.key = undone.key) "
        "SELECT count(*) AS changed FROM undone"
    ).format(
        # Without the journal's collation, so that the key's own decides when it is compared.
        keys=sql.SQL(", ").join(
            sql.SQL('key[{}] COLLATE "default" AS {}').format(sql.Literal(n + 1), name)
            for n, (_, name) in enumerate(keys)
        ),
        journal=journal.table.identifier,
        name=sql.Identifier(journal.table.name),
        condition=condition,
        operation=sql.Literal(operation),
        table=sendable(table.table.identifier),
        sets=sql.SQL(", ").join(
            sql.SQL('{} = CAST("~held"."~was"[{}] AS {})').format(
                sendable(sql.Identifier(one.column)), sql.Literal(n + 1), sendable(sql.SQL(one.type))
            )
            for n, one in enumerate(targets)
        ),
        same=sql.SQL(" AND ").join(
            sql.SQL('{} = CAST("~held".{} AS {})').format(
                sendable(sql.Identifier(table.table.name, one.name)), name, sendable(sql.SQL(one.type))
            )
            for one, name in keys
        ),
        current=_array(table.table.name, [one.column for one in targets]),
    )


def archiving(
    walk: KeyWalk, archived: Archived, condition: sql.Composable, *, run: int, operation: int
) -> sql.Composed:
    """Copy the rows that meet the condition, where the archive does not have them as they are.

    Gives `changed`, the rows that were copied, and `missing`, those of them that the archive did not have at all.
    """
    table = walk.table
    new = _text(table.name, archived.new) if archived.new is not None else sql.SQL("NULL::text")
    return sql.SQL(
        "WITH copied AS (INSERT INTO {archive} AS archive (run, operation, key, old, new) "
        "SELECT {run}, {operation}, {key}, {old}, {new} FROM {table} WHERE {condition} "
        "ON CONFLICT (operation, key, run) DO UPDATE SET old = excluded.old, new = excluded.new "
        "WHERE (archive.old, archive.new) IS DISTINCT FROM (excluded.old, excluded.new) "
        # A row that was there has its former version's deletion in xmax.
        "RETURNING xmax = 0 AS missing) "
        "SELECT count(*) AS changed, count(*) FILTER (WHERE missing) AS missing FROM copied"
    ).format(
        archive=retention.partition("archive", run).identifier,
        run=sql.Literal(run),
        operation=sql.Literal(operation),
        key=key_array(walk),
        old=_text(table.name, archived.old),
        new=new,
        table=sendable(table.identifier),
        condition=condition,
    )


def unarchived(walk: KeyWalk, condition: sql.Composable, *, run: int, operation: int) -> sql.Composed:
    """Give `rows`: how many rows that meet the condition the archive does not have."""
    return sql.SQL(
        # Not NOT EXISTS: that may become a scan of the whole archive for each batch.
        'SELECT count(*) AS rows FROM {table} WHERE {condition} AND (SELECT true FROM {archive} "~archive" '
        'WHERE "~archive".operation = {operation} AND "~archive".key = {key}) IS NULL'
    ).format(
        table=sendable(walk.table.identifier),
        condition=condition,
        archive=retention.partition("archive", run).identifier,
        operation=sql.Literal(operation),
        key=key_array(walk),
    )


def key_array(walk: KeyWalk) -> sql.Composed:
    """A row's key as the journal and the archive write it."""
    return _array(walk.table.name, [column.name for column in walk.key])


def _array(table: str, columns: Sequence[str]) -> sql.Composed:
    return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(_text(table, column) for column in columns))


def _text(table: str, column: str) -> sql.Composed:
    # With a collation, because the column may have one of its own.
    return sql.SQL('{}::text COLLATE "C"').format(sendable(sql.Identifier(table, column)))
