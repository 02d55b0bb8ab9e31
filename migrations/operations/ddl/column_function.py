"""The function of a sync trigger that computes one column from the rest of its row. Pure: this file gives PL/pgSQL.

`Computed` is either derived for good, so that the expression's value replaces whatever a statement wrote; or it is filled, and
then what an application writes is never replaced:

INSERT      the column was given             it is kept; NULL and the DEFAULT are not a value that was given
            it was not                       the expression's value
UPDATE      the statement changed it         it is kept; to NULL, the expression's value
            what the expression reads        it is kept
            is as it was
            it holds the expression's        the expression's value for the new row
            value for the old row
            it holds anything else           it is kept, as the application's own

An expression that cannot be repeated cannot tell its own value from another: it fills what is NULL, and that only.

Nothing raises into the application. Where the value cannot be computed the row keeps what it has, and is put into the quarantine
with what it kept: verify and `status` find it there, and a retry computes it unless the application has written its own since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.ddl.sync_function import (
    PREAMBLE,
    changed,
    count_statement,
    new_value,
    row_value,
)

if TYPE_CHECKING:
    from backfilld.migrations.identifiers import TableName


@dataclass(frozen=True, kw_only=True)
class Computed:
    """A column and the expression that gives its value."""

    table: TableName
    column: str
    #: As format_type writes it.
    type: str
    expression: str
    migration: str
    operation: int
    #: The columns of the key that is walked; none for a table without one.
    key: tuple[str, ...]
    #: The columns that the expression reads.
    reads: tuple[str, ...]
    #: The expression's value replaces what a statement wrote.
    derived: bool = False
    #: Asking the expression again gives the same value for the same row.
    repeatable: bool = True
    #: The column's DEFAULT where it is a constant, which an INSERT gives that leaves the column out.
    default: str | None = None
    #: INSERTs that give no value are put on record: they fail once the trigger is gone.
    counts_omitted: bool = False

    def body(self) -> str:
        """The body of the trigger's function."""
        keeps = "" if self.derived and self.repeatable else self._keeps()
        return f"""{PREAMBLE}
BEGIN{keeps}{self._still_there()}
  {new_value(self.column)} := {row_value(self.table, self.expression)};
  RETURN NEW;
EXCEPTION WHEN others THEN
  -- The application comes first: its statement must not fail.{self._as_it_was()}
{self._put_down()}
  RETURN NEW;
END"""

    def _still_there(self) -> str:
        """Raise where a column that is read is gone: to a plan that was made before, it would be NULL."""
        now = ", ".join(new_value(name) for name in self.reads)
        return f"\n  IF ROW({now})::record IS NULL THEN NULL; END IF;" if now else ""

    def _keeps(self) -> str:
        """Return early where the row's value is not to be replaced."""
        given = f"{new_value(self.column)} IS DISTINCT FROM NULL"
        if self.default is not None:
            default = f"ROW(CAST((\n{self.default}\n) AS {self.type}))::record"
            value = f"ROW(CAST({new_value(self.column)} AS {self.type}))::record"
            given += f" AND {value} OPERATOR(pg_catalog.*<>) {default}"
        omitted = f"\n{count_statement(self.migration, self.operation)}" if self.counts_omitted else ""
        return f"""
  IF TG_OP = 'INSERT' THEN
    IF {given} THEN RETURN NEW; END IF;{omitted}
  ELSIF {new_value(self.column)} IS DISTINCT FROM NULL THEN
{self._own_value() if self.repeatable else "    RETURN NEW;"}
  END IF;"""

    def _own_value(self) -> str:
        """Return unless the row held what the expression gave for it, and is to hold what it gives now."""
        unread = ", ".join(sql.Identifier("old", name).as_string() for name in self.reads)
        now = ", ".join(new_value(name) for name in self.reads)
        same = f" OR ROW({unread})::record OPERATOR(pg_catalog.*=) ROW({now})::record" if self.reads else " OR true"
        old, was = sql.Identifier("old", self.column).as_string(), row_value(self.table, self.expression, row="OLD")
        return f"""    IF {changed(self.column)}{same} THEN RETURN NEW; END IF;
    BEGIN
      IF ROW(CAST({was} AS {self.type}))::record OPERATOR(pg_catalog.*<>) ROW({old})::record THEN RETURN NEW; END IF;
    EXCEPTION WHEN others THEN
      RETURN NEW; -- what the row holds was not computed
    END;"""

    def _as_it_was(self) -> str:
        """What a statement wrote into a derived column does not stay there."""
        if not self.derived:
            return ""
        column, old = new_value(self.column), sql.Identifier("old", self.column).as_string()
        return f"""
  BEGIN
    IF TG_OP = 'INSERT' THEN {column} := NULL; ELSE {column} := {old}; END IF;
  EXCEPTION WHEN others THEN
    NULL; -- the column itself is gone
  END;"""

    def _put_down(self) -> str:
        if not self.key:
            return "  NULL; -- nothing names the row: verify finds that it has no value"
        key = ", ".join(f"{new_value(name)}::text" for name in self.key)
        migration, relation = (sql.Literal(text).as_string() for text in (self.migration, str(self.table)))
        return f"""  BEGIN
    INSERT INTO backfilld.quarantine (run, operation, relation, key, sqlstate, error, kept)
    SELECT r.run, {self.operation}, {relation}, jsonb_build_array({key}), SQLSTATE, SQLERRM, {new_value(self.column)}::text
    FROM backfilld.runs r WHERE r.name = {migration} ORDER BY r.run DESC LIMIT 1
    ON CONFLICT (run, operation, key) DO NOTHING;
  EXCEPTION WHEN others THEN
    NULL; -- on no account an error of the application's
  END;"""  # noqa: S608 - names and values are quoted
