"""What the application's API answered at the moments of a run. The bodies are people's data, and go when the run has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "answers")


def put(connection: Connection, run: int, probe: str, *, moment: str, answer: Mapping[str, Any]) -> None:
    """Put down what a probe got. Any: JSON."""
    connection.execute(
        _SQL["put_answer"], {"run": run, "probe": probe, "moment": moment, "answer": Jsonb(dict(answer))}
    )


def at(connection: Connection, run: int, *, moment: str) -> dict[str, Mapping[str, Any]]:
    """What each probe got at a moment, by its name. Any: JSON."""
    rows = connection.execute(_SQL["answers_at"], {"run": run, "moment": moment}).fetchall()
    return {row["probe"]: row["answer"] for row in rows}


def forget_ended(connection: Connection) -> int:
    """Remove the answers of runs that have ended; returns how many that was."""
    return connection.execute(_SQL["forget_answers"]).rowcount
