"""What must be true before a migration may run, found by asking the database; nothing is changed.

`examine` gives all reasons for refusal at once, what a careful person should know besides, and the facts the walk needs.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, assert_never

from psycopg import sql

from migrations import definition
from migrations.definition import TableName
from migrations.errors import Finding
from migrations.facts import Facts, Target
from migrations.operations import bind
from migrations.postgres import catalog, pooler
from migrations.postgres.expressions import Analysis, Complaint, Probe, probe
from migrations.walks.forecast import Forecast, forecast

if TYPE_CHECKING:
    from migrations.definition import AddColumn, Backfill, Migration, Operation
    from migrations.postgres.catalog import Backend, Column, Leaf, Table
    from migrations.postgres.connect import Connection

#: Page-wise TID range scans and CREATE OR REPLACE TRIGGER came with 14.
OLDEST_SERVER = 140_000

#: Why a function's rows are walked once, in words.
_BECAUSE_PYTHON = "SQL cannot ask whether a row is as the function would have it"


@dataclass(kw_only=True)
class Examination:
    """What preflight found."""

    backend: Backend
    facts: tuple[Facts, ...] = ()
    tables: dict[TableName, Table] = field(default_factory=dict)
    #: About how many rows each table has.
    rows: dict[TableName, int] = field(default_factory=dict)
    #: How each operation will walk its table; None where it moves no data. Empty when the migration is refused.
    forecasts: tuple[Forecast | None, ...] = ()
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def refuse(self, check: str, problem: str, remedy: str) -> None:
        self.findings.append(Finding(check, problem, remedy))

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def examine(connection: Connection, migration: Migration) -> Examination:
    """Ask the database whether a migration can run safely. Raises only for the loss of the connection."""
    found = Examination(backend=catalog.backend(connection))
    _check_server(connection, found, migration)
    if not found.findings:
        found.facts = tuple(
            _examine_operation(connection, found, migration, number) for number in range(len(migration.operations))
        )
    if not found.findings:
        found.forecasts = tuple(
            forecast(connection, found.tables[operation.table], rewrite, migration.settings)
            if (rewrite := operation.rewrite()) is not None
            else None
            for operation in bind(migration, found.facts)
        )
    return found


def _check_server(connection: Connection, found: Examination, migration: Migration) -> None:
    backend = found.backend
    if backend.version < OLDEST_SERVER:
        found.refuse("server_version", f"the server is PostgreSQL {backend.version // 10_000}", "Use 14 or newer")
    if backend.in_recovery or backend.read_only:
        found.refuse(
            "read_only",
            "this server does not take writes (a standby, or read-only by default)",
            "Give the URL of the primary, and check default_transaction_read_only",
        )
    elif not backend.may_make_temporary:
        found.refuse(
            "temporary_tables",
            f"the role {backend.role} may not make temporary tables, in which expressions are tried out",
            f"GRANT TEMPORARY ON DATABASE {connection.info.dbname} TO {backend.role}",
        )
    if any(isinstance(operation, definition.AddColumn) for operation in migration.operations) and (
        pooler.in_transaction_mode(connection)
    ):
        found.refuse(
            "pooler",
            "the connection goes through a pooler in transaction mode, which is not safe for schema changes",
            "Use the database's direct address or a session-mode pooler (on Supabase port 5432, not 6543)",
        )


def _examine_operation(connection: Connection, found: Examination, migration: Migration, number: int) -> Facts:
    operation = migration.operations[number]
    place = f"operations[{number}].{operation.kind}"
    nothing = Facts(relation=str(operation.table))
    table = found.tables.get(operation.table) or _find_table(connection, found, place, operation.table)
    if table is None:
        return nothing
    found.tables[operation.table] = table
    found.rows[operation.table] = catalog.estimate_rows(connection, table)
    before = len(found.findings)
    _check_table(found, place, table, operation)
    if len(found.findings) > before:
        return nothing
    try:
        with probe(connection, table) as trial:
            match operation:
                case definition.AddColumn():
                    adopts = _left_by_cancelled_run(connection, migration.name)
                    facts = _examine_add_column(found, place, table, operation, trial, adopts=adopts)
                case definition.Backfill(transform=None):
                    facts = _examine_backfill(found, place, table, operation, trial)
                case definition.Backfill():
                    facts = _examine_transform(connection, found, place, table, operation, trial)
                case _:
                    assert_never(operation)
    except Complaint as complaint:
        found.findings.append(complaint.finding(place))
        return nothing
    _tell_of_surroundings(found, table, operation)
    if not _moves_data(operation, facts):
        return facts
    facts = _with_key(found, place, table, facts)
    because = _keys_because(connection, table, facts)
    if because and migration.settings.walk == "pages":
        found.refuse(
            "walk",
            f"{place}: {table.name} cannot be walked by pages, because {because}",
            "Remove `walk: pages` from the settings; it is walked by key then",
        )
    return replace(facts, keys_because=because)


def _find_table(connection: Connection, found: Examination, place: str, name: TableName) -> Table | None:
    table = catalog.describe(connection, name)
    if table is None:
        names = [str(TableName(schema, other)) for schema, other in catalog.similar_tables(connection, name)]
        lowered = {other.lower(): other for other in reversed(names)}
        near = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.6)
        found.refuse(
            "table",
            f"{place}: there is no table {name}",
            f"Did you mean {lowered[near[0]]}? Names are exact, never folded" if near else "Name it as schema.table",
        )
    return table


def _check_table(found: Examination, place: str, table: Table, operation: Operation) -> None:
    name, role = table.name, found.backend.role
    if table.kind not in catalog.TABLES:
        kinds = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "i": "an index"}
        found.refuse(
            "table_kind", f"{place}: {name} is {kinds.get(table.kind, 'not a table')}", "Name an ordinary table"
        )
        return
    if table.has_children:
        found.refuse(
            "inheritance",
            f"{place}: {name} has tables that inherit from it, and no key covers them all",
            "Name each of these tables in an operation of its own",
        )
    if table.is_partition and operation.kind == "add_column":
        found.refuse(
            "partition",
            f"{place}: {name} is a partition, and its columns are its parent's",
            "Name the partitioned table",
        )
    if table.row_security_active:
        found.refuse(
            "row_security",
            f"{place}: row security is active on {name} for the role {role}, so rows would be hidden from it "
            "and a backfill would pass over them in silence",
            f"Use a role with BYPASSRLS (ALTER ROLE {role} BYPASSRLS), or the owner of a table without FORCE ROW LEVEL SECURITY",
        )
    if operation.kind == "add_column" and not table.owned:
        found.refuse(
            "ownership",
            f"{place}: the role {role} does not own {name}",
            "Use the owner, or a role that is a member of it",
        )
    if not (table.may_select and table.may_update):
        found.refuse(
            "privileges",
            f"{place}: the role {role} may not read and update {name}",
            f"GRANT SELECT, UPDATE ON {name.identifier.as_string()} TO {role}",
        )
    identified = table.replica_identity not in {"d", "n"} or (
        table.replica_identity == "d" and any(key.is_primary for key in table.keys)
    )
    if table.publications and not identified:
        found.refuse(
            "replica_identity",
            f"{place}: {name} is published ({', '.join(table.publications)}) without a replica identity, so updates of it fail",
            f"ALTER TABLE {name.identifier.as_string()} REPLICA IDENTITY FULL, or give it a primary key",
        )


def _examine_add_column(  # noqa: PLR0913 - one step of `examine`, which owns all of these
    found: Examination, place: str, table: Table, operation: AddColumn, trial: Probe, *, adopts: bool
) -> Facts:
    column = operation.column.name
    present = table.column(column)
    if present is not None and not adopts:
        found.refuse(
            "column",
            f"{place}: {table.name} has a column {column} already",
            "Choose another name, or fill the column that is there with a `backfill` operation",
        )
        return Facts(relation=str(table.name))
    type_, default_fills = (
        (present.type, False) if present else trial.add_column(column, operation.column.type, operation.default)
    )
    expression = operation.backfill or (operation.default if operation.default and not default_fills else None)
    facts = Facts(
        relation=str(table.name),
        targets=(Target(column=column, type=type_, as_text=not trial.has_equality(column)),),
        default_fills=default_fills and operation.backfill is None,
        adopts=adopts and present is not None,
    )
    if operation.default is not None:
        trial.analyse(operation.default, what="the default")
    if expression is None:
        return facts
    analysis = trial.analyse(expression, what="backfill")
    trial.check_update({column: expression}, None)
    _check_reads(found, place, analysis)
    if column in analysis.reads:
        raise Complaint("expression", f"backfill reads {column}, the column it is to fill")
    generated = sorted(one.name for one in table.columns if one.generated and one.name in analysis.reads)
    if generated and operation.backfill is not None:
        raise Complaint(
            "expression",
            f"backfill reads the generated column {generated[0]}, which is not yet computed when the sync trigger fires",
        )
    if operation.backfill is not None:
        found.warn(
            f"{table.name}.{column} is computed until contract: what the application writes into it is replaced by the "
            "expression's value"
        )
    if analysis.reads_others:
        found.warn(
            f"{place}: the expression reads {', '.join(analysis.reads_others)}; a change there reaches {table.name} only "
            "when the row itself is written, or by verify"
        )
    return replace(facts, repeatable=not analysis.unrepeatable, once_because=_once_because(analysis, set()))


def _examine_backfill(found: Examination, place: str, table: Table, operation: Backfill, trial: Probe) -> Facts:
    targets = []
    reads: set[str] = set()
    unrepeatable: set[str] = set()
    assignments = operation.assignments or {}
    for name, text in assignments.items():
        column = _settable(table, name)
        analysis = trial.analyse(text, what=f"set.{name}")
        _check_reads(found, place, analysis)
        reads |= analysis.reads
        unrepeatable |= set(analysis.unrepeatable)
        targets.append(
            Target(column=name, type=column.type, as_text=column.nondeterministic or not trial.has_equality(name))
        )
    condition_may_end = False
    if operation.where is not None:
        analysis = trial.analyse(operation.where, what="where", type_="boolean")
        _check_reads(found, place, analysis)
        condition_may_end = bool(analysis.reads & set(assignments))
        # A condition over the clock is asked anew for each batch, but does not change what is written.
    trial.check_update(assignments, operation.where)
    once = _once_because(
        Analysis(reads=frozenset(), reads_others=(), hidden=(), unrepeatable=tuple(sorted(unrepeatable))),
        reads & set(assignments),
    )
    if once:
        later = (
            "rows that meet the condition later are walked too, unless a row that was changed still meets it"
            if condition_may_end
            else "rows added later are not touched"
        )
        found.warn(
            f"{place}: each row that is there at the start is visited exactly once, because the expression {once}; {later}"
        )
    return Facts(
        relation=str(table.name),
        targets=tuple(targets),
        repeatable=not once,
        once_because=once,
        condition_may_end=condition_may_end,
    )


def _examine_transform(  # noqa: PLR0913, PLR0917 - one step of `examine`, which owns all of these
    connection: Connection, found: Examination, place: str, table: Table, operation: Backfill, trial: Probe
) -> Facts:
    """The columns and the condition; the function itself is for the worker, which alone may import it."""
    plain = catalog.plain_types(connection, table)
    targets = tuple(
        Target(column=name, type=_settable(table, name).type, as_text=True, plain_type=plain[name])
        for name in operation.written
    )
    reads = tuple(_column(table, name).name for name in operation.reads or [column.name for column in table.columns])
    condition_may_end = False
    if operation.where is not None:
        analysis = trial.analyse(operation.where, what="where", type_="boolean")
        _check_reads(found, place, analysis)
        condition_may_end = bool(analysis.reads & set(operation.written))
    trial.check_update({name: sql.Identifier(name).as_string() for name in operation.written}, operation.where)
    later = (
        "rows that meet the condition later are handed over too, unless a row that was handed over still meets it"
        if condition_may_end
        else "rows added later are not touched"
    )
    found.warn(
        f"{place}: the values come from the Python function {operation.transform}, which is not imported here and cannot "
        "be tried out; every worker of this database must be told to allow its module in BACKFILLD_TRANSFORMS"
    )
    found.warn(f"{place}: each row that is there at the start is handed over once, because {_BECAUSE_PYTHON}; {later}")
    if operation.reads is None:
        found.warn(
            f"{place}: the function is handed all {len(reads)} columns of {table.name}; name those it needs in `reads`"
        )
    return Facts(
        relation=str(table.name),
        targets=targets,
        reads=reads,
        repeatable=False,
        once_because=_BECAUSE_PYTHON,
        condition_may_end=condition_may_end,
    )


def _settable(table: Table, name: str) -> Column:
    """A column that a backfill may write. Raises Complaint."""
    column = _column(table, name)
    if column.generated or column.identity_always:
        raise Complaint("column", f"{name} is computed by PostgreSQL and cannot be set")
    if name in {column.name for key in table.keys[:1] for column in key.columns}:
        raise Complaint("column", f"{name} is part of the key that {table.name} is walked by and cannot be set")
    return column


def _column(table: Table, name: str) -> Column:
    column = table.column(name)
    if column is None:
        near = difflib.get_close_matches(name, [one.name for one in table.columns], n=1)
        hint = f". Did you mean {near[0]}?" if near else ""
        raise Complaint("column", f"{table.name} has no column {name}{hint}")
    return column


def _check_reads(found: Examination, place: str, analysis: Analysis) -> None:
    if analysis.hidden:
        found.refuse(
            "row_security",
            f"{place}: the expression reads {', '.join(analysis.hidden)}, whose policies hide rows from {found.backend.role}",
            "Use a role with BYPASSRLS",
        )


def _once_because(analysis: Analysis, own: set[str]) -> str:
    reasons = []
    if own:
        reasons.append(f"reads {', '.join(sorted(own))}, which it sets")
    if analysis.unrepeatable:
        reasons.append(f"calls {', '.join(analysis.unrepeatable)}, which may answer differently each time")
    return " and ".join(reasons)


def _moves_data(operation: Operation, facts: Facts) -> bool:
    match operation:
        case definition.AddColumn():
            return operation.backfill is not None or (operation.default is not None and not facts.default_fills)
        case definition.Backfill():
            return True
        case _:
            assert_never(operation)


def _with_key(found: Examination, place: str, table: Table, facts: Facts) -> Facts:
    """Choose the key that is walked."""
    if not table.keys:
        found.refuse(
            "key",
            f"{place}: {table.name} has no primary key and no unique key of NOT NULL columns, so it cannot be walked",
            f"Add one: ALTER TABLE {table.name.identifier.as_string()} ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY "
            "rewrites the table; a unique index made CONCURRENTLY on NOT NULL columns does not",
        )
        return facts
    return replace(facts, key=table.keys[0].columns)


def _keys_because(connection: Connection, table: Table, facts: Facts) -> str:
    """Why a table cannot be walked by pages; empty when it can."""
    if facts.once_because:
        return f"the expression {facts.once_because}, and a row that moves to another page would be met twice or never"
    because = [reason for leaf in catalog.leaves(connection, table) if (reason := _not_by_pages(leaf))]
    deciding = catalog.partition_columns(connection, table)
    moving = sorted({target.column for target in facts.targets} & {name for name in deciding if name is not None})
    if moving:
        because.append(f"{', '.join(moving)} decides in which partition a row is")
    if None in deciding:
        because.append("an expression decides in which partition a row is")
    return because[0] if because else ""


def _not_by_pages(leaf: Leaf) -> str:
    if leaf.kind == "f":
        return f"{leaf.name} is a foreign table"
    if not leaf.heap:
        return f"{leaf.name} is not stored as PostgreSQL's heap"
    if leaf.row_security_active:
        return f"row security is active on {leaf.name} itself"
    return "" if leaf.may_update else f"this role may not read and update {leaf.name} itself"


def _tell_of_surroundings(found: Examination, table: Table, operation: Operation) -> None:
    match operation:
        case definition.AddColumn():
            written = {operation.column.name}
        case definition.Backfill():
            written = set(operation.written)
        case _:
            assert_never(operation)
    for trigger in table.triggers:
        if trigger.fires_for(written) and not trigger.name.startswith("~backfilld_"):
            reach = ", which reaches outside the database: once for every row" if trigger.reaches_outside else ""
            found.warn(
                f"the trigger {trigger.name} on {table.name} fires for every row that is changed ({trigger.function}){reach}; "
                "WHEN (coalesce(current_setting('backfilld.batch', true), '') = '') lets it tell our batches"
            )
    if table.publications:
        found.warn(f"every changed row of {table.name} is sent on by {', '.join(table.publications)}")
    indexed = sorted(name for name in written if (column := table.column(name)) is not None and column.indexed)
    if indexed:
        found.warn(
            f"{', '.join(indexed)} of {table.name} is indexed, so each changed row writes every index of the table"
        )


def _left_by_cancelled_run(connection: Connection, name: str) -> bool:
    # Not to_regclass: for a role without rights in the schema it is an error. Such a role has no runs to take over either.
    readable = connection.execute(
        "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'backfilld' "
        "AND c.relname = 'runs' AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')"
    )
    if not readable.rowcount:
        return False
    row = connection.execute(
        "SELECT state = 'cancelled' AS cancelled FROM backfilld.runs WHERE name = %s ORDER BY run DESC LIMIT 1", [name]
    ).fetchone()
    return bool(row and row["cancelled"])
