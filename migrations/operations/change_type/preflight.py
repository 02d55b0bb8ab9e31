"""Whether a column can have another type, and everything on it with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Facts, Target
from backfilld.migrations.operations.base import object_name
from backfilld.migrations.operations.change_type import instead, keys
from backfilld.migrations.operations.change_type.defaults import OldDefault
from backfilld.migrations.operations.change_type.steps import cast
from backfilld.migrations.planning.checks.columns import check_reads, column_of, mentions
from backfilld.migrations.planning.checks.walks import with_key
from backfilld.migrations.postgres import catalog, column_copy, column_parts
from backfilld.migrations.postgres.column_dependents import ColumnDependents, inactive
from backfilld.migrations.postgres.definitions import Grant
from backfilld.migrations.postgres.dependents import IN_THE_WAY, ColumnDependent, of_column, own_of_partitions
from backfilld.migrations.postgres.dependents import column as read_column
from backfilld.migrations.postgres.dependents import mentions as functions_naming
from backfilld.migrations.postgres.expression_probe import Analysis, Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.migration import ChangeType
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.column_dependents import CopiedView, DependentPublication

#: Kinds of dependent that are made anew in the switch.
_REMADE = frozenset({"view", "policy", "function", "trigger"})
#: What is made anew as well, each in a way of its own.
_LIFTED = frozenset({"materialized view", "publication"})
#: What a partitioned table cannot be given CONCURRENTLY or NOT VALID.
_OF_PARTITIONS = frozenset({"index", "unique", "primary key", "foreign key", "inbound"})
#: Kinds of dependent that ALTER COLUMN … TYPE takes along by itself. Not foreign keys: a copy of the table has none to try it with.
_TAKEN_ALONG = frozenset({"check", "index", "statistics", "unique"})


def examine(case: Case, operation: ChangeType) -> Facts:
    """Raises Rejected."""
    table, name = case.table.name, operation.column
    facts = Facts(relation=str(table))
    column = column_of(case.table, name)
    own = read_column(case.connection, table, name)
    found = of_column(case.connection, table, name)
    before = len(case.found.findings)
    _refuse_what_is_in_the_way(case, operation, found, generated=column.generated)
    _refuse_other_uses(case, operation)
    if len(case.found.findings) > before:
        return facts
    target, plain_type = _try_new_column(case, operation)
    keys.refuse(case, operation, found, old=own["type"], new=target.type)
    if len(case.found.findings) > before:
        return facts
    up = _analyse_up(case, operation, target)
    constant = _constant(case, own["default"], own["type"]) and _constant(case, operation.default, target.type)
    as_text = not case.trial.has_equality(name)
    default = operation.default
    if default is None and own["default"] is not None:
        default = OldDefault(
            case=case,
            column=name,
            default=own["default"],
            old_type=own["type"],
            new_type=target.type,
            up=operation.up or cast(name, target.plain_type),
            is_plain=operation.up is None,
            reads=up.reads,
        ).of_new_type()
    copied = column_parts.copied_views(case.connection, found)
    _refuse_copies(case, copied)
    publications = column_parts.publications(case.connection, found)
    if len(case.found.findings) > before:
        return facts
    down = _try_exchange(
        case,
        operation,
        found,
        target,
        default=default,
        down=cast(name, plain_type),
        copied=copied,
        publications=publications,
    )
    sequences = [one for one in found if one.kind == "sequence"]
    dependents = ColumnDependents(
        new_column=target.column,
        old_column=_old_column(name),
        owner=own["owner"],
        type=own["type"],
        collation=own["collation"],
        plain_type=plain_type,
        as_text=as_text,
        not_null=own["not_null"],
        default=own["default"],
        new_default=default,
        constant_default=constant,
        statistics_target=own["statistics_target"],
        options=own["options"] or "",
        comment=own["comment"],
        grants=tuple(Grant(**one) for one in own["grants"]),
        sequence=sequences[0].name if sequences else None,
        widens_sequence=any(keys.is_wider(target.type, one.definition or "") for one in sequences),
        up_reads=tuple(sorted(up.reads - {name})),
        down_reads=tuple(sorted(down.reads - {name})),
        copied=copied,
        publications=publications,
        seen=tuple((one.kind, one.name, one.digest) for one in found),
    )
    try:
        dependents = _with_parts(case, operation, dependents, found, target)
    except Rejected as rejected:
        if rejected.check == "index" and rejected.remedy is not None:
            rejected.remedy = instead.remedy(case, operation, rejected.remedy)
        raise
    facts = replace(facts, targets=(target,), column_dependents=dependents)
    keyed = keys.is_key(case, name, found)
    if keyed:
        facts = replace(facts, key=keys.walked(case, name, old=own["type"], new=target.type))
    facts = _in_place(case, operation, facts, found)
    _refuse_partitioned(case, operation, facts, found)
    if facts.in_place:
        _warn_at_once(case, operation, facts)
    else:
        _warn(case, operation, dependents, found, target.type, last=own["last"])
    if keyed or dependents.identity is not None:
        keys.tell(case, operation, dependents, target.type)
    return facts


def _refuse_partitioned(case: Case, operation: ChangeType, facts: Facts, found: list[ColumnDependent]) -> None:
    """Put down what partitions cannot have built for a second column while the application works."""
    if case.table.kind != "p" or facts.back_in_place:
        return
    if held := [f"the {one.kind} {one.name}" for one in found if one.kind in _OF_PARTITIONS]:
        case.refuse(
            "partitioned",
            f"{case.table.name} is partitioned, and {', '.join(held)} cannot be made for another column of it while the application works",
            instead.remedy(case, operation, "Drop it first, and create it again for the new type afterwards"),
        )


def _in_place(case: Case, operation: ChangeType, facts: Facts, found: list[ColumnDependent]) -> Facts:
    """Whether PostgreSQL makes the change at once, and its way back."""
    dependents = facts.column_dependents
    if operation.up is not None or dependents is None:
        return facts
    collated = f" COLLATE {dependents.collation}" if dependents.collation else ""
    types = [sql.SQL(type_ + collated) for type_ in (facts.targets[0].type, dependents.type)]
    forward, back = column_copy.change_at_once(case.connection, case.table.name, operation.column, types)
    in_the_way = [f"the {one.kind} {one.name}" for one in found if one.kind not in _TAKEN_ALONG]
    if not forward or in_the_way:
        if forward:
            case.warn(
                f"PostgreSQL changes {dependents.type} to {facts.targets[0].type} at once, but not under "
                f"{', '.join(in_the_way)}: the change goes through a second column"
            )
        return facts
    if back and operation.down is None:
        return replace(facts, in_place=True, back_in_place=True)
    return with_key(case.found, case.place, case.table, replace(facts, in_place=True))


def _new_column(name: str) -> str:
    return inactive(name, "_backfilld_new")


def _old_column(name: str) -> str:
    return inactive(name, "_backfilld_old")


def _try_new_column(case: Case, operation: ChangeType) -> tuple[Target, str]:
    """The column of the new type, as it is on the copy; and the old type without a domain and a limit of length."""
    name, new_column = operation.column, _new_column(operation.column)
    file = catalog.file_of(case.connection, _copy(case))
    type_, _ = case.trial.add_column(new_column, operation.type, None)
    if catalog.file_of(case.connection, _copy(case)) != file:
        raise Rejected(
            "type",
            f"adding a column of type {type_} rewrites the table, under a lock that blocks the application",
            "Use the domain's base type, and enforce its constraint with an `add_check`",
        )
    plain = catalog.plain_types(case.connection, replace(case.table, oid=_copy(case)))
    as_text = not case.trial.has_equality(new_column)
    target = Target(column=new_column, type=type_, as_text=as_text, plain_type=plain[new_column])
    return target, plain[name]


def _analyse_up(case: Case, operation: ChangeType, target: Target) -> Analysis:
    expression = operation.up or cast(operation.column, target.plain_type)
    up = _analysed(case, expression, what="up", given=operation.up is not None)
    case.trial.check_update({target.column: expression}, None)
    generated = sorted(one.name for one in case.table.columns if one.generated and one.name in up.reads)
    if generated:
        raise Rejected(
            "expression",
            f"up reads the generated column {generated[0]}, which is not yet computed when the sync trigger fires",
        )
    return up


def _try_exchange(  # noqa: PLR0913 - one trial; each part is named where it is called
    case: Case,
    operation: ChangeType,
    found: list[ColumnDependent],
    target: Target,
    *,
    default: str | None,
    down: str,
    copied: Sequence[CopiedView],
    publications: Sequence[DependentPublication],
) -> Analysis:
    """Put the new column in the place of the old one, on a copy: `down` and all that depends on the column must accept it."""
    connection, table, name = case.connection, case.table.name, operation.column
    new_type = sql.SQL(target.type)  # as format_type wrote it
    with column_copy.successor(connection, table, name, named=name, type_=new_type, found=found):
        type_ = column_of(case.table, name).type
        analysis = _analysed(case, operation.down or down, what="down", given=operation.down is not None, type_=type_)
        column_copy.try_dependents(connection, table, found, default, name)
        column_copy.try_foreign_keys(connection, table, found, name)
        column_copy.try_indexes_of_views(connection, copied)
        for one in publications:
            _try_filter(case, operation, one, target)
    return analysis


def _try_filter(case: Case, operation: ChangeType, publication: DependentPublication, target: Target) -> None:
    """Whether a publication can have its condition over the new type, as PostgreSQL asks of it. Raises Rejected."""
    if publication.where is None:
        return
    what = f"the filter of the publication {publication.name}"
    remedy = f"Let it send all rows first: ALTER PUBLICATION {sql.Identifier(publication.name).as_string()} SET TABLE …"
    try:
        analysis = case.trial.analyse(publication.where, what=what)
    except Rejected as rejected:
        raise Rejected(
            "publication", f"{what} is not accepted for the new type: {rejected.problem}", remedy
        ) from rejected
    if operation.column not in analysis.reads:
        return
    if analysis.unrepeatable:
        problem = f"{what} would call {', '.join(analysis.unrepeatable)}, whose result depends on the session"
        raise Rejected("publication", problem, remedy)
    if not catalog.is_built_in(case.connection, target.type):
        raise Rejected("publication", f"{what} cannot read a column of a type that is not PostgreSQL's own", remedy)


def _refuse_copies(case: Case, copied: Sequence[CopiedView]) -> None:
    """Put down why materialized views cannot be made in a schema of the run's own, and moved from there."""
    if not copied:
        return
    what = (
        f"the materialized view {next(one.view.written for one in copied if one.materialized)} reads {case.table.name}"
    )
    names = [one.view.name for one in copied]
    if len(names) != len(set(names)):
        case.refuse(
            "column_dependents",
            f"{what}, and of the views that are made anew for it two have one name in different schemas",
            "Drop one of them first, and recreate it afterwards",
        )
    if not catalog.may_make_schemas(case.connection):
        problem = f"{what}, and the role may not make a schema in this database, where a copy of it is made"
        case.refuse("column_dependents", problem, "GRANT CREATE ON DATABASE")
    for schema in sorted({one.view.schema for one in copied}):
        if not catalog.may_create(case.connection, schema):
            problem = f"{what}, and the role may not put a copy of it into the schema {schema}"
            case.refuse("column_dependents", problem, f"GRANT CREATE ON SCHEMA {sql.Identifier(schema).as_string()}")


def _with_parts(
    case: Case, operation: ChangeType, dependents: ColumnDependents, found: list[ColumnDependent], target: Target
) -> ColumnDependents:
    """With each thing that depends on the column, as it reads for the one column and for the other."""
    connection, table, name = case.connection, case.table.name, operation.column
    new_type = sql.SQL(target.type)  # as format_type wrote it
    copied = {one.view.written for one in dependents.copied}
    with column_copy.successor(connection, table, name, named=dependents.new_column, type_=new_type) as copy:
        new = column_copy.definitions(connection, copy, found)
    with column_copy.successor(connection, table, name, named=dependents.old_column, type_=None) as copy:
        old = column_copy.definitions(connection, copy, found)
    forms = [f"{object_name(f'backfilld_{side}', case.migration.name, case.number)}_{{}}" for side in ("new", "old")]
    names = column_parts.Names(new_form=forms[0], old_form=forms[1])
    checks, foreign_keys = column_parts.rules(connection, table, name, found, new, named=dependents.new_column)
    return replace(
        dependents,
        indexes=column_parts.indexes(connection, table, name, found, new=new, old=old, names=names),
        checks=checks,
        foreign_keys=foreign_keys,
        references=column_parts.references(
            connection, table, name, new=dependents.new_column, old=dependents.old_column
        ),
        identity=column_parts.identity(connection, table, name, type_=target.type),
        statistics=column_parts.statistics(connection, table, found, new),
        views=column_parts.views(connection, [one for one in found if one.name not in copied]),
        policies=column_parts.policies(connection, found),
        functions=column_parts.functions(connection, found),
        triggers=column_parts.triggers(connection, found),
    )


def _refuse_what_is_in_the_way(
    case: Case, operation: ChangeType, found: list[ColumnDependent], *, generated: bool
) -> None:
    table, name = case.table, operation.column
    if table.kind == "p":
        deciding = catalog.partition_columns(case.connection, table)
        if name in deciding or None in deciding:
            why = (
                f"{name} is in the partition key"
                if name in deciding
                else "the partition key is an expression, which may read it"
            )
            case.refuse(
                "partition_key",
                f"{table.name} is partitioned, and {why}",
                instead.remedy(case, operation, "Keep its type"),
            )
        for what in own_of_partitions(case.connection, table.name, name):
            case.refuse(
                "partitioned",
                f"{table.name} is partitioned, and {what} is not the table's own: it would not come along to the new column",
                "Drop it first, and recreate it afterwards",
            )
    if generated:
        case.refuse("column", f"{name} is computed by PostgreSQL", "Drop it and add it again with `add_column`")
    in_the_way = [one for one in found if one.kind in IN_THE_WAY.keys() - _LIFTED]
    for one in in_the_way:
        problem, remedy = IN_THE_WAY[one.kind]
        # A file for all of them stands behind the last.
        told = instead.remedy(case, operation, remedy) if one is in_the_way[-1] else remedy
        case.refuse("column_dependents", f"{name} cannot have another type: {problem.format(one.name)}", told)
    if sum(one.kind == "sequence" for one in found) > 1:
        case.refuse(
            "column_dependents",
            f"several sequences are owned by {name}",
            "Leave one that is owned by the column (OWNED BY)",
        )


def _refuse_other_uses(case: Case, operation: ChangeType) -> None:
    """Columns of the names that we need, and other operations about the column."""
    table, name = case.table, operation.column
    for made in (_new_column(name), _old_column(name)):
        if table.column(made) is not None:
            case.refuse(
                "column",
                f"{table.name} has a column {made}, the name that this change needs",
                "If an earlier run left it, roll that one back; if its record is lost, drop it: "
                f"ALTER TABLE {table.name.identifier.as_string()} DROP COLUMN {sql.Identifier(made).as_string()}; otherwise rename it",
            )
    for number, other in enumerate(case.migration.operations):
        if number != case.number and other.table == table.name and mentions(other, name):
            case.refuse(
                "operations",
                f"operations[{number}].{other.kind} also uses {table.name}.{name}",
                f"Put the second in a migration of its own, with `after: [{case.migration.name}]`, or both in a folder",
            )


def _analysed(case: Case, expression: str, *, what: str, given: bool, type_: str | None = None) -> Analysis:
    try:
        analysis = case.trial.analyse(expression, what=what, type_=type_)
    except Rejected as rejected:
        if given:
            raise
        way = "the new type from the old one" if what == "up" else "the old type from the new one"
        raise Rejected("expression", rejected.problem, f"Write `{what}:`, an expression for {way}") from rejected
    check_reads(case, analysis)
    if analysis.unrepeatable:
        raise Rejected(
            "expression",
            f"{what} calls {', '.join(analysis.unrepeatable)}, which can return different results",
            "Write an expression that always returns the same for the same row",
        )
    if analysis.reads_others:
        case.warn(
            f"{what} reads {', '.join(analysis.reads_others)}; a change there reaches {case.table.name} only when the row "
            "itself is written"
        )
    return analysis


def _constant(case: Case, default: str | None, type_: str) -> bool:
    return default is None or case.trial.is_constant(default, type_)


def _copy(case: Case) -> int:
    """The temporary copy of the table."""
    return catalog.oid_of(case.connection, sql.Identifier("pg_temp", case.table.name.name))


def _warn_at_once(case: Case, operation: ChangeType, facts: Facts) -> None:
    """What a careful person should know of a change that takes a moment."""
    dependents = facts.column_dependents
    if dependents is None:
        return
    _tell_of_utc(case, operation, dependents, facts.targets[0].type)
    _tell_of_readers(case, operation)
    if not facts.back_in_place:
        case.warn(
            f"a rollback fills a second column of type {dependents.type}, which is then the last of {case.table.name}; rows "
            "whose value does not fit it by then block it, and are named"
        )


def _tell_of_utc(case: Case, operation: ChangeType, dependents: ColumnDependents, type_: str) -> None:
    if dependents.type.startswith("timestamp") and "with time zone" in type_ + dependents.type:
        case.warn(
            f"{operation.column} is interpreted as UTC, regardless of the session's time zone; use `up` and `down` to say otherwise"
        )


def _tell_of_readers(case: Case, operation: ChangeType) -> None:
    name = operation.column
    if mentioned := functions_naming(case.connection, case.table.name, name):
        case.warn(f"functions whose text names {name} get the new type from the switch on: {', '.join(mentioned)}")
    case.warn(
        f"prepared statements that return {name} fail after the switch ('cached plan must not change result type') until they "
        "are prepared again: psycopg 3 does not by itself and fails on every call of the connection; reconnect, or DEALLOCATE ALL"
    )


def _warn(  # noqa: PLR0913 - one place for all warnings; each part is named where it is called
    case: Case,
    operation: ChangeType,
    dependents: ColumnDependents,
    found: list[ColumnDependent],
    type_: str,
    *,
    last: bool,
) -> None:
    """What a careful person should know."""
    table, name = case.table.name, operation.column
    _tell_of_utc(case, operation, dependents, type_)
    if not last:
        case.warn(
            f"{name} goes to the end of {table}: what names no columns (SELECT *, INSERT without a list) sees another order "
            "after the switch"
        )
    remade = [f"{one.kind} {one.name}" for one in found if one.kind in _REMADE]
    if remade:
        case.warn(f"recreated unchanged in the switch: {', '.join(remade)}")
    if dependents.copied:
        copies = ", ".join(one.view.written for one in dependents.copied if one.materialized)
        case.warn(
            f"made once more before the switch, with their rows as of that moment: {copies}; a REFRESH between it and the switch "
            "is not in them"
        )
    strict = [*(one.name for one in dependents.rules), *(one.name for one in dependents.indexes if one.new.unique)]
    if strict or dependents.not_null:
        rules = ", ".join([*strict, *(["NOT NULL"] if dependents.not_null else [])])
        case.warn(
            "from verify on, statements that write values which do not fit the new type, or break a constraint "
            f"of {name} ({rules}), fail, as they will after the switch"
        )
    if any(one.new.unique for one in dependents.indexes):
        case.warn(
            f"from verify to the switch {name} has its unique indexes twice: of two sessions that INSERT the same new value at the "
            "same moment with ON CONFLICT, one may fail with a duplicate key"
        )
    lists = {one.name for one in dependents.publications if one.columns is not None}
    if table_publications := [one for one in case.table.publications if one not in lists]:
        case.warn(
            f"{table} is published ({', '.join(table_publications)}): subscribers need the columns "
            f"{dependents.new_column} and, from the switch on, {dependents.old_column} before backfilld adds "
            "them"
        )
    if sent := [one.name for one in dependents.publications]:
        case.warn(
            f"{', '.join(sent)}: the table leaves the publication in the switch and comes back with the same list of columns and "
            f"filter; subscribers get {type_} from then on, and must have a column that takes it"
        )
    _tell_of_readers(case, operation)
