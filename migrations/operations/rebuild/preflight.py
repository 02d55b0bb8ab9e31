"""Whether a table can be made anew with all that belongs to it: the new one is made, empty, and rolled back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from backfilld.migrations.facts import Facts
from backfilld.migrations.operations.ddl.tables import make_schema
from backfilld.migrations.operations.rebuild.exchange import Exchange
from backfilld.migrations.operations.rebuild.new_table import NewTable, are_akin, as_wide_as_both
from backfilld.migrations.operations.rebuild.partitioned import settle
from backfilld.migrations.planning.checks import numbers
from backfilld.migrations.planning.checks.cancelled_runs import left_by_cancelled_run
from backfilld.migrations.planning.checks.columns import check_reads, column_of
from backfilld.migrations.planning.checks.tables import refuse_others_on_table
from backfilld.migrations.planning.checks.walks import with_key
from backfilld.migrations.postgres import belongings, catalog_diff, tables
from backfilld.migrations.postgres.connect import SEMANTICS, apply_settings
from backfilld.migrations.postgres.definitions import KeyColumn
from backfilld.migrations.postgres.sqlstates import in_words, server_is_gone
from backfilld.migrations.postgres.statements import names, split

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import Rebuild
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.belongings import TableDefinition
    from backfilld.migrations.postgres.catalog_diff import Line

#: What comes in the switch, or rests until then: not compared before.
_IN_THE_SWITCH = frozenset({"inbound foreign key", "policy", "publication", "trigger", "sequence", "view", "dependent"})

#: A column that keeps its type is told of where less than this is left.
_FEW_PERCENT = 50


def examine(case: Case, operation: Rebuild) -> Facts:
    """Raises Rejected."""
    table, connection = case.table, case.connection
    facts = with_key(case.found, case.place, table, Facts(relation=str(table.name)))
    before = len(case.found.findings)
    refuse_others_on_table(case, operation)
    _check_columns(case, operation)
    if len(case.found.findings) > before or not facts.key:
        return facts
    key = table.keys[0]
    notifies = tables.has_public_api(connection)
    found = belongings.read(connection, table, key=key.name, notifies=notifies)
    for problem, remedy in found.in_the_way:
        case.refuse("rebuild", f"{table.name} cannot be made anew: {problem}", remedy)
    for what in found.bound:
        case.refuse(
            "dependents",
            f"{what} is bound to {table.name} itself or to a view of it, and cannot be made anew from its text",
            "Drop it first, and create it again afterwards",
        )
    definition = _with_collations(case, operation, found.definition)
    _check_dropped(case, operation, definition)
    definition = settle(case, operation, definition)
    if len(case.found.findings) > before:
        return facts
    wide = tuple(KeyColumn(name=one.name, type=_key_type(case, operation, one)) for one in key.columns)
    facts = replace(facts, key=wide, definition=definition, parts=tables.parts(connection, table))
    new: NewTable | None = None
    if len(case.found.findings) == before:
        new = NewTable(
            table=table.name,
            definition=definition,
            of=operation,
            key=facts.key,
            migration=case.migration.name,
            number=case.number,
        )
        _refuse_leftovers(case, new)
    if new is not None and len(case.found.findings) == before:
        _try(case, new)
    if len(case.found.findings) == before:
        _warn(case, operation, definition)
    return facts


def _refuse_leftovers(case: Case, new: NewTable) -> None:
    """What another run of this name has made is there still."""
    for schema in (new.next.schema, new.past.schema):
        name = sql.Identifier(schema)
        found = case.connection.execute(
            "SELECT to_regnamespace(%s) IS NOT NULL AS there", [name.as_string()]
        ).fetchone()
        if found is None or not found["there"]:
            continue
        cancelled = left_by_cancelled_run(case.connection, case.migration.name)
        case.refuse(
            "leftover",
            f"the schema {schema} is there, which {'a cancelled run of this name' if cancelled else 'a run whose record is lost'} has made",
            f"Take that run back: backfilld rollback {case.migration.name}"
            if cancelled
            else f"Look into it, then DROP SCHEMA {name.as_string()} CASCADE",
        )


def _check_columns(case: Case, operation: Rebuild) -> None:
    """Raises Rejected for a column that is not there."""
    key = {one.name for one in case.table.keys[0].columns} if case.table.keys else set()
    for name in (*operation.columns, *(operation.order or ()), *(operation.cluster_by or ())):
        column = column_of(case.table, name)
        changed = operation.columns.get(name)
        if changed is None:
            continue
        if changed.drop and name in key:
            case.refuse(
                "key", f"{name} is in the key by which rows are known", "Keep it, or give the table another key first"
            )
        if not changed.drop and column.generated:
            case.refuse("column", f"{name} is computed by PostgreSQL", "Name an ordinary column")
        if changed.up is not None:
            analysis = case.trial.analyse(changed.up, what=f"up of {name}", type_=changed.type)
            check_reads(case, analysis)
            if analysis.unrepeatable or analysis.reads_others:
                calls = ", ".join((*analysis.unrepeatable, *analysis.reads_others))
                case.refuse(
                    "expression",
                    f"up of {name} uses {calls}, so a row would have another value each time that it is brought over",
                    "Use an expression over the row alone that always gives the same",
                )
    if all(one.name in operation.columns and operation.columns[one.name].drop for one in case.table.columns):
        case.refuse("columns", "the new table has no column", "Keep one")


def _key_type(case: Case, operation: Rebuild, column: KeyColumn) -> str:
    """The type in which a column of the key is written down: as wide as it is in either table."""
    changed = operation.columns.get(column.name)
    if changed is None or changed.type is None:
        return column.type
    if not are_akin(changed.type, column.type) or changed.up is not None:
        case.refuse(
            "key",
            f"{column.name} is in the key by which rows are known, and a row cannot be found by it as {changed.type} and as {column.type}",
            "Keep its type, or let it go from one integer type to another, or from varchar to text, without an `up`",
        )
    return as_wide_as_both(changed.type, column.type)


def _with_collations(case: Case, operation: Rebuild, definition: TableDefinition) -> TableDefinition:
    """A column keeps its collation, unless its new type has none."""
    columns = [
        replace(one, collation="")
        if one.collation
        and (changed := operation.columns.get(one.name)) is not None
        and changed.type is not None
        and not belongings.is_collatable(case.connection, changed.type)
        else one
        for one in definition.columns
    ]
    return replace(definition, columns=tuple(columns))


def _check_dropped(case: Case, operation: Rebuild, definition: TableDefinition) -> None:
    """What would be lost with a column that is dropped is refused, or named where PostgreSQL drops it with the column."""
    gone = {name for name, one in operation.columns.items() if one.drop}
    for one in definition.belongings:
        if not (about := sorted(gone & set(one.columns))):
            continue
        if one.kind in {"policy", "trigger"}:
            case.refuse(
                "dependents", f"the {one.kind} {one.name} is about {about[0]}, which is dropped", "Change it first"
            )
        elif one.kind in {"index", "constraint", "statistics"}:
            case.warn(f"the {one.kind} {one.name} goes with {about[0]}")
    for key in definition.foreign_keys:
        if key.table != case.table.name and gone & set(key.other_columns):
            case.refuse(
                "foreign_key",
                f"the foreign key {key.name} of {key.table} refers to a column that is dropped",
                "Drop it first",
            )
    for name in sorted(gone):
        column = definition.column(name)
        if column is not None and column.not_null and not column.expression and operation.columns[name].down is None:
            case.refuse(
                "down",
                f"{name} is NOT NULL without a DEFAULT, so rows written after the switch would have no value for it on the way back",
                "Add `down`: the value it then has, as an expression over the new row",
            )


def _try(case: Case, new: NewTable) -> None:
    """Make the new table, empty, with all that belongs to it, and look what it would not have; all of it is rolled back."""
    connection, what = case.connection, ""
    try:
        with connection.transaction(force_rollback=True):
            apply_settings(connection, {**SEMANTICS, "search_path": "", "lock_timeout": "2s"})
            moments = ("key", "unique", "index")
            for statement in (
                make_schema(new.next.schema, owner=new.definition.owner),
                *new.created,
                *(one for m in moments for one in new.made(m)),
                *new.belongs_to_it,
            ):
                what = statement.sql.as_string()
                connection.execute(statement.sql)
            what = "the values of the new table"
            condition = sql.SQL("true")
            connection.execute(sql.SQL("EXPLAIN {}").format(new.forward.copy(new.table.identifier, condition)), [])
            what = "the values of the old table, over rows of the new one"
            aliased = sql.SQL("{} AS {}").format(new.next.identifier, sql.Identifier(new.table.name))
            back = replace(new.back, target=new.table)
            connection.execute(sql.SQL("EXPLAIN {}").format(back.copy(aliased, condition)), [])
            what = "copies of materialized views"
            for statement in new.unfilled().copies_made(new.next.schema):
                connection.execute(statement.sql)
            named = new.renamed(new.next.schema)
            connection.execute("SET LOCAL check_function_bodies = off")
            # By its arguments alone it may be the same function: beside the other it has another schema.
            named |= {
                (one.schema, one.name): sql.Identifier(new.next.schema, one.name)
                for one in new.definition.row_functions
                if (new.table.schema, new.table.name) not in names(one.signature)
            }
            for one in new.definition.row_functions:
                what = f"the function {one.signature}"
                (text,) = split(one.definition)
                connection.execute(sql.SQL(text.renamed(named)))
            for view in new.definition.views:
                what = f"the view {view.written}"
                (text,) = split(view.definition)
                connection.execute(sql.SQL("EXPLAIN {}").format(sql.SQL(text.renamed(named))))
            for function in new.definition.functions:
                (text,) = split(function)
                what = text.renamed(named)
                connection.execute(sql.SQL(what))
            what = ""
            lost = catalog_diff.compare(
                frozenset(one for one in catalog_diff.read(connection, new.table) if _is_compared(one)),
                frozenset(_as_old(one, new) for one in catalog_diff.read(connection, new.next) if _is_compared(one)),
                Exchange(new=new, forward=True).allows,
            )
    except psycopg.Error as exc:
        if server_is_gone(exc):
            raise
        case.refuse(
            "rebuild", f"PostgreSQL cannot make the new table: {in_words(exc)} ({what})", "Change the operation"
        )
        return
    if lost:
        case.refuse(
            "rebuild", f"the new table would not be as the old one is ({lost})", "Remove it from the table first"
        )


def _is_compared(line: Line) -> bool:
    return line.kind not in _IN_THE_SWITCH and not (
        line.kind == "constraint" and line.definition.startswith("FOREIGN KEY")
    )


def _as_old(line: Line, new: NewTable) -> Line:
    """A line of the new table with the old one's schema."""
    here, there = (sql.Identifier(one).as_string() for one in (new.next.schema, new.table.schema))
    text = line.definition
    for name in (here, new.next.schema):
        plain = there if not there.strip('"').isidentifier() else new.table.schema
        text = text.replace(f"{name}.", f"{plain}.")
    return replace(line, definition=text)


def _warn(case: Case, operation: Rebuild, definition: TableDefinition) -> None:
    name = case.table.name
    for column in definition.columns:
        changed = operation.columns.get(column.name)
        stays = changed is None or changed.drop
        if column.has_sequence and (left := numbers.tell(case, column.name, column.type)) is not None:
            if not stays:
                case.warn(str(left))
            elif left.percent < _FEW_PERCENT and column.type != "bigint":
                case.warn(
                    f"{left}; it stays {column.type}: columns: {{{column.name}: {{type: bigint}}}} in this file would change that"
                )
    size = case.table.heap_bytes + case.table.index_bytes
    case.warn(
        f"{name} is there twice until the old one is purged: up to {size // 2**20:,} MB more on disk, and as much WAL"
    )
    ordered = (
        operation.order is not None
        and operation.order != tuple(one.name for one in definition.columns)[: len(operation.order)]
    )
    if ordered or any(one.drop for one in operation.columns.values()):
        case.warn(
            f"the columns of {name} have another order: a statement that writes rows without a list of columns (INSERT, COPY) would put "
            "values into other columns, without an error. Give each a list first"
        )
    if ordered or operation.columns:
        case.warn(
            f"prepared statements that return columns of {name} fail once after the switch ('cached plan must not change result type') "
            "where the columns differ, and must be prepared again"
        )
