"""A migration as its file writes it: read, checked, and from then on never changed.

The models know the rules of the file alone. Whether a table exists and an expression is valid SQL is for preflight,
which has a database to ask.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, cast, get_args

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    WrapSerializer,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema

from backfilld.migrations.errors import InvalidMigration
from backfilld.migrations.file import operations, yaml_nodes
from backfilld.migrations.file.application import Application
from backfilld.migrations.file.errors import first_error
from backfilld.migrations.file.fields import FileModel, MigrationName
from backfilld.migrations.file.operations import *  # noqa: F403 - an operation is listed in one place, as __all__ there
from backfilld.migrations.file.operations import Operation
from backfilld.migrations.file.parameters import NAME_PATTERN, Binding, Parameter, ParameterName
from backfilld.migrations.file.run_settings import RunSettings
from backfilld.migrations.identifiers import TableName, Wrong, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.migrations.file.parameters import Given

__all__ = ["Migration", "RunSettings", "TableName", "json_schema", "load", "parse"]
__all__ += operations.__all__

#: Far above any migration written by hand; keeps `load("/dev/zero")` from filling the memory.
MAX_FILE_BYTES = 1024 * 1024
#: Above any plan a person can review in one sitting.
MAX_OPERATIONS = 50


class _OneOperation(FileModel):
    """One operation: its kind as the only key, and what it needs below that."""

    model_config = ConfigDict(title="Operation", json_schema_extra={"minProperties": 1, "maxProperties": 1})

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise Wrong(
                f"an entry holds one operation, this one holds {len(self.model_fields_set)}",
                "Start each operation with a dash of its own.",
            )
        return self


_KEYS: dict[str, Any] = {  # Any: as pydantic has it
    model.kind: (model | None, Field(default=None, description=model.does)) for model in get_args(Operation)
}
#: `_OneOperation` with a key for each kind.
Entry = create_model("Entry", __base__=_OneOperation, __doc__=_OneOperation.__doc__, **_KEYS)


def _unwrap(value: object, info: ValidationInfo) -> Operation:
    """From `{add_column: {…}}` to the operation itself; pydantic joins the errors found here to its own."""
    if isinstance(value, Operation):
        return value
    entry = Entry.model_validate(value, by_alias=True, by_name=False, context=info.context)
    (kind,) = entry.model_fields_set  # exactly one is there: `_exactly_one`
    return cast("Operation", getattr(entry, kind))


def _wrap(operation: Operation, inner: SerializerFunctionWrapHandler) -> dict[str, object]:
    return {operation.kind: inner(operation)}


@dataclass(frozen=True)
class _Place:
    """Where a file lies. Two migrations that say the same are the same, wherever their files are."""

    folder: Path | None = field(default=None, compare=False)


class Migration(FileModel):
    """A migration file for `backfilld`."""

    name: MigrationName = Field(
        description="What the run is called; the same name with other contents is refused.",
        examples=["jobs-new-field"],
    )
    parameters: dict[ParameterName, Parameter] = Field(  # before the operations, which use them
        default_factory=dict,
        description="Values that are given when the migration is enqueued; expressions use one as `${name}`.",
        examples=[{"tenant": {"type": "integer"}}],
        json_schema_extra={"propertyNames": {"pattern": NAME_PATTERN}},
    )
    after: Annotated[tuple[MigrationName, ...], Field(strict=False)] = Field(
        default=(),
        description="Migrations that must be verified before this one begins.",
        examples=[["jobs-new-field"]],
        json_schema_extra={"uniqueItems": True},
    )
    operations: tuple[
        Annotated[Operation, BeforeValidator(_unwrap, json_schema_input_type=Entry), WrapSerializer(_wrap)], ...
    ] = Field(
        strict=False,  # a file has lists, not tuples
        description="What to do, in order.",
        # Counted in `_a_sensible_number`: pydantic's own count leaves out entries that are wrong in themselves.
        json_schema_extra={"minItems": 1, "maxItems": MAX_OPERATIONS},
    )
    application: Application | None = Field(
        default=None,
        description="What to check of the application around the database: nothing without this key.",
        examples=[{"statements": {"files": ["queries/*.sql"]}}],
    )
    settings: RunSettings = Field(default_factory=RunSettings, description="How the run behaves.")

    _place: _Place = PrivateAttr(default=_Place())
    #: What the file says, to be read once more with other values; None for a definition on record.
    _source: tuple[yaml_nodes.Document, str] | None = PrivateAttr(default=None)

    @field_validator("parameters")
    @classmethod
    def _bound(cls, declared: dict[str, Parameter], info: ValidationInfo) -> dict[str, Parameter]:
        return info.context.bind(declared) if isinstance(info.context, Binding) else declared

    @model_validator(mode="after")
    def _after_others(self) -> Self:
        for index, name in enumerate(self.after):
            if name == self.name:
                raise Wrong("the migration cannot begin after itself", "Remove it.", at=("after", index))
            if name in self.after[:index]:
                raise Wrong(f"`{name}` is in the list twice", "Keep one of the two.", at=("after", index))
        return self

    @field_validator("operations")
    @classmethod
    def _a_sensible_number(cls, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        if not operations:
            raise Wrong("there is no operation", "Write at least one, behind a dash.")
        if len(operations) > MAX_OPERATIONS:
            raise Wrong(
                f"there are {len(operations)} operations, and a file may have {MAX_OPERATIONS}",
                "Split the migration into several files.",
            )
        return operations

    @model_validator(mode="after")
    def _columns_are_settled_once(self) -> Self:
        """Two operations that fill one column would undo each other's work, and neither could be verified."""
        settled: dict[tuple[TableName, str], tuple[str, int]] = {}
        for index, operation in enumerate(self.operations):
            for name, what, key in operation.settles:
                column = (cast("TableName", operation.table), name)
                at: yaml_nodes.Path = ("operations", index, operation.kind, *key)
                earlier = settled.get(column)
                if earlier is not None and (earlier[0], what) != ("filled", "filled"):
                    _refuse_second(column, earlier, at)
                settled.setdefault(column, (what, index))
        return self

    @property
    def checked_application(self) -> Application | None:
        """What is checked of the application's statements, and what a finding does; None for nothing, as where it only has personas."""
        return None if self.application is None or self.application.only_personas else self.application

    @property
    def checksum(self) -> str:
        """`sha256:…` over what the migration means: its name, its operations, and the values of its parameters.

        Not over comments, layout, the order of keys, or values that equal their default. Not over `settings` either:
        they may be tuned while the run continues, and a tuned file must still be the same migration. Nor over `after`,
        which a folder adds to, or `application`, which says what is looked at and changes nothing.
        """
        meaning = self.model_dump(mode="json", include={"name", "operations"}, exclude_defaults=True, exclude_none=True)
        if self.parameters:
            meaning["parameters"] = {name: [one.type, one.default] for name, one in self.parameters.items()}
        text = json.dumps(meaning, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def canonical(self) -> dict[str, Any]:  # JSON: mappings of anything
        """The migration as JSON in the shape of the file, every default written out; `from_canonical` reads it.

        The values of parameters stand where they are used, and as their defaults.
        """
        unused = {name for name in ("parameters", "after") if not getattr(self, name)}
        return self.model_dump(mode="json", exclude_none=True, exclude=unused)

    @classmethod
    def from_canonical(cls, stored: dict[str, Any]) -> Self:  # JSON: mappings of anything
        """Read what `canonical` wrote; raises `InvalidMigration` when it is damaged or from another version."""
        return cls._checked(yaml_nodes.Document(data=stored, places={}), file="<stored definition>", binding=None)

    def with_parameters(self, values: Mapping[str, Given]) -> Self:
        """What the same file says with other values. Raises UsageError for values that do not fit it."""
        if self._source is None:
            msg = f"the migration {self.name} was not read from a file"
            raise LookupError(msg)
        document, file = self._source
        return self._checked(document, file=file, binding=Binding(values))

    @property
    def folder(self) -> Path | None:
        """The folder that the file lies in; None for what was not read from one."""
        return self._place.folder

    @property
    def values(self) -> dict[str, str]:
        """The values of its parameters, as texts."""
        return {name: str(one.default) for name, one in self.parameters.items()}

    @classmethod
    def _checked(cls, document: yaml_nodes.Document, *, file: str, binding: Binding | None) -> Self:
        try:
            found = cls.model_validate(document.data, by_alias=True, by_name=False, context=binding)
        except ValidationError as exc:
            raise first_error(exc, document, file=file, schema=json_schema()) from None
        if binding is not None and found.parameters:
            found._source = document, file  # noqa: SLF001 - its own
        elif binding is not None:
            binding.bind({})  # which refuses a value that nothing asks for
        return found


def _refuse_second(column: tuple[TableName, str], earlier: tuple[str, int], at: yaml_nodes.Path) -> None:
    table, name = column
    done, index = earlier
    raise Wrong(
        f"the column `{shown(name)}` of `{shown(str(table))}` is {done} by operations[{index}] already",
        "Settle the column in one operation, or move the second one to a migration of its own, with `after:` this one.",
        at=at,
    )


def load(path: str | Path, parameters: Mapping[str, Given] | None = None, *, others_too: bool = False) -> Migration:
    """Read a migration file, with values for its parameters; raises `InvalidMigration`, also when the file cannot be read at all.

    Raises UsageError for a value that is unknown, missing or of another type; with `others_too`, unknown ones are for other files.
    """
    file = str(path)
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as exc:  # ValueError: the path itself holds a NUL
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        problem, remedy = f"the file cannot be read: {reason}", "Check the path and the permissions of the file."
        raise InvalidMigration(shown(file) if "\x00" in file else file, 1, "", problem, remedy) from exc
    if len(content) > MAX_FILE_BYTES:
        raise InvalidMigration(file, 1, "", "the file is larger than 1 MiB", "Name a migration file, or split it.")
    try:
        text = content.decode("utf-8-sig")  # -sig: some editors begin a file with a byte order mark
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise InvalidMigration(file, line, "", "the file is not UTF-8 text", "Save it with encoding UTF-8.") from exc
    found = parse(text, file=file, parameters=parameters, others_too=others_too)
    found._place = _Place(Path(path).parent)  # noqa: SLF001 - as above
    return found


def parse(
    text: str,
    *,
    file: str = "<string>",
    parameters: Mapping[str, Given] | None = None,
    others_too: bool = False,
) -> Migration:
    """Read the text of a migration file, as `load` does; raises `InvalidMigration` for the first error, by line."""
    document = yaml_nodes.read(text, file=file)
    binding = Binding(parameters or {}, others_too=others_too)
    return Migration._checked(document, file=file, binding=binding)  # noqa: SLF001 - one of its two doors


class _FileSchema(GenerateJsonSchema):
    """JSON Schema of the file: a key that may be left out is left out, it is never null."""

    def nullable_schema(self, schema: Any) -> dict[str, Any]:  # pydantic's own types of the two are not public
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> dict[str, Any]:  # same
        described = super().default_schema(schema)
        return {key: value for key, value in described.items() if (key, value) != ("default", None)}

    def field_title_should_be_set(self, schema: Any) -> bool:  # same
        """No title: it would only repeat the name of the key."""
        del schema
        return False


@cache
def _schema_text() -> str:
    schema = Migration.model_json_schema(by_alias=True, schema_generator=_FileSchema)
    return json.dumps({"$schema": GenerateJsonSchema.schema_dialect, **schema})


def json_schema() -> dict[str, Any]:  # JSON: mappings of anything
    """The JSON Schema (draft 2020-12) of the file, for editors; a fresh copy each time."""
    schema: dict[str, Any] = json.loads(_schema_text())
    return schema
