"""The application's statements: from `pg_stat_statements` where that can be read, and from files of queries.

What cannot be read is a finding of its own: that nothing was found wrong must not look like that nothing is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors, sql

from backfilld.migrations.application.binding import grammar_error
from backfilld.migrations.application.texts import bindable, is_command
from backfilld.migrations.errors import Finding
from backfilld.migrations.postgres import catalog
from backfilld.migrations.postgres.sqlstates import in_words, server_is_gone
from backfilld.migrations.postgres.statements import Unclosed, split
from backfilld.migrations.queries import queries, templates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from backfilld.migrations.file.application import Statements
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "application")
_TEMPLATES = templates(__package__, "statements")

#: `toplevel`, and how often statements were evicted, came with this version of the extension.
_OLDEST_EXTENSION = (1, 9)
#: When a statement was first counted, which came with this one.
_HAS_SINCE = (1, 11)
#: PostgreSQL 15 came with rights to single settings.
_HAS_PARAMETER_PRIVILEGES = 150_000
_CANNOT_READ = "<insufficient privilege>"
#: Texts of ours, whoever sent them; and what our checks and batches look like, where our own role sent them.
_OURS = re.compile(r'\bbackfilld\b|"~')
_OUR_SHAPES = re.compile(
    r"\bcount\(\*\) AS rows\b|\bAS residual\b|\btidsend\b|\bctid >= |\btile_of_row\b|\"pg_temp\"\."
    r'|\ALOCK TABLE (?:ONLY )?"|\ASELECT "[^"]+"\."[^"]+"::text|\AUPDATE "[^"]+"\.("[^"]+") AS \1 SET\b'
)
#: What pg_dump sends, which asks the catalog for tables and columns each time.
_DUMPED = re.compile(r"(COPY \S+ \([^)]*\) TO stdout|LOCK TABLE .* IN ACCESS SHARE MODE);?\Z", re.DOTALL)
#: The source of statements that were sent.
COUNTED = "pg_stat_statements"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement of the application."""

    text: str
    #: `pg_stat_statements`, or the file and the line, or the function.
    source: str
    #: What `pg_stat_statements` knows it by. PostgreSQL makes it of what the text meant when it was first sent: after a switch the same
    #: text has another one, and another text may have this one, whose count it is then.
    queryid: int | None = None
    #: The roles that sent it; none where that is not known.
    roles: tuple[str, ...] = ()
    #: How often it was sent, and since when that is counted; None for what is only written.
    calls: int | None = None
    calls_per_hour: float | None = None
    #: All the time it took, in milliseconds.
    milliseconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Since when `pg_stat_statements` counts, and how many times it had to forget statements."""

    since: datetime
    evictions: int
    now: datetime


@dataclass(kw_only=True)
class Corpus:
    """All statements that were found, and what could not be looked at."""

    statements: list[Statement] = field(default_factory=list)
    #: Commands about a table's rows that PostgreSQL does not plan.
    commands: list[Statement] = field(default_factory=list)
    #: Statements of files that PostgreSQL's grammar refuses, each with the error.
    malformed: list[tuple[Statement, str]] = field(default_factory=list)
    silence: list[Finding] = field(default_factory=list)
    #: None where `pg_stat_statements` cannot be read.
    counted: Counted | None = None


@dataclass(frozen=True)
class QueryFile:
    """A file of queries: its name as the migration file has it, its text, and the patterns that named it."""

    name: str
    text: str
    patterns: tuple[str, ...] = ()

    def line(self, position: int) -> int:
        return self.text.count("\n", 0, position) + 1


def read(connection: Connection, wanted: Statements, files: Sequence[QueryFile]) -> Corpus:
    """The statements of the application. Raises only for the loss of the connection."""
    corpus = Corpus()
    try:
        with connection.transaction(force_rollback=True):
            _read_counted(connection, wanted, corpus)
    except psycopg.Error as exc:
        if server_is_gone(exc):
            raise
        corpus.silence.append(_unreadable(exc))
    with connection.transaction(force_rollback=True):
        for file in files:
            _read_file(connection, file, corpus)
    matching = {pattern for file in files for pattern in file.patterns}
    if missing := [pattern for pattern in wanted.files if pattern not in matching]:
        corpus.silence.append(
            Finding(
                "statement_files",
                f"no file matches {', '.join(missing)}",
                "Write the path as it is below the folder of the migration file",
            )
        )
    return corpus


def leave_no_trace(connection: Connection) -> None:
    """Keep what this transaction sends out of `pg_stat_statements`, where our role may: each text that it has to keep may push out
    one of the application's.
    """
    may = "(SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)"
    if connection.info.server_version >= _HAS_PARAMETER_PRIVILEGES:
        may += " OR pg_catalog.has_parameter_privilege('pg_stat_statements.track', 'SET')"
    connection.execute(f"SELECT pg_catalog.set_config('pg_stat_statements.track', 'none', true) WHERE {may}".encode())


def by_text(statements: Sequence[Statement]) -> list[Statement]:
    """The statements with each text once, as one that was sent by all of its roles."""
    found: dict[tuple[str, str], Statement] = {}
    for one in statements:
        key = (one.source if one.source != COUNTED else "", one.text)
        same = found.get(key)
        found[key] = one if same is None else _joined(same, one)
    return list(found.values())


def _joined(one: Statement, other: Statement) -> Statement:
    return replace(
        one,
        queryid=None,
        roles=tuple(sorted({*one.roles, *other.roles})),
        calls=(one.calls or 0) + (other.calls or 0),
        calls_per_hour=round((one.calls_per_hour or 0) + (other.calls_per_hour or 0), 1),
        milliseconds=one.milliseconds + other.milliseconds,
    )


def _read_counted(connection: Connection, wanted: Statements, corpus: Corpus) -> None:
    found = connection.execute(_SQL["extension"], {"name": "pg_stat_statements"}).fetchone()
    if found is None:
        corpus.silence.append(
            Finding(
                "pg_stat_statements",
                "pg_stat_statements is not installed, so what the application sends is not known",
                "Add it to shared_preload_libraries, restart, and CREATE EXTENSION pg_stat_statements; or name files of queries",
            )
        )
        return
    version = tuple(int(part) for part in re.findall(r"\d+", found["version"]))
    if version < _OLDEST_EXTENSION:
        corpus.silence.append(
            Finding(
                "pg_stat_statements",
                f"pg_stat_statements is of version {found['version']}, and 1.9 or newer is needed",
                "ALTER EXTENSION pg_stat_statements UPDATE",
            )
        )
        return
    names = {name: sql.Identifier(found["schema"], name) for name in ("pg_stat_statements", "pg_stat_statements_info")}
    reset = connection.execute(_TEMPLATES["reset"].format(info=names["pg_stat_statements_info"])).fetchone()
    assert reset is not None  # noqa: S101 - a function that gives one row
    counted = Counted(since=reset["stats_reset"], evictions=reset["evictions"], now=reset["now"])
    query = _TEMPLATES["statements"].format(
        statements=names["pg_stat_statements"],
        since=sql.SQL("s.stats_since" if version >= _HAS_SINCE else "NULL::timestamptz"),
    )
    rows = connection.execute(query, [list(wanted.roles), list(wanted.roles)]).fetchall()
    corpus.counted = counted
    role = catalog.backend(connection).role
    if hidden := sum(row["query"] == _CANNOT_READ for row in rows):
        corpus.silence.append(
            Finding(
                "statement_texts",
                f"the texts of {hidden} statements of other roles cannot be read",
                f"GRANT pg_read_all_stats TO {role}",
            )
        )
    if counted.evictions:
        corpus.silence.append(
            Finding(
                "evictions",
                f"pg_stat_statements has evicted statements {counted.evictions} times since {counted.since:%Y-%m-%d %H:%M}, "
                "so it does not hold all that the application sends",
                "Raise pg_stat_statements.max",
            )
        )
    for row in rows:
        text = str(row["query"])
        is_ours = _DUMPED.match(text) or _OURS.search(text) or (row["roles"] == [role] and _OUR_SHAPES.search(text))
        cut = bindable(text)
        if text == _CANNOT_READ or is_ours or (cut is None and not is_command(text)):
            continue
        hours = (counted.now - (row["since"] or counted.since)).total_seconds() / 3600
        (corpus.statements if cut is not None else corpus.commands).append(
            Statement(
                text=cut or text,
                source=COUNTED,
                queryid=row["queryid"],
                roles=tuple(sorted(row["roles"])),
                calls=row["calls"],
                calls_per_hour=round(row["calls"] / max(hours, 1 / 60), 1),
                milliseconds=row["milliseconds"],
            )
        )


def _unreadable(exc: psycopg.Error) -> Finding:
    remedy = "Let the role read it: GRANT pg_read_all_stats"
    if isinstance(exc, errors.ObjectNotInPrerequisiteState):
        remedy = "Add pg_stat_statements to shared_preload_libraries, and restart the server"
    return Finding("pg_stat_statements", f"pg_stat_statements cannot be read: {in_words(exc)}", remedy)


def _read_file(connection: Connection, file: QueryFile, corpus: Corpus) -> None:
    try:
        found = split(file.text)
    except Unclosed as exc:
        problem = f"{file.name}:{file.line(exc.position)} cannot be read as SQL: {exc}"
        corpus.silence.append(Finding("statement_files", problem, "Close it; nothing of the file is checked"))
        return
    if not found:
        problem = f"{file.name} has no statement"
        corpus.silence.append(
            Finding("statement_files", problem, "Write the application's statements, or leave it out")
        )
    for one in found:
        source = f"{file.name}:{file.line(one.start)}"
        cut = bindable(one.text)
        asked = cut if cut is not None and cut in one.text else one.text
        if (error := grammar_error(connection, asked, is_planned=asked is cut)) is not None:
            position = one.start + one.text.index(asked) + error.position
            problem = f"{in_words(error.cause)} (line {file.line(position)})"
            corpus.malformed.append((Statement(text=one.text, source=source), problem))
        elif cut is not None:
            corpus.statements.append(Statement(text=cut, source=source))
        elif is_command(one.text):
            corpus.commands.append(Statement(text=one.text, source=source))
