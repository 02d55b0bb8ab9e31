"""What a run has on record of the application: its statements, how often they came since the switch, their plans, and the checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "application")

#: The event of a check. Its detail is what `Checked.to_json` writes.
CHECKED = "application.checked"
#: The event of a person who lets contract begin in spite of what was found.
ACCEPTED = "application.accepted"


@dataclass(frozen=True, kw_only=True)
class Came:
    """A statement that came since the switch."""

    statement: str
    source: str
    #: What PostgreSQL made of the text right before the switch; None where it was not there then.
    identifier: int | None
    roles: tuple[str, ...]
    #: How often since then, and how long ago a look last found that it had come.
    calls: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PlannedBefore:
    """A statement whose plan was put down before the run began. Any: JSON, of one plan for each moment."""

    statement: str
    source: str
    roles: tuple[str, ...]
    calls: int | None
    plans: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class LastCheck:
    """The newest check of a moment. Any: the detail of its event; None where there was none."""

    detail: Mapping[str, Any] | None
    seconds: float | None
    #: A person lets contract begin in spite of what was found.
    accepted: bool


def put_statements(
    connection: Connection,
    run: int,
    statements: Sequence[tuple[str, str, int | None, tuple[str, ...], int | None]],
    *,
    first: bool = False,
) -> None:
    """Put down what a look found: text, source, queryid, roles and calls of each statement."""
    connection.execute(
        _SQL["put_statements"],
        {
            "run": run,
            "first": first,
            "statements": [one[0] for one in statements],
            "sources": [one[1] for one in statements],
            "queryids": [one[2] for one in statements],
            "roles": ["\n".join(one[3]) for one in statements],
            "calls": [one[4] for one in statements],
        },
    )


def came(connection: Connection, run: int, *, seconds: float) -> list[Came]:
    """The statements that came since the switch and within this time."""
    rows = connection.execute(_SQL["came"], {"run": run, "seconds": seconds}).fetchall()
    return [
        Came(
            statement=row["statement"],
            source=row["source"],
            identifier=row["identifier"],
            roles=tuple(row["roles"]),
            calls=row["calls_since"],
            seconds=row["seconds"],
        )
        for row in rows
    ]


def put_plan(connection: Connection, run: int, statement: str, *, moment: str, plan: Mapping[str, Any]) -> None:
    """Put down how a statement is planned. Any: JSON."""
    connection.execute(
        _SQL["put_plan"], {"run": run, "statement": statement, "moment": moment, "plan": Jsonb(dict(plan))}
    )


def put_identifiers(connection: Connection, run: int, identifiers: Mapping[str, int]) -> None:
    """Put down what PostgreSQL makes of each text."""
    several = {"statements": list(identifiers), "identifiers": list(identifiers.values())}
    connection.execute(_SQL["put_identifiers"], {"run": run, **several})


def planned_before(connection: Connection, run: int) -> list[PlannedBefore]:
    rows = connection.execute(_SQL["planned_before"], {"run": run}).fetchall()
    return [PlannedBefore(**{**row, "roles": tuple(row["roles"])}) for row in rows]


def watched_runs(connection: Connection) -> list[int]:
    """Runs whose statements are looked at now and then, until their contract."""
    return [row["run"] for row in connection.execute(_SQL["watched_runs"]).fetchall()]


def last_checks(connection: Connection, runs: Sequence[int]) -> dict[int, Mapping[str, Any]]:
    """The newest check of each run, with `at`, when it was. Any: the detail of its event."""
    rows = connection.execute(_SQL["last_checks"], {"runs": list(runs)}).fetchall()
    return {row["run"]: {**row["detail"], "at": row["at"].isoformat()} for row in rows}


def last_check(connection: Connection, run: int, *, moment: str) -> LastCheck:
    row = connection.execute(_SQL["last_check"], {"run": run, "moment": moment}).fetchone()
    if row is None:
        return LastCheck(detail=None, seconds=None, accepted=False)
    return LastCheck(**row)


def one_look_at_a_time(connection: Connection, run: int) -> None:
    """Wait until no other session looks at the statements of a run, for as long as this transaction lasts: of two looks that were put
    down in the other order, the older count would be taken for one that was begun anew.
    """
    connection.execute(_SQL["lock_looks"], {"run": run})


def forget_ended(connection: Connection) -> int:
    """Remove the statements of runs that have ended; returns how many that was."""
    return connection.execute(_SQL["forget_statements"]).rowcount
