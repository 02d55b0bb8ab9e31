"""How many numbers a key has left, in words."""

from __future__ import annotations

import pytest

from backfilld.migrations.planning.checks.numbers import NumbersLeft

LAST = 2**31 - 1
USED = {"last": LAST - 1_000_000, "increment": 1, "max": 2**63 - 1, "cycles": False, "rows_a_day": None}
WHERE = {"operation": 0, "table": "orders", "column": "id"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "the sequence of id is at 2146483647 of 2147483647: 0 % of the integer numbers are left"),
        ({"rows_a_day": 20_000.0}, "enough for 50 days at 20,000 INSERTs a day"),
        ({"rows_a_day": 20_000.0, "increment": 2}, "enough for 25 days at 20,000 INSERTs a day"),
        ({"last": None}, "at 0 of 2147483647: 100 %"),
        ({"last": LAST + 1}, "0 % of the integer numbers are left"),
    ],
)
def test_what_is_left_of_a_type(more: dict[str, object], words: str) -> None:
    """By the type, though the sequence itself goes further; by days where the server knows how many rows come."""
    assert words in str(NumbersLeft.of({**USED, **more}, "integer", **WHERE))


@pytest.mark.parametrize("more", [{"cycles": True}, {"increment": -1}])
def test_numbers_that_do_not_end_there_are_not_told(more: dict[str, object]) -> None:
    assert NumbersLeft.of({**USED, **more}, "integer", **WHERE) is None
