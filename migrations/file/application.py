"""What a migration file says of the application around the database: its statements, and what to do about what they would lose."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from backfilld.migrations.file.application_checks import Commands, Probes
from backfilld.migrations.file.fields import FileModel, Name
from backfilld.migrations.file.personas import PERSONA_PATTERN, Persona, PersonaName
from backfilld.migrations.identifiers import Wrong, check_encodable, shown

_DURATION_PATTERN = r"^[1-9][0-9]{0,5}(s|m|h|d)$"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _check_duration(text: str) -> str:
    if re.fullmatch(_DURATION_PATTERN.removesuffix("$"), text) is None:
        raise Wrong(
            f"`{shown(text)}` is not a duration", "Write a number and its unit, s, m, h or d, such as 30m, 24h or 7d."
        )
    return text


def _check_pattern(text: str) -> str:
    if not check_encodable(text).strip():
        raise Wrong("the pattern is empty", "Write a path with or without *, or remove it.")
    if "\x00" in text or text.startswith(("/", "~")) or ".." in text.split("/"):
        raise Wrong(
            f"`{shown(text)}` leads out of the folder of the migration file",
            "Write a path below that folder, such as queries/*.sql.",
        )
    return text


def _check_once_each(texts: tuple[str, ...]) -> tuple[str, ...]:
    for index, text in enumerate(texts):
        if text in texts[:index]:
            raise Wrong(f"`{shown(text)}` is in the list twice", "Keep one of the two.", at=(index,))
    return texts


Duration = Annotated[
    str, AfterValidator(_check_duration), WithJsonSchema({"type": "string", "pattern": _DURATION_PATTERN})
]
FilePattern = Annotated[
    str, AfterValidator(_check_pattern), WithJsonSchema({"type": "string", "minLength": 1, "pattern": r"^[^/~]"})
]


class Statements(FileModel):
    """Which statements are the application's, and for how long none of them may need what contract removes."""

    roles: Annotated[tuple[Name, ...], AfterValidator(_check_once_each)] = Field(
        default=(),
        strict=False,  # a file has lists, not tuples
        description="The roles whose statements in `pg_stat_statements` are the application's. Without any, all roles are.",
        examples=[["authenticator", "authenticated"]],
        json_schema_extra={"uniqueItems": True},
    )
    files: Annotated[tuple[FilePattern, ...], AfterValidator(_check_once_each)] = Field(
        default=(),
        strict=False,  # a file has lists, not tuples
        description="Files of SQL that hold statements of the application, below the folder of the migration file; `*` and `**` "
        "stand for names and folders.",
        examples=[["queries/*.sql"]],
        json_schema_extra={"uniqueItems": True},
    )
    window: Duration = Field(
        default="5m",
        description="For how long no statement may have needed what contract removes before contract may begin. Unit: a number "
        "with s, m, h or d.",
        examples=["24h"],
    )

    @property
    def window_length(self) -> timedelta:
        return timedelta(**{_UNITS[self.window[-1]]: int(self.window[:-1])})


class Application(FileModel):
    """What to check of the application, before, during and after the run."""

    statements: Statements = Field(
        default_factory=Statements, description="Which SQL statements are the application's."
    )
    personas: dict[PersonaName, Persona] = Field(
        default_factory=dict,
        description="Who uses the application, by a name of yours: as each of them policies are compared.",
        examples=[{"member": {"role": "authenticated", "claims": {"sub": "8f0c5a1e-0000-4000-8000-000000000001"}}}],
        json_schema_extra={"propertyNames": {"pattern": PERSONA_PATTERN}},
    )
    http: Probes = Field(
        default=(),
        strict=False,  # a file has lists, not tuples
        description="Requests whose answers must be the same after the switch and after contract; the worker records them.",
    )
    commands: Commands = Field(
        default=(),
        strict=False,  # as above
        description="Programs that say whether the application's code fits a schema; `backfilld check` runs them.",
    )
    on_regression: Literal["hold", "warn"] = Field(
        default="hold",
        description="What a finding does: `hold` keeps contract waiting until a person approves it in spite of the finding; `warn` "
        "only tells of it.",
    )

    @model_validator(mode="after")
    def _probes_ask_as_someone(self) -> Self:
        for index, probe in enumerate(self.http):
            if probe.as_ is not None and probe.as_ not in self.personas:
                raise Wrong(
                    f"there is no persona `{shown(probe.as_)}`",
                    "Write it under `application.personas`, with its role, or name one that is there.",
                    at=("http", index, "as"),
                )
        return self

    @property
    def asks_statements(self) -> bool:
        """Whether what is not known of statements counts: not where the file asks for other checks, and of statements says nothing."""
        return self.statements != Statements() or not (self.http or self.commands)

    @property
    def only_personas(self) -> bool:
        """Nothing is asked of statements: personas are for policies."""
        return self.model_fields_set == {"personas"}

    @model_serializer(mode="wrap")
    def _as_it_was_asked(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = inner(self)
        return {"personas": written["personas"]} if self.only_personas and "personas" in written else written
