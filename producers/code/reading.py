"""Reads one file of TypeScript, JavaScript or Python, and finds where tables and columns are named.

The tree is walked once, in order. A name is followed from the call that says the table, `.from("jobs")`, through the methods that are
chained to it, to the variables that hold the query, its answer and the rows; each scope has its own names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backfilld.producers.code import models, sql_text, supabase, types_named
from backfilld.producers.code.names import Names, Of
from backfilld.producers.code.syntax import (
    CALLS,
    FUNCTIONS,
    INDEXED,
    MEMBERS,
    STRINGS,
    Place,
    arguments,
    entries,
    indexed,
    member,
    parameters,
    place,
    string,
    unwrapped,
)

if TYPE_CHECKING:
    from ast_grep_py import SgNode

    from backfilld.producers.code.models import Model

#: Methods of lists that give rows again; others give something else.
_KEEP_ROWS = frozenset(
    {"filter", "find", "findlast", "slice", "sort", "tosorted", "reverse", "toreversed", "at", "concat", "pop", "shift"}
    | {"first", "one", "all", "fetchall", "fetchone"}
)
_CHOICES = frozenset({"binary_expression", "boolean_operator", "ternary_expression", "conditional_expression"})


class Reader:
    """One file."""

    def __init__(self, root: SgNode) -> None:
        self.names = Names(root)
        #: Texts that look like SQL and cannot be read, with where they begin.
        self.unreadable: list[tuple[int, str]] = []
        self._scopes: list[dict[str, Of | None]] = [{}]
        self._known: dict[Place, Of | None] = {}
        self._types = types_named.aliases(root)
        self._visit(root)

    # --- walking -------------------------------------------------------------------------------------------------------

    def _visit(self, node: SgNode) -> None:
        kind = node.kind()
        if kind in FUNCTIONS:
            self._visit_function(node)
            return
        self._look(node, kind)
        children = node.named_children()
        if kind.endswith("_comprehension") or kind == "generator_expression":
            children = sorted(children, key=lambda one: one.kind() != "for_in_clause")  # what it binds comes first
        for child in children:
            self._visit(child)

    def _look(self, node: SgNode, kind: str) -> None:
        match kind:
            case "variable_declarator":
                self._bind(node.field("name"), self._held(node.field("value")) or self._typed(node))
            case "assignment" | "assignment_expression" | "named_expression":
                held = self._held(node.field("right") or node.field("value"))
                self._bind(node.field("left") or node.field("name"), held)
            case "for_in_statement" | "for_statement" | "for_in_clause":
                self._bind(node.field("left"), self._held(node.field("right")))
            case "class_definition":
                self._define(node.field("name"), models.of_class(node))
            case "generic_type" | "lookup_type":
                for one in types_named.named(node, self._types):
                    self.names.found(one.at, one.table, one.column, "type")
            case _ if kind in STRINGS:
                self._read_sql(node)
            case _ if kind in CALLS | MEMBERS | INDEXED and not _is_called(node):
                self._held(node)

    def _visit_function(self, node: SgNode) -> None:
        self._scopes.append({})
        held = self.names.handed.get(place(node))
        for one in parameters(node):
            self._bind(one, self._typed(one.parent()) or held)
        for child in node.named_children():
            self._visit(child)
        self._scopes.pop()

    def _typed(self, node: SgNode | None) -> Of | None:
        """What a type annotation says: `job: Tables<"jobs">`."""
        annotation = node.field("type") if node is not None else None
        table = types_named.table(annotation, self._types) if annotation is not None else None
        return Of("rows", table) if table else None

    def _define(self, name: SgNode | None, model: Model | None) -> Of | None:
        """A model, which has the name that the class or the variable has."""
        if model is None:
            return None
        self.names.found(model.at, model.table, None, "model", model.schema)
        for column, at in model.columns.values():
            self.names.found(at, model.table, column, "model", model.schema)
        columns = {attribute: column for attribute, (column, _) in model.columns.items()}
        of = Of("orm", model.table, model.schema, columns=columns)
        if name is not None:
            self._scopes[-1][name.text()] = of
        return of

    def _bind(self, pattern: SgNode | None, held: Of | None) -> None:
        """Give names what a value holds; a key that is taken out of a row is a use of the column."""
        if pattern is None:
            return
        match pattern.kind():
            case "identifier":
                self._scopes[-1][pattern.text()] = held
            case "object_pattern" if held is not None:
                for key, at, value in entries(pattern):
                    self._bind_key(key, value, self._part(held, key, at))
            case "array_pattern" | "tuple_pattern" | "pattern_list":
                for one in pattern.named_children():
                    self._bind(one, held if held is not None and held.what == "rows" else None)
            case "assignment_pattern" | "default_parameter" | "typed_parameter":
                self._bind(pattern.field("left") or pattern.field("name"), held)

    def _bind_key(self, key: str, value: SgNode, held: Of | None) -> None:
        target = value.field("left") or value
        if target.kind() == "object_pattern":
            self._bind(target, held)
        else:
            self._scopes[-1][target.text() if target.kind() == "identifier" else key] = held

    # --- what an expression holds --------------------------------------------------------------------------------------

    def _held(self, node: SgNode | None) -> Of | None:
        if node is None:
            return None
        node = unwrapped(node)
        key = place(node)
        if key not in self._known:
            self._known[key] = None  # for what holds itself
            self._known[key] = self._hold(node)
        return self._known[key]

    def _hold(self, node: SgNode) -> Of | None:
        kind = node.kind()
        held: Of | None = None
        if kind == "identifier":
            held = next((scope[node.text()] for scope in reversed(self._scopes) if node.text() in scope), None)
        elif kind in CALLS:
            held = self._called(node)
        elif (pair := member(node)) is not None:
            owner = self._held(pair[0])
            held = self._part(owner, pair[1].text(), pair[1].range().start.index) if owner is not None else None
        elif (pair := indexed(node)) is not None:
            held = self._at_index(*pair)
        elif kind in {"await_expression", "await"}:
            inner = self._held(node.named_children()[0])
            held = replace(inner, what="answer") if inner is not None and inner.what == "query" else inner
        elif kind in _CHOICES:
            each = [self._held(one) for one in node.named_children()]
            held = next((one for one in each if one is not None), None)
        return held

    def _part(self, owner: Of, name: str, at: int) -> Of | None:
        """What `owner.name` holds."""
        match owner.what:
            case "answer":
                return replace(owner, what="rows") if name == "data" else None
            case "payload":
                return replace(owner, what="rows") if name in {"new", "old", "record", "old_record"} else None
            case "orm" if name in owner.columns:
                self.names.found(at, owner.table, owner.columns[name], "model", owner.schema)
                return None
            case "query" | "orm":
                return owner
            case "rows":
                embedded = owner.keys.get(name)
                if embedded is None:
                    self.names.found(at, owner.table, name, "row", owner.schema)
                return Of("rows", embedded) if embedded else None

    def _at_index(self, owner: SgNode, index: SgNode) -> Of | None:
        held = self._held(owner)
        text = self.names.text(index)
        if held is None or text is None:
            return held if held is not None and held.what == "rows" else None
        return self._part(held, text.value, text.at(0))

    def _called(self, call: SgNode) -> Of | None:  # noqa: PLR0911 - a line for each kind of call
        function, given = call.field("function"), arguments(call)
        if function is None:
            return None
        if (model := models.of_call(call)) is not None:
            parent = call.parent()
            return self._define(parent.field("name") or parent.field("left") if parent is not None else None, model)
        pair = member(unwrapped(function))
        if pair is None:
            return self._by_model(self._held(function), "", call)
        method = pair[1].text().lower().replace("_", "")
        held = self._held(pair[0])
        if held is None:
            if method in {"on", "onpostgreschanges"}:
                supabase.realtime(self.names, call, given)
            return supabase.root(self.names, pair[0], method, given) or self._by_model(None, method, call)
        match held.what:
            case "query":
                return supabase.query(self.names, held, method, call, given)
            case "rows":
                return self._list(held, method, call, given)
            case _:
                return self._by_model(held, method, call)

    def _list(self, of: Of, method: str, call: SgNode, given: list[SgNode]) -> Of | None:
        self.names.hand(call, of)
        text = self.names.text(given[0]) if given and method == "get" else None
        if text is not None:
            return self._part(of, text.value, text.at(0))
        return of if method in _KEEP_ROWS else None

    def _by_model(self, held: Of | None, method: str, call: SgNode) -> Of | None:
        """A call of a model, of what was asked of one, or with one as an argument."""
        if held is not None and held.what == "orm":
            models.asked(self.names, held, method, call)
            return held
        each = [self._held(one) for one in arguments(call)]
        return next((one for one in each if one is not None and one.what == "orm"), None)

    # --- SQL -----------------------------------------------------------------------------------------------------------

    def _read_sql(self, node: SgNode) -> None:
        parent = node.parent()
        if place(node) in self.names.read or (parent is not None and parent.kind() == "concatenated_string"):
            return
        text = string(node, self.names.constants)
        if text is None or not sql_text.is_sql(text.value):
            return
        try:
            for one in sql_text.named(text.value):
                self.names.found(text.at(one.at), one.table, one.column, "sql", one.schema)
        except ValueError:
            self.unreadable.append((text.at(0), text.value))


def _is_called(node: SgNode) -> bool:
    """Whether a member is the method of a call, which has been looked at as such."""
    parent = node.parent()
    if node.kind() not in MEMBERS or parent is None or parent.kind() not in CALLS:
        return False
    function = parent.field("function")
    return function is not None and place(function) == place(node)
