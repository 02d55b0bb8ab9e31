"""Which partitions a table gets: every value has exactly one, and there are as many ahead as the file says."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from backfilld.migrations.file.operations.partitioning import PartitionBy
from backfilld.migrations.operations.rebuild.partitions import partitions, ranges


def by(**keys: Any) -> PartitionBy:
    return PartitionBy.model_validate({"range": "at", **keys})


@pytest.mark.parametrize(
    ("every", "begins", "ahead", "reaches", "names"),
    [
        ("1 month", "2023-11-01", 2, date(2024, 1, 31), ["2023_11", "2023_12", "2024_01", "2024_02", "2024_03"]),
        ("3 months", "2023-12-01", 1, date(2024, 1, 1), ["2023_12", "2024_03"]),
        ("1 year", "2024-01-01", 1, date(2024, 6, 1), ["2024", "2025"]),
        ("2 weeks", "2024-01-01", 1, date(2024, 1, 15), ["2024_01_01", "2024_01_15", "2024_01_29"]),
        ("1 day", "2024-02-28", 1, date(2024, 2, 29), ["2024_02_28", "2024_02_29", "2024_03_01"]),
        ("1 month", "2025-01-01", 2, date(2024, 1, 1), ["2025_01", "2025_02"]),
        (1000, 1, 3, 1000, ["0", "1", "2", "3"]),
        (1000, 0, 1, 1000, ["0", "1", "2"]),
    ],
)
def test_ranges_follow_one_another_and_reach_ahead(
    every: str | int, begins: str | int, ahead: int, reaches: date | int, names: list[str]
) -> None:
    found = list(ranges(by(every=every, ahead=ahead, **{"from": begins}), reaches=reaches))
    assert [name for name, _, _ in found] == names
    assert [end for _, _, end in found[:-1]] == [begin for _, begin, _ in found[1:]]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"range": "at", "every": "1 month", "from": "2024-01-31"}, "day 31"),
        ({"range": "at", "every": "1 month", "from": 3}, "one kind"),
        ({"range": "at", "every": "a while", "from": "2024-01-01"}, "span of time"),
        ({"range": "at"}, "needs `every`"),
        ({"range": "at", "hash": "id", "every": "1 day", "from": "2024-01-01"}, "one of"),
        ({"hash": "id", "ahead": 5}, "belongs to `range`"),
        ({"list": "s", "values": {"a": ["x"], "b": ["x"]}}, "in a and in b"),
    ],
)
def test_what_makes_no_partitions_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartitionBy.model_validate(keys)


def test_names_are_cut_and_values_quoted() -> None:
    found = partitions(
        PartitionBy.model_validate({"list": "status", "values": {"open": ["it's", 3]}}), "ä" * 40, reaches=0
    )
    assert found == (("ä" * 29 + "_open", "FOR VALUES IN ('it''s', 3)"), ("ä" * 27 + "_default", "DEFAULT"))
    hashed = partitions(PartitionBy.model_validate({"hash": "id", "partitions": 2}), "t", reaches=0)
    assert [name for name, _ in hashed] == ["t_0", "t_1"]
