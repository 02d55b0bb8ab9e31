"""Whether this role may build the indexes of a migration: what fails there fails late, after all the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations import Action, steps
from backfilld.migrations.postgres import catalog
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.operations import Operation
    from backfilld.migrations.planning.examination import Examination
    from backfilld.migrations.postgres.connect import Connection


def check_index_rights(connection: Connection, found: Examination, operations: Sequence[Operation]) -> None:
    """Refuse what would fail where it builds an index, there or on the way back: to own a table is not enough for that."""
    schemas = {
        operation.table.schema
        for operation in operations
        if operation.table is not None
        for phase in Phase
        for step in steps([operation], phase)
        if isinstance(step, Action) and step.index is not None
    }
    for one in sorted(schemas):
        if not catalog.may_create(connection, one):
            found.refuse(
                "privileges",
                f"the role {found.backend.role} may not build an index in the schema {one}",
                f"{sql.SQL('GRANT CREATE ON SCHEMA {} TO').format(sql.Identifier(one)).as_string()} {found.backend.role}, "
                "or to the owner of the table, of which it is a member",
            )
