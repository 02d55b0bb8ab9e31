"""Code of other roles that statements of ours run with our rights: of the tables that they touch, and what expressions call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "foreign_code")


@dataclass(frozen=True, kw_only=True)
class ForeignCode:
    """Something that runs as our role and that a role with fewer rights may change."""

    #: trigger, index, constraint, default, policy, rule, domain, expression or view.
    kind: str
    #: Empty for an expression.
    name: str
    #: Empty for a view.
    function: str
    owner: str

    def runs_as(self, role: str) -> str:
        """In words."""
        if self.kind == "view":
            what = f"an expression reads the view {self.name}"
        elif self.kind == "expression":
            what = f"an expression calls {self.function}"
        else:
            what = f"the {self.kind} {self.name} calls {self.function}"
        return f"{what}, which belongs to the role {self.owner} and runs with the rights of {role}"


@dataclass
class Called:
    """What expressions call and read, by oid."""

    functions: set[int] = field(default_factory=set)
    operators: set[int] = field(default_factory=set)
    relations: set[int] = field(default_factory=set)

    def add(self, other: Called) -> None:
        self.functions |= other.functions
        self.operators |= other.operators
        self.relations |= other.relations


def foreign_code(connection: Connection, tables: Iterable[int], called: Called) -> tuple[ForeignCode, ...]:
    """The code of others that is run where these tables are written and these expressions are evaluated."""
    rows = connection.execute(
        _SQL["foreign_code"],
        {
            "tables": sorted(tables),
            "functions": sorted(called.functions),
            "operators": sorted(called.operators),
            "relations": sorted(called.relations),
        },
    )
    return tuple(ForeignCode(**row) for row in rows)
