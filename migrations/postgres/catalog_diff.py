"""A table's entry in the catalog as a set of lines, and what one line more or less means.

A switch renames and replaces; whatever it was not asked to change must be there afterwards as it was before. The lines are read
before and after, in the switch's own transaction, so that a grant or a policy that is lost undoes the switch itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "catalog_diff")

#: Names that only we give: what we add to a table and take from it is no loss.
_OURS = ("backfilld_", "~backfilld_")
#: What a column with another type may have otherwise, under its own name.
_OF_THE_TYPE = frozenset({"column", "default", "column options", "sequence"})
#: What a column has that comes or goes.
_OF_THE_COLUMN = _OF_THE_TYPE | {"not null", "column grant", "column comment"}
_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|[\w$]+|\S""")


@dataclass(frozen=True, kw_only=True)
class AllowedChanges:
    """What an action may change in the catalog entry of its table; all else must be as before, or the action is rolled back.

    Names that begin with `backfilld_` or `~backfilld_` are ours and never compared.
    """

    #: Columns that have another name afterwards, (before, after). For two that change places, both ways.
    renamed: tuple[tuple[str, str], ...] = ()
    #: Columns, by their name afterwards, that have another type. What mentions them must be there, its words may differ.
    retyped: tuple[str, ...] = ()
    #: Columns that come or go.
    columns: tuple[str, ...] = ()
    #: Lines that are not compared, (kind, name) as `catalog_diff.sql` gives them: ("constraint", "jobs_total_check").
    may_differ: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, order=True)
class Line:
    """One property of a table."""

    kind: str
    name: str
    definition: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.kind, self.name, self.definition) if part)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What is not as it was."""

    lost: tuple[Line, ...]
    gained: tuple[Line, ...]

    def __bool__(self) -> bool:
        return bool(self.lost or self.gained)

    def __str__(self) -> str:
        lost = [f"lost: {line}" for line in self.lost]
        return "; ".join(lost + [f"came: {line}" for line in self.gained])


def read(connection: Connection, table: TableName) -> frozenset[Line]:
    """The lines of a table; none when there is no such table. Asks under the transaction's own search_path, which must be ''."""
    row = connection.execute("SELECT to_regclass(%s)::oid::bigint AS oid", [table.identifier.as_string()]).fetchone()
    if row is None or row["oid"] is None:
        return frozenset()
    return frozenset(Line(**line) for line in connection.execute(_SQL["lines"], {"oid": row["oid"]}))


def compare(before: frozenset[Line], after: frozenset[Line], allows: AllowedChanges) -> Difference:
    """What was lost and what came that was not asked for."""
    renamed = dict(allows.renamed)
    left = sorted(line for line in before if _counts(line, allows))
    came = sorted(line for line in after if _counts(line, allows))
    lost = []
    for line in left:
        same = next((other for other in came if _is_same(line, other, renamed, frozenset(allows.retyped))), None)
        if same is None:
            lost.append(line)
        else:
            came.remove(same)
    return Difference(lost=tuple(lost), gained=tuple(came))


def _counts(line: Line, allows: AllowedChanges) -> bool:
    """Whether a line is compared at all."""
    if line.name.startswith(_OURS):
        return False
    if line.kind in _OF_THE_TYPE and line.name in allows.retyped:
        return False
    if line.kind in _OF_THE_COLUMN and line.name in allows.columns:
        return False
    return (line.kind, line.name) not in allows.may_differ


def _is_same(before: Line, after: Line, renamed: Mapping[str, str], retyped: frozenset[str]) -> bool:
    if before.kind != after.kind or after.name not in {before.name, renamed.get(before.name)}:
        return False
    old, new = _tokens(before.definition), _tokens(after.definition)
    if retyped & {_bare(token) for token in new}:
        # Made again over the new type, and so with other casts in it: that it is there is what can be told.
        return True
    return len(old) == len(new) and all(
        _bare(two) in {_bare(one), renamed.get(_bare(one))} for one, two in zip(old, new, strict=True)
    )


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)


def _bare(token: str) -> str:
    return token[1:-1].replace('""', '"') if token.startswith('"') else token
