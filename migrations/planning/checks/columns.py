"""Columns that an operation names, and what its expressions read."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.expression_probe import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.file.migration import Operation
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.catalog import Column, Table
    from backfilld.migrations.postgres.expression_probe import Analysis


def settable(table: Table, name: str) -> Column:
    """A column that a backfill may write. Raises Rejected."""
    column = column_of(table, name)
    if column.generated or column.identity_always:
        raise Rejected("column", f"{name} is a generated column and cannot be set")
    if name in {column.name for key in table.keys[:1] for column in key.columns}:
        raise Rejected("column", f"{name} is part of the key by which {table.name} is walked and cannot be set")
    return column


def column_of(table: Table, name: str) -> Column:
    """A column of a table, by its exact name. Raises Rejected with the one that is likely meant."""
    column = table.column(name)
    if column is None:
        near = difflib.get_close_matches(name, [one.name for one in table.columns], n=1)
        hint = f". Did you mean {near[0]}?" if near else ""
        raise Rejected("column", f"{table.name} has no column {name}{hint}")
    return column


def old_default(case: Case, name: str) -> str | None:
    """The DEFAULT of a column that may have another; None for none, and for a column that the file adds. Raises Rejected."""
    if case.table.column(name) is None:
        return None
    details = catalog.column_details(case.connection, case.table, name)
    if details.generated or details.identity:
        what = "computed by PostgreSQL" if details.generated else "an identity column, which its sequence fills"
        raise Rejected("column", f"{case.table.name}.{name} is {what}", "Name an ordinary column")
    return details.default


def check_reads(case: Case, analysis: Analysis) -> None:
    """Refuse an expression that reads a table whose policies hide rows from this role."""
    if analysis.hidden:
        case.refuse(
            "row_security",
            f"the expression reads {', '.join(analysis.hidden)}, whose policies hide rows from "
            f"{case.found.backend.role}",
            "Use a role with BYPASSRLS",
        )


def once_because(analysis: Analysis, own: set[str]) -> str:
    """Why an expression cannot be asked twice, in words; empty when it can. `own` are the columns it reads and sets."""
    reasons = []
    if own:
        reasons.append(f"reads {', '.join(sorted(own))}, which it sets")
    if analysis.unrepeatable:
        reasons.append(f"calls {', '.join(analysis.unrepeatable)}, which can return different results")
    return f"the expression {' and '.join(reasons)}" if reasons else ""


def mentions(operation: Operation, column: str) -> bool:
    """Whether an operation names a column of its table, in one of its lists or expressions; rather once too often than not."""
    return any(_word(column).search(text) for text in _texts(operation.model_dump()))


def _texts(value: object) -> Iterator[str]:
    """What an operation says: its texts, and the columns that it sets or computes; not the keys of the file."""
    match value:
        case str():
            yield value
        case dict():
            for names in (value.get(key) for key in ("assignments", "up", "down")):
                yield from names if isinstance(names, dict) else ()
            for key, each in value.items():
                if key not in {"table", "comment"}:
                    yield from _texts(each)
        case list() | tuple():
            for each in value:
                yield from _texts(each)


def _word(name: str) -> re.Pattern[str]:
    # What is no character of a name ends a word, or begins one.
    return re.compile(rf"(?<![\w$]){re.escape(name)}(?![\w$])", re.IGNORECASE)
