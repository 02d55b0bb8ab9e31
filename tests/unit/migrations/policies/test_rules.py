"""The rule that a set of policies is for a persona, case by case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backfilld.migrations.policies.rules import Command, both, rule
from backfilld.migrations.postgres.policies import Persona, Policy, PolicySet

ANN = Persona(
    name="ann",
    role="member",
    settings=(),
    bypasses=False,
    owns=False,
    roles=("member", "staff"),
    may=("select", "insert", "update", "delete"),
    sees_key=True,
)


def policy(name: str = "p", **given: Any) -> Policy:  # Any: fields of Policy
    return Policy(**{"name": name, "command": "all", "permissive": True, "roles": ("public",), "using": "u", **given})


def parts(*policies: Policy, persona: Persona = ANN, enabled: bool = True, forced: bool = False) -> dict[str, str]:
    found = rule(PolicySet(policies=policies, enabled=enabled, forced=forced), persona)
    return {name: text.as_string() for name, text in found.parts.items()}


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ((), {"select": "false", "insert": "false", "delete": "false"}),
        ((policy(),), {"select": "((u))", "insert": "((u))", "update_check": "((u))"}),
        ((policy(check="c"),), {"select": "((u))", "insert": "((c))", "update": "((u))", "update_check": "((c))"}),
        ((policy(using=None, check="c"),), {"select": "false", "insert": "((c))", "update": "false"}),
        ((policy(), policy("q", command="select", using="v")), {"select": "((u) OR (v))", "delete": "((u))"}),
        ((policy(permissive=False),), {"select": "false"}),
        ((policy(), policy("r", permissive=False, using="r")), {"select": "((u)) AND (r)", "insert": "((u)) AND (r)"}),
        ((policy(roles=("staff",)),), {"select": "((u))"}),
        ((policy(roles=("anon", "boss")),), {"select": "false"}),
    ],
)
def test_the_parts_of_a_rule(policies: tuple[Policy, ...], expected: dict[str, str]) -> None:
    found = parts(*policies)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("persona", "enabled", "forced", "asked"),
    [
        (ANN, True, False, True),
        (ANN, False, False, False),
        (replace(ANN, bypasses=True), True, True, False),
        (replace(ANN, owns=True), True, False, False),
        (replace(ANN, owns=True), True, True, True),
    ],
)
def test_who_is_asked(persona: Persona, *, enabled: bool, forced: bool, asked: bool) -> None:
    assert parts(policy(), persona=persona, enabled=enabled, forced=forced)["select"] == ("((u))" if asked else "true")


@pytest.mark.parametrize(
    ("may", "tried"),
    [
        (("select", "insert", "update", "delete"), set(Command)),
        (("insert",), {Command.INSERT}),
        (("update", "delete"), set()),  # a WHERE reads
        (("select", "update"), {Command.SELECT, Command.UPDATE, Command.UPDATE_CHECK}),
    ],
)
def test_what_privileges_let_a_role_try(may: tuple[str, ...], tried: set[Command]) -> None:
    found = rule(PolicySet(policies=(policy(),), enabled=True, forced=False), replace(ANN, may=may))
    assert {command for command, needs in found.needs.items() if needs is not None} == tried


def test_both_sets_at_once_have_the_switches_of_the_newer() -> None:
    old = PolicySet(policies=(policy("a"), policy("c", using="old")), enabled=False, forced=False)
    new = PolicySet(policies=(policy("b"), policy("c", using="old")), enabled=True, forced=False)
    assert [one.name for one in both(old, new).policies] == ["a", "b", "c"]
    assert both(old, new).enabled
