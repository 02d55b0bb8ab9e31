"""What counts as a difference between two answers, and where a worker may ask."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import pytest
from pydantic import SecretStr

from backfilld.migrations.file.application_checks import Probe
from backfilld.migrations.file.personas import Persona
from backfilld.monitoring.checks import tokens
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


SECRET = "a secret of at least thirty-two bytes"  # noqa: S105 - of these tests
MEMBER = Persona(role="member", claims={"sub": "7"})


def test_what_is_posted_has_a_list_of_addresses_of_its_own() -> None:
    probe = Probe(name="p", post="$API/rpc/find", safe=True)
    assert Targets(allowed_post=["http://api:3000/rest/rpc"], values=VALUES).url(probe).path == "/rest/rpc/find"
    with pytest.raises(Forbidden, match="by POST") as refused:
        Targets(allowed=["http://api:3000/rest"], values=VALUES).url(probe)
    assert "BACKFILLD_APPLICATION_TARGETS_POST" in refused.value.finding.remedy
    with pytest.raises(Forbidden):
        Targets(allowed_post=["http://api:3000/rest"], values=VALUES).url(Probe(name="p", get="$API/jobs"))


def test_values_are_put_into_the_texts_of_a_body() -> None:
    probe = Probe(name="p", post="$API/x", safe=True, body={"a": ["$TOKEN", 1, {"b": "x $TOKEN"}], "$TOKEN": True})
    sent = Targets(values={"TOKEN": SecretStr('"s3cret')}).body(probe)
    assert sent is not None
    assert json.loads(sent) == {"a": ['"s3cret', 1, {"b": 'x "s3cret'}], "$TOKEN": True}
    assert Targets().body(Probe(name="p", post="$API/x", safe=True)) is None
    with pytest.raises(Forbidden, match=r"\$TOKEN"):
        Targets().body(probe)


def test_a_header_of_the_file_is_sent_in_place_of_ours() -> None:
    probe = Probe(name="p", post="$API/x", safe=True, body={}, headers={"accept": "text/csv", "content-type": "a/b"})
    assert Targets().headers(probe) == {"User-Agent": "backfilld", "accept": "text/csv", "content-type": "a/b"}


@pytest.mark.parametrize(
    ("persona", "settings", "says"),
    [
        (MEMBER, {}, "no secret to sign one"),
        (MEMBER, {"jwt_roles": ("anon",), "jwt_secret": SecretStr(SECRET)}, "signs no token for the role member"),
        (
            Persona(role="member", claims={"role": "service_role"}),
            {"jwt_roles": ("member",), "jwt_secret": SecretStr(SECRET)},
            "signs no token for the role service_role",
        ),
        (Persona(role="member", token="$GONE"), {"jwt_roles": ("member",), "jwt_secret": SecretStr(SECRET)}, r"\$GONE"),  # noqa: S106 - the name of a value
    ],
    ids=["no secret", "another role", "a role among the claims", "no value"],
)
def test_a_token_is_signed_only_as_the_settings_allow(persona: Persona, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(Forbidden, match=says):
        Targets(**settings).headers(_probe(as_="m"), persona)


def test_a_token_of_the_settings_is_sent_as_it_is() -> None:
    persona = Persona(role="member", token="$TOKEN")  # noqa: S106 - the name of a value
    assert Targets(values=VALUES).headers(_probe(as_="m"), persona)["Authorization"] == "Bearer s3cret"


def test_a_signed_token_has_the_claims_and_ends_soon() -> None:
    head, body, signature = tokens.signed({"role": "member", "exp": 1}, secret=SECRET, now=1000).split(".")
    assert json.loads(base64.urlsafe_b64decode(body + "==")) == {"role": "member", "exp": 1300}
    assert json.loads(base64.urlsafe_b64decode(head + "==")) == {"alg": "HS256", "typ": "JWT"}
    right = hmac.digest(SECRET.encode(), f"{head}.{body}".encode(), "sha256")
    assert base64.urlsafe_b64decode(signature + "=") == right
    assert "=" not in signature
