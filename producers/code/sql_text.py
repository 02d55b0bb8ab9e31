"""The tables and columns that a text of SQL names, by sqlglot's reading of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from backfilld.producers.code.finds import Named

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What may be SQL: a verb, and a word that comes with it.
_BEGINS = re.compile(
    r"\s*(?:--[^\n]*\n\s*)*(?:select|insert\s+into|update|delete\s+from|merge\s+into|with|create|alter)\b",
    re.IGNORECASE,
)
_WITH = re.compile(r"\b(from|into|set|table|view|index|values|join)\b", re.IGNORECASE)
#: Parameters as drivers write them: $1, %s, %(name)s, and what this module's callers put in place of what is computed.
_PARAMETERS = re.compile(r"\$\d+|%\(\w+\)s|%[sbt]")
_UNITS = (exp.Select, exp.Insert, exp.Update, exp.Delete, exp.Merge)


def is_sql(text: str) -> bool:
    """Whether a text looks like SQL, so that it is worth reading as such."""
    return _BEGINS.match(text) is not None and _WITH.search(text) is not None


def named(text: str) -> Iterator[Named]:
    """The tables, and the columns whose table is certain. Raises ValueError for what is not SQL of PostgreSQL."""
    same_length = _PARAMETERS.sub(lambda found: "_" + "_" * (len(found[0]) - 1), text)
    try:
        statements = [one for one in sqlglot.parse(same_length, dialect="postgres") if one is not None]
    except (SqlglotError, RecursionError) as exc:
        msg = "it cannot be read as SQL"
        raise ValueError(msg) from exc
    for statement in statements:
        common = {one.alias for one in statement.find_all(exp.CTE)}
        for table in statement.find_all(exp.Table):
            if isinstance(table.this, exp.Identifier) and _is_table(table, common):
                yield _named(table.this, table, None)
        for column in statement.find_all(exp.Column):
            source = None if _is_output(column) else _source(column, common)
            if source is not None and isinstance(column.this, exp.Identifier):
                yield _named(column.this, source, column.name)
        for name, source in _written(statement):
            if _is_table(source, common):
                yield _named(name, source, name.name)


def _is_table(table: exp.Table, common: set[str]) -> bool:
    return bool(table.db) or table.name not in common


def _named(name: exp.Identifier, table: exp.Table, column: str | None) -> Named:
    at = int(name.meta.get("start", 0)) + (1 if name.args.get("quoted") else 0)
    return Named(
        at=at, schema=table.db or None, table=_folded(table.this), column=_folded(name) if column else None, how="sql"
    )


def _folded(name: exp.Expression) -> str:
    """A name as PostgreSQL takes it: in lower case, unless it is quoted."""
    return name.name if name.args.get("quoted") else name.name.lower()


def _is_output(column: exp.Column) -> bool:
    """Whether ORDER BY or GROUP BY names a column of the answer, which may be called as it likes."""
    unit = column.find_ancestor(exp.Select)
    if column.table or unit is None or column.find_ancestor(exp.Order, exp.Group) is None:
        return False
    return any(isinstance(one, exp.Alias) and one.alias == column.name for one in unit.expressions)


def _source(column: exp.Column, common: set[str]) -> exp.Table | None:
    """The table that a column is of; None where the text alone does not say so."""
    unit = column.find_ancestor(*_UNITS)
    if isinstance(unit, exp.Update) and any(one.this is column for one in unit.expressions):
        return _table(unit.this, common)  # SET writes the table itself, whatever else is read
    while unit is not None:
        sources = _sources(unit)
        if column.table:
            named = [one for one in sources if one.alias_or_name == column.table]
            if not named and column.table.lower() == "excluded":
                named = sources[:1] if isinstance(unit, exp.Insert) else []
            if named:
                return _table(named[0], common)
        elif sources:
            return _table(sources[0], common) if len(sources) == 1 else None
        unit = unit.find_ancestor(*_UNITS)
    return None


def _table(source: exp.Expression, common: set[str]) -> exp.Table | None:
    return source if isinstance(source, exp.Table) and _is_table(source, common) else None


def _sources(unit: exp.Expression) -> list[exp.Expression]:
    """What a statement reads from or writes to, itself."""
    own = unit.this.this if isinstance(unit.this, exp.Schema) else unit.this
    found: list[exp.Expression] = [own] if not isinstance(unit, exp.Select) and isinstance(own, exp.Table) else []
    froms = [one for key in ("from", "from_", "using") for one in _each(unit.args.get(key))]
    found += [one.this if isinstance(one, exp.From) else one for one in froms]
    found += [one.this for one in _each(unit.args.get("joins"))]
    for one in list(found):
        found += [join.this for join in _each(one.args.get("joins"))]
    return found


def _each(value: object) -> list[exp.Expression]:
    several = value if isinstance(value, list) else [value]
    return [one for one in several if isinstance(one, exp.Expression)]


def _written(statement: exp.Expr) -> Iterator[tuple[exp.Identifier, exp.Table]]:
    """The columns in `INSERT INTO t (…)`, and in its `ON CONFLICT (…)`."""
    for insert in statement.find_all(exp.Insert):
        schema = insert.this
        table = schema.this if isinstance(schema, exp.Schema) else schema
        if not isinstance(table, exp.Table):
            continue
        names = list(schema.expressions) if isinstance(schema, exp.Schema) else []
        conflict = insert.args.get("conflict")
        names += _each(conflict.args.get("conflict_keys")) if conflict is not None else []
        for name in names:
            bare = name.this if isinstance(name, exp.Ordered | exp.Column) else name
            if isinstance(bare, exp.Identifier):
                yield bare, table
