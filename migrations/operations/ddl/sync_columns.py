"""The function of a sync trigger that keeps two sets of columns of a row saying the same. Pure: this file gives PL/pgSQL.

One set replaces the other. As in `sync_function.Pair` one of the two is the primary, the old one until the switch and the new one from
then on, and which set a statement meant follows from what it changed or gave. What differs:

- **A row that agrees is left alone.** It does where the old columns hold what `down` gives of the new ones. `up` need not say the same
  again: of "Anna Maria" and "Smith" it may have taken one word each. So an application may write both sets, or the new one alone
  before the switch, and keeps its own words.
- One error leaves the whole set as it was; of the shadow it makes NULLs.
- Once `settled`, a row whose shadow reads a column beside the two sets is computed when that column changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.ddl.sync_function import (
    PREAMBLE,
    changed,
    count_statement,
    given,
    new_value,
    put_down,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations.ddl.sync_function import RollbackConflicts, Side


@dataclass(frozen=True, kw_only=True)
class ColumnSets:
    """Two sets of columns of a row that are to say the same."""

    table: TableName
    old: tuple[Side, ...]
    new: tuple[Side, ...]
    #: The new columns are the primary, and every row is known to be right: an UPDATE of neither set leaves both alone.
    settled: bool = False
    #: Other columns that the shadow's expressions read.
    reads: tuple[str, ...] = ()
    #: With `settled`, while a walk by this key still gives the shadow its values: a row that gets another key may never be met.
    walked_by: tuple[str, ...] = ()
    rollback_conflicts: RollbackConflicts
    #: The migration, and the operation's number in it, where statements that write the old columns alone are put on record: they
    #: fail once these are gone.
    counts_shadow: tuple[str, int] | None = None

    def body(self) -> str:
        """The body of the trigger's function."""
        primary, shadow = (self.new, self.old) if self.settled else (self.old, self.new)
        counted = ""
        if self.counts_shadow is not None:
            counted = f"\n  IF backward THEN\n{count_statement(*self.counts_shadow)}\n  END IF;"
        return f"""{PREAMBLE}
DECLARE
  backward boolean;
BEGIN
  IF TG_OP = 'INSERT' THEN
    backward := {_most_given(shadow)} > {_most_given(primary)};
  ELSE
    backward := {_any_changed(one.column for one in shadow)} AND NOT {_any_changed(one.column for one in primary)};{self._neither(primary, shadow)}
  END IF;{counted}
{self._agreed()}
  IF backward THEN
{self._computed(primary, ())}
  ELSE
{self._computed(shadow, [f"{new_value(one.column)} := NULL;" for one in shadow])}
  END IF;
  RETURN NEW;
EXCEPTION WHEN syntax_error_or_access_rule_violation THEN
  -- Class 42: a column is not there any more, or is of another type. The application comes first; the run finds it out by itself.
  RETURN NEW;
END"""

    def _neither(self, primary: Sequence[Side], shadow: Sequence[Side]) -> str:
        if not self.settled:
            return ""
        inputs = [*(one.column for one in primary), *self.reads]
        same = f"NOT backward AND NOT {_any_changed(inputs)}"
        if self.walked_by:
            empty = " AND ".join(f"{new_value(one.column)} IS NOT DISTINCT FROM NULL" for one in shadow)
            same += f" AND NOT ({_any_changed(self.walked_by)} AND {empty})"
        return f"\n    IF {same} THEN RETURN NEW; END IF;"

    def _agreed(self) -> str:
        """Return where the old columns hold what `down` gives of the new ones."""
        values = " OR ".join(f"{new_value(one.column)} IS DISTINCT FROM NULL" for one in self.new)
        now = ", ".join(f"CAST({new_value(one.column)} AS {one.type})" for one in self.old)
        said = ", ".join(f"CAST((\n{one.expression}\n) AS {one.type})" for one in self.old)
        row = sql.Identifier(self.table.name).as_string()
        return f"""  BEGIN
    IF ({values}) AND ROW({now})::record OPERATOR(pg_catalog.*=) (SELECT ROW({said})::record FROM (SELECT NEW.*) AS {row}) THEN
      RETURN NEW;
    END IF;
  EXCEPTION WHEN others THEN
    NULL; -- what cannot be computed does not agree
  END;"""  # noqa: S608 - checked by preflight, names are quoted

    def _computed(self, sides: Sequence[Side], otherwise: Sequence[str]) -> str:
        """One set from the other, all of it or nothing."""
        values = ", ".join(f"(\n{one.expression}\n)" for one in sides)
        into = ", ".join(new_value(one.column) for one in sides)
        row = sql.Identifier(self.table.name).as_string()
        instead = "\n      ".join([*otherwise, *put_down(self.rollback_conflicts)])
        return f"""    BEGIN
      SELECT {values} INTO {into} FROM (SELECT NEW.*) AS {row};
    EXCEPTION WHEN others THEN
      -- The application comes first: its statement must not fail.
      {instead}
    END;"""  # noqa: S608 - as above


def _most_given(sides: Sequence[Side]) -> str:
    return f"greatest({', '.join(given(one) for one in sides)})"


def _any_changed(columns: Iterable[str]) -> str:
    return f"({' OR '.join(changed(name) for name in columns)})"
