"""What is counted of policies, held against what the migration's file expects."""

from __future__ import annotations

from typing import Any

import pytest

from backfilld.migrations.file.operations import Expect
from backfilld.migrations.policies.results import Counted
from backfilld.migrations.record.states import Phase

FAILS = "22P02: invalid input"


def counted(**given: Any) -> Counted:  # Any: fields of Counted
    return Counted(phase=Phase.SWITCH, relation="jobs", persona="ann", command="select", **given)


@pytest.mark.parametrize(
    ("expect", "found", "said"),
    [
        ({}, counted(gained=1), "ann sees 1 row of jobs that it could not before"),
        ({"gained": 11}, counted(gained=12), "ann sees 12 rows of jobs that it could not before"),
        ({"gained": 12}, counted(gained=12), ""),
        ({"gained": "any"}, counted(gained=10_000), ""),
        ({}, counted(lost=5), ""),
        ({"lost": 0}, counted(lost=1000), "ann sees 1,000 rows of jobs fewer than before"),
        ({"lost": 5}, counted(lost=5), ""),
        ({"gained": "any"}, counted(error_then=FAILS), f"statements of ann on jobs fail ({FAILS})"),
        ({"gained": "any"}, counted(error_then=FAILS, error_now=FAILS), ""),
        ({"gained": "any"}, counted(error_now=FAILS), ""),
    ],
)
def test_what_nobody_expects_is_said(expect: dict[str, Any], found: Counted, said: str) -> None:
    assert found.unexpected(Expect.model_validate(expect)) == said


def test_a_few_rows_are_named_by_their_keys() -> None:
    gained = counted(gained=7, gained_keys=tuple((str(n), "a, b") for n in range(7)), lost=1, lost_keys=(("9", "c"),))
    assert (
        gained.examples(gained.unexpected(Expect()))
        == " (such as (0, a, b), (1, a, b), (2, a, b), (3, a, b), (4, a, b))"
    )
    assert gained.examples(gained.unexpected(Expect(gained="any", lost=0))) == " ((9, c))"
    assert counted(gained=1).examples("ann sees 1 row") == "", "its keys are gone with the retention"
