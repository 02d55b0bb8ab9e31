"""How a table that is made anew is cut into partitions."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from backfilld.migrations.file.fields import FileModel, Name
from backfilld.migrations.identifiers import Wrong

#: A range of time.
EVERY = re.compile(r"(?P<number>[1-9]\d{0,3}) (?P<unit>day|week|month|year)s?")
#: More partitions than these make planning slow, and the switch long.
MOST_PARTITIONS = 1000
_LAST_DAY = 28


#: In JSON a date is a text.
Day = Annotated[date, Field(strict=False)]


def _check_every(value: str | int) -> str | int:
    if isinstance(value, str) and EVERY.fullmatch(value) is None:
        raise Wrong(
            "it is neither a whole number nor a span of time", "Write it as `1 month`, `1 week`, `1 day`, or `1000000`."
        )
    if isinstance(value, int) and (isinstance(value, bool) or value < 1):
        raise Wrong("it is not above 0", "Write how many values one partition holds.")
    return value


def _only_a_day(value: date | int) -> date | int:
    return value.date() if isinstance(value, datetime) else value


class PartitionBy(FileModel):
    """By what a table is partitioned, and which partitions it has; rows without one go to a default partition."""

    range: Name | None = Field(
        default=None,
        description="The column whose ranges the partitions are: of dates, times or integers.",
        examples=["created_at"],
    )
    every: Annotated[str | int, AfterValidator(_check_every)] | None = Field(
        default=None,
        description="`range`: how much one partition holds: `1 day`, `1 week`, `1 month`, `1 year`, or a number of integers.",
        examples=["1 month"],
    )
    from_: Annotated[Day | int, AfterValidator(_only_a_day)] | None = Field(
        default=None,
        alias="from",
        description="`range`: where the first partition begins. Times are UTC. What is before it goes to the default partition.",
        examples=["2024-01-01"],
    )
    ahead: int = Field(
        default=3,
        ge=1,
        le=100,
        description="`range`: partitions beyond the present one, or beyond the greatest value.",
        examples=[3],
    )
    list: Name | None = Field(
        default=None, description="The column whose values say the partition.", examples=["status"]
    )
    values: Annotated[
        dict[Name, Annotated[tuple[str | int, ...], Field(min_length=1, strict=False)]], Field(strict=False)
    ] = Field(
        default={},
        description="`list`: the partitions by a name, which follows that of the table, each with its values.",
        examples=[{"open": ["new", "paid"], "closed": ["sent"]}],
    )
    hash: Name | None = Field(
        default=None, description="The column whose hash says the partition.", examples=["customer_id"]
    )
    partitions: int = Field(
        default=8, ge=2, le=MOST_PARTITIONS, description="`hash`: how many there are.", examples=[8]
    )

    @property
    def column(self) -> str:
        """The partition key."""
        return self.range or self.list or self.hash or ""

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if [self.range, self.list, self.hash].count(None) != 2:
            raise Wrong("give one of `range`, `list` and `hash`", "Name the column by which the table is partitioned.")
        needed = {"range": ("every", "from_"), "list": ("values",), "hash": ()}
        ours = "range" if self.range else "list" if self.list else "hash"
        for name in needed[ours]:
            if not getattr(self, name) and getattr(self, name) != 0:
                raise Wrong(f"`{ours}` needs `{name.rstrip('_')}`", f"Add `{name.rstrip('_')}`.")
        for kind, names in ({**needed, "range": ("every", "from_", "ahead"), "hash": ("partitions",)}).items():
            for name in names if kind != ours else ():
                # A stored definition has every key.
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise Wrong(f"`{name.rstrip('_')}` belongs to `{kind}`", "Remove it.", at=(name.rstrip("_"),))
        if self.range and isinstance(self.every, int) != isinstance(self.from_, int):
            raise Wrong(
                "`every` and `from` are not of one kind",
                "Write two whole numbers, or a span of time and a date.",
                at=("from",),
            )
        if (
            isinstance(self.from_, date)
            and self.from_.day > _LAST_DAY
            and str(self.every).rstrip("s").endswith(("month", "year"))
        ):
            raise Wrong(f"not every month has a day {self.from_.day}", "Begin on a day from 1 to 28.", at=("from",))
        self._check_values()
        return self

    def _check_values(self) -> None:
        seen: dict[str | int, str] = {}
        for name, values in self.values.items():
            for value in values:
                if value in seen:
                    raise Wrong(
                        f"{value!r} is in {seen[value]} and in {name}",
                        "Remove it from one of them.",
                        at=("values", name),
                    )
                seen[value] = name
