"""The figures that a plan opens with."""

from __future__ import annotations

from typing import Literal

import pytest

from backfilld.migrations.planning.plan import PlannedAction
from backfilld.migrations.planning.summary import StrongLocks, of_locks
from backfilld.migrations.postgres.locks import LockMode


def action(lock: LockMode, *, step: int | None, hold: str = "brief", measured: bool = True) -> PlannedAction:
    known: Literal["measured", "by rule"] = "measured" if measured else "by rule"
    return PlannedAction(sql="-", note="", lock=lock, operation=0, step=step, hold=hold, known=known)


ALL, WEAK, ROW = LockMode.ACCESS_EXCLUSIVE, LockMode.SHARE_UPDATE_EXCLUSIVE, LockMode.SHARE_ROW_EXCLUSIVE


@pytest.mark.parametrize(
    ("actions", "found"),
    [
        pytest.param([action(WEAK, step=0), action(LockMode.ROW_EXCLUSIVE, step=None)], [], id="none stops writes"),
        pytest.param(
            [action(ALL, step=0, measured=False), action(ALL, step=0), action(ROW, step=0)],
            [(ALL, "brief", "measured", 1)],
            id="one transaction is one lock, and what is done under it says how it is known",
        ),
        pytest.param(
            [action(ALL, step=0), action(ALL, step=0, hold="unknown", measured=False), action(ALL, step=1)],
            [(ALL, "unknown", "by rule", 1), (ALL, "brief", "measured", 1)],
            id="the longest statement counts, and the worst comes first",
        ),
        pytest.param(
            [action(ROW, step=0), action(ALL, step=1)],
            [(ALL, "brief", "measured", 1), (ROW, "brief", "measured", 1)],
            id="the strongest comes first",
        ),
    ],
)
def test_locks_that_stop_writes_are_counted_by_transaction(
    actions: list[PlannedAction], found: list[tuple[LockMode, str, str, int]]
) -> None:
    assert list(of_locks([actions])) == [
        StrongLocks(lock=lock, hold=hold, known=known, transactions=count) for lock, hold, known, count in found
    ]
