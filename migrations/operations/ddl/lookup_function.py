"""The function of a sync trigger that looks a column up in the row which a foreign key names. Pure: this file gives PL/pgSQL.

The column is looked up where a row is added, where a column of its foreign key changes, and where it has no value though it refers to
something. A row that refers to itself is not there yet when it is added: it gives the value of its own key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.ddl.sync_function import PREAMBLE, changed, new_value

if TYPE_CHECKING:
    from backfilld.migrations.identifiers import TableName


@dataclass(frozen=True, kw_only=True)
class LookedUp:
    """A column that says in other values what a foreign key says."""

    table: TableName
    column: str
    #: The column that refers, the table that it refers to, and the column there that has the value.
    by: str
    references: TableName
    gives: str
    #: All columns of the foreign key, those that they refer to, and the operators that compare the two, these on the left.
    columns: tuple[str, ...]
    referenced: tuple[str, ...]
    operators: tuple[str, ...]

    def body(self) -> str:
        """The body of the trigger's function."""
        target, key = new_value(self.column), " OR ".join(changed(name) for name in self.columns)
        missing = f"{target} IS NOT DISTINCT FROM NULL AND {new_value(self.by)} IS DISTINCT FROM NULL"
        row = sql.Identifier("new").as_string()
        found = f"{target} := {self.value(row)};"
        if self.references == self.table:
            pairs = zip(self.columns, self.referenced, strict=True)
            itself = " AND ".join(f"{new_value(one)} IS NOT DISTINCT FROM {new_value(other)}" for one, other in pairs)
            found = f"IF {itself} THEN {target} := {new_value(self.gives)}; ELSE {found} END IF;"
        return f"""{PREAMBLE}
BEGIN
  IF TG_OP = 'UPDATE' THEN
    IF NOT ({key}) AND NOT ({missing}) THEN RETURN NEW; END IF;
  END IF;
  BEGIN
    {found}
  EXCEPTION WHEN syntax_error_or_access_rule_violation THEN
    NULL; -- a column or a table is not there any more: the run finds it out by itself
  END;
  RETURN NEW;
END"""

    def value(self, row: str) -> str:
        """What the row that is referred to has; NULL where there is none."""
        same = " AND ".join(
            f'"~referenced".{_quoted(other)} {operator} {row}.{_quoted(one)}'
            for one, other, operator in zip(self.columns, self.referenced, self.operators, strict=True)
        )
        table = self.references.identifier.as_string()
        return f'(SELECT "~referenced".{_quoted(self.gives)} FROM {table} AS "~referenced" WHERE {same})'  # noqa: S608 - names are quoted


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()
