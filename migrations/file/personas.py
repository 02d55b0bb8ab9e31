"""Personas: whom the application lets into the database, each a role with the claims of a token."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue, WithJsonSchema

from backfilld.migrations.file.fields import FileModel, Name, Text
from backfilld.migrations.identifiers import Wrong, shown

#: Settings of users' own have a prefix; PostgreSQL's own have none, and are not for a persona to change.
SETTING_PATTERN = r"^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)+$"
#: A value of the worker's settings: in a URL, a header or a body, or as a persona's token.
VALUE = re.compile(r"\$(?P<name>[A-Z][A-Z0-9_]*)")
PERSONA_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$"


def _check_setting(name: str) -> str:
    if re.fullmatch(SETTING_PATTERN.removesuffix("$"), name) is None:
        raise Wrong(
            f"`{shown(name)}` is not a setting of the application's own",
            "Write its name with its prefix, such as app.tenant.",
        )
    if name.startswith("backfilld."):
        raise Wrong(f"`{shown(name)}` is a setting of backfilld", "Remove it.")
    return name


def _check_persona(name: str) -> str:
    if re.fullmatch(PERSONA_PATTERN.removesuffix("$"), name) is None:
        raise Wrong(f"`{shown(name)}` is not a name for a persona", "Write 1 to 63 letters, digits, _, . or -.")
    return name


def _check_reference(text: str) -> str:
    if VALUE.fullmatch(text) is None:
        raise Wrong(
            "the token is written out, or is not the name of a value",
            "Put it into BACKFILLD_APPLICATION_VALUES of the workers, and write its name here, such as $MEMBER_TOKEN.",
        )
    return text


TokenReference = Annotated[
    str, AfterValidator(_check_reference), WithJsonSchema({"type": "string", "pattern": r"^\$[A-Z][A-Z0-9_]*$"})
]
SettingName = Annotated[str, AfterValidator(_check_setting)]
PersonaName = Annotated[str, AfterValidator(_check_persona)]


class Persona(FileModel):
    """Somebody who uses the application: the role that a session takes, and what its token claims."""

    role: Name = Field(description="The role that the session takes, exact.", examples=["authenticated"])
    claims: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="The claims of the token, as PostgREST puts them into `request.jwt.claims`; `role` is added where it is missing.",
        examples=[{"sub": "8f0c5a1e-0000-4000-8000-000000000001"}],
    )
    settings: dict[SettingName, Text] = Field(
        default_factory=dict,
        description="Settings of the application's own that policies read by `current_setting`.",
        examples=[{"app.tenant": "5"}],
        json_schema_extra={"propertyNames": {"pattern": SETTING_PATTERN}},
    )
    token: TokenReference | None = Field(
        default=None,
        description="The name of its token among the values of the worker's settings, for requests to the API as this persona. Without "
        "one, a worker signs a token with these claims, where its settings have a secret for that.",
        examples=["$MEMBER_TOKEN"],
    )
