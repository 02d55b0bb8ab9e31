"""Take a column away, once its values are archived.

switch    DROP NOT NULL, so that the application may leave the column out
contract  lanes copy the column into the archive, and look again that no row is missing; then DROP COLUMN

The way back adds the column again, gives every row its value from the archive, and then brings back what the column carried:
indexes CONCURRENTLY, constraints by a scan that stops nobody. Rows added since get the column's default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import Action, Archived, Plain, Statement, Step, Walk, object_name
from backfilld.migrations.operations.ddl import concurrently
from backfilld.migrations.rollback.archive import restored
from backfilld.migrations.walks.rewrite import Assignment, Rewrite

if TYPE_CHECKING:
    from backfilld.migrations.facts import Dropped
    from backfilld.migrations.file.migration import DropColumn as Definition
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.definitions import Constraint, IndexDefinition

_BRIEF = "brief; gives way after lock_timeout, and tries again"
_SCAN = "scans the table while reads and writes go on"


@dataclass(frozen=True, kw_only=True)
class DropColumn(Plain):
    """A `drop_column` of a migration, bound to a database."""

    definition: Definition
    migration: str
    number: int

    @property
    def table(self) -> TableName:
        return self.definition.table

    def switch(self) -> tuple[Step, ...]:
        if not self._dropped.not_null:
            return ()
        drop = self._alter("ALTER COLUMN {} DROP NOT NULL", self._column, note="the application may leave it out")
        return (Action(table=self.table, statements=(drop,), back=(self._restore(), *self._not_null_again())),)

    def contract(self) -> tuple[Step, ...]:
        archive = Walk(
            kind="archive",
            operation=self.number,
            table=self.table,
            key=self.facts.key,
            archived=Archived(old=self.definition.column),
            note="copies the column into the archive, then looks again that no row is missing",
        )
        drop = self._alter("DROP COLUMN {}", self._column, note="its values are in the archive; " + _BRIEF)
        return (archive, Action(table=self.table, statements=(drop,), back=self._again()))

    def _again(self) -> tuple[Step, ...]:
        """The column as it was: first its values, then what it carried."""
        carried = [
            *(step for index in self._dropped.indexes for step in self._index(index)),
            *(step for constraint in self._dropped.constraints for step in self._constraint(constraint)),
        ]
        return (Action(table=self.table, statements=self._added()), self._restore(), *carried)

    def _added(self) -> tuple[Statement, ...]:
        dropped = self._dropped
        collation = sql.SQL(" COLLATE {}").format(sql.SQL(dropped.collation)) if dropped.collation else sql.SQL("")
        type_ = sql.SQL("{}{}").format(sql.SQL(dropped.type), collation)  # as the catalog wrote them
        statements = [self._alter("ADD COLUMN {} {}", self._column, type_, note="no rewrite; " + _BRIEF)]
        if dropped.default is not None:
            default = sql.SQL(dropped.default)
            statements.append(
                self._alter("ALTER COLUMN {} SET DEFAULT {}", self._column, default, note="for rows to come")
            )
        name = sql.SQL("{}.{}").format(self.table.identifier, self._column)
        if dropped.comment is not None:
            comment = sql.SQL("COMMENT ON COLUMN {} IS {}").format(name, sql.Literal(dropped.comment))
            statements.append(Statement(sql=comment, lock="SHARE UPDATE EXCLUSIVE"))
        for grant in dropped.grants:
            granted = sql.SQL("GRANT {} ({}) ON {} TO {}{}").format(
                sql.SQL(grant.privilege),
                self._column,
                self.table.identifier,
                sql.SQL(grant.grantee),  # quoted by PostgreSQL
                sql.SQL(" WITH GRANT OPTION" if grant.grantable else ""),
            )
            statements.append(Statement(sql=granted, lock="none"))
        return tuple(statements)

    def _restore(self) -> Walk:
        """Rows without a value get the archived one, or the default where the archive does not have the row.

        The same walk whether the column is gone or has only been left out: it is done once on the way back.
        """
        value = restored(
            table=self.table,
            key=self.facts.key,
            operation=self.number,
            type_=self._dropped.type,
            new=None,
            fallback=self._dropped.default or "NULL",
        )
        rewrite = Rewrite(
            table=self.table,
            facts=self.facts,
            assignments=(Assignment(target=self.facts.targets[0], expression=value),),
            where=f"{value} IS NOT NULL",
            fills_null=True,
        )
        note = "from the archive, where the row has no value yet"
        return Walk(
            kind="restore", operation=self.number, table=self.table, key=self.facts.key, rewrite=rewrite, note=note
        )

    def _not_null_again(self) -> tuple[Step, ...]:
        check = sql.Identifier(object_name("backfilld_not_null", self.migration, self.number))
        gone = self._alter("DROP CONSTRAINT IF EXISTS {}", check, note=_BRIEF)
        nulls = sql.SQL("SELECT {} FROM {} WHERE {} IS NULL LIMIT 10").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(one.name)) for one in self.facts.key),
            self.table.identifier,
            self._column,
        )
        return (
            Action(
                table=self.table,
                statements=(
                    gone,
                    self._alter("ADD CONSTRAINT {} CHECK ({} IS NOT NULL) NOT VALID", check, self._column, note=_BRIEF),
                ),
            ),
            Action(
                table=self.table,
                statements=(self._alter("VALIDATE CONSTRAINT {}", check, lock="SHARE UPDATE EXCLUSIVE", note=_SCAN),),
                scans=True,
                offenders=nulls,
            ),
            Action(
                table=self.table,
                statements=(self._alter("ALTER COLUMN {} SET NOT NULL", self._column, note="no scan; " + _BRIEF), gone),
            ),
        )

    def _index(self, kept: IndexDefinition) -> tuple[Step, ...]:
        """An index that the column carried, again; and the UNIQUE constraint that it was."""
        build = concurrently.build(self.table, kept, key=self.facts.key)
        if kept.name not in self._dropped.unique:
            return (build,)
        name = sql.Identifier(kept.name)
        add = self._alter("ADD CONSTRAINT {} UNIQUE USING INDEX {}", name, name, note=_BRIEF)
        return (build, Action(table=self.table, statements=(add,)))

    def _constraint(self, kept: Constraint) -> tuple[Step, ...]:
        """A constraint that the column carried, again."""
        name = sql.Identifier(kept.name)
        # As pg_get_constraintdef wrote it, without the word that says it was not validated either.
        definition = sql.SQL(kept.definition.removesuffix(" NOT VALID"))
        add = self._alter("ADD CONSTRAINT {} {} NOT VALID", name, definition, note=_BRIEF)
        validate = self._alter("VALIDATE CONSTRAINT {}", name, lock="SHARE UPDATE EXCLUSIVE", note=_SCAN)
        scan = Action(table=self.table, statements=(validate,), scans=True)
        return (Action(table=self.table, statements=(add,)), *((scan,) if kept.valid else ()))

    def _alter(self, text: str, *parts: sql.Composable, lock: str = "ACCESS EXCLUSIVE", note: str = "") -> Statement:
        # The text is one of this file's own.
        altered = sql.SQL("ALTER TABLE {} ").format(self.table.identifier) + sql.SQL(text).format(*parts)
        return Statement(sql=altered, lock=lock, note=note)

    @property
    def _dropped(self) -> Dropped:
        if self.facts.dropped is None:
            msg = f"{self.table}.{self.definition.column} was not looked at before it is to be dropped"
            raise LookupError(msg)
        return self.facts.dropped

    @property
    def _column(self) -> sql.Identifier:
        return sql.Identifier(self.definition.column)
