"""A Python function of the user's: found, called with the rows of a batch, and its answer checked. It knows no connection.

Whatever the function does wrong is an error of the rows it was handed, like a cast that fails: the batch is halved until the
row is alone.
"""

from __future__ import annotations

import importlib
import inspect
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import psycopg

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.record.model import Timing
from backfilld.migrations.record.workers import allows
from backfilld.migrations.walks.sizing import REMEMBERED, next_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A row as the function sees it: the key and the columns it reads, with psycopg's Python values. Any: of every type.
Row = dict[str, Any]
Function = Callable[[list[Row]], list[Row]]
#: A row's key as text, for the write.
KeyTexts = tuple[str, ...]
#: By key, the values of the columns that are written.
Values = dict[KeyTexts, tuple[Any, ...]]

#: How long one call should take; the number of rows it is handed follows from this. Between calls the run may be stopped.
CALL_SECONDS = 0.25
#: A traceback's last line longer than this says no more.
MOST_CHARACTERS = 500


class FunctionRaised(psycopg.DataError):
    """The function raised; the row it raised for cannot be converted."""

    sqlstate = "PY001"


class WrongRows(psycopg.DataError):
    """What the function gave back cannot be written."""

    sqlstate = "PY002"


def load(name: str, *, allowed: Sequence[str]) -> Function:
    """The function `module:function`, from a module that this worker allows.

    Raises Refused before anything is imported, or when the import fails; the run can be resumed once that is fixed.
    """
    module, _, attribute = name.partition(":")
    if not allows(allowed, module):
        told = f"it allows {', '.join(allowed)}" if allowed else "it allows none"
        raise _refused(
            f"the transform {name} is in a module that this worker does not allow; {told}",
            f"Add {module} to BACKFILLD_TRANSFORMS of every worker of this database, restart them, and resume the run",
        )
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except BaseException as exc:  # a user's module may raise anything, SystemExit too; the run fails with it
        raise _refused(
            f"the transform {name} cannot be imported: {last_line(exc)}",
            f"Install {module} where every worker of this database finds it (PYTHONPATH), restart them, and "
            "resume the run",
        ) from exc
    if not callable(function) or inspect.iscoroutinefunction(function):
        found = "there is no such name" if function is None else "it is not an ordinary function"
        raise _refused(
            f"the transform {name} is not a function: {found}",
            f"Define `def {attribute}(rows)` in {module}, restart the workers, and resume the run",
        )
    # A name that the module itself imported, such as `system` of `os`, is not a transform.
    origin = str(getattr(function, "__module__", None))
    if not allows(allowed, origin):
        raise _refused(
            f"the transform {name} is defined in {origin}, a module that this worker does not allow",
            f"Define the function in {module} itself, or add {origin} to BACKFILLD_TRANSFORMS",
        )
    return cast("Function", function)


def _refused(problem: str, remedy: str) -> Refused:
    return Refused([Finding("transform", problem, remedy)])


class Calls:
    """Calls of one function, in pieces that take about `CALL_SECONDS`; shared by the threads of a process."""

    def __init__(
        self, function: Function, *, key: tuple[str, ...], handed: tuple[str, ...], written: tuple[str, ...]
    ) -> None:
        """`handed` names the columns of a row, those of the key first."""
        self._function = function
        self._key = key
        self._handed = handed
        self._written = written
        #: Learned from the last calls. Threads may overwrite each other's number: it is an estimate for all of them.
        self._rows_per_call = 1
        self._recent: deque[Timing] = deque(maxlen=REMEMBERED)

    def __call__(
        self, keys: list[KeyTexts], rows: list[tuple[Any, ...]], *, between: Callable[[int, float], None]
    ) -> Values:
        """Call the function, some rows at a time; returns the written columns by key.

        `between` is called now and then with the number of rows done and the seconds; what it raises ends the calls. Raises
        FunctionRaised and WrongRows.
        """
        values: Values = {}
        done, began = 0, time.monotonic()
        asked = began
        while done < len(rows):
            size = self._rows_per_call
            started, piece = time.monotonic(), slice(done, done + size)
            values |= self._call(keys[piece], rows[piece])
            now, handed = time.monotonic(), len(rows[piece])
            self._recent.append(Timing(rows=handed, seconds=now - started, at=now))
            self._rows_per_call = next_size(size, list(self._recent))
            done += handed
            if now - asked > CALL_SECONDS:
                between(done, now - began)
                asked = now
        return values

    def _call(self, keys: list[KeyTexts], rows: list[tuple[Any, ...]]) -> Values:
        names = self._handed
        try:
            returned = self._function([dict(zip(names, row, strict=True)) for row in rows])
        except BaseException as exc:
            # sys.exit() in a function must not end the thread that works on the lane, or go unseen.
            raise FunctionRaised(f"{last_line(exc)}{_place(exc, self._function)}") from exc
        return self._checked(returned, keys, rows)

    def _checked(self, returned: object, keys: list[KeyTexts], rows: list[tuple[Any, ...]]) -> Values:
        """What the function gave back, if it is what it may give back."""
        if not isinstance(returned, list | tuple):
            raise WrongRows(f"the function returned {called(returned)}, not a list of rows")
        width = len(self._key)
        of_key = {_identity(row[:width]): index for index, row in enumerate(rows)}
        needed = (*self._key, *self._written)
        values: Values = {}
        for row in returned:
            if not isinstance(row, dict):
                raise WrongRows(f"the function returned {called(row)} instead of a row, which is a dict")
            for name in needed:
                if name not in row:
                    raise WrongRows(f"a returned row has no {name}; to write nothing, leave the row out")
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
                raise WrongRows(f"a returned row has {clean(repr(name))}, which is not among `writes`")
            old = before[self._handed.index(name)]
            if value is not old and value != old:
                raise WrongRows(f"a returned row changes {name}, which is not among `writes`")


def next_size(size: int, recent: Sequence[Timing]) -> int:
    """How many rows the next call is handed, after the last of `recent`, which may have had the last few rows of a batch."""
    last = recent[-1]
    if last.rows < size and last.seconds <= CALL_SECONDS:
        return size
    # 10: soon at a whole batch when a row costs microseconds, and never from one to too many when it costs a second.
    return next_rows(last.rows, recent, target_seconds=CALL_SECONDS, growth=10.0)


def _identity(key: tuple[Any, ...]) -> object:
    """A key as something that can be looked up; an array or a document among its columns cannot."""
    try:
        hash(key)
    except TypeError:
        return repr(key)
    return key


def called(value: object) -> str:
    """A value, in words."""
    return f"a value of class {type(value).__name__}"


def last_line(exc: BaseException) -> str:
    """What an exception says of itself."""
    lines = traceback.format_exception_only(exc)
    return clean(lines[-1] if isinstance(exc, SyntaxError) else lines[0])


def _place(exc: BaseException, function: Function) -> str:
    """Where in the function's own module it was raised, or nothing when it never got there."""
    frames = [
        (frame.f_globals.get("__name__"), line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(exc.__traceback__)
    ]
    own = [frame for frame in frames if frame[0] == function.__module__]
    return f" ({own[-1][0]}, line {own[-1][1]}, in {own[-1][2]})" if own else ""


def clean(text: str) -> str:
    """Text of a user's as the record can hold it: on one line, and without what PostgreSQL cannot store."""
    line = " ".join(text.replace("\0", "\\0").split())
    return line.encode("utf-8", "backslashreplace").decode()[:MOST_CHARACTERS]
