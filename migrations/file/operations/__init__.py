"""The operations as a migration file writes them: each one change of one table, with the rules of the file alone."""

from __future__ import annotations

from backfilld.migrations.file.operations.base import OperationModel, Settled
from backfilld.migrations.file.operations.columns import (
    AddColumn,
    ChangeColumns,
    ChangeKey,
    ChangeType,
    ColumnSpec,
    DropColumn,
    DropDefault,
    DropNotNull,
    MoveColumn,
    RenameColumn,
    SetDefault,
    SetNotNull,
)
from backfilld.migrations.file.operations.constraints import (
    AddCheck,
    AddForeignKey,
    AddPrimaryKey,
    AddUnique,
    DropConstraint,
    References,
    RenameConstraint,
)
from backfilld.migrations.file.operations.indexes import CreateIndex, DropIndex
from backfilld.migrations.file.operations.loads import Load, Source
from backfilld.migrations.file.operations.policies import Expect, NewPolicy, ReplacePolicies
from backfilld.migrations.file.operations.raw_sql import Sql, SqlStep
from backfilld.migrations.file.operations.rebuild import Rebuild
from backfilld.migrations.file.operations.rows import Backfill, DeleteRows
from backfilld.migrations.file.operations.tables import (
    CreateTable,
    DropTable,
    EnableRowSecurity,
    RenameTable,
    SetComment,
)

__all__ = [
    "AddCheck",
    "AddColumn",
    "AddForeignKey",
    "AddPrimaryKey",
    "AddUnique",
    "Backfill",
    "ChangeColumns",
    "ChangeKey",
    "ChangeType",
    "ColumnSpec",
    "CreateIndex",
    "CreateTable",
    "DeleteRows",
    "DropColumn",
    "DropConstraint",
    "DropDefault",
    "DropIndex",
    "DropNotNull",
    "DropTable",
    "EnableRowSecurity",
    "Expect",
    "Load",
    "MoveColumn",
    "NewPolicy",
    "Operation",
    "OperationModel",
    "Rebuild",
    "References",
    "RenameColumn",
    "RenameConstraint",
    "RenameTable",
    "ReplacePolicies",
    "SetComment",
    "SetDefault",
    "SetNotNull",
    "Settled",
    "Source",
    "Sql",
    "SqlStep",
]

#: All of them, in the order in which editors offer them.
Operation = (
    AddColumn
    | RenameColumn
    | ChangeType
    | ChangeKey
    | ChangeColumns
    | MoveColumn
    | SetNotNull
    | DropNotNull
    | SetDefault
    | DropDefault
    | DropColumn
    | AddCheck
    | AddForeignKey
    | AddUnique
    | AddPrimaryKey
    | DropConstraint
    | RenameConstraint
    | CreateIndex
    | DropIndex
    | CreateTable
    | RenameTable
    | DropTable
    | EnableRowSecurity
    | ReplacePolicies
    | SetComment
    | Backfill
    | DeleteRows
    | Load
    | Rebuild
    | Sql
)
