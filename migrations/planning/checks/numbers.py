"""How many numbers are left of a column that a sequence fills, and for how long at the present rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backfilld.migrations.postgres.column_parts import INTEGERS
from backfilld.migrations.postgres.dependents import ids_used

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.migrations.planning.checks.findings import Case

#: Below one a day the days are beyond everybody's plans.
_LEAST_A_DAY = 1.0


@dataclass(frozen=True, kw_only=True)
class NumbersLeft:
    """What is left of the numbers of a column's type, or of its sequence."""

    #: The operation, by its number in the file.
    operation: int
    table: str
    column: str
    #: The type that it has before the run.
    type: str
    #: The number that was given last, and the greatest there is.
    last: int
    most: int
    #: INSERTs a day on the average since the statistics began; None where they are younger than an hour.
    rows_a_day: float | None
    #: For how many days the numbers last at that rate; None where nothing tells.
    days: float | None

    @classmethod
    def of(
        cls, used: Mapping[str, Any], type_: str, **where: Any
    ) -> NumbersLeft | None:  # Any: a row, and the fields of its place
        """None where the numbers do not end: they begin again, or go down."""
        if used["increment"] < 0 or used["cycles"]:
            return None
        last, most = used["last"] or 0, min(used["max"], INTEGERS[type_][1])
        a_day = used["rows_a_day"]
        days = max(most - last, 0) / used["increment"] / a_day if a_day is not None and a_day >= _LEAST_A_DAY else None
        return cls(type=type_, last=last, most=most, rows_a_day=a_day, days=days, **where)

    @property
    def percent(self) -> int:
        return 100 * max(self.most - self.last, 0) // self.most

    def __str__(self) -> str:
        words = f"the sequence of {self.column} is at {self.last} of {self.most}: {self.percent} % of the {self.type} numbers are left"
        if self.days is not None:
            words += f", enough for {self.days:,.0f} days at {self.rows_a_day:,.0f} INSERTs a day, the average since the statistics began"
        return words


def tell(case: Case, column: str, type_: str) -> NumbersLeft | None:
    """Put down what is left of a column's numbers; None, and nothing, for one of another type or without a sequence."""
    if type_ not in INTEGERS or (used := ids_used(case.connection, case.table.name, column)) is None:
        return None
    found = NumbersLeft.of(used, type_, operation=case.number, table=str(case.table.name), column=column)
    if found is not None:
        case.found.numbers.append(found)
    return found
