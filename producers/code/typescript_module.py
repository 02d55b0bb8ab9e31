"""The module for either schema, in TypeScript."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from backfilld.producers.code.codegen import identifiers

if TYPE_CHECKING:
    from backfilld.producers.code.codegen import Kind, Module, Retyped, Table

_HEAD = """\
// Written by `backfilld codegen` for the migration {migration}.
// It reads and writes what the migration changes, as it was before and as it is after, in every phase between.
// Remove it by {remove_by}: once the run is completed, the new names and types alone are right.
{left_out}
export const REMOVE_BY = {date};

type Row = Record<string, unknown>;
"""

_ASK = """
interface Answer {
  error: { code?: string } | null;
}

// A column or a table that is not there: of PostgreSQL, and of PostgREST where its cache is asked.
const ABSENT = new Set(["42703", "42P01", "PGRST204", "PGRST205"]);

const isAbsent = (answer: Answer): boolean => answer.error !== null && ABSENT.has(answer.error.code ?? "");
"""

_ASK_TABLE = """
/** The names that the table {table} and its columns have at the moment, by their new names. */
export interface {name}Names {{
  readonly schema: string;
  readonly table: string;
  readonly columns: {{ {types} }};
}}

const names{name}: readonly {name}Names[] = [
  {{ schema: {schema}, table: {old_table}, columns: {{ {old_columns} }} }},
  {{ schema: {schema}, table: {new_table}, columns: {{ {new_columns} }} }},
];
let now{name} = 0;

/**
 * Ask with the old names, which work until contract, and with the new ones once those are gone; it remembers which.
 * `ask` builds the query anew each time: ask{name}((names) => db.from(names.table).select("*")).
 */
export async function ask{name}<A extends Answer>(ask: (names: {name}Names) => PromiseLike<A>): Promise<A> {{
  const used = now{name};
  const first = await ask(names{name}[used]);
  if (!isAbsent(first)) return first;
  const second = await ask(names{name}[1 - used]);
  if (isAbsent(second)) return first;
  now{name} = 1 - used;
  return second;
}}
"""

_READ = """
/** A row of the table {table} as it is after the migration, from a row of any phase. */
export function read{name}(row: Row): Row {{
  const read: Row = {{ ...row }};
{lines}
  return read;
}}
"""

#: The one kind of number that TypeScript has.
_NUMBERS: dict[Kind, Kind] = {"integer": "float", "decimal": "float"}

_READERS: dict[Kind, tuple[str, str]] = {
    "json": (
        "asJson",
        """
function asJson(value: unknown): unknown {
  if (typeof value !== "string") return value;
  try {
    return JSON.parse(value);
  } catch {
    return value; // a text within the new type
  }
}
""",
    ),
    "float": (
        "asNumber",
        """
const asNumber = (value: unknown): unknown => (typeof value === "string" ? Number(value) : value);
""",
    ),
    "boolean": (
        "asBoolean",
        """
function asBoolean(value: unknown): unknown {
  if (typeof value === "number") return value !== 0;
  return typeof value === "string" ? /^\\s*(t|tr|tru|true|y|ye|yes|on|1)\\s*$/i.test(value) : value;
}
""",
    ),
}


def typescript(module: Module) -> str:
    """The text of the module."""
    left_out = "".join(f"// Not covered: {one}\n" for one in module.left_out)
    parts = [
        _HEAD.format(
            migration=module.migration,
            remove_by=module.remove_by,
            left_out=left_out,
            date=json.dumps(str(module.remove_by)),
        )
    ]
    if any(table.has_two_names for table in module.tables):
        parts.append(_ASK)
    kinds = {_NUMBERS.get(one.kind, one.kind) for table in module.tables for one in table.retyped}
    parts += [_READERS[kind][1] for kind in _READERS if kind in kinds]
    for table, name in zip(module.tables, identifiers(module.tables), strict=True):
        if table.has_two_names:
            parts.append(_asked(table, name))
        if lines := [*_renamed(table), *_retyped(table), *_dropped(table)]:
            shown = "\n".join(f"  {line}" for line in lines)
            parts.append(_READ.format(table=_comment(table), name=name, lines=shown))
    return "".join(parts)


def _comment(table: Table) -> str:
    return str(table.name).replace("*/", "* /")


def _asked(table: Table, name: str) -> str:
    def shown(columns: dict[str, str]) -> str:
        return ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in columns.items())

    return _ASK_TABLE.format(
        table=_comment(table),
        name=name,
        types="; ".join(f"readonly {json.dumps(new)}: string" for new in table.columns),
        schema=json.dumps(table.name.schema),
        old_table=json.dumps(table.name.name),
        new_table=json.dumps(table.renamed),
        old_columns=shown(table.columns),
        new_columns=shown({new: new for new in table.columns}),
    )


def _renamed(table: Table) -> list[str]:
    lines = []
    for new, old in table.columns.items():
        lines += [
            f"if ({json.dumps(old)} in read) {{",
            f"  read[{json.dumps(new)}] = read[{json.dumps(old)}]; // also where both are there: the new one may not be filled yet",
            f"  delete read[{json.dumps(old)}];",
            "}",
        ]
    return lines


def _retyped(table: Table) -> list[str]:
    lines = []
    for one in table.retyped:
        if one.kind == "same" and one.instead_of_null is None:
            continue
        key = json.dumps(one.column)
        read = f"{_READERS[_NUMBERS.get(one.kind, one.kind)][0]}(read[{key}])" if one.kind != "same" else f"read[{key}]"
        instead = f" ?? {_literal(one)}" if one.instead_of_null is not None else ""
        lines.append(f"if ({key} in read) read[{key}] = {read}{instead};")
    return lines


def _literal(one: Retyped) -> str:
    text = json.dumps(one.instead_of_null)
    return f"{_READERS[_NUMBERS.get(one.kind, one.kind)][0]}({text})" if one.kind != "same" else text


def _dropped(table: Table) -> list[str]:
    return [f"delete read[{json.dumps(column)}]; // gone after contract" for column in table.dropped]
