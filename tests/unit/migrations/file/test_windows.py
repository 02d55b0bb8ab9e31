"""Windows: what a text means, and when it is open, through nights, weekends and changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfilld.migrations.file.windows import DAYS, parse, shut
from backfilld.migrations.identifiers import Wrong

BERLIN = ZoneInfo("Europe/Berlin")

#: Monday, 4 May 2026 and the days after it, in Berlin.
NIGHTS = "Mon-Fri 22:00-06:00 Europe/Berlin"


def berlin(text: str, *, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).astimezone(UTC)


@pytest.mark.parametrize(
    ("window", "now", "is_open"),
    [
        # Over midnight: the night belongs to the day on which it begins.
        (NIGHTS, "2026-05-04T21:59", False),
        (NIGHTS, "2026-05-04T22:00", True),
        (NIGHTS, "2026-05-05T05:59", True),
        (NIGHTS, "2026-05-05T06:00", False),
        (NIGHTS, "2026-05-04T03:00", False),  # of Sunday
        (NIGHTS, "2026-05-09T05:59", True),  # of Friday
        (NIGHTS, "2026-05-09T22:00", False),
        # Lists and ranges of days, one of them over the end of the week
        ("Mon,Wed 10:00-12:00 Europe/Berlin", "2026-05-04T10:00", True),
        ("Mon,Wed 10:00-12:00 Europe/Berlin", "2026-05-05T10:00", False),
        ("Mon,Wed 10:00-12:00 Europe/Berlin", "2026-05-06T11:59", True),
        ("Sat-Mon,Wed 10:00-12:00 Europe/Berlin", "2026-05-10T11:00", True),
        ("Sat-Mon,Wed 10:00-12:00 Europe/Berlin", "2026-05-04T11:00", True),
        ("Sat-Mon,Wed 10:00-12:00 Europe/Berlin", "2026-05-08T11:00", False),
        ("Sun 10:00-12:00 Europe/Berlin", "2026-05-10T11:00", True),
        ("daily 00:00-24:00 Europe/Berlin", "2026-05-07T23:59:59", True),
        ("Mon 00:00-24:00 Europe/Berlin", "2026-05-05T00:00", False),
        ("daily 22:00-24:00 Europe/Berlin", "2026-05-07T23:59:59", True),
        ("daily 22:00-00:00 Europe/Berlin", "2026-05-07T23:59:59", True),
        ("daily 22:00-00:00 Europe/Berlin", "2026-05-08T00:00", False),
        ("daily 20:00-22:00 UTC", "2026-05-04T22:00", True),  # 20:00 in UTC
        ("daily 20:00-22:00 UTC", "2026-05-04T21:59", False),
        # 29 March 2026: 02:00 is followed by 03:00.
        ("Sun 01:00-03:00 Europe/Berlin", "2026-03-29T01:59:59", True),
        ("Sun 01:00-03:00 Europe/Berlin", "2026-03-29T03:00", False),
        ("Sun 02:15-02:45 Europe/Berlin", "2026-03-29T03:15", True),
        ("Sun 02:15-02:45 Europe/Berlin", "2026-03-29T03:45", False),
        ("Sat 22:00-02:30 Europe/Berlin", "2026-03-29T03:29", True),
        ("Sat 22:00-02:30 Europe/Berlin", "2026-03-29T03:30", False),
        # The hour is jumped over and the window with it: it would open after it has closed.
        ("Sun 02:30-03:15 Europe/Berlin", "2026-03-29T03:20", False),
    ],
)
def test_a_window_is_open_by_the_clock_on_its_wall(window: str, now: str, is_open: bool) -> None:  # noqa: FBT001 - a table
    assert parse(window).is_open(berlin(now)) is is_open


@pytest.mark.parametrize(
    ("window", "now", "fold", "is_open"),
    [
        # 25 October 2026: 03:00 is followed by 02:00, and the hour comes a second time (`fold`).
        ("Sun 02:00-03:00 Europe/Berlin", "2026-10-25T02:30", 0, True),
        ("Sun 02:00-03:00 Europe/Berlin", "2026-10-25T02:30", 1, True),
        ("Sun 02:00-03:00 Europe/Berlin", "2026-10-25T03:00", 0, False),
        ("Sat 22:00-02:30 Europe/Berlin", "2026-10-25T02:29", 0, True),
        ("Sat 22:00-02:30 Europe/Berlin", "2026-10-25T02:30", 0, False),
        ("Sat 22:00-02:30 Europe/Berlin", "2026-10-25T02:15", 1, False),
        ("Sun 02:30-04:00 Europe/Berlin", "2026-10-25T02:15", 1, True),
    ],
)
def test_of_an_hour_that_comes_twice_the_first_is_meant(
    window: str,
    now: str,
    fold: int,
    is_open: bool,  # noqa: FBT001 - a table
) -> None:
    assert parse(window).is_open(berlin(now, fold=fold)) is is_open


@pytest.mark.parametrize(
    ("windows", "now", "reason", "hours"),
    [
        ([NIGHTS], "2026-05-04T20:30", "outside its window; opens Mon 22:00 Europe/Berlin", 1.5),
        ([NIGHTS], "2026-05-09T06:00", "outside its window; opens Mon 22:00 Europe/Berlin", 64),
        (["Mon 10:00-11:00 Europe/Berlin"], "2026-05-04T11:00", "outside its window; opens Mon 10:00 Europe/Berlin", 167),
        ([NIGHTS, "Sat,Sun 08:00-20:00 UTC"], "2026-05-09T07:00", "outside its windows; opens Sat 08:00 UTC", 3),
        # The night in which an hour is missing, the one that has one more, and a window that is left out with its hour
        (["Sun 06:00-07:00 Europe/Berlin"], "2026-03-29T00:00", "outside its window; opens Sun 06:00 Europe/Berlin", 5),
        (["Sun 06:00-07:00 Europe/Berlin"], "2026-10-25T00:00", "outside its window; opens Sun 06:00 Europe/Berlin", 7),
        (["Sun 02:30-03:15 Europe/Berlin"], "2026-03-28T02:30", "outside its window; opens Sun 02:30 Europe/Berlin", 191),
    ],
)  # fmt: skip
def test_outside_of_all_windows_the_next_one_is_named(windows: list[str], now: str, reason: str, hours: float) -> None:
    assert shut(windows, berlin(now)) == (reason, hours * 3600)


def test_one_open_window_is_enough_and_none_at_all_is_always_open() -> None:
    now = berlin("2026-05-09T12:00")
    assert shut([], now) is None
    assert shut([NIGHTS, "Sat 12:00-13:00 Europe/Berlin"], now) is None


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("", "is not a window", "Mon-Fri 22:00-06:00 Europe/Berlin"),
        ("22:00-06:00", "is not a window", "days, hours and a time zone"),
        ("Mon-Fri 22:00-06:00", "is not a window", "a time zone"),
        ("Mo-Fr 22:00-06:00 Europe/Berlin", "is not a window", "Mon to Sun"),
        ("weekdays 22:00-06:00 Europe/Berlin", "is not a window", "Mon to Sun"),
        ("Mon-Fri 22-6 Europe/Berlin", "is not a window", "such as"),
        ("Mon-Fri 24:00-06:00 Europe/Berlin", "is not a window", "such as"),
        ("Mon-Fri 22:60-06:00 Europe/Berlin", "is not a window", "such as"),
        ("Mon-Fri 22:00-06:00 Europe/Berlin\n", "is not a window", "such as"),
        ("Mon-Fri 22:00-06:00 ../../etc/passwd", "is not a window", "such as"),
        ("daily 22:00-22:00 UTC", "closes in the minute", "00:00-24:00"),
        ("daily 22:00-06:00 Europe/Berln", "no time zone Europe/Berln", "Did you mean Europe/Berlin?"),
        ("daily 22:00-06:00 europe/berlin", "no time zone europe/berlin", "Did you mean Europe/Berlin?"),
        ("daily 22:00-06:00 Europe", "no time zone Europe", "?"),
        ("daily 22:00-06:00 a/../../x", "is not a window", "such as"),
        ("daily 22:00-06:00 zzzzzzzz", "no time zone zzzzzzzz", "Europe/Berlin or UTC"),
    ],
)
def test_what_is_no_window_is_refused_with_a_remedy(text: str, problem: str, remedy: str) -> None:
    with pytest.raises(Wrong) as caught:
        parse(text)
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


clocks = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
texts = st.builds(
    "{} {}-{} {}".format,
    st.sampled_from(["daily", "Mon-Fri", "Sat,Sun", "Fri-Mon", *DAYS]),
    clocks,
    clocks,
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
).filter(lambda text: text.split()[1].partition("-")[0] != text.split()[1].partition("-")[2])


#: Any second from 2020 to 2034.
moments = st.integers(1_577_836_800, 2_051_222_400).map(lambda at: datetime.fromtimestamp(at, UTC))


@given(texts, moments)
def test_a_window_opens_when_it_is_said_to(text: str, now: datetime) -> None:
    """It is open at its next opening, and shut just before it."""
    held = shut([text], now)
    if held is None:
        assert parse(text).is_open(now)
        return
    opening = now + timedelta(seconds=held[1])
    assert opening > now
    assert parse(text).is_open(opening)
    assert not parse(text).is_open(opening - timedelta(microseconds=1))
