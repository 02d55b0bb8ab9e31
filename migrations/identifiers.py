"""Names of tables and columns as a migration file writes them: exact, never folded to lower case."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from psycopg import sql

#: The one target there is today; messages and reports carry its name, so that more can follow.
TARGET = "default"

#: What PostgreSQL keeps of a name (NAMEDATALEN - 1). It cuts longer ones silently, so that two could become one.
NAME_BYTES = 63

_PART = r'"(?:[^"]|"")*"|[^."]+'
_TABLE = re.compile(rf"(?:(?P<schema>{_PART})\.)?(?P<name>{_PART})")


class Wrong(ValueError):
    """A value breaks a rule of the file format; `at` leads from where it was found to the key that is to blame."""

    def __init__(self, problem: str, remedy: str, at: tuple[str | int, ...] = ()) -> None:
        super().__init__(f"{problem}. {remedy}")
        self.problem = problem
        self.remedy = remedy
        self.at = at


def check_encodable(text: str) -> str:
    """Return the text if PostgreSQL can store it; it has no NUL, and half a surrogate pair is not a character."""
    if "\x00" in text:
        raise Wrong("the text contains a NUL character, which PostgreSQL cannot store", "Remove the \\0.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Wrong("the text contains half a surrogate pair", "Write the character itself, in UTF-8.") from None
    return text


def check_name(name: str) -> str:
    """Return the name if PostgreSQL can hold it whole."""
    if not name:
        raise Wrong("the name is empty", "Write the name as the database has it.")
    size = len(check_encodable(name).encode())
    if size > NAME_BYTES:
        raise Wrong(
            f"the name is {size} bytes long, and PostgreSQL keeps only {NAME_BYTES}",
            f"Write a name of at most {NAME_BYTES} bytes.",
        )
    return name


@dataclass(frozen=True)
class TableName:
    """A table of the target database, always with its schema."""

    schema: str
    name: str

    def __post_init__(self) -> None:
        check_name(self.schema)
        check_name(self.name)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `Order`, `Odd Schema.Order` or `"a.b".c`; raises `Wrong`, a `ValueError`, with the remedy."""
        found = _TABLE.fullmatch(text)
        if found is None:
            raise Wrong(
                f"`{shown(text)}` is not a table name" if text else "the table name is empty",
                "Write `table` or `schema.table`, with double quotes around a part that contains a dot or a quote.",
            )
        return cls(schema=_bare(found["schema"] or "public"), name=_bare(found["name"]))

    @property
    def identifier(self) -> sql.Identifier:
        """The name as it stands in a statement, quoted."""
        return sql.Identifier(self.schema, self.name)

    def __str__(self) -> str:
        """The name as people write it in a file; `parse` reads it back."""
        return _noted(self.name) if self.schema == "public" else f"{_noted(self.schema)}.{_noted(self.name)}"


def sendable(part: sql.Composable) -> sql.SQL:
    """A name or a type as it stands in a statement that is sent with parameters: psycopg would take its `%s` for one."""
    return sql.SQL(part.as_string().replace("%", "%%"))  # quoted already


def shown(text: str) -> str:
    """Text of a user's as a message may hold it: on one line, short, without control characters for the terminal."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:61])
    return f"{safe[:57]}..." if len(safe) > 60 else safe


def _bare(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part


def _noted(part: str) -> str:
    # Blanks at the ends are quoted too: YAML would take them off, and nobody would see them in a message.
    if "." in part or '"' in part or part != part.strip():
        return '"' + part.replace('"', '""') + '"'
    return part
