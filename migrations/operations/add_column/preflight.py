"""Whether a column can be added, and its values computed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psycopg import sql

from backfilld.migrations.facts import Facts, Target
from backfilld.migrations.planning.checks.cancelled_runs import cancelled_definition
from backfilld.migrations.planning.checks.columns import check_reads, once_because
from backfilld.migrations.planning.checks.walks import key_of
from backfilld.migrations.postgres.expression_probe import Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.migrations.file.migration import AddColumn
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.expression_probe import Analysis


def examine(case: Case, operation: AddColumn) -> Facts:
    """Raises Rejected."""
    table, trial = case.table, case.trial
    cancelled = cancelled_definition(case.connection, case.migration.name)
    adopts = cancelled is not None
    column = operation.column.name
    present = table.column(column)
    if present is not None and not adopts:
        case.refuse(
            "column",
            f"{table.name} already has a column {column}",
            "Choose another name, or fill the existing column with a `backfill` operation; if a run added it whose record is "
            f"lost, drop it first: ALTER TABLE {table.name.identifier.as_string()} DROP COLUMN {sql.Identifier(column).as_string()}",
        )
        return Facts(relation=str(table.name))
    if present is not None and cancelled is not None and not _computed_alike(case, cancelled):
        case.refuse(
            "column",
            f"a cancelled run of {case.migration.name} has left {column} behind, and computed it in another way: its values "
            "could not be told from the application's own",
            f"Roll that run back first: backfilld rollback {case.migration.name}",
        )
        return Facts(relation=str(table.name))
    type_, default_fills = (
        (present.type, False) if present else trial.add_column(column, operation.column.type, operation.default)
    )
    expression = operation.backfill or (operation.default if operation.default and not default_fills else None)
    facts = Facts(
        relation=str(table.name),
        key=key_of(table),
        targets=(Target(column=column, type=type_, as_text=not trial.has_equality(column)),),
        default_fills=default_fills and operation.backfill is None,
        adopts=adopts and present is not None,
    )
    if not table.keys:
        case.warn(
            f"{table.name} has no key by which rows could be archived: if the run is rolled back, what the "
            f"application wrote into {column} is lost"
        )
    if operation.default is not None:
        trial.analyse(operation.default, what="the default")
        facts = replace(facts, constant_default=trial.is_constant(operation.default, type_))
    if expression is None:
        return facts
    analysis = _analysed(case, operation, expression)
    if operation.backfill is not None:
        _warn(case, operation, analysis)
    return replace(
        facts,
        reads=tuple(sorted(analysis.reads)),
        repeatable=not analysis.unrepeatable,
        once_because=once_because(analysis, set()),
        volatile=bool(analysis.unrepeatable),
    )


def _computed_alike(case: Case, cancelled: Mapping[str, Any]) -> bool:  # Any: the file as JSON
    """Whether the cancelled run gave the column its values as this one would."""
    mine = case.migration.canonical()["operations"][case.number]["add_column"]
    gives = ("table", "column", "backfill", "default")
    return any(
        all(other.get(part) == mine.get(part) for part in gives)
        for one in cancelled["operations"]
        if (other := one.get("add_column")) is not None
    )


def _analysed(case: Case, operation: AddColumn, expression: str) -> Analysis:
    """What gives the rows their value, tried on the copy of the table. Raises Rejected."""
    table, column = case.table, operation.column.name
    analysis = case.trial.analyse(expression, what="backfill")
    case.trial.check_update({column: expression}, None)
    check_reads(case, analysis)
    if column in analysis.reads:
        raise Rejected("expression", f"backfill reads {column}, the column that it fills")
    generated = sorted(one.name for one in table.columns if one.generated and one.name in analysis.reads)
    if generated and operation.backfill is not None:
        raise Rejected(
            "expression",
            f"backfill reads the generated column {generated[0]}, which is not yet computed when the sync trigger fires",
        )
    return analysis


def _warn(case: Case, operation: AddColumn, analysis: Analysis) -> None:
    """What becomes of values that the application writes into the column before contract."""
    table, column = case.table, operation.column.name
    if not operation.computed or analysis.unrepeatable:
        what = "a value that the application writes is kept, and rows without one are filled"
    else:
        what = (
            "the sync trigger replaces what the application writes into it with the expression's value (computed: true)"
        )
    case.found.warn(f"{table.name}.{column} until contract: {what}")
    if operation.computed and analysis.unrepeatable:
        case.warn(
            f"computed: true has no effect: the expression calls {', '.join(analysis.unrepeatable)}, so a value that was "
            "computed cannot be told from another"
        )
    if analysis.reads_others:
        case.warn(
            f"the expression reads {', '.join(analysis.reads_others)}; a change there reaches {table.name} only "
            + (
                "when the row itself is written, or in verify"
                if operation.computed
                else "in rows that have no value yet"
            )
        )
