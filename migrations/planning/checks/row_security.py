"""What raw SQL opens or closes to whoever asks with few rights: tables with row level security and no policy, and, where an API reaches
the database as on Supabase, what it shows to anybody. The numbers are those of Supabase's linter, splinter.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from backfilld.migrations.file import migration as definition
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres import catalog, policies, tables
from backfilld.migrations.postgres.statements import split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.planning.checks.findings import Findings
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.statements import SqlStatement

_ENABLES = re.compile(r"ALTER TABLE .*\bENABLE ROW LEVEL SECURITY\b", re.DOTALL)
_MAKES_POLICY = re.compile(r"CREATE POLICY\b")
_MAKES_TABLE = re.compile(r"CREATE TABLE\b")
_MAKES_VIEW = re.compile(r"CREATE (OR REPLACE )?VIEW\b")
_AS_CALLER = re.compile(r"\bSECURITY_INVOKER(?! = (FALSE|OFF|NO|0))\b")
_MAKES_DEFINER = re.compile(r"CREATE (OR REPLACE )?FUNCTION\b.*\bSECURITY DEFINER\b", re.DOTALL)
_REVOKES = re.compile(r"REVOKE\b.*\bON (FUNCTION|ROUTINE)\b", re.DOTALL)


def tell_row_security(connection: Connection, found: Findings, migration: Migration) -> None:
    """Name what a careful person should know of the raw SQL of a migration; nothing of it is refused."""
    texts = [
        (number, statement)
        for number, of in enumerate(migration.operations)
        if isinstance(of, definition.Sql)
        for one in of.transactions
        for statement in split(one.run)
        if statement.qualified
    ]
    if not texts:
        return
    statements = [statement for _, statement in texts]
    exposed = policies.exposed_schemas(connection) if tables.has_public_api(connection) else frozenset()
    for number, statement in texts:
        for said in (
            *_without_policy(connection, statement, statements, migration),
            *_shown_to_anybody(statement, statements, exposed),
        ):
            found.warn(f"operations[{number}].sql: {said}")


def _without_policy(
    connection: Connection, statement: SqlStatement, statements: Sequence[SqlStatement], migration: Migration
) -> Iterator[str]:
    if not _ENABLES.match(statement.bare):
        return
    name = _named(statement)
    made = any(_MAKES_POLICY.match(one.bare) and _named(one) == name for one in statements)
    replaced = any(isinstance(of, definition.ReplacePolicies) and of.table == name for of in migration.operations)
    table = catalog.describe(connection, name)
    if not made and not replaced and (table is None or not tables.nature(connection, table).policies):
        yield (
            f"{name} gets row level security and has no policy [0008]: every role but its owner sees no row and can write none; create "
            "the policies in the same text"
        )


def _shown_to_anybody(
    statement: SqlStatement, statements: Sequence[SqlStatement], exposed: frozenset[str]
) -> Iterator[str]:
    name = _named(statement)
    if name.schema not in exposed:
        return
    if _MAKES_TABLE.match(statement.bare):
        if not any(_ENABLES.match(one.bare) and _named(one) == name for one in statements):
            yield (
                f"{name} is in a schema that the API shows, without row level security [0013]: what is granted on it is open to anybody; "
                "ALTER TABLE … ENABLE ROW LEVEL SECURITY in the same text, and create its policies"
            )
    elif _MAKES_VIEW.match(statement.bare):
        if not _AS_CALLER.search(statement.bare):
            yield (
                f"the view {name} is in a schema that the API shows, and reads with the rights of its owner, for whom policies may not be "
                "asked [0010]: write CREATE VIEW … WITH (security_invoker = true)"
            )
    elif _MAKES_DEFINER.match(statement.bare) and not any(
        _REVOKES.match(one.bare) and name in {TableName(*other) for _, _, other in one.qualified} for one in statements
    ):
        yield (
            f"the function {name}() is in a schema that the API shows, and runs with the rights of its owner for anybody who calls it "
            "[0028, 0029]: make it in a schema that is not shown, or REVOKE EXECUTE ON FUNCTION … FROM PUBLIC, anon, authenticated"
        )


def _named(statement: SqlStatement) -> TableName:
    """What a statement is about: the first name in it."""
    return TableName(*statement.qualified[0][2])
