"""The module that reads and writes either schema, from the migration file alone.

Old names first: they work from today until contract. The new ones work only once they are filled, and a query cannot tell; so they
are asked for when the old ones are gone. A value of either type is read by what it is, where that is certain; what is not is left
out and said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from backfilld.migrations.errors import UsageError
from backfilld.migrations.file import operations as file
from backfilld.producers.code.changes import changes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.identifiers import TableName

#: Who does not say a date means to be done with the migration within a month.
_DAYS_UNTIL_REMOVAL = 30

Kind = Literal["json", "integer", "decimal", "float", "boolean", "same"]
#: Types whose values show by themselves whether they are new or old, or can be read alike.
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("json", "jsonb"), "json"),
    **dict.fromkeys(("smallint", "int2", "integer", "int", "int4", "bigint", "int8"), "integer"),
    **dict.fromkeys(("numeric", "decimal"), "decimal"),
    **dict.fromkeys(("real", "float4", "double precision", "float8"), "float"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    "uuid": "same",
}


@dataclass(frozen=True, kw_only=True)
class Retyped:
    """A column of which values of either type are read as the new one."""

    column: str
    kind: Kind
    #: What stands for NULL, as the literal in `coalesce(…, 'literal')`; None where NULL stays.
    instead_of_null: str | None


@dataclass(kw_only=True)
class Table:
    """One table as the module knows it."""

    name: TableName
    renamed: str
    #: By the new name, the old one.
    columns: dict[str, str] = field(default_factory=dict)
    retyped: list[Retyped] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    @property
    def has_two_names(self) -> bool:
        return bool(self.columns) or self.renamed != self.name.name

    @property
    def is_needed(self) -> bool:
        return self.has_two_names or bool(self.retyped) or bool(self.dropped)


@dataclass(frozen=True, kw_only=True)
class Module:
    """What is written, in whichever language."""

    migration: str
    remove_by: date
    tables: Sequence[Table]
    #: What it does not cover, each with the reason.
    left_out: Sequence[str]


def module(migration: Migration, *, remove_by: date | None = None) -> Module:
    """What a module for this migration holds. Raises UsageError where it would hold nothing."""
    tables: dict[TableName, Table] = {}
    left_out: list[str] = []
    for change in changes(migration):
        operation = migration.operations[change.operation]
        table = tables.setdefault(change.table, Table(name=change.table, renamed=change.table.name))
        match operation:
            case file.RenameTable():
                table.renamed = operation.to
            case file.RenameColumn():
                table.columns[operation.new] = operation.old
            case file.DropColumn():
                table.dropped.append(operation.column)
            case file.ChangeType():
                _retype(table, operation, f"operations[{change.operation}]: {change.subject}", left_out)
            case _:
                left_out.append(
                    f"operations[{change.operation}]: {change.subject} {change.in_words}: code must not need it"
                )
    needed = [table for table in tables.values() if table.is_needed]
    if not needed:
        why = f": {'; '.join(left_out)}" if left_out else ", as nothing that code names becomes something else"
        msg = f"the migration {migration.name} has nothing for a module that reads either schema{why}"
        raise UsageError(msg)
    return Module(
        migration=migration.name,
        remove_by=remove_by or (datetime.now(UTC) + timedelta(days=_DAYS_UNTIL_REMOVAL)).date(),
        tables=needed,
        left_out=left_out,
    )


def _retype(table: Table, operation: file.ChangeType, subject: str, left_out: list[str]) -> None:
    kind = _KINDS.get(re.sub(r"\s*\([^)]*\)", "", operation.type).strip().lower())
    if kind is None:
        left_out.append(f"{subject}: a value does not show whether it has the type {operation.type} already")
        return
    known, instead = _is_cast(operation.up, operation.column)
    if not known:
        left_out.append(f"{subject}: `up` computes another value, and a value does not show whether it is the new one")
        return
    table.retyped.append(Retyped(column=operation.column, kind=kind, instead_of_null=instead))


def _is_cast(up: str | None, column: str) -> tuple[bool, str | None]:
    """Whether an expression only casts the column, and what it puts in place of NULL."""
    name = rf'(?:{re.escape(column)}|"{re.escape(column)}")'
    a_type = r"[\w ]+(?:\([\d, ]+\))?"
    cast = rf"(?:{name}\s*(?:::\s*{a_type})?|cast\s*\(\s*{name}\s+as\s+{a_type}\s*\))"
    if up is None or re.fullmatch(rf"\s*{cast}\s*", up, re.IGNORECASE):
        return True, None
    filled = re.fullmatch(
        rf"\s*coalesce\s*\(\s*{cast}\s*,\s*'(?P<literal>[^']*)'\s*(?:::\s*{a_type})?\s*\)\s*", up, re.IGNORECASE
    )
    return (True, filled["literal"]) if filled is not None else (False, None)


def identifiers(tables: Sequence[Table]) -> list[str]:
    """What functions and types are called after each table: words in capitals, `OddSchemaOrder`; no two alike."""
    found: list[str] = []
    for table in tables:
        parts = [table.name.schema, table.name.name] if table.name.schema != "public" else [table.name.name]
        words = [word for part in parts for word in re.findall(r"[A-Za-z0-9]+", part)]
        name = "".join(word[0].upper() + word[1:] for word in words) or "Table"
        name = f"Table{name}" if name[0].isdigit() else name
        number = sum(re.fullmatch(rf"{name}\d*", other, re.IGNORECASE) is not None for other in found)
        found.append(f"{name}{number + 1}" if number else name)
    return found
