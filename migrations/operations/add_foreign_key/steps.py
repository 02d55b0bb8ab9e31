"""Add a foreign key.

verify    no row breaks it; then ADD CONSTRAINT … FOREIGN KEY … NOT VALID, and VALIDATE, which scans while the application keeps running

No data moves. A row that refers to nothing stops the run, which names a few of them by key; the foreign key is dropped until
they are fixed.

Adding it takes SHARE ROW EXCLUSIVE on both tables, one after the other. They need not be taken at once: a session
that holds the second and waits for the first makes us time out long before PostgreSQL looks for a deadlock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Plain
from backfilld.migrations.operations.ddl.constraints import Rule, naming, orphaned
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.operations.base import Step


def foreign_key_body(
    definition: file.AddForeignKey, referenced: Sequence[str], *, table: sql.Identifier
) -> sql.Composed:
    """FOREIGN KEY (…) REFERENCES `table` (…) with its actions."""
    body = sql.SQL("FOREIGN KEY ({}) REFERENCES {} ({})").format(_list(definition.columns), table, _list(referenced))
    for event, action in (("DELETE", definition.on_delete), ("UPDATE", definition.on_update)):
        if action != "no action":
            body += sql.SQL(f" ON {event} {action.upper()}")  # of a closed list
    return body


@dataclass(frozen=True, kw_only=True)
class AddForeignKey(Plain[file.AddForeignKey]):
    """An `add_foreign_key` of a migration, bound to a database."""

    def verify(self) -> tuple[Step, ...]:
        referenced = self.definition.references.table
        return Rule(
            table=self.table,
            name=self.definition.name,
            words=f"the foreign key {self.definition.name}",
            body=foreign_key_body(self.definition, self.facts.referenced, table=referenced.identifier),
            columns=self.definition.columns,
            lock=LockMode.SHARE_ROW_EXCLUSIVE,
            references=referenced,
            offenders=naming(self.table, self.facts.key, self._orphaned),
            replaces=self.facts.adopts,
        ).steps(looks=True)

    @property
    def _orphaned(self) -> sql.Composed:
        return orphaned(
            self.table,
            self.definition.columns,
            references=self.definition.references.table,
            referenced=self.facts.referenced,
            equalities=self.facts.equalities,
        )


def _list(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(name) for name in names)
