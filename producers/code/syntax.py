"""Trees of TypeScript, JavaScript and Python, read alike: what is a call, a member, a text, an object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ast_grep_py import SgNode

#: By the end of a file's name: the language as ast-grep calls it.
LANGUAGES = {
    **dict.fromkeys((".ts", ".mts", ".cts"), "typescript"),
    **dict.fromkeys((".tsx", ".js", ".jsx", ".mjs", ".cjs"), "tsx"),
    **dict.fromkeys((".py", ".pyi"), "python"),
}

CALLS = frozenset({"call_expression", "call"})
MEMBERS = frozenset({"member_expression", "attribute"})
INDEXED = frozenset({"subscript_expression", "subscript"})
STRINGS = frozenset({"string", "template_string", "concatenated_string"})
OBJECTS = frozenset({"object", "dictionary"})
LISTS = frozenset({"array", "list", "tuple"})
FUNCTIONS = frozenset(
    {
        "arrow_function",
        "function_expression",
        "function_declaration",
        "method_definition",
        "generator_function_declaration",
        "function_definition",
        "lambda",
    }
)
#: What changes nothing of the value within.
_WRAPPERS = frozenset(
    {"parenthesized_expression", "as_expression", "satisfies_expression", "non_null_expression", "type_assertion"}
)

Place = tuple[int, int, str]


def place(node: SgNode) -> Place:
    """What tells a node from another of the same tree."""
    spot = node.range()
    return spot.start.index, spot.end.index, node.kind()


def unwrapped(node: SgNode) -> SgNode:
    """The value itself, without parentheses and casts."""
    while node.kind() in _WRAPPERS and (inner := node.named_children()):
        node = inner[0]
    return node


def member(node: SgNode) -> tuple[SgNode, SgNode] | None:
    """The object and the name of `object.name`."""
    if node.kind() not in MEMBERS:
        return None
    owner, name = node.field("object"), node.field("property") or node.field("attribute")
    return (owner, name) if owner is not None and name is not None else None


def indexed(node: SgNode) -> tuple[SgNode, SgNode] | None:
    """The object and the index of `object[index]`."""
    if node.kind() not in INDEXED:
        return None
    owner, index = node.field("object") or node.field("value"), node.field("index") or node.field("subscript")
    return (owner, index) if owner is not None and index is not None else None


def arguments(call: SgNode) -> list[SgNode]:
    """The arguments of a call, in order; keyword arguments of Python are left out."""
    given = call.field("arguments")
    if given is None:
        return []
    if given.kind() == "template_string":  # sql`…`
        return [given]
    return [one for one in given.named_children() if one.kind() not in {"comment", "keyword_argument"}]


def keywords(call: SgNode) -> Iterator[tuple[SgNode, SgNode]]:
    """The keyword arguments of a call in Python: name and value."""
    given = call.field("arguments")
    for one in given.named_children() if given is not None else ():
        name, value = one.field("name"), one.field("value")
        if one.kind() == "keyword_argument" and name is not None and value is not None:
            yield name, value


def entries(node: SgNode) -> Iterator[tuple[str, int, SgNode]]:
    """The keys of an object, each with where it stands and its value; computed keys and what is spread are left out."""
    for one in node.named_children():
        if one.kind() in {"shorthand_property_identifier", "shorthand_property_identifier_pattern"}:
            yield one.text(), one.range().start.index, one
        key, value = one.field("key"), one.field("value")
        if one.kind() in {"pair", "pair_pattern"} and key is not None and value is not None:
            text = string(key)
            if text is not None:
                yield text.value, text.at(0), value
            elif key.kind() == "property_identifier":
                yield key.text(), key.range().start.index, value
        if one.kind() == "object_assignment_pattern" and (left := one.field("left")) is not None:
            yield left.text(), left.range().start.index, left


@dataclass
class Text:
    """What a string says, and where in the source each part of it stands."""

    value: str = ""
    _parts: list[tuple[int, int]] = field(default_factory=list)

    def add(self, text: str, at: int) -> None:
        self._parts.append((len(self.value), at))
        self.value += text

    def at(self, offset: int) -> int:
        """Where in the source a character of the text stands."""
        start, source = next((part for part in reversed(self._parts) if part[0] <= offset), (0, 0))
        return source + offset - start


def string(node: SgNode, constants: dict[str, str] | None = None) -> Text | None:
    """A string as far as it is known: what is put into it is a constant of the file, or stands as `_x`."""
    node = unwrapped(node)
    if node.kind() not in STRINGS:
        return None
    text = Text()
    for part in _parts(node):
        at = part.range().start.index
        if part.kind() in {"string_fragment", "string_content", "escape_sequence"}:
            text.add(part.text(), at)
        else:
            inner = part.named_children()
            known = (constants or {}).get(inner[0].text()) if inner else None
            text.add("_x" if known is None else known, at)
    if not text.value:
        text.add("", node.range().start.index + 1)
    return text


def _parts(node: SgNode) -> Iterator[SgNode]:
    for child in node.named_children():
        if node.kind() == "concatenated_string" and child.kind() == "string":
            yield from _parts(child)
        elif child.kind() in {
            "string_fragment",
            "string_content",
            "escape_sequence",
            "template_substitution",
            "interpolation",
        }:
            yield child


def functions(call: SgNode) -> Iterator[SgNode]:
    """The functions that a call is handed."""
    return (one for one in map(unwrapped, arguments(call)) if one.kind() in FUNCTIONS)


def parameters(function: SgNode) -> list[SgNode]:
    """What a function calls its arguments: names and patterns."""
    single = function.field("parameter")
    given = function.field("parameters")
    several = [single] if single is not None else given.named_children() if given is not None else []
    return [one.field("pattern") or one for one in several if one.kind() != "comment"]


def every(node: SgNode, *kinds: str) -> Iterator[SgNode]:
    """A node and all below it that are of these kinds, in order. Not ast-grep's search, which knows the kinds of one language only."""
    if node.kind() in kinds:
        yield node
    for child in node.named_children():
        yield from every(child, *kinds)
