"""Whether a foreign key can be added: both tables, their columns, and what this role may do with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts
from backfilld.migrations.file import migration as definition
from backfilld.migrations.operations.add_foreign_key.steps import foreign_key_body
from backfilld.migrations.planning.checks.columns import column_of
from backfilld.migrations.planning.checks.rules import check_column, takes_over
from backfilld.migrations.planning.checks.tables import find_table
from backfilld.migrations.planning.checks.walks import key_of
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.expression_probe import Rejected

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import AddForeignKey
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.catalog import Table

#: From here on a partitioned table takes a foreign key that is NOT VALID.
_PARTITIONED_NOT_VALID = 180_000
#: Actions that write the referring columns.
_WRITING = frozenset({"cascade", "set null", "set default"})


def examine(case: Case, operation: AddForeignKey) -> Facts:
    """Raises Rejected."""
    table = case.table
    nothing = Facts(relation=str(table.name))
    before = len(case.found.findings)
    referenced = find_table(case.connection, case.found, case.place, operation.references.table)
    for name in operation.columns:
        check_column(case, name)
    if referenced is None:
        return nothing
    if referenced.kind not in catalog.TABLES:
        case.refuse("table_kind", f"{referenced.name} is not a table", "Refer to an ordinary table")
        return nothing
    adopts = takes_over(case, operation.name)
    _check_tables(case, operation, referenced)
    columns = _referenced_columns(case, operation, referenced)
    if columns and not catalog.may_reference(case.connection, referenced, columns):
        role = case.found.backend.role
        case.refuse(
            "privileges",
            f"the role {role} has no REFERENCES privilege on {referenced.name}",
            f"GRANT SELECT, REFERENCES ON {referenced.name.identifier.as_string()} TO {role}",
        )
    if len(case.found.findings) > before:
        return nothing
    _check_generated(case, operation)
    copy = case.trial.copy_of(referenced.name)
    body = foreign_key_body(operation, columns, table=copy)
    case.trial.add_constraint(operation.name, body, check="foreign_key", what="the foreign key")
    _tell_of_index(case, operation)
    return Facts(
        relation=str(table.name),
        key=key_of(table),
        referenced=columns,
        equalities=case.trial.equalities(operation.name),
        adopts=adopts,
    )


def _check_tables(case: Case, operation: AddForeignKey, referenced: Table) -> None:
    table, role = case.table, case.found.backend.role
    if table.kind == "p" and case.found.backend.version < _PARTITIONED_NOT_VALID:
        case.refuse(
            "partitioned",
            f"{table.name} is partitioned, and before PostgreSQL 18 a foreign key on a partitioned table is "
            "validated under a lock that blocks writes",
            "Upgrade to PostgreSQL 18, or do it by hand: ADD … NOT VALID and VALIDATE on each partition, then "
            f"ADD to {table.name}, which needs no scan then",
        )
    if table.persistence == "p" and referenced.persistence != "p":
        case.refuse(
            "persistence",
            f"{referenced.name} is unlogged and would be empty after a crash, so {table.name} cannot refer to it",
            f"ALTER TABLE {referenced.name.identifier.as_string()} SET LOGGED",
        )
    if referenced.row_security_active:
        case.refuse(
            "row_security",
            f"row security is active on {referenced.name} for the role {role}, so it may not see all rows, and "
            f"rows of {table.name} would be reported as orphans",
            f"Use a role with BYPASSRLS (ALTER ROLE {role} BYPASSRLS)",
        )
    if not referenced.may_select:
        case.refuse(
            "privileges",
            f"the role {role} may not read {referenced.name}, so orphans cannot be reported",
            f"GRANT SELECT, REFERENCES ON {referenced.name.identifier.as_string()} TO {role}",
        )
    if operation.on_delete == "set null":
        bound = [name for name in operation.columns if (column := table.column(name)) is not None and column.not_null]
        if bound:
            case.warn(f"on_delete is set null, and {', '.join(bound)} is NOT NULL: such a DELETE will fail")


def _referenced_columns(case: Case, operation: AddForeignKey, referenced: Table) -> tuple[str, ...]:
    """The columns that are referred to; empty, with the reason put down, when no unique key has them. Raises Rejected."""
    keys = catalog.referable_keys(case.connection, referenced)
    wanted = operation.references.columns
    if wanted is None:
        primary = [columns for is_primary, columns in keys if is_primary]
        if not primary:
            case.refuse(
                "key",
                f"{referenced.name} has no primary key to refer to",
                "Name the columns of a unique key: references: {table: …, columns: […]}",
            )
            return ()
        wanted = primary[0]
    for name in wanted:
        column_of(referenced, name)
    if len(wanted) != len(operation.columns):
        case.refuse(
            "foreign_key",
            f"{', '.join(operation.columns)} cannot refer to {', '.join(wanted)} of {referenced.name}: the "
            "numbers of columns differ",
            "Name one referenced column for each column, in the same order",
        )
        return ()
    if all(set(wanted) != set(columns) for _, columns in keys):
        case.refuse(
            "key",
            f"{referenced.name} has no unique key of {', '.join(wanted)} that a foreign key may refer to",
            "Add one first, in a migration of its own (add_unique), or name the columns of another key",
        )
        return ()
    return wanted


def _check_generated(case: Case, operation: AddForeignKey) -> None:
    # The trial copy has ordinary columns in their place, so PostgreSQL would not say so before the run is there.
    for name in operation.columns:
        column = case.table.column(name)
        if column is None or not column.generated:
            continue
        if column.virtual:
            raise Rejected(
                "foreign_key", f"{name} is a virtual generated column, which cannot be part of a foreign key"
            )
        if operation.on_update in _WRITING or operation.on_delete in _WRITING - {"cascade"}:
            raise Rejected("foreign_key", f"{name} is a generated column, which on_delete and on_update cannot write")


def _tell_of_index(case: Case, operation: AddForeignKey) -> None:
    made = any(
        isinstance(one, definition.CreateIndex)
        and one.table == case.table.name
        and one.where is None
        and set(operation.columns) == set((one.columns or ())[: len(operation.columns)])
        for one in case.migration.operations
    )
    if made or catalog.has_index_on(case.connection, case.table, operation.columns):
        return
    names = ", ".join(operation.columns)
    index = {
        "table": str(case.table.name),
        "name": "_".join((case.table.name.name, *operation.columns))[:40] + "_idx",
        "columns": list(operation.columns),
    }
    case.warn(
        f"{case.table.name} has no index on {names}, so each DELETE in {operation.references.table} and each "
        f"UPDATE of its key scans {case.table.name}; create one first: create_index: "
        f"{json.dumps(index, ensure_ascii=False)}"
    )
