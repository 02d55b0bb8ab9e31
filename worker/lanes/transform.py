"""The values of a Python function for the rows of a batch: read, handed over, and written in one statement.

The rows are read `FOR NO KEY UPDATE` in the batch's own transaction, so that nothing changes between the read and the write.
Values are sent as text and cast by PostgreSQL, which is the one notation that every type has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.rows import tuple_row
from psycopg.types.json import Json, Jsonb
from psycopg.types.string import TextLoader

from backfilld.migrations.postgres.sessions import Doing, SessionName
from backfilld.migrations.queries import queries
from backfilld.migrations.record import step_context
from backfilld.migrations.walks import update_sql
from backfilld.worker.lanes import claim
from backfilld.worker.lanes.batch import Tally
from backfilld.worker.lanes.function import Calls, WrongRows, called, clean, last_line, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import sql
    from psycopg.abc import Transformer as Dumps

    from backfilld.migrations.facts import Target
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Lane
    from backfilld.migrations.rollback.journal import Journal
    from backfilld.migrations.walks.keys import KeyWalk
    from backfilld.migrations.walks.rewrite import Rewrite
    from backfilld.worker.lanes.batch import Batch
    from backfilld.worker.lanes.function import Function, KeyTexts, Values

_BEGIN_FUNCTION = queries("backfilld.migrations.walks", "walks")["begin_function"]

#: The server ends a transaction that is idle for this long. It is idle while the function runs, so the ten seconds of other
#: batches would end one whose function waits for a slow service; a frozen worker holds its rows for this long.
IDLE_SECONDS = 60


class Transform:
    """A rewrite whose values come from a function. One for each run and operation, shared by the threads of a process."""

    def __init__(self, function: Function, rewrite: Rewrite, walk: KeyWalk) -> None:
        self._rewrite = rewrite
        self._walk = walk
        self._targets = rewrite.facts.targets
        key = tuple(column.name for column in walk.key)
        # A key column that is read as well is handed over once.
        self._handed = (*key, *(name for name in rewrite.facts.reads if name not in key))
        written = tuple(target.column for target in self._targets)
        self._calls = Calls(function, key=key, handed=self._handed, written=written)

    @classmethod
    def of(cls, rewrite: Rewrite, walk: KeyWalk, *, allowed: Sequence[str]) -> Transform | None:
        """The transform of a rewrite, or None when its values come from SQL. Raises Refused."""
        if rewrite.transform is None:
            return None
        return cls(load(rewrite.transform, allowed=allowed), rewrite, walk)

    def write(
        self,
        batch: Batch,
        condition: sql.Composable,
        parameters: list[Any],  # Any: key values
        *,
        journals: Sequence[Journal],
    ) -> Tally:
        """Hand the rows of a range that need work to the function, and write what it gives back.

        Raises FunctionRaised and WrongRows, which are for a row to answer for, QueryCanceled when the function takes
        longer than a statement may or the step must stop, and other errors of psycopg.
        """
        connection, lane = batch.connection, batch.lane
        keys, rows = self._read(connection, lane, condition, parameters)
        if not rows:
            return Tally()

        def between(done: int, seconds: float) -> None:
            _check_time(connection, lane, seconds=seconds, work=f"{done} of {len(rows)} rows")

        try:
            values = self._calls(keys, rows, between=between)
            return self._write(batch, condition, parameters, values, handed=len(rows), journals=journals)
        except (psycopg.DataError, psycopg.ProgrammingError, UnicodeError) as exc:
            if isinstance(exc, psycopg.Error) and exc.sqlstate is not None:
                raise
            # psycopg cannot send it, such as half a surrogate pair.
            raise WrongRows(f"a value cannot be sent to PostgreSQL: {clean(str(exc))}") from exc

    def _read(
        self, connection: Connection, lane: Lane, condition: sql.Composable, parameters: list[Any]
    ) -> tuple[list[KeyTexts], list[tuple[Any, ...]]]:
        """The keys as text, for the write, and the rows as values, for the function."""
        query = update_sql.read(self._walk, self._handed, condition, needs_work=self._rewrite.needs_work)
        cursor = connection.cursor(row_factory=tuple_row)
        # A timedelta holds no months, so that an interval would come back as another one.
        cursor.adapters.register_loader("interval", TextLoader)
        # Not a pipeline: psycopg ends one with a Flush, which stops the server's clock for idle transactions, and a worker that
        # froze in the function would keep its rows.
        # The name of the session tells the reconciler that it is not frozen when it is idle.
        session = SessionName(run=lane.run, lane=lane.lane, seq=lane.seq, doing=Doing.PYTHON)
        connection.execute(_BEGIN_FUNCTION, {"idle": f"{IDLE_SECONDS}s", "session": str(session)})
        cursor.execute(query, parameters)
        width = len(self._walk.key)
        try:
            found = cursor.fetchall()
        except psycopg.DataError as exc:
            # infinity, a date before Christ
            raise WrongRows(f"a value of the row cannot be represented in Python: {clean(str(exc))}") from exc
        return [row[:width] for row in found], [row[width:] for row in found]

    def _write(  # noqa: PLR0913 - one statement; each part is named where it is called
        self,
        batch: Batch,
        condition: sql.Composable,
        parameters: list[Any],
        values: Values,
        *,
        handed: int,
        journals: Sequence[Journal],
    ) -> Tally:
        """Write all values in one statement. Rows whose values are the same, letter by letter, are not touched."""
        still = self._rewrite.condition_tells
        if not values:
            return Tally(residual=handed if still is not None else 0)
        dump = Transformer.from_context(batch.connection)
        keys = [list(column) for column in zip(*values, strict=True)]
        news = [
            [_text(value, target, dump) for value in column]
            for column, target in zip(zip(*values.values(), strict=True), self._targets, strict=True)
        ]
        update = update_sql.given(self._walk, self._targets, condition, parameters, values=[*keys, *news])
        tally = batch.write(update, journals=journals, still=still)
        # A row that was left as it is meets the condition by which it was chosen.
        left = handed - tally.changed if still is not None else 0
        return replace(tally, residual=tally.residual + left)


def _check_time(connection: Connection, lane: Lane, *, seconds: float, work: str) -> None:
    """Raise what PostgreSQL raises for a statement that must end: it cannot end a function, so it is asked in between."""
    context = step_context.read(connection, lane.run)
    if context.why_stop is not None:
        raise psycopg.errors.QueryCanceled(context.why_stop)
    limit = claim.statement_timeout_seconds(lane, context)
    if seconds > limit:
        raise psycopg.errors.QueryCanceled(f"the function took {seconds:.1f} s for {work}; its limit is {limit:.1f} s")


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
        raise WrongRows(f"{target.column} cannot be {called(value)}: {last_line(exc)}") from exc


def _document(value: Any) -> Any:  # Any: JSON
    return value if isinstance(value, Json | Jsonb) else Jsonb(value)


def _documents(value: Any) -> Any:  # Any: JSON, in a list for each dimension
    if isinstance(value, list):
        return [_documents(one) for one in value]
    return None if value is None else _document(value)
