"""The module for either schema, in Python."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from backfilld.producers.code.codegen import identifiers

if TYPE_CHECKING:
    from backfilld.producers.code.codegen import Kind, Module, Retyped, Table

_HEAD = '''\
"""Written by `backfilld codegen` for the migration {migration}.

It reads and writes what the migration changes, as it was before and as it is after, in every phase between.
Remove it by {remove_by}: once the run is completed, the new names and types alone are right.
{left_out}"""

from __future__ import annotations

{imports}
REMOVE_BY = {date!r}
'''

_ASK = '''
T = TypeVar("T")

# A column or a table that is not there: of PostgreSQL, and of PostgREST where its cache is asked.
_ABSENT = frozenset({"42703", "42P01", "PGRST204", "PGRST205"})


def _is_absent(error: Exception) -> bool:
    return (getattr(error, "sqlstate", None) or getattr(error, "code", None)) in _ABSENT


@dataclass(frozen=True)
class Names:
    """The names that a table and its columns have at the moment, the columns by their new names."""

    schema: str
    table: str
    columns: Mapping[str, str]


class _Asked:
    """Which names were there last."""

    def __init__(self, *names: Names) -> None:
        self._names = names
        self._now = 0

    def ask(self, ask: Callable[[Names], T]) -> T:
        used = self._now
        try:
            return ask(self._names[used])
        except Exception as error:
            if not _is_absent(error):
                raise
            first = error
        try:
            answer = ask(self._names[1 - used])
        except Exception as error:
            if _is_absent(error):
                raise first from None
            raise
        self._now = 1 - used
        return answer
'''

_ASK_TABLE = '''
_{snake} = _Asked(
    Names({schema!r}, {old_table!r}, {old_columns!r}),
    Names({schema!r}, {new_table!r}, {new_columns!r}),
)


def ask_{snake}(ask: Callable[[Names], T]) -> T:
    """Ask with the old names, which work until contract, and with the new ones once those are gone; it remembers which.

    `ask` runs the whole query, in a transaction or savepoint of its own: the first try may fail.
    """
    return _{snake}.ask(ask)
'''

_READ = '''
def read_{snake}(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is after the migration, from a row of any phase."""
    read = dict(row)
{lines}
    return read
'''

_READERS: dict[Kind, tuple[str, str, str]] = {
    "json": (
        "_as_json",
        "import json",
        """
def _as_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value  # a text within the new type
""",
    ),
    "integer": (
        "_as_integer",
        "",
        """
def _as_integer(value: Any) -> Any:
    return value if value is None else int(value)
""",
    ),
    "decimal": (
        "_as_decimal",
        "from decimal import Decimal",
        """
def _as_decimal(value: Any) -> Any:
    return value if value is None else Decimal(str(value))
""",
    ),
    "float": (
        "_as_float",
        "",
        """
def _as_float(value: Any) -> Any:
    return value if value is None else float(value)
""",
    ),
    "boolean": (
        "_as_boolean",
        "",
        """
def _as_boolean(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip().lower() in {"t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"}
    return value if value is None else bool(value)
""",
    ),
}


def python(module: Module) -> str:
    """The text of the module."""
    asks = any(table.has_two_names for table in module.tables)
    kinds = [kind for kind in _READERS if any(one.kind == kind for table in module.tables for one in table.retyped)]
    imports = [_READERS[kind][1] for kind in kinds] + [
        "from typing import TYPE_CHECKING, Any" + (", TypeVar" if asks else "")
    ]
    imports += ["from dataclasses import dataclass"] if asks else []
    types = "Callable, Mapping" if asks else "Mapping"
    shown = "\n".join(sorted((one for one in imports if one), key=lambda one: (one.startswith("from"), one)))
    parts = [
        _HEAD.format(
            migration=module.migration,
            remove_by=module.remove_by,
            left_out="".join(f"Not covered: {_in_docstring(one)}\n" for one in module.left_out),
            imports=f"{shown}\n\nif TYPE_CHECKING:\n    from collections.abc import {types}\n",
            date=str(module.remove_by),
        )
    ]
    parts += [_ASK] if asks else []
    parts += [_READERS[kind][2] for kind in kinds]
    for table, name in zip(module.tables, identifiers(module.tables), strict=True):
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        if table.has_two_names:
            parts.append(
                _ASK_TABLE.format(
                    snake=snake,
                    schema=table.name.schema,
                    old_table=table.name.name,
                    new_table=table.renamed,
                    old_columns=table.columns,
                    new_columns={new: new for new in table.columns},
                )
            )
        if lines := [*_renamed(table), *_retyped(table), *_dropped(table)]:
            parts.append(_READ.format(snake=snake, lines="\n".join(f"    {line}" for line in lines)))
    return "\n".join(parts)


def _in_docstring(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', "'''")


def _renamed(table: Table) -> list[str]:
    lines = []
    for new, old in table.columns.items():
        lines += [
            f"if {old!r} in read:  # also where both are there: the new one may not be filled yet",
            f"    read[{new!r}] = read.pop({old!r})",
        ]
    return lines


def _retyped(table: Table) -> list[str]:
    lines = []
    for one in table.retyped:
        if one.kind == "same" and one.instead_of_null is None:
            continue
        lines.append(f"if {one.column!r} in read:")
        if one.kind != "same":
            lines.append(f"    read[{one.column!r}] = {_READERS[one.kind][0]}(read[{one.column!r}])")
        if one.instead_of_null is not None:
            lines += [
                f"    if read[{one.column!r}] is None:",
                f"        read[{one.column!r}] = {_literal(one)}",
            ]
    return lines


def _literal(one: Retyped) -> str:
    return f"{_READERS[one.kind][0]}({one.instead_of_null!r})" if one.kind != "same" else repr(one.instead_of_null)


def _dropped(table: Table) -> list[str]:
    return [f"read.pop({column!r}, None)  # gone after contract" for column in table.dropped]
