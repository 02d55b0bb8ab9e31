"""What an operator sets: `BACKFILLD_…` variables, or the same names in `backfilld.toml`; a variable wins.

Read once where a process starts, and passed down from there.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from backfilld.migrations.backup_settings import BackupSettings, StoreSettings, ValueName
from backfilld.migrations.errors import InvalidSettings, UsageError
from backfilld.migrations.source_settings import SourceSettings  # noqa: TC001 - pydantic looks it up

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Limit(BaseModel):
    """A load signal's two limits: from `soft` on the pace falls smoothly, from `hard` on nothing moves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    soft: Annotated[float, Field(ge=0)]
    hard: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.soft >= self.hard:
            msg = f"soft ({self.soft:g}) must be below hard ({self.hard:g})"
            raise ValueError(msg)
        return self


def _switched_off(value: object) -> object:
    """TOML has no null, and a variable no type: both say `off`."""
    return None if value == "off" else value


#: `off` (None): the signal is neither read nor judged.
Judged = Annotated[Limit | None, BeforeValidator(_switched_off)]

_GIB = float(2**30)


class Limits(BaseModel):
    """When the application comes first.

    Each default is measured, published by a peer, or PostgreSQL's own; docs/governor.md says which. None of them holds a small
    database that is well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Seconds a standby's replay is behind, idle-safe.
    replica_lag_seconds: Judged = Limit(soft=5, hard=30)
    #: Bytes of WAL that the slot furthest behind keeps. Soft is PostgreSQL's default `max_wal_size`, what the disk has to bear
    #: between two checkpoints anyway.
    slot_retained_bytes: Judged = Limit(soft=_GIB, hard=8 * _GIB)
    #: How much of `max_slot_wal_keep_size` is used up; at 1 a slot is lost, and what its consumer has not read with it.
    slot_used_share: Judged = Limit(soft=0.5, hard=0.8)
    #: Segments of WAL that wait for the archiver; 42 is GitLab's.
    archive_backlog_segments: Judged = Limit(soft=10, hard=42)
    #: Bytes of WAL the server writes in a second, by any session. How many are too many only its owner knows.
    wal_bytes_per_second: Judged = None
    #: Sessions that have waited for our batches for a quarter of a second or more.
    blocked_sessions: Judged = Limit(soft=1, hard=4)
    #: Sessions of this database that have waited for a lock for a quarter of a second or more, on any holder.
    lock_waiters: Judged = Limit(soft=4, hard=20)
    #: Sessions running a statement, ours left out, as a share of `max_connections`.
    active_connections: Judged = Limit(soft=0.5, hard=0.8)
    #: Sessions, idle ones and ours included, as a share of `max_connections`.
    connections: Judged = Limit(soft=0.85, hard=0.95)
    #: Seconds a small write of our own takes to commit.
    commit_seconds: Judged = Limit(soft=0.25, hard=2.0)
    #: How many times slower than without us statements and commits of others are.
    foreground_latency: Judged = Limit(soft=1.25, hard=3.0)
    #: Seconds the oldest snapshot of others has kept vacuum from what was deleted since. Generous: a dump takes an hour.
    snapshot_age_seconds: Judged = Limit(soft=3600, hard=6 * 3600)
    #: Dead rows as a share of a table that a run is changing. A backfill of every row alone makes 0.5.
    dead_tuples: Judged = Limit(soft=0.6, hard=0.75)
    #: By how much a table has grown since a run began to change it, as a share of what it was. One UPDATE makes 1.
    table_growth: Judged = Limit(soft=1.25, hard=2.0)


class Signal(Limit):
    """A load signal of the operator's own: one number, and higher is worse."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    kind: Literal["sql", "promql", "http"]
    #: May be negative here: a number that should be high is asked for with a minus.
    soft: float
    hard: float
    #: `sql` and `promql`: what to ask.
    query: str | None = None
    #: `promql`: the server, as in http://prometheus:9090. `http`: what to get.
    url: Annotated[str | None, Field(repr=False)] = None
    #: `http`: where in the JSON of the answer the number is, as in `data.load.0`; without one the body is the number.
    path: str | None = None
    #: Sent as the header Authorization.
    authorization: SecretStr | None = None
    #: For the whole answer, connecting included.
    timeout_seconds: Annotated[float, Field(gt=0, le=10)] = 2.0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.name in Limits.model_fields:
            msg = f"{self.name} is the name of a built-in signal"
            raise ValueError(msg)
        needed = {"sql": ("query",), "promql": ("query", "url"), "http": ("url",)}[self.kind]
        for field in ("query", "url"):
            if (getattr(self, field) is None) == (field in needed):
                msg = f"a signal of kind {self.kind} {'needs' if field in needed else 'has no'} {field}"
                raise ValueError(msg)
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            msg = "url must begin with http:// or https://"
            raise ValueError(msg)
        if self.path is not None and self.kind != "http":
            msg = f"a signal of kind {self.kind} has no path"
            raise ValueError(msg)
        return self


#: What a channel can tell of.
About = Literal["approval", "failed", "held", "completed", "rolled_back", "paused", "cancelled", "quarantine"]


class Channel(BaseModel):
    """A way to tell people what they must know: whatever apprise speaks to, or a signed webhook."""

    # An error names the field and never shows what stands in it.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    kind: Literal["apprise", "webhook"]
    #: `apprise`: its URL of the service. `webhook`: where to post. A secret in both: it lets its reader post there.
    url: SecretStr
    #: `webhook`: the key of the signature.
    secret: SecretStr | None = None
    #: What is notified. Not by default: cancels, which a person made, and single quarantined rows.
    about: Annotated[tuple[About, ...], Field(min_length=1)] = (
        "approval",
        "failed",
        "paused",
        "held",
        "completed",
        "rolled_back",
    )
    #: Runs it tells of, by name, with `*` and `?`; none: all of them.
    runs: tuple[str, ...] = ()
    #: How long a run is on hold before a notice is sent.
    held_minutes: Annotated[float, Field(gt=0, le=7 * 24 * 60)] = 15.0
    #: How often a reminder is sent that a run waits, has failed or has paused; 0: never.
    remind_hours: Annotated[float, Field(ge=0, le=7 * 24)] = 24.0
    #: For one delivery, connecting included.
    timeout_seconds: Annotated[float, Field(gt=0, le=30)] = 10.0

    @field_validator("secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) < SHORTEST_SECRET:
            msg = f"must have {SHORTEST_SECRET} characters or more"
            raise ValueError(msg)
        return secret

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.secret is None) == (self.kind == "webhook"):
            msg = f"a channel of kind {self.kind} {'needs a' if self.kind == 'webhook' else 'has no'} secret"
            raise ValueError(msg)
        if self.kind == "webhook" and not _is_http(self.url.get_secret_value()):
            msg = "url of a webhook must be one of https:// (or http://), with a host"
            raise ValueError(msg)
        return self

    def wants(self, about: About, run: str) -> bool:
        """Whether it tells of this, for the run of this name."""
        return about in self.about and (not self.runs or any(fnmatchcase(run, pattern) for pattern in self.runs))


#: A key that can be guessed signs nothing.
SHORTEST_SECRET = 16


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def limits_by_name(limits: Limits, signals: Sequence[Signal] = ()) -> dict[str, Limit]:
    """The signals that are judged, with their limits."""
    judged: dict[str, Limit] = {name: limit for name in Limits.model_fields if (limit := getattr(limits, name))}
    return judged | {signal.name: signal for signal in signals}


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


def _check_address(url: str) -> str:
    parts = urlsplit(url)
    if not _is_http(url) or parts.query or parts.fragment or parts.username is not None:
        msg = f"{parts.hostname or 'it'} must be an address of http:// or https://, with a host and at most a path"
        raise ValueError(msg)
    return url


Address = Annotated[str, AfterValidator(_check_address)]


class Settings(BaseSettings):
    """Everything that is configured from outside the process."""

    model_config = SettingsConfigDict(
        env_prefix="BACKFILLD_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        toml_file="backfilld.toml",
        hide_input_in_errors=True,
    )

    database_url: str | None = Field(default=None, repr=False)
    redis_url: str | None = Field(default=None, repr=False)
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535)] = 9188
    #: Whoever waits for a run without a `--timeout` of its own gives up after this; none: never.
    wait_timeout_seconds: Annotated[float | None, Field(ge=0)] = None
    limits: Limits = Limits()
    #: Modules and packages that Python functions of migrations may come from; nothing else is imported.
    transforms: Annotated[tuple[ModuleName, ...], NoDecode, BeforeValidator(_listed)] = ()
    #: The addresses that a worker may ask for the API probes of migration files, each with the beginning of its path; none by default.
    application_targets: Annotated[tuple[Address, ...], NoDecode, BeforeValidator(_listed)] = ()
    #: The addresses that a worker may ask by POST for them: a list of its own, as such a request can change something.
    application_targets_post: Annotated[tuple[Address, ...], NoDecode, BeforeValidator(_listed)] = ()
    #: What `$NAME` in such a probe stands for: addresses, secrets, and tokens of personas.
    application_values: dict[ValueName, SecretStr] = Field(default_factory=dict, repr=False)
    #: The secret of the API's tokens, with which a worker signs one for a persona that brings none; HS256 wants 32 bytes or more.
    application_jwt_secret: Annotated[SecretStr | None, Field(min_length=32)] = None
    #: The roles that such a token may have: a file must not choose one that sees everything.
    application_jwt_roles: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = ()
    #: A replica of the database, on which the application's statements are planned and run for their times; none: on the database itself.
    application_replica_url: SecretStr | None = None
    #: What `plan` and `enqueue` do about code of other roles that would run with the daemon's rights.
    foreign_code: Literal["warn", "refuse"] = "warn"
    #: Load signals of the operator's own. A few: each is a label of a metric.
    signals: Annotated[tuple[Signal, ...], Field(max_length=20)] = ()

    #: The channels, and what each is notified of.
    notifications: Annotated[tuple[Channel, ...], Field(max_length=20)] = ()

    #: Where backups are kept, and how they are made: docs/backup.md.
    stores: Annotated[tuple[StoreSettings, ...], Field(max_length=20)] = ()
    backup: BackupSettings = BackupSettings()

    #: What migrations may load from, beside files that are sent: docs/operations/load.md.
    sources: Annotated[tuple[SourceSettings, ...], Field(max_length=20)] = ()

    @field_validator("sources")
    @classmethod
    def _sources_named_once(cls, sources: tuple[SourceSettings, ...]) -> tuple[SourceSettings, ...]:
        if twice := _twice(source.name for source in sources):
            msg = f"two sources have the name {twice}"
            raise ValueError(msg)
        return sources

    @model_validator(mode="after")
    def _signs_for_somebody(self) -> Self:
        if (self.application_jwt_secret is None) != (not self.application_jwt_roles):
            msg = "application_jwt_secret and application_jwt_roles belong together"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _stores_are_there(self) -> Self:
        names = [store.name for store in self.stores]
        if twice := _twice(names):
            msg = f"two stores have the name {twice}"
            raise ValueError(msg)
        if missing := [name for name in self.backup.copies if name not in names]:
            msg = f"backup.copies: no store is called {missing[0]}"
            raise ValueError(msg)
        return self

    @field_validator("signals")
    @classmethod
    def _signals_named_once(cls, signals: tuple[Signal, ...]) -> tuple[Signal, ...]:
        if twice := _twice(signal.name for signal in signals):
            msg = f"two signals have the name {twice}"
            raise ValueError(msg)
        return signals

    @field_validator("notifications")
    @classmethod
    def _channels_named_once(cls, channels: tuple[Channel, ...]) -> tuple[Channel, ...]:
        if twice := _twice(channel.name for channel in channels):
            msg = f"two channels have the name {twice}"
            raise ValueError(msg)
        return channels

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

    @property
    def refuses_foreign_code(self) -> bool:
        return self.foreign_code == "refuse"

    @property
    def replica_url(self) -> str | None:
        """Where the application's statements are planned, if not on the database itself."""
        return self.application_replica_url.get_secret_value() if self.application_replica_url is not None else None

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


def _twice(names: Iterable[str]) -> str | None:
    """A name that is there more than once."""
    counted = Counter(names)
    return next((name for name, times in counted.items() if times > 1), None)


def load(**overrides: Any) -> Settings:  # Any: whatever a field takes; pydantic checks it
    """Read the environment and `backfilld.toml`. Raises InvalidSettings naming the variable."""
    _check_spelling(os.environ)
    try:
        return Settings(**overrides)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        variable = "BACKFILLD_" + "__".join(str(part).upper() for part in first["loc"])
        where = "" if variable in os.environ else " (in backfilld.toml)" if Path("backfilld.toml").exists() else ""
        raise InvalidSettings(variable + where, first["msg"].removeprefix("Value error, ")) from None
    except SettingsError as exc:
        # Its message names the field; what could not be read may hold a password, and is not in it.
        field = str(exc).partition('"')[2].partition('"')[0]
        raise InvalidSettings(f"BACKFILLD_{field.upper()}", "is not the JSON that this variable expects") from None
    except ValueError as exc:
        msg = f"backfilld.toml cannot be read: {exc}"
        raise UsageError(msg) from exc


#: How alike two names are, at least, for one to be a slip of the other: REDIS and REDIS_URL are, PORT and HTTP_PORT are not.
_ALIKE = 0.65
#: What Kubernetes puts into the environment for a Service called `backfilld`.
_OF_A_SERVICE = re.compile(r"(SERVICE_(HOST|PORT.*)|PORT(_\d+_.*)?)")


def _check_spelling(environment: Mapping[str, str]) -> None:
    """Raises InvalidSettings for a variable that must be a slip: what it was to set would be missing without a word.

    Others that begin so are left alone: an image's version, the tests' own.
    """
    prefix = Settings.model_config["env_prefix"].upper()
    known = [name.upper() for name in Settings.model_fields]
    for variable in environment:
        if not variable.upper().startswith(prefix):
            continue
        name = variable.upper().removeprefix(prefix).partition("__")[0]
        if name in known or name.startswith("TEST_") or _OF_A_SERVICE.fullmatch(name):
            continue
        if close := difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE):
            raise InvalidSettings(variable, f"is no variable of backfilld. Did you mean {prefix}{close[0]}?")
