"""Whether raw SQL can be run as a step: that PostgreSQL can read it, what rules it breaks, and which tables it is about."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors, sql

from backfilld.migrations.errors import Finding
from backfilld.migrations.facts import Facts
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.sql.steps import lock_of
from backfilld.migrations.planning import lint
from backfilld.migrations.planning.checks.findings import Doubt
from backfilld.migrations.planning.checks.live_runs import check_statement
from backfilld.migrations.planning.checks.tables import find_table
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.sqlstates import was_interrupted
from backfilld.migrations.postgres.statements import Unclosed, split
from backfilld.migrations.postgres.user_code import called_functions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.file.migration import Sql
    from backfilld.migrations.planning.checks.findings import Findings
    from backfilld.migrations.planning.checks.live_runs import LiveOperation
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.statements import SqlStatement

#: Statements about a relation whose name has no schema; a quoted name stands as Q.
_BARE_NAMES = re.compile(
    r"((ALTER|DROP) (TABLE|INDEX|VIEW|MATERIALIZED VIEW|SEQUENCE|TYPE) (IF EXISTS )?(ONLY )?"
    r"|CREATE (OR REPLACE )?(TABLE|VIEW|MATERIALIZED VIEW|FUNCTION|PROCEDURE|TYPE|SEQUENCE) (IF NOT EXISTS )?"
    r"|CREATE (UNIQUE )?INDEX .*? ON (ONLY )?|(CREATE|ALTER|DROP) (OR REPLACE )?(CONSTRAINT )?(TRIGGER|POLICY) .*? ON "
    r"|TRUNCATE (TABLE )?(ONLY )?|COMMENT ON (TABLE|COLUMN|VIEW|INDEX|SEQUENCE) |ALTER PUBLICATION \S+ (ADD|DROP|SET) TABLE (ONLY )?)"
    r"(?!ONLY\b|IF\b)(?P<name>[\w$]+)( [^.]|$)"
)
#: What PostgreSQL says when names are looked up, which its parser alone has no business with.
_LOOKED_UP = (errors.UndefinedTable, errors.InvalidSchemaName)


def examine(
    connection: Connection,
    found: Findings,
    operation: Sql,
    number: int,
    live: Mapping[TableName, Sequence[LiveOperation]],
) -> Facts:
    """What is known of one operation; refusals are put down in `found`."""
    place = f"operations[{number}].sql"
    if operation.table is not None:
        _see(connection, found, find_table(connection, found, place, operation.table))
    rows: dict[tuple[str, str], int] = {}
    broken: set[str] = set()
    ran: tuple[SqlStatement, ...] = ()
    for text in _texts(operation, number):
        statements = _read(connection, found, text.place, text.sql)
        for statement in statements:
            _check_tables(connection, found, text.place, statement)
            check_statement(found, text.place, statement, [one for each in live.values() for one in each])
        ran = statements if not text.back else ran
        rows |= {(name.schema, name.name): count for name, count in found.rows.items()}
        if statements:
            remarks = [*_remarks(found, text, statements, ran), *_of_functions(connection, statements)]
            broken |= {remark.rule for remark in remarks}
            for remark in remarks:
                _judge(found, operation, text, (remark, statements[remark.statement]), rows)
    _check_allowed(found, operation, place, broken)
    return Facts(relation=str(operation.table) if operation.table else "")


@dataclass(frozen=True, kw_only=True)
class _Text:
    """One of the texts of an operation, and where it stands in the file."""

    place: str
    sql: str
    #: The numbers of the operation, and of its step.
    operation: int
    step: int
    #: Whether it takes back the text before it.
    back: bool


def _texts(operation: Sql, number: int) -> tuple[_Text, ...]:
    place = f"operations[{number}].sql"
    return tuple(
        _Text(
            place=f"{place}.{operation.place(step, key)}",
            sql=one.run if key == "run" else one.rollback,
            operation=number,
            step=step,
            back=key == "rollback",
        )
        for step, one in enumerate(operation.transactions)
        for key in ("run", "rollback")
    )


def _read(connection: Connection, found: Findings, place: str, text: str) -> tuple[SqlStatement, ...]:
    """The statements of a text, each of which PostgreSQL can parse; none once it is put down why not."""
    try:
        statements = split(text)
    except Unclosed as exc:
        found.refuse("sql", f"{place}: {exc}", "Close it")
        return ()
    if not statements:
        found.refuse(
            "sql", f"{place} contains no statement", "Write one; what has nothing to take back may say SELECT 1"
        )
    for statement in statements:
        if (problem := _rejection(connection, statement)) is not None:
            found.refuse(
                "sql",
                f"{place}: {_shown(statement)}: {problem}",
                "Names outside pg_catalog carry their schema (public.jobs): the search path is empty",
            )
    return statements


def _rejection(connection: Connection, statement: SqlStatement) -> str | None:
    """What PostgreSQL's parser has against a statement. As the body of a function it is read and not run."""
    # DDL's names are looked up when it runs, and a copy in pg_temp would be found by them in the dry run.
    shape = " ".join("Q" if token.kind == "name" else token.word or token.text[:1] for token in statement.tokens)
    if (found := _BARE_NAMES.match(shape)) is not None:
        name = statement.tokens[shape[: found.start("name")].count(" ")].text
        return f"{name} has no schema"
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL search_path = ''")
            connection.execute("SET LOCAL check_function_bodies = on")
            connection.execute("SET LOCAL standard_conforming_strings = on")
            connection.execute("SET LOCAL lock_timeout = '2s'")
            connection.execute(
                sql.SQL("CREATE FUNCTION pg_temp.backfilld_reads() RETURNS void LANGUAGE sql AS {}").format(
                    sql.Literal(statement.text)
                )
            )
    except errors.SyntaxError as exc:
        return exc.diag.message_primary or str(exc)
    except _LOOKED_UP as exc:
        # Only of a name without a schema can it be said that no earlier statement makes it.
        missing = exc.diag.message_primary or str(exc)
        return missing if "." not in missing else None
    except psycopg.Error as exc:
        if was_interrupted(exc):
            raise
    return None


def _check_tables(connection: Connection, found: Findings, place: str, statement: SqlStatement) -> None:
    """Take down the tables that a statement names, and refuse what only their owner may do."""
    for _, _, name in statement.qualified:
        if name[0] == "backfilld":
            find_table(connection, found, place, TableName(*name))  # puts down that it is no target
            return
        if len(name[0].encode()) > 63 or len(name[1].encode()) > 63:
            continue
        table = _see(connection, found, catalog.describe(connection, TableName(*name)))
        if table is not None and not table.owned and lock_of(statement.bare) == "ACCESS EXCLUSIVE":
            problem = (
                f"{place}: the role {found.backend.role} does not own {table.name}, which the statement alters or drops"
            )
            if all(finding.problem != problem for finding in found.findings):
                found.refuse("ownership", problem, "Use the owner, or a role that is a member of it")


def _see(connection: Connection, found: Findings, table: catalog.Table | None) -> catalog.Table | None:
    if table is None or table.kind not in catalog.TABLES or table.name.schema == "pg_catalog":
        return None
    if table.name not in found.tables:
        found.tables[table.name] = table
        found.rows[table.name] = catalog.estimate_rows(connection, table)
    return table


def _remarks(
    found: Findings, text: _Text, statements: Sequence[SqlStatement], ran: Sequence[SqlStatement]
) -> tuple[lint.Remark, ...]:
    """The rules that a text breaks; of a rollback, not those that only say that it takes back what ran before it."""
    try:
        remarks = lint.remarks(text.sql, version=found.backend.version // 10_000)
    except lint.NotLinted as exc:
        found.warn(f"{text.place} was checked by backfilld's own rules only: {exc}")
        remarks = lint.own_remarks(statements)
    if not text.back:
        return remarks
    return tuple(one for one in remarks if not lint.takes_back(one, statements[one.statement], ran))


def _of_functions(connection: Connection, statements: Sequence[SqlStatement]) -> list[lint.Remark]:
    """What the functions that statements call do, and theirs in turn."""
    return [
        lint.Remark(
            rule="ddl-in-function" if what == "ddl" else what,
            problem=f"{problem} in {body.name}",
            statement=number,
        )
        for number, statement in enumerate(statements)
        if (called := lint.called(statement))
        for body in called_functions(connection, called)
        for what, problem in lint.hidden(body.code).items()
    ]


def _judge(
    found: Findings,
    operation: Sql,
    text: _Text,
    broken: tuple[lint.Remark, SqlStatement],
    rows: Mapping[tuple[str, str], int],
) -> None:
    """Put down what a rule has against a statement: a refusal, a warning, or a doubt that the dry run answers."""
    remark, statement = broken
    rule = remark.means
    allowed = remark.rule in operation.allow
    known = [rows[name] for _, _, name in statement.qualified if name in rows]
    small = rule.by_size and max(known, default=0) < lint.SMALL_ROWS
    said = f"{text.place}: {_shown(statement)}: {remark.problem} ({remark.rule})"
    remedy = (lint.instead(statement, back=text.back) if rule.by_size else "") or rule.remedy
    told: Finding | str
    if rule.level == "forbid":
        told = Finding("lint", said, remedy)
    elif rule.level == "refuse" and not small and not allowed:
        told = Finding("lint", said, f"{remedy}; or, if it is acceptable, write `allow: [{remark.rule}]`")
    elif not allowed or rule.level == "refuse":
        told = f"{said}{f'. {remedy}' if remedy else ''}"
    else:
        return
    if rule.measurable:
        place = (text.operation, text.step, remark.statement)
        found.doubts.append(Doubt(place=place, back=text.back, rule=remark.rule, told=told))
    else:
        found.tell(told)


def _check_allowed(found: Findings, operation: Sql, place: str, broken: set[str]) -> None:
    """Say which names in `allow` allow nothing."""
    for name in operation.allow:
        if name in lint.RULES and lint.RULES[name].level == "forbid":
            found.warn(f"{place}.allow: {name} cannot be allowed")
        elif name not in {*broken, "long-lock"}:
            found.warn(f"{place}.allow: no statement breaks a rule called {name}")


def _shown(statement: SqlStatement) -> str:
    text = " ".join(statement.text.split())
    return f"{text[:57]}..." if len(text) > 60 else text
