"""Give a table another name, while applications that use either name keep running.

switch    RENAME, and a view under the old name with the table's privileges, in one transaction
contract  DROP VIEW

PostgreSQL lets applications write to a view of one table as to the table itself, ON CONFLICT and RETURNING included, and from 15 on
it reads the table with the rights and the policies of who reads the view. What depends on the table follows it by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import OldName
from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Guard, Plain, Statement, Step
from backfilld.migrations.operations.ddl import grants_and_comments, tables
from backfilld.migrations.postgres.locks import LockMode
from backfilld.migrations.postgres.tables import columns_not_in

if TYPE_CHECKING:
    from backfilld.migrations.identifiers import TableName


@dataclass(frozen=True, kw_only=True)
class RenameTable(Plain[file.RenameTable]):
    """A `rename_table` of a migration, bound to a database."""

    @property
    def renamed(self) -> TableName:
        return self.definition.renamed

    def switch(self) -> tuple[Step, ...]:
        back = Action(
            table=self.renamed,
            statements=(tables.drop_view(self.table), tables.rename(self.renamed, self.table.name), *self._told),
            views=(self.table,),
            locks=(self.renamed,),
            frees=True,
        )
        return (
            Action(
                table=self.table,
                statements=(tables.rename(self.table, self.definition.to), *self._view, *self._told),
                guards=(self._shows_all,),
                back=(back,),
            ),
        )

    def contract(self) -> tuple[Step, ...]:
        again = Action(table=self.renamed, statements=(*self._view, *self._told), guards=(self._shows_all,), frees=True)
        return (Action(table=self.table, statements=(tables.drop_view(self.table), *self._told), back=(again,)),)

    @property
    def _view(self) -> tuple[Statement, ...]:
        """The view under the old name, and who may use it: as the table, whatever default privileges say."""
        known = self._old_name
        created = tables.create_view(
            self.table, of=self.renamed, columns=known.columns, security_invoker=known.security_invoker
        )
        revoked = [
            Statement(
                sql=sql.SQL("REVOKE ALL ON {} FROM {}").format(self.table.identifier, sql.SQL(grantee)),
                lock=LockMode.NONE,
            )
            for grantee in known.default_grantees  # quoted by PostgreSQL
        ]
        granted = [grants_and_comments.grant(self.table, grant, column=column) for column, grant in known.grants]
        text = known.comment or f"{self.table} under its old name, until `backfilld approve {self.migration}`"
        return (created, *revoked, *granted, grants_and_comments.on_view(self.table, text))

    @property
    def _shows_all(self) -> Guard:
        return Guard(
            sql=columns_not_in(self.table, self.renamed),
            template="the column {!r} was added since the run was enqueued, and a statement under the old name would not find it",
            remedy="Cancel the run, and enqueue the migration again",
        )

    @property
    def _told(self) -> tuple[Statement, ...]:
        return (tables.notify_postgrest(),) if self._old_name.notifies else ()

    @property
    def _old_name(self) -> OldName:
        return self.facts.old_name or OldName(columns=())
