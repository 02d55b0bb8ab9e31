"""The words of docs/glossary.md are those of the code, and words that were given up for them are gone from code, SQL and pages."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import pytest
from paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TERMS = re.findall(
    r"^\| (?!word |-)([^|]+?) \|", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE
)
PARTS = ("migrations", "worker", "monitoring", "producers")
PAGES = ("README.md", "ARCHITECTURE.md", "docs")

#: Each with the word that came in its place.
RETIRED = {
    r"fates?": "impact",
    r"obstacles?": "rollback check",
    r"conductors?": "coordinator",
    r"ladders?": "lock policy",
    r"lookouts?": "lock watch",
    r"misfits?": "rollback conflicts",
    r"rehears(?:e|es|ed|al|als)": "dry run",
    r"surroundings": "side effects",
    r"attachments?": "column dependents",
    r"twins?": "shadow column",
    r"authority": "primary",
    r"mirrors? (?:column|of)|mirrored": "shadow",
    r"parked": "inactive",
    r"mend(?:s|ed|ing)?": "fix",
}


@cache
def files(*places: str, endings: frozenset[str]) -> tuple[Path, ...]:
    """What is below these places and ends so; a place that is a file is itself one."""
    found = []
    for place in places:
        root = ROOT / place
        inside = sorted(root.rglob("*")) if root.is_dir() else [root] if root.exists() else []
        found += [path for path in inside if path.suffix in endings]
    return tuple(found)


@cache
def text_of(path: Path) -> str:
    """Its words: underscores are spaces, and a capital within a name begins a word."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", path.read_text(encoding="utf-8"))
    return spaced.replace("_", " ").lower()


@cache
def said(*places: str, endings: frozenset[str]) -> str:
    return "\n".join(text_of(path) for path in files(*places, endings=endings))


CODE = frozenset({".py", ".sql"})
TEXT = frozenset({".md"})


def test_the_glossary_has_words() -> None:
    assert len(TERMS) > 40
    assert len(TERMS) == len(set(TERMS))


@pytest.mark.parametrize("term", TERMS)
def test_a_word_of_the_glossary_is_in_the_code(term: str) -> None:
    """As an identifier, in a text or in a comment; a word of its own, or the plural of it."""
    words = re.escape(re.sub(r"[`_-]", " ", term).strip().lower()).replace(r"\ ", r"[\s-]+")
    assert re.search(rf"\b{words}s?\b", said(*PARTS, endings=CODE)), f"nothing in the code is called {term}"


@pytest.mark.parametrize("word", RETIRED)
def test_a_word_that_was_given_up_is_gone(word: str) -> None:
    pattern = re.compile(rf"\b(?:{word})\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in (*files(*PARTS, endings=CODE), *files(*PAGES, *PARTS, endings=TEXT))
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == [], f"say {RETIRED[word]}"
