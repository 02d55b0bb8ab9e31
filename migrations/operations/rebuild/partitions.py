"""Which partitions a table gets, each with its name and its bounds. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.file.operations.partitioning import EVERY
from backfilld.migrations.identifiers import NAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.file.operations.partitioning import PartitionBy
    from backfilld.migrations.record.partitions import Partition

#: How the beginning of a partition is written in its name.
_IN_NAMES = {"day": "%Y_%m_%d", "week": "%Y_%m_%d", "month": "%Y_%m", "year": "%Y"}


def partitions(by: PartitionBy, table: str, *, reaches: date | int) -> tuple[tuple[str, str], ...]:
    """The partitions by name, each with what follows PARTITION OF; `reaches` is today, or the greatest value."""
    if by.hash is not None:
        return tuple(
            (_named(table, str(number)), f"FOR VALUES WITH (MODULUS {by.partitions}, REMAINDER {number})")
            for number in range(by.partitions)
        )
    if by.list is not None:
        parts = [
            (name, f"FOR VALUES IN ({', '.join(_literal(value) for value in values)})")
            for name, values in by.values.items()
        ]
    else:
        parts = [
            (name, f"FOR VALUES FROM ({_literal(begin)}) TO ({_literal(end)})")
            for name, begin, end in ranges(by, reaches=reaches)
        ]
    return (*((_named(table, name), bounds) for name, bounds in parts), (_named(table, "default"), "DEFAULT"))


def ranges(by: PartitionBy, *, reaches: date | int) -> Iterator[tuple[str, date | int, date | int]]:
    """The ranges by name, up to `ahead` of them beyond the one that `reaches` is in."""
    begin, beyond = by.from_, 0
    assert begin is not None and by.every is not None  # noqa: S101, PT018 - the file's model has seen to that
    number, wanted = 0, by.ahead + (begin <= reaches)  # type: ignore[operator] # both are dates, or both are numbers
    while beyond < wanted:
        end = _step(by, number + 1)
        yield _in_name(by, begin, number), begin, end
        beyond += end > reaches  # type: ignore[operator] # as above
        begin, number = end, number + 1


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A partition that is to be made."""

    name: str
    begins: date | int
    ends: date | int

    @property
    def bounds(self) -> str:
        return f"FOR VALUES FROM ({_literal(self.begins)}) TO ({_literal(self.ends)})"


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """How far the partitions of a table reach."""

    #: Whole ones beyond the one that rows come into now, up to the first gap.
    partitions: int
    #: Where the last of them ends; None where there is none for the rows of now.
    reaches: date | int | None
    #: Those that are wanted and not there, the present one among them. What has been dropped of the past is not.
    missing: tuple[Missing, ...]


def ahead(by: PartitionBy, table: str, there: Sequence[Partition], *, reaches: date | int) -> Ahead:
    """What is there of the partitions that are wanted, whoever has made them; `reaches` is today, or the greatest value."""
    taken = [(_point(one.begins), _point(one.ends)) for one in there if one.begins is not None and one.ends is not None]
    partitions, until, missing = 0, None, list[Missing]()
    for name, begins, ends in ranges(by, reaches=reaches):
        if _place(ends) <= _place(reaches):
            continue
        if not any(begin < _place(ends) and _place(begins) < end for begin, end in taken):
            missing.append(Missing(name=_named(table, name), begins=begins, ends=ends))
        elif not missing:
            partitions += _place(begins) > _place(reaches)
            until = ends
    return Ahead(partitions=partitions, reaches=until, missing=tuple(missing))


def _place(value: date | int) -> float:
    """A day is its first moment in UTC."""
    return datetime.combine(value, time(), UTC).timestamp() if isinstance(value, date) else value


def _point(bound: str) -> float:
    """A bound as PostgreSQL writes it, in UTC."""
    text = bound.strip("'")
    if text in {"MINVALUE", "-infinity"} or text.endswith("BC"):
        return -math.inf
    if text in {"MAXVALUE", "infinity"}:
        return math.inf
    if text.lstrip("-").isdigit():
        return int(text)
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _step(by: PartitionBy, number: int) -> date | int:
    """Where partition `number` begins."""
    if isinstance(by.every, int) and isinstance(by.from_, int):
        return by.from_ + number * by.every
    found = EVERY.fullmatch(str(by.every))
    assert found is not None and isinstance(by.from_, date)  # noqa: S101, PT018 - as above
    count = number * int(found["number"])
    match found["unit"]:
        case "day" | "week":
            return by.from_ + timedelta(days=count * (7 if found["unit"] == "week" else 1))
        case "month":
            months = by.from_.month - 1 + count
            return by.from_.replace(year=by.from_.year + months // 12, month=months % 12 + 1)
        case _:
            return by.from_.replace(year=by.from_.year + count)


def _in_name(by: PartitionBy, begin: date | int, number: int) -> str:
    found = EVERY.fullmatch(str(by.every))
    return begin.strftime(_IN_NAMES[found["unit"]]) if isinstance(begin, date) and found is not None else str(number)


def _named(table: str, end: str) -> str:
    """The table's name, which is cut where both are longer than a name may be."""
    room = NAME_BYTES - len(f"_{end}".encode())
    return f"{table.encode()[:room].decode(errors='ignore')}_{end}"


def _literal(value: object) -> str:
    return sql.Literal(value.isoformat() if isinstance(value, date) else value).as_string()
