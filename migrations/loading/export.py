"""Lines that are set aside, as a file in the shape of their source: to be fixed, and loaded again.

Beside the fields of the source a line has columns of ours, which a load without `columns` leaves out. A record that could not be read at
all has no fields; it stands in one of those columns, as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.postgres.connect import Connection, Row

_SQL = queries(__package__, "loads")

#: What is told of a line beside its fields.
COLUMNS = ("backfilld_line", "backfilld_sqlstate", "backfilld_error", "backfilld_record")
#: So many lines are read at once.
_AT_ONCE = 1000


def as_csv(connection: Connection, run: int, *, delimiter: str = ",") -> Iterator[str]:
    """The lines of a run that are set aside, as lines of CSV, a header first; none where the run has none."""
    loads = connection.execute(_SQL["loads_of"], {"run": run}).fetchall()
    for load in loads:
        fields: list[str] = load["fields"]
        is_json = load["is_json"]
        names = ["backfilld_fields"] if is_json else fields
        rows = _rows(connection, run, load["operation"])
        for number, row in enumerate(rows):
            if number == 0:
                yield _line([*names, *COLUMNS], delimiter)
            record = bytes(row["record"]).decode(errors="backslashreplace").rstrip("\r\n") if row["record"] else None
            values = row["fields"] or [None] * len(names)
            yield _line([*values, str(row["line"]), row["sqlstate"], row["error"], record], delimiter)


def as_json_lines(connection: Connection, run: int) -> Iterator[str]:
    """The lines of a run that are set aside, as they were, a record a line."""
    for load in connection.execute(_SQL["loads_of"], {"run": run}).fetchall():
        for row in _rows(connection, run, load["operation"]):
            if row["record"]:
                yield bytes(row["record"]).decode(errors="backslashreplace").rstrip("\r\n") + "\n"
            elif row["fields"]:
                yield row["fields"][0] + "\n"


def _rows(connection: Connection, run: int, operation: int) -> Iterator[Row]:
    after = -1
    while True:
        parameters = {"run": run, "operation": operation, "after": after, "limit": _AT_ONCE}
        found = connection.execute(_SQL["set_aside_of"], parameters).fetchall()
        yield from found
        if len(found) < _AT_ONCE:
            return
        after = found[-1]["line"]


def _line(values: Sequence[str | None], delimiter: str) -> str:
    """A line as COPY reads it: NULL is empty, and an empty text is quoted."""
    return delimiter.join(_field(value, delimiter) for value in values) + "\n"


def _field(value: str | None, delimiter: str) -> str:
    if value is None:
        return ""
    if not value or any(one in value for one in ('"', "\n", "\r", delimiter)) or value == "\\.":
        return '"' + value.replace('"', '""') + '"'
    return value
