"""What a migration file says of the application's API and of its code: requests that the worker records, and commands that `check` runs."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, field_validator

from backfilld.migrations.file.fields import FileModel, Text
from backfilld.migrations.identifiers import Wrong, check_encodable, shown

#: What a probe or a command is called in events and reports.
_NAME = re.compile(r"[^\x00-\x1f]{1,60}")
#: A value of the worker's settings, in a URL or a header.
VALUE = re.compile(r"\$(?P<name>[A-Z][A-Z0-9_]*)")
_URL = re.compile(r"(https?://|\$[A-Z])[^\s]*")
_MOST_PROBES = 50


def _check_name(text: str) -> str:
    if _NAME.fullmatch(check_encodable(text)) is None:
        raise Wrong("the name is empty, or too long", "Write a name of at most 60 characters.")
    return text


def _check_url(text: str) -> str:
    if _URL.fullmatch(text) is None:
        raise Wrong(
            f"`{shown(text)}` is not a URL",
            "Write https://… or a value of the worker's settings, such as $API/jobs?select=id.",
        )
    return text


def _check_path(text: str) -> str:
    if not text or text.startswith(("/", "~")) or ".." in text.split("/"):
        raise Wrong(
            f"`{shown(text)}` leads out of the current folder", "Write a path below it, such as src/database.ts."
        )
    return check_encodable(text)


CheckName = Annotated[
    str, AfterValidator(_check_name), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 60})
]
Url = Annotated[
    str, AfterValidator(_check_url), WithJsonSchema({"type": "string", "pattern": r"^(https?://|\$[A-Z])[^\s]*$"})
]
TypesFile = Annotated[
    str, AfterValidator(_check_path), WithJsonSchema({"type": "string", "minLength": 1, "pattern": r"^(?!\.\./)[^/~]"})
]


class Probe(FileModel):
    """A request of which the answer must be the same after the switch and after contract."""

    name: CheckName = Field(description="What it is called in reports.", examples=["my jobs"])
    get: Url = Field(
        description="The URL to GET; $NAME stands for a value of the worker's settings.",
        examples=["$API/jobs?select=id,total&order=id&limit=20"],
    )
    headers: dict[str, Text] = Field(
        default_factory=dict,
        description="Headers of the request; $NAME stands for a value of the worker's settings. Secrets are never written here.",
        examples=[{"Authorization": "Bearer $MEMBER_TOKEN"}],
        json_schema_extra={"propertyNames": {"pattern": r"^[A-Za-z0-9-]+$"}},
    )
    compare: Literal["body", "shape"] = Field(
        default="body",
        description="`body`: every value must be the same; `shape`: only which keys there are and of which type, for answers whose "
        "rows the application changes meanwhile.",
    )
    ignore: Annotated[tuple[Text, ...], Field(strict=False)] = Field(
        default=(),
        description="Paths in the answer that may differ: `*` stands for one step, `**` for any number of them.",
        examples=[["**.updated_at"]],
    )
    slower_than: float = Field(
        default=10.0,
        ge=1.1,
        le=1000,
        strict=False,  # a file may write 2
        description="How many times slower than before the answer may be. Unit: a ratio.",
        examples=[2.0],
    )
    allow_empty: bool = Field(
        default=False, description="Record an answer without any row; it proves little, so it is refused otherwise."
    )

    @field_validator("headers")
    @classmethod
    def _no_secret(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if re.fullmatch(r"[A-Za-z0-9-]+", name) is None:
                raise Wrong(f"`{shown(name)}` is not the name of a header", "Write letters, digits and -.", at=(name,))
            if name.lower() in {"authorization", "apikey", "cookie", "x-api-key"} and VALUE.search(value) is None:
                raise Wrong(
                    f"the header {name} holds a secret",
                    "Put it into BACKFILLD_APPLICATION_VALUES of the workers, and write its name here, such as $TOKEN.",
                    at=(name,),
                )
        return headers

    @property
    def values(self) -> frozenset[str]:
        """The values of the worker's settings that it needs, by name."""
        texts = [self.get, *self.headers.values()]
        return frozenset(match["name"] for text in texts for match in VALUE.finditer(text))


class Command(FileModel):
    """A program that says whether the application's code fits a schema. `backfilld check` runs it, and a worker never does."""

    name: CheckName = Field(description="What it is called in reports.", examples=["edge functions"])
    run: Annotated[tuple[Text, ...], Field(strict=False)] = Field(
        description="The program and its arguments; no shell reads them.",
        examples=[["deno", "check", "supabase/functions"]],
        json_schema_extra={"minItems": 1},
    )
    types_to: TypesFile | None = Field(
        default=None,
        description="The file that holds the types of the schema while the command runs, as `backfilld types` writes them; TypeScript, "
        "or pydantic models where it ends in `.py`. It is put back afterwards.",
        examples=["supabase/functions/database.ts"],
    )
    schemas: Annotated[tuple[Text, ...], Field(strict=False)] = Field(
        default=("public",), description="The schemas of the types.", examples=[["public", "billing"]]
    )
    timeout_seconds: float = Field(
        default=600.0,
        ge=0.1,
        le=3600,
        strict=False,  # a file may write 60
        description="How long one run of it may take. Unit: seconds.",
    )

    @field_validator("run")
    @classmethod
    def _a_program(cls, run: tuple[str, ...]) -> tuple[str, ...]:
        if not run or not run[0].strip():
            raise Wrong("there is no program to run", "Write it and its arguments, such as [deno, check, src].")
        return run


def _check_once(names: tuple[str, ...]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise Wrong(f"the name `{shown(name)}` is there twice", "Give each its own.", at=(index, "name"))


def _check_probes(probes: tuple[Probe, ...]) -> tuple[Probe, ...]:
    _check_once(tuple(one.name for one in probes))
    if len(probes) > _MOST_PROBES:
        raise Wrong(f"there are {len(probes)} probes, and a file may have {_MOST_PROBES}", "Keep those that matter.")
    return probes


def _check_commands(commands: tuple[Command, ...]) -> tuple[Command, ...]:
    _check_once(tuple(one.name for one in commands))
    return commands


Probes = Annotated[tuple[Probe, ...], AfterValidator(_check_probes)]
Commands = Annotated[tuple[Command, ...], AfterValidator(_check_commands)]
