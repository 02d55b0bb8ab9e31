"""Classes and calls that stand for a table: SQLAlchemy, SQLModel, Django and peewee in Python, Drizzle in TypeScript."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.producers.code.syntax import OBJECTS, arguments, entries, every, keywords, string, unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ast_grep_py import SgNode

    from backfilld.producers.code.names import Names, Of
    from backfilld.producers.code.syntax import Text

#: Attributes that are no columns: what they lead to is in other tables.
_NO_COLUMNS = frozenset(
    {"relationship", "Relationship", "ManyToManyField", "ManyToManyRelatedField", "hybrid_property"}
)
#: In Django the attribute of such a column has another name than the column.
_REFERENCES = frozenset({"ForeignKey", "OneToOneField"})
#: Methods, in lower case without `_`, that take texts for columns.
_TAKES_TEXTS = frozenset({"orderby", "values", "valueslist", "only", "defer", "distinct"})
_TABLE_CALLS = frozenset({"pgTable", "Table"})
#: The name of the table, as an attribute of the class or of its `Meta`.
_TABLE_NAMES = frozenset({"__tablename__", "db_table", "table_name"})


@dataclass(frozen=True)
class Model:
    """A class, or a value, whose attributes are the columns of a table."""

    table: str
    at: int
    schema: str | None
    #: By attribute: the column, and where its name stands.
    columns: dict[str, tuple[str, int]]


def of_class(node: SgNode) -> Model | None:
    """The model that a Python class is; None for other classes."""
    body, name = node.field("body"), node.field("name")
    if body is None or name is None:
        return None
    table, schema, columns = _table_of_meta(body), None, {}
    for left, right in _assignments(body):
        if left.text() in _TABLE_NAMES and right is not None:
            table = string(right) or table
        elif left.text() == "__table_args__" and right is not None:
            schema = next((text.value for text in _named(right, "schema")), None)
        elif (column := _column(left, right)) is not None:
            columns[left.text()] = column
    if table is not None:
        return Model(table.value, table.at(0), schema, columns)
    if _is_sqlmodel(node):
        return Model(name.text().lower(), name.range().start.index, schema, columns)  # its own way to name the table
    return None


def _table_of_meta(body: SgNode) -> Text | None:
    """`class Meta: db_table = "jobs"` of Django, and peewee's `table_name`."""
    for inner in body.named_children():
        name = inner.field("name")
        if inner.kind() == "class_definition" and name is not None and name.text() == "Meta":
            for left, right in _assignments(inner.field("body")):
                if left.text() in _TABLE_NAMES and right is not None:
                    return string(right)
    return None


def _is_sqlmodel(node: SgNode) -> bool:
    bases = node.field("superclasses")
    return bases is not None and any(one.text().replace(" ", "") == "table=True" for one in bases.named_children())


def asked(names: Names, of: Of, method: str, call: SgNode) -> None:
    """What a call names of a model: `filter(status="x")`, `order_by("-status")`, `Job(status="x")`."""
    for name, _ in keywords(call):
        _ask(names, of, name.text(), name.range().start.index)
    for one in arguments(call) if method in _TAKES_TEXTS else ():
        text = names.text(one)
        if text is not None:
            bare = text.value.lstrip("-")
            _ask(names, of, bare, text.at(len(text.value) - len(bare)))


def _ask(names: Names, of: Of, path: str, at: int) -> None:
    attribute = path.partition("__")[0]
    if attribute in of.columns:
        names.found(at, of.table, of.columns[attribute], "model", of.schema)


def of_call(call: SgNode) -> Model | None:
    """The model that `pgTable("jobs", {…})` or `Table("jobs", metadata, Column("status", …))` makes."""
    function, given = call.field("function"), arguments(call)
    if function is None or function.text().rpartition(".")[2] not in _TABLE_CALLS or not given:
        return None
    table = string(given[0])
    if table is None:
        return None
    columns = {}
    for one in map(unwrapped, given[1:]):
        if one.kind() in OBJECTS:
            for key, at, value in entries(one):
                named = _first_text(value)
                columns[key] = named or (key, at)
        elif (named := _first_text(one)) is not None:
            columns[named[0]] = named
    return Model(table.value, table.at(0), None, columns)


def _assignments(body: SgNode | None) -> Iterator[tuple[SgNode, SgNode | None]]:
    for statement in body.named_children() if body is not None else ():
        for one in statement.named_children() if statement.kind() == "expression_statement" else ():
            left = one.field("left")
            if one.kind() == "assignment" and left is not None and left.kind() == "identifier":
                yield left, one.field("right")


def _column(left: SgNode, right: SgNode | None) -> tuple[str, int] | None:
    """The column that an attribute of a model is for, and where its name stands; None where it is for none."""
    own = left.text(), left.range().start.index
    if right is None or right.kind() != "call":
        return own if right is None else None
    function = right.field("function")
    kind = function.text().rpartition(".")[2] if function is not None else ""
    if kind in _NO_COLUMNS:
        return None
    for name, value in keywords(right):
        text = string(value)
        if name.text() in {"db_column", "column_name"} and text is not None:
            return text.value, text.at(0)
    if kind in {"Column", "mapped_column"} and (named := _first_text(right)) is not None:
        return named
    return (f"{own[0]}_id", own[1]) if kind in _REFERENCES else own


def _first_text(node: SgNode) -> tuple[str, int] | None:
    """The first text that a call is handed, through the calls that it is chained to: `text("status").notNull()`."""
    while node.kind() in {"call", "call_expression"}:
        given = arguments(node)
        text = string(given[0]) if given else None
        if text is not None:
            return text.value, text.at(0)
        function = node.field("function")
        owner = function.field("object") if function is not None else None
        if owner is None:
            return None
        node = owner
    return None


def _named(node: SgNode, key: str) -> Iterator[Text]:
    for one in every(node, "dictionary"):
        for name, _, value in entries(one):
            text = string(value)
            if name == key and text is not None:
                yield text
