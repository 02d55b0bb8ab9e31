"""Which functions a worker may call, and how many rows it hands them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from backfilld.migrations import settings
from backfilld.migrations.errors import InvalidSettings, Refused
from backfilld.migrations.record.model import Timing
from backfilld.migrations.walks.sizing import REMEMBERED
from backfilld.worker.lanes.function import CALL_SECONDS, load, next_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two packages whose names begin alike, each leaving a mark when it is imported."""
    for package in ("site_a", "site_ab"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "jobs.py").write_text("def f(rows):\n    return rows\n")
        (tmp_path / package / "borrowed.py").write_text("from site_ab.jobs import f\nfrom os import system\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in [name for name in sys.modules if name.startswith("site_a")]:
        del sys.modules[name]


@pytest.mark.parametrize("allowed", [("site_a",), ("site_a.jobs",), ("other", "site_a")])
def test_a_function_of_an_allowed_module_is_found(allowed: tuple[str, ...]) -> None:
    function = load("site_a.jobs:f", allowed=allowed)
    assert function([{"a": 1}]) == [{"a": 1}]


@pytest.mark.parametrize(
    "allowed", [(), ("site",), ("site_a.job",), ("site_a.jobs.f",), ("site_ab",), ("SITE_A",), ("",)]
)
def test_nothing_of_another_module_is_imported(allowed: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match="BACKFILLD_TRANSFORMS"):
        load("site_a.jobs:f", allowed=allowed)
    assert not [name for name in sys.modules if name.startswith("site_a")]


@pytest.mark.parametrize(
    ("name", "allowed", "found"),
    [
        ("site_a.borrowed:f", ("site_a", "site_ab"), True),
        ("site_a.borrowed:f", ("site_a",), False),
        ("site_a.borrowed:system", ("site_a", "site_ab"), False),
        ("site_a.borrowed:__loader__", ("site_a", "site_ab"), False),
    ],
)
def test_what_a_module_borrowed_is_judged_by_where_it_comes_from(
    name: str, allowed: tuple[str, ...], *, found: bool
) -> None:
    if found:
        assert load(name, allowed=allowed)([]) == []
    else:
        with pytest.raises(Refused, match=r"does not allow|not an ordinary function"):
            load(name, allowed=allowed)


# --- BACKFILLD_TRANSFORMS


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("", ()),
        ("a", ("a",)),
        ("a.b, c ,", ("a.b", "c")),
        ('["a.b", "c"]', ("a.b", "c")),
        ("[]", ()),
    ],
)
def test_the_variable_is_a_list(text: str, modules: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKFILLD_TRANSFORMS", text)
    assert settings.load().transforms == modules


def test_without_the_variable_nothing_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BACKFILLD_TRANSFORMS", raising=False)
    assert settings.load().transforms == ()


@pytest.mark.parametrize("text", ["a/b", "a:f", "*", "a..b", "a b", "a-b", '["a"', "[5]", "./a.py"])
def test_what_is_no_module_is_refused_by_name(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKFILLD_TRANSFORMS", text)
    with pytest.raises(InvalidSettings, match="BACKFILLD_TRANSFORMS"):
        settings.load()


# --- Rows for each call


@pytest.mark.parametrize(
    ("size", "handed", "seconds", "expected"),
    [
        (1, 1, 0.00001, 10),  # a quick function has a whole batch after a few calls
        (1000, 1000, 0.01, 10_000),
        (10_000, 10_000, 1.0, 2500),
        (1, 1, 3.0, 1),  # never none
        (1, 1, 1.0, 2),  # whether it is the row that takes so long?
        (5, 5, CALL_SECONDS, 5),
        (5000, 7, 0.001, 5000),  # the last few rows of a batch say little
        (5000, 10, 2.5, 1),  # unless they are slow
        (200_000, 200_000, 0.001, 200_000),
    ],
)
def test_a_call_takes_about_a_quarter_of_a_second(size: int, handed: int, seconds: float, expected: int) -> None:
    assert next_size(size, [Timing(rows=handed, seconds=seconds, at=0.0)]) == expected


@pytest.mark.parametrize("fixed", [0.3, 1.0])
def test_a_function_that_takes_long_for_any_number_of_rows_gets_many(fixed: float) -> None:
    """It asks somebody over the network, once a call: one row for each call was all it ever got."""
    size, recent = 1, list[Timing]()
    for _ in range(30):
        recent = [*recent, Timing(rows=size, seconds=fixed + size * 1e-5, at=0.0)][-REMEMBERED:]
        size = next_size(size, recent)
    assert size > 10_000


def test_a_function_that_takes_long_for_each_row_gets_one() -> None:
    size, recent, sizes = 1, list[Timing](), list[int]()
    for _ in range(30):
        recent = [*recent, Timing(rows=size, seconds=size * 1.0, at=0.0)][-REMEMBERED:]
        size = next_size(size, recent)
        sizes.append(size)
    assert max(sizes) == 2
    assert sizes.count(2) <= 3
