"""Which partitions a table lacks, and how far those reach that it has."""

from __future__ import annotations

from datetime import date

import pytest

from backfilld.migrations.file.operations.partitioning import PartitionBy
from backfilld.migrations.operations.rebuild.partitions import ahead
from backfilld.migrations.record.partitions import Partition

MONTHS = {"range": "at", "every": "1 month", "from": "2024-01-01", "ahead": 2}
IDS = {"range": "id", "every": 100, "from": 1, "ahead": 2}


def there(*bounds: tuple[str, str]) -> list[Partition]:
    several = [*bounds, (None, None)]
    return [
        Partition(schema="s", name="n", begins=begin, ends=end, options=(), secured=False, tablespace="", method="heap")
        for begin, end in several
    ]


@pytest.mark.parametrize(
    ("by", "bounds", "reaches", "partitions", "until", "missing"),
    [
        pytest.param(MONTHS, [], date(2024, 3, 5), 0, None, ["t_2024_03", "t_2024_04", "t_2024_05"], id="none"),
        pytest.param(
            MONTHS,
            [("'2024-03-01'", "'2024-04-01'"), ("'2024-04-01'", "'2024-05-01'")],
            date(2024, 3, 5),
            1,
            date(2024, 5, 1),
            ["t_2024_05"],
            id="one is missing",
        ),
        pytest.param(
            MONTHS,
            [("'2024-03-01 00:00:00+00'", "'2024-07-01 00:00:00+00'")],
            date(2024, 3, 31),
            2,
            date(2024, 6, 1),
            [],
            id="another's, which is longer",
        ),
        pytest.param(MONTHS, [("MINVALUE", "MAXVALUE")], date(2024, 3, 1), 2, date(2024, 6, 1), [], id="all of it"),
        pytest.param(
            MONTHS,
            [("'2024-03-01 00:00:00'", "'2024-04-01 00:00:00'"), ("'2024-05-01 00:00:00'", "'2024-06-01 00:00:00'")],
            date(2024, 3, 1),
            0,
            date(2024, 4, 1),
            ["t_2024_04"],
            id="a gap",
        ),
        pytest.param(IDS, [("'1'", "'101'"), ("'101'", "'201'")], 150, 0, 201, ["t_2", "t_3"], id="numbers"),
        pytest.param(IDS, [("101", "201"), ("201", "301"), ("301", "401")], 200, 2, 401, [], id="the last of them"),
    ],
)
def test_what_is_missing(
    by: dict[str, object],
    bounds: list[tuple[str, str]],
    reaches: date | int,
    partitions: int,
    until: date | int | None,
    missing: list[str],
) -> None:
    found = ahead(PartitionBy.model_validate(by), "t", there(*bounds), reaches=reaches)
    assert (found.partitions, found.reaches, [one.name for one in found.missing]) == (partitions, until, missing)
