"""What a walk does to the rows it passes: which columns get which expression, and which rows still need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import sendable

if TYPE_CHECKING:
    from backfilld.migrations.facts import Facts, Target
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.walks.copying import Copying


def expression(text: str) -> sql.Composed:
    """A user's expression as one operand.

    It was checked to be one; the line breaks end a trailing comment. Percent signs are doubled because every statement
    it becomes part of is sent with parameters.
    """
    return sql.SQL("(\n{}\n)").format(sql.SQL(text.replace("%", "%%")))  # checked by preflight


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A column and the expression it gets."""

    target: Target
    expression: str


@dataclass(frozen=True, kw_only=True)
class Copied:
    """Where a walk copies a column of its rows, in place of changing them: the row of another table that belongs to each."""

    table: TableName
    #: Its columns that refer to the row, which are unique together; and the columns that they refer to.
    on: tuple[str, ...]
    by: tuple[str, ...]
    #: The column, called the same in both tables.
    column: str


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """Set columns of a table to expressions, where a condition holds."""

    table: TableName
    facts: Facts
    assignments: tuple[Assignment, ...]
    where: str | None = None
    #: The Python function that gives the values of `facts.targets`, in place of assignments.
    transform: str | None = None
    #: Only columns that are NULL are filled: what is there is the application's, or cannot be told from it (a fresh uuid).
    fills_null: bool = False
    #: A row that still holds this text, in its one column, is computed anew: its sync trigger could not, and left it there.
    left: str | None = None
    #: A row whose value would be NULL is a row that cannot be converted.
    not_null: bool = False
    #: A sync trigger gives every row that is written meanwhile its value.
    synced: bool = False
    #: The values are those of another table: rows are held before that is read. In one statement a row that was waited for is read
    #: anew and the other table is not, so that what was written to both meanwhile would be lost.
    reads_others: bool = False
    #: The sync trigger whose work the batch itself does, so that it need not fire; empty for none.
    writes: str = ""
    #: The rows that meet the condition are deleted; `facts.targets` are what is kept of them.
    deletes: bool = False
    #: The rows that meet the condition stay as they are; what they hold is copied.
    copies: Copied | None = None
    #: The rows are copied to another table and stay as they are.
    remakes: Copying | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are written."""
        return tuple(target.column for target in self.facts.targets) if self.updates else ()

    @property
    def updates(self) -> bool:
        """Whether the rows that are walked are updated."""
        return not self.deletes and self.copies is None and self.remakes is None

    @property
    def values(self) -> list[tuple[Target, sql.Composable]]:
        """The columns that are written, and the value that each of them gets."""
        return [(one.target, expression(one.expression)) for one in self.assignments]

    @property
    def set_clause(self) -> sql.Composed:
        return sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sendable(sql.Identifier(target.column)), value) for target, value in self.values
        )

    @property
    def needs_work(self) -> sql.Composed:
        """True for rows that are not as they should be; false for each row once it is done.

        For expressions that cannot be repeated it is only the user's condition: the walk visits each key once.
        """
        conditions = [expression(self.where)] if self.where is not None else []
        if self.fills_null:
            missing = [*(self._is_missing(one) for one in self.assignments), *self._was_left()]
            conditions.append(sql.Composed([sql.SQL("("), sql.SQL(" OR ").join(missing), sql.SQL(")")]))
        elif self.facts.repeatable and self.updates:
            differs = [self._differs(one) for one in self.assignments]
            if self.not_null:
                differs += [sql.SQL("{} IS NULL").format(self._column(one.target)) for one in self.assignments]
            conditions.append(sql.Composed([sql.SQL("("), sql.SQL(" OR ").join(differs), sql.SQL(")")]))
        return sql.SQL(" AND ").join(conditions) if conditions else sql.Composed([sql.SQL("true")])

    @property
    def keeps_own_values(self) -> bool:
        """Whether values other than the expression's are the application's own, and can be told from it."""
        return self.fills_null and self.synced and self.facts.repeatable

    @property
    def holds_own_value(self) -> sql.Composed:
        """True for rows in whose one column is a value that is not the expression's. An error where that cannot be computed."""
        (one,) = self.assignments
        return sql.SQL("({} AND {})").format(self._has_value(one.target), self._differs(one))

    @property
    def verifiable(self) -> bool:
        """Whether a look at a row tells that it is done."""
        return self.facts.repeatable or self.fills_null

    @property
    def condition_tells(self) -> sql.Composed | None:
        """The user's condition, where it alone can tell that a row is done: to be asked of every row that was changed.

        If it is false for all of them, rows that meet it need work, and can be verified and walked again by it.
        """
        if self.verifiable or self.where is None or not self.facts.condition_may_end:
            return None
        return expression(self.where)

    def _is_missing(self, one: Assignment) -> sql.Composed:
        """The column is NULL, and the expression would change that. In this order: the second is not asked of other rows."""
        if self.not_null or not self.facts.repeatable:
            return sql.SQL("{} IS NOT DISTINCT FROM NULL").format(self._column(one.target))
        return sql.SQL("({column} IS NOT DISTINCT FROM NULL AND {value} IS DISTINCT FROM NULL)").format(
            column=self._column(one.target), value=expression(one.expression)
        )

    def _was_left(self) -> list[sql.Composed]:
        if self.left is None:
            return []
        text = sendable(sql.Literal(self.left))
        return [sql.SQL('{}::text COLLATE "C" = {}').format(self._column(one.target), text) for one in self.assignments]

    def _has_value(self, target: Target) -> sql.Composed:
        # Not IS NOT NULL, which is false for a row with a NULL in it.
        return sql.SQL("{} IS DISTINCT FROM NULL").format(self._column(target))

    def _column(self, target: Target) -> sql.SQL:
        # Qualified by the table's bare name: that is how the expression sees it, and an output column cannot shadow it.
        return sendable(sql.Identifier(self.table.name, target.column))

    def _differs(self, one: Assignment) -> sql.Composed:
        # The explicit cast gives the value the column would hold; where it would not fit, the assignment fails and says so.
        # The type's text is format_type's own.
        type_ = sendable(sql.SQL(one.target.type))
        value = sql.SQL("CAST({} AS {})").format(expression(one.expression), type_)
        if one.target.as_text:
            return sql.SQL('{}::text COLLATE "C" IS DISTINCT FROM {}::text COLLATE "C"').format(
                self._column(one.target), value
            )
        return sql.SQL("{} IS DISTINCT FROM {}").format(self._column(one.target), value)
