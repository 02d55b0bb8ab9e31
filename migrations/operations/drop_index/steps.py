"""Take an index away while the application keeps running.

contract  DROP INDEX CONCURRENTLY

Its definition is kept with the run, and the way back builds it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Guard, Plain
from backfilld.migrations.operations.ddl import indexes

if TYPE_CHECKING:
    from backfilld.migrations.operations.base import Step


@dataclass(frozen=True, kw_only=True)
class DropIndex(Plain[file.DropIndex]):
    """A `drop_index` of a migration, bound to a database."""

    def contract(self) -> tuple[Step, ...]:
        if self.facts.index is None:  # refused by preflight
            return ()
        return (
            indexes.drop(
                self.table,
                self.facts.index,
                key=self.facts.key,
                guards=(self._is_gone(self.facts.index.name),),
            ),
        )

    def _is_gone(self, name: str) -> Guard:
        # Another index of that name is not dropped: what would bring it back is not known.
        return Guard(
            sql=sql.SQL(
                "SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
                "WHERE n.nspname = {} AND c.relname = {}"
            ).format(sql.Literal(self.table.schema), sql.Literal(name)),
            template="the index {!r} has changed since the run was enqueued, so it was not dropped",
            remedy="Cancel the run, and enqueue the migration again under another name",
        )
