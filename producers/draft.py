"""The first draft of a migration file: one operation on one table, with the names that the catalog has, and every key explained.

The keys and their descriptions are those of the file's models, so an operation that is added can be drafted without a change here.
What a person must decide gets a value that the parser, and wherever one is known to be possible `plan`, accepts.
"""

from __future__ import annotations

import difflib
import json
import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import yaml
from psycopg import sql

from backfilld.migrations.errors import UsageError
from backfilld.migrations.file.fields import FileModel
from backfilld.migrations.file.operations import ColumnSpec, Operation
from backfilld.migrations.identifiers import NAME_BYTES, TableName
from backfilld.migrations.postgres import catalog
from backfilld.migrations.queries import queries
from backfilld.migrations.record import runs, schema
from backfilld.migrations.record.states import ENDED
from backfilld.monitoring.words import counted, safe, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pydantic.fields import FieldInfo

    from backfilld.migrations.file.operations import OperationModel
    from backfilld.migrations.postgres.catalog import Column, Table
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "draft")

#: Width of a comment: an editor beside a terminal shows it whole.
COMMENT_WIDTH = 100
#: Operations that make their table, and so want none of that name.
_MAKE_TABLES = frozenset({"create_table"})

OPERATIONS: Mapping[str, type[OperationModel]] = {model.kind: model for model in get_args(Operation)}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the catalog and the record say of the table that a draft is about."""

    name: TableName
    #: None for a table that is not there yet.
    table: Table | None = None
    rows: int = 0
    #: As SQL writes each column's name.
    quoted: Mapping[str, str]
    indexes: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    #: Tables that a foreign key may refer to by a key of one column: each with the type of it.
    referable: tuple[tuple[TableName, str], ...] = ()
    #: Runs on it that have not ended, in words.
    live: tuple[str, ...] = ()
    #: The role that asks.
    role: str = ""


# --- what is there -----------------------------------------------------------------------------------------------------


def draft(connection: Connection, table: str, operation: str, columns: Sequence[str] = ()) -> str:
    """The text of a file. Raises UsageError for an operation, a table or a column that is not there."""
    model = OPERATIONS.get(operation)
    if model is None:
        near = difflib.get_close_matches(operation, OPERATIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(OPERATIONS)}"
        msg = f"there is no operation {operation}; {hint}"
        raise UsageError(msg)
    return write(look(connection, table, operation), model, columns)


def look(connection: Connection, table: str, operation: str) -> Subject:
    """What is known of a table. Raises UsageError for one that is not there, or, of an operation that makes it, is there already."""
    try:
        name = TableName.parse(table)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    found = catalog.describe(connection, name)
    if operation in _MAKE_TABLES:
        if found is not None:
            msg = f"there is a table {name} already, and {operation} makes one"
            raise UsageError(msg)
        return Subject(name=name, quoted={})
    if found is None or found.kind not in catalog.TABLES:
        similar = [str(TableName(*one)) for one in catalog.similar_tables(connection, name)]
        near = difflib.get_close_matches(str(name), similar, n=3) or similar[:5]
        msg = f"there is no table {name} that this role can see" + (f"; there is {', '.join(near)}" if near else "")
        raise UsageError(msg)
    parts = connection.execute(_SQL["parts"], {"oid": found.oid}).fetchall()
    referable = connection.execute(_SQL["referable"], {"schema": name.schema}).fetchall()
    return Subject(
        name=name,
        table=found,
        rows=catalog.estimate_rows(connection, found),
        quoted={one["name"]: one["quoted"] for one in parts if one["kind"] == "column"},
        indexes=tuple(one["name"] for one in parts if one["kind"] == "index"),
        constraints=tuple(one["name"] for one in parts if one["kind"] == "constraint"),
        referable=tuple((TableName(one["schema"], one["name"]), one["type"]) for one in referable),
        live=_live(connection, name),
        role=connection.info.user,
    )


def _live(connection: Connection, table: TableName) -> tuple[str, ...]:
    """Runs on a table that have not ended; none in a database without a record."""
    if schema.version(connection) != schema.newest():
        return ()
    return tuple(
        f"{run.name} (run {run.run}), {run.state.words} in {run.phase}: {of.summary}"
        for run in runs.listed(connection)
        if run.state not in ENDED
        for of in run.migration.operations
        if of.table == table
    )


# --- the text ----------------------------------------------------------------------------------------------------------


def write(subject: Subject, model: type[OperationModel], columns: Sequence[str] = ()) -> str:
    """The file. Raises UsageError for a column that is not there."""
    begun = _Draft(subject, model, tuple(columns))
    personas = begun.personas() if model.kind == "replace_policies" else ()
    lines = [*_head(subject, model), f"name: {begun.migration}", *personas, "operations:", f"  - {model.kind}:"]
    lines += begun.keys(model, indent=6)
    return "\n".join(lines) + "\n"


def _head(subject: Subject, model: type[OperationModel]) -> Iterator[str]:
    """What a person should know of the table before anything else."""
    table = subject.table
    if table is None:
        yield from _comment(f"{subject.name}: a new table.", 0)
    else:
        known = [
            f"about {counted(subject.rows, 'row')}",
            size(table.heap_bytes),
            f"indexes {size(table.index_bytes)}",
            f"key {', '.join(column.name for column in table.keys[0].columns)}" if table.keys else "no key",
        ]
        yield from _comment(f"{subject.name}: {' · '.join(known)}", 0)
        wide = max((len(safe(column.name)) for column in table.columns), default=0)
        for column in table.columns:
            yield f"#   {safe(column.name):<{wide}}  {safe(column.type)}{_remarks(column)}"
        if table.row_security_active:
            yield from _comment("row security is active for this role: it may not see every row", 0)
        for what, values in (
            ("triggers", [trigger.name for trigger in table.triggers]),
            ("published by", table.publications),
            ("depend on it", table.dependents),
            ("indexes", subject.indexes),
            ("constraints", subject.constraints),
            ("runs on it now", subject.live),
        ):
            if values:
                yield from _comment(f"{what}: {', '.join(values)}", 0)
    yield "#"
    yield from _comment(f"{model.does} How, with which locks, and its way back: docs/operations/{model.kind}.md", 0)
    yield from _comment("Keys behind a # may be left out. See what it would do: backfilld plan FILE", 0)
    yield ""


def _remarks(column: Column) -> str:
    said = [
        word
        for word, is_so in (
            ("NOT NULL", column.not_null),
            ("DEFAULT", column.has_default and not column.generated),
            ("GENERATED", column.generated),
            ("IDENTITY", column.identity_always),
        )
        if is_so
    ]
    return "".join(f" {word}" for word in said)


class _Draft:
    """The keys of one operation, each with its description, and a value where one is needed."""

    def __init__(self, subject: Subject, model: type[OperationModel], asked: tuple[str, ...]) -> None:
        self.subject = subject
        self._kind = model.kind
        self._adds = any(field.annotation is ColumnSpec for field in model.model_fields.values())
        self._asked = asked
        if not self._adds and subject.table is not None:
            for name in asked:
                _require(subject.table, name)
        self.columns = asked if asked and not self._adds else self._chosen()
        self.column = self.columns[0] if self.columns else "id"
        self.quoted = subject.quoted.get(self.column, self.column)

    @property
    def added(self) -> str:
        """The name of the column that is added."""
        return self._asked[0] if self._adds and self._asked else "new_column"

    @property
    def column_type(self) -> str:
        found = self.subject.table.column(self.column) if self.subject.table is not None else None
        return found.type if found is not None else "text"

    @property
    def migration(self) -> str:
        """The migration's name: what is done to what."""
        parts = [self.subject.name.name, self._kind.replace("_", "-"), *self._asked]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).strip("-._")[:NAME_BYTES]
        return _scalar(name or self._kind)

    def name(self, suffix: str) -> str:
        """The name of something new, as PostgreSQL would choose it."""
        return _cut("_".join([self.subject.name.name, *self.columns[:2], suffix]))

    def keys(self, model: type[FileModel], *, indent: int) -> Iterator[str]:
        """The keys of a model: those that are needed, then those that may be left out, as comments."""
        left_out: list[str] = []
        for name, field in model.model_fields.items():
            key = field.alias or name
            if (value := self._value(key, field)) is not None:
                yield from self._key(key, field, value, indent)
            elif field.is_required() and (nested := _nested(field)) is not None:
                yield from self._key(key, field, nested, indent)
            elif field.is_required():
                yield from self._key(key, field, _example(field), indent)
            else:
                left_out += [*_comment(_described(field), indent), self._optional(key, field, indent)]
        yield from left_out

    def _key(self, key: str, field: FieldInfo, value: object, indent: int) -> Iterator[str]:
        yield from _comment(_described(field), indent)
        if isinstance(value, type) and issubclass(value, FileModel):
            yield f"{' ' * indent}{key}:"
            inner = list(self.keys(value, indent=indent + (4 if _is_many(field) else 2)))
            if _is_many(field):
                first = next(number for number, line in enumerate(inner) if not line.lstrip().startswith("#"))
                inner[first] = f"{' ' * (indent + 2)}- {inner[first].lstrip()}"
                inner[:first] = [line[2:] for line in inner[:first]]
            yield from inner
        else:
            yield f"{' ' * indent}{key}: {_scalar(value)}"

    def _value(self, key: str, field: FieldInfo) -> object | None:
        """The value that the catalog suggests; None where it has none to offer, or where the key may be left out."""
        of_this = _VALUES.get((self._kind, key))
        if of_this is not None:
            return of_this(self)
        of_all = _VALUES.get(("", key)) if field.is_required() and _nested(field) is None else None
        return of_all(self) if of_all is not None else None

    def _optional(self, key: str, field: FieldInfo, indent: int) -> str:
        """A key that may be left out, behind a #: with a name that is there, an example, or what it is when it is left out."""
        if (named := _NAMES.get(key)) is not None and _nested(field) is None and (found := named(self)):
            value = _scalar(found)
        elif field.examples:
            value = _scalar(field.examples[0])
        elif isinstance(field.default, bool):
            value = _scalar(not field.default)
        else:
            value = _scalar(field.default) if isinstance(field.default, str | int | float) else "…"
        return f"{' ' * indent}# {key}: {value}"

    def _chosen(self) -> tuple[str, ...]:
        """The column that an operation would most likely be about, when none was named."""
        table = self.subject.table
        if table is None or not table.columns:
            return ()
        key = {column.name for column in table.keys[0].columns} if table.keys else set()
        if self._kind == "add_primary_key":
            return tuple(key) or (table.columns[0].name,)
        ordinary = [one for one in table.columns if one.name not in key and not one.generated] or list(table.columns)
        fits = _FITS.get(self._kind)
        likely = next((one for one in ordinary if fits is None or fits(one)), ordinary[0])
        return (likely.name,)

    def personas(self) -> Iterator[str]:
        """As whom policies are compared."""
        yield from _comment("One for each kind of user whom the policies tell apart.", 0)
        yield from (
            "application:",
            "  personas:",
            f"    member: {{role: {_scalar(self.subject.role)}, claims: {{sub: somebody}}}}",
        )

    # What the values are made of

    def wider(self) -> str:
        """A type that takes every value of the column's present one."""
        base = re.sub(r"\(.*\)", "", self.column_type).strip()
        return {
            "smallint": "bigint",
            "integer": "bigint",
            "real": "double precision",
            "json": "jsonb",
            "text": "jsonb",
        }.get(base, "text")

    def literal(self) -> str:
        """A DEFAULT that fits the column's type."""
        for begins, value in _LITERALS:
            if self.column_type.startswith(begins):
                return value
        return self.quoted

    @property
    def new_quoted(self) -> str:
        """The name of the column's successor, as SQL writes it."""
        return sql.Identifier(f"{self.column}_new").as_string()

    def referenced(self) -> dict[str, str]:
        """A table that the column may refer to: the one that its name speaks of, or one whose key has its type."""
        fitting = [table for table, type_ in self.subject.referable if type_ == self.column_type]
        stem = self.column.removesuffix("_id")
        named = [table for table in fitting if table.name in {stem, f"{stem}s", f"{stem}es"}]
        return {"table": str((named or fitting or [self.subject.name])[0])}

    def key(self) -> list[str]:
        """The columns of the table's first key; one column where it has none."""
        keys = self.subject.table.keys if self.subject.table is not None else ()
        return [one.name for one in keys[0].columns] if keys else [self.column]

    def existing(self, names: Sequence[str]) -> str | None:
        return names[0] if names else None

    def comment_statement(self, text: str) -> str:
        return f"COMMENT ON TABLE {self.subject.name.identifier.as_string()} IS {text}"


#: What a column must be for an operation to have anything to do.
_FITS: Mapping[str, Callable[[Column], bool]] = {
    "set_not_null": lambda column: not column.not_null,
    "drop_not_null": lambda column: column.not_null,
    "drop_default": lambda column: column.has_default,
    "backfill": lambda column: not column.not_null,
    "delete_rows": lambda column: not column.not_null,
    "add_foreign_key": lambda column: column.name.endswith("_id"),
    "drop_column": lambda column: not column.not_null or column.has_default,
}
_LITERALS = (
    ("smallint", "0"), ("integer", "0"), ("bigint", "0"), ("numeric", "0"), ("real", "0"), ("double", "0"),
    ("text", "''"), ("character", "''"), ("boolean", "false"), ("timestamp", "now()"), ("date", "now()"), ("json", "'{}'"),
    ("uuid", "gen_random_uuid()"),
)  # fmt: skip

#: Names for keys that may be left out, whatever the operation.
_NAMES: Mapping[str, Callable[[_Draft], object | None]] = {
    "table": lambda draft: str(draft.subject.name),
    "column": lambda draft: draft.column,
    "columns": lambda draft: list(draft.columns),
    "constraint": lambda draft: draft.existing(draft.subject.constraints),
    "index": lambda draft: draft.existing(draft.subject.indexes),
}

#: Values by operation and key; those of no operation are for every key of the name that cannot be left out.
_VALUES: Mapping[tuple[str, str], Callable[[_Draft], object | None]] = {
    ("", "table"): lambda draft: str(draft.subject.name),
    ("", "column"): lambda draft: draft.column,
    ("", "columns"): lambda draft: list(draft.columns) or None,
    ("", "from"): lambda draft: draft.column,
    ("", "to"): lambda draft: _cut(f"{draft.column}_new"),
    ("", "check"): lambda draft: f"{draft.quoted} IS NOT NULL",
    ("", "where"): lambda draft: f"{draft.quoted} IS NULL",
    ("", "default"): lambda draft: draft.literal(),
    ("add_column", "name"): lambda draft: draft.added,
    ("add_column", "type"): lambda _: "text",
    ("add_check", "name"): lambda draft: draft.name("check"),
    ("add_foreign_key", "name"): lambda draft: draft.name("fkey"),
    ("add_foreign_key", "references"): lambda draft: draft.referenced(),
    ("add_unique", "name"): lambda draft: draft.name("key"),
    ("create_table", "name"): lambda _: "id",
    ("create_table", "type"): lambda _: "bigint",
    ("create_table", "identity"): lambda _: "always",
    ("create_table", "primary_key"): lambda _: ["id"],
    ("create_index", "name"): lambda draft: draft.name("idx"),
    ("create_index", "columns"): lambda draft: list(draft.columns),
    ("drop_index", "name"): lambda draft: draft.existing(draft.subject.indexes),
    ("drop_constraint", "name"): lambda draft: draft.existing(draft.subject.constraints),
    ("rename_constraint", "from"): lambda draft: draft.existing(draft.subject.constraints),
    ("rename_constraint", "to"): lambda draft: _cut(f"{draft.existing(draft.subject.constraints) or 'its'}_new"),
    ("rename_table", "to"): lambda draft: _cut(f"{draft.subject.name.name}_new"),
    ("change_type", "type"): lambda draft: draft.wider(),
    ("change_type", "up"): lambda draft: f"to_jsonb({draft.quoted})" if draft.column_type == "text" else None,
    ("change_type", "down"): lambda draft: f"{draft.quoted} #>> '{{}}'" if draft.column_type == "text" else None,
    ("backfill", "set"): lambda draft: {draft.column: draft.literal()},
    ("backfill", "where"): lambda draft: f"{draft.quoted} IS NULL",
    ("replace_policies", "name"): lambda draft: _cut(f"{draft.subject.name.name}_read"),
    ("replace_policies", "for"): lambda _: "select",
    ("replace_policies", "using"): lambda draft: f"{draft.quoted} IS NOT NULL",
    ("load", "key"): lambda draft: draft.key(),
    ("load", "file"): lambda draft: f"{draft.subject.name.name}.csv",
    ("change_key", "column"): lambda draft: draft.key()[0],
    ("change_key", "type"): lambda _: "uuid",
    ("change_key", "values"): lambda _: "gen_random_uuid()",
    ("change_columns", "up"): lambda draft: {f"{draft.column}_new": draft.quoted},
    ("change_columns", "down"): lambda draft: {draft.column: draft.new_quoted},
    ("move_column", "from"): lambda draft: str(draft.subject.name),
    ("sql", "run"): lambda draft: draft.comment_statement("'what it is for'"),
    ("sql", "rollback"): lambda draft: draft.comment_statement("NULL"),
}


def _require(table: Table, column: str) -> None:
    if table.column(column) is None:
        names = [one.name for one in table.columns]
        near = difflib.get_close_matches(column, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(names)}"
        msg = f"{table.name} has no column {column}; {hint}"
        raise UsageError(msg)


# --- YAML --------------------------------------------------------------------------------------------------------------


def _nested(field: FieldInfo) -> type[FileModel] | None:
    """The model that a key holds, or holds a list of."""
    for one in (field.annotation, *get_args(field.annotation)):
        if isinstance(one, type) and issubclass(one, FileModel):
            return one
    return None


def _is_many(field: FieldInfo) -> bool:
    return not isinstance(field.annotation, type)


def _described(field: FieldInfo) -> str:
    return field.description or ""


def _example(field: FieldInfo) -> Any:  # Any: a value of a file
    return field.examples[0] if field.examples else _first_of(field.annotation)


def _first_of(annotation: Any) -> Any:  # Any: a type, and a value of it
    return next(iter(get_args(annotation)), "")


def _comment(text: str, indent: int) -> Iterator[str]:
    for line in textwrap.wrap(safe(text), COMMENT_WIDTH - indent, break_long_words=False, break_on_hyphens=False):
        yield f"{' ' * indent}# {line}"


def _scalar(value: object) -> str:
    """A value as YAML has it on one line, and as a person would quote it."""
    match value:
        case dict():
            return f"{{{', '.join(f'{_scalar(key)}: {_scalar(one)}' for key, one in value.items())}}}"
        case list() | tuple():
            return f"[{', '.join(_scalar(one) for one in value)}]"
        case str() if "'" in value:
            return json.dumps(value, ensure_ascii=False)  # what JSON quotes YAML reads
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n...\n").removesuffix("\n")


def _cut(name: str) -> str:
    """A name that PostgreSQL keeps whole."""
    return name.encode()[:NAME_BYTES].decode(errors="ignore")
