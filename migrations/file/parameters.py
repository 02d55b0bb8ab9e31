"""Parameters of a migration file: typed values given from outside, which expressions use as `${name}`.

A value becomes an SQL constant of its type, once, while the file is read; from then on the migration says what it does as any
other does. It never becomes a name of a table or a column, nor a part of a text in quotes: there it could end the quotes.
"""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Literal, Self

from psycopg import sql
from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator

from backfilld.migrations.errors import UsageError
from backfilld.migrations.file.fields import FileModel
from backfilld.migrations.identifiers import Wrong, check_encodable, shown
from backfilld.migrations.postgres.lexer import LEXEME, end_of_comment

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What a parameter may be given as, by a file, a command line or Python.
Given = str | bool | int | float | Decimal | dt.date

NAME_PATTERN = r"^[a-z_][a-z0-9_]{0,62}$"
#: PostgreSQL has no lexeme that begins with `${`: not a cast, not an array, not an operator of JSON.
_USED = re.compile(r"\$\{([^}]*)\}")
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


def _check_name(name: str) -> str:
    if re.fullmatch(NAME_PATTERN.removesuffix("$"), name) is None:  # `$` would let a line break through
        raise Wrong(
            f"`{shown(name)}` is not a name of a parameter",
            "Write small letters, digits and underscores, a letter first, such as `tenant_id`.",
        )
    return name


ParameterName = Annotated[str, AfterValidator(_check_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]


def _check_default(value: object) -> str | bool | int | float:
    if isinstance(value, str | bool | int | float):
        return value
    raise Wrong("a list or a mapping was found where a value is expected", "Write text, a number, or true or false.")


class Parameter(FileModel):
    """A value that is given when the migration is enqueued."""

    type: Literal["text", "integer", "number", "boolean", "date", "timestamp"] = Field(
        description="What the value is.", examples=["integer"]
    )
    default: (
        Annotated[
            str | bool | int | float,
            PlainValidator(_check_default),
            WithJsonSchema({"type": ["string", "boolean", "number"]}),
        ]
        | None
    ) = Field(default=None, description="The value where none is given; without it one has to be.", examples=[30])
    description: str | None = Field(default=None, description="What it is for, for those who give it.")

    @model_validator(mode="after")
    def _default_fits(self) -> Self:
        if self.default is not None:
            self.read(self.default)
        return self

    def read(self, given: Given) -> str:
        """A value as text, in the one way in which it is kept and compared. Raises Wrong when it is not of the type."""
        try:
            return _READERS[self.type](given)
        except (ValueError, InvalidOperation, OverflowError) as exc:
            if isinstance(exc, Wrong):
                raise
            problem = f"`{shown(str(given))}` is not {_CALLED[self.type]}"
            raise Wrong(problem, f"Write one such as {_EXAMPLES[self.type]}.", at=("default",)) from None

    @property
    def literal(self) -> str:
        """The value as an SQL constant of its type."""
        text = self.read(self.default if self.default is not None else "")
        name = {"number": "numeric"}.get(self.type, self.type)
        if self.type == "integer" and not -(2**31) <= int(text) < 2**31:
            name = "bigint"  # as PostgreSQL takes a number that integer does not hold
        if self.type == "timestamp" and dt.datetime.fromisoformat(text).tzinfo is not None:
            name = "timestamptz"
        # Not psycopg's own way for numbers, which leaves them bare: `a-${n}` would be `a--5`, and a comment.
        return f"{sql.Literal(text).as_string().strip()}::{name}"


def _integer(given: Given) -> str:
    if isinstance(given, bool) or not isinstance(given, int | str) or not re.fullmatch(r"[-+]?\d+", str(given)):
        raise ValueError(given)
    value = int(given)
    if not _SMALLEST <= value <= _LARGEST:
        raise ValueError(given)
    return str(value)


def _number(given: Given) -> str:
    if isinstance(given, bool | dt.date):
        raise ValueError(given)  # noqa: TRY004 - one error for all
    value = Decimal(str(given).strip())
    if not value.is_finite() or abs(value.adjusted()) > 1000:  # far below what PostgreSQL's numeric ends at
        raise ValueError(given)
    return format(value, "f")


def _boolean(given: Given) -> str:
    text = str(given).lower()
    if text not in {"true", "false"}:
        raise ValueError(given)
    return text


def _date(given: Given) -> str:
    if isinstance(given, dt.datetime) or not isinstance(given, str | dt.date):
        raise ValueError(given)  # noqa: TRY004 - one error for all
    return dt.date.fromisoformat(str(given)).isoformat()


def _timestamp(given: Given) -> str:
    if isinstance(given, str):
        return dt.datetime.fromisoformat(given).isoformat(sep=" ")
    if isinstance(given, dt.datetime):
        return given.isoformat(sep=" ")
    raise ValueError(given)


def _text(given: Given) -> str:
    if not isinstance(given, str):
        raise ValueError(given)  # noqa: TRY004 - one error for all
    return check_encodable(given)


_READERS = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
    "timestamp": _timestamp,
}
_CALLED = {
    "text": "text",
    "integer": "a whole number that PostgreSQL's bigint holds",
    "number": "a number",
    "boolean": "true or false",
    "date": "a date",
    "timestamp": "a time",
}
_EXAMPLES = {
    "text": '"north"',
    "integer": "42",
    "number": "0.5",
    "boolean": "true",
    "date": "2026-01-31",
    "timestamp": '"2026-01-31 12:00:00+00"; without the +00 it is a timestamp without time zone',
}


class Binding:
    """The parameters of a file while it is read, with what was given for them: they come before the operations that use them."""

    def __init__(self, given: Mapping[str, Given], *, others_too: bool = False) -> None:
        """With `others_too`, some of what is given may be for other files."""
        self._given = given
        self._others_too = others_too
        self._literals: dict[str, str] = {}

    def bind(self, declared: Mapping[str, Parameter]) -> dict[str, Parameter]:
        """The parameters, each with its value as default. Raises UsageError for a value that is unknown, missing or of another type."""
        unknown = [name for name in self._given if name not in declared]
        if unknown and not self._others_too:
            has = f"it has {', '.join(declared)}" if declared else "it has none"
            raise UsageError(f"the file has no parameter {shown(unknown[0])}: {has}")
        bound = {name: self._bound(name, one) for name, one in declared.items()}
        self._literals = {name: one.literal for name, one in bound.items()}
        return bound

    def _bound(self, name: str, declared: Parameter) -> Parameter:
        given = self._given.get(name, declared.default)
        if given is None:
            what = f": {declared.description}" if declared.description else ""
            raise UsageError(f"the parameter {name} ({declared.type}{what}) has no value: --set {name}=VALUE")
        try:
            return declared.model_copy(update={"default": declared.read(given)})
        except Wrong as exc:
            raise UsageError(f"the parameter {name}: {exc}") from None

    def rendered(self, text: str) -> str:
        """An expression with a constant in place of each `${name}`. Raises Wrong where one cannot stand."""
        if "${" not in text:
            return text
        done, position, result = 0, 0, ""
        while position < len(text):
            lexeme = LEXEME.search(text, position)
            kind = None if lexeme is None else lexeme.lastgroup
            is_code = lexeme is None or kind in {"open", "close", "semicolon", "broken"}
            start, end = (len(text), len(text)) if lexeme is None else lexeme.span()
            if kind == "block":
                end = end_of_comment(text, end) or len(text)
            result += _USED.sub(self._constant, text[done : start if not is_code else end])
            if not is_code:
                self._refuse_inside(text[start:end])
                result += text[start:end]
            done = position = end
        return result

    def _constant(self, used: re.Match[str]) -> str:
        name, before = used[1], used.string[: used.start()][-1:]
        if name not in self._literals:
            has = f", which has {', '.join(self._literals)}" if self._literals else " at the top of the file"
            raise Wrong(f"there is no parameter `{shown(name)}`", f"Declare it below `parameters:`{has}.")
        # Apart from what stands before it: of `x${n}` a constant of bits would come, of `'a'${n}` one string.
        return self._literals[name] if before.isspace() or before == "(" else f" {self._literals[name]}"

    def _refuse_inside(self, text: str) -> None:
        """In quotes or in a comment a value would be no constant, and could end what it stands in."""
        for name in _USED.findall(text):
            if name in self._literals:
                raise Wrong(
                    f"the parameter `{name}` stands in quotes or in a comment",
                    f"Write it outside of them, such as 'text ' || ${{{name}}}.",
                )

    def refuse_in_name(self, text: str) -> None:
        """Raises Wrong for a name of a table or a column that holds a parameter."""
        for name in _USED.findall(text):
            if name in self._literals:
                raise Wrong(
                    f"the parameter `{name}` stands in a name, and values are no names", "Write the name itself."
                )
