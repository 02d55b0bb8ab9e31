"""Pydantic models of the rows of a schema, and what may be written, as typed dicts."""

from __future__ import annotations

import keyword
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.planning.planned_schema import Column, PlannedSchema, Relation, TypeName

_HEAD = '''\
"""Rows of the database, as `backfilld types` wrote them."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

from pydantic import BaseModel, ConfigDict, Field
'''

_TYPES = {
    "bool": "bool",
    **dict.fromkeys(("int2", "int4", "int8"), "int"),
    **dict.fromkeys(("float4", "float8"), "float"),
    "numeric": "decimal.Decimal",
    **dict.fromkeys(("text", "varchar", "bpchar", "citext", "name", "inet", "cidr", "macaddr", "tsvector"), "str"),
    "bytea": "bytes",
    "date": "datetime.date",
    **dict.fromkeys(("timestamp", "timestamptz"), "datetime.datetime"),
    **dict.fromkeys(("time", "timetz"), "datetime.time"),
    "interval": "datetime.timedelta",
    "uuid": "uuid.UUID",
}
#: Names that a class of pydantic has already, or that stand for something else in the module.
_TAKEN = frozenset({"copy", "dict", "json", "schema", "construct", "validate", "datetime", "decimal", "uuid"})


def pydantic_models(schema: PlannedSchema) -> str:
    """The text of the module: a model for each table and view, and typed dicts of what a table takes."""
    names = _ClassNames()
    parts = [_HEAD]
    enums = {}
    for one, labels in schema.enums.items():
        if one.schema in schema.schemas:
            enums[one] = names.of(one.schema, one.name)
            parts.append(f"{enums[one]}: TypeAlias = Literal[{', '.join(repr(label) for label in labels)}]\n")
    for name in schema.schemas:
        for views in (False, True):
            for relation in schema.of(name, views=views):
                parts += _of(relation, names.of(relation.name.schema, relation.name.name), enums)
    return "\n\n".join(parts)


def _of(relation: Relation, name: str, enums: dict[TypeName, str]) -> list[str]:
    made = [_model(relation, name, enums)]
    if not relation.is_view:
        made += [
            _dict(relation, f"{name}{kind}", enums, all_may_be_left_out=kind == "Update")
            for kind in ("Insert", "Update")
        ]
    return made


def _model(relation: Relation, name: str, enums: dict[TypeName, str]) -> str:
    lines = [f"class {name}(BaseModel):", f'    """A row of {_in_docstring(str(relation.name))}."""', ""]
    lines.append("    model_config = ConfigDict(populate_by_name=True, protected_namespaces=())")
    lines.append("")
    fields: set[str] = set()
    for column in relation.columns:
        field = _field(column.name, fields)
        shown = _type(column.type, enums) + (" | None" if column.nullable else "")
        alias = f" = Field(alias={column.name!r})" if field != column.name else ""
        lines.append(f"    {field}: {shown}{alias}")
    return "\n".join(lines) + "\n"


def _dict(relation: Relation, name: str, enums: dict[TypeName, str], *, all_may_be_left_out: bool) -> str:
    entries = []
    for column in _written(relation.columns):
        shown = _type(column.type, enums) + (" | None" if column.nullable else "")
        may = all_may_be_left_out or column.nullable or bool(column.identity) or column.has_default
        entries.append(f"        {column.name!r}: {f'NotRequired[{shown}]' if may else shown},")
    lines = "\n".join(entries)
    # Not as a class: a name of a column need not be one of Python's.
    return f"{name} = TypedDict(\n    {name!r},\n    {{\n{lines}\n    }},\n)\n"


def _written(columns: Iterable[Column]) -> list[Column]:
    return [one for one in columns if one.identity != "a" and not one.generated]


def _type(type_: TypeName, enums: dict[TypeName, str]) -> str:
    if type_.name.startswith("_"):
        return f"list[{_type(type(type_)(schema=type_.schema, name=type_.name[1:]), enums)}]"
    return enums.get(type_) or _TYPES.get(type_.name, "Any")


def _field(column: str, fields: set[str]) -> str:
    """What Python calls a column: its own name where it can be one."""
    name = re.sub(r"\W", "_", column).lstrip("_") or "column"
    if name[0].isdigit() or keyword.iskeyword(name) or name in _TAKEN or name.startswith("model_"):
        name = f"column_{name}"
    while name in fields:
        name += "_"
    fields.add(name)
    return name


class _ClassNames:
    """Names of classes, no two alike."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, schema: str, name: str) -> str:
        words = re.findall(r"[A-Za-z0-9]+", name if schema == "public" else f"{schema} {name}")
        made = "".join(word[0].upper() + word[1:] for word in words) or "Table"
        made = f"Table{made}" if made[0].isdigit() else made
        while made in self._taken:
            made += "_"
        self._taken |= {made, f"{made}Insert", f"{made}Update"}
        return made


def _in_docstring(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', "'")
