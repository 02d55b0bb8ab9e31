"""Loading a file into a table: where the rows come from, and what becomes of rows that are there already."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from backfilld.migrations.file.fields import Columns, Expression, FileModel, Name, Table, Text
from backfilld.migrations.file.operations.base import TABLE, OperationModel, Settled
from backfilld.migrations.identifiers import Wrong, shown

_CONFLICT_PATTERN = r"^(update|nothing|error|newer\(.+\))$"
_NEWER = re.compile(r"newer\((?P<column>.+)\)", re.DOTALL)


def _check_conflict(text: str) -> str:
    if text not in {"update", "nothing", "error"} and _NEWER.fullmatch(text) is None:
        raise Wrong(
            f"`{shown(text)}` is no answer to a row that is there already",
            "Write update, nothing, error or newer(column), with a column that tells which of two rows is newer.",
        )
    return text


def _check_delimiter(text: str) -> str:
    if len(text.encode()) != 1 or text in '"\r\n\\':
        raise Wrong(f"`{shown(text)}` cannot separate fields", "Write one ASCII character, such as , or ; or \\t.")
    return text


Conflict = Annotated[
    str, AfterValidator(_check_conflict), WithJsonSchema({"type": "string", "pattern": _CONFLICT_PATTERN})
]
Delimiter = Annotated[
    Text, AfterValidator(_check_delimiter), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 1})
]


def _check_bucket_key(text: str) -> str:
    name, _, key = text.partition("/")
    if not name or any(part in {"", ".", ".."} for part in key.split("/")) or not text.isprintable():
        raise Wrong(
            f"`{shown(text)}` names no object", "Write the name of a source and a key: lake/exports/products.csv."
        )
    return text


SourceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
BucketKey = Annotated[Text, AfterValidator(_check_bucket_key)]
_URL = "s3://"
#: Where the rows may come from.
_PLACES = ("file", "query", "s3")


class Source(FileModel):
    """Where the rows of a load come from."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["file"]}, {"required": ["query"]}, {"required": ["s3"]}]
        }  # `_one_source`, for editors
    )

    file: Text | None = Field(
        default=None,
        description="The file, as who enqueues the migration finds it. `enqueue` sends it to the database; `.gz` is read as "
        "gzip, `.zst` as zstd. `s3://BUCKET/KEY` is an object, as in `s3`.",
        examples=["products.csv"],
    )
    database: SourceName | None = Field(
        default=None,
        description="With `query`: of another PostgreSQL, by the name of a source in the worker's settings. A worker reads it.",
        examples=["legacy"],
    )
    query: Expression | None = Field(
        default=None,
        description="In place of `file`: a query of the same database, or of `database`, whose columns are the fields.",
        examples=["SELECT sku, price FROM imports.products"],
    )
    s3: BucketKey | None = Field(
        default=None,
        description="In place of `file`: an object in a bucket, as the name of a source in the worker's settings and the key. A worker "
        "reads it.",
        examples=["lake/exports/products.csv.gz"],
    )
    format: Literal["csv", "ndjson", "parquet"] = Field(
        default="csv", description="`csv`; `ndjson`: one JSON object a line; or `parquet`.", examples=["csv"]
    )
    header: bool = Field(default=True, description="Whether the first line of a CSV file names its fields.")
    fields: Columns | None = Field(
        default=None,
        description="The names of the fields, in their order, for a CSV file without a header, or for a source that only workers read.",
        examples=[["sku", "price"]],
    )
    delimiter: Delimiter = Field(default=",", description="What separates the fields of a CSV file.", examples=[";"])
    null: Text = Field(default="", description="What stands for NULL in a CSV file, where it is not quoted.")

    @model_validator(mode="before")
    @classmethod
    def _url(cls, given: Any) -> Any:  # Any: as the file has it
        """An object may be named as its URL, where files are."""
        if isinstance(given, dict) and isinstance(file := given.get("file"), str) and file.startswith(_URL):
            if "s3" in given:
                raise Wrong("a load has one source", "Write either `file` or `s3`.", at=("s3",))
            return {name: value for name, value in given.items() if name != "file"} | {"s3": file.removeprefix(_URL)}
        return given

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        found = [name for name in _PLACES if getattr(self, name) is not None]
        if len(found) != 1:
            raise Wrong(
                "a load has one source", "Write either `file`, `query` or `s3`.", at=(found[-1] if found else "file",)
            )
        if self.database is not None and self.query is None:
            raise Wrong("a query says what is read of the database", "Write `query`.", at=("database",))
        return self

    @property
    def is_read_by_a_worker(self) -> bool:
        """Not by who enqueues the migration."""
        return self.file is None

    @property
    def place(self) -> str | None:
        """The name in the worker's settings of where it lies."""
        return self.s3.partition("/")[0] if self.s3 is not None else self.database

    @property
    def name(self) -> str:
        """What people call it."""
        return self.file or self.s3 or (f"the query of {self.database}" if self.database is not None else "its query")

    @model_validator(mode="after")
    def _fields_have_names(self) -> Self:
        if self.format == "csv" and not self.header and self.fields is None:
            raise Wrong("without a header nothing names the fields", "Name them: fields: [sku, price].", at=("fields",))
        if self.fields is not None and self.place is None and (self.header or self.format != "csv"):
            raise Wrong("the fields have their names in the file", "Remove it.", at=("fields",))
        return self


class Load(OperationModel):
    """Insert and update rows from a file, in batches; what cannot be loaded is set aside line by line."""

    kind: ClassVar[Literal["load"]] = "load"
    does = "Load a file into a table: insert what is new, update what is there."

    table: Table = TABLE
    source: Source = Field(alias="from", description="Where the rows come from.")
    columns: Annotated[dict[Name, Expression], Field(min_length=1)] | None = Field(
        default=None,
        description="Columns of the table, each with the field that it gets, or with an SQL expression over fields: `$name` is the "
        "text of a field (default: every field goes into the column of its name).",
        examples=[{"sku": "sku", "price": "replace($price, ',', '.')::numeric"}],
    )
    key: Columns = Field(description="The columns of a unique key, by which rows are found.", examples=[["sku"]])
    on_conflict: Conflict | None = Field(
        default=None,
        description="What becomes of a row that is there already: `update`, `nothing` (left as it is), `error` (the line is set "
        "aside), or `newer(column)` (updated where the file has a greater value). Default: update; error with `mode: insert`.",
        examples=["update", "newer(updated_at)"],
    )
    duplicates: Literal["last", "first", "quarantine"] = Field(
        default="last",
        description="Which of several lines with one key counts; `quarantine` sets all of them aside.",
    )
    mode: Literal["upsert", "insert", "update"] = Field(
        default="upsert",
        description="`insert` adds rows and updates none; `update` updates rows and adds none: a line without its row is set aside.",
    )
    identity: bool = Field(
        default=False,
        description="Whether a GENERATED ALWAYS AS IDENTITY column gets its values from the file.",
    )

    @model_validator(mode="after")
    def _insert_updates_nothing(self) -> Self:
        if self.mode == "insert" and self.on_conflict is not None and self.updates:
            raise Wrong(
                "`mode: insert` updates no row", "Write nothing or error, or remove `mode`.", at=("on_conflict",)
            )
        if self.mode == "update" and self.on_conflict in {"nothing", "error"}:
            raise Wrong(
                "`mode: update` is for rows that are there", "Write update or newer(column).", at=("on_conflict",)
            )
        return self

    @property
    def conflict(self) -> str:
        """What becomes of a row that is there already."""
        return self.on_conflict or ("error" if self.mode == "insert" else "update")

    @property
    def newer(self) -> str | None:
        """The column that tells which of two rows is newer."""
        found = _NEWER.fullmatch(self.conflict)
        return found["column"] if found else None

    @property
    def updates(self) -> bool:
        """Whether rows that are there may be updated."""
        return self.conflict not in {"nothing", "error"}

    @property
    def subject(self) -> str:
        return f"from {shown(self.source.name)}"

    @property
    def settles(self) -> tuple[Settled, ...]:
        return tuple(Settled(name, "filled", ("columns", name)) for name in self.columns or ())
