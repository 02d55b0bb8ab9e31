"""One load, bound to its table: what its statements are made of. The statements are in `sql/templates`.

Every statement is sent without parameters, so names need no care for percent signs. `"~given"` is what the stage has of some lines,
each value in the type of its column: `"~g_N"`, in the order of `LoadFacts.columns`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Target
from backfilld.migrations.queries import templates
from backfilld.migrations.rollback.journal import Form

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.facts import LoadColumn, LoadFacts
    from backfilld.migrations.file.operations import Load
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.definitions import KeyColumn

_TEMPLATES = templates(__package__, "given")
_CHARACTERS = frozenset({"character varying", "character", "bit", "bit varying", "bpchar"})


@dataclass(frozen=True, kw_only=True)
class Loading:
    """The parts of a load's statements."""

    definition: Load
    facts: LoadFacts
    key: tuple[KeyColumn, ...]
    number: int
    stage: TableName

    @property
    def table(self) -> TableName:
        return self.definition.table

    @property
    def columns(self) -> tuple[LoadColumn, ...]:
        return self.facts.columns

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each column, by its name."""
        return {one.name: number for number, one in enumerate(self.columns)}

    @property
    def key_numbers(self) -> list[int]:
        return [self.numbers[one.name] for one in self.key]

    @property
    def written(self) -> list[tuple[int, LoadColumn]]:
        """The columns that an update writes: all but the key."""
        keys = set(self.key_numbers)
        return [(number, one) for number, one in enumerate(self.columns) if number not in keys]

    @property
    def targets(self) -> tuple[Target, ...]:
        """The columns that are written, as the journal takes them."""
        return tuple(
            Target(column=one.name, type=one.type, as_text=one.as_text, plain_type=one.plain_type)
            for _, one in self.written
        )

    @property
    def data_columns(self) -> tuple[str, ...]:
        """The columns of the stage, but for the line."""
        if self.definition.source.format == "ndjson":
            return ("~record",)
        return tuple(f"~f_{number}" for number, _ in enumerate(self.facts.fields))

    @property
    def data(self) -> sql.Composed:
        """What the stage has of a line, but for its number."""
        return listed(sql.SQL("s.{}").format(sql.Identifier(name)) for name in self.data_columns)

    def from_stage(self, condition: sql.Composable, *, checked: bool = True) -> sql.Composed:
        """`"~given"`: lines of the stage, in the order of their keys; before they are `checked`, with what would be cut."""
        return self._given(self.stage.identifier, sql.SQL("s.ctid"), condition, checked=checked)

    def values_of(self, condition: sql.Composable) -> sql.Composed:
        """The values alone of `from_stage`."""
        return _TEMPLATES["values"].format(
            values=listed(self._values()),
            lines=self.stage.identifier,
            fields=self.fields,
            condition=condition,
            order=self.order,
        )

    def lines_of(self, condition: sql.Composable) -> sql.Composed:
        """How many lines that are, as `lines`."""
        return _TEMPLATES["lines"].format(lines=self.stage.identifier, condition=condition)

    def from_set_aside(self, run: int, line: int) -> sql.Composed:
        """`"~given"`: one line that was set aside."""
        lines = _TEMPLATES["set_aside"].format(
            run=sql.Literal(run),
            operation=sql.Literal(self.number),
            line=sql.Literal(line),
            fields=listed(
                sql.SQL("l.fields[{}] AS {}").format(sql.Literal(number + 1), sql.Identifier(name))
                for number, name in enumerate(self.data_columns)
            ),
        )
        return self._given(lines, sql.SQL("NULL::pg_catalog.tid"), sql.SQL("true"), checked=True)

    def given(self, number: int, alias: str = "~given") -> sql.Composed:
        """A value of `"~given"`."""
        return sql.SQL("{}.{}").format(sql.Identifier(alias), sql.Identifier(f"~g_{number}"))

    def column(self, name: str) -> sql.Composed:
        """A column of the table, as statements know it."""
        return sql.SQL("{}.{}").format(sql.Identifier(self.table.name), sql.Identifier(name))

    def same_key(self, alias: str) -> sql.Composed:
        """Whether a row of the table has the key of a line."""
        return both(
            sql.SQL("{} = {}").format(self.column(self.columns[n].name), self.given(n, alias)) for n in self.key_numbers
        )

    def updates(self, *, excluded: bool = False) -> sql.Composed:
        """Whether a row that is there gets what a line of `"~given"` says; or, in ON CONFLICT, what is `excluded`."""

        def value(number: int, name: str) -> sql.Composed:
            return sql.SQL("excluded.{}").format(sql.Identifier(name)) if excluded else self.given(number)

        if not self.definition.updates:
            return sql.SQL("{}").format(sql.SQL("false"))
        differs = either(self._differs(one, value(number, one.name)) for number, one in self.written)
        if (newer := self.definition.newer) is None:
            return differs
        there, given = self.column(newer), value(self.numbers[newer], newer)
        return sql.SQL("({differs} AND ({there} IS NULL OR {given} > {there}))").format(
            differs=differs, there=there, given=given
        )

    @property
    def refuses(self) -> tuple[bool, bool]:
        """Whether a line is set aside because its row is there already, and because it is not."""
        return self.definition.conflict == "error", self.definition.mode == "update"

    def form(self, column: LoadColumn) -> Form:
        """How the journal keeps values of a column."""
        return Form.of(column.type, column.plain_type)

    def too_long(self, number: int) -> sql.Composed | None:
        """Whether a value would be cut by the limit of length of its column; None where it has no such limit."""
        one = self.columns[number]
        if one.plain_type not in _CHARACTERS or one.type == one.plain_type:
            return None
        uncut = sql.SQL("CAST({} AS {})").format(sql.SQL(f"(\n{one.expression}\n)"), sql.SQL(one.plain_type))
        return sql.SQL("rtrim({}::text) IS DISTINCT FROM rtrim({}::text)").format(uncut, self._value(one))

    def _differs(self, one: LoadColumn, value: sql.Composable) -> sql.Composed:
        if one.as_text:
            return sql.SQL('{}::text COLLATE "C" IS DISTINCT FROM {}::text COLLATE "C"').format(
                self.column(one.name), value
            )
        return sql.SQL("{} IS DISTINCT FROM {}").format(self.column(one.name), value)

    def _value(self, one: LoadColumn) -> sql.Composed:
        # Checked by preflight to be one operand; line breaks end a comment.
        return sql.SQL("CAST({} AS {})").format(sql.SQL(f"(\n{one.expression}\n)"), sql.SQL(one.type))

    def _given(
        self, lines: sql.Composable, place: sql.Composable, condition: sql.Composable, *, checked: bool
    ) -> sql.Composed:
        values = self._values()
        if not checked:
            values += [
                sql.SQL("{} AS {}").format(found, sql.Identifier(f"~cut_{number}"))
                for number, _ in enumerate(self.columns)
                if (found := self.too_long(number)) is not None
            ]
        return _TEMPLATES["given"].format(
            place=place,
            values=listed(values),
            lines=lines,
            fields=self.fields,
            condition=condition,
            order=self.order,
        )

    def _values(self) -> list[sql.Composed]:
        return [
            sql.SQL("{} AS {}").format(self._value(one), sql.Identifier(f"~g_{number}"))
            for number, one in enumerate(self.columns)
        ]

    @property
    def keys(self) -> list[tuple[sql.Composed, sql.Identifier]]:
        """The values of the key, each with its name in `"~given"`."""
        return [(self._value(self.columns[number]), sql.Identifier(f"~g_{number}")) for number in self.key_numbers]

    @property
    def order(self) -> sql.Composed:
        return listed(name for _, name in self.keys)

    @property
    def fields(self) -> sql.Composable:
        """What makes fields of a line of JSON."""
        if self.definition.source.format != "ndjson":
            return sql.SQL("")
        return _TEMPLATES["json_fields"].format(
            names=listed(
                sql.SQL("r.{} AS {}").format(sql.Identifier(name), sql.Identifier(f"~f_{number}"))
                for number, name in enumerate(self.facts.fields)
            ),
            columns=listed(sql.SQL("{} text").format(sql.Identifier(name)) for name in self.facts.fields),
        )


def pages(first: int, last: int) -> sql.Composable:
    """The lines on some pages of the stage, from `first` to before `last`."""
    return sql.SQL("s.ctid >= {}::pg_catalog.tid AND s.ctid < {}::pg_catalog.tid").format(
        sql.Literal(f"({first},0)"), sql.Literal(f"({last},0)")
    )


def places(found: Sequence[str]) -> sql.Composed:
    """Lines of the stage, by where they are."""
    return sql.SQL("s.ctid = ANY ({}::pg_catalog.tid[])").format(
        sql.Literal("{" + ",".join(f'"{one}"' for one in found) + "}")
    )


def listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def both(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(" AND ").join(parts)


def either(parts: Iterable[sql.Composable]) -> sql.Composed:
    found = list(parts)
    return sql.SQL("({})").format(sql.SQL(" OR ").join(found)) if found else sql.SQL("{}").format(sql.SQL("false"))
