"""Verbs for rows that could not be converted: quarantine list, quarantine retry, quarantine export."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from backfilld.producers import answers
from backfilld.producers.cli.options import Json, RunArgument, client

if TYPE_CHECKING:
    from backfilld.migrations.record.model import Quarantined


def quarantine_list(context: typer.Context, run: RunArgument, *, as_json: Json = False) -> None:
    """Show the rows of a run that could not be converted, each with its error.

    Example: backfilld quarantine list jobs-new-field
    """
    from backfilld.monitoring import display  # noqa: PLC0415 - rich, for the verbs that draw
    from backfilld.monitoring.next_command import for_rows_set_aside  # noqa: PLC0415 - comes with it

    asked = client(context, as_json=as_json)
    rows, given_up = asked.quarantine(run), asked.unconverted(run)
    answers.give(
        as_json=as_json,
        value=lambda: {
            "quarantined": [_row(row) for row in rows],
            "unconverted": [
                {"table" if key == "relation" else key: value for key, value in row.to_json().items()}
                for row in given_up
            ],
        },
        text=lambda: display.quarantine(rows, given_up),
    )
    if (rows or given_up) and not as_json:
        now = asked.status(run)
        answers.next_step(for_rows_set_aside(now.name, now.state, of_load=now.load is not None))


def quarantine_retry(context: typer.Context, run: RunArgument, *, as_json: Json = False) -> None:
    """Try all quarantined rows of a run again, and let it continue.

    Example: backfilld quarantine retry jobs-new-field
    """
    answers.answer(client(context, as_json=as_json).retry(run), as_json=as_json)


def quarantine_export(
    context: typer.Context,
    run: RunArgument,
    *,
    format_: Annotated[
        Literal["csv", "ndjson"], typer.Option("--format", help="csv, with the errors; or ndjson, the records alone.")
    ] = "csv",
) -> None:
    """Write the lines of a load that are set aside to stdout, in the shape of its file: fix them, and load them again.

    Example: backfilld quarantine export products --format csv > fix.csv
    """
    for line in client(context, as_json=False).set_aside_lines(run, format_):
        sys.stdout.write(line)


def _row(row: Quarantined) -> dict[str, Any]:  # Any: JSON
    return {
        "operation": row.operation,
        "table": row.relation,
        "key": list(row.key),
        "sqlstate": row.sqlstate,
        "error": row.error,
        "attempts": row.attempts,
        "retry": row.retry,
        "quarantined_at": row.quarantined_at.isoformat(),
    }
