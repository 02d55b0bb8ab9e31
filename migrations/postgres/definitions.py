"""Parts of a table as PostgreSQL itself writes them, from which they can be made again. Kept with a run, as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class KeyColumn:
    """One column of the key a table is walked by, with its type as PostgreSQL writes it."""

    name: str
    type: str


#: In place of a key, where a table has none: where a row is. It names a row until that is written, and no table has a column called so.
PLACE = (KeyColumn(name="ctid", type="tid"),)


@dataclass(frozen=True, kw_only=True)
class IndexDefinition:
    """An index, in the words in which PostgreSQL itself writes it under an empty search_path."""

    #: In the schema of its table.
    name: str
    unique: bool
    #: From USING to the end: the access method, columns and expressions, INCLUDE, WITH, WHERE.
    rest: str
    #: What it orders by, each column or expression as an operand.
    keys: tuple[str, ...]
    #: Its condition; empty when it holds all rows.
    where: str = ""
    #: Empty for the database's own.
    tablespace: str = ""
    comment: str = ""

    def same_as(self, other: IndexDefinition | None) -> bool:
        """Whether both are the same for every statement that uses them."""
        return other is not None and (self.name, self.unique, self.rest) == (other.name, other.unique, other.rest)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "keys": tuple(value["keys"])})


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """A constraint, in the words in which PostgreSQL itself writes it under an empty search_path."""

    name: str
    definition: str
    #: Whether it was proved for all rows.
    valid: bool = True


@dataclass(frozen=True, kw_only=True)
class Grant:
    """A privilege on a table or a column."""

    privilege: str
    #: As a statement names it: a role, quoted by PostgreSQL where it must be, or PUBLIC.
    grantee: str
    #: WITH GRANT OPTION.
    grantable: bool
