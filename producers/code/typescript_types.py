"""TypeScript types of a schema, in the shape that supabase-js takes: `createClient<Database>`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from backfilld.producers.code.helper_types import HELPERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.planning.planned_schema import (
        Column,
        Function,
        PlannedSchema,
        Reference,
        Relation,
        TypeName,
    )

_NUMBERS = frozenset({"int2", "int4", "int8", "float4", "float8", "numeric"})
_STRINGS = frozenset(
    {"bytea", "bpchar", "varchar", "date", "text", "citext", "time", "timetz", "timestamp", "timestamptz", "uuid"}
    | {"vector", "interval"}
)
_OTHERS = {"bool": "boolean", "json": "Json", "jsonb": "Json", "void": "undefined", "record": "Record<string, unknown>"}
#: How the arguments are called that a caller gives.
_GIVEN = frozenset({"i", "b", "v"})


def typescript_types(schema: PlannedSchema) -> str:
    """The text of the module of types."""
    return (
        "export type Json = string | number | boolean | null | { [key: string]: Json | undefined } | Json[]\n\n"
        "export type Database = {\n"
        + "\n".join(_Types(schema, name).of_schema() for name in schema.schemas)
        + "\n}\n"
        + HELPERS.replace("DEFAULT_SCHEMA", json.dumps(schema.schemas[0]))
        + _constants(schema)
    )


class _Types:
    """The types of one schema."""

    def __init__(self, schema: PlannedSchema, name: str) -> None:
        self._schema = schema
        self._name = name

    def of_schema(self) -> str:
        enums = {one.name: labels for one, labels in self._schema.enums.items() if one.schema == self._name}
        composites = {one.name: parts for one, parts in self._schema.composites.items() if one.schema == self._name}
        functions = [one for one in self._schema.functions if one.schema == self._name and _can_be_called(one)]
        by_name: dict[str, list[str]] = {}
        for one in functions:
            by_name.setdefault(one.name, []).append(self._function(one))
        return (
            f"  {json.dumps(self._name)}: {{\n"
            + _section("Tables", [self._table(one) for one in self._schema.of(self._name, views=False)])
            + _section("Views", [self._view(one) for one in self._schema.of(self._name, views=True)])
            + _section("Functions", [f"{json.dumps(name)}: {' | '.join(several)}" for name, several in by_name.items()])
            + _section("Enums", [f"{json.dumps(name)}: {_union(labels)}" for name, labels in enums.items()])
            + _section("CompositeTypes", [self._composite(name, parts) for name, parts in composites.items()])
            + "  }"
        )

    def _table(self, table: Relation) -> str:
        return _block(
            table.name.name,
            [
                ("Row", [self._column(one) for one in _sorted(table.columns)]),
                ("Insert", [self._written(one, may_be_left_out=_fills_itself(one)) for one in _sorted(table.columns)]),
                ("Update", [self._written(one, may_be_left_out=True) for one in _sorted(table.columns)]),
            ],
            self._schema.references_of(table),
        )

    def _view(self, view: Relation) -> str:
        parts = [("Row", [self._column(one) for one in _sorted(view.columns)])]
        written = [self._of_view(one) for one in _sorted(view.columns)]
        if view.takes_inserts:
            parts.append(("Insert", written))
        if view.takes_updates:
            parts.append(("Update", written))
        return _block(view.name.name, parts, self._schema.references_of(view))

    def _column(self, column: Column) -> str:
        return f"{json.dumps(column.name)}: {self._nullable(column.type, nullable=column.nullable)}"

    def _written(self, column: Column, *, may_be_left_out: bool) -> str:
        if column.identity == "a" or column.generated:
            return f"{json.dumps(column.name)}?: never"
        mark = "?" if may_be_left_out else ""
        return f"{json.dumps(column.name)}{mark}: {self._nullable(column.type, nullable=column.nullable)}"

    def _of_view(self, column: Column) -> str:
        if not column.writable:
            return f"{json.dumps(column.name)}?: never"
        return f"{json.dumps(column.name)}?: {self._nullable(column.type, nullable=True)}"

    def _nullable(self, type_: TypeName, *, nullable: bool) -> str:
        shown = self._type(type_)
        if shown == "Json" and not nullable:
            return "NonNullable<Json>"  # Json has null among its values
        return f"{shown} | null" if nullable and shown != "unknown" else shown

    def _type(self, type_: TypeName) -> str:
        name = type_.name
        if name in _NUMBERS:
            return "number"
        if name in _STRINGS:
            return "string"
        if name in _OTHERS:
            return _OTHERS[name]
        if name.startswith("_"):
            return f"({self._type(type(type_)(schema=type_.schema, name=name[1:]))})[]"
        return self._own_type(type_)

    def _own_type(self, type_: TypeName) -> str:
        """A type of the database's own: an enumeration, a composite, the rows of a table."""
        if type_ in self._schema.enums:
            if type_.schema in self._schema.schemas:
                return f"Database[{json.dumps(type_.schema)}]['Enums'][{json.dumps(type_.name)}]"
            return _union(self._schema.enums[type_])
        if type_ in self._schema.composites:
            return f"Database[{json.dumps(type_.schema)}]['CompositeTypes'][{json.dumps(type_.name)}]"
        for one in self._schema.relations:
            if (one.name.schema, one.name.name) == (type_.schema, type_.name):
                kind = "Views" if one.is_view else "Tables"
                return f"Database[{json.dumps(type_.schema)}]['{kind}'][{json.dumps(type_.name)}]['Row']"
        return "unknown"

    def _function(self, function: Function) -> str:
        given = [one for one in function.arguments if one.mode in _GIVEN]
        arguments = "; ".join(
            f"{json.dumps(one.name)}{'?' if one.has_default else ''}: {self._type(one.type)}"
            for one in sorted(given, key=lambda one: one.name)
        )
        shown = f"{{ {arguments} }}" if given else "Record<PropertyKey, never>"
        several = "[]" if function.gives_several else ""
        options = ""
        if function.returns_rows_of is not None:
            to = json.dumps(function.returns_rows_of.name)
            many = "false" if function.gives_several else "true"
            options = (
                f'; SetofOptions: {{ from: "*"; to: {to}; isOneToOne: {many}; '
                f"isSetofReturn: {'true' if function.gives_several else 'false'} }}"
            )
        return f"{{ Args: {shown}; Returns: {self._returned(function)}{several}{options} }}"

    def _returned(self, function: Function) -> str:
        columns = [one for one in function.arguments if one.mode == "t"]
        if columns:
            return _object(
                [f"{json.dumps(one.name)}: {self._type(one.type)}" for one in sorted(columns, key=lambda one: one.name)]
            )
        rows_of = next((one for one in self._schema.relations if one.name == function.returns_rows_of), None)
        if rows_of is not None and rows_of.name.schema == self._name:
            return _object([self._column(one) for one in _sorted(rows_of.columns)])
        return self._type(function.returns)

    def _composite(self, name: str, parts: Sequence[tuple[str, TypeName]]) -> str:
        attributes = [f"{json.dumps(part)}: {self._nullable(type_, nullable=True)}" for part, type_ in parts]
        return f"{json.dumps(name)}: {_object(attributes)}"


def _can_be_called(function: Function) -> bool:
    """PostgREST hands arguments over by name. What a trigger calls is called by no one else."""
    given = [one for one in function.arguments if one.mode in _GIVEN]
    return all(one.name for one in given) and function.returns.name not in {"trigger", "event_trigger"}


def _fills_itself(column: Column) -> bool:
    return column.nullable or bool(column.identity) or column.has_default


def _sorted(columns: Iterable[Column]) -> list[Column]:
    return sorted(columns, key=lambda one: one.name)


def _union(labels: Iterable[str]) -> str:
    return " | ".join(json.dumps(one) for one in labels)


def _object(lines: Sequence[str]) -> str:
    return f"{{ {'; '.join(lines)} }}"


def _section(name: str, entries: Sequence[str]) -> str:
    lines = "\n".join(f"      {line}" for one in entries for line in one.splitlines()) or "      [_ in never]: never"
    return f"    {name}: {{\n{lines}\n    }}\n"


def _block(name: str, parts: Sequence[tuple[str, Sequence[str]]], references: Sequence[Reference]) -> str:
    lines = [f"{json.dumps(name)}: {{"]
    for part, columns in parts:
        lines += [f"  {part}: {{", *(f"    {one}" for one in columns), "  }"]
    lines += ["  Relationships: ["]
    for one in references:
        lines += [
            "    {",
            f"      foreignKeyName: {json.dumps(one.name)}",
            f"      columns: {json.dumps(one.columns)}",
            f"      isOneToOne: {'true' if one.is_one_to_one else 'false'}",
            f"      referencedRelation: {json.dumps(one.other.name)}",
            f"      referencedColumns: {json.dumps(one.other_columns)}",
            "    },",
        ]
    return "\n".join([*lines, "  ]", "}"])


def _constants(schema: PlannedSchema) -> str:
    lines = ["", "export const Constants = {"]
    for name in schema.schemas:
        lines += [f"  {json.dumps(name)}: {{", "    Enums: {"]
        lines += [
            f"      {json.dumps(one.name)}: {json.dumps(labels)},"
            for one, labels in schema.enums.items()
            if one.schema == name
        ]
        lines += ["    },", "  },"]
    return "\n".join([*lines, "} as const", ""])
