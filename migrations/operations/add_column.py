"""Add a column, with values for the rows that are there and the ones that come.

expand    the column and its sync trigger, in one short transaction
backfill  lanes give every row its value
verify    every row is looked at; then CHECK (… IS NOT NULL) NOT VALID, and VALIDATE
switch    SET NOT NULL, which trusts the validated check and scans nothing
contract  the sync trigger goes, first its function's body, so that no statement can meet half of it

Until contract the column is computed: the trigger gives each inserted or updated row the expression's value, whoever wrote it.
A value that cannot be computed becomes NULL rather than an error of the application's; verify finds the row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from migrations.operations.base import Action, Guard, Statement, Step, object_name
from migrations.operations.rules import Rule, not_null, not_null_check
from migrations.postgres.connect import SEMANTICS
from migrations.walks.rewrite import Assignment, Rewrite

if TYPE_CHECKING:
    from migrations.definition import AddColumn as Definition
    from migrations.definition import TableName
    from migrations.facts import Facts

_BRIEF = "brief; gives way after lock_timeout, and tries again"


@dataclass(frozen=True, kw_only=True)
class AddColumn:
    """An `add_column` of a migration, bound to a database."""

    definition: Definition
    facts: Facts
    migration: str
    number: int

    @property
    def table(self) -> TableName:
        return self.definition.table

    @property
    def sync(self) -> str:
        """The name of the sync function, and of the value of `backfilld.writes` that stands for it."""
        return object_name("sync", self.migration, self.number)

    @property
    def expression(self) -> str | None:
        """What existing rows get; None when the default gave it to them already."""
        if self.definition.backfill is not None:
            return self.definition.backfill
        return self.definition.default if not self.facts.default_fills else None

    def rewrite(self) -> Rewrite | None:
        if self.expression is None:
            return None
        return Rewrite(
            table=self.table,
            facts=self.facts,
            assignments=(Assignment(target=self.facts.targets[0], expression=self.expression),),
            fills_null=not self.facts.repeatable,
            not_null=self.definition.not_null,
            synced=self.definition.backfill is not None,
            writes=self.sync,
        )

    def undo(self) -> tuple[Step, ...]:
        return ()

    def expand(self) -> tuple[Step, ...]:
        statements = [*self._column_statements()]
        if self.definition.backfill is None:
            return (Action(table=self.table, statements=tuple(statements), back=(self._gone(),)),) if statements else ()
        statements += [
            Statement(sql=self._function(self._body()), lock="none"),
            Statement(sql=self._trigger_statement(), lock="SHARE ROW EXCLUSIVE", note=_BRIEF),
            Statement(
                sql=sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(self.table.identifier, self._trigger),
                lock="SHARE ROW EXCLUSIVE",
                note="fires under session_replication_role = replica too",
            ),
        ]
        return (
            Action(table=self.table, statements=tuple(statements), guards=(self._fires_last(),), back=(self._gone(),)),
        )

    def verify(self) -> tuple[Step, ...]:
        # Where no lane has just looked at every row, the application may have written a NULL over the default.
        return self._not_null.steps(looks=self.expression is None) if self.definition.not_null else ()

    def switch(self) -> tuple[Step, ...]:
        if not self.definition.not_null:
            return ()
        return (not_null(self.table, self.definition.column.name, proof=self._not_null),)

    def contract(self) -> tuple[Step, ...]:
        if self.definition.backfill is None:
            return ()
        drop_trigger = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(self._trigger, self.table.identifier)
        drop_function = sql.SQL("DROP FUNCTION IF EXISTS {}()").format(self._function_name)
        return (
            Action(
                table=self.table,
                statements=(
                    Statement(
                        sql=self._function("BEGIN RETURN NEW; END"),
                        lock="none",
                        note="the trigger does nothing from here on",
                    ),
                ),
            ),
            Action(
                table=self.table,
                statements=(
                    Statement(sql=drop_trigger, lock="ACCESS EXCLUSIVE", note=_BRIEF),
                    Statement(sql=drop_function, lock="none"),
                ),
            ),
        )

    def _column_statements(self) -> tuple[Statement, ...]:
        if self.facts.adopts:
            return ()
        type_ = sql.SQL(self.facts.targets[0].type)  # as format_type wrote it
        add = sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(self.table.identifier, self._column, type_)
        if self.definition.default is None:
            return (Statement(sql=add, lock="ACCESS EXCLUSIVE", note="no rewrite; " + _BRIEF),)
        default = sql.SQL(" DEFAULT (\n{}\n)").format(sql.SQL(self.definition.default))  # checked by preflight
        if self.facts.default_fills and self.definition.backfill is None:
            return (
                Statement(sql=add + default, lock="ACCESS EXCLUSIVE", note="no rewrite: a constant default; " + _BRIEF),
            )
        set_default = (
            sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET").format(self.table.identifier, self._column) + default
        )
        return (
            Statement(sql=add, lock="ACCESS EXCLUSIVE", note="no rewrite: the default comes after; " + _BRIEF),
            Statement(sql=set_default, lock="ACCESS EXCLUSIVE", note="for rows to come"),
        )

    def _body(self) -> str:
        """The sync function: the new row, read as the table is, gives the column its value."""
        column = sql.Identifier("new", self.definition.column.name).as_string()
        row = sql.Identifier(self.table.name).as_string()
        guard = f"\n  IF {column} IS NOT NULL THEN RETURN NEW; END IF;" if not self.facts.repeatable else ""
        return f"""#variable_conflict use_column
BEGIN{guard}
  BEGIN
    {column} := (SELECT (
{self.definition.backfill}
) FROM (SELECT NEW.*) AS {row});
  EXCEPTION WHEN others THEN
    -- The application comes first: its statement goes on, and verify finds the row.
    {column} := NULL;
  END;
  RETURN NEW;
END"""  # noqa: S608 - the expression was checked by preflight, names are quoted

    def _function(self, body: str) -> sql.Composed:
        tag = "$body$"
        while tag in body:
            tag = tag.replace("$body", "$body_")
        settings = sql.SQL(" ").join(
            sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
            for name, value in SEMANTICS.items()
            if name != "row_security"
        )
        return sql.SQL(
            "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} AS {body}"
        ).format(
            name=self._function_name, settings=settings, body=sql.SQL(f"{tag}\n{body}\n{tag}")
        )  # quoted by a tag it does not hold

    def _trigger_statement(self) -> sql.Composed:
        return sql.SQL(
            "CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW "
            "WHEN (current_setting('backfilld.writes', true) IS DISTINCT FROM {sync}) EXECUTE FUNCTION {function}()"
        ).format(
            trigger=self._trigger,
            table=self.table.identifier,
            sync=sql.Literal(self.sync),
            function=self._function_name,
        )

    def _fires_last(self) -> Guard:
        query = sql.SQL(
            "SELECT t.tgname FROM pg_catalog.pg_trigger t WHERE t.tgrelid = {table}::pg_catalog.regclass "
            "AND NOT t.tgisinternal AND t.tgtype & 3 = 3 AND t.tgtype & 20 <> 0 "
            'AND t.tgname COLLATE "C" > {trigger} COLLATE "C"'
        ).format(table=sql.Literal(self.table.identifier.as_string()), trigger=sql.Literal(self._trigger_name))
        return Guard(
            sql=query,
            problem="the trigger {!r} fires after the sync trigger and could change what it read",
            remedy="Rename it so that its name sorts before a tilde (~)",
        )

    def _gone(self) -> Action:
        """Take away all that expand added; what the column holds until contract is computed, so nothing is lost."""
        drop_trigger = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(self._trigger, self.table.identifier)
        drop_function = sql.SQL("DROP FUNCTION IF EXISTS {}()").format(self._function_name)
        drop_column = sql.SQL("ALTER TABLE {} DROP COLUMN IF EXISTS {}").format(self.table.identifier, self._column)
        return Action(
            table=self.table,
            statements=(
                Statement(sql=drop_trigger, lock="ACCESS EXCLUSIVE", note=_BRIEF),
                Statement(sql=drop_column, lock="ACCESS EXCLUSIVE", note=_BRIEF),
                Statement(sql=drop_function, lock="none"),
            ),
        )

    @property
    def _column(self) -> sql.Identifier:
        return sql.Identifier(self.definition.column.name)

    @property
    def _not_null(self) -> Rule:
        name = object_name("backfilld_not_null", self.migration, self.number)
        return not_null_check(self.table, self.definition.column.name, name=name, key=self.facts.key)

    @property
    def _function_name(self) -> sql.Identifier:
        return sql.Identifier("backfilld", self.sync)

    @property
    def _trigger_name(self) -> str:
        # Triggers fire in the byte order of their names, and a tilde comes after every letter.
        return f"~backfilld_{self.sync}"

    @property
    def _trigger(self) -> sql.Identifier:
        return sql.Identifier(self._trigger_name)
