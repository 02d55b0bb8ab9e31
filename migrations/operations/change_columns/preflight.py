"""Whether columns can be replaced by others, and all that must be known to bring them back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Facts, Replaced, Target
from backfilld.migrations.planning.checks.columns import check_reads, column_of, mentions
from backfilld.migrations.planning.checks.dropped_columns import (
    kept_of,
    refuse_what_cannot_come_back,
    tell_of_contract,
)
from backfilld.migrations.planning.checks.walks import with_key
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.expression_probe import Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.facts import Dropped
    from backfilld.migrations.file.migration import ChangeColumns
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.expression_probe import Analysis


def examine(case: Case, operation: ChangeColumns) -> Facts:
    """Raises Rejected."""
    table = case.table
    facts = Facts(relation=str(table.name))
    before = len(case.found.findings)
    olds = [column_of(table, name) for name in operation.down]
    details = [catalog.column_details(case.connection, table, one.name) for one in olds]
    for column, known in zip(olds, details, strict=True):
        refuse_what_cannot_come_back(case, column, known)
    _refuse_new_names(case, operation)
    _refuse_other_operations(case, operation)
    if len(case.found.findings) > before:
        return facts
    ups = {name: _analysed(case, text, name) for name, text in operation.up.items()}
    targets = tuple(_added(case, name, analysis.type) for name, analysis in ups.items())
    downs = {name: _analysed(case, text, name) for name, text in operation.down.items()}
    case.trial.check_update(dict(operation.up), None)
    case.trial.check_update(dict(operation.down), None)
    _check_reads(case, operation, ups, downs)
    dropped = tuple(kept_of(case, name) for name in operation.down)
    own = {*operation.up, *operation.down}
    replaced = Replaced(
        targets=tuple(
            Target(column=one.name, type=one.type, as_text=not case.trial.has_equality(one.name)) for one in olds
        ),
        dropped=dropped,
        constant_defaults=tuple(
            one.default is not None and case.trial.is_constant(one.default, one.type) for one in dropped
        ),
        up_reads=tuple(sorted({read for one in ups.values() for read in one.reads} - own)),
        down_reads=tuple(sorted({read for one in downs.values() for read in one.reads} - own)),
    )
    _warn(case, operation, dropped)
    facts = replace(facts, targets=targets, replaced=replaced)
    return with_key(case.found, case.place, table, facts)


def _refuse_new_names(case: Case, operation: ChangeColumns) -> None:
    table = case.table
    for name in operation.up:
        if table.column(name) is not None:
            case.refuse(
                "column",
                f"{table.name} already has a column {name}",
                "Choose another name; if a cancelled run of this migration left it, roll that run back first: "
                f"backfilld rollback {case.migration.name}; if a run left it whose record is lost, drop it: "
                f"ALTER TABLE {table.name.identifier.as_string()} DROP COLUMN {sql.Identifier(name).as_string()}",
            )


def _refuse_other_operations(case: Case, operation: ChangeColumns) -> None:
    for number, other in enumerate(case.migration.operations):
        named = [name for name in (*operation.down, *operation.up) if mentions(other, name)]
        if number != case.number and other.table == case.table.name and named:
            case.refuse(
                "operations",
                f"operations[{number}].{other.kind} also names {named[0]}",
                f"Put the second in a migration of its own, with `after: [{case.migration.name}]`, or both in a folder",
            )


def _analysed(case: Case, expression: str, name: str) -> Analysis:
    analysis = case.trial.analyse(expression, what=f"the expression of {name}")
    check_reads(case, analysis)
    if analysis.unrepeatable:
        raise Rejected(
            "expression",
            f"the expression of {name} calls {', '.join(analysis.unrepeatable)}, which can return different results",
            "Write an expression that always returns the same for the same row",
        )
    if analysis.reads_others:
        case.warn(
            f"the expression of {name} reads {', '.join(analysis.reads_others)}; a change there reaches {case.table.name} only "
            "when the row itself is written"
        )
    return analysis


def _added(case: Case, name: str, type_: str) -> Target:
    """The new column, on the copy: of the type that its expression has."""
    type_, _ = case.trial.add_column(name, type_, None)
    return Target(column=name, type=type_, as_text=not case.trial.has_equality(name))


def _check_reads(case: Case, operation: ChangeColumns, ups: dict[str, Analysis], downs: dict[str, Analysis]) -> None:
    """Each set is computed from the other one, and from columns that are in neither. Raises Rejected."""
    for side, other, analyses in (("up", "down", ups), ("down", "up", downs)):
        own = operation.up if side == "up" else operation.down
        foreign = operation.down if side == "up" else operation.up
        for name, analysis in analyses.items():
            if inside := sorted(analysis.reads & own.keys()):
                problem = f"the expression of {name} reads {inside[0]}, which is computed itself"
                raise Rejected("expression", problem, f"Write `{side}` over the columns of `{other}`")
        if unread := sorted(foreign.keys() - {read for one in analyses.values() for read in one.reads}):
            case.warn(
                f"no expression of `{side}` reads {', '.join(unread)}: what a statement writes into it alone does not reach "
                f"{', '.join(own)}"
            )


def _warn(case: Case, operation: ChangeColumns, dropped: Sequence[Dropped]) -> None:
    """What a careful person should know."""
    table = case.table
    old, new = ", ".join(operation.down), ", ".join(operation.up)
    for name, known in zip(operation.down, dropped, strict=True):
        tell_of_contract(case, name, known, instead=new)
    if strict := [name for name, known in zip(operation.down, dropped, strict=True) if known.not_null]:
        case.warn(
            f"{', '.join(strict)} may be NULL from the switch on, so that no statement fails whose values `down` cannot compute; the "
            "new columns may be NULL as well, until `set_not_null`"
        )
    case.warn(
        f"contract drops {old}: approve it only when no application uses them. Their values are archived "
        f"for {case.migration.settings.retention_days:g} days, and a rollback restores them; of what was written into {new} a "
        "rollback keeps what `down` gives"
    )
    if table.publications:
        case.warn(
            f"{table.name} is published ({', '.join(table.publications)}): subscribers need the columns {new} before backfilld "
            f"adds them, and may lose {old} only after contract"
        )
