"""The columns that change together: the key, and each column that refers to it, itself or through another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import object_name
from backfilld.migrations.operations.ddl.column_function import Computed
from backfilld.migrations.operations.ddl.constraints import Rule, naming
from backfilld.migrations.operations.ddl.lookup_function import LookedUp
from backfilld.migrations.operations.ddl.sync_trigger import NEUTRAL
from backfilld.migrations.walks.rewrite import Assignment

if TYPE_CHECKING:
    from backfilld.migrations.facts import Referrer, Target
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations.change_type.change import Change

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
        """After it: the old column fills itself."""
        return NEUTRAL

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
