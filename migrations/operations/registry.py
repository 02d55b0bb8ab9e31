"""Every kind of operation, a line each: the model of its file, the steps that it is made of, what preflight asks,
and what becomes of things that depend on its table.

What a file says of an operation by itself (its columns, its summary) is a property of its model in `file/operations/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.add_check import preflight as add_check
from backfilld.migrations.operations.add_check.steps import AddCheck
from backfilld.migrations.operations.add_column import preflight as add_column
from backfilld.migrations.operations.add_column.steps import AddColumn
from backfilld.migrations.operations.add_foreign_key import preflight as add_foreign_key
from backfilld.migrations.operations.add_foreign_key.steps import AddForeignKey
from backfilld.migrations.operations.add_primary_key import preflight as add_primary_key
from backfilld.migrations.operations.add_primary_key.steps import AddPrimaryKey
from backfilld.migrations.operations.add_unique import preflight as add_unique
from backfilld.migrations.operations.add_unique.steps import AddUnique
from backfilld.migrations.operations.backfill import preflight as backfill
from backfilld.migrations.operations.backfill.steps import Backfill
from backfilld.migrations.operations.change_columns import preflight as change_columns
from backfilld.migrations.operations.change_columns.steps import ChangeColumns
from backfilld.migrations.operations.change_key import preflight as change_key
from backfilld.migrations.operations.change_key.steps import ChangeKey
from backfilld.migrations.operations.change_type import preflight as change_type
from backfilld.migrations.operations.change_type.steps import ChangeType
from backfilld.migrations.operations.create_index import preflight as create_index
from backfilld.migrations.operations.create_index.steps import CreateIndex
from backfilld.migrations.operations.create_table.steps import CreateTable
from backfilld.migrations.operations.delete_rows import preflight as delete_rows
from backfilld.migrations.operations.delete_rows.steps import DeleteRows
from backfilld.migrations.operations.drop_column import preflight as drop_column
from backfilld.migrations.operations.drop_column.steps import DropColumn
from backfilld.migrations.operations.drop_constraint import preflight as drop_constraint
from backfilld.migrations.operations.drop_constraint.steps import DropConstraint
from backfilld.migrations.operations.drop_default import preflight as drop_default
from backfilld.migrations.operations.drop_default.steps import DropDefault
from backfilld.migrations.operations.drop_index import preflight as drop_index
from backfilld.migrations.operations.drop_index.steps import DropIndex
from backfilld.migrations.operations.drop_not_null import preflight as drop_not_null
from backfilld.migrations.operations.drop_not_null.steps import DropNotNull
from backfilld.migrations.operations.drop_table import preflight as drop_table
from backfilld.migrations.operations.drop_table.steps import DropTable
from backfilld.migrations.operations.enable_row_security import preflight as enable_row_security
from backfilld.migrations.operations.enable_row_security.steps import EnableRowSecurity
from backfilld.migrations.operations.load import preflight as load
from backfilld.migrations.operations.load.steps import Load
from backfilld.migrations.operations.move_column import preflight as move_column
from backfilld.migrations.operations.move_column.steps import MoveColumn
from backfilld.migrations.operations.rebuild import preflight as rebuild
from backfilld.migrations.operations.rebuild.steps import Rebuild
from backfilld.migrations.operations.rename_column import preflight as rename_column
from backfilld.migrations.operations.rename_column.steps import RenameColumn
from backfilld.migrations.operations.rename_constraint import preflight as rename_constraint
from backfilld.migrations.operations.rename_constraint.steps import RenameConstraint
from backfilld.migrations.operations.rename_table import preflight as rename_table
from backfilld.migrations.operations.rename_table.steps import RenameTable
from backfilld.migrations.operations.replace_policies import preflight as replace_policies
from backfilld.migrations.operations.replace_policies.steps import ReplacePolicies
from backfilld.migrations.operations.set_comment import preflight as set_comment
from backfilld.migrations.operations.set_comment.steps import SetComment
from backfilld.migrations.operations.set_default import preflight as set_default
from backfilld.migrations.operations.set_default.steps import SetDefault
from backfilld.migrations.operations.set_not_null import preflight as set_not_null
from backfilld.migrations.operations.set_not_null.steps import SetNotNull
from backfilld.migrations.operations.sql.steps import Sql
from backfilld.migrations.planning import impact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from backfilld.migrations.facts import Facts
    from backfilld.migrations.operations.base import Operation
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.planning.impact import Effect
    from backfilld.migrations.postgres.dependents import Dependent


class Bind(Protocol):
    """The class of an operation's steps."""

    def __call__(
        self, *, definition: Any, facts: Facts, migration: str, number: int
    ) -> Operation:  # Any: its own model
        ...


@dataclass(frozen=True)
class Kind:
    """One kind of operation."""

    bind: Bind
    #: What preflight asks of its one table. Raises Rejected. None for raw SQL, which is examined by its text, and for a new table.
    examine: Callable[[Case, Any], Facts] | None  # Any: its own model
    #: What becomes of something that depends on its table; None when the operation does not touch it.
    effect: Callable[[Any, Dependent], Effect | None]  # Any: its own model


REGISTRY: Mapping[type[file.Operation], Kind] = {
    file.AddColumn: Kind(AddColumn, add_column.examine, impact.of_added),
    file.RenameColumn: Kind(RenameColumn, rename_column.examine, impact.of_renamed),
    file.ChangeType: Kind(ChangeType, change_type.examine, impact.of_retyped),
    file.ChangeKey: Kind(ChangeKey, change_key.examine, impact.of_rekeyed),
    file.ChangeColumns: Kind(ChangeColumns, change_columns.examine, impact.of_replaced),
    file.MoveColumn: Kind(MoveColumn, move_column.examine, impact.of_moved),
    file.SetNotNull: Kind(SetNotNull, set_not_null.examine, impact.of_filled),
    file.DropNotNull: Kind(DropNotNull, drop_not_null.examine, impact.of_none),
    file.SetDefault: Kind(SetDefault, set_default.examine, impact.of_none),
    file.DropDefault: Kind(DropDefault, drop_default.examine, impact.of_none),
    file.DropColumn: Kind(DropColumn, drop_column.examine, impact.of_dropped),
    file.AddCheck: Kind(AddCheck, add_check.examine, impact.of_none),
    file.AddForeignKey: Kind(AddForeignKey, add_foreign_key.examine, impact.of_none),
    file.AddUnique: Kind(AddUnique, add_unique.examine, impact.of_none),
    file.AddPrimaryKey: Kind(AddPrimaryKey, add_primary_key.examine, impact.of_none),
    file.DropConstraint: Kind(DropConstraint, drop_constraint.examine, impact.of_none),
    file.RenameConstraint: Kind(RenameConstraint, rename_constraint.examine, impact.of_none),
    file.CreateIndex: Kind(CreateIndex, create_index.examine, impact.of_none),
    file.DropIndex: Kind(DropIndex, drop_index.examine, impact.of_none),
    file.CreateTable: Kind(CreateTable, None, impact.of_none),
    file.RenameTable: Kind(RenameTable, rename_table.examine, impact.of_renamed_table),
    file.DropTable: Kind(DropTable, drop_table.examine, impact.of_dropped_table),
    file.EnableRowSecurity: Kind(EnableRowSecurity, enable_row_security.examine, impact.of_none),
    file.ReplacePolicies: Kind(ReplacePolicies, replace_policies.examine, impact.of_none),
    file.SetComment: Kind(SetComment, set_comment.examine, impact.of_none),
    file.Backfill: Kind(Backfill, backfill.examine, impact.of_backfilled),
    file.DeleteRows: Kind(DeleteRows, delete_rows.examine, impact.of_deleted),
    file.Load: Kind(Load, load.examine, impact.of_none),
    file.Rebuild: Kind(Rebuild, rebuild.examine, impact.of_rebuilt),
    file.Sql: Kind(Sql, None, impact.of_raw),
}
