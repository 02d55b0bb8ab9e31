"""A Python function over the rows of a batch: found, called, its answer checked, and the values written in one statement.

The rows are read `FOR NO KEY UPDATE` in the batch's own transaction, so that nothing changes between the read and the write.
Whatever the function does wrong is an error of the rows it was handed, like a cast that fails: the batch is halved until the
row is alone. Values go back as text, cast by PostgreSQL, which is the one notation that every type has.
"""

from __future__ import annotations

import importlib
import inspect
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import sql
from psycopg.adapt import PyFormat, Transformer
from psycopg.rows import tuple_row
from psycopg.types.json import Json, Jsonb
from psycopg.types.string import TextLoader

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.identifiers import sendable
from backfilld.migrations.record import runs
from backfilld.worker.lanes.claim import LEAST_STATEMENT_TIMEOUT_SECONDS, STATEMENT_TIMEOUT_FACTOR
from backfilld.worker.lanes.kept_values import Update

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.abc import Transformer as Dumps

    from backfilld.migrations.facts import Target
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.walks.keys import KeyWalk
    from backfilld.migrations.walks.rewrite import Rewrite
    from backfilld.worker.lanes.kept_values import Journal

#: A row as the function sees it: the key and the columns it reads, with psycopg's Python values. Any: of every type.
Row = dict[str, Any]
Function = Callable[[list[Row]], list[Row]]
#: A row's key as text, for the write, and the values of the columns that are written.
Values = dict[tuple[str, ...], tuple[Any, ...]]

#: How long one call should take; the number of rows it is handed follows from this. Between calls somebody may say stop.
CALL_SECONDS = 0.25
#: The server ends a transaction that is idle for this long. It is idle while the function runs, so the ten seconds of other
#: batches would end one whose function waits for a slow service; a frozen worker holds its rows for this long.
IDLE_SECONDS = 60
#: Of what a function has learned to take; the batch itself ends sooner.
MOST_ROWS_PER_CALL = 200_000
#: The name of the values in the statement that writes them; no column of a user's is called that.
_VALUES = "~backfilld_new"
#: A traceback's last line longer than this says no more.
MOST_CHARACTERS = 500


class FunctionRaised(psycopg.DataError):
    """The function raised; the row it raised for cannot be converted."""

    sqlstate = "PY001"


class WrongRows(psycopg.DataError):
    """What the function gave back cannot be written."""

    sqlstate = "PY002"


@dataclass(frozen=True, kw_only=True)
class Written:
    """What became of the rows of a batch that were handed over."""

    changed: int
    #: Rows that still meet the user's condition, where it was asked.
    still: int


def load(name: str, *, allowed: Sequence[str]) -> Function:
    """The function `module:function`, from a module that this worker was told to allow.

    Raises Refused before anything is imported, or when the import fails; the run can be resumed once that is mended.
    """
    module, _, attribute = name.partition(":")
    if not _allows(allowed, module):
        told = f"it allows {', '.join(allowed)}" if allowed else "it allows none"
        raise _refused(
            f"the transform {name} is in a module that this worker was not told to allow; {told}",
            f"Add {module} to BACKFILLD_TRANSFORMS of every worker of this database, start them again, and resume the run",
        )
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except BaseException as exc:  # a user's module may raise anything, SystemExit too; the run fails with it
        raise _refused(
            f"the transform {name} cannot be imported: {_last_line(exc)}",
            f"Install {module} where every worker of this database finds it (PYTHONPATH), start them again, and resume the run",
        ) from exc
    if not callable(function) or inspect.iscoroutinefunction(function):
        found = "there is no such name" if function is None else "it is not an ordinary function"
        raise _refused(
            f"the transform {name} is no function: {found}",
            f"Define `def {attribute}(rows)` in {module}, start the workers again, and resume the run",
        )
    # A name that the module itself imported, such as `system` of `os`, is nobody's transform.
    origin = str(getattr(function, "__module__", None))
    if not _allows(allowed, origin):
        raise _refused(
            f"the transform {name} is defined in {origin}, a module that this worker was not told to allow",
            f"Define the function in {module} itself, or add {origin} to BACKFILLD_TRANSFORMS",
        )
    return cast("Function", function)


def _allows(allowed: Sequence[str], module: str) -> bool:
    """A package's name allows the modules in it."""
    return any(module == one or module.startswith(f"{one}.") for one in allowed)


def _refused(problem: str, remedy: str) -> Refused:
    return Refused([Finding("transform", problem, remedy)])


class Transform:
    """A rewrite whose values come from a function. One for each run and operation, shared by the threads of a process."""

    def __init__(self, function: Function, rewrite: Rewrite, walk: KeyWalk) -> None:
        self._function = function
        self._rewrite = rewrite
        self._walk = walk
        self._key = tuple(column.name for column in walk.key)
        self._targets = rewrite.facts.targets
        self._written = tuple(target.column for target in self._targets)
        # The key first; a key column that is read as well is handed over once.
        self._handed = (*self._key, *(name for name in rewrite.facts.reads if name not in self._key))
        #: Learned from the last call. Threads may overwrite each other's number: it is an estimate for all of them.
        self._rows_per_call = 1

    @classmethod
    def of(cls, rewrite: Rewrite, walk: KeyWalk, *, allowed: Sequence[str]) -> Transform | None:
        """The transform of a rewrite, or None when its values come from SQL. Raises Refused."""
        if rewrite.transform is None:
            return None
        return cls(load(rewrite.transform, allowed=allowed), rewrite, walk)

    def apply(
        self,
        connection: Connection,
        run: int,
        condition: sql.Composable,
        parameters: list[Any],
        *,
        journal: Journal | None,
    ) -> Written:
        """Hand the rows of a range that need work to the function, and write what it gives back.

        Raises FunctionRaised and WrongRows, which are for a row to answer for, QueryCanceled when the function takes
        longer than a statement may or the run is told to stop, and other errors of psycopg.
        """
        keys, rows = self._read(connection, condition, parameters)
        if not rows:
            return Written(changed=0, still=0)
        try:
            values = self._call(connection, run, keys, rows)
            return self._write(connection, condition, parameters, values, handed=len(rows), journal=journal)
        except (psycopg.DataError, psycopg.ProgrammingError, UnicodeError) as exc:
            if isinstance(exc, psycopg.Error) and exc.sqlstate is not None:
                raise
            # psycopg cannot send it, such as half a surrogate pair.
            raise WrongRows(f"a value cannot be sent to PostgreSQL: {_clean(str(exc))}") from exc

    def _read(
        self, connection: Connection, condition: sql.Composable, parameters: list[Any]
    ) -> tuple[list[tuple[str, ...]], list[tuple[Any, ...]]]:
        """The keys as text, for the write, and the rows as values, for the function."""
        query = sql.SQL("SELECT {}, {} FROM {} WHERE {} AND {} FOR NO KEY UPDATE").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(self._column(name)) for name in self._key),
            sql.SQL(", ").join(self._column(name) for name in self._handed),
            self._table,
            condition,
            self._rewrite.needs_work,
        )
        cursor = connection.cursor(row_factory=tuple_row)
        # A timedelta holds no months, so that an interval would come back as another one.
        cursor.adapters.register_loader("interval", TextLoader)
        # Not a pipeline: psycopg ends one with a Flush, which stops the server's clock for idle transactions, and a worker that
        # froze in the function would keep its rows.
        # The name tells the reconciler that it is not frozen when it is idle.
        connection.execute(
            "SELECT set_config('idle_in_transaction_session_timeout', %s, true), "
            "set_config('application_name', current_setting('application_name') || ' python', true)",
            [f"{IDLE_SECONDS}s"],
        )
        cursor.execute(query, parameters)
        width = len(self._key)
        try:
            found = cursor.fetchall()
        except psycopg.DataError as exc:
            # infinity, a date before Christ
            raise WrongRows(f"a value of the row has no counterpart in Python: {_clean(str(exc))}") from exc
        return [row[:width] for row in found], [row[width:] for row in found]

    def _call(
        self, connection: Connection, run: int, keys: list[tuple[str, ...]], rows: list[tuple[Any, ...]]
    ) -> Values:
        """Call the function, some rows at a time; returns the written columns by key."""
        values: Values = {}
        done, began = 0, time.monotonic()
        asked = began
        while done < len(rows):
            size = self._rows_per_call
            started, piece = time.monotonic(), slice(done, done + size)
            values |= self._call_once(keys[piece], rows[piece])
            now, handed = time.monotonic(), len(rows[piece])
            self._rows_per_call = _next_size(size, handed, now - started)
            done += handed
            if now - asked > CALL_SECONDS:
                _check_time(connection, run, seconds=now - began, work=f"{done} of {len(rows)} rows")
                asked = now
        return values

    def _call_once(self, keys: list[tuple[str, ...]], rows: list[tuple[Any, ...]]) -> Values:
        names = self._handed
        try:
            returned = self._function([dict(zip(names, row, strict=True)) for row in rows])
        except BaseException as exc:
            # sys.exit() in a function must not end the thread that works on the lane, or go unseen.
            raise FunctionRaised(f"{_last_line(exc)}{_place(exc, self._function)}") from exc
        return self._checked(returned, keys, rows)

    def _checked(self, returned: object, keys: list[tuple[str, ...]], rows: list[tuple[Any, ...]]) -> Values:
        """What the function gave back, if it is what it may give back."""
        if not isinstance(returned, list | tuple):
            raise WrongRows(f"the function returned {_called(returned)}, not a list of rows")
        width = len(self._key)
        of_key = {_identity(row[:width]): index for index, row in enumerate(rows)}
        needed = (*self._key, *self._written)
        values: Values = {}
        for row in returned:
            if not isinstance(row, dict):
                raise WrongRows(f"the function returned {_called(row)} in place of a row, which is a dict")
            for name in needed:
                if name not in row:
                    raise WrongRows(f"a returned row has no {name}; leave a row out when nothing is to be written")
            index = of_key.get(_identity(tuple([row[name] for name in self._key])))
            if index is None:
                raise WrongRows("a returned row has a key that was not handed over")
            self._check_columns(row, rows[index])
            if keys[index] in values:
                raise WrongRows("two returned rows have the same key")
            values[keys[index]] = tuple([row[name] for name in self._written])
        return values

    def _check_columns(self, row: Row, before: tuple[Any, ...]) -> None:
        """Columns that are not to be written may come back, as they were."""
        if len(row) == len(self._key) + len(self._written):
            return
        for name, value in row.items():
            if name in self._key or name in self._written:
                continue
            if name not in self._handed:
                raise WrongRows(f"a returned row has {_clean(repr(name))}, which is not among `writes`")
            old = before[self._handed.index(name)]
            if value is not old and value != old:
                raise WrongRows(f"a returned row changes {name}, which is not among `writes`")

    def _write(  # noqa: PLR0913 - one statement; each part is named where it is called
        self,
        connection: Connection,
        condition: sql.Composable,
        parameters: list[Any],
        values: Values,
        *,
        handed: int,
        journal: Journal | None,
    ) -> Written:
        """Write all values in one statement. Rows whose values are the same, letter by letter, are not touched."""
        asked = self._rewrite.condition_tells
        if not values:
            return Written(changed=0, still=handed if asked is not None else 0)
        dump = Transformer.from_context(connection)
        keys = [list(column) for column in zip(*values, strict=True)]
        news = [
            [_text(value, target, dump) for value in column]
            for column, target in zip(zip(*values.values(), strict=True), self._targets, strict=True)
        ]
        update = self._update(condition, parameters, values=[*keys, *news])
        if asked is None and journal is None:
            return Written(changed=connection.execute(*update.query).rowcount, still=0)
        returning = sql.SQL("{} AS still").format(asked if asked is not None else sql.SQL("false"))
        if journal is None:
            query, sent = update.query
            query = sql.SQL("WITH changed AS ({} RETURNING {})").format(query, returning)
        else:
            query, sent = journal.written(update, returning=returning, version=connection.info.server_version)
        query += sql.SQL(" SELECT count(*) AS changed, count(*) FILTER (WHERE still) AS still FROM changed")
        row = connection.execute(query, sent).fetchone() or {"changed": 0, "still": 0}
        # A row that was left as it is meets the condition by which it was chosen.
        left = handed - row["changed"] if asked is not None else 0
        return Written(changed=row["changed"], still=row["still"] + left)

    def _update(self, condition: sql.Composable, parameters: list[Any], *, values: list[list[str | None]]) -> Update:
        keys = [f"{_VALUES}_key_{n}" for n in range(len(self._key))]
        news = [f"{_VALUES}_{n}" for n in range(len(self._targets))]
        # The type's text is format_type's own. Without a limit of length: a cast to that would cut, the assignment does not.
        casts = [
            sql.SQL("CAST({} AS {})").format(sql.Identifier(new), sendable(sql.SQL(target.plain_type)))
            for new, target in zip(news, self._targets, strict=True)
        ]
        source = sql.SQL("unnest({}) AS {}({})").format(
            # Binary, which needs no quoting: as fast as COPY into a temporary table, and half as long as with %s.
            sql.SQL(", ").join([sql.SQL("%b::text[]")] * (len(keys) + len(news))),
            sql.Identifier(_VALUES),
            sql.SQL(", ").join(sql.Identifier(name) for name in [*keys, *news]),
        )
        same = sql.SQL(" AND ").join(
            sql.SQL("{} = CAST({} AS {})").format(
                self._column(column.name), sql.Identifier(key), sendable(sql.SQL(column.type))
            )
            for column, key in zip(self._walk.key, keys, strict=True)
        )
        differs = sql.SQL(" OR ").join(
            # As text: equality takes 1.0 for 1.00, and in some types a capital for a small letter.
            sql.SQL('{}::text COLLATE "C" IS DISTINCT FROM {}::text COLLATE "C"').format(self._column(name), cast)
            for name, cast in zip(self._written, casts, strict=True)
        )
        return Update(
            table=self._table,
            sets=sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sendable(sql.Identifier(name)), cast)
                for name, cast in zip(self._written, casts, strict=True)
            ),
            condition=condition,
            parameters=parameters,
            also=sql.SQL("{} AND ({})").format(same, differs),
            source=source,
            source_parameters=values,
        )

    def _column(self, name: str) -> sql.SQL:
        return sendable(sql.Identifier(self._walk.table.name, name))

    @property
    def _table(self) -> sql.SQL:
        return sendable(self._walk.table.identifier)


def _next_size(size: int, handed: int, seconds: float) -> int:
    """How many rows the next call is handed, after one of `handed` rows that may have been the last few of a batch."""
    if handed < size and seconds <= CALL_SECONDS:
        return size
    # 10: soon at a whole batch when a row costs microseconds, and never from one to too many when it costs a second.
    wanted = min(handed * CALL_SECONDS / max(seconds, 1e-6), size * 10, MOST_ROWS_PER_CALL)
    return max(1, int(wanted))


def _check_time(connection: Connection, run: int, *, seconds: float, work: str) -> None:
    """Raise what PostgreSQL raises for a statement that must end: it cannot end a function, so it is asked in between."""
    standing = runs.standing(connection, run)
    if standing.why_stop is not None:
        raise psycopg.errors.QueryCanceled(standing.why_stop)
    limit = max(standing.settings.batch_seconds * STATEMENT_TIMEOUT_FACTOR, LEAST_STATEMENT_TIMEOUT_SECONDS)
    if seconds > limit:
        raise psycopg.errors.QueryCanceled(
            f"the function took {seconds:.1f} s for {work}, more than the {limit:.1f} s it may"
        )


def _identity(key: tuple[Any, ...]) -> object:
    """A key as something that can be looked up; an array or a document among its columns cannot."""
    try:
        hash(key)
    except TypeError:
        return repr(key)
    return key


def _text(value: Any, target: Target, dump: Dumps) -> str | None:  # Any: whatever a function returns
    """A value in PostgreSQL's own notation. Raises WrongRows when there is none for it."""
    if value is None:
        return None
    if target.plain_type in {"json", "jsonb"}:
        value = _document(value)
    elif target.plain_type in {"json[]", "jsonb[]"}:
        value = _documents(value)
    elif type(value) is str:
        return value
    try:
        written = dump.get_dumper(value, PyFormat.TEXT).dump(value)
        return None if written is None else bytes(written).decode(dump.encoding)
    except Exception as exc:  # a class psycopg does not know, a list of mixed types, a document that JSON cannot hold
        raise WrongRows(f"{target.column} cannot be {_called(value)}: {_last_line(exc)}") from exc


def _document(value: Any) -> Any:  # Any: JSON
    return value if isinstance(value, Json | Jsonb) else Jsonb(value)


def _documents(value: Any) -> Any:  # Any: JSON, in a list for each dimension
    if isinstance(value, list):
        return [_documents(one) for one in value]
    return None if value is None else _document(value)


def _called(value: object) -> str:
    return f"a value of class {type(value).__name__}"


def _last_line(exc: BaseException) -> str:
    lines = traceback.format_exception_only(exc)
    return _clean(lines[-1] if isinstance(exc, SyntaxError) else lines[0])


def _place(exc: BaseException, function: Function) -> str:
    """Where in the function's own module it was raised, or nothing when it never got there."""
    frames = [
        (frame.f_globals.get("__name__"), line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(exc.__traceback__)
    ]
    own = [frame for frame in frames if frame[0] == function.__module__]
    return f" ({own[-1][0]}, line {own[-1][1]}, in {own[-1][2]})" if own else ""


def _clean(text: str) -> str:
    """Text of a user's as the record can hold it: on one line, and without what PostgreSQL cannot store."""
    line = " ".join(text.replace("\0", "\\0").split())
    return line.encode("utf-8", "backslashreplace").decode()[:MOST_CHARACTERS]
