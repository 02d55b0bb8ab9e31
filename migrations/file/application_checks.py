"""What a migration file says of the application's API and of its code: requests that the worker records, and commands that `check` runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, WithJsonSchema, field_validator, model_validator

from backfilld.migrations.file.fields import FileModel, Text
from backfilld.migrations.file.personas import VALUE, PersonaName
from backfilld.migrations.identifiers import Wrong, check_encodable, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What a probe or a command is called in events and reports.
_NAME = re.compile(r"[^\x00-\x1f]{1,60}")
_URL = re.compile(r"(https?://|\$[A-Z])[^\s]*")
_MOST_PROBES = 50
_BY_NAME = "Put it into BACKFILLD_APPLICATION_VALUES of the workers, and write its name here, such as $TOKEN."
#: What holds a secret by its name, in lower case and without - and _.
_SECRET_HEADERS = {"authorization", "apikey", "cookie", "xapikey"}
#: Others may be columns that are compared: `token=eq.5`.
_SECRET_PARAMETERS = {"apikey", "accesstoken"}
_SECRET_KEYS = _SECRET_HEADERS | {
    "password",
    "passwd",
    "secret",
    "clientsecret",
    "token",
    "accesstoken",
    "refreshtoken",
}


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
    for name, value in parse_qsl(urlsplit(text).query):
        if _is_secret(name, value, _SECRET_PARAMETERS):
            raise Wrong(f"the parameter {shown(name)} of the URL holds a secret", _BY_NAME)
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

    model_config = ConfigDict(
        json_schema_extra={  # `_one_address` and `_safe_to_post`, for editors
            "oneOf": [{"required": ["get"]}, {"required": ["post", "safe"]}],
            "dependentRequired": {"body": ["post"], "safe": ["post"]},
        }
    )

    name: CheckName = Field(description="What it is called in reports.", examples=["my jobs"])
    get: Url | None = Field(
        default=None,
        description="The URL to GET; $NAME stands for a value of the worker's settings.",
        examples=["$API/jobs?select=id,total&order=id&limit=20"],
    )
    post: Url | None = Field(
        default=None,
        description="The URL to POST to, in place of `get`, for what only answers that, such as functions and searches; $NAME stands for "
        "a value of the worker's settings.",
        examples=["$API/rpc/open_jobs"],
    )
    body: JsonValue = Field(
        default=None,
        description="What is posted, as JSON; $NAME in a text stands for a value of the worker's settings.",
        examples=[{"status": "open"}],
    )
    safe: bool = Field(
        default=False,
        description="Your word that the request changes nothing, however often it is sent: without it nothing is posted.",
    )
    as_: PersonaName | None = Field(
        default=None,
        alias="as",
        description="The persona of `application.personas` whose token is sent, as `Authorization: Bearer …`.",
        examples=["member"],
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
            if _is_secret(name, value, _SECRET_HEADERS):
                raise Wrong(f"the header {name} holds a secret", _BY_NAME, at=(name,))
        return headers

    @field_validator("body")
    @classmethod
    def _no_secret_in_body(cls, body: JsonValue) -> JsonValue:
        for path in _secrets(body):
            raise Wrong(f"the key {shown(str(path[-1]))} of the body holds a secret", _BY_NAME, at=path)
        return body

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if (self.get is None) == (self.post is None):
            both = "both `get` and `post`" if self.get is not None else "neither `get` nor `post`"
            raise Wrong(f"a request has one address, and this one has {both}", "Write one of the two.")
        if self.post is None:
            for key in ("body", "safe"):
                if key in self.model_fields_set and getattr(self, key) not in (None, False):
                    raise Wrong(
                        f"`{key}` is for a request with `post`", f"Remove `{key}:`, or write `post:`.", at=(key,)
                    )
        return self

    @model_validator(mode="after")
    def _safe_to_post(self) -> Self:
        if self.post is not None and not self.safe:
            raise Wrong(
                "a POST may change something, and this one would be sent many times",
                "Write `safe: true` where it changes nothing, however often it is sent; else ask something else by `get`.",
                at=("post",),
            )
        return self

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if self.as_ is not None and any(name.lower() == "authorization" for name in self.headers):
            raise Wrong("`as` sends a token, and so does the header Authorization", "Keep one of the two.", at=("as",))
        return self

    @property
    def address(self) -> str:
        """The URL, with its $NAMEs."""
        return self.get or self.post or ""

    @property
    def method(self) -> Literal["GET", "POST"]:
        return "GET" if self.get is not None else "POST"

    @property
    def asked(self) -> str:
        """The request as reports name it: no value of the settings is in it."""
        return f"{self.method} {self.address}" + (f" as {self.as_}" if self.as_ is not None else "")


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


def _is_secret(name: str, value: object, names: set[str]) -> bool:
    """Whether a value of such a name is written out: a secret stands in the settings, and the file names it."""
    is_one = name.lower().replace("-", "").replace("_", "") in names
    return is_one and isinstance(value, str) and VALUE.search(value) is None


def _secrets(body: JsonValue, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where a body holds secrets."""
    if isinstance(body, dict):
        for name, value in body.items():
            if _is_secret(name, value, _SECRET_KEYS):
                yield (*path, name)
            yield from _secrets(value, (*path, name))
    elif isinstance(body, list):
        for index, value in enumerate(body):
            yield from _secrets(value, (*path, index))


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
