"""Users' SQL expressions, checked by PostgreSQL itself before anything runs.

The probe is a temporary, empty copy of the table, so that a column which is not there yet can be read and written, and so
that nothing waits for the application. What an expression reads and calls comes from the catalog, not from guessing at text.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import errors, sql

from backfilld.migrations.errors import Finding
from backfilld.migrations.postgres import catalog, indexes
from backfilld.migrations.postgres.foreign_code import Called
from backfilld.migrations.postgres.lexer import self_containment_problem
from backfilld.migrations.postgres.sqlstates import in_words, was_interrupted
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.definitions import IndexDefinition

_SQL = queries(__package__, "catalog")

#: A column of the copy that no table of a user's has.
_ASIDE = "~backfilld aside"
#: The index that is tried on a copy.
_PROBE_INDEX = "backfilld_probe_index"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What an expression is and reads, and whether asking again gives the same answer."""

    #: Its type as format_type writes it; of a bare literal, text.
    type: str = ""
    #: Columns of the table itself; all of them when the whole row is read.
    reads: frozenset[str]
    #: Other relations, by name.
    reads_others: tuple[str, ...]
    #: Of these, the ones whose policies hide rows from this role.
    hidden: tuple[str, ...]
    #: Functions that may answer differently each time, by name.
    unrepeatable: tuple[str, ...]


class Probe:
    """A temporary copy of a table in which expressions are tried. Made by `probe`."""

    def __init__(
        self, connection: Connection, table: Table, copy: sql.Identifier, allowed: Collection[str] = ()
    ) -> None:
        self._connection = connection
        self._table = table
        self._copy = copy
        self._views = 0
        #: Functions that may act outside of the row, by name.
        self._allowed = frozenset(allowed)
        #: Functions that were called and of which nobody can say what they do, by name.
        self.opaque: set[str] = set()
        #: What expressions called and read so far.
        self.called = Called()

    def add_column(self, column: str, type_: str, default: str | None) -> tuple[str, bool]:
        """Add a column to the copy; returns its type as the catalog writes it, and whether the default fills at once.

        Raises Rejected: the type is not one, or holds more than a type.
        """
        what = f"type {type_!r}"
        if problem := self_containment_problem(type_):
            raise Rejected("type", f"{what} is not one type: {problem}")
        present = {one["name"] for one in self._columns()}
        with self._asking("type", what):
            self._connection.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(self._copy, sql.Identifier(column), _raw(type_))
            )
        added = [one for one in self._columns() if one["name"] not in present]
        if len(added) != 1 or added[0]["name"] != column:
            raise Rejected("type", f"{what} adds more than one column")
        if added[0]["has_default"] or added[0]["not_null"] or added[0]["generated"] or added[0]["identity_always"]:
            raise Rejected(
                "type",
                f"{what} includes a default or a constraint; write the type alone, and use default and not_null",
            )
        # What ALTER TABLE takes for more than a type (COLLATE, UNIQUE, another subcommand) would be lost without a word.
        with self._asking("type", what):
            self._connection.execute(sql.SQL("SELECT CAST(NULL AS {}) WHERE false").format(_raw(type_)))
        type_ = str(added[0]["type"])
        if default is None:
            return type_, False
        if problem := self_containment_problem(default):
            raise Rejected("default", f"the default is not one expression: {problem}")
        with self._asking("default", "the default"):
            self._connection.execute(
                sql.SQL("ALTER TABLE {} DROP COLUMN {}").format(self._copy, sql.Identifier(column))
            )
            before = catalog.file_of(self._connection, self._own_oid())
            self._connection.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} {} DEFAULT (\n{}\n)").format(
                    self._copy, sql.Identifier(column), _raw(type_), _raw(default)
                )
            )
        return type_, catalog.file_of(self._connection, self._own_oid()) == before

    def analyse(self, expression: str, *, what: str, type_: str | None = None) -> Analysis:
        """Have PostgreSQL parse an expression over the table. Raises Rejected with its words."""
        if problem := self_containment_problem(expression):
            raise Rejected("expression", f"{what} is not one expression: {problem}")
        self._views += 1
        view = sql.Identifier("pg_temp", f"backfilld_probe_{self._views}")
        with self._asking("expression", what):
            self._connection.execute(
                sql.SQL("CREATE TEMPORARY VIEW {} AS SELECT {} AS value FROM {}").format(
                    sql.Identifier(f"backfilld_probe_{self._views}"), _operand(expression, type_), self._copy
                )
            )
        oid = catalog.oid_of(self._connection, view)
        reads = self._connection.execute(_SQL["view_reads"], {"view": oid}).fetchall()
        tree = self._connection.execute(_SQL["view_tree"], {"view": oid}).fetchone()
        nodes = tree["tree"] if tree else ""
        self._look_at_functions(nodes, what)
        own = self._own_oid()
        # A whole-row reference leaves no column in pg_depend; it is attribute 0 of the range table entry in the tree.
        whole_row = re.search(r"\{VAR :varno \d+ :varattno 0 ", nodes) is not None
        columns = {row["column_name"] for row in reads if row["oid"] == own and row["column_name"]}
        others = [row for row in reads if row["oid"] != own]
        self.called.relations.update(row["oid"] for row in others)
        return Analysis(
            type=str(self._columns(oid)[0]["type"]),
            reads=frozenset(column.name for column in self._table.columns) | columns
            if whole_row
            else frozenset(columns),
            reads_others=tuple(sorted({row["relation"] for row in others})),
            hidden=tuple(sorted({row["relation"] for row in others if row["row_security_active"]})),
            unrepeatable=self._unrepeatable(nodes),
        )

    def check_update(self, assignments: dict[str, str], where: str | None) -> None:
        """Have PostgreSQL plan the UPDATE itself: types that can be assigned, no aggregates, a condition that is one."""
        sets = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(column), _operand(text)) for column, text in assignments.items()
        )
        condition = sql.SQL(" WHERE {}").format(_operand(where)) if where is not None else sql.SQL("")
        with self._asking("expression", "the update of " + ", ".join(assignments)):
            self._connection.execute(sql.SQL("EXPLAIN UPDATE {} SET {}{}").format(self._copy, sets, condition))

    def shadow_indexes(
        self, column: str, shadow: str, definitions: Sequence[IndexDefinition], *, type_: str, collation: str
    ) -> list[tuple[IndexDefinition, IndexDefinition]]:
        """Of these indexes, those that hold a column, each for its shadow: while it has its own name, and the column's.

        PostgreSQL itself writes the definitions, on the copy, in which the columns are renamed for that. Raises Rejected.
        """
        with self._connection.transaction(force_rollback=True):
            self._make_indexes(definitions)
            self._rename(column, shadow)
            renamed = self._indexes()
        held = [renamed[one.name] for one in definitions if renamed[one.name].rest != one.rest]
        collated = sql.SQL(" COLLATE {}").format(_raw(collation)) if collation else sql.SQL("")
        with self._connection.transaction(force_rollback=True):
            self._connection.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(self._copy, sql.Identifier(shadow), _raw(type_))
                + collated
            )
            self._make_indexes(held)
            as_shadow = self._indexes()
            self._rename(column, _ASIDE)
            self._rename(shadow, column)
            as_column = self._indexes()
        return [(as_shadow[one.name], as_column[one.name]) for one in held]

    def is_constant(self, expression: str, type_: str) -> bool:
        """Whether an expression returns the same in every session and at any time, for the same row: PostgreSQL would store it."""
        try:
            with self._connection.transaction(force_rollback=True):
                self._connection.execute(
                    sql.SQL("ALTER TABLE {} ADD COLUMN {} {} GENERATED ALWAYS AS {} STORED").format(
                        self._copy, sql.Identifier(_ASIDE), _raw(type_), _operand(expression)
                    )
                )
        except errors.InvalidObjectDefinition:
            return False
        return True

    def add_constraint(self, name: str, body: sql.Composable, *, check: str, what: str) -> None:
        """Add a constraint to the copy. Raises Rejected with PostgreSQL's words."""
        with self._asking(check, what):
            self._connection.execute(
                sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(self._copy, sql.Identifier(name), body)
            )

    def copy_of(self, table: TableName) -> sql.Identifier:
        """A temporary copy of another table with its unique keys, which the copy of this one may refer to."""
        name = table.name if table.name != self._table.name.name else "referenced"
        self._connection.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING INDEXES)").format(
                sql.Identifier(name), table.identifier
            )
        )
        return sql.Identifier("pg_temp", name)

    def equalities(self, foreign_key: str) -> tuple[str, ...]:
        """The operators by which a foreign key of the copy compares, the referenced column on the left."""
        return catalog.equalities(self._connection, self._own_oid(), foreign_key)

    def check_default(self, column: str, default: str) -> None:
        """Give a column of the copy another DEFAULT. Raises Rejected with PostgreSQL's words."""
        if problem := self_containment_problem(default):
            raise Rejected("default", f"the default is not one expression: {problem}")
        with self._asking("default", "the default"):
            self._connection.execute(
                sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}").format(
                    self._copy, sql.Identifier(column), _operand(default)
                )
            )

    def index(self, name: str, rest: sql.Composable, *, unique: bool) -> IndexDefinition:
        """Build an index on the copy, and take its definition as PostgreSQL writes it.

        `rest` is what follows the table's name in CREATE INDEX; users' texts in it were found self-contained.
        Raises Rejected.
        """
        # Written, read and written again: what comes out then is what the table's own index will be found to be.
        first = self._try_index(name, rest, unique=unique)
        return self._try_index(name, _raw(first.rest), unique=unique)

    def has_equality(self, column: str) -> bool:
        """Whether values of a column can be told apart by `IS DISTINCT FROM`."""
        try:
            with self._connection.transaction():
                self._connection.execute(
                    sql.SQL("EXPLAIN SELECT 1 FROM {table} WHERE {column} IS DISTINCT FROM {column}").format(
                        table=self._copy, column=sql.Identifier(column)
                    )
                )
        except errors.UndefinedFunction:
            return False
        return True

    def _rename(self, before: str, after: str) -> None:
        self._connection.execute(
            sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(
                self._copy, sql.Identifier(before), sql.Identifier(after)
            )
        )

    def _make_indexes(self, definitions: Sequence[IndexDefinition]) -> None:
        for one in definitions:
            create = sql.SQL("CREATE {}INDEX {} ON {} {}").format(
                sql.SQL("UNIQUE " if one.unique else ""), sql.Identifier(one.name), self._copy, _raw(one.rest)
            )
            with self._asking("index", f"the index {one.name}"):
                self._connection.execute(create)

    def _indexes(self) -> dict[str, IndexDefinition]:
        """The indexes of the copy, by their names."""
        found = [one.definition for one in indexes.of_table(self._connection, self._own_oid())]
        # Temporary tables may have a tablespace of their own.
        return {one.name: replace(one, tablespace="") for one in found if one is not None}

    def _try_index(self, name: str, rest: sql.Composable, *, unique: bool) -> IndexDefinition:
        probe_name = sql.Identifier(_PROBE_INDEX)  # the index's own may be that of its table
        create = sql.SQL("CREATE {}INDEX {} ON {} {}").format(
            sql.SQL("UNIQUE " if unique else ""), probe_name, self._copy, rest
        )
        with self._asking("index", f"the index {name}"):
            self._connection.execute(create)
        (definition,) = [
            one.definition
            for one in indexes.of_table(self._connection, self._own_oid())
            if one.definition is not None and one.definition.name == _PROBE_INDEX
        ]
        self._connection.execute(sql.SQL("DROP INDEX pg_temp.{}").format(probe_name))
        return replace(definition, name=name, tablespace="")  # temporary tables may have a tablespace of their own

    def _look_at_functions(self, nodes: str, what: str) -> None:
        """Raises Rejected for a function that acts outside of the row and is not allowed by name."""
        called = _called(nodes)
        self.called.functions.update(called["functions"])
        self.called.operators.update(called["operators"])
        rows = self._connection.execute(_SQL["functions_to_look_at"], called).fetchall()
        self.opaque |= {row["name"] for row in rows if not row["acts_outside"]}
        outside = [row["name"] for row in rows if row["acts_outside"] and row["name"] not in self._allowed]
        if outside:
            raise Rejected(
                "function",
                f"{what} calls {', '.join(f'{name}()' for name in outside)}, which acts outside of the row or depends on what "
                "is outside of it",
                f"Leave it out, or allow it by name: settings: {{allow_functions: [{', '.join(outside)}]}}",
            )

    def _unrepeatable(self, nodes: str) -> tuple[str, ...]:
        rows = self._connection.execute(_SQL["unrepeatable_functions"], _called(nodes)).fetchall()
        names = [f"{row['name']}()" for row in rows]
        # CURRENT_DATE, CURRENT_USER and their like are no functions but nodes of their own.
        if "{SQLVALUEFUNCTION " in nodes or "{NEXTVALUEEXPR " in nodes:
            names.append("the clock or the session (CURRENT_…)")
        return tuple(names)

    def _columns(self, oid: int | None = None) -> list[dict[str, Any]]:  # Any: rows of `columns` in catalog.sql
        """Those of the copy, or of a view."""
        return self._connection.execute(_SQL["columns"], {"oid": self._own_oid() if oid is None else oid}).fetchall()

    def _own_oid(self) -> int:
        return catalog.oid_of(self._connection, self._copy)

    @contextmanager
    def _asking(self, check: str, what: str) -> Iterator[None]:
        try:
            with self._connection.transaction():
                yield
        except psycopg.Error as exc:
            if was_interrupted(exc):
                raise
            hint = f" ({exc.diag.message_hint})" if exc.diag.message_hint else ""
            raise Rejected(check, f"{what}: {in_words(exc)}{hint}") from exc


def _called(nodes: str) -> dict[str, list[int]]:
    """The functions and operators of a parse tree, by their oids."""
    return {
        "functions": [int(oid) for oid in re.findall(r":(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)", nodes)],
        "operators": [int(oid) for oid in re.findall(r":opno (\d+)", nodes)],
    }


class Rejected(Exception):
    """PostgreSQL does not accept a part of the migration."""

    def __init__(self, check: str, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.check = check
        self.problem = problem
        self.remedy = remedy

    def finding(self, place: str) -> Finding:
        """As a reason for refusal. `place` names the operation."""
        remedy = {
            "type": "Write a type as PostgreSQL does, with its schema when it is not built in (extensions.citext)",
            "default": "Write a constant, or an expression without columns",
            "index": "Write what CREATE INDEX accepts; names outside pg_catalog need their schema (public.f(x))",
            "foreign_key": "Refer to columns of a unique key whose types PostgreSQL can compare with these",
        }.get(
            self.check,
            "Write one SQL expression over the table's columns; names outside pg_catalog need their schema "
            "(public.f(x))",
        )
        return Finding(self.check, f"{place}: {self.problem}", self.remedy or remedy)


@contextmanager
def probe(connection: Connection, table: Table, *, allowed: Collection[str] = ()) -> Iterator[Probe]:
    """A probe of a table; everything it made is rolled back at the end. `allowed` are functions that may act outside of the row."""
    name: TableName = table.name
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL search_path = ''")
        connection.execute("SET LOCAL standard_conforming_strings = on")  # as `self_containment_problem` reads texts
        connection.execute("SET LOCAL lock_timeout = '2s'")
        connection.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {})").format(sql.Identifier(name.name), name.identifier)
        )
        yield Probe(connection, table, sql.Identifier("pg_temp", name.name), allowed)


def _raw(text: str) -> sql.SQL:
    return sql.SQL(text)  # a user's text, found self-contained


def _operand(text: str, type_: str | None = None) -> sql.Composed:
    operand = sql.SQL("(\n{}\n)").format(_raw(text))
    if type_ is None:
        return operand
    cast: LiteralString = "CAST({} AS {})"
    return sql.SQL(cast).format(operand, _raw(type_))
