"""The stage of a load: a table that holds the lines of its source, each as the texts of its fields.

Texts, so that COPY takes every line that has the right number of fields: which values are none is found out afterwards, all at once and
with PostgreSQL's own words. A chunk of the file, the offset behind it and the digest of all before it are one transaction: whoever
comes next goes on from there. Lines keep their numbers whatever is rolled back, because each COPY is told where to begin.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from backfilld.migrations.errors import Finding
from backfilld.migrations.errors import Refused as RefusedByUs
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.loading.reader import Changed, Unreadable
from backfilld.migrations.loading.records import BAD_RECORD, Record, Refused
from backfilld.migrations.loading.source import BLOCK_BYTES, Head, format_of, opened, unreadable
from backfilld.migrations.postgres.sqlstates import classify, in_words
from backfilld.migrations.queries import queries, templates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backfilld.migrations.file.operations import Source
    from backfilld.migrations.loading.reader import Reader
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.source_settings import SourceSettings

_SQL = queries(__package__, "loads")
_TEMPLATES = templates(__package__, "stage")

#: What COPY says of where it was: the number of the record, whatever the language of the server's messages.
_AT_RECORD = re.compile(r"COPY [^,]+, \D*(\d+)")
#: How long a chunk waits for another session that stages the same source.
_LOCK_TIMEOUT = "30s"


@dataclass(frozen=True, kw_only=True)
class Staging:
    """How far the source of a load is staged."""

    run: int
    operation: int
    stage: str
    source: str
    fields: tuple[str, ...]
    #: None before the first chunk.
    bytes_total: int | None
    bytes_read: int
    read_offset: int
    digest: str
    lines: int
    #: Why a worker cannot read it now.
    problem: str
    is_done: bool

    @property
    def table(self) -> TableName:
        return TableName("backfilld", self.stage)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Staging:  # Any: what psycopg reads
        names = (
            "run",
            "operation",
            "stage",
            "source",
            "bytes_total",
            "bytes_read",
            "read_offset",
            "digest",
            "lines",
            "problem",
        )
        return cls(
            **{name: row[name] for name in names}, fields=tuple(row["fields"]), is_done=row["staged_at"] is not None
        )


def columns_of(source: Source, fields: Sequence[str]) -> tuple[str, ...]:
    """The columns of the stage of a source."""
    if source.format == "ndjson":
        return ("~record",)
    return tuple(f"~f_{number}" for number, _ in enumerate(fields))


def read(connection: Connection, run: int, operation: int) -> Staging | None:
    row = connection.execute(_SQL["load"], {"run": run, "operation": operation}).fetchone()
    return Staging.from_row(row) if row else None


def head_on_record(connection: Connection, name: str, operation: int) -> Head | None:
    """What is on record of the source of a run of that name, for who cannot read it."""
    row = connection.execute("SELECT pg_catalog.to_regclass('backfilld.loads') IS NOT NULL AS there").fetchone()
    if not (row and row["there"]):
        return None
    found = connection.execute(_SQL["fields_on_record"], {"name": name, "operation": operation}).fetchone()
    if found is None:
        return None
    return Head(fields=tuple(found["fields"]), begin=0, bytes_total=found["bytes_total"] or 0, lines=found["lines"])


def make(  # noqa: PLR0913 - one table; each part is named where it is called
    connection: Connection, run: int, operation: int, source: Source, *, table: TableName, fields: Sequence[str]
) -> None:
    """Make the stage of a new run, in place of what a cancelled one of the same name has left."""
    columns = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in columns_of(source, fields))
    name = table.identifier
    connection.execute(_TEMPLATES["drop"].format(stage=name))
    connection.execute(_TEMPLATES["make"].format(stage=name, columns=columns))
    connection.execute(_TEMPLATES["hide"].format(stage=sql.Literal(name.as_string())))
    connection.execute(
        _SQL["insert_load"],
        {
            "run": run,
            "operation": operation,
            "stage": table.name,
            "source": source.name,
            "fields": list(fields),
        },
    )


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """How many lines of a run are set aside."""

    lines: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line that is set aside."""

    operation: int
    line: int
    sqlstate: str
    error: str


def set_aside(connection: Connection, run: int) -> SetAside:
    row = connection.execute(_SQL["count_set_aside"], {"run": run}).fetchone()
    return SetAside(lines=int(row["lines"]) if row else 0)


def some_set_aside(connection: Connection, run: int, *, limit: int = 20) -> list[Line]:
    """Some lines that are set aside, of each kind of error."""
    rows = connection.execute(_SQL["some_set_aside"], {"run": run, "limit": limit}).fetchall()
    return [Line(**row) for row in rows]


def next_retry(connection: Connection, run: int, *, operation: int) -> int | None:
    """The next line that is to be tried again."""
    row = connection.execute(_SQL["next_retry"], {"run": run, "operation": operation}).fetchone()
    return int(row["line"]) if row else None


def mark_for_retry(connection: Connection, run: int) -> set[int]:
    """The lines of a run that COPY could read are to be tried again; returns the operations they belong to."""
    return {row["operation"] for row in connection.execute(_SQL["mark_for_retry"], {"run": run}).fetchall()}


def release(connection: Connection, run: int, operation: int, line: int) -> None:
    """A line was loaded after all."""
    connection.execute(_SQL["release"], {"run": run, "operation": operation, "line": line})


def set_aside_again(  # noqa: PLR0913 - one row; each column is named where it is called
    connection: Connection, run: int, operation: int, line: int, *, sqlstate: str, error: str
) -> None:
    """A line that was tried again cannot be loaded still; without an error, for the reason it had."""
    connection.execute(
        _SQL["set_aside_again"],
        {"run": run, "operation": operation, "line": line, "sqlstate": sqlstate, "error": error},
    )


def has_triggers(connection: Connection, table: TableName) -> bool:
    """Whether users' triggers fire by now for rows that are inserted into a table or updated."""
    row = connection.execute(_SQL["has_triggers"], {"table": table.identifier.as_string()}).fetchone()
    return bool(row and row["fires"])


def found(connection: Connection, run: int, operation: int) -> tuple[int, int]:
    """Of the lines that the check compared with their rows: how many differ or have none, and how many do not."""
    row = connection.execute(_SQL["found"], {"run": run, "operation": operation}).fetchone()
    return (int(row["differ"]), int(row["same"])) if row else (0, 0)


def begin_lanes(connection: Connection, run: int) -> None:
    """The lanes of a run's loads begin: what is written from now on is younger than this transaction."""
    connection.execute(_SQL["begin_lanes"], {"run": run})


def pages_of(connection: Connection, table: TableName) -> int:
    """How many pages a stage has."""
    row = connection.execute(_SQL["pages_of"], {"stage": table.identifier.as_string()}).fetchone()
    return int(row["pages"]) if row and row["pages"] is not None else 0


def drop(table: TableName) -> sql.Composed:
    """The statement that takes a stage away."""
    return _TEMPLATES["drop"].format(stage=table.identifier)


def stream(  # noqa: PLR0913 - each is named where it is called
    connection: Connection,
    staging: Staging,
    source: Source,
    *,
    most_refused: int,
    places: Sequence[SourceSettings] = (),
    check: Callable[[Head], None] = lambda _: None,
    tell: Callable[[Staging], None] = lambda _: None,
) -> Staging:
    """Send a source into its stage, from where that was left off: a file on this machine, or an object in one of the `places`.

    `check` is called with its head, `tell` after each chunk. Raises Refused where the source cannot be read, is another than the one that
    was begun with, or has more than `most_refused` lines that COPY cannot read; what was staged before stays.
    """
    while not staging.is_done:
        version = staging.digest if source.s3 is not None and staging.read_offset else ""
        try:
            with opened(source, places, version=version) as (head, reader):
                check(head)
                _require_same(source, staging, head)
                return _Stream(connection, staging, source, head, reader, most_refused=most_refused, tell=tell).run()
        except Changed as exc:
            raise changed(source) from exc
        except Unreadable as exc:
            raise unreadable(source, exc) from exc
        except _Overtaken:
            if source.database is not None:
                raise unreadable(source, Unreadable("another worker has begun to read it anew")) from None
            staging = read(connection, staging.run, staging.operation) or staging
    return staging


def begin_anew(connection: Connection, staging: Staging) -> Staging:
    """Forget what is staged of a source that cannot be read on from there."""
    with connection.transaction():
        connection.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", [_LOCK_TIMEOUT])
        parameters = {"run": staging.run, "operation": staging.operation}
        connection.execute(_SQL["lock_load"], parameters)
        connection.execute(_TEMPLATES["empty"].format(stage=staging.table.identifier))
        connection.execute(_SQL["forget_lines"], parameters)
        connection.execute(_SQL["begin_anew"], parameters)
    return read(connection, staging.run, staging.operation) or staging


def fill(connection: Connection, staging: Staging, source: Source) -> None:
    """Fill the stage of a load with what its query gives, in the transaction of the caller. As long as the query takes."""
    names = columns_of(source, staging.fields)
    connection.execute("SELECT pg_catalog.set_config('statement_timeout', '0', true)")
    cursor = connection.execute(
        _TEMPLATES["fill"].format(
            stage=staging.table.identifier,
            columns=sql.SQL(", ").join(map(sql.Identifier, names)),
            values=sql.SQL(", ").join(sql.SQL("q.{}::text").format(sql.Identifier(name)) for name in staging.fields),
            query=sql.SQL(f"\n{source.query}\n"),  # checked by preflight
        )
    )
    connection.execute(
        _SQL["advance"],
        {
            "run": staging.run,
            "operation": staging.operation,
            "bytes_total": None,
            "bytes_read": 0,
            "read_offset": 0,
            "digest": "",
            "lines": cursor.rowcount,
            "at_end": True,
        },
    )


def changed(source: Source) -> RefusedByUs:
    """The file is another one than before."""
    return RefusedByUs(
        [
            Finding(
                "source",
                f"{source.name} is not the file any more of which a part is staged: its size or its contents have changed",
                "Put the file back as it was and enqueue the migration again; or cancel the run, and load the new file under another name",
            )
        ]
    )


def has_changed(refused: RefusedByUs) -> bool:
    """Whether a source was refused for being another one."""
    return isinstance(refused.__cause__, Changed)


def _require_same(source: Source, staging: Staging, head: Head) -> None:
    if source.database is None and staging.bytes_total is not None and staging.bytes_total != head.bytes_total:
        raise changed(source)
    if staging.fields != head.fields:
        if staging.bytes_total is not None:
            raise changed(source)
        raise RefusedByUs(
            [
                Finding(
                    "source",
                    f"the fields of {source.name} are {', '.join(head.fields)}; when the migration was enqueued they were "
                    f"{', '.join(staging.fields)}",
                    "Cancel the run and enqueue the migration again",
                )
            ]
        )


class _Overtaken(Exception):
    """Another session has staged a chunk of the same source meanwhile."""


class _Stream:
    """One pass over a file, chunk by chunk."""

    def __init__(  # noqa: PLR0913 - what it works with, each by its name
        self,
        connection: Connection,
        staging: Staging,
        source: Source,
        head: Head,
        reader: Reader,
        *,
        most_refused: int,
        tell: Callable[[Staging], None],
    ) -> None:
        self._connection = connection
        self._staging = staging
        self._source = source
        self._head = head
        self._reader = reader
        self._most_refused = most_refused
        self._tell = tell
        self._format = format_of(source)
        self._copy = _copy_statement(source, staging)

    def run(self) -> Staging:
        reader, begin = self._reader, self._staging.read_offset or self._head.begin
        if reader.pass_over(begin) != self._staging.digest and self._staging.read_offset:
            raise changed(self._source)
        buffer = b""
        while not self._staging.is_done:
            buffer += reader.read(BLOCK_BYTES)
            taken = self._stage(buffer, at_end=reader.at_end)
            if taken or reader.at_end:
                buffer = buffer[taken:]
                self._tell(self._staging)
        return self._staging

    def _stage(self, content: bytes, *, at_end: bool) -> int:
        """Stage the whole records of what was read, with the offset behind them; returns how many bytes they take."""
        end = self._format.end_of_last(content)
        chunk = content[:end]
        careful = not end or self._format.is_suspicious(chunk) or (at_end and end < len(content))
        with self._connection.transaction():
            self._connection.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", [_LOCK_TIMEOUT])
            now = self._lock()
            if (now.read_offset, now.digest) != (self._staging.read_offset, self._staging.digest) or now.is_done:
                raise _Overtaken
            line = now.lines + 1 + self._head.header_lines
            lines = None if careful else self._try_copy(chunk, line)
            if lines is None:
                records, end = self._format.cut(content, at_end=at_end)
                lines = self._copy_carefully(records, line)
            self._require_few_refused()
            if end or at_end:
                self._reader.take(content[:end])
            self._advance(lines=lines, at_end=at_end)
        found = read(self._connection, now.run, now.operation)
        self._staging = found or now
        return end

    def _lock(self) -> Staging:
        parameters = {"run": self._staging.run, "operation": self._staging.operation}
        row = self._connection.execute(_SQL["lock_load"], parameters).fetchone()
        if row is None:
            msg = f"run {self._staging.run} is gone"
            raise LookupError(msg)
        return Staging.from_row(row)

    def _advance(self, *, lines: int, at_end: bool) -> None:
        self._connection.execute(
            _SQL["advance"],
            {
                "run": self._staging.run,
                "operation": self._staging.operation,
                "bytes_total": self._reader.bytes_total,
                "bytes_read": self._reader.bytes_total if at_end else self._reader.position,
                "read_offset": self._reader.offset,
                "digest": self._reader.digest,
                "lines": lines,
                "at_end": at_end,
            },
        )

    def _require_few_refused(self) -> None:
        row = self._connection.execute(_SQL["count_set_aside"], {"run": self._staging.run}).fetchone()
        if row and row["lines"] > self._most_refused:
            raise RefusedByUs(
                [
                    Finding(
                        "source",
                        f"more than {self._most_refused} lines of {self._source.name} cannot be read; the latest is line {row['latest']}: "
                        f"{self._latest_error(row['latest'])}",
                        "See what is wrong with the file; to set more lines aside: settings: {max_quarantined: …}, or backfilld pace "
                        "RUN --max-quarantined, and enqueue the migration again",
                    )
                ]
            )

    def _latest_error(self, line: int) -> str:
        row = self._connection.execute(_SQL["error_of"], {"run": self._staging.run, "line": line}).fetchone()
        return str(row["error"]) if row else ""

    def _try_copy(self, content: bytes, line: int) -> int | None:
        """COPY records that follow one another; returns how many, or None where one of them cannot be read."""
        try:
            return self._copy_all(content, line)
        except psycopg.Error as exc:
            if classify(exc) != "data":
                raise
            return None

    def _copy_all(self, content: bytes, line: int) -> int:
        if not content:
            return 0
        connection = self._connection
        with connection.transaction(), connection.cursor() as cursor:
            stage = self._staging.table.identifier.as_string()
            cursor.execute(_SQL["next_line"], {"stage": stage, "line": line})
            with cursor.copy(self._copy) as copy:
                copy.write(content)
            return cursor.rowcount

    def _copy_carefully(self, records: Sequence[Record], line: int) -> int:
        """COPY the records that can be read, and set the others aside; returns how many there are, but for blank lines."""
        numbered = [(line + number, one) for number, one in enumerate(filter(self._counts, records))]
        left = [(number, one) for number, one in numbered if one.refused is None]
        for number, one in numbered:
            if one.refused is not None:
                self._refuse(number, one, one.refused)
        for run_of in _consecutive(left):
            self._copy_run(run_of)
        return len(numbered)

    def _counts(self, record: Record) -> bool:
        return not (record.is_blank and self._format.skips_blank)

    def _copy_run(self, records: Sequence[tuple[int, Record]]) -> None:
        """COPY records that follow one another; where one cannot be read, those before it, then it by itself, then the others."""
        while records:
            try:
                self._copy_all(b"".join(one.content for _, one in records), records[0][0])
            except psycopg.Error as exc:
                if classify(exc) != "data":
                    raise
                failure = exc
            else:
                return
            if len(records) == 1:
                number, one = records[0]
                self._refuse(number, one, Refused(sqlstate=failure.sqlstate or BAD_RECORD, error=in_words(failure)))
                return
            found = _AT_RECORD.search(failure.diag.context or "")
            bad = int(found[1]) - 1 if found else -1
            if not 0 <= bad < len(records):
                bad = len(records) // 2
                self._copy_run(records[:bad])
                records = records[bad:]
                continue
            self._copy_run(records[:bad])
            self._copy_run(records[bad : bad + 1])
            records = records[bad + 1 :]

    def _refuse(self, line: int, record: Record, refused: Refused) -> None:
        self._connection.execute(
            _SQL["refuse_line"],
            {
                "run": self._staging.run,
                "operation": self._staging.operation,
                "line": line,
                "byte_offset": self._reader.place_of(record.start),
                "record": record.content,
                "sqlstate": refused.sqlstate,
                "error": refused.error,
            },
        )


def _consecutive(records: Sequence[tuple[int, Record]]) -> list[list[tuple[int, Record]]]:
    """Runs of records whose numbers follow one another."""
    found: list[list[tuple[int, Record]]] = []
    for number, one in records:
        if found and found[-1][-1][0] == number - 1:
            found[-1].append((number, one))
        else:
            found.append([(number, one)])
    return found


def _copy_statement(source: Source, staging: Staging) -> sql.Composed:
    columns = columns_of(source, staging.fields)
    return _TEMPLATES["copy_json" if source.format == "ndjson" else "copy"].format(
        stage=staging.table.identifier,
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        delimiter=sql.Literal(format_of(source).delimiter or ""),
        null=sql.Literal(source.null if source.format == "csv" and source.query is None else ""),
    )
