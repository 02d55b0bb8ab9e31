"""Tables and columns in types: what `supabase gen types` writes, `Tables<"jobs">["status"]`, and what is made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.producers.code.finds import Named
from backfilld.producers.code.syntax import every, string

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ast_grep_py import SgNode

_OF_TABLES = frozenset({"Tables", "TablesInsert", "TablesUpdate"})
_OF_KEYS = frozenset({"Pick", "Omit"})
_SHAPES = frozenset({"Row", "Insert", "Update"})


def aliases(root: SgNode) -> dict[str, str]:
    """The names that a file gives to the rows of tables: `type Job = Tables<"jobs">`."""
    found: dict[str, str] = {}
    for one in every(root, "type_alias_declaration"):
        name, value = one.field("name"), one.field("value")
        if name is not None and value is not None and (of := table(value, found)) is not None:
            found[name.text()] = of
    return found


def table(node: SgNode, known: dict[str, str]) -> str | None:
    """The table whose rows a type is about, be they one or many; None for other types."""
    match node.kind():
        case "type_identifier":
            return known.get(node.text())
        case "generic_type":
            name, given = _generic(node)
            if name in _OF_TABLES and given:
                text = _literal(given[0])
                return text[0] if text is not None else None
            return table(given[0], known) if given else None  # Partial<Job>, Array<Job>, Pick<Job, …>
        case "lookup_type":
            found = _looked_up(node, known)
            return found[0][0] if found is not None and found[1] is None else None
        case (
            "array_type"
            | "type_annotation"
            | "parenthesized_type"
            | "union_type"
            | "readonly_type"
            | "intersection_type"
        ):
            each = (table(one, known) for one in node.named_children())
            return next((one for one in each if one is not None), None)
        case _:
            return None


def named(node: SgNode, known: dict[str, str]) -> Iterator[Named]:
    """The table and the columns that a type names itself."""
    if node.kind() == "lookup_type":
        found = _looked_up(node, known)
        if found is not None:
            (of, at), column = found
            if at is not None:
                yield Named(at=at, schema=None, table=of, column=None, how="type")
            if column is not None:
                yield Named(at=column[1], schema=None, table=of, column=column[0], how="type")
        return
    name, given = _generic(node)
    if name in _OF_TABLES and given and (text := _literal(given[0])) is not None:
        yield Named(at=text[1], schema=None, table=text[0], column=None, how="type")
    if name in _OF_KEYS and len(given) > 1 and (of_table := table(given[0], known)) is not None:
        for literal in every(given[1], "literal_type"):
            if (text := _literal(literal)) is not None:
                yield Named(at=text[1], schema=None, table=of_table, column=text[0], how="type")


def _generic(node: SgNode) -> tuple[str, list[SgNode]]:
    children = node.named_children()
    given = next((one.named_children() for one in children if one.kind() == "type_arguments"), [])
    return (children[0].text() if children else ""), given


def _literal(node: SgNode) -> tuple[str, int] | None:
    text = string(node.named_children()[0]) if node.kind() == "literal_type" and node.named_children() else None
    return (text.value, text.at(0)) if text is not None else None


def _looked_up(node: SgNode, known: dict[str, str]) -> tuple[tuple[str, int | None], tuple[str, int] | None] | None:
    """`Database["public"]["Tables"]["jobs"]["Row"]["status"]`: the table and where it stands, and the column if one is named."""
    keys: list[tuple[str, int]] = []
    base = node
    while base.kind() == "lookup_type":
        inner, key = base.named_children()[:2]
        text = _literal(key)
        if text is None:
            return None
        keys.insert(0, text)
        base = inner
    of: tuple[str, int | None]
    if (by_type := table(base, known)) is not None:
        of = (by_type, None)
    else:
        names = [name for name, _ in keys]
        if "Tables" not in names[:-1]:
            return None
        number = names.index("Tables") + 1
        of, keys = keys[number], keys[number + 1 :]
    if keys and keys[0][0] in _SHAPES:
        keys = keys[1:]
    return of, (keys[0] if keys else None)
