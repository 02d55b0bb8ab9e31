"""Add a CHECK constraint.

verify    no row breaks it; then ADD CONSTRAINT … CHECK (…) NOT VALID, and VALIDATE, which scans while the application keeps running

No data moves. A row that breaks the check stops the run, which names a few of them by key; the check is dropped until they are
fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Plain
from backfilld.migrations.operations.ddl.constraints import Rule, naming

if TYPE_CHECKING:
    from backfilld.migrations.operations.base import Step


def check_body(expression: str) -> sql.Composed:
    """CHECK (…) over a user's expression; the line breaks end a trailing comment."""
    return sql.SQL("CHECK (\n{}\n)").format(sql.SQL(expression))  # checked by preflight


@dataclass(frozen=True, kw_only=True)
class AddCheck(Plain[file.AddCheck]):
    """An `add_check` of a migration, bound to a database."""

    def verify(self) -> tuple[Step, ...]:
        # As a CHECK takes it: a condition that gives NULL is met.
        broken = sql.SQL("NOT (\n{}\n)").format(sql.SQL(self.definition.check))
        return Rule(
            table=self.table,
            name=self.definition.name,
            words=f"the check {self.definition.name}",
            body=check_body(self.definition.check),
            columns=self.facts.rule_columns,
            offenders=naming(self.table, self.facts.key, broken),
            replaces=self.facts.adopts,
        ).steps(looks=True)
