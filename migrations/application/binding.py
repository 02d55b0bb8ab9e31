"""Statements bound and planned as the application would send them, with their constants replaced by `$1` or not.

libpq's Parse message takes a text with parameters as it is, on every version, and PostgreSQL finds their types. What the normaliser
of `pg_stat_statements` writes and the grammar refuses is written in another way; the way that worked is kept, so that a later
failure is the statement's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, pq

from backfilld.migrations.application.usable import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.postgres.connect import Connection

#: One name for all: each other name would be one more text in `pg_stat_statements`.
_NAME = b"backfilld_check"
_INT4 = 23
#: Errors for which a parameter's type may be what is missing.
_OF_TYPES = (
    errors.AmbiguousFunction,
    errors.UndefinedFunction,
    errors.IndeterminateDatatype,
    errors.DatatypeMismatch,
)
#: A statement with more parameters is tried with all of them as integers, and not with each alone.
_MOST_TRIED = 12
_PARAMETER = re.compile(r"\$(\d+)")
_TYPED = re.compile(
    r"\b(?P<type>interval|date|time|timestamp|timestamptz|timetz)(?P<zone>\s+with(?:out)?\s+time\s+zone)?\s+\$(?P<number>\d+)"
    r"(?:\s+(?:year|month|day|hour|minute|second)s?\b(?:\s+to\s+(?:month|hour|minute|second)\b)?)?",
    re.IGNORECASE,
)
_EXTRACT = re.compile(r"\bextract\s*\(\s*\$(?P<number>\d+)\s+from\b", re.IGNORECASE)


@dataclass(frozen=True)
class Way:
    """How a text was made to bind: written anew where the grammar asks for it, and the types that were given (0: not given)."""

    anew: bool = False
    types: tuple[int, ...] = ()


@dataclass(frozen=True)
class Bound:
    """What PostgreSQL made of a statement: the types of its parameters, and its plan where that was asked for."""

    types: tuple[int, ...]
    plan: Plan | None
    #: What running it took, where it was run.
    run: tuple[Plan, ...] = ()


def written_anew(text: str) -> tuple[str, tuple[int, ...]]:
    """The text with typed constants as casts, and the types that must then be given."""
    given: dict[int, int] = {}

    def extract(match: re.Match[str]) -> str:
        given[int(match["number"])] = _INT4  # it stands nowhere any more, and has to have a type all the same
        return "extract(epoch from"

    text = _EXTRACT.sub(extract, text)
    text = _TYPED.sub(lambda match: f"cast(${match['number']} as {match['type']}{match['zone'] or ''})", text)
    return text, tuple(given.get(number, 0) for number in range(1, max(given, default=0) + 1))


def ways(text: str) -> Iterator[Way]:
    """The ways of binding a text that need no error first: as it is, and written anew."""
    yield Way()
    anew, types = written_anew(text)
    if anew != text:
        yield Way(anew=True, types=types)


def ways_by_type(text: str) -> Iterator[Way]:
    """Ways for a text of which some parameter's type cannot be told: integers, all of them or one at a time."""
    anew = written_anew(text)[0] != text
    count = max((int(number) for number in _PARAMETER.findall(text)), default=0)
    if count:
        yield Way(anew=anew, types=(_INT4,) * count)
    if 1 < count <= _MOST_TRIED:
        for number in range(count):
            yield Way(anew=anew, types=(0,) * number + (_INT4,))


@dataclass(frozen=True)
class GrammarError:
    """A text that no way makes SQL, and where in it the error is."""

    cause: psycopg.Error
    position: int


def grammar_error(connection: Connection, text: str, *, is_planned: bool) -> GrammarError | None:
    """What PostgreSQL's grammar says against a text; None for nothing. In the transaction that is open.

    The query of a PREPARE is looked at no further before that is run, which it never is: it names nothing yet, and locks nothing.
    Another command is parsed as it is.
    """
    head = "PREPARE backfilld_check AS " if is_planned else ""
    first: GrammarError | None = None
    for way in ways(text):
        one = head + (written_anew(text)[0] if way.anew else text)
        try:
            with aside(connection):
                # Without a name, it gives way to the next one that is parsed.
                _check(connection, connection.pgconn.prepare(b"", one.encode(connection.info.encoding)))
        except errors.SyntaxError as exc:
            position = int(exc.diag.statement_position or len(head) + 1) - 1 - len(head)
            first = first or GrammarError(exc, position)
        except _LOST:
            raise
        except psycopg.Error:
            return None  # that it finds no function, say
        else:
            return None
    return first


def find_way(connection: Connection, text: str, *, plans: bool = True) -> tuple[Way, Bound]:
    """The first way in which a text binds. Raises the error of the first one."""
    first: psycopg.Error | None = None
    for way in ways(text):
        try:
            return way, bind(connection, text, way, plans=plans)
        except _LOST:
            raise
        except psycopg.Error as exc:
            first = first or exc
    if first is not None and isinstance(first, (*_OF_TYPES, errors.SyntaxError)):
        for way in ways_by_type(text):
            try:
                return way, bind(connection, text, way, plans=plans)
            except _LOST:
                raise
            except psycopg.Error:
                continue
    assert first is not None  # noqa: S101 - there is one way at least
    raise first


_LOST = (psycopg.errors.AdminShutdown, psycopg.errors.CrashShutdown, psycopg.InterfaceError)


def bind(  # noqa: PLR0913 - each is named where it is called
    connection: Connection,
    text: str,
    way: Way,
    *,
    plans: bool = True,
    values: Sequence[str] = (),
    times: int = 0,
) -> Bound:
    """Bind a text in the transaction that is open, and plan it; what it locks is let go of at once. Raises psycopg.Error.

    With a value for each parameter it is also run so many times. Planning calls functions: of one that nobody may call as our role
    no plan is made.
    """
    if way.anew:
        text = written_anew(text)[0]
    with aside(connection):
        _check(connection, connection.pgconn.prepare(_NAME, text.encode(connection.info.encoding), way.types or None))
        try:
            described = connection.pgconn.describe_prepared(_NAME)
            _check(connection, described)
            types = tuple(described.param_type(number) for number in range(described.nparams))
            if not plans:
                return Bound(types, None)
            plan = _explained(connection, "FORMAT JSON, VERBOSE", ["NULL"] * len(types))
            if not times:
                return Bound(types, plan)
            # As the application's drivers have it: planned with the values.
            _run(connection, b"SET LOCAL plan_cache_mode = force_custom_plan")
            told = "FORMAT JSON, VERBOSE, ANALYZE, BUFFERS, TIMING OFF"
            return Bound(types, plan, tuple(_explained(connection, told, values) for _ in range(times)))
        finally:
            # A prepared statement outlives its transaction, and cannot be taken away in one that has failed.
            _forget(connection)


class aside:  # noqa: N801 - reads as a function where it is used
    """A savepoint that is rolled back, whatever happens: nothing that was locked since is locked any more."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        _run(self._connection, b"SAVEPOINT backfilld_check")

    def __exit__(self, *_: object) -> None:
        if self._connection.pgconn.status == pq.ConnStatus.OK:
            _run(self._connection, b"ROLLBACK TO SAVEPOINT backfilld_check; RELEASE SAVEPOINT backfilld_check")


def _forget(connection: Connection) -> None:
    if connection.pgconn.status != pq.ConnStatus.OK:
        return
    if connection.pgconn.transaction_status == pq.TransactionStatus.INERROR:
        _run(connection, b"ROLLBACK TO SAVEPOINT backfilld_check")
    _run(connection, b"DEALLOCATE backfilld_check")


def _explained(connection: Connection, options: str, values: Sequence[str]) -> Plan:
    given = f"({', '.join(values)})" if values else ""
    result = _run(connection, f"EXPLAIN ({options}) EXECUTE backfilld_check{given}".encode())
    return Plan.from_json(result.get_value(0, 0) or b"[]")


def _run(connection: Connection, query: bytes) -> Any:  # Any: psycopg's result, of which it has two kinds
    result = connection.pgconn.exec_(query)
    _check(connection, result)
    return result


def _check(connection: Connection, result: Any) -> None:  # Any: as above
    if result.status not in {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}:
        raise errors.error_from_result(result, encoding=connection.info.encoding)
