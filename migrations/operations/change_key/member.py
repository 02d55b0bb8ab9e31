"""The columns that change together: the key, and each column that refers to it, itself or through another one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Target
from backfilld.migrations.operations.base import object_name
from backfilld.migrations.operations.ddl.column_function import Computed
from backfilld.migrations.operations.ddl.constraints import Rule, naming
from backfilld.migrations.operations.ddl.lookup_function import LookedUp
from backfilld.migrations.operations.ddl.sync_function import PREAMBLE, new_value, row_value
from backfilld.migrations.operations.ddl.sync_trigger import NEUTRAL
from backfilld.migrations.rollback.archive import restored
from backfilld.migrations.walks.rewrite import Assignment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.facts import Referrer
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations.change_type.change import Change
    from backfilld.migrations.postgres.definitions import KeyColumn

#: The numbers of members in the names of what is made for them: more than there are operations in a file.
NUMBERS = 100
#: Values of the new type are compared by PostgreSQL's own equality; preflight sees to it that there is one.
EQUAL = "OPERATOR(pg_catalog.=)"


@dataclass(frozen=True, kw_only=True)
class Root:
    """The key itself."""

    change: Change
    target: Target
    #: The expression of its new values.
    values: str
    #: That of old values for rows that come after the switch; None where the old column fills itself, or nothing gives one.
    down: str | None = None
    #: The same once contract has dropped the old column; None where nothing gives one.
    later: str | None = None

    @property
    def before(self) -> str:
        """The body of its trigger before the switch: a row without a new value gets one, and keeps it."""
        return Computed(
            table=self.change.table,
            column=self.change.new_column,
            type=self.change.type,
            expression=self.values,
            migration=self.change.migration,
            operation=self.change.number,
            key=tuple(one.name for one in self.change.key),
            reads=(),
            repeatable=False,
        ).body()

    @property
    def after(self) -> str:
        """After it: the old column fills itself, or is given a value once."""
        return NEUTRAL if self.down is None else self._given(self.down)

    @property
    def restoring(self) -> str:
        """The same while the old column comes back after contract."""
        return NEUTRAL if self.later is None else self._given(self.later)

    def _given(self, expression: str) -> str:
        """A row that is added without an old value gets one; any other is for lanes, which know what was archived."""
        old = new_value(self.change.old_column)
        return f"""{PREAMBLE}
BEGIN
  IF TG_OP = 'INSERT' THEN
    IF {old} IS NOT DISTINCT FROM NULL THEN {old} := {row_value(self.change.table, expression)}; END IF;
  END IF;
  RETURN NEW;
EXCEPTION WHEN others THEN
  RETURN NEW; -- The application comes first: a row without an old value stands in the way back alone.
END"""

    def restored(self) -> Assignment:
        """The old value that was archived for the new one, or another for a row that has come since."""
        change = self.change
        old = sql.Identifier(change.table.name, change.old_column).as_string()
        type_ = change.dependents.type
        archived = restored(
            table=change.table,
            type_=type_,
            new=(change.column,),
            fallback="NULL" if self.later is None else f"CAST((\n{self.later}\n) AS {type_})",
        )
        target = Target(column=change.old_column, type=type_)
        return Assignment(target=target, expression=f"coalesce({old}, {archived})")

    @property
    def lacks(self) -> str:
        """SQL over a row: it has no old value."""
        return f"{sql.Identifier(self.change.table.name, self.change.old_column).as_string()} IS NOT DISTINCT FROM NULL"

    @property
    def assignment(self) -> Assignment:
        """A value, for rows that have none."""
        column = sql.Identifier(self.change.table.name, self.change.new_column).as_string()
        return Assignment(target=self.target, expression=f"coalesce({column}, (\n{self.values}\n))")


@dataclass(frozen=True, kw_only=True)
class Follower:
    """A column that refers to the key, or to a column that does."""

    change: Change
    known: Referrer
    references: TableName
    #: The change of the column that it refers to.
    parent: Change

    @property
    def before(self) -> str:
        return self._looked_up(new=True).body()

    @property
    def after(self) -> str:
        return self._looked_up(new=False).body()

    @property
    def assignment(self) -> Assignment:
        """The new value of the row that it refers to."""
        row = sql.Identifier(self.change.table.name).as_string()
        return Assignment(target=self.known.target, expression=self._looked_up(new=True).value(row))

    def restored(self) -> Assignment:
        """The old value of the row that it refers to, once that has it; what the trigger gave meanwhile stays."""
        row = sql.Identifier(self.change.table.name).as_string()
        old = sql.Identifier(self.change.table.name, self.change.old_column).as_string()
        target = Target(column=self.change.old_column, type=self.change.dependents.type)
        return Assignment(target=target, expression=f"coalesce({old}, {self._looked_up(new=False).value(row)})")

    @property
    def lacks(self) -> str:
        """SQL over a row: it refers to something, but not by an old value."""
        old, now = (
            sql.Identifier(self.change.table.name, name).as_string()
            for name in (self.change.old_column, self.change.column)
        )
        return f"({old} IS NOT DISTINCT FROM NULL AND {now} IS DISTINCT FROM NULL)"

    @property
    def whole(self) -> Rule:
        """What refers to something does so by the new values too."""
        return self.whole_of(self.change)

    @staticmethod
    def whole_of(change: Change) -> Rule:
        """The same of a change that is not followed yet."""
        old, new = sql.Identifier(change.column), sql.Identifier(change.new_column)
        table = change.table
        broken = sql.SQL("{} IS NOT NULL AND {} IS NULL").format(
            sql.Identifier(table.name, change.column), sql.Identifier(table.name, change.new_column)
        )
        return Rule(
            table=table,
            name=object_name("backfilld_whole", change.migration, change.number),
            words=f"the new value of {change.column}",
            body=sql.SQL("CHECK ({} IS NULL OR {} IS NOT NULL)").format(old, new),
            columns=(change.new_column,),
            offenders=naming(table, change.key, broken),
            replaces=True,
        )

    @property
    def strays(self) -> sql.Composed:
        """A query for rows, after the switch, whose old value is not that of the row they refer to."""
        table = self.change.table
        row, old = sql.Identifier(table.name).as_string(), sql.Identifier(table.name, self.change.old_column)
        looked_up = sql.SQL(self._looked_up(new=False).value(row))
        return naming(table, self.change.key, sql.SQL("{} IS DISTINCT FROM {}").format(old, looked_up))

    def _looked_up(self, *, new: bool) -> LookedUp:
        known, change, parent = self.known, self.change, self.parent
        operators = tuple(
            EQUAL if column == change.column and not new else operator
            for column, operator in zip(known.columns, known.equalities, strict=True)
        )
        return LookedUp(
            table=change.table,
            column=change.new_column if new else change.old_column,
            by=change.column,
            references=self.references,
            gives=parent.new_column if new else parent.old_column,
            columns=known.columns,
            referenced=known.referenced,
            operators=operators,
        )


def key_now(members: Sequence[Root | Follower], table: TableName) -> tuple[KeyColumn, ...]:
    """The key by which a table is walked once its columns have their new types."""
    changed = {one.change.column: one.change.type for one in members if one.change.table == table}
    key = next(one.change.key for one in members if one.change.table == table)
    return tuple(replace(one, type=changed.get(one.name, one.type)) for one in key)
