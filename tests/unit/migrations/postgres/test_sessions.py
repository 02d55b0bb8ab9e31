"""The names of our sessions are read back as they were built, and nobody else's is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfilld.migrations.postgres.sessions import OURS, Doing, SessionName, named, tidying


@given(
    run=st.integers(0, 10**18 - 1),
    lane=st.integers(0, 10**9 - 1),
    seq=st.integers(0, 10**18 - 1),
    doing=st.sampled_from(Doing),
)
def test_a_name_is_read_back(run: int, lane: int, seq: int, doing: Doing) -> None:
    name = SessionName(run=run, lane=lane, seq=seq, doing=doing)
    assert SessionName.parse(str(name)) == name


def test_a_name_fits_into_what_postgresql_keeps_of_it() -> None:
    """An application_name is cut at 63 bytes; a cut one would be nobody's."""
    longest = SessionName(run=10**10, lane=10**4, seq=10**10, doing=Doing.PYTHON)
    assert len(str(longest)) <= 63


@pytest.mark.parametrize(
    "name",
    [
        "",
        "app",
        OURS,
        named("governor"),
        tidying(7),
        "backfilld run=x lane=1 seq=1",
        "backfilld run=1 lane=1",
        "backfilld run=1 lane=1 seq=1 sleeping",
        " backfilld run=1 lane=1 seq=1",
        "backfilld run=1234567890123456789 lane=1 seq=1",
    ],
)
def test_other_names_are_no_batch(name: str) -> None:
    assert SessionName.parse(name) is None


def test_all_of_ours_begin_alike() -> None:
    """What counts sessions of others leaves out whatever begins so."""
    names = [str(SessionName(run=1, lane=1, seq=1)), tidying(1), named("canary")]
    assert all(name.startswith(OURS) for name in names)
