"""The parts of the screen: never wider than they may be, and what matters most first."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fix_progress import AT, FAILED, HELD, LANE, RUNNING, WAITING
from rich.console import Console

from backfilld.migrations.file.run_settings import RunSettings
from backfilld.migrations.holds import Cause, Hold
from backfilld.migrations.record.states import State
from backfilld.monitoring.pace import Signal
from backfilld.producers.watch import sections
from backfilld.producers.watch.reading import Detail
from backfilld.producers.watch.runs_table import _columns

if TYPE_CHECKING:
    from rich.console import RenderableType

    from backfilld.migrations.record.model import Lane


def printed(shown: RenderableType, width: int = 60) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def detail(*lanes: Lane) -> Detail:
    return Detail(progress=RUNNING, settings=RunSettings(), lanes=lanes, events=())


def signal(name: str, value: float | None, soft: float | None = 5, hard: float | None = 30) -> Signal:
    return Signal(name=name, value=value, soft=soft, hard=hard)


@pytest.mark.parametrize(
    ("share", "text"), [(0, "────"), (0.125, "╸───"), (0.5, "━━──"), (1, "━━━━"), (7, "━━━━"), (-1, "────")]
)
def test_a_bar_is_as_long_as_it_is_told_to_be(share: float, text: str) -> None:
    assert sections.bar(share, 4, "green").plain == text


@pytest.mark.parametrize("width", [58, 46, 110])
def test_the_parts_stay_within_their_width(width: int) -> None:
    many = [replace(LANE, lane=number, rows_expected=200_000) for number in range(1, 40)]
    signals = [
        signal("archive_backlog_segments", 41),
        signal("slot_retained_bytes", 3e9, 1e9, 8e9),
        signal("own", -5, -9, -1),
    ]
    for shown in (
        sections.heading(HELD),
        sections.numbers(FAILED, width),
        sections.lanes(detail(*many), width),
        sections.signals(signals, width),
    ):
        text = printed(shown, width)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width


def test_signals_stand_by_how_near_they_are_to_their_limit() -> None:
    text = printed(
        sections.signals([signal("calm", 0), signal("loud", 40), signal("blind", None), signal("near", 24)], 60)
    )
    assert [line.split()[0] for line in text.splitlines()] == ["blind", "loud", "near", "calm"]
    assert "unreadable" in text.splitlines()[0]
    assert "40 of 30" in text


def test_of_many_lanes_those_in_trouble_are_shown_and_the_rest_counted() -> None:
    lanes = [replace(LANE, lane=number, rows_expected=200_000) for number in range(1, 30)]
    lanes[28] = replace(lanes[28], attempts=2, last_error={"message": "deadlock [red]"})
    lanes.append(replace(LANE, lane=99, done_at=AT))
    text = printed(sections.lanes(detail(*lanes), 60))
    assert " 29 " in text
    assert "backfill, try 3" in text
    assert "deadlock [red]" in text
    assert "and 13 more" in text
    assert "1 lane done, 123,456 rows" in text
    assert "no walk yet" in printed(sections.lanes(detail(), 60))


def test_what_holds_a_run_is_said_with_how_long_it_does_and_nothing_is_promised() -> None:
    held = replace(HELD, hold=Hold(cause=Cause.LOAD, reason=HELD.hold_reason or "", seconds=41.0), state_seconds=3600)
    assert "held for 41 s" in " ".join(printed(sections.heading(held), 120).split())
    text = printed(sections.numbers(held, 60))
    assert "replica lag 4.2 s, limit 2 s" in text
    assert "left" not in text
    assert "r resumes it" in printed(sections.numbers(FAILED, 60))
    assert "until it is resumed: r" in printed(sections.numbers(replace(RUNNING, state=State.PAUSED), 60))
    assert "backfilld approve jobs-new-field" in " ".join(printed(sections.numbers(WAITING, 60)).split())


@pytest.mark.parametrize("width", [40, 56, 60, 68, 76, 84, 96, 124, 200])
def test_the_columns_of_the_list_fit_and_name_and_state_never_drop_out(width: int) -> None:
    columns = _columns(width)
    assert {"name", "state", "done"} <= set(columns)
    assert sum(columns.values()) + 2 * len(columns) <= max(width, 40)
