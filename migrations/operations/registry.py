"""Every kind of operation, a line each: the model of its file, the steps that it is made of, and what preflight asks.

What a file says of an operation by itself (its columns, its summary) is a property of its model in `file/operations.py`.
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
from backfilld.migrations.operations.add_unique import preflight as add_unique
from backfilld.migrations.operations.add_unique.steps import AddUnique
from backfilld.migrations.operations.backfill import preflight as backfill
from backfilld.migrations.operations.backfill.steps import Backfill
from backfilld.migrations.operations.change_type import preflight as change_type
from backfilld.migrations.operations.change_type.steps import ChangeType
from backfilld.migrations.operations.create_index import preflight as create_index
from backfilld.migrations.operations.create_index.steps import CreateIndex
from backfilld.migrations.operations.drop_column import preflight as drop_column
from backfilld.migrations.operations.drop_column.steps import DropColumn
from backfilld.migrations.operations.drop_index import preflight as drop_index
from backfilld.migrations.operations.drop_index.steps import DropIndex
from backfilld.migrations.operations.rename_column import preflight as rename_column
from backfilld.migrations.operations.rename_column.steps import RenameColumn
from backfilld.migrations.operations.set_not_null import preflight as set_not_null
from backfilld.migrations.operations.set_not_null.steps import SetNotNull
from backfilld.migrations.operations.sql.steps import Sql

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from backfilld.migrations.facts import Facts
    from backfilld.migrations.operations.base import Operation
    from backfilld.migrations.planning.checks.findings import Case


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
    #: What preflight asks of its one table. Raises Rejected. None for raw SQL, which is examined by its text.
    examine: Callable[[Case, Any], Facts] | None  # Any: its own model


REGISTRY: Mapping[type[file.Operation], Kind] = {
    file.AddColumn: Kind(AddColumn, add_column.examine),
    file.RenameColumn: Kind(RenameColumn, rename_column.examine),
    file.ChangeType: Kind(ChangeType, change_type.examine),
    file.SetNotNull: Kind(SetNotNull, set_not_null.examine),
    file.DropColumn: Kind(DropColumn, drop_column.examine),
    file.AddCheck: Kind(AddCheck, add_check.examine),
    file.AddForeignKey: Kind(AddForeignKey, add_foreign_key.examine),
    file.AddUnique: Kind(AddUnique, add_unique.examine),
    file.CreateIndex: Kind(CreateIndex, create_index.examine),
    file.DropIndex: Kind(DropIndex, drop_index.examine),
    file.Backfill: Kind(Backfill, backfill.examine),
    file.Sql: Kind(Sql, None),
}
