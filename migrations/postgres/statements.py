"""The statements of a user's SQL: where one ends and the next begins, what kind each is, and which names stand in it.

PostgreSQL alone parses SQL. This reads only as far as its lexer does, which is enough to tell what is code and what is a string,
a comment or the body of a function.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.postgres.lexer import LEXEME, end_of_comment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import sql

_WORD = re.compile(r"[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*")
#: Kinds of lexeme that count as one value when the words around it are read.
_STRINGS = frozenset({"continued", "escaped", "string", "dollar"})


class Unclosed(ValueError):
    """A quote or a comment is not closed, so it is unknown where a statement ends."""

    def __init__(self, problem: str, *, position: int) -> None:
        super().__init__(problem)
        #: Where what is not closed begins.
        self.position = position


@dataclass(frozen=True)
class Token:
    """A piece of SQL: a `word`, a quoted `name`, a `string`, or a `sign`. Comments are none."""

    kind: str
    text: str
    start: int

    @property
    def word(self) -> str:
        """The word in capitals, as keywords are compared; empty for everything that cannot be a keyword."""
        return self.text.upper() if self.kind == "word" else ""

    @property
    def name(self) -> str | None:
        """The name it stands for, folded as PostgreSQL folds it."""
        if self.kind == "word":
            return self.text.lower()
        return self.text[1:-1].replace('""', '"') if self.kind == "name" else None


@dataclass(frozen=True)
class SqlStatement:
    """One statement of a text."""

    text: str
    #: Where it begins in the whole text.
    start: int
    tokens: tuple[Token, ...]

    @property
    def bare(self) -> str:
        """Its words in capitals with one blank between, without comments and without what strings say."""
        return " ".join({"string": "''"}.get(token.kind, token.word or token.text) for token in self.tokens)

    @property
    def strings(self) -> tuple[str, ...]:
        """What its strings say, bodies in dollar quotes included."""
        return tuple(token.text for token in self.tokens if token.kind == "string")

    @property
    def qualified(self) -> tuple[tuple[int, int, tuple[str, str]], ...]:
        """Names with a schema: where each begins and ends in `text`, and its two parts."""
        found = []
        for number, token in enumerate(self.tokens):
            schema, dot, name = (*self.tokens[number : number + 3], None, None)[:3]
            before = self.tokens[number - 1].text if number else ""
            if schema is None or dot is None or name is None or before == "." or dot.text != ".":
                continue
            if schema.name is not None and name.name is not None:
                end = name.start + len(name.text)
                found.append((token.start, end, (schema.name, name.name)))
        return tuple(found)

    @property
    def own_names(self) -> frozenset[str]:
        """Names that it gives by itself, `WITH jobs AS (…)` or `WINDOW jobs AS (…)`: behind that they are no table's."""
        found = set()
        for number, token in enumerate(self.tokens):
            after = number + 1
            while after < len(self.tokens) and self.tokens[after].word in {"NOT", "MATERIALIZED"}:
                after += 1
            if token.word != "AS" or after >= len(self.tokens) or self.tokens[after].text != "(":
                continue
            before, depth = number - 1, 0
            while before > 0 and (depth or self.tokens[before].text == ")"):
                depth += {")": 1, "(": -1}.get(self.tokens[before].text, 0)
                before -= 1
            if before >= 0 and (name := self.tokens[before].name) is not None:
                found.add(name)
        return frozenset(found)

    def renamed(self, names: Mapping[tuple[str, str], sql.Identifier]) -> str:
        """The text with other names in place of these."""
        text, at = "", 0
        for start, end, name in self.qualified:
            if name in names:
                text += self.text[at:start] + names[name].as_string()
                at = end
        return text + self.text[at:]


def split(text: str) -> tuple[SqlStatement, ...]:
    """The statements of a text, in order. Raises Unclosed.

    A semicolon ends one, except in parentheses and in a function's BEGIN ATOMIC … END, as psql has it.
    """
    statements: list[SqlStatement] = []
    tokens: list[Token] = []
    depth = 0

    def end() -> None:
        if tokens:
            start, last = tokens[0].start, tokens[-1]
            moved = tuple(Token(one.kind, one.text, one.start - start) for one in tokens)
            statements.append(SqlStatement(text[start : last.start + len(last.text)], start, moved))
        tokens.clear()

    for token in _tokens(text):
        if token.text == ";" and token.kind == "sign" and depth == 0 and not _in_body(tokens):
            end()
            continue
        if token.kind == "sign":
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0)
        tokens.append(token)
    end()
    return tuple(statements)


def names(text: str) -> set[tuple[str, str]]:
    """The names with a schema in a text; none where it cannot be read."""
    try:
        return {name for statement in split(text) for _, _, name in statement.qualified}
    except Unclosed:
        return set()


def _in_body(tokens: list[Token]) -> bool:
    """Whether the tokens so far leave a BEGIN ATOMIC open."""
    words = [token.word for token in tokens]
    if words[:1] != ["CREATE"] or not {"FUNCTION", "PROCEDURE"} & set(words[:4]):
        return False
    depth = 0
    for number, word in enumerate(words):
        if (word == "BEGIN" and words[number + 1 : number + 2] == ["ATOMIC"]) or (depth and word == "CASE"):
            depth += 1
        elif depth and word == "END":
            depth -= 1
    return depth > 0


def _tokens(text: str) -> list[Token]:
    found: list[Token] = []
    position = 0
    while position < len(text):
        lexeme, word = LEXEME.match(text, position), _WORD.match(text, position)
        kind = None if lexeme is None else "dollar" if lexeme.lastgroup == "tag" else lexeme.lastgroup
        if kind == "broken":
            raise Unclosed("a quote is not closed", position=position)
        if kind == "block":
            end = end_of_comment(text, position + 2)
            if end is None:
                raise Unclosed("a comment is not closed", position=position)
            position = end
        elif lexeme is not None:
            if kind != "line":
                shown = "string" if kind in _STRINGS else "name" if kind == "name" else "sign"
                found.append(Token(shown, lexeme.group(), position))
            position = lexeme.end()
        elif word is not None:
            found.append(Token("word", word.group(), position))
            position = word.end()
        else:
            if not text[position].isspace():
                found.append(Token("sign", text[position], position))
            position += 1
    return found
