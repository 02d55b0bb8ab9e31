"""What all operations that build an index ask: whether its name is free, and what it is in PostgreSQL's own words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Facts
from backfilld.migrations.file import migration as definition
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.planning.checks.cancelled_runs import left_by_cancelled_run
from backfilld.migrations.planning.checks.walks import key_of
from backfilld.migrations.postgres import indexes
from backfilld.migrations.postgres.expression_probe import Rejected
from backfilld.migrations.postgres.lexer import self_containment_problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.definitions import IndexDefinition
    from backfilld.migrations.postgres.indexes import Named

#: Before it, CREATE INDEX CONCURRENTLY could miss rows that were updated in place meanwhile (release notes of 14.4).
_CORRUPTING = range(140_000, 140_004)
_KINDS = {
    "r": "a table",
    "p": "a table",
    "v": "a view",
    "m": "a materialized view",
    "S": "a sequence",
    "f": "a foreign table",
    "c": "a type",
}


def built(case: Case, name: str, rest: sql.Composable, *, unique: bool) -> Facts:
    """The facts of an operation that builds an index; `rest` is what follows the table's name in CREATE INDEX.

    Raises Rejected.
    """
    if case.found.backend.version in _CORRUPTING:
        case.refuse(
            "server_version",
            "PostgreSQL 14.0 to 14.3 can build an incomplete index CONCURRENTLY",
            "Update to 14.4 or newer",
        )
    if case.table.kind == "p":
        _refuse_partitioned(case, name)
        return Facts(relation=str(case.table.name))
    wanted = case.trial.index(name, rest, unique=unique)
    _check_name(case, wanted)
    _warn_of_duplicates(case, wanted)
    return Facts(relation=str(case.table.name), index=wanted, key=key_of(case.table))


def listed(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def checked(text: str, what: str) -> sql.SQL:
    """A user's text as a part of a statement. Raises Rejected when it is more than that."""
    if problem := self_containment_problem(text):
        raise Rejected("index", f"{what} is not one list or expression: {problem}")
    return sql.SQL(text)


def _refuse_partitioned(case: Case, name: str) -> None:
    table = case.table.name.identifier.as_string()
    case.refuse(
        "partitioned",
        f"{case.table.name} is partitioned, and PostgreSQL cannot build an index on a partitioned table CONCURRENTLY",
        f"CREATE INDEX {sql.Identifier(name).as_string()} ON ONLY {table} (…) by an `sql` operation, build one on each "
        "partition by `create_index`, and ALTER INDEX … ATTACH PARTITION",
    )


def _check_name(case: Case, wanted: IndexDefinition) -> None:
    """The name is free, or what has it is what a cancelled run of this migration left."""
    name = TableName(case.table.name.schema, wanted.name)
    for earlier in case.migration.operations[: case.number]:
        if isinstance(earlier, definition.CreateIndex | definition.AddUnique) and (
            earlier.table.schema,
            earlier.name,
        ) == (name.schema, name.name):
            case.refuse("name", f"an earlier operation of the file already creates {name}", "Choose another name")
    found = indexes.find(case.connection, name.schema, name.name)
    if found is None:
        return
    is_wanted = found.table == case.table.name and wanted.same_as(found.definition)
    if is_wanted and left_by_cancelled_run(case.connection, case.migration.name):
        return
    if is_wanted and found.valid:
        remedy = "It is the index that the operation would build: remove the operation"
    elif is_wanted:
        remedy = f"It is INVALID, left behind by a failed build: DROP INDEX {name.identifier.as_string()}"
    else:
        remedy = "Choose another name"
    case.refuse("name", f"there is already {_described(found)} {name}", remedy)


def _described(found: Named) -> str:
    if found.table is not None:
        return f"an index of {found.table} called"
    return f"{_KINDS.get(found.kind, 'something')} called"


def _warn_of_duplicates(case: Case, wanted: IndexDefinition) -> None:
    """Another index that does the same costs every write twice."""
    for one in indexes.of_table(case.connection, case.table.oid):
        if (
            one.valid
            and one.definition is not None
            and one.definition.rest == wanted.rest
            and (one.definition.name != wanted.name and one.definition.unique >= wanted.unique)
        ):
            case.warn(f"the index {one.definition.name} is the same except for its name; each write has to update both")
