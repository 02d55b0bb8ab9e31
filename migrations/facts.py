"""What preflight learned of the database and the walk depends on, kept with the run.

The meaning of a cursor depends on the key it was made for, so the key is chosen once and written down.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class KeyColumn:
    """One column of the key a table is walked by, with its type as PostgreSQL writes it."""

    name: str
    type: str


@dataclass(frozen=True, kw_only=True)
class Target:
    """A column that is written, and how to tell whether it holds the right value."""

    column: str
    type: str
    #: Compare as text: the type has no equality, or one that takes different values for the same.
    as_text: bool = False
    #: The type without a domain and a limit of length, so that text cast to it is never cut; empty where nothing is cast.
    plain_type: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one operation."""

    #: The table, in the notation of migration files.
    relation: str
    #: The key that is walked, or by which rows are named; empty when there is none.
    key: tuple[KeyColumn, ...] = ()
    targets: tuple[Target, ...] = ()
    #: The columns that a Python function is handed beside the key.
    reads: tuple[str, ...] = ()
    #: Whether writing the values again would give the same values, so that rows may be looked at twice.
    repeatable: bool = True
    #: Why not, in words for people; empty when repeatable.
    once_because: str = ""
    #: Why the table has to be walked by its key, in words for people; empty when it may be walked by pages.
    keys_because: str = ""
    #: The condition reads a column that is set, so that it can be false for a row that is done.
    condition_may_end: bool = False
    #: The column is there already, left by a cancelled run of the same name.
    adopts: bool = False
    #: Adding the column with its default fills every row at once, without a rewrite.
    default_fills: bool = False
    #: The columns that a CHECK is about; empty when that cannot be told.
    rule_columns: tuple[str, ...] = ()
    #: The columns that a foreign key refers to, and the operators (`OPERATOR(schema.=)`) that compare them with its own.
    referenced: tuple[str, ...] = ()
    equalities: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            **{
                "keys_because": "it was enqueued by an earlier release",
                **value,
                "key": tuple(KeyColumn(**column) for column in value["key"]),
                "targets": tuple(Target(**target) for target in value["targets"]),
                **{name: tuple(value.get(name, ())) for name in ("reads", "rule_columns", "referenced", "equalities")},
            }
        )
