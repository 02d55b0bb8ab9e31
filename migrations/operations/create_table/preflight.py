"""Whether a table can be created: its place is free, and PostgreSQL takes all of it, tried on a temporary table."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import psycopg
from psycopg import sql

from backfilld.migrations.facts import Facts
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.base import object_name
from backfilld.migrations.operations.create_table.steps import created, foreign_key_body
from backfilld.migrations.planning.checks.tables import find_table, is_reserved
from backfilld.migrations.postgres import catalog, policies, tables
from backfilld.migrations.postgres.connect import apply_settings
from backfilld.migrations.postgres.expression_probe import Probe, Rejected
from backfilld.migrations.postgres.lexer import self_containment_problem
from backfilld.migrations.postgres.sqlstates import in_words, was_interrupted

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import CreateTable, Migration
    from backfilld.migrations.file.operations.tables import NewForeignKey
    from backfilld.migrations.planning.checks.findings import Findings
    from backfilld.migrations.postgres.connect import Connection

_REMEDY = "Write it as CREATE TABLE accepts it; names outside pg_catalog need their schema, and `identity:` stands for serial types"


def examine(connection: Connection, found: Findings, migration: Migration, number: int) -> Facts:
    operation = cast("CreateTable", migration.operations[number])
    place = f"operations[{number}].{operation.kind}"
    before = len(found.findings)
    _look_at_place(connection, found, place, operation, kept=object_name("table", migration.name, number))
    for key in operation.all_foreign_keys:
        _look_at_referenced(connection, found, place, operation, key)
    secured = operation.row_security
    if secured is None:
        secured = tables.has_public_api(connection)
    facts = Facts(relation=str(operation.table), row_security=secured)
    if len(found.findings) > before:
        return facts
    try:
        _try(connection, found, migration, operation)
    except Rejected as rejected:
        found.findings.append(rejected.finding(place))
    if secured:
        found.warn(
            f"{place}: {operation.table} has row level security and no policy [0008]: every role but its owner sees no row and can write "
            "none until an `sql` operation creates one; `row_security: false` leaves it off"
        )
    elif operation.table.schema in policies.exposed_schemas(connection) and tables.has_public_api(connection):
        found.warn(
            f"{place}: {operation.table} is in a schema that the API shows, without row level security [0013]: what is granted on it is "
            "open to anybody; leave `row_security` out"
        )
    return facts


def _look_at_place(connection: Connection, found: Findings, place: str, operation: CreateTable, *, kept: str) -> None:
    table, role = operation.table, found.backend.role
    if is_reserved(found, place, table):
        return
    known = tables.place_for(connection, table, kept=kept)
    schema = sql.Identifier(table.schema).as_string()
    if not known.has_schema:
        found.refuse(
            "schema", f"{place}: there is no schema {table.schema}", f"CREATE SCHEMA {schema}, or name another"
        )
    elif not known.may_create:
        found.refuse(
            "privileges",
            f"{place}: the role {role} may not create tables in the schema {table.schema}",
            f"GRANT CREATE ON SCHEMA {schema} TO {role}",
        )
    if known.taken:
        found.refuse("name", f"{place}: there is already something called {table}", "Choose another name")
    if known.is_kept:
        found.refuse(
            "name",
            f"{place}: an earlier run of this name was rolled back, and the rows of its table are kept in backfilld.{kept}",
            "End what is kept (backfilld purge), or choose another name for the migration",
        )


def _look_at_referenced(
    connection: Connection, found: Findings, place: str, operation: CreateTable, key: NewForeignKey
) -> None:
    name = key.references.table
    if name == operation.table:
        return
    referenced = find_table(connection, found, place, name)
    if referenced is None:
        return
    if referenced.kind not in catalog.TABLES:
        found.refuse("table_kind", f"{place}: {name} is not a table", "Refer to an ordinary table")
    elif not catalog.may_reference(connection, referenced, key.references.columns or ()):
        role = found.backend.role
        found.refuse(
            "privileges",
            f"{place}: the role {role} has no REFERENCES privilege on {name}",
            f"GRANT REFERENCES ON {name.identifier.as_string()} TO {role}",
        )


def _try(connection: Connection, found: Findings, migration: Migration, operation: CreateTable) -> None:
    """Make the table as a temporary one, and look at what its expressions call. Raises Rejected."""
    for what, text in _texts(operation):
        if problem := self_containment_problem(text):
            raise Rejected("create_table", f"{what} is not one expression: {problem}", _REMEDY)
    copy = TableName("pg_temp", operation.table.name)
    with connection.transaction(force_rollback=True):
        apply_settings(connection, {"search_path": "", "standard_conforming_strings": "on", "lock_timeout": "2s"})
        for column in operation.columns:
            # What CREATE TABLE takes for more than a type, as a constraint, is not what the key is for.
            cast_null = sql.SQL("SELECT CAST(NULL AS {}) WHERE false").format(sql.SQL(column.type))
            _accepted(connection, cast_null, f"the type of {column.name}")
        _accepted(connection, created(operation, copy).sql, "the table")
        for number, key in enumerate(operation.all_foreign_keys):
            referenced = copy.identifier
            if key.references.table != operation.table:
                referenced = sql.Identifier("pg_temp", f"~backfilld referenced {number}")
                like = sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING INDEXES)")
                connection.execute(like.format(referenced, key.references.table.identifier))
            add = sql.SQL("ALTER TABLE {} ADD {}").format(copy.identifier, foreign_key_body(key, referenced))
            _accepted(connection, add, f"the foreign key {key.name}")
        made = catalog.describe(connection, tables.temporary(connection, operation.table.name))
        if made is not None:
            probe = Probe(connection, made, copy.identifier, migration.settings.allow_functions)
            for column in operation.columns:
                if column.default is not None:
                    probe.analyse(column.default, what=f"the default of {column.name}")
            for check in operation.checks:
                probe.analyse(check.check, what=f"the check {check.name}")
            found.called.add(probe.called)


def _texts(operation: CreateTable) -> list[tuple[str, str]]:
    columns = operation.columns
    return [
        *((f"the type of {column.name}", column.type) for column in columns),
        *((f"the default of {column.name}", column.default) for column in columns if column.default is not None),
        *((f"the check {check.name}", check.check) for check in operation.checks),
    ]


def _accepted(connection: Connection, statement: sql.Composed, what: str) -> None:
    """Raises Rejected with PostgreSQL's words."""
    try:
        with connection.transaction():
            connection.execute(statement)
    except psycopg.Error as exc:
        if was_interrupted(exc):
            raise
        raise Rejected("create_table", f"{what}: {in_words(exc)}", _REMEDY) from exc
