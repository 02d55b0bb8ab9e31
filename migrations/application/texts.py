"""What of a text that the application sends PostgreSQL plans, told by its words. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from backfilld.migrations.postgres.statements import Unclosed, split

if TYPE_CHECKING:
    from backfilld.migrations.postgres.statements import SqlStatement

_PLANNED = frozenset({"SELECT", "WITH", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES", "TABLE", "("})
_OF_COPY = " LIMIT 0 /* COPY */"
_COMMAND = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:COPY\s+(?:BINARY\s+)?[^\s(]|LOCK\s|TRUNCATE\s)", re.IGNORECASE | re.DOTALL
)
#: What stands before a statement in one that is not planned itself, by its words with one blank between.
_HEADS = re.compile(
    r"(DECLARE \S+ (BINARY |INSENSITIVE |ASENSITIVE |SCROLL |NO )*CURSOR (WITH HOLD |WITHOUT HOLD )?FOR"
    r"|PREPARE \S+ (\( .*? \) )?AS|CREATE ((GLOBAL|LOCAL|TEMP|TEMPORARY|UNLOGGED) )*TABLE (IF NOT EXISTS )?\S+( \. \S+)? AS"
    r"|EXPLAIN( \( .*? \))?( ANALYZE)?( VERBOSE)?|(?P<inside>COPY \())(?= (SELECT|WITH|INSERT|UPDATE|DELETE|MERGE|VALUES|TABLE)\b)"
)


def is_command(text: str) -> bool:
    """Whether a text is a COPY of a table, a LOCK or a TRUNCATE."""
    return _COMMAND.match(text) is not None


def bindable(text: str) -> str | None:
    """The part of a statement that is planned: without DECLARE … FOR and the like; None for a statement that has none.

    Of COPY with a list of columns a SELECT of these, which no row is read for.
    """
    try:
        statements = split(text)
    except Unclosed:
        return None
    if len(statements) != 1:
        return None
    (statement,) = statements
    first = statement.tokens[0]
    if (first.word or first.text) in _PLANNED:
        return statement.text
    if first.word == "COPY" and (columns := _columns_of_copy(statement)) is not None:
        return columns
    head = _HEADS.match(statement.bare)
    if head is None:
        return None
    after = len(head.group().split())
    within, inside = statement.tokens[after], head["inside"] is not None
    return statement.text[within.start : _closing(statement, after) if inside else None]


def is_of_copy(text: str) -> bool:
    """Whether a text is the SELECT that stands for a COPY: what `pg_stat_statements` counts is then known by its text alone."""
    return text.endswith(_OF_COPY)


def _columns_of_copy(statement: SqlStatement) -> str | None:
    tokens = statement.tokens
    names = 1
    while names < len(tokens) and tokens[names].text != "(" and tokens[names].word not in {"FROM", "TO"}:
        names += 1
    end = _closing(statement, names + 1) if names < len(tokens) and tokens[names].text == "(" else None
    if names == 1 or end is None:
        return None
    table = statement.text[tokens[1].start : tokens[names].start].strip()
    columns = statement.text[tokens[names].start + 1 : end].strip()
    return f"SELECT {columns} FROM {table}{_OF_COPY}"  # noqa: S608 - pieces of a statement that the application sends


def _closing(statement: SqlStatement, number: int) -> int | None:
    """Where the parenthesis is closed that is open before this token."""
    depth = 1
    for token in statement.tokens[number:]:
        depth += {"(": 1, ")": -1}.get(token.text, 0) if token.kind == "sign" else 0
        if depth == 0:
            return token.start
    return None
