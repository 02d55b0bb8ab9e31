"""How what depends on a column reads for the column that takes its place, tried on a temporary copy of the table.

No definition is rewritten by us. The copy, in which the column has another name and another type, has
all indexes, checks and statistics, and PostgreSQL says how they read there; what it cannot make for the new type, or what it
does not accept once the new column has the name, is a reason for refusal before anything has happened.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.bound import placed
from backfilld.migrations.postgres.connect import SEMANTICS, apply_settings
from backfilld.migrations.postgres.dependents import ColumnDependent, named_in_query
from backfilld.migrations.postgres.expression_probe import Rejected
from backfilld.migrations.postgres.indexes import definitions_on
from backfilld.migrations.postgres.sqlstates import was_interrupted
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.postgres.column_dependents import CopiedView
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.definitions import IndexDefinition

_SQL = queries(__package__, "column_dependents")


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A temporary copy of a table, with everything on it."""

    name: sql.Identifier
    #: The names of its indexes and statistics, by the oid of what each was made from.
    indexes: dict[int, str]
    statistics: dict[int, str]

    @property
    def named(self) -> dict[str, str]:
        """For the queries of a table."""
        return {"table": self.name.as_string()}


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """How indexes, checks and statistics read over a column of another name."""

    #: By the oid of the index, and of the statistics, that the copy's was made from.
    indexes: dict[int, IndexDefinition]
    statistics: dict[int, str]
    #: By the constraint's name.
    checks: dict[str, str]


@contextmanager
def successor(  # noqa: PLR0913 - one copy; each part is named where it is called
    connection: Connection,
    table: TableName,
    name: str,
    *,
    named: str,
    type_: sql.Composable | None,
    found: Sequence[ColumnDependent] = (),
) -> Iterator[Copy]:
    """A temporary copy of the table, with everything on it, in which the column has this name and type; undone at the end.

    Runs inside a probe, whose own copy gives way. Raises Rejected: something that depends on the column cannot be kept with the type.
    """
    temporary = sql.Identifier("pg_temp", table.name)
    column = sql.Identifier(name)
    alter = sql.SQL("ALTER TABLE {} ").format(temporary)
    with connection.transaction(force_rollback=True):
        connection.execute(alter + sql.SQL("RENAME TO {}").format(sql.Identifier("~backfilld probe")))
        connection.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING ALL)").format(
                sql.Identifier(table.name), table.identifier
            )
        )
        copy = Copy(
            name=temporary,
            indexes=_copied(connection, table, temporary, "indexes"),
            statistics=_copied(connection, table, temporary, "statistics"),
        )
        connection.execute(alter + sql.SQL("ALTER COLUMN {} DROP IDENTITY IF EXISTS").format(column))
        connection.execute(alter + sql.SQL("ALTER COLUMN {} DROP DEFAULT").format(column))
        if type_ is not None:
            statement = alter + sql.SQL("ALTER COLUMN {} TYPE {} USING NULL").format(column, type_)
            try:
                with connection.transaction():
                    connection.execute(statement)
            except psycopg.Error as exc:
                if was_interrupted(exc):
                    raise
                what = _culprit(connection, copy, found, statement)
                raise _rejected("column_dependents", f"{what} cannot be kept with the new type of {name}", exc) from exc
        if named != name:
            connection.execute(alter + sql.SQL("RENAME COLUMN {} TO {}").format(column, sql.Identifier(named)))
        yield copy


def _copied(connection: Connection, table: TableName, copy: sql.Identifier, what: str) -> dict[int, str]:
    # LIKE copies in the order of the oids, so the n-th of the copy was made from the n-th of the table. Names stay.
    theirs = connection.execute(_SQL[what], named_in_query(table, "")).fetchall()
    ours = connection.execute(_SQL[what], {**named_in_query(table, ""), "table": copy.as_string()}).fetchall()
    return {their["oid"]: our["name"] for their, our in zip(theirs, ours, strict=True)}


def definitions(connection: Connection, copy: Copy, found: Sequence[ColumnDependent]) -> Definitions:
    """How everything that depends on the column reads in the copy that `successor` made."""
    made = {one.name: one for one in definitions_on(connection, copy.name)}
    checks = connection.execute(_SQL["checks"], copy.named).fetchall()
    columns = {row["name"]: row["columns"] for row in connection.execute(_SQL["statistics"], copy.named)}
    return Definitions(
        indexes={
            one.oid: _settled(connection, copy, made[copy.indexes[one.oid]]) for one in found if one.kind == "index"
        },
        statistics={oid: columns[name] for oid, name in copy.statistics.items()},
        checks={row["name"]: row["definition"].removesuffix(" NOT VALID") for row in checks},
    )


def _settled(connection: Connection, copy: Copy, definition: IndexDefinition) -> IndexDefinition:
    """Rebuild until PostgreSQL writes the definition that it was given: it may normalise twice."""
    name = "~backfilld settled"
    for _ in range(3):
        connection.execute(
            sql.SQL("CREATE {}INDEX {} ON {} {}").format(
                sql.SQL("UNIQUE " if definition.unique else ""),
                sql.Identifier(name),
                copy.name,
                sql.SQL(definition.rest),  # PostgreSQL's own text
            )
        )
        (made,) = [one for one in definitions_on(connection, copy.name) if one.name == name]
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier("pg_temp", name)))
        if made.rest == definition.rest:
            break
        definition = made
    return definition


def _culprit(connection: Connection, copy: Copy, found: Sequence[ColumnDependent], statement: sql.Composed) -> str:
    """The thing without which the statement is accepted, in words; of several together none is named."""
    for one in found:
        match one.kind:
            case "check" | "unique":
                drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(copy.name, sql.Identifier(one.name))
            case "index":
                drop = sql.SQL("DROP INDEX {}").format(sql.Identifier("pg_temp", copy.indexes[one.oid]))
            case "statistics":
                drop = sql.SQL("DROP STATISTICS {}").format(sql.Identifier("pg_temp", copy.statistics[one.oid]))
            case _:
                continue
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(drop)
                connection.execute(statement)
        except psycopg.Error:
            continue
        return f"the {one.kind} {one.name}"
    return "something that depends on it"


def change_at_once(
    connection: Connection, table: TableName, name: str, types: Sequence[sql.Composable]
) -> tuple[bool, ...]:
    """Of types that a column gets one after the other: whether each ALTER COLUMN … TYPE changes the catalog alone.

    Found by doing it to a copy, under the settings of a run: it writes neither the table nor an index anew, and scans nothing.
    """
    heard: list[str] = []
    alter = sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE {}")
    hear = lambda notice: heard.append(notice.message_primary or "")  # noqa: E731 - to be taken off again
    found: list[bool] = []
    connection.add_notice_handler(hear)
    try:
        with successor(connection, table, name, named=name, type_=None) as copy:
            apply_settings(connection, {**SEMANTICS, "client_min_messages": "debug1"})
            for type_ in types:
                heard.clear()
                before = connection.execute(_SQL["files"], copy.named).fetchone()
                try:
                    with connection.transaction():
                        connection.execute(alter.format(copy.name, sql.Identifier(name), type_))
                except psycopg.Error as exc:
                    if was_interrupted(exc):
                        raise
                    break
                after = connection.execute(_SQL["files"], copy.named).fetchone()
                found.append(before == after and not any("verifying table" in one for one in heard))
    finally:
        connection.remove_notice_handler(hear)
    return (*found, *[False] * (len(types) - len(found)))


def try_dependents(
    connection: Connection, table: TableName, found: Sequence[ColumnDependent], default: str | None, name: str
) -> None:
    """Make everything that depends on the column once more, over the copy `successor` made, where the column is the new one.

    PostgreSQL writes names that are on the search_path without their schema. Written with the table's schema on it, and read
    with that of temporary objects before it, a view of the table becomes a view of the copy.
    Raises Rejected with what PostgreSQL does not accept.
    """
    schema = sql.Identifier(table.schema)
    # Not without pg_temp, which comes first where it is not named, and would hide the table itself.
    connection.execute(sql.SQL("SET LOCAL search_path = {}, pg_temp").format(schema))
    tried = [(one, statement) for one in found for statement in _made_again(connection, [table], one)]
    connection.execute(sql.SQL("SET LOCAL search_path = pg_temp, {}").format(schema))
    for one, statement in tried:
        with _accepting("column_dependents", f"the {one.kind} {one.name} is not accepted for the new type"):
            connection.execute(statement)
    connection.execute("SET LOCAL search_path = ''")
    if default is not None:
        with _accepting("default", "the default cannot be cast to the new type"):
            connection.execute(
                sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}").format(
                    sql.Identifier("pg_temp", table.name), sql.Identifier(name), sql.SQL(default)
                )
            )


def try_indexes_of_views(connection: Connection, copied: Sequence[CopiedView]) -> None:
    """Build the indexes of materialized views over the views that `try_dependents` made of their texts. Raises Rejected."""
    stand_in = TableName("pg_temp", "~backfilld copy")
    for one in copied:
        if not one.materialized:
            continue
        made = sql.SQL("CREATE TEMPORARY TABLE {} AS TABLE {} WITH NO DATA").format(
            sql.Identifier(stand_in.name), sql.Identifier("pg_temp", one.view.name)
        )
        with (
            connection.transaction(force_rollback=True),
            _accepting("column_dependents", f"an index of the materialized view {one.view.written} is not accepted"),
        ):
            connection.execute(made)
            for statement in one.statements:
                if statement.startswith("CREATE "):
                    connection.execute(placed(statement, stand_in))


def try_together(
    connection: Connection, columns: Sequence[tuple[TableName, str, str]], found: Sequence[ColumnDependent]
) -> None:
    """Make everything that depends on some of several columns once more, over copies of their tables, where each has its new type.

    The tables have different names. Runs inside a probe of the first of them, whose copy gives way. Raises Rejected with what
    PostgreSQL does not accept.
    """
    tables = list(dict.fromkeys(table for table, _, _ in columns))
    schemas = sql.SQL(", ").join(map(sql.Identifier, dict.fromkeys(table.schema for table in tables)))
    with connection.transaction(force_rollback=True):
        probed, like = (
            sql.Identifier("pg_temp", tables[0].name),
            sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING INDEXES)"),
        )
        connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(probed, sql.Identifier("~backfilld probe")))
        for table in tables:
            connection.execute(like.format(sql.Identifier(table.name), table.identifier))
        for table, name, type_ in columns:
            statement = sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE {} USING NULL").format(
                sql.Identifier("pg_temp", table.name), sql.Identifier(name), sql.SQL(type_)
            )
            connection.execute(statement)
        # As in `try_dependents`: written as they read where the tables are, and read where the copies are.
        connection.execute(sql.SQL("SET LOCAL search_path = {}, pg_temp").format(schemas))
        tried = [(one, statement) for one in found for statement in _made_again(connection, tables, one)]
        connection.execute(sql.SQL("SET LOCAL search_path = pg_temp, {}").format(schemas))
        for one, statement in tried:
            with _accepting("column_dependents", f"the {one.kind} {one.name} is not accepted for the new type"):
                connection.execute(statement)


def _made_again(connection: Connection, tables: Sequence[TableName], one: ColumnDependent) -> list[sql.Composed]:
    """The statements that make a dependent once more; none for what the copy has already."""
    if one.kind not in {"view", "materialized view", "policy", "function", "trigger"}:
        return []
    # There is no temporary materialized view; its text is that of a view.
    kind = one.kind.rpartition(" ")[2]
    row = connection.execute(_SQL[f"{kind}_within"], {"oid": one.oid}).fetchone() or {}
    match kind:
        case "view":
            name, query = sql.Identifier(row["name"]), sql.SQL(row["definition"])
            return [sql.SQL("CREATE TEMPORARY VIEW {} AS {}").format(name, query)]
        case "policy":
            of = TableName(row["schema"], row["table_name"])
            over = sql.Identifier(of.name) if of in tables else of.identifier
            return [
                sql.SQL("EXPLAIN SELECT FROM {} WHERE {}").format(over, sql.SQL(expression))
                for expression in (row["using_"], row["with_check"])
                if expression is not None
            ]
        case _:
            return [sql.Composed([sql.SQL(row["definition"])])]


def try_foreign_keys(connection: Connection, table: TableName, found: Sequence[ColumnDependent], name: str) -> None:
    """Add the foreign keys to the copy `successor` made, each to a copy of what it refers to. Raises Rejected."""
    mine = {one.oid for one in found if one.kind == "foreign key"}
    for row in connection.execute(_SQL["foreign_keys"], named_in_query(table, name)).fetchall():
        if row["oid"] not in mine:
            continue
        referred = TableName(row["schema"], row["table_name"])
        with (
            connection.transaction(force_rollback=True),
            _accepting("column_dependents", f"the foreign key {row['name']} is not accepted for the new type"),
        ):
            connection.execute(
                sql.SQL('CREATE TEMPORARY TABLE "~backfilld referred" (LIKE {} INCLUDING INDEXES)').format(
                    referred.identifier
                )
            )
            connection.execute(
                sql.SQL('ALTER TABLE {} ADD {}pg_temp."~backfilld referred"{}').format(
                    sql.Identifier("pg_temp", table.name), sql.SQL(row["head"]), sql.SQL(row["tail"])
                )
            )


@contextmanager
def _accepting(check: str, what: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as exc:
        if was_interrupted(exc):
            raise
        raise _rejected(check, what, exc) from exc


def _rejected(check: str, what: str, exc: psycopg.Error) -> Rejected:
    remedy = "Drop it first and recreate it for the new type afterwards, or choose another type"
    return Rejected(check, f"{what}: {exc.diag.message_primary or exc}", remedy)
