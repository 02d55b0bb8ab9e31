"""What the methods of supabase-js and supabase-py name, and those of Kysely that are alike."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backfilld.producers.code import postgrest
from backfilld.producers.code.names import Of
from backfilld.producers.code.syntax import (
    CALLS,
    LISTS,
    OBJECTS,
    arguments,
    entries,
    every,
    functions,
    keywords,
    member,
    unwrapped,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ast_grep_py import SgNode

    from backfilld.producers.code.names import Names
    from backfilld.producers.code.syntax import Text

#: Methods that say the table, in lower case without `_`.
_ROOTS = frozenset({"from", "table", "selectfrom", "insertinto", "updatetable", "deletefrom"})
#: What has a `from` of its own.
_NOT_CLIENTS = frozenset({"Array", "Buffer", "Object", "Promise", "Readable", "Set", "Map", "Uint8Array", "Iterator"})
#: Methods whose first argument is a column.
_FILTERS = frozenset(
    {"eq", "neq", "gt", "gte", "lt", "lte", "like", "ilike", "likeallof", "likeanyof", "ilikeallof", "ilikeanyof", "is"}
    | {"isdistinct", "in", "notin", "contains", "containedby", "rangegt", "rangegte", "rangelt", "rangelte"}
    | {"rangeadjacent", "overlaps", "textsearch", "fts", "plfts", "phfts", "wfts", "cs", "cd", "ov", "match", "imatch"}
    | {"not", "filter", "order", "where", "andwhere", "orwhere", "orderby", "groupby", "returning"}
)
_WRITES = frozenset({"insert", "update", "upsert", "values", "set"})
#: Options that name the embedded table which a method is about, and those that list columns.
_OF_EMBEDDED = ("referencedtable", "foreigntable", "referencetable")
_OF_COLUMNS = ("onconflict", "columns")


def root(names: Names, owner: SgNode, method: str, given: list[SgNode]) -> Of | None:
    """`.from("jobs")`: the client is not looked at, other than that it is none of what has a `from` of its own."""
    text = names.text(given[0]) if given and method in _ROOTS else None
    bare = owner.text().strip()
    if text is None or not text.value or " " in text.value or bare in _NOT_CLIENTS or bare.endswith(".storage"):
        return None
    schema = None
    if owner.kind() in CALLS and (pair := member(owner.field("function") or owner)) is not None:
        named = names.read_text(arguments(owner)[0]) if pair[1].text() == "schema" and arguments(owner) else None
        schema = named.value if named is not None else None
    names.read_text(given[0])
    names.found(text.at(0), text.value, None, "table", schema)
    before, _, name = text.value.rpartition(".")
    return Of("query", name, schema or before or None)


def query(names: Names, of: Of, method: str, call: SgNode, given: list[SgNode]) -> Of:
    """A method of a query: the columns it names, and what it gives back."""
    if method == "execute":
        return replace(of, what="answer")
    if method == "then":
        names.hand(call, replace(of, what="answer"))
    elif method == "select":
        return _selected(names, of, given)
    elif given:
        options = _options(call, given[1:] if method in _WRITES | {"match"} else given)
        _name_columns(names, of, method, given, options)
    return of


def _name_columns(names: Names, of: Of, method: str, given: list[SgNode], options: Mapping[str, SgNode]) -> None:
    elsewhere = _option(names, options, *_OF_EMBEDDED)
    if method in _WRITES or (method == "match" and unwrapped(given[0]).kind() in OBJECTS):
        written(names, of, given[0], "filter" if method == "match" else "values")
    elif method == "or" and (text := names.read_text(given[0])) is not None:
        for column in postgrest.conditions(text.value):
            _column(names, of, column, text, "filter", elsewhere)
    elif method in _FILTERS and (text := names.read_text(given[0])) is not None:
        how = "order" if method == "order" else "filter"
        _column(names, of, postgrest.column(text.value), text, how, elsewhere)
    for name in _OF_COLUMNS:
        listed = names.text(options[name]) if name in options else None
        if listed is not None:
            for column in postgrest.listed(listed.value):
                _column(names, of, column, listed, "values")


def _options(call: SgNode, given: list[SgNode]) -> dict[str, SgNode]:
    """What is given by name: keyword arguments in Python, objects in TypeScript."""
    options = {key.text().replace("_", "").lower(): value for key, value in keywords(call)}
    for one in map(unwrapped, given):
        if one.kind() in OBJECTS:
            options |= {key.lower(): value for key, _, value in entries(one)}
    return options


def _option(names: Names, options: Mapping[str, SgNode], *wanted: str) -> str:
    texts = [names.text(options[name]) for name in wanted if name in options]
    return next((text.value for text in texts if text is not None), "")


def _column(names: Names, of: Of, column: postgrest.Column, text: Text, how: str, elsewhere: str = "") -> None:  # noqa: PLR0913, PLR0917 - what is found, where, and whose
    embedded = column.embedded or elsewhere
    table = of.keys.get(embedded) or embedded or of.table
    names.found(text.at(column.at), table, column.name, how, None if embedded else of.schema)


def _selected(names: Names, of: Of, given: list[SgNode]) -> Of:
    keys = dict(of.keys)
    for one in given:
        for node in unwrapped(one).named_children() if unwrapped(one).kind() in LISTS else [one]:
            text = names.read_text(node)
            if text is None:
                continue
            found = postgrest.selected(text.value)
            for column in found.columns:
                _column(names, of, column, text, "select")
            for table in found.tables:
                names.found(text.at(table.at), table.name, None, "select")
                # A table may be embedded by the name of the column that refers to it.
                names.found(text.at(table.at), table.embedded or of.table, table.name, "select")
            keys |= found.keys
    return replace(of, keys=keys)


def written(names: Names, of: Of, node: SgNode, how: str) -> None:
    """The keys of the object, or of each of several, that are written."""
    node = unwrapped(node)
    kind = node.kind()
    if kind == "identifier" and node.text() in names.values:
        written(names, of, names.values[node.text()], how)
    elif kind in OBJECTS:
        for key, at, _ in entries(node):
            names.found(at, of.table, key, how, of.schema)
    else:
        for one in _made_of(node, kind):
            written(names, of, one, how)


def _made_of(node: SgNode, kind: str) -> list[SgNode]:
    """The expressions in which the objects of a list, of a choice or of `map` stand."""
    if kind in LISTS | {"ternary_expression", "conditional_expression", "return_statement"}:
        return node.named_children()
    body = node.field("body")
    if kind == "list_comprehension" and body is not None:
        return [body]
    bodies = [body for function in functions(node) if (body := function.field("body"))] if kind in CALLS else []
    return [
        inner
        for body in bodies
        for inner in (every(body, "return_statement") if body.kind() == "statement_block" else [body])
    ]


def realtime(names: Names, call: SgNode, given: list[SgNode]) -> None:
    """`.on("postgres_changes", {table, filter}, payload => …)`."""
    options = _options(call, given)
    table = names.text(options["table"]) if "table" in options else None
    if table is None:
        return
    schema = _option(names, options, "schema") or None
    names.found(table.at(0), table.value, None, "realtime", schema)
    condition = names.text(options["filter"]) if "filter" in options else None
    if condition is not None:
        names.found(condition.at(0), table.value, condition.value.partition("=")[0], "realtime", schema)
    names.hand(call, Of("payload", table.value, schema))
