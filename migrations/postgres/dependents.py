"""What hangs on a table and its columns: all that a change of the table may carry along, break, or take with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "dependents")


@dataclass(frozen=True, kw_only=True)
class Dependent:
    """One thing that depends on a table."""

    #: view · materialized view · rule · function · policy · index · constraint · foreign key · inbound foreign key · trigger ·
    #: grant · column grant · publication · statistics · comment · default · generated column · sequence · replica identity
    kind: str
    name: str
    #: The columns it names; none when it is about the whole table.
    columns: tuple[str, ...] = ()
    #: `parsed` or `text` for functions, `of another table` for policies, the definition of constraints and defaults.
    detail: str = ""

    def names(self, column: str) -> bool:
        return column in self.columns

    @property
    def is_text(self) -> bool:
        """Whether PostgreSQL does not know that it depends on the table: it will only find out when it is called."""
        return self.kind == "function" and self.detail == "text"


def of_table(connection: Connection, table: Table) -> tuple[Dependent, ...]:
    """What depends on a table, by kind and name."""
    with connection.transaction():
        connection.execute("SET LOCAL search_path = ''")
        rows = connection.execute(_SQL["of_table"], {"oid": table.oid}).fetchall()
    return tuple(Dependent(**{**row, "columns": tuple(sorted(set(row["columns"])))}) for row in rows)
