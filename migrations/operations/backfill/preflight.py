"""Whether columns can be given new values, by SQL or by a Python function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Facts, Target
from backfilld.migrations.planning.checks.columns import check_reads, column_of, once_because, settable
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.expression_probe import Analysis

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import Backfill
    from backfilld.migrations.planning.checks.findings import Case

#: Why a function's rows are walked once, in words.
_BECAUSE_PYTHON = "SQL cannot check whether the function would still change a row"


def examine(case: Case, operation: Backfill) -> Facts:
    """Raises Rejected."""
    return _by_function(case, operation) if operation.transform is not None else _by_expressions(case, operation)


def _by_expressions(case: Case, operation: Backfill) -> Facts:
    table, trial = case.table, case.trial
    targets = []
    reads: set[str] = set()
    unrepeatable: set[str] = set()
    assignments = operation.assignments or {}
    for name, text in assignments.items():
        column = settable(table, name)
        analysis = trial.analyse(text, what=f"set.{name}")
        check_reads(case, analysis)
        reads |= analysis.reads
        unrepeatable |= set(analysis.unrepeatable)
        targets.append(
            Target(column=name, type=column.type, as_text=column.nondeterministic or not trial.has_equality(name))
        )
    condition_may_end = False
    if operation.where is not None:
        analysis = trial.analyse(operation.where, what="where", type_="boolean")
        check_reads(case, analysis)
        condition_may_end = bool(analysis.reads & set(assignments))
        # A condition over the clock is asked anew for each batch, but does not change what is written.
    trial.check_update(assignments, operation.where)
    once = once_because(
        Analysis(reads=frozenset(), reads_others=(), hidden=(), unrepeatable=tuple(sorted(unrepeatable))),
        reads & set(assignments),
    )
    if once:
        later = (
            "rows that meet the condition later are updated too, as long as updating a row stops it from matching"
            if condition_may_end
            else "rows added later are not touched"
        )
        case.warn(f"each row that exists at the start is updated exactly once, because {once}; {later}")
    return Facts(
        relation=str(table.name),
        targets=tuple(targets),
        repeatable=not once,
        once_because=once,
        volatile=bool(unrepeatable),
        condition_may_end=condition_may_end,
    )


def _by_function(case: Case, operation: Backfill) -> Facts:
    """The columns and the condition; the function itself is for the worker, which alone may import it."""
    table, trial = case.table, case.trial
    plain = catalog.plain_types(case.connection, table)
    targets = tuple(
        Target(column=name, type=settable(table, name).type, as_text=True, plain_type=plain[name])
        for name in operation.written
    )
    reads = tuple(column_of(table, name).name for name in operation.reads or [column.name for column in table.columns])
    condition_may_end = False
    if operation.where is not None:
        analysis = trial.analyse(operation.where, what="where", type_="boolean")
        check_reads(case, analysis)
        condition_may_end = bool(analysis.reads & set(operation.written))
    trial.check_update({name: sql.Identifier(name).as_string() for name in operation.written}, operation.where)
    later = (
        (
            "rows that meet the condition later are handed over too, as long as the function changes them so that "
            "they no longer meet it"
        )
        if condition_may_end
        else "rows added later are not touched"
    )
    case.warn(
        f"the values come from the Python function {operation.transform}, which is not imported here and cannot "
        "be tested; every worker of this database must allow its module in BACKFILLD_TRANSFORMS"
    )
    case.warn(f"each row that exists at the start is handed over once, because {_BECAUSE_PYTHON}; {later}")
    if operation.reads is None:
        case.warn(f"the function is handed all {len(reads)} columns of {table.name}; name those it needs in `reads`")
    return Facts(
        relation=str(table.name),
        targets=targets,
        reads=reads,
        repeatable=False,
        once_because=_BECAUSE_PYTHON,
        volatile=True,
        condition_may_end=condition_may_end,
    )
