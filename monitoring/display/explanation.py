"""What a run waits for in sentences, and what would let it continue, with the commands to type."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from backfilld.monitoring.words import safe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

#: From the name of the program to the end of the text: what a person can type.
_COMMAND = re.compile(r"\bbackfilld [a-z].*$")


def explanation(title: str, sentences: Sequence[str], remedies: Sequence[str]) -> RenderableType:
    """A heading, the sentences, and below them what helps; commands are green."""
    parts: list[RenderableType] = [Text(safe(title), style="bold"), *(Text(safe(one)) for one in sentences)]
    if remedies:
        table = Table.grid(padding=(0, 1))
        table.add_column(style="green", no_wrap=True)
        table.add_column(overflow="fold")
        for one in remedies:
            table.add_row(">", remedy(one))
        parts += [Text(), Text("What helps", style="bold"), table]
    return Group(*parts)


def remedy(text: str) -> Text:
    """A remedy with its command in green."""
    told = Text(safe(text))
    told.highlight_regex(_COMMAND, style="green")
    return told
