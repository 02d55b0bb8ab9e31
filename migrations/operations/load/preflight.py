"""Whether a file can be loaded into a table: its fields, the columns they go into, the key, rights, triggers, and what refers to it."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.errors import Refused
from backfilld.migrations.facts import Facts, LoadColumn, LoadFacts, LoadParent, LoadReferrer
from backfilld.migrations.loading import databases, export, source, stage
from backfilld.migrations.planning.checks.columns import check_reads, column_of
from backfilld.migrations.planning.checks.live_runs import live_operations
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.definitions import KeyColumn
from backfilld.migrations.postgres.expression_probe import Rejected
from backfilld.migrations.postgres.lexer import LEXEME, self_containment_problem
from backfilld.migrations.postgres.sqlstates import in_words, was_interrupted
from backfilld.migrations.queries import queries
from backfilld.migrations.walks.firing import table_code

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.migration import Load
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.catalog import Column

_SQL = queries(__package__, "load")

#: A field in an expression: `$name`, or `$"Any name"`.
_FIELD = re.compile(r'\$(?:"(?P<quoted>(?:[^"]|"")*)"|(?P<plain>[A-Za-z_][A-Za-z0-9_]*))')

_NESTED_REMEDY = (
    "Name under `columns` those to load, without these; or write the file with a column for each value in them"
)


def examine(case: Case, operation: Load) -> Facts:
    """Raises Rejected."""
    head = _head(case, operation)
    fields = head.fields
    if operation.columns is None and head.nested:
        named = "; ".join(f"{name} ({type_})" for name, type_ in head.nested.items())
        raise Rejected("columns", f"these fields cannot be loaded: {named}", _NESTED_REMEDY)
    key, name = _key(case, operation)
    columns = tuple(_columns(case, operation, head))
    loaded = {one.name for one in columns}
    if missing := [one for one in operation.key if one not in loaded]:
        raise Rejected(
            "key", f"no field goes into {', '.join(missing)}, which is part of the key", "Add it to `columns`"
        )
    if operation.newer is not None and operation.newer not in loaded:
        raise Rejected("on_conflict", f"no field goes into {operation.newer}", "Name a column that the file has")
    _check_rights(case, operation)
    _check_not_null(case, operation, loaded)
    _tell_triggers(case)
    oid = {"oid": case.table.oid}
    referrers = case.connection.execute(_SQL["referrers"], oid).fetchall()
    for one in referrers:
        if not one["is_seen"]:
            case.warn(
                f"this role does not see every row of {one['relation']}: rows that were inserted stay on the way back where {one['name']} refers to them"
            )
    own = [one for one in case.connection.execute(_SQL["parents"], oid) if one["is_own"]]
    others = {one.name for one in case.table.columns if not one.generated} - loaded - _of_other_runs(case)
    for one in own:
        case.warn(
            f"{one['name']} refers to rows of the same table: a line whose parent comes in a later batch is set aside, and is loaded by "
            "`backfilld quarantine retry`"
        )
    return Facts(
        relation=str(case.table.name),
        key=key,
        load=LoadFacts(
            fields=fields,
            columns=columns,
            others=tuple(one.name for one in case.table.columns if one.name in others),
            rules=tuple(
                (row["name"], row["expression"])
                for row in case.connection.execute(_SQL["checks"], oid)
                if {*row["columns"]} <= loaded
            ),
            parents=tuple(
                LoadParent(
                    name=row["name"],
                    relation=row["relation"],
                    columns=tuple(row["columns"]),
                    referenced=tuple(row["referenced"]),
                )
                for row in case.connection.execute(_SQL["parents"], oid)
                if {*row["columns"]} <= loaded and row["is_seen"] and not row["is_own"]
            ),
            referrers=tuple(
                LoadReferrer(
                    name=row["name"],
                    relation=row["relation"],
                    columns=tuple(row["columns"]),
                    referenced=tuple(row["referenced"]),
                )
                for row in referrers
                if row["is_seen"]
            ),
            uniques=tuple(
                (row["name"], tuple(row["columns"]))
                for row in case.connection.execute(_SQL["unique_indexes"], oid)
                if row["name"] != name and {*row["columns"]} <= loaded and {*row["columns"]} != {*operation.key}
            ),
            sequences=tuple(
                (row["column"], row["sequence"])
                for row in case.connection.execute(_SQL["sequences"], oid)
                if row["column"] in loaded and operation.mode != "update"
            ),
            fires=_fires(case, loaded),
            overrides_identity=any(one.identity_always and one.name in loaded for one in case.table.columns),
            bytes_total=head.bytes_total,
            lines=head.lines,
        ),
    )


def _of_other_runs(case: Case) -> set[str]:
    """Columns that come and go with another run."""
    ours = {one.name for one in catalog.named_as_ours(case.connection, case.table) if one.kind == "column"}
    live = live_operations(case.connection, case.migration.name).get(case.table.name, ())
    return ours.union(*(one.decides for one in live))


def _head(case: Case, operation: Load) -> source.Head:
    """What the source tells; of a file that is being sent, what is on record: a worker has none, or another one. Raises Rejected."""
    query, database = operation.source.query, operation.source.database
    if query is not None and (problem := self_containment_problem(query)):
        raise Rejected("query", f"the query is not one query: {problem}", "Write one SELECT, without a semicolon")
    if query is not None and database is None:
        return _head_of_query(case, query)
    if (known := stage.head_on_record(case.connection, case.migration.name, case.number)) is not None:
        return known
    declared, places = operation.source.fields, case.found.sources
    if (
        declared is not None
        and operation.source.place is not None
        and source.place_of(operation.source, places) is None
    ):
        return source.Head(fields=declared, begin=0, bytes_total=0, lines=0)
    try:
        return source.read_head(operation.source, places)
    except Refused as exc:
        (finding,) = exc.findings
        raise Rejected(finding.check, finding.problem, finding.remedy) from exc


def _head_of_query(case: Case, query: str) -> source.Head:
    """The fields of a query. Raises Rejected."""
    try:
        fields, lines, _ = databases.look(case.connection, query)
    except psycopg.Error as exc:
        if was_interrupted(exc):
            raise
        remedy = "Write one SELECT; names outside pg_catalog need their schema (public.products)"
        raise Rejected("query", f"the query: {in_words(exc)}", remedy) from exc
    if len({*fields}) < len(fields):
        raise Rejected("query", "two columns of the query have one name", "Give each a name of its own, with AS")
    return source.Head(fields=fields, begin=0, bytes_total=0, lines=lines)


def _key(case: Case, operation: Load) -> tuple[tuple[KeyColumn, ...], str]:
    """The key, and the name of its index. Raises Rejected."""
    found = case.connection.execute(_SQL["unique_indexes"], {"oid": case.table.oid}).fetchall()
    for one in found:
        if {*one["columns"]} == {*operation.key}:
            if not one["is_immediate"]:
                raise Rejected(
                    "key",
                    f"the unique index {one['name']} is deferrable, and ON CONFLICT does not take it",
                    "Use another unique key, or make the constraint NOT DEFERRABLE",
                )
            return tuple(KeyColumn(name=name, type=column_of(case.table, name).type) for name in operation.key), str(
                one["name"]
            )
    for name in operation.key:
        column_of(case.table, name)
    there = "; ".join(", ".join(one["columns"]) for one in found)
    raise Rejected(
        "key",
        f"{case.table.name} has no unique index over {', '.join(operation.key)} alone",
        f"Name the columns of one that it has: {there}"
        if there
        else "Add one first: `add_primary_key` or `add_unique`",
    )


def _columns(case: Case, operation: Load, head: source.Head) -> list[LoadColumn]:
    """What each column gets. Raises Rejected."""
    fields = head.fields
    if operation.columns is None:
        fields_of_theirs = [name for name in fields if name not in export.COLUMNS]
        if strange := [name for name in fields_of_theirs if case.table.column(name) is None]:
            near = difflib.get_close_matches(strange[0], [one.name for one in case.table.columns], n=1)
            hint = f"; did you mean {near[0]}" if near else ""
            raise Rejected(
                "columns",
                f"{case.table.name} has no column {strange[0]}, which is a field of the file{hint}",
                "Say with `columns` which column gets which field; a field that is not named there is not loaded",
            )
        wanted = {name: name for name in fields_of_theirs}
    else:
        wanted = operation.columns
    for number, _ in enumerate(fields):
        case.trial.add_column(f"~f_{number}", "text", None)
    plain = catalog.plain_type_names(case.connection, [column_of(case.table, name).type for name in wanted])
    return [_column(case, operation, target, head, plain) for target in wanted.items()]


def _column(
    case: Case, operation: Load, target: tuple[str, str], head: source.Head, plain: dict[str, str]
) -> LoadColumn:
    name, text = target
    fields = head.fields
    column = column_of(case.table, name)
    if column.generated:
        raise Rejected("column", f"{name} is a generated column and cannot be loaded", "Leave it out of `columns`")
    if column.identity_always and not operation.identity:
        raise Rejected(
            "column",
            f"{name} is GENERATED ALWAYS AS IDENTITY: PostgreSQL gives it its values",
            "Leave it out of `columns`, or take the values of the file: `identity: true`",
        )
    is_field = text in fields
    if text in head.nested:
        raise Rejected("columns", f"columns.{name}: {text} is a field of type {head.nested[text]}", _NESTED_REMEDY)
    if text in head.binary and plain.get(column.type, column.type) != "bytea":
        raise Rejected(
            "columns",
            f"columns.{name}: {text} is a field of bytes, and {name} is of type {column.type}",
            f'Say what the bytes are. Text, for example: {name}: "convert_from($\\"{text}\\"::bytea, \'UTF8\')"',
        )
    expression = f'"~f_{fields.index(text)}"' if is_field else _over_fields(text, fields, what=f"columns.{name}")
    analysis = case.trial.analyse(f"CAST(({expression}\n) AS {column.type})", what=f"columns.{name}")
    check_reads(case, analysis)
    if own := sorted(one for one in analysis.reads if not one.startswith("~f_")):
        raise Rejected(
            "expression",
            f"columns.{name} reads {', '.join(own)} of the table, and not of the file",
            f"Write ${own[0]} for the field of that name",
        )
    if analysis.unrepeatable:
        raise Rejected(
            "expression",
            f"columns.{name} calls {', '.join(analysis.unrepeatable)}, which gives another value each time",
            "Leave the column out, so that its DEFAULT gives it a value; or give the value as a parameter",
        )
    return LoadColumn(
        name=name,
        type=column.type,
        plain_type=plain.get(column.type, column.type),
        expression=expression,
        field=fields.index(text) if is_field else None,
        as_text=column.nondeterministic or not case.trial.has_equality(name),
        not_null=column.not_null,
    )


def _over_fields(text: str, fields: Sequence[str], *, what: str) -> str:
    """An expression in which `$name` is the column of a field. Raises Rejected for a field that the file does not have."""

    def replaced(match: re.Match[str]) -> str:
        name = match["plain"] or (match["quoted"] or "").replace('""', '"')
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            raise Rejected(
                "columns",
                f"{what}: the file has no field {name}" + (f"; did you mean {near[0]}" if near else ""),
                f"It has: {', '.join(fields)}",
            )
        return f'"~f_{fields.index(name)}"'

    done, position, parts = 0, 0, []
    for match in LEXEME.finditer(text):
        if match.lastgroup not in {"string", "escaped", "continued"} or match.start() < position:
            continue
        parts += [_FIELD.sub(replaced, text[done : match.start()]), match.group()]
        done = position = match.end()
    return "".join([*parts, _FIELD.sub(replaced, text[done:])])


def _check_rights(case: Case, operation: Load) -> None:
    oid, name = {"oid": case.table.oid}, case.table.name
    rights = case.connection.execute(_SQL["rights"], oid).fetchone() or {}
    if operation.mode != "update" and not (rights["may_insert"] and rights["may_delete"]):
        role = case.found.backend.role
        case.refuse(
            "privileges",
            f"the role {role} may not insert rows into {name} and delete them again",
            f"GRANT INSERT, DELETE ON {name.identifier.as_string()} TO {role}",
        )
    if rules := [row["name"] for row in case.connection.execute(_SQL["rules"], oid)]:
        case.refuse(
            "rule",
            f"the rule {', '.join(rules)} rewrites every INSERT, UPDATE or DELETE of {name}, which cannot be combined with a batch",
            "Write it as a trigger, or disable it for the time of the run (ALTER TABLE … DISABLE RULE)",
        )


def _check_not_null(case: Case, operation: Load, loaded: set[str]) -> None:
    """A row that is inserted needs a value in every column that must have one."""
    if operation.mode == "update":
        return
    without: list[Column] = [
        one
        for one in case.table.columns
        if one.not_null and not (one.name in loaded or one.has_default or one.generated or one.identity_always)
    ]
    missing = [
        one.name for one in without if not catalog.column_details(case.connection, case.table, one.name).identity
    ]
    if missing:
        case.refuse(
            "not_null",
            f"{', '.join(missing)} must not be NULL, has no DEFAULT, and no field goes into it",
            "Add it to `columns`; or, where only rows that are there are updated: `mode: update`",
        )


def _fires(case: Case, loaded: set[str]) -> bool:
    """Whether code of users' runs when a row is inserted or updated."""
    triggers = case.connection.execute(_SQL["triggers"], {"oid": case.table.oid}).fetchone()
    name = case.table.name
    return triggers is not None or table_code(case.connection, table=name, relation=name, columns=[*loaded]).fires


def _tell_triggers(case: Case) -> None:
    for one in case.connection.execute(_SQL["triggers"], {"oid": case.table.oid}):
        every = "row that is inserted or updated" if one["for_rows"] else "batch"
        may = ", and may change or keep the row" if one["may_change"] else ""
        case.warn(
            f"the trigger {one['name']} on {case.table.name} fires for every {every} ({one['schema']}.{one['function']}){may}; "
            "WHEN (coalesce(current_setting('backfilld.batch', true), '') = '') in its definition makes it skip backfilld's batches"
        )
    if case.table.publications:
        case.warn(f"every row that is inserted or updated is replicated by {', '.join(case.table.publications)}")
