"""The kinds of value a migration file holds: each checked with words of its own, and described for editors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)

from backfilld.migrations.file.windows import EXAMPLE, PATTERN, parse
from backfilld.migrations.identifiers import NAME_BYTES, TableName, Wrong, check_encodable, check_name, shown
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from backfilld.migrations.file.parameters import Binding

#: Phases a run can stop before. `done` is not one: nothing comes after it.
APPROVABLE = tuple(phase for phase in Phase if phase is not Phase.DONE)

#: Every claim of a lane checks each; a week needs no more pieces.
MOST_WINDOWS = 20


class FileModel(BaseModel):
    """Strict, so that YAML's booleans and numbers are not taken for text; by field name for code, by alias for files."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, populate_by_name=True, serialize_by_alias=True, allow_inf_nan=False
    )


_NAME_PATTERN = r"^(?![0-9]+$)[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


_FUNCTION_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"


def _check_migration_name(name: str) -> str:
    if re.fullmatch(_NAME_PATTERN.removesuffix("$"), name) is None:  # `$` would let a line break through
        what = (
            "consists of digits alone and could be mistaken for the id of a run"
            if name.isdecimal()
            else "is not a name"
        )
        raise Wrong(
            f"`{shown(name)}` {what}",
            "Write 1 to 63 letters, digits, dots, hyphens or underscores: a letter or digit first, not digits alone.",
        )
    return name


def _check_expression(text: str, info: ValidationInfo) -> str:
    if not check_encodable(text).strip():
        raise Wrong("the text is empty", "Write the SQL, or remove the key.")
    text = text.strip()  # a block scalar ends in a line break that means nothing
    return (binding.rendered(text) if (binding := _binding(info)) else text).strip()


def _check_object_name(name: str, info: ValidationInfo) -> str:
    if binding := _binding(info):
        binding.refuse_in_name(name)
    return check_name(name)


def _binding(info: ValidationInfo) -> Binding | None:
    """The parameters of the file that is read; None for a definition on record, in which they have their place already."""
    found: Binding | None = info.context
    return found


def _check_function(text: str) -> str:
    if re.fullmatch(_FUNCTION_PATTERN.removesuffix("$"), text) is None:
        raise Wrong(
            f"`{shown(text)}` does not name a function of a module",
            "Write the module, a colon and the function, such as myapp.backfills:normalise_phone.",
        )
    return text


def _check_columns(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise Wrong("there is no column in the list", "Write at least one column, or remove the key.")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise Wrong(f"`{shown(name)}` is in the list twice", "Keep one of the two.", at=(index,))
    return names


def _check_table(value: object, info: ValidationInfo) -> TableName:
    if isinstance(value, TableName):
        return value
    if isinstance(value, str):
        if binding := _binding(info):
            binding.refuse_in_name(value)
        return TableName.parse(value)
    word = "a list or a mapping was found where a table name is expected"
    if isinstance(value, bool | int | float):
        word = "the table name is read by YAML as true, false or a number, not as text"
    raise Wrong(word, 'Write the name as text, and quote it: "the name".')


def _check_phase(value: object) -> Phase:
    for phase in APPROVABLE:
        if value == phase:
            return phase
    if value == Phase.DONE:
        raise Wrong("nothing comes after `done`, so it cannot wait for an approval", "Remove it.")
    raise Wrong(
        f"`{shown(str(value))}` is not a phase", f"Write one or more of {', '.join(APPROVABLE)}, as in [contract]."
    )


def _check_once_each(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    for index, phase in enumerate(phases):
        if phase in phases[:index]:
            raise Wrong(f"`{phase}` is in the list twice", "Keep one of the two.", at=(index,))
    return phases


def _check_window(text: str) -> str:
    parse(text)
    return text


def _check_few(windows: tuple[str, ...]) -> tuple[str, ...]:
    if len(windows) > MOST_WINDOWS:
        raise Wrong(f"there are {len(windows)} windows, and a run may have {MOST_WINDOWS}", "Join some of them.")
    return windows


MigrationName = Annotated[
    str, AfterValidator(_check_migration_name), WithJsonSchema({"type": "string", "pattern": _NAME_PATTERN})
]
Name = Annotated[
    str,
    AfterValidator(_check_object_name),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": NAME_BYTES}),
]
#: Any text, the empty one too.
Text = Annotated[str, AfterValidator(check_encodable), WithJsonSchema({"type": "string"})]
Expression = Annotated[str, AfterValidator(_check_expression), WithJsonSchema({"type": "string", "pattern": r"\S"})]
#: A Python function, by its module and its name. Only a worker imports it, and only where it was told to.
Function = Annotated[
    str, AfterValidator(_check_function), WithJsonSchema({"type": "string", "pattern": _FUNCTION_PATTERN})
]
#: At least one, each at most once.
Columns = Annotated[
    tuple[Name, ...],
    Field(strict=False, json_schema_extra={"minItems": 1, "uniqueItems": True}),  # a file has lists, not tuples
    AfterValidator(_check_columns),
]
#: The same; one may stand alone.
OneOrMore = Annotated[
    Columns,
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": NAME_BYTES},
                {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1, "maxLength": NAME_BYTES},
                    "minItems": 1,
                    "uniqueItems": True,
                },
            ]
        }
    ),
]
Table = Annotated[
    TableName,
    PlainValidator(_check_table),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "minLength": 1}),
]
ApprovablePhase = Annotated[
    Phase, BeforeValidator(_check_phase), WithJsonSchema({"type": "string", "enum": list(APPROVABLE)})
]
#: Each at most once; the order does not matter.
Approvals = Annotated[tuple[ApprovablePhase, ...], AfterValidator(_check_once_each)]
Window = Annotated[
    str,
    AfterValidator(_check_window),
    WithJsonSchema({"type": "string", "pattern": PATTERN, "examples": [EXAMPLE]}),
]
#: A run works while any of them is open.
Windows = Annotated[tuple[Window, ...], AfterValidator(_check_few)]
