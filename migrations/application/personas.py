"""As whom a statement is measured: what policies cost only those feel who are asked them, and our role is asked none.

Of a migration that replaces policies alone, whose personas its lanes read these tables as anyway. A statement that reads another table
is measured as our role: that table's policies, and the functions in them, are no part of the migration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.policies.comparison import become
from backfilld.migrations.postgres.connect import apply_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backfilld.migrations.application.corpus import Statement
    from backfilld.migrations.application.usable import Plan
    from backfilld.migrations.facts import Facts
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.policies import Persona

    #: Chooses by the plan that our role gets.
    Whose = Callable[[Plan], Persona | None]


class Personas:
    """The personas of the tables that get other policies."""

    def __init__(self, facts: Sequence[Facts]) -> None:
        self._of_tables: dict[tuple[str, str], Sequence[Persona]] = {}
        for one in facts:
            if one.policies is not None:
                table = TableName.parse(one.relation)
                self._of_tables[table.schema, table.name] = one.policies.personas

    def of(self, statement: Statement) -> Whose:
        """The first of the file that sends such a statement: its role did, where that is known, and is asked policies."""

        def chosen(plan: Plan) -> Persona | None:
            tables = plan.scanned | plan.by_index
            if not tables or not tables <= self._of_tables.keys():
                return None
            asked = [{one.name for one in self._of_tables[table] if _is_asked(one)} for table in tables]
            several = self._of_tables[min(tables)]
            return next(
                (
                    one
                    for one in several
                    if (not statement.roles or one.role in statement.roles) and all(one.name in some for some in asked)
                ),
                None,
            )

        return chosen

    def named(self, name: str) -> Whose:
        """The one that an earlier measure chose."""
        found = next((one for several in self._of_tables.values() for one in several if one.name == name), None)
        return lambda _plan: found


def nobody(_plan: Plan) -> None:
    """Our own role."""


def take_role(connection: Connection, persona: Persona, *, path: str) -> None:
    """Be a persona until the transaction ends, under a search path of the application's."""
    for statement in become(persona):
        connection.execute(statement)
    apply_settings(connection, {"search_path": path})


def _is_asked(persona: Persona) -> bool:
    return "select" in persona.may and not persona.bypasses and not persona.owns
