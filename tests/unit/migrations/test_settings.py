"""Variables with a slip in them: refused where they must be one, and left alone where they may be somebody else's."""

from __future__ import annotations

import pytest

from backfilld.migrations import settings
from backfilld.migrations.errors import InvalidSettings


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("BACKFILLD_DATABSE_URL", "BACKFILLD_DATABASE_URL"),
        ("BACKFILLD_DATABASE", "BACKFILLD_DATABASE_URL"),
        ("BACKFILLD_REDIS", "BACKFILLD_REDIS_URL"),
        ("BACKFILLD_HTTPPORT", "BACKFILLD_HTTP_PORT"),
        ("BACKFILLD_TRANSFORM", "BACKFILLD_TRANSFORMS"),
        ("BACKFILLD_LIMIT__REPLICA_LAG_SECONDS", "BACKFILLD_LIMITS"),
        ("backfilld_redis_ur", "BACKFILLD_REDIS_URL"),
    ],
)
def test_a_slip_is_refused_with_what_was_meant(monkeypatch: pytest.MonkeyPatch, variable: str, meant: str) -> None:
    monkeypatch.setenv(variable, "x")
    with pytest.raises(InvalidSettings, match=f"{variable}.*Did you mean {meant}\\?"):
        settings.load()


@pytest.mark.parametrize(
    "variable",
    [
        "BACKFILLD_TEST_DATABASE_URL",
        "BACKFILLD_TEST_REDIS_URL",
        "BACKFILLD_VERSION",
        "_BACKFILLD_COMPLETE",
        # what Kubernetes sets for a Service called backfilld
        "BACKFILLD_PORT",
        "BACKFILLD_SERVICE_HOST",
        "BACKFILLD_SERVICE_PORT",
        "BACKFILLD_SERVICE_PORT_HTTP",
        "BACKFILLD_PORT_9188_TCP",
        "BACKFILLD_PORT_9188_TCP_ADDR",
    ],
)
def test_what_is_not_ours_is_left_alone(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "tcp://10.0.0.1:9188")
    settings.load()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"JWT_SECRET": "s" * 32}, "application_jwt_secret and application_jwt_roles belong together"),
        ({"JWT_ROLES": "member"}, "application_jwt_secret and application_jwt_roles belong together"),
        ({"JWT_SECRET": "too short", "JWT_ROLES": "member"}, "at least 32"),
        ({"TARGETS_POST": "ftp://a"}, "must be an address of http"),
    ],
    ids=["for no role", "no secret", "a short secret", "no address"],
)
def test_tokens_are_signed_for_roles_that_are_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"BACKFILLD_APPLICATION_{name}", value)
    with pytest.raises(InvalidSettings, match=says) as refused:
        settings.load()
    assert "too short" not in str(refused.value)
