"""The functions of the two sync triggers that keep a column of two tables saying the same. Pure: this file gives PL/pgSQL.

Each fires AFTER the rows of its table and writes the row of the other one that belongs to it, where that says anything else. What the
other trigger then finds is the same, so it writes nothing: the two need no setting and no count of how deep they are.

the table that has the column   a row gets another value          its row of the other table gets it; without one, that is added
the one that gets it            a row gets another value          the row that it refers to gets it
                                a row is added without a value    it gets the one that is there
                                a row goes, or refers to another  the row that it referred to has no value any more
                                all rows go by a TRUNCATE         no row has a value any more

A value is read from the row as it is when the trigger fires, and not taken from what it is told of: an UPDATE that a foreign key
cascades is told after the statement's own triggers have fired, and another trigger may have written the row again.

A value that the other table does not take is no error of the application's: the row is put down as a rollback conflict, and found by
verify. What another session decides is one, as it would be without us: a deadlock, a lock that is not had in time, or a serialization
failure; a statement that goes on after it would leave the tables apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.ddl.sync_function import (
    PREAMBLE,
    RollbackConflicts,
    changed,
    count_statement,
    new_value,
    put_down,
)

if TYPE_CHECKING:
    from backfilld.migrations.identifiers import TableName


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A column of two tables."""

    table: TableName
    to: TableName
    column: str
    #: Without a domain, as format_type writes it.
    type: str
    #: The columns of `to` that refer to the row, those of `table` that they refer to, and the operators that compare them, these on
    #: the left.
    on: tuple[str, ...]
    by: tuple[str, ...]
    equalities: tuple[str, ...]
    #: `by` in the order of the key by which rows are named.
    key: tuple[str, ...]
    migration: str
    operation: int

    def from_body(self, *, counts: bool, filled: bool = True) -> str:
        """Of the table that has the column; with `counts` statements that write it are put on record.

        Until the column is `filled`, on the way back, a row that gets another key alone says nothing of the value, which may be in the
        other table only: a foreign key that cascades has its row follow.
        """
        into, column = self.to.identifier.as_string(), _quoted(self.column)
        value = new_value(self.column)
        belongs, is_now = self._belongs('"new"', '"~to"'), f'"~from".{column}'
        keys = ", ".join(new_value(name) for name in self.by)
        on = ", ".join(_quoted(name) for name in self.on)
        counted = ""
        if counts:
            wrote = f"TG_OP = 'INSERT' AND {value} IS DISTINCT FROM NULL OR TG_OP = 'UPDATE' AND {changed(self.column)}"
            if_so = f"pg_catalog.pg_trigger_depth() = 1 AND ({wrote})"
            counted = f"\n  IF {if_so} THEN\n{count_statement(self.migration, self.operation)}\n  END IF;"
        return f"""{PREAMBLE}
BEGIN
  IF TG_OP = 'UPDATE' AND NOT ({self._any_changed((self.column, *(self.by if filled else ())))}) THEN RETURN NULL; END IF;{counted}
  BEGIN
    UPDATE {into} AS "~to" SET {column} = {is_now} FROM {self.table.identifier.as_string()} AS "~from"
    WHERE {belongs} AND {self._belongs('"~from"', '"~to"')} AND {self._differs(f'"~to".{column}', is_now)};
    IF {value} IS DISTINCT FROM NULL AND NOT EXISTS (SELECT FROM {into} AS "~to" WHERE {belongs}) THEN
      INSERT INTO {into} ({on}, {column}) VALUES ({keys}, {value}) ON CONFLICT ({on}) DO UPDATE SET {column} = excluded.{column};
    END IF;
{self._otherwise(self.key)}
  RETURN NULL;
END"""  # noqa: S608 - names are quoted, operators are the catalog's

    @property
    def to_body(self) -> str:
        """Of the table that gets it."""
        table, into, column = self.table.identifier.as_string(), self.to.identifier.as_string(), _quoted(self.column)
        value, own = new_value(self.column), f'"~from".{column}'
        was, now = self._belongs('"~from"', '"old"'), self._belongs('"~from"', '"new"')
        other = self._belongs('"~from"', '"~to"')
        here = self._belongs('"~from"', '"~to"')
        leaves = f"""    UPDATE {table} AS "~from" SET {column} = NULL WHERE {was} AND {own} IS DISTINCT FROM NULL
      AND NOT EXISTS (SELECT FROM {into} AS "~to" WHERE {here});"""  # noqa: S608 - as above
        is_now = f'"~to".{column}'
        takes = f"""    UPDATE {table} AS "~from" SET {column} = {is_now} FROM {into} AS "~to"
    WHERE {now} AND {here} AND {self._differs(own, is_now)};"""  # noqa: S608 - as above
        return f"""{PREAMBLE}
BEGIN
  IF TG_OP = 'UPDATE' THEN
    IF NOT ({self._any_changed((self.column, *self.on))}) THEN RETURN NULL; END IF;
  END IF;
  BEGIN
    IF TG_OP = 'DELETE' THEN
  {leaves}
      RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' THEN
      IF {self._any_changed(self.on)} THEN
  {leaves}
      END IF;
    END IF;
    IF TG_OP = 'INSERT' AND {value} IS NOT DISTINCT FROM NULL THEN
      UPDATE {into} AS "~to" SET {column} = {own} FROM {table} AS "~from"
      WHERE {other} AND {now} AND {own} IS DISTINCT FROM NULL;
    ELSE
  {takes}
    END IF;
{self._otherwise(tuple(self.on[self.by.index(name)] for name in self.key), may_be_gone=True)}
  RETURN NULL;
END"""  # noqa: S608 - as above

    @property
    def truncated_body(self) -> str:
        """Of the table that gets it, once all of its rows are gone."""
        table, column = self.table.identifier.as_string(), _quoted(self.column)
        return f"""{PREAMBLE}
BEGIN
  BEGIN
    UPDATE {table} AS "~from" SET {column} = NULL WHERE "~from".{column} IS DISTINCT FROM NULL;
  EXCEPTION
    WHEN serialization_failure OR deadlock_detected OR lock_not_available THEN
      RAISE;
    WHEN others THEN
      NULL; -- The application comes first: a column that is NOT NULL until the switch keeps its values.
  END;
  RETURN NULL;
END"""  # noqa: S608 - as above

    def _otherwise(self, key: tuple[str, ...], *, may_be_gone: bool = False) -> str:
        conflicts = RollbackConflicts(migration=self.migration, operation=self.operation, key=key)
        (put,) = put_down(conflicts)
        if may_be_gone:
            put = f"IF TG_OP <> 'DELETE' THEN\n      {put}\n      END IF;"
        return f"""  EXCEPTION
    WHEN serialization_failure OR deadlock_detected OR lock_not_available THEN
      RAISE;
    WHEN undefined_column OR undefined_table THEN
      NULL; -- a column or a table is not there any more: the run finds it out by itself
    WHEN others THEN
      -- The application comes first: its statement must not fail.
      {put}
  END;"""

    def _belongs(self, row: str, to: str) -> str:
        """Whether a row of `to` refers to the row."""
        return " AND ".join(
            f"{row}.{_quoted(by)} {operator} {to}.{_quoted(on)}"
            for by, operator, on in zip(self.by, self.equalities, self.on, strict=True)
        )

    def _differs(self, one: str, other: str) -> str:
        one, other = (f"ROW(CAST({value} AS {self.type}))::record" for value in (one, other))
        return f"{one} OPERATOR(pg_catalog.*<>) {other}"

    def _any_changed(self, columns: tuple[str, ...]) -> str:
        return " OR ".join(changed(name) for name in columns)

    # Over a row of the table, in statements

    def there(self, *, row: str) -> str:
        """What the other table holds for a row."""
        into, column = self.to.identifier.as_string(), _quoted(self.column)
        belongs = self._belongs(row, '"~to"')
        return f'(SELECT "~to".{column} FROM {into} AS "~to" WHERE {belongs})'  # noqa: S608 - as above

    def is_not_there(self, *, row: str) -> str:
        """Whether the other table holds anything else for a row."""
        return self._differs(f"{row}.{_quoted(self.column)}", self.there(row=row))


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()
