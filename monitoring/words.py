"""Words and numbers: how a count, a time, a size or a name reads, in every text.

Names and messages come from databases and files, so `safe` shows them as they are and never sends them raw to a terminal; `redact` takes passwords out of them.
"""

from __future__ import annotations

import math
import re
from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

#: The password of a URL, up to the last @ of the word: one that its owner forgot to escape may hold any of :/?#@ itself.
#: Hides too much of `http://host:80/a@b`, and that is the better mistake.
_IN_URL = re.compile(r"(?<=://)([^\s/?#@:]*):\S*@")
#: `password=…` of a libpq connection string or of a URL's query.
_IN_CONNINFO = re.compile(r"(?i)\b((?:ssl)?password=)('(?:[^'\\]|\\.)*'|[^\s&\"',]+)")


def safe(value: object) -> str:
    """Text of a user's on one line, with nothing in it that a terminal would obey."""
    return "".join(
        c if c.isprintable() else " " if c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in str(value)
    )


def number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def counted(value: float, what: str, several: str | None = None) -> str:
    """`1 row`, `2,000 rows`; `several` where an s is not enough."""
    return f"{number(value)} {what if value == 1 else several or what + 's'}"


def rows_left(rows: int, keys: Sequence[Sequence[str]]) -> str:
    """Rows that a rollback did not touch, by the keys of the first."""
    named = "; ".join(", ".join(key) for key in keys)
    more = ", …" if rows > len(keys) else ""
    were = counted(rows, "row was written or removed since and is", "rows were written or removed since and are")
    return f"{were} left as found: {named}{more}"


def duration(seconds: float | None) -> str:
    """Two units at most: 44 s, 3 min 20 s, 2 h 05 min, 3 d 4 h."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def size(amount: float | None) -> str:
    """Bytes in PostgreSQL's own units, as `pg_size_pretty` and its settings have them: 1 kB is 1024 bytes."""
    if amount is None:
        return "?"
    value = float(amount)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1024:
            return f"{value:.1f} {unit}" if 0 < value < 10 and unit != "B" else f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"


def figure(value: float) -> str:
    """A measured value in three figures, and large ones without an exponent."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def moment(at: datetime) -> str:
    """A moment in UTC, whatever the time zone of the server that told it."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def redact(text: str) -> str:
    """`text` without the passwords of URLs and connection strings."""
    return _IN_CONNINFO.sub(r"\1***", _IN_URL.sub(r"\1:***@", text))


def sentence(text: str) -> str:
    """The text with a full stop, unless it ends like a sentence already: a reason may be a question."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def signal_name(name: str) -> str:
    """A load signal without its unit, which its values have: `replica lag`."""
    return safe(re.sub(r"(_bytes)?(_per_second)?$|_seconds$", "", name).replace("_", " "))


def signal_value(name: str, value: float) -> str:
    """A value of a load signal, in the unit that its name ends in."""
    if not math.isfinite(value):
        return figure(value)
    if "_bytes" in name:
        return size(value) + ("/s" if name.endswith("_per_second") else "")
    if name.endswith("_seconds"):
        return duration(value) if abs(value) >= 600 else f"{figure(value)} s"
    return figure(value)
