"""Whether a key can have other values, and everything that refers to it with them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Facts, Referrer, Target
from backfilld.migrations.operations.change_key.referrers import (
    TAKEN_ALONG,
    all_referrers,
    dependents_of,
    new_column,
    old_column,
    refuse_dependents,
    refuse_names,
    refuse_other_operations,
    refuse_table,
    table_of,
)
from backfilld.migrations.operations.change_key.remade import merged
from backfilld.migrations.planning.checks import numbers
from backfilld.migrations.planning.checks.columns import check_reads, column_of
from backfilld.migrations.planning.checks.walks import key_of
from backfilld.migrations.postgres import catalog, column_copy, column_parts
from backfilld.migrations.postgres.dependents import column as read_column
from backfilld.migrations.postgres.dependents import of_column
from backfilld.migrations.postgres.expression_probe import Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.migration import ChangeKey
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.column_dependents import ColumnDependents
    from backfilld.migrations.postgres.dependents import ColumnDependent


#: What stays with the old key, and fills it.
_STAYS = frozenset({"identity", "sequence"})


def examine(case: Case, operation: ChangeKey) -> Facts:
    """Raises Rejected."""
    table, name = case.table, operation.column
    facts = Facts(relation=str(table.name))
    column = column_of(table, name)
    before = len(case.found.findings)
    if column.generated:
        case.refuse("column", f"{name} is computed by PostgreSQL", "Change the columns that it is computed from")
    if not any(one.name == name for key in table.keys for one in key.columns):
        case.refuse(
            "key",
            f"{name} is in no primary key and no unique key of NOT NULL columns of {table.name}",
            "Name a column of a key; another column gets another type by `change_type`",
        )
    found = of_column(case.connection, table.name, name)
    refuse_table(case, table)
    refuse_dependents(case, table.name, name, found, allowed=TAKEN_ALONG | _STAYS)
    refuse_names(case, table, name)
    refuse_other_operations(case, table.name, name)
    if len(case.found.findings) > before:
        return facts
    type_, _ = case.trial.add_column(new_column(name), operation.type, None)
    if not case.trial.has_equality(new_column(name)):
        raise Rejected(
            "type", f"values of type {type_} cannot be compared by PostgreSQL's own operators", "Choose another type"
        )
    own = read_column(case.connection, table.name, name)
    fills_itself = own["default"] is not None or any(one.kind == "identity" for one in found)
    volatile = _check_values(case, operation, fills_itself=fills_itself)
    _check_down(case, operation, found, types=(own["type"], type_), fills_itself=fills_itself)
    target = Target(column=new_column(name), type=type_)
    members = {(table.name, name)}
    referrers = all_referrers(case, operation, type_, members)
    if len(case.found.findings) > before:
        return facts
    dependents = replace(
        dependents_of(case, table, name, type_, found, rules=(), number=0),
        new_default=operation.values if fills_itself else None,
    )
    columns = [
        (table.name, name, dependents),
        *((table_of(case, one), one.column, one.dependents) for one in referrers),
    ]
    _refuse_shared(case, columns)
    if len(case.found.findings) > before:
        return facts
    _try_together(case, columns, type_)
    if (left := numbers.tell(case, name, own["type"])) is not None:
        case.warn(str(left))
    _warn(case, operation, referrers, columns, fills_itself=fills_itself)
    return replace(
        facts,
        key=key_of(table),
        targets=(target,),
        volatile=volatile,
        default=(own["default"] or "identity") if fills_itself else None,
        numbers=column_parts.numbers(case.connection, table.name, name),
        column_dependents=dependents,
        referrers=tuple(referrers),
    )


def _check_values(case: Case, operation: ChangeKey, *, fills_itself: bool) -> bool:
    """Whether the values differ each time. Raises Rejected."""
    analysis = case.trial.analyse(operation.values, what="values")
    check_reads(case, analysis)
    case.trial.check_update({new_column(operation.column): operation.values}, None)
    if fills_itself and analysis.reads:
        raise Rejected(
            "expression",
            f"values reads {', '.join(sorted(analysis.reads))}, and a new row of {case.table.name} gets its key by a DEFAULT, which cannot",
            "Write an expression without columns, such as gen_random_uuid()",
        )
    if not analysis.unrepeatable and not analysis.reads:
        raise Rejected(
            "expression", "values gives every row the same value", "Write one that differs, such as gen_random_uuid()"
        )
    return bool(analysis.unrepeatable)


def _check_down(
    case: Case,
    operation: ChangeKey,
    found: Sequence[ColumnDependent],
    *,
    types: tuple[str, str],
    fills_itself: bool,
) -> None:
    """Whether it gives values of the old one of two types over rows whose key has the new one. Raises Rejected."""
    if operation.down is None:
        return
    name = operation.column
    if fills_itself:
        raise Rejected(
            "expression",
            f"{name} has a DEFAULT or is an identity, which goes on giving rows old values",
            "Remove `down`",
        )
    old_type, new_type = types
    with column_copy.successor(
        case.connection, case.table.name, name, named=name, type_=sql.SQL(new_type), found=found
    ):
        analysis = case.trial.analyse(operation.down, what="down")
        check_reads(case, analysis)
        case.trial.add_column(old_column(name), old_type, None)
        case.trial.check_update({old_column(name): operation.down}, None)
    if not analysis.unrepeatable and not analysis.reads:
        raise Rejected(
            "expression",
            "down gives every row the same value",
            "Write one that differs, such as nextval('public.old_numbers')",
        )


def _refuse_shared(case: Case, members: Sequence[tuple[TableName, str, ColumnDependents]]) -> None:
    """What holds two of the columns would have to be made for both at once; that of a view, a policy or a trigger is its text."""
    held: dict[tuple[TableName, str, str], str] = {}
    for table, name, dependents in members:
        parts = [
            *(("index", one.name) for one in dependents.indexes),
            *(("check", one.name) for one in dependents.checks),
            *(("statistics", one.name) for one in dependents.statistics),
        ]
        for kind, part in parts:
            if (other := held.setdefault((table, kind, part), name)) != name:
                case.refuse(
                    "index" if kind == "index" else "column_dependents",
                    f"the {kind} {part} of {table} includes {other} and {name}, which both change",
                    "Drop it first, and create it again after the run",
                )


def _try_together(case: Case, members: Sequence[tuple[TableName, str, ColumnDependents]], type_: str) -> None:
    """Make what is made anew once over copies of all tables, in which each of the columns has the new type. Raises Rejected."""
    found = merged(of_column(case.connection, table, name) for table, name, _ in members)
    again = [one for one in found if one.kind in {"view", "policy", "function", "trigger"}]
    if not again:
        return
    names = [one.name for one in {table for table, _, _ in members}]
    if len(names) != len(set(names)):
        raise Rejected(
            "column_dependents",
            f"the {again[0].kind} {again[0].name} depends on one of several tables, two of which have one name in different schemas",
            "Drop it first, and create it again after the run",
        )
    case.warn(f"recreated unchanged in the switch: {', '.join(f'{one.kind} {one.name}' for one in again)}")
    column_copy.try_together(case.connection, [(table, name, type_) for table, name, _ in members], again)


def _warn(
    case: Case,
    operation: ChangeKey,
    referrers: Sequence[Referrer],
    members: Sequence[tuple[TableName, str, ColumnDependents]],
    *,
    fills_itself: bool,
) -> None:
    """What a careful person should know."""
    table, name = case.table.name, operation.column
    along = (
        ", ".join(f"{table_of(case, one)}.{one.column}" for one in referrers) or "nothing: no foreign key refers to it"
    )
    case.warn(
        f"taken along with {table}.{name}: {along}. What no foreign key tells, in columns, arrays, functions and the application, is not"
    )
    case.warn(
        f"from the switch on an old value of {name} finds nothing, in links and caches too; prepared statements that return one of the "
        "columns fail until they are prepared again"
    )
    case.warn(
        f"contract drops the old values of {name}: a rollback after it takes them from the archive, and gives rows that were added since "
        "others than they would have had"
        if fills_itself or operation.down is not None
        else f"{name} has no DEFAULT and is no identity: the first row that is added after the switch has no old value and blocks a "
        "rollback, before contract and after it; `down:` gives such rows one"
    )
    sent = {one.name: table for table, _, each in members for one in each.publications}
    for publication, of in sent.items():
        case.warn(
            f"{publication}: {of} leaves the publication in the switch and comes back with the same list of columns; subscribers get the "
            "new values from then on, and must have columns that take them"
        )
    if referrers:
        case.warn(
            "from verify on a row that refers to one which its transaction cannot see with its new value yet, in a REPEATABLE READ "
            "transaction that is older than the backfill, fails"
        )
    for one in {table, *(table_of(case, each) for each in referrers)}:
        described = catalog.describe(case.connection, one)
        if described is not None and described.publications:
            case.warn(
                f"{one} is published ({', '.join(described.publications)}): subscribers need the new columns before backfilld adds them"
            )
