"""What counts as a difference between two answers, and where a worker may ask."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from backfilld.migrations.file.application_checks import Probe
from backfilld.monitoring.checks.answers import Answer, differences
from backfilld.monitoring.checks.targets import Forbidden, Targets


def _answer(body: Any, *, status: int = 200, milliseconds: float = 10.0, volatile: tuple[str, ...] = ()) -> Answer:
    return Answer(status=status, body=body, milliseconds=milliseconds, volatile=volatile)


def _probe(**more: Any) -> Probe:
    return Probe(name="p", get="$API/jobs", **more)


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ([{"a": 1}], [{"a": 1}], []),
        ([{"a": 1}], [{"a": 1.0}], []),
        ([{"a": 1}], [{"a": 1, "b": 2}], []),
        ([{"a": 1}], [{"a": 2}], ["[0].a has another value"]),
        ([{"a": "{}"}], [{"a": {}}], ["[0].a was a text and is an object"]),
        ([{"a": 1}], [{"a": None}], ["[0].a was a number and is null"]),
        ([{"a": 1, "b": 2}], [{"a": 1}], ["[0].b is gone"]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}], ["[1] is gone"]),
        ([{"a": 1}], [{"a": 1}, {"a": 2}], ["[1] came"]),
        ({"rows": [1]}, [1], ["the answer was an object and is a list"]),
        ([{"a.b": 1}], [{"a.b": 2}], ["[0].a.b has another value"]),
    ],
)
def test_differences_of_bodies(before: Any, now: Any, found: list[str]) -> None:
    assert differences(_probe(), _answer(before), _answer(now)) == found


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ([{"a": 1}], [{"a": 2}, {"a": 3.5}], []),
        ([{"a": 1}], [{"a": 2, "b": 1}], []),
        ([{"a": 1}], [], []),
        ([{"a": 1}, {"a": None}], [{"a": None}], []),
        ([{"a": None}], [{"a": "text"}], []),
        ([{"a": 1}, {"b": 1}], [{}], []),
        ([{"a": 1}], [{"a": "1"}], ["[0].a is a text, which it was not"]),
        ([{"a": 1}], [{"a": 1}, {}], ["[1].a is gone"]),
        ([{"a": {"b": []}}], [{"a": {"b": {}}}], ["[0].a.b is an object, which it was not"]),
        ({"a": 1}, [], ["the answer is a list, which it was not"]),
    ],
)
def test_differences_of_shapes(before: Any, now: Any, found: list[str]) -> None:
    assert differences(_probe(compare="shape"), _answer(before), _answer(now)) == found


@pytest.mark.parametrize(
    ("pattern", "ignores"),
    [
        ("**.at", True),
        ("[*].at", True),
        ("*.at", True),
        ("[0].at", True),
        ("[1].at", False),
        ("at", False),
        ("**", True),
        ("[*]", True),
        ("**.a", False),
        ("*.*.at", False),
    ],
)
def test_paths_that_may_differ(pattern: str, *, ignores: bool) -> None:
    found = differences(_probe(ignore=(pattern,)), _answer([{"at": 1}]), _answer([{"at": 2}]))
    assert (found == []) is ignores
    shape = _probe(ignore=(pattern,), compare="shape")
    assert (differences(shape, _answer([{"at": 1}]), _answer([{"at": "x"}])) == []) is ignores


def test_what_differed_by_itself_is_not_compared() -> None:
    before = _answer([{"at": 1, "a": 1}], volatile=(r"\.\d+\.at",))

    assert differences(_probe(), before, _answer([{"at": 2, "a": 1}])) == []
    assert differences(_probe(), before, _answer([{"at": 2, "a": 2}])) == ["[0].a has another value"]


def test_no_value_of_an_answer_is_told() -> None:
    found = differences(_probe(), _answer([{"name": "Ann Secret"}]), _answer([{"name": "Bob Hidden"}]))

    assert found
    assert not any(word in one for one in found for word in ("Ann", "Bob"))


def test_many_differences_are_counted() -> None:
    found = differences(_probe(), _answer([{"a": n} for n in range(20)]), _answer([{"a": -n - 1} for n in range(20)]))

    assert len(found) == 6
    assert found[-1] == "and 15 more"


def test_another_status_is_told_alone() -> None:
    assert differences(_probe(), _answer([]), _answer(None, status=400)) == ["it answers 400, and 200 before"]


@pytest.mark.parametrize(
    ("before", "now", "is_slower"), [(10, 50, False), (10, 150, True), (200, 350, False), (200, 450, True)]
)
def test_times_are_judged_as_a_ratio_above_a_floor(before: float, now: float, *, is_slower: bool) -> None:
    found = differences(_probe(slower_than=2.0), _answer([1], milliseconds=before), _answer([1], milliseconds=now))

    assert bool(found) is is_slower


VALUES = {
    "API": SecretStr("http://api:3000/rest"),
    "OTHER": SecretStr("http://10.0.0.1/"),
    "TOKEN": SecretStr("s3cret"),
}


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("$API/jobs?select=id", True),
        ("$API", True),
        ("http://api:3000/rest/jobs", True),
        ("http://API:3000/rest/jobs", True),
        ("http://api:3000/restricted", False),
        ("http://api:3000/", False),
        ("http://api/rest/jobs", False),
        ("https://api:3000/rest/jobs", False),
        ("http://api:3000/rest/../admin", False),
        ("http://api:3000/rest/%2e%2e/admin", False),
        ("http://api:3000/rest/..%2fadmin", False),
        ("http://user@api:3000/rest/jobs", False),
        ("http://api:3000@evil/rest/jobs", False),
        ("http://api:3000.evil/rest", False),
        ("http://api:99999/rest", False),
        ("$OTHER", False),
        ("$APIevil/rest", False),
        ("http://169.254.169.254/latest/meta-data", False),
    ],
)
def test_only_addresses_of_the_settings_are_asked(url: str, *, may: bool) -> None:
    targets = Targets(allowed=["http://api:3000/rest"], values=VALUES)
    probe = Probe(name="p", get=url)
    if may:
        assert targets.url(probe).hostname == "api"
        return
    with pytest.raises(Forbidden) as refused:
        targets.url(probe)
    assert refused.value.finding.check in {"application_target", "application_value"}


def test_without_an_address_in_the_settings_nothing_is_asked() -> None:
    with pytest.raises(Forbidden):
        Targets(values=VALUES).url(_probe())


def test_secrets_are_put_in_by_name_and_a_missing_one_is_said() -> None:
    targets = Targets(allowed=["http://api:3000/rest"], values=VALUES)
    probe = _probe(headers={"Authorization": "Bearer $TOKEN"})

    assert targets.headers(probe)["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(targets)
    with pytest.raises(Forbidden, match=r"\$MISSING"):
        targets.headers(_probe(headers={"apikey": "$MISSING"}))
    with pytest.raises(Forbidden, match="what no header can"):
        Targets(values={"TOKEN": SecretStr("a\r\nb")}).headers(probe)
