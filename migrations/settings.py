"""What an operator sets: `BACKFILLD_…` variables, or the same names in `backfilld.toml`; a variable wins.

Read once where a process starts, and passed down from there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from migrations.errors import InvalidSettings, UsageError

#: The one target there is today; messages and reports carry its name, so that more can follow.
TARGET = "default"


class Limit(BaseModel):
    """A load signal's two limits: from `soft` on the pace falls smoothly, from `hard` on nothing moves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    soft: Annotated[float, Field(ge=0)]
    hard: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _ordered(self) -> Limit:
        if self.soft >= self.hard:
            msg = f"soft ({self.soft:g}) must be below hard ({self.hard:g})"
            raise ValueError(msg)
        return self


class Limits(BaseModel):
    """When the application comes first. Defaults are those measured or published by peers; all can be set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Seconds a standby's replay is behind, idle-safe.
    replica_lag_seconds: Limit = Limit(soft=5, hard=30)
    #: Sessions that have waited for our batches for a quarter of a second or more.
    blocked_sessions: Limit = Limit(soft=1, hard=4)
    #: Sessions running a statement, ours left out, as a share of `max_connections`.
    active_connections: Limit = Limit(soft=0.5, hard=0.8)
    #: Seconds a one-row write of our own takes to commit.
    commit_seconds: Limit = Limit(soft=0.25, hard=2.0)


def _listed(value: object) -> object:
    """`a, b` or a JSON list, as an environment variable holds it."""
    if not isinstance(value, str):
        return value
    return (
        json.loads(value)
        if value.lstrip().startswith("[")
        else [part.strip() for part in value.split(",") if part.strip()]
    )


def _check_module(name: str) -> str:
    if not all(part.isidentifier() for part in name.split(".")):
        msg = f"{name!r} is not the name of a module or package, such as myapp.backfills"
        raise ValueError(msg)
    return name


ModuleName = Annotated[str, AfterValidator(_check_module)]


class Settings(BaseSettings):
    """Everything a process is told from outside."""

    model_config = SettingsConfigDict(
        env_prefix="BACKFILLD_", env_nested_delimiter="__", extra="forbid", frozen=True, toml_file="backfilld.toml"
    )

    database_url: str | None = Field(default=None, repr=False)
    redis_url: str | None = Field(default=None, repr=False)
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535)] = 9188
    limits: Limits = Limits()
    #: Modules and packages that Python functions of migrations may come from; nothing else is imported.
    transforms: Annotated[tuple[ModuleName, ...], NoDecode, BeforeValidator(_listed)] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))

    def require_database(self) -> str:
        """The database's URL. Raises InvalidSettings when there is none."""
        if not self.database_url:
            raise InvalidSettings(
                "BACKFILLD_DATABASE_URL",
                "is not set; give the URL of the database, such as postgresql://user@host/name",
            )
        return self.database_url

    def require_redis(self) -> str:
        """Redis's URL. Raises InvalidSettings when there is none."""
        if not self.redis_url:
            raise InvalidSettings(
                "BACKFILLD_REDIS_URL", "is not set; give the URL of Redis or Valkey, such as redis://127.0.0.1:6379/0"
            )
        return self.redis_url


def load(**overrides: Any) -> Settings:  # Any: whatever a field takes; pydantic checks it
    """Read the environment and `backfilld.toml`. Raises InvalidSettings naming the variable."""
    try:
        return Settings(**overrides)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        variable = "BACKFILLD_" + "__".join(str(part).upper() for part in first["loc"])
        where = "" if variable in os.environ else " (in backfilld.toml)" if Path("backfilld.toml").exists() else ""
        raise InvalidSettings(variable + where, first["msg"].removeprefix("Value error, ")) from None
    except ValueError as exc:
        msg = f"backfilld.toml cannot be read: {exc}"
        raise UsageError(msg) from exc
