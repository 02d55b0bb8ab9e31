"""What must be true before a migration may run, found by asking the database; nothing is changed.

`examine` gives all reasons for refusal at once, what a careful person should know besides, and the facts that the steps need.
Each operation has a `preflight.py` in its folder, which is handed a `Case` and gives the operation's facts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts
from backfilld.migrations.file import migration as definition
from backfilld.migrations.operations import bind, bind_one, walks
from backfilld.migrations.operations.create_table import preflight as create_table
from backfilld.migrations.operations.registry import REGISTRY
from backfilld.migrations.operations.sql import preflight as sql
from backfilld.migrations.planning.checks.event_triggers import check_event_triggers
from backfilld.migrations.planning.checks.findings import Case
from backfilld.migrations.planning.checks.leftovers import tell_leftovers
from backfilld.migrations.planning.checks.live_runs import (
    as_wide,
    check_columns,
    check_referenced,
    check_walk,
    live_operations,
)
from backfilld.migrations.planning.checks.row_security import tell_row_security
from backfilld.migrations.planning.checks.shared_dependents import check_shared_dependents
from backfilld.migrations.planning.checks.side_effects import refuse_update_rules, tell_side_effects
from backfilld.migrations.planning.checks.tables import check_table, find_table
from backfilld.migrations.planning.checks.walks import keys_because, needs_no_key, with_key
from backfilld.migrations.planning.checks.whole_rows import find_row_comparisons
from backfilld.migrations.planning.dry_run import dry_run
from backfilld.migrations.planning.estimate import estimate_cost, estimate_load
from backfilld.migrations.planning.examination import Examination
from backfilld.migrations.planning.index_rights import check_index_rights
from backfilld.migrations.planning.trigger_trial import try_triggers
from backfilld.migrations.postgres import catalog, dependents, pooler
from backfilld.migrations.postgres.expression_probe import Rejected, probe
from backfilld.migrations.postgres.foreign_code import foreign_code
from backfilld.migrations.record import schema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations import Operation
    from backfilld.migrations.planning.checks.live_runs import LiveOperation
    from backfilld.migrations.planning.estimate import CostEstimate
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.source_settings import SourceSettings

__all__ = ["OLDEST_SERVER", "Examination", "examine"]

#: Page-wise TID range scans and CREATE OR REPLACE TRIGGER came with 14.
OLDEST_SERVER = 140_000


def examine(
    connection: Connection,
    migration: Migration,
    *,
    refuses_foreign_code: bool = False,
    sources: Sequence[SourceSettings] = (),
) -> Examination:
    """Ask the database whether a migration can run safely. Raises only for the loss of the connection."""
    found = Examination(backend=catalog.backend(connection), sources=sources)
    _check_server(connection, found, migration)
    found.publish_record = tuple(schema.publishing(connection))
    if found.publish_record:
        found.warn(schema.published_because(found.publish_record))
    if not found.findings:
        check_event_triggers(connection, found)
    if not found.findings:
        live = live_operations(connection, migration.name)
        found.facts = tuple(
            _examine_operation(connection, found, migration, number, live)
            for number in range(len(migration.operations))
        )
    if not found.findings:
        tell_row_security(connection, found, migration)
        check_index_rights(connection, found, bind(migration, found.facts))
    if not found.findings:
        _look_at_foreign_code(connection, found, refuses=refuses_foreign_code)
    # Not before: the dry run runs such code.
    if not found.findings:
        found.dependents = {name: dependents.of_table(connection, table) for name, table in found.tables.items()}
        check_shared_dependents(found, migration, found.facts, found.dependents)
    if not found.findings:
        found.dry_run = dry_run(connection, found, migration, found.facts)
        found.settle(found.dry_run.shows_brief)
    found.settle(lambda _: False)
    if not found.findings:
        try_triggers(connection, found, migration, bind(migration, found.facts))
    if not found.findings:
        found.costs = tuple(
            estimate_cost(connection, found.tables[rewrite.table], rewrite, migration.settings)
            if (rewrite := operation.rewrite()) is not None
            else _cost_of_load(connection, found, operation)
            for operation in bind(migration, found.facts)
        )
    return found


def _cost_of_load(connection: Connection, found: Examination, operation: Operation) -> CostEstimate | None:
    """None for an operation that loads nothing."""
    load, name = operation.facts.load, operation.table
    if load is None or name is None:
        return None
    table = found.tables[name]
    indexes = max((one.indexes for one in catalog.leaves(connection, table)), default=0)
    return estimate_load(table, load, rows=found.rows[name], indexes=indexes)


def _look_at_foreign_code(connection: Connection, found: Examination, *, refuses: bool) -> None:
    tables = [table.oid for table in found.tables.values()]
    found.foreign_code = foreign_code(connection, tables, found.called)
    for one in found.foreign_code if refuses else ():
        found.refuse(
            "foreign_code",
            one.runs_as(found.backend.role),
            "Let a role that you trust own it, or set BACKFILLD_FOREIGN_CODE=warn",
        )


def _check_server(connection: Connection, found: Examination, migration: Migration) -> None:
    backend = found.backend
    if backend.version < OLDEST_SERVER:
        found.refuse("server_version", f"the server is PostgreSQL {backend.version // 10_000}", "Use 14 or newer")
    if backend.in_recovery or backend.read_only:
        found.refuse(
            "read_only",
            "this server does not accept writes (a standby, or read-only by default)",
            "Give the URL of the primary, and check default_transaction_read_only",
        )
    elif not backend.may_make_temporary:
        found.refuse(
            "temporary_tables",
            f"the role {backend.role} may not create temporary tables, which are needed to check expressions",
            f"GRANT TEMPORARY ON DATABASE {connection.info.dbname} TO {backend.role}",
        )
    of_rows = definition.Backfill | definition.DeleteRows | definition.Load
    if any(not isinstance(operation, of_rows) for operation in migration.operations) and (
        pooler.in_transaction_mode(connection)
    ):
        found.refuse(
            "pooler",
            "the connection goes through a pooler in transaction mode, which is not safe for schema changes",
            "Use the database's direct address or a session-mode pooler (on Supabase port 5432, not 6543)",
        )


def _examine_operation(
    connection: Connection,
    found: Examination,
    migration: Migration,
    number: int,
    live: Mapping[TableName, Sequence[LiveOperation]],
) -> Facts:
    operation = migration.operations[number]
    place = f"operations[{number}].{operation.kind}"
    examine_case = REGISTRY[type(operation)].examine
    if isinstance(operation, definition.Sql):
        return sql.examine(connection, found, operation, number, live)
    if isinstance(operation, definition.CreateTable):
        return create_table.examine(connection, found, migration, number)
    nothing = Facts(relation=str(operation.table))
    before = len(found.findings)
    beside = live.get(operation.table, ())
    check_columns(found, place, operation, beside)
    table = found.tables.get(operation.table) or find_table(connection, found, place, operation.table)
    if table is not None:
        found.tables[operation.table] = table
        found.rows[operation.table] = catalog.estimate_rows(connection, table)
        check_table(found, place, table, operation)
        tell_leftovers(connection, found, table)
    if table is None or examine_case is None or len(found.findings) > before:
        return nothing
    try:
        with probe(connection, table, allowed=migration.settings.allow_functions) as trial:
            case = Case(
                connection=connection,
                found=found,
                migration=migration,
                number=number,
                place=place,
                table=table,
                trial=trial,
            )
            _add_earlier_columns(case)
            facts = examine_case(case, operation)
            found.called.add(trial.called)
            for name in sorted(trial.opaque):
                case.warn(
                    f"{name}() is written in a language that is not trusted: what else it does cannot be seen from outside"
                )
            if len(found.findings) == before:
                find_row_comparisons(case, operation, facts)
            check_columns(found, place, operation, beside, facts=facts)
    except Rejected as rejected:
        found.findings.append(rejected.finding(place))
        return nothing
    if len(found.findings) > before:
        return facts
    facts = as_wide(_with_walk(case, _with_plain_types(connection, facts)), beside)
    bound = bind_one(migration, number, facts)
    if bound.rewrite() is not None or walks((bound,)):
        check_walk(found, place, facts, beside)
    check_referenced(found, place, operation, facts, live)
    return facts


def _with_plain_types(connection: Connection, facts: Facts) -> Facts:
    """Every target with the type that its values are computed in, apart from the row that they are for."""
    if not any(not target.plain_type for target in facts.targets):
        return facts
    plain = catalog.plain_type_names(connection, [target.type for target in facts.targets])
    return replace(
        facts,
        targets=tuple(
            replace(target, plain_type=target.plain_type or plain.get(target.type, "")) for target in facts.targets
        ),
    )


def _add_earlier_columns(case: Case) -> None:
    """Columns that earlier operations of the file add to the table are there for the later ones."""
    for earlier in case.migration.operations[: case.number]:
        if isinstance(earlier, definition.AddColumn) and earlier.table == case.table.name:
            column = earlier.column
            if case.table.column(column.name) is None:
                case.trial.add_column(column.name, column.type, None)


def _with_walk(case: Case, facts: Facts) -> Facts:
    """How the operation walks its table, if it moves data."""
    rewrite = bind_one(case.migration, case.number, facts).rewrite()
    if rewrite is None:
        return facts
    if rewrite.updates:  # a deletion asks for its own kind of rules and triggers
        refuse_update_rules(case)
        tell_side_effects(case, facts)
    by_place = not case.table.keys and needs_no_key(
        case.connection, case.table, rewrite, walk=case.migration.settings.walk
    )
    facts = with_key(case.found, case.place, case.table, facts, by_place=by_place)
    if by_place:
        case.warn(
            f"{case.table.name} has no key: a row whose value cannot be computed pauses the run, and is named by where it is (ctid)"
        )
    written = facts if rewrite.updates else replace(facts, targets=())
    because = facts.keys_because or keys_because(case.connection, case.table, written)
    if because and case.migration.settings.walk == "pages":
        case.refuse(
            "walk",
            f"{case.table.name} cannot be walked by pages, because {because}",
            "Remove `walk: pages` from the settings; the table is then walked by key",
        )
    if bind_one(case.migration, case.number, facts).undo() and not case.migration.settings.journal:
        case.warn("with `journal: off` old values are not kept: once rows have changed, this run cannot be rolled back")
    return replace(facts, keys_because=because)
