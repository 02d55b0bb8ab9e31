"""What is proved, as data: a table, a migration of it, and what each version of the application reads and writes.

A scenario speaks of *fields*, the facts that an application keeps, and says for each version of the application under which
columns it finds and writes them. What the columns must hold is thereby said without any of the product's own expressions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


class Row(dict[str, Any]):
    """The fields of a row, by name. Any: a field has the type it has."""

    def __init__(self, *fields: Any, **named: Any) -> None:
        super().__init__(*fields, **named)
        #: The fields that the application has written since the migration began.
        self.written: set[str] = set()
        #: Whether its key was changed since then.
        self.moved = False


class OneOf(tuple[Any, ...]):
    """Values of which a column may hold any."""

    __slots__ = ()


#: Each holds something that SQL or a placeholder could take for its own.
WORDS = ("open", "in Arbeit", "é%s", "it's", '"quoted\\"')

#: A new value of a field.
Draw = Callable[[random.Random], Any]
#: What a column holds for a row: what the application writes into it, and what it must read.
Shows = Callable[[Row], Any]


def shown(name: str) -> Shows:
    """The column holds the field as it is."""
    return lambda row: row[name]


def word(chance: random.Random) -> str:
    """A text that hardly comes up twice."""
    return f"{chance.choice(WORDS)} {chance.randrange(10**9)}"


def lower_word(chance: random.Random) -> str:
    return word(chance).lower()


def number(chance: random.Random) -> int:
    return chance.randrange(-(10**6), 10**6)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One table, one migration, and an application in two versions."""

    name: str
    #: The table, and whatever is beside it.
    schema: str
    table: str = "items"
    #: The `operations` of the file.
    operations: str
    #: What the application keeps, and how it makes new values.
    fields: Mapping[str, Draw]
    #: Those that it writes with a new row and never again.
    constant: frozenset[str] = frozenset()
    #: How the rows got their values that are there at the beginning, where that is another way.
    first: Mapping[str, Draw] = field(default_factory=dict)
    #: The columns that the application knows before the migration.
    before: Mapping[str, Shows]
    #: The columns that it knows afterwards.
    after: Mapping[str, Shows]
    #: What the columns of `before` may hold between the beginning and the end, where that is not the same.
    meanwhile: Mapping[str, Shows] = field(default_factory=dict)
    #: What they hold once the run is rolled back, where that is not the same.
    back: Mapping[str, Shows] = field(default_factory=dict)
    #: What a person would type who may stop the application for it.
    reference: str = ""
    #: How far a run can be rolled back to what was there before.
    returns: Literal["always", "until contract", "never"] = "always"
    rows: int = 24


_PADDING = "padding text NOT NULL DEFAULT repeat('x', 700)"

ADD_COLUMN = Scenario(
    name="add_column",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text NOT NULL, n integer, {_PADDING});",
    operations='[{add_column: {table: items, column: {name: shout, type: text}, backfill: "upper(status)", not_null: true}}]',
    fields={"status": word, "n": number},
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": shown("n"), "shout": lambda row: row["status"].upper()},
    reference="""
        ALTER TABLE items ADD shout text;
        UPDATE items SET shout = upper(status);
        ALTER TABLE items ALTER shout SET NOT NULL;
    """,
)


def _counted(row: Row) -> Any:  # Any: a number, or one of several
    """A row that was added meanwhile may have been met or not; one whose key was changed, under both keys or none."""
    if row.moved:
        return OneOf(row["n"] + times for times in range(3))
    return OneOf((row["n"], row["n"] + 1)) if "n" in row.written else row["n"] + 1


#: Each row is to be counted up once, and only once: it cannot be told from its values whether it was.
COUNT_UP = Scenario(
    name="backfill_once",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text, n integer NOT NULL, {_PADDING});",
    operations='[{backfill: {table: items, set: {n: "n + 1"}}}]',
    fields={"status": word, "n": number},
    constant=frozenset({"n"}),
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": _counted},
    meanwhile={"n": lambda row: OneOf(row["n"] + times for times in range(3 if row.moved else 2))},
    returns="never",
)

LOWER = Scenario(
    name="backfill_where",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text NOT NULL, n integer, {_PADDING});",
    operations='[{backfill: {table: items, set: {status: "lower(status)"}, where: "status <> lower(status)"}}]',
    fields={"status": lower_word, "n": number},
    first={"status": lambda chance: word(chance).upper()},
    before={"status": shown("status"), "n": shown("n")},
    after={"status": lambda row: row["status"].lower(), "n": shown("n")},
    meanwhile={"status": lambda row: OneOf((row["status"], row["status"].lower()))},
    returns="never",
)

SCENARIOS = {scenario.name: scenario for scenario in (ADD_COLUMN, COUNT_UP, LOWER)}
