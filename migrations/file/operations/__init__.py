"""The operations as a migration file writes them: each one change of one table, with the rules of the file alone."""

from __future__ import annotations

from backfilld.migrations.file.operations.base import OperationModel, Settled
from backfilld.migrations.file.operations.columns import (
    AddColumn,
    ChangeType,
    ColumnSpec,
    DropColumn,
    RenameColumn,
    SetNotNull,
)
from backfilld.migrations.file.operations.constraints import AddCheck, AddForeignKey, AddUnique, References
from backfilld.migrations.file.operations.indexes import CreateIndex, DropIndex
from backfilld.migrations.file.operations.raw_sql import Sql, SqlStep
from backfilld.migrations.file.operations.rows import Backfill, DeleteRows

__all__ = [
    "AddCheck",
    "AddColumn",
    "AddForeignKey",
    "AddUnique",
    "Backfill",
    "ChangeType",
    "ColumnSpec",
    "CreateIndex",
    "DeleteRows",
    "DropColumn",
    "DropIndex",
    "Operation",
    "OperationModel",
    "References",
    "RenameColumn",
    "SetNotNull",
    "Settled",
    "Sql",
    "SqlStep",
]

#: All of them, in the order in which editors offer them.
Operation = (
    AddColumn
    | RenameColumn
    | ChangeType
    | SetNotNull
    | DropColumn
    | AddCheck
    | AddForeignKey
    | AddUnique
    | CreateIndex
    | DropIndex
    | Backfill
    | DeleteRows
    | Sql
)
