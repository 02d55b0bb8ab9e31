"""Whether a table's triggers let a run change its rows: one row is updated as a batch would, and all of it is rolled back.

The copies on which statements are tried have no triggers, and what a trigger does depends on the row it is handed. The row is one
that needs work, where that is quickly found. Where the column to be written is not there yet, another one is set to what it holds:
that shows whether the triggers can run, and not whether they keep the change.

A trigger that acts outside of the database is not fired, because that would not be rolled back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from backfilld.migrations.facts import Target
from backfilld.migrations.identifiers import sendable
from backfilld.migrations.postgres import user_code
from backfilld.migrations.postgres.connect import SEMANTICS, apply_settings
from backfilld.migrations.postgres.sqlstates import classify, in_words, server_is_gone
from backfilld.migrations.walks import update_sql
from backfilld.migrations.walks.firing import Beside, firing, table_code
from backfilld.migrations.walks.keys import KeyWalk
from backfilld.migrations.walks.update_sql import Update

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.operations import Operation
    from backfilld.migrations.planning.checks.findings import Findings
    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Key
    from backfilld.migrations.walks.rewrite import Rewrite

#: The row is locked for no longer than this, and only where nobody else has it.
_TIMEOUTS = {"lock_timeout": "200ms", "statement_timeout": "2s"}

SKIP = "WHEN (coalesce(current_setting('backfilld.batch', true), '') = '')"


def try_triggers(
    connection: Connection, found: Findings, migration: Migration, operations: Sequence[Operation]
) -> None:
    """Fire the triggers of each table that is walked, once; what keeps a run from its work is refused in `found`."""
    for number, operation in enumerate(operations):
        rewrite = operation.rewrite()
        if rewrite is not None and operation.facts.key and not (rewrite.deletes or rewrite.copies):
            place = f"operations[{number}].{migration.operations[number].kind}"
            _Trial(connection, found, place, found.tables[rewrite.table], rewrite).run()


class _Trial:
    """One operation."""

    def __init__(self, connection: Connection, found: Findings, place: str, table: Table, rewrite: Rewrite) -> None:
        self._connection = connection
        self._found = found
        self._place = place
        self._table = table
        self._rewrite = rewrite
        self._walk = KeyWalk(table=table.name, key=rewrite.facts.key)
        written = [target.column for target in rewrite.facts.targets]
        self._triggers = user_code.fired(connection, table, written)
        #: The columns are there, and the values are SQL: the row is changed as a batch would.
        self._real = rewrite.transform is None and all(table.column(name) is not None for name in written)

    def run(self) -> None:
        outside = [trigger for trigger in self._triggers if trigger.reaches_outside]
        if outside:
            named = ", ".join(f"{trigger.name} ({trigger.calls})" for trigger in outside)
            self._found.warn(
                f"{self._place}: the triggers of {self._table.name} were not tried, because they act outside the database: {named}"
            )
        elif self._triggers:
            try:
                with self._connection.transaction(force_rollback=True):
                    self._try()
            except psycopg.Error as exc:
                self._judge(exc)

    def _try(self) -> None:
        settings = {**SEMANTICS, **_TIMEOUTS, "backfilld.batch": "on", "backfilld.writes": self._rewrite.writes}
        apply_settings(self._connection, settings)
        key = self._row()
        if key is None:
            return
        self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        condition, parameters = self._walk.at(key)
        values = self._rewrite.values if self._real else self._stand_ins()
        update = Update(
            table=sendable(self._table.name.identifier),
            values=values,
            condition=condition,
            parameters=parameters,
            needs_work=sql.SQL("true"),
        )
        name = self._table.name
        code = table_code(self._connection, table=name, relation=name, columns=[one.column for one, _ in values])
        query = firing(update, self._walk, name, code, still=None, beside=Beside())
        row = self._connection.execute(*query).fetchone() or {"undone": 0}
        apply_settings(self._connection, settings)
        if not self._real:
            return  # a trigger may well keep a row as it is of which nothing is changed
        if row["undone"]:
            self._refuse_undone(key, code.may_change)
        elif self._rewrite.verifiable and self._needs_work(condition, parameters):
            self._refuse_undone(key, tuple(trigger.name for trigger in self._triggers))

    def _row(self) -> Key | None:
        """The key of a row that needs work, or else of any; None for an empty table."""
        table = sendable(self._table.name.identifier)
        conditions = [self._rewrite.needs_work] if self._real else []
        for condition in [*conditions, sql.SQL("true")]:
            query = sql.SQL("{} LIMIT 1").format(update_sql.keys(self._walk, table, condition))
            try:
                with self._connection.transaction(), self._connection.cursor(row_factory=tuple_row) as cursor:
                    # With parameters, because percent signs are doubled.
                    key: Key | None = cursor.execute(query, []).fetchone()
            except psycopg.Error as exc:
                # Long, where rows that need work are few, or an error for one of them.
                if server_is_gone(exc):
                    raise
                continue
            if key is not None:
                return key
        return None

    def _stand_ins(self) -> list[tuple[Target, sql.Composable]]:
        """What is set to itself: the columns themselves where they are there, or one that fires the same triggers."""
        written = {target.column: target for target in self._rewrite.facts.targets}
        names = [name for name in written if self._table.column(name) is not None] or [self._neutral()]
        return [
            (
                written.get(name) or Target(column=name, type=column.type),
                sendable(sql.Identifier(self._table.name.name, name)),
            )
            for name in names
            if (column := self._table.column(name)) is not None
        ]

    def _neutral(self) -> str:
        """A column that no trigger waits for, rather none of the key; a key column set to itself stays what it is."""
        waited = {name for trigger in self._table.triggers for name in trigger.of_columns}
        keys = {column.name for key in self._table.keys for column in key.columns}
        settable = [one.name for one in self._table.columns if not (one.generated or one.identity_always)]
        free = [name for name in settable if name not in waited]
        return next((name for name in free if name not in keys), (free or settable)[0])

    def _needs_work(self, condition: sql.Composable, parameters: list[str]) -> bool:
        condition = sql.SQL("{} AND {}").format(condition, self._rewrite.needs_work)
        query = update_sql.keys(self._walk, sendable(self._table.name.identifier), condition)
        return self._connection.execute(query, parameters).fetchone() is not None

    def _refuse_undone(self, key: Key, triggers: Sequence[str]) -> None:
        which = f"the trigger {triggers[0]}" if len(triggers) == 1 else f"one of the triggers {', '.join(triggers)}"
        self._found.refuse(
            "trigger",
            f"{self._place}: {which} on {self._table.name} keeps a row from being changed, or changes what is written "
            f"(tried on the row {', '.join(key)})",
            f"Have it skip backfilld's batches with {SKIP}, or leave such rows out",
        )

    def _judge(self, exc: psycopg.Error) -> None:
        if server_is_gone(exc):
            raise exc
        trigger = user_code.blamed(self._triggers, exc)
        which = f"the trigger {trigger.name} on {self._table.name} ({trigger.calls})" if trigger else ""
        match classify(exc):
            case "transient":
                self._found.warn(f"{self._place}: the triggers of {self._table.name} were not tried: {in_words(exc)}")
            case "data" if trigger is not None:
                # About this row, and perhaps no other: such rows are quarantined.
                self._found.warn(
                    f"{self._place}: {which} fails for a row that was tried, with {exc.sqlstate}: {in_words(exc)}"
                )
            case "fatal":
                self._found.refuse(
                    "trigger",
                    f"{self._place}: {which or f'an UPDATE of {self._table.name}'} fails with {exc.sqlstate}: {in_words(exc)}",
                    f"Triggers run as the role {self._found.backend.role} and with its search_path: give it what they need, "
                    f"or have the trigger skip backfilld's batches with {SKIP}",
                )
