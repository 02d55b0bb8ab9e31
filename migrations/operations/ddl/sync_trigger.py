"""The sync trigger: what keeps a column right in every row that is written, by any session.

BEFORE INSERT OR UPDATE for each row, named to fire last, ENABLE ALWAYS, and silent for the one batch that does its work itself.
What its function does is written in `sync_function.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from psycopg import sql

from backfilld.migrations.operations.base import Action, Guard, Reliance, Statement
from backfilld.migrations.operations.ddl import columns
from backfilld.migrations.operations.ddl.columns import alter_table
from backfilld.migrations.postgres.connect import SEMANTICS
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.identifiers import TableName

#: What the function does before the trigger is dropped: a statement that still meets it is not disturbed.
NEUTRAL = "BEGIN RETURN NEW; END"


@dataclass(frozen=True, kw_only=True)
class SyncTrigger:
    """A sync trigger and its function, under one name. The statements are sent without parameters."""

    table: TableName
    #: The function's name in our schema, and what stands for it in `backfilld.writes`.
    name: str
    #: When it fires. One that writes another table does so AFTER.
    fires_on: str = "BEFORE INSERT OR UPDATE"
    #: Once for each row, or for each statement.
    for_each: Literal["ROW", "STATEMENT"] = "ROW"

    def created(self, body: str) -> tuple[Statement, ...]:
        """The function and the trigger; belongs into one action with the column, under the guard `fires_last`."""
        create = sql.SQL(
            "CREATE OR REPLACE TRIGGER {trigger} {fires_on} ON {table} FOR EACH {for_each} "
            "WHEN ((strpos(current_setting('backfilld.writes', true), {name}) > 0) IS NOT TRUE) EXECUTE FUNCTION {function}()"
        ).format(
            trigger=self._trigger,
            fires_on=sql.SQL(self.fires_on),
            for_each=sql.SQL(self.for_each),
            table=self.table.identifier,
            name=sql.Literal(self.name),
            function=self._function,
        )
        return (
            self._replaced(body),
            Statement(
                sql=sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(self._function), lock=LockMode.NONE
            ),
            Statement(sql=create, lock=LockMode.SHARE_ROW_EXCLUSIVE, brief=True),
            alter_table(
                self.table,
                sql.SQL("ENABLE ALWAYS TRIGGER {}").format(self._trigger),
                lock=LockMode.SHARE_ROW_EXCLUSIVE,
                brief=False,
                note="also fires under session_replication_role = replica",
            ),
        )

    def relied_on(self, body: str, columns: Iterable[str]) -> Reliance:
        """What a proof relies on where this trigger keeps these columns right."""
        return Reliance(
            table=self.table,
            columns=tuple(dict.fromkeys(columns)),
            trigger=self.trigger_name,
            again=Action(table=self.table, statements=self.created(body), guards=self.order),
        )

    def turned(self, body: str) -> Statement:
        """The other column is the primary from here on."""
        return self._replaced(body, note="the sync trigger changes direction")

    @property
    def silenced(self) -> Statement:
        """The trigger does nothing from here on, so that what it reads and writes may go."""
        return self._replaced(NEUTRAL, note="the trigger does nothing from now on")

    @property
    def drop(self) -> Statement:
        """The trigger goes; its function only after it, and after the columns."""
        gone = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(self._trigger, self.table.identifier)
        return Statement(sql=gone, lock=LockMode.ACCESS_EXCLUSIVE, brief=True)

    @property
    def drop_function(self) -> Statement:
        """The function goes."""
        return Statement(sql=sql.SQL("DROP FUNCTION IF EXISTS {}()").format(self._function), lock=LockMode.NONE)

    def gone_with(self, column: str) -> Action:
        """The trigger goes, and a column that only it kept right."""
        return Action(
            table=self.table,
            statements=(self.drop, columns.drop_if_exists(self.table, column), self.drop_function),
        )

    @property
    def order(self) -> tuple[Guard, ...]:
        """What must hold of its place among the table's triggers: one that fires AFTER sees what all others have made of the row."""
        return (self.fires_last,) if self.fires_on.startswith("BEFORE") else ()

    @property
    def fires_last(self) -> Guard:
        """No other trigger may change a row after the sync trigger has read it."""
        return Guard(
            sql=self._later,
            template="the trigger {!r} fires after the sync trigger and could change what it read",
            remedy="Rename it so that its name sorts before a tilde (~)",
        )

    @property
    def fires(self) -> Guard:
        """Checks that the sync trigger is still enabled; a restore with --disable-triggers disables it."""
        return Guard(
            sql=self._silent,
            template="the sync trigger {!r} was dropped or disabled, so what was written meanwhile is in one of the columns only",
            remedy="Roll the run back with `backfilld rollback`, and enqueue it again",
        )

    def _replaced(self, body: str, *, note: str = "") -> Statement:
        """The function, made or replaced, with this body. It takes no lock on the table.

        It runs as the role of the run, so that the application needs no right in our schema, and under settings of its own,
        so that an expression means the same in every session.
        """
        settings = sql.SQL(" ").join(
            sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
            for name, value in SEMANTICS.items()
            if name != "row_security"
        )
        function = sql.SQL(
            "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} AS {body}"
        ).format(name=self._function, settings=settings, body=_dollar_quoted(body))
        return Statement(sql=function, lock=LockMode.NONE, note=note)

    @property
    def _later(self) -> sql.Composed:
        """A query for the names of triggers that fire after this one and could change what it read, partitions' included."""
        return sql.SQL(
            "SELECT t.tgname FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal "
            "AND (t.tgrelid = {table}::pg_catalog.regclass "
            "OR t.tgrelid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree({table}::pg_catalog.regclass) p)) "
            "AND t.tgtype & 3 = 3 AND t.tgtype & 20 <> 0 "
            # Those of other runs write columns of their own: preflight refuses a run that needs what another one writes.
            # The operations of one file fire in its order.
            'AND t.tgname COLLATE "C" > {trigger} COLLATE "C" AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p '
            "WHERE p.oid = t.tgfoid AND p.pronamespace = pg_catalog.to_regnamespace('backfilld'))"
        ).format(
            table=sql.Literal(self.table.identifier.as_string()),
            trigger=sql.Literal(self.trigger_name),
        )

    @property
    def _silent(self) -> sql.Composed:
        """A query that gives the trigger's name when it is not there, or does not fire for everybody; partitions included."""
        return sql.SQL(
            "SELECT {trigger} AS tgname FROM pg_catalog.pg_class c WHERE (c.oid = {table}::pg_catalog.regclass "
            "OR c.oid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree({table}::pg_catalog.regclass) p)) "
            "AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = {trigger} "
            "AND t.tgenabled = 'A')"
        ).format(table=sql.Literal(self.table.identifier.as_string()), trigger=sql.Literal(self.trigger_name))

    @property
    def trigger_name(self) -> str:
        # Triggers fire in the byte order of their names, and a tilde comes after every letter.
        return f"~backfilld_{self.name}"

    @property
    def _trigger(self) -> sql.Identifier:
        return sql.Identifier(self.trigger_name)

    @property
    def _function(self) -> sql.Identifier:
        return sql.Identifier("backfilld", self.name)


def _dollar_quoted(body: str) -> sql.SQL:
    """A body of code as one literal, by a tag that it does not hold."""
    tag = "$body$"
    while tag in body:
        tag = tag.replace("$body", "$body_")
    return sql.SQL(f"{tag}\n{body}\n{tag}")
