"""What depends on a column, each part as a value from which it can be made again for the column that takes its place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.column_dependents import (
    DependentIndex,
    DependentPolicy,
    DependentRule,
    DependentStatistics,
    DependentTrigger,
    DependentView,
)
from backfilld.migrations.postgres.definitions import Grant
from backfilld.migrations.postgres.dependents import named_in_query
from backfilld.migrations.postgres.expression_probe import Rejected
from backfilld.migrations.postgres.indexes import definitions_on
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.postgres.column_copy import Definitions
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.dependents import ColumnDependent

_SQL = queries(__package__, "column_dependents")

_FIRST = "Drop it first, and make it again afterwards"


def indexes(  # noqa: PLR0913 - one list; each part is named where it is called
    connection: Connection,
    table: TableName,
    found: Sequence[ColumnDependent],
    new: Definitions,
    old: Definitions,
    *,
    names: Names,
) -> tuple[DependentIndex, ...]:
    """The indexes among what depends on a column. Raises Rejected."""
    mine = {one.oid for one in found if one.kind == "index"}
    own = {one.name: one for one in definitions_on(connection, table.identifier)}
    result: list[DependentIndex] = []
    for row in connection.execute(_SQL["indexes"], named_in_query(table, "")):
        if row["oid"] not in mine:
            continue
        name = row["name"]
        if not row["is_valid"]:
            raise Rejected(
                "index", f"the index {name} is INVALID", "Drop it (DROP INDEX CONCURRENTLY), or build it again"
            )
        if row["is_exclusion"]:
            raise Rejected("index", f"the exclusion constraint {name} holds it", _FIRST)
        if row["is_identity"]:
            raise Rejected("index", f"the index {name} is the table's replica identity", "Choose another one first")
        here = own[name]
        result.append(
            DependentIndex(
                name=name,
                new=replace(
                    new.indexes[row["oid"]], name=names.new(len(result)), tablespace=here.tablespace, comment=""
                ),
                old=replace(
                    old.indexes[row["oid"]], name=names.old(len(result)), tablespace=here.tablespace, comment=""
                ),
                harmless=not row["may_fail"],
                constraint=row["constraint"],
                clustered=row["is_clustered"],
                comment=row["constraint_comment"] or here.comment or None,
            )
        )
    return tuple(result)


@dataclass(frozen=True, kw_only=True)
class Names:
    """Our names for what is inactive: a text with a place for a number."""

    new_form: str
    old_form: str

    def new(self, number: int) -> str:
        return self.new_form.format(number)

    def old(self, number: int) -> str:
        return self.old_form.format(number)


def rules(  # noqa: PLR0913 - two lists; each part is named where it is called
    connection: Connection,
    table: TableName,
    name: str,
    found: Sequence[ColumnDependent],
    new: Definitions,
    *,
    named: str,
) -> tuple[tuple[DependentRule, ...], tuple[DependentRule, ...]]:
    """The CHECK constraints and the outgoing foreign keys among what depends on a column."""
    of = {kind: {one.name for one in found if one.kind == kind} for kind in ("check", "foreign key")}
    checks = tuple(
        DependentRule(
            name=row["name"],
            new=new.checks[row["name"]],
            old=row["definition"].removesuffix(" NOT VALID"),
            references=None,
            valid=row["is_valid"],
            comment=row["comment"],
        )
        for row in connection.execute(_SQL["checks"], named_in_query(table, name))
        if row["name"] in of["check"]
    )
    keys = tuple(
        DependentRule(
            name=row["name"],
            new=f"{row['head']}{TableName(row['schema'], row['table_name']).identifier.as_string()}{row['tail']}",
            old=row["definition"].removesuffix(" NOT VALID"),
            references=TableName(row["schema"], row["table_name"]),
            valid=row["is_valid"],
            comment=row["comment"],
        )
        for row in connection.execute(_SQL["foreign_keys"], {**named_in_query(table, name), "named": named})
        if row["name"] in of["foreign key"]
    )
    return checks, keys


def statistics(
    connection: Connection, table: TableName, found: Sequence[ColumnDependent], new: Definitions
) -> tuple[DependentStatistics, ...]:
    """The extended statistics among what depends on a column."""
    mine = {one.oid for one in found if one.kind == "statistics"}
    return tuple(
        DependentStatistics(
            schema=row["schema"],
            name=row["name"],
            new=new.statistics[row["oid"]],
            old=row["columns"],
            kinds=row["kinds"] or "",
            comment=row["comment"],
        )
        for row in connection.execute(_SQL["statistics"], named_in_query(table, ""))
        if row["oid"] in mine
    )


def views(connection: Connection, found: Sequence[ColumnDependent]) -> tuple[DependentView, ...]:
    """The views among what depends on a column. Raises Rejected for one that could not be made as it was."""
    result: list[DependentView] = []
    for one in found:
        if one.kind != "view":
            continue
        row = connection.execute(_SQL["view"], {"oid": one.oid}).fetchone() or {}
        for fault, is_so in (
            ("belongs to another role", not row["owned"]),
            ("has privileges on single columns", row["has_column_grants"]),
            ("has defaults of its own", row["has_defaults"]),
            ("has triggers", row["has_triggers"]),
        ):
            if is_so:
                raise Rejected("view", f"the view {one.name} reads it and {fault}", _FIRST)
        result.append(
            DependentView(
                schema=row["schema"],
                name=row["name"],
                written=one.name,
                definition=row["definition"].rstrip().removesuffix(";"),
                options=row["options"] or "",
                owner=row["owner"],
                has_grants=row["has_grants"],
                grants=tuple(Grant(**one) for one in row["grants"]),
                comment=row["comment"],
                column_comments=tuple((column, text) for column, text in row["column_comments"]),
            )
        )
    return tuple(result)


def policies(connection: Connection, found: Sequence[ColumnDependent]) -> tuple[DependentPolicy, ...]:
    """The policies among what depends on a column. Raises Rejected for one of a table this role does not own."""
    rows = [
        connection.execute(_SQL["policy"], {"oid": one.oid}).fetchone() or {} for one in found if one.kind == "policy"
    ]
    for row in rows:
        if not row["owned"]:
            raise Rejected(
                "policy",
                f"the policy {row['name']} of {row['table_name']} reads it, and that table belongs to another role",
                _FIRST,
            )
    return tuple(
        DependentPolicy(
            name=row["name"],
            table=TableName(row["schema"], row["table_name"]),
            using=row["using_"],
            with_check=row["with_check"],
        )
        for row in rows
    )


def functions(connection: Connection, found: Sequence[ColumnDependent]) -> tuple[str, ...]:
    """The functions among what depends on a column, as the statements that make them. Raises Rejected."""
    rows = [
        connection.execute(_SQL["function"], {"oid": one.oid}).fetchone() or {}
        for one in found
        if one.kind == "function"
    ]
    for row in rows:
        if not (row["owned"] and row["atomic"]):
            why = "belongs to another role" if row["atomic"] else "names it in a way that cannot be made anew"
            raise Rejected("function", f"the function {row['name']} reads it and {why}", _FIRST)
    return tuple(row["definition"] for row in rows)


def triggers(connection: Connection, found: Sequence[ColumnDependent]) -> tuple[DependentTrigger, ...]:
    """The triggers of the table among what depends on a column."""
    words = {"O": "ENABLE", "D": "DISABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}
    rows = [
        connection.execute(_SQL["trigger"], {"oid": one.oid}).fetchone() or {} for one in found if one.kind == "trigger"
    ]
    return tuple(
        DependentTrigger(
            name=row["name"], definition=row["definition"], enabled=words[row["enabled"]], comment=row["comment"]
        )
        for row in rows
    )
