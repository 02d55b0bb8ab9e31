"""PostgreSQL's lexical elements, as far as it takes to tell code from a string, a comment or the body of a function."""

from __future__ import annotations

import re

#: PostgreSQL's lexical elements that may hold a parenthesis or a semicolon which is not one (manual, 4.1). Where this lexer
#: and PostgreSQL's could differ it must see more code, never less: names continue with `$` and with every character beyond
#: ASCII, a carriage return ends a line comment, and an escape string that is continued keeps its backslashes.
LEXEME = re.compile(
    r"""
      (?P<continued> (?<![\w$\x80-\U0010ffff]) [eE]' (?: [^'\\] | '' | \\. )*+ ' (?: \s | -- [^\n\r]* )+ ' )
    | (?P<escaped>   (?<![\w$\x80-\U0010ffff]) [eE]' (?: [^'\\] | '' | \\. )*+ ' )
    | (?P<string>    ' (?: [^'] | '' )*+ ' )
    | (?P<name>      " (?: [^"] | "" )*+ " )
    | (?P<dollar>    (?<![\w$\x80-\U0010ffff])
                     \$ (?P<tag> [A-Za-z_\x80-\U0010ffff] [A-Za-z_0-9\x80-\U0010ffff]* )? \$ .*? \$ (?(tag)(?P=tag)) \$ )
    | (?P<line>      -- [^\n\r]* )
    | (?P<block>     /\* )
    | (?P<open>      [(\[] )
    | (?P<close>     [)\]] )
    | (?P<semicolon> ; )
    | (?P<broken>    ['"] )
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK_EDGE = re.compile(r"/\*|\*/")


def self_containment_problem(expression: str) -> str | None:
    """Why a text is not one self-contained operand, or None when it is.

    In parentheses that are balanced at every point, the grammar leaves room for nothing but an operand: not for a second
    statement, not for a clause of ours to be closed and another opened.
    """
    depth, position = 0, 0
    while match := LEXEME.search(expression, position):
        position = match.end()
        kind = match.lastgroup if match.lastgroup != "tag" else "dollar"
        if kind == "block":
            end = end_of_comment(expression, position)
            if end is None:
                return "a comment is not closed"
            position = end
        elif kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
            if depth < 0:
                return "a parenthesis is closed without being opened"
        elif kind == "semicolon":
            return "it contains more than one statement"
        elif kind == "broken":
            return "a quote is not closed"
        elif kind == "continued":
            return "an E'…' string continues in another one; write it as one, or join them with ||"
    return "a parenthesis is not closed" if depth else None


#: A name, in quotes or not, alone or behind others and dots; with what stands before and behind it.
_CHAIN = re.compile(
    r"""(?P<cast>::\s*)?(?P<chain>(?:"(?:[^"]|"")*"|[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
        (?:\s*\.\s*(?:"(?:[^"]|"")*"|[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*))*)(?P<call>\s*\()?""",
    re.VERBOSE,
)
_PART = re.compile(r"""\s*\.\s*(?=(?:[^"]*"[^"]*")*[^"]*$)""")


def with_operand(expression: str, column: tuple[str, str, str], operand: str) -> str:
    """An expression over a row in which another operand stands for a column (schema, table, name), however it is qualified.

    Whether the column is really gone from it, PostgreSQL has to be asked: this reads no grammar.
    """
    schema, table, name = column
    ways = ((name,), (table, name), (schema, table, name))

    def replaced(match: re.Match[str]) -> str:
        parts = tuple(
            part[1:-1].replace('""', '"') if part.startswith('"') else part.lower()
            for part in _PART.split(match["chain"])
        )
        if match["cast"] or match["call"] or parts not in ways:
            return match.group()
        return f"({operand})"

    done, position, text = 0, 0, ""
    while match := LEXEME.search(expression, position):
        position = match.end()
        if match.lastgroup in {"open", "close", "semicolon", "name"}:
            continue  # code, as far as names go
        if match.lastgroup == "block":
            position = end_of_comment(expression, position) or len(expression)
        text += _CHAIN.sub(replaced, expression[done : match.start()]) + expression[match.start() : position]
        done = position
    return text + _CHAIN.sub(replaced, expression[done:])


def end_of_comment(text: str, position: int) -> int | None:
    # Comments nest in PostgreSQL.
    depth = 1
    while depth:
        edge = _BLOCK_EDGE.search(text, position)
        if edge is None:
            return None
        depth += 1 if edge.group() == "/*" else -1
        position = edge.end()
    return position
