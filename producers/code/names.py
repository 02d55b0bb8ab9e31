"""What one file names: the finds so far, its constants, and what its functions are handed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from backfilld.producers.code.finds import Named
from backfilld.producers.code.syntax import LISTS, OBJECTS, Place, Text, every, functions, place, string, unwrapped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ast_grep_py import SgNode


@dataclass(frozen=True)
class Of:
    """What an expression holds of a table."""

    what: Literal["query", "answer", "rows", "payload", "orm"]
    table: str
    schema: str | None = None
    #: Keys of its rows that are no columns: aliases (empty), and embedded rows with their table.
    keys: Mapping[str, str] = field(default_factory=dict)
    #: For an ORM: the columns by attribute.
    columns: Mapping[str, str] = field(default_factory=dict)


class Names:
    """The names in one file."""

    def __init__(self, root: SgNode) -> None:
        self.finds: dict[tuple[int, str, str | None], Named] = {}
        #: Texts that have been read as what they are, and are no SQL.
        self.read: set[Place] = set()
        #: What the parameters of functions hold, as those say who are handed the function.
        self.handed: dict[Place, Of] = {}
        #: Objects and lists that are handed on by name.
        self.values: dict[str, SgNode] = {}
        self.constants: dict[str, str] = {}
        for one in every(root, "variable_declarator", "assignment"):
            self._gather(one.field("name") or one.field("left"), one.field("value") or one.field("right"))

    def _gather(self, left: SgNode | None, right: SgNode | None) -> None:
        if left is None or right is None or left.kind() != "identifier":
            return
        right = unwrapped(right)
        text = string(right)
        if text is not None and "_x" not in text.value:
            self.constants[left.text()] = text.value
        elif right.kind() in OBJECTS | LISTS:
            self.values[left.text()] = right

    def found(self, at: int, table: str, column: str | None, how: str, schema: str | None = None) -> None:
        """A place where a table, or a column of one, is named."""
        before, _, bare = table.rpartition(".")
        named = Named(at=at, schema=schema or before or None, table=bare, column=column, how=how)
        self.finds.setdefault((at, bare, column), named)

    def text(self, node: SgNode) -> Text | None:
        """A text, written out or by the name of a constant."""
        node = unwrapped(node)
        if node.kind() == "identifier" and node.text() in self.constants:
            text = Text()
            text.add(self.constants[node.text()], node.range().start.index)
            return text
        return string(node, self.constants)

    def read_text(self, node: SgNode) -> Text | None:
        """A text that is read as what it is, so that it is not taken for SQL."""
        self.read.add(place(unwrapped(node)))
        return self.text(node)

    def hand(self, call: SgNode, of: Of) -> None:
        """The functions that a call is handed are called with this."""
        for function in functions(call):
            self.handed[place(function)] = of
