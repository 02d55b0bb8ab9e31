"""No prose as data: what a sentence says is known from a field of its own, so that every sentence can be worded anew."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest
from paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Fields that hold words for people.
WORDS = frozenset({"impact", "note", "words", "reason", "problem", "remedy", "because", "by_rule_because", "summary"})
#: What takes a text apart, or asks what it says.
READS = frozenset(
    {"startswith", "endswith", "removeprefix", "removesuffix", "partition", "rpartition", "split", "find"}
)


def readings(source: str) -> Iterator[tuple[int, str]]:
    """Where a field with words is read for what it says: its line, and the field."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare(ops=operators, comparators=others):
                for operator, other in zip(operators, others, strict=True):
                    if isinstance(operator, ast.In | ast.NotIn) and _is_words(other):
                        yield node.lineno, ast.unparse(other)
            case ast.Call(func=ast.Attribute(value=value, attr=method)) if method in READS and _is_words(value):
                yield node.lineno, ast.unparse(value)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re")), args=[*_, text]) if _is_words(text):
                yield node.lineno, ast.unparse(text)


def _is_words(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in WORDS


def test_no_module_of_the_engine_reads_its_own_sentences() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {field}"
        for path in sorted((ROOT / "migrations").rglob("*.py"))
        for line, field in readings(path.read_text(encoding="utf-8"))
    ]
    assert found == [], "give the fact a field of its own: an enum, a flag, a list"


@pytest.mark.parametrize(
    "source",
    ["'must' in one.impact", "x.note.removeprefix('brief; ')", "re.match('a', x.problem)", "'a' not in f(y).reason"],
)
def test_a_reading_is_noticed(source: str) -> None:
    assert list(readings(source))


@pytest.mark.parametrize("source", ["one.action in KNOWN", "x.impact == ''", "note in notes", "x.name.split('.')"])
def test_what_reads_no_words_passes(source: str) -> None:
    assert list(readings(source)) == []
