"""What depends on a column, each part as a value from which it can be made again for the column that takes its place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.bound import copied
from backfilld.migrations.postgres.column_dependents import (
    CopiedView,
    DependentIdentity,
    DependentIndex,
    DependentPolicy,
    DependentPublication,
    DependentReference,
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
    from backfilld.migrations.postgres.connect import Connection, Row
    from backfilld.migrations.postgres.dependents import ColumnDependent

_SQL = queries(__package__, "column_dependents")

_FIRST = "Drop it first, and recreate it afterwards"


def indexes(  # noqa: PLR0913 - one list; each part is named where it is called
    connection: Connection,
    table: TableName,
    name: str,
    found: Sequence[ColumnDependent],
    *,
    new: Definitions,
    old: Definitions,
    names: Names,
) -> tuple[DependentIndex, ...]:
    """The indexes among what depends on a column. Raises Rejected."""
    mine = {one.oid for one in found if one.kind == "index"}
    own = {one.name: one for one in definitions_on(connection, table.identifier)}
    result: list[DependentIndex] = []
    for row in connection.execute(_SQL["indexes"], named_in_query(table, name)):
        if row["oid"] not in mine:
            continue
        index = row["name"]
        if not row["is_valid"]:
            raise Rejected(
                "index", f"the index {index} is INVALID", "Drop it (DROP INDEX CONCURRENTLY), or build it again"
            )
        if row["is_exclusion"]:
            raise Rejected("index", f"the exclusion constraint {index} includes it", _FIRST)
        if row["is_identity"]:
            raise Rejected("index", f"the index {index} is the table's replica identity", "Choose another one first")
        if row["held_by"]:
            problem = f"the index {index} includes it, and cannot be replaced while {row['held_by']} depends on it"
            raise Rejected("index", problem, _FIRST)
        here = own[index]
        result.append(
            DependentIndex(
                name=index,
                new=replace(
                    new.indexes[row["oid"]], name=names.new(len(result)), tablespace=here.tablespace, comment=""
                ),
                old=replace(
                    old.indexes[row["oid"]], name=names.old(len(result)), tablespace=here.tablespace, comment=""
                ),
                harmless=not row["may_fail"],
                constraint=row["constraint"],
                primary=row["is_primary"],
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
    of = {kind: {one.oid for one in found if one.kind == kind} for kind in ("check", "foreign key")}
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
        if row["oid"] in of["check"]
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
        for row in foreign_keys(connection, table, name, named=named)
        if row["oid"] in of["foreign key"]
    )
    return checks, keys


def foreign_keys(connection: Connection, table: TableName, name: str, *, named: str) -> list[Row]:
    """The foreign keys of a table and those that refer to it, as they read when the column has the name `named`."""
    return connection.execute(_SQL["foreign_keys"], {**named_in_query(table, name), "named": named}).fetchall()


def references(
    connection: Connection, table: TableName, name: str, *, new: str, old: str
) -> tuple[DependentReference, ...]:
    """The foreign keys that refer to a column, as they read for the columns `new` and `old`. Raises Rejected."""
    result: list[DependentReference] = []
    sides = (foreign_keys(connection, table, name, named=column) for column in (new, old))
    for row, row_of_old in zip(*sides, strict=True):
        if not row["referring"]:
            continue
        referrer = TableName(row["from_schema"], row["from_table"])
        for fault, is_so in (
            (f"of the partitioned table {referrer}", row["from_partitioned"]),
            (f"of {referrer}, which belongs to another role,", not row["owned"]),
        ):
            if is_so:
                what = f"the foreign key {row['name']} {fault} refers to it"
                raise Rejected("column_dependents", what, "Drop it first, and add it again afterwards")
        definitions = [f"{one['head']}{table.identifier.as_string()}{one['tail']}" for one in (row, row_of_old)]
        result.append(
            DependentReference(
                name=row["name"],
                table=referrer,
                columns=tuple(column for column, _ in row["referring"]),
                new=definitions[0],
                old=definitions[1],
                valid=row["is_valid"],
                comment=row["comment"],
            )
        )
    return tuple(result)


#: The types of keys whose values are the same numbers, each with the least and the greatest of them.
INTEGERS = {
    "smallint": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "bigint": (-(2**63), 2**63 - 1),
}


def identity(connection: Connection, table: TableName, name: str, *, type_: str) -> DependentIdentity | None:
    """The identity of a column that gets this type; None for none. Raises Rejected."""
    row = _numbers(connection, table, name, deptype="i")
    return None if row is None else _dependent_identity(row, type_=type_)


def numbers(connection: Connection, table: TableName, name: str) -> DependentIdentity | None:
    """The sequence of a column, as an identity or as one that it owns, where it goes with the column; None for none. Raises Rejected."""
    for deptype in ("i", "a"):
        if (row := _numbers(connection, table, name, deptype=deptype)) is not None:
            return _dependent_identity(row, type_=row["type"])
    return None


def _numbers(connection: Connection, table: TableName, name: str, *, deptype: str) -> Row | None:
    """The one sequence of a column. Raises Rejected."""
    rows = connection.execute(_SQL["identity"], {**named_in_query(table, name), "deptype": deptype}).fetchall()
    if len(rows) > 1:
        leave = "Leave one that is owned by the column (OWNED BY)"
        raise Rejected("column_dependents", f"several sequences are owned by {name}", leave)
    for row in rows:
        if row["held_by"]:
            whose = "of its identity" if deptype == "i" else "that it owns"
            raise Rejected("column_dependents", f"{row['held_by']} depends on the sequence {whose}", _FIRST)
    return rows[0] if rows else None


def _dependent_identity(row: Row, *, type_: str) -> DependentIdentity:
    old = (row["min"], row["max"])
    # A limit that is the type's own is that of the other type then, as ALTER SEQUENCE … AS has it.
    new = tuple(
        other if limit == own else limit
        for limit, own, other in zip(old, INTEGERS[row["type"]], INTEGERS[type_], strict=True)
    )
    form = (
        f"START WITH {row['start']} INCREMENT BY {row['increment']} MINVALUE {{}} MAXVALUE {{}} CACHE {row['cache']}"
        f"{' CYCLE' if row['cycles'] else ''}"
    )
    return DependentIdentity(
        schema=row["schema"],
        name=row["name"],
        generated={"a": "ALWAYS", "d": "BY DEFAULT"}.get(row["kind"], ""),
        old=form.format(*old),
        new=form.format(*new),
        old_range=old,
        new_range=(new[0], new[1]),
        cache=row["cache"],
        has_grants=row["has_grants"],
        grants=tuple(Grant(**one) for one in row["grants"]),
        comment=row["comment"],
        type=row["type"],
        owner=row["owner"] or "",
    )


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


def copied_views(connection: Connection, found: Sequence[ColumnDependent]) -> tuple[CopiedView, ...]:
    """The materialized views among what depends on a column, and the views that these read. Raises Rejected."""
    views_ = [one for one in found if one.kind in {"view", "materialized view"}]
    rows = connection.execute(_SQL["copied_views"], {"oids": [one.oid for one in views_]}).fetchall()
    mine = {row["oid"] for row in rows}
    along = [replace(one, kind="view") for one in views_ if one.oid in mine]
    return copied(connection, views(connection, along), along)


def publications(connection: Connection, found: Sequence[ColumnDependent]) -> tuple[DependentPublication, ...]:
    """The publications among what depends on a column. Raises Rejected for one that this role does not own."""
    rows = [
        connection.execute(_SQL["publication"], {"oid": one.oid}).fetchone() or {}
        for one in found
        if one.kind == "publication"
    ]
    for row in rows:
        if not row["owned"]:
            problem = f"the publication {row['name']} names it in its list of columns or in its filter, and belongs to another role"
            raise Rejected("publication", problem, "Use the owner of the publication")
    return tuple(
        DependentPublication(
            name=row["name"], columns=None if row["columns"] is None else tuple(row["columns"]), where=row["condition"]
        )
        for row in rows
    )


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
            why = "belongs to another role" if row["atomic"] else "names it in a way that cannot be recreated"
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
