"""A change of type as its parts know it: the two columns, what depends on them, and the names of what is made for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import object_name
from backfilld.migrations.operations.ddl.constraints import Rule, from_catalog, not_null_check
from backfilld.migrations.operations.ddl.sync_function import Pair, RollbackConflicts, Side
from backfilld.migrations.operations.ddl.sync_trigger import SyncTrigger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.column_dependents import ColumnDependents
    from backfilld.migrations.postgres.definitions import KeyColumn


@dataclass(frozen=True, kw_only=True)
class Change:
    """One column that gets another type."""

    table: TableName
    #: The name under which the application knows the column, whichever of the two has it.
    column: str
    #: The type that it gets.
    type: str
    #: The new value, over a row in which the column's name means the old one; and the other way round.
    up: str
    down: str
    key: tuple[KeyColumn, ...]
    dependents: ColumnDependents
    migration: str
    number: int
    #: The old column goes on filling itself while it is inactive: by its DEFAULT or as an identity.
    keeps: bool = False

    @property
    def new_column(self) -> str:
        """The column of the new type, while it is inactive."""
        return self.dependents.new_column

    @property
    def old_column(self) -> str:
        """The column of the old type, once it is inactive."""
        return self.dependents.old_column

    @property
    def copies(self) -> str:
        """The schema in which copies of materialized views wait for the exchange."""
        return f"backfilld_{object_name('next', self.migration, self.number)}"

    # The sync trigger

    @property
    def trigger(self) -> SyncTrigger:
        return SyncTrigger(table=self.table, name=object_name("sync", self.migration, self.number))

    @property
    def synced_before(self) -> str:
        """The body of its function before the switch: the old column is the primary."""
        dependents = self.dependents
        default = dependents.default if dependents.constant_default else None
        return Pair(
            table=self.table,
            primary=Side(
                column=self.column,
                type=dependents.type,
                expression=self._seen_as(self.down, self.new_column, dependents.down_reads),
                default=default,
                fills_itself=dependents.fills_itself,
            ),
            shadow=Side(column=self.new_column, type=self.type, expression=self.up),
            rollback_conflicts=self._rollback_conflicts,
        ).body()

    @property
    def synced_after(self) -> str:
        """The body of its function after the switch: the new column is the primary."""
        return self._after().body()

    @property
    def synced_restoring(self) -> str:
        """The same while lanes fill an old column that was dropped."""
        return replace(self._after(), walked_by=tuple(column.name for column in self.key)).body()

    def _after(self) -> Pair:
        dependents = self.dependents
        default = dependents.new_default if dependents.constant_default else None
        return Pair(
            table=self.table,
            primary=Side(
                column=self.column,
                type=self.type,
                expression=self._seen_as(self.up, self.old_column, dependents.up_reads),
                default=default,
                fills_itself=dependents.identity is not None
                or (dependents.new_default is not None and not dependents.constant_default),
            ),
            shadow=Side(column=self.old_column, type=dependents.type, expression=self.down),
            settled=True,
            rollback_conflicts=self._rollback_conflicts,
        )

    @property
    def _rollback_conflicts(self) -> RollbackConflicts:
        key = tuple(column.name for column in self.key)
        return RollbackConflicts(migration=self.migration, operation=self.number, key=key)

    def _seen_as(self, expression: str, stands: str, reads: Iterable[str]) -> str:
        """The expression over a row in which another column has the column's name."""
        row = sql.Identifier(self.table.name).as_string()
        names = [(stands, self.column), *((read, read) for read in reads)]
        scope = ", ".join(
            f"{row}.{sql.Identifier(column).as_string()} AS {sql.Identifier(name).as_string()}"
            for column, name in names
        )
        return f"(SELECT (\n{expression}\n) FROM (SELECT {scope}) AS {row})"  # noqa: S608 - checked by preflight, names are quoted

    @property
    def is_not_up_of_old(self) -> str:
        """SQL over a row after the switch: its value in use is not what the inactive one gives. By image, as the type may have no equality."""
        column = sql.Identifier(self.table.name, self.column).as_string()
        expected = f"CAST({self._seen_as(self.up, self.old_column, self.dependents.up_reads)} AS {self.type})"
        return f"ROW({column})::record OPERATOR(pg_catalog.*<>) ROW({expected})::record"

    # Rules

    def rules_of_new(self) -> tuple[tuple[Rule, bool], ...]:
        """Each rule of the column for the new one while that is inactive, under a name of ours; and whether it is proved."""
        return tuple(
            (
                from_catalog(
                    self.table,
                    self.rule_name(number),
                    rule.new,
                    key=self.key,
                    # The lanes write the new column as `up` says; what breaks a rule about its values is for a person to fix.
                    columns=(self.column,),
                    words=f"the check {rule.name} with their new values of {self.column}",
                    references=rule.references,
                ),
                rule.valid,
            )
            for number, rule in enumerate(self.dependents.rules)
        )

    def rules_of_old(self) -> tuple[tuple[Rule, bool], ...]:
        """Each rule of the column as it was, for the old one in use; and whether it is proved."""
        return tuple(
            (
                from_catalog(
                    self.table,
                    rule.name,
                    rule.old,
                    key=self.key,
                    columns=(self.column,),
                    references=rule.references,
                    comment=rule.comment,
                    replaces=True,
                ),
                rule.valid,
            )
            for rule in self.dependents.rules
        )

    def references_to(self, *, new: bool) -> tuple[tuple[Rule, bool], ...]:
        """Each foreign key that refers to the column, to one of the two while that is inactive; and whether it is proved.

        A row of the table that refers to nothing is not asked for: the foreign key that is there keeps it out.
        """
        return tuple(
            (
                from_catalog(
                    reference.table,
                    self.reference_name(number),
                    reference.new if new else reference.old,
                    key=(),
                    words=f"the foreign key {reference.name} with the {'new' if new else 'old'} values of {self.column}",
                    references=self.table,
                ),
                reference.valid,
            )
            for number, reference in enumerate(self.dependents.references)
        )

    def not_null(self, column: str) -> Rule:
        """The check that proves NOT NULL of one of the two, by the name that it has at that moment."""
        name = object_name("backfilld_not_null", self.migration, self.number)
        return not_null_check(self.table, column, name=name, key=self.key)

    def rule_name(self, number: int) -> str:
        return f"{object_name('backfilld_rule', self.migration, self.number)}_{number}"

    def reference_name(self, number: int) -> str:
        return f"{object_name('backfilld_reference', self.migration, self.number)}_{number}"

    def statistics_name(self, number: int) -> str:
        return f"{object_name('backfilld_statistics', self.migration, self.number)}_{number}"
