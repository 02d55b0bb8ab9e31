"""Runs: made, found, and moved from state to state, one allowed edge at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import errors
from psycopg.types.json import Jsonb

from backfilld.migrations.errors import UsageError
from backfilld.migrations.queries import queries
from backfilld.migrations.record import audit
from backfilld.migrations.record.model import Awaited, Rollback, Run, run_settings
from backfilld.migrations.record.states import Phase, State, StopReason, Wish, allowed, why_stop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.file.run_settings import RunSettings
    from backfilld.migrations.postgres.connect import Connection, Row

_SQL = queries(__package__, "runs")

#: As many runs are shown to people.
LISTED = 200

#: Who acts when no person does.
WORKER = "worker"


@dataclass(frozen=True, kw_only=True)
class LockedRun:
    """A run whose row this transaction holds."""

    run: int
    name: str
    state: State
    phase: Phase
    wish: Wish | None
    settings: RunSettings
    approved: frozenset[Phase]
    pass_: int
    rollback: Rollback

    @property
    def why_stop(self) -> StopReason | None:
        """Why the run's steps must stop now, for a reason of its own: the stop of all runs is none."""
        return why_stop(self.state, rollback_pending=self.rollback.pending, all_stopped=False)


class ChangedMeanwhile(Exception):
    """The run's state was changed meanwhile; the step is rolled back and reads it again."""


def insert(
    connection: Connection, migration: Migration, facts: tuple[Facts, ...], *, actor: str, known: int = 0
) -> int:
    """A new run with its coordinator; returns its id. Without facts it is examined when it begins.

    `known` is the newest run of the name that the caller has seen. Raises UsageError when the name is in use, or has a newer run.
    """
    try:
        with connection.transaction():
            row = connection.execute(
                _SQL["insert_run"],
                {
                    "name": migration.name,
                    "checksum": migration.checksum,
                    "definition": Jsonb(migration.canonical()),
                    "settings": Jsonb(migration.settings.model_dump(mode="json")),
                    "facts": Jsonb([fact.to_json() for fact in facts]),
                    "requested_by": actor,
                    "known": known,
                },
            ).fetchone()
            if row is None:
                msg = f"a newer run named {migration.name} already exists"
                raise UsageError(msg)
            run = int(row["run"])
            connection.execute(_SQL["insert_coordinator"], {"run": run})
            more: dict[str, Any] = {"parameters": migration.values} if migration.parameters else {}
            more |= {"after": list(migration.after)} if migration.after else {}
            audit.record(connection, run, actor=actor, what="run.enqueued", checksum=migration.checksum, **more)
    except errors.UniqueViolation as exc:
        msg = f"a run named {migration.name} already exists"
        raise UsageError(msg) from exc
    return run


def set_facts(connection: Connection, run: int, facts: Sequence[Facts], *, warnings: Sequence[str]) -> None:
    """What preflight learned of a run that begins after others, and what a careful person should know."""
    connection.execute(_SQL["set_facts"], {"run": run, "facts": Jsonb([fact.to_json() for fact in facts])})
    more = {"warnings": list(warnings)} if warnings else {}
    audit.record(connection, run, actor=WORKER, what="run.examined", **more)


def awaited(connection: Connection, names: Sequence[str]) -> tuple[Awaited, ...]:
    """Of these migrations, those whose newest run is not verified and usable yet."""
    row = connection.execute(_SQL["awaited"], {"names": Jsonb(list(names))}).fetchone()
    return Awaited.listed(row["awaited"] if row else ())


def get(connection: Connection, run: int) -> Run | None:
    """One run, or None."""
    row = connection.execute(_SQL["run_by_id"], {"run": run}).fetchone()
    return Run.from_row(row) if row else None


def find(connection: Connection, reference: str) -> Run | None:
    """The run of an id, or the newest of a name; a name made of digits is found by name only when no id fits."""
    if reference.isdecimal() and len(reference) < 19 and (run := get(connection, int(reference))):
        return run
    row = connection.execute(_SQL["run_by_name"], {"name": reference}).fetchone()
    return Run.from_row(row) if row else None


def listed(connection: Connection, *, ended: bool = False, most: int | None = LISTED) -> list[Run]:
    """Runs, newest first, as many as `most` (None: all); those that have ended only when asked for."""
    rows = connection.execute(_SQL["runs"], {"ended": ended, "most": most}).fetchall()
    return [Run.from_row(row) for row in rows]


def later(connection: Connection, run: int) -> list[Run]:
    """Runs that were made after one and are not taken back, in their order."""
    return [Run.from_row(row) for row in connection.execute(_SQL["later_runs"], {"run": run}).fetchall()]


def with_something_left(connection: Connection) -> list[Run]:
    """Runs that have not ended, and cancelled ones of which a sync trigger is still there."""
    return [Run.from_row(row) for row in connection.execute(_SQL["with_something_left"]).fetchall()]


@dataclass(frozen=True, kw_only=True)
class MadeNames:
    """By which names the objects are known that runs on record may have made."""

    digests: frozenset[str]
    #: Inactive columns: the table in the notation of migration files, and the column.
    columns: frozenset[tuple[str, str]]


def made_names(connection: Connection) -> MadeNames:
    rows = connection.execute(_SQL["made_names"]).fetchall()
    return MadeNames(
        digests=frozenset(row["digest"] for row in rows),
        columns=frozenset((row["relation"], row[name]) for row in rows for name in ("new_column", "old_column")),
    )


def last_ended(connection: Connection, *, most: int) -> list[Run]:
    """The runs that ended last, the last one first."""
    return [Run.from_row(row) for row in connection.execute(_SQL["last_ended"], {"most": most}).fetchall()]


def lock(connection: Connection, run: int) -> LockedRun | None:
    """Lock a run's row until the transaction ends."""
    row = connection.execute(_SQL["lock_run"], {"run": run}).fetchone()
    if row is None:
        return None
    return LockedRun(
        run=run,
        name=row["name"],
        state=State(row["state"]),
        phase=Phase(row["phase"]),
        wish=Wish(row["wish"]) if row["wish"] else None,
        settings=run_settings(row["settings"]),
        approved=frozenset(Phase(phase) for phase in row["approved"]),
        pass_=row["pass"],
        rollback=Rollback.from_json(row["rollback"]),
    )


def set_state(  # noqa: PLR0913 - one row, one act: each part is named where it is called
    connection: Connection,
    locked: LockedRun,
    state: State,
    *,
    actor: str,
    reason: str,
    wish: Wish | None = None,
    error: Mapping[str, Any] | None = None,  # Any: JSON for people
) -> None:
    """Move a run that this transaction holds to another state, and say so in the audit. Raises UsageError off the table."""
    if not allowed(locked.state, state):
        msg = f"run {locked.name} is {locked.state}, and cannot become {state}"
        raise UsageError(msg)
    connection.execute(
        _SQL["set_state"],
        {"run": locked.run, "state": state, "wish": wish, "error": Jsonb(dict(error)) if error is not None else None},
    )
    # Of a rollback that had stopped: it was asked for before, by somebody else perhaps.
    again = {"again": True} if state is State.ROLLING_BACK and locked.rollback.requested else {}
    audit.record(connection, locked.run, actor=actor, what=f"run.{state}", before=locked.state, reason=reason, **again)


def set_rollback(connection: Connection, run: int, rollback: Rollback) -> None:
    """A rollback is asked for, or begun."""
    connection.execute(_SQL["set_rollback"], {"run": run, "rollback": Jsonb(rollback.to_json())})


def keep_until(connection: Connection, run: int, *, days: float) -> None:
    """Keep the run's old values for so many days from now on."""
    connection.execute(_SQL["keep_until"], {"run": run, "days": days})


def set_phase(connection: Connection, run: int, phase: Phase, *, back: bool = False) -> None:
    """The run enters a phase: to do its work, or, on the way `back`, to take it back."""
    connection.execute(_SQL["set_phase"], {"run": run, "phase": phase})
    audit.record(connection, run, actor=WORKER, what=f"phase.{phase}", **({"direction": "back"} if back else {}))


def set_totals(connection: Connection, run: int, *, rows_total: int) -> None:
    connection.execute(_SQL["set_totals"], {"run": run, "rows_total": rows_total})


def set_space(
    connection: Connection, run: int, *, moment: str, sizes: Mapping[str, int], tables: Mapping[str, int]
) -> None:
    """Write down how large the tables are, `before` the walk or `after` it, all in all and each; in bytes."""
    of_moment = Jsonb({**sizes, "tables": dict(tables)})
    connection.execute(_SQL["set_space"], {"run": run, "moment": moment, "sizes": of_moment})
    audit.record(connection, run, actor=WORKER, what=f"space.{moment}", **sizes)


def set_pass(connection: Connection, run: int, pass_: int, *, reason: str) -> None:
    """Walk the data once more: the run goes back to its backfill phase."""
    connection.execute(_SQL["set_pass"], {"run": run, "pass": pass_})
    audit.record(connection, run, actor=WORKER, what="phase.backfill", **{"pass": pass_, "reason": reason})


def set_residual(connection: Connection, run: int, *, residual: int, verified: bool, own: int = 0) -> None:
    """What a look at all rows found: so many that need work, and so many with a value of the application's own."""
    connection.execute(_SQL["set_residual"], {"run": run, "residual": residual, "verified": verified, "own": own})
    audit.record(
        connection,
        run,
        actor=WORKER,
        what="run.verified" if verified else "run.residual",
        residual_rows=residual,
        **({"own_values": own} if own else {}),
    )


def unverify(connection: Connection, run: int) -> None:
    """What the run has proved does not hold any longer."""
    connection.execute(_SQL["unverify"], {"run": run})


def wake_disturbed(connection: Connection) -> list[int]:
    """Let runs continue that wait for an approval while what they have proved does not hold any longer; returns which."""
    found = [int(row["run"]) for row in connection.execute(_SQL["disturbed"]).fetchall()]
    for run in found:
        locked = lock(connection, run)
        if locked is not None and locked.state is State.WAITING:
            set_state(connection, locked, State.RUNNING, actor=WORKER, reason="what was verified has changed since")
    return found


def withdraw_approval(connection: Connection, run: int, phase: Phase) -> None:
    """A phase that was approved beforehand waits for a person once more."""
    connection.execute(_SQL["withdraw_approval"], {"run": run, "phase": phase})


def approve(connection: Connection, run: int, phase: Phase, *, actor: str) -> None:
    connection.execute(_SQL["approve"], {"run": run, "phase": phase})
    audit.record(connection, run, actor=actor, what="phase.approved", phase=phase)


def tune(
    connection: Connection,
    run: int,
    settings: RunSettings,
    *,
    changes: Mapping[str, tuple[Any, Any]],  # Any: JSON
    actor: str,
) -> None:
    """New settings, of which `changes` names the ones that are new: before and after."""
    connection.execute(_SQL["tune"], {"run": run, "settings": Jsonb(settings.model_dump(mode="json"))})
    audit.record(connection, run, actor=actor, what="run.tuned", **changes)


def progress(connection: Connection, wanted: Sequence[int]) -> dict[int, Row]:
    """The numbers of the walks of these runs, by run: see `progress` in runs.sql."""
    rows = connection.execute(_SQL["progress"], {"runs": list(wanted)}).fetchall()
    return {row["run"]: row for row in rows}


def count_ended(connection: Connection) -> dict[State, int]:
    """How many runs on record have ended, by state."""
    return {State(row["state"]): row["runs"] for row in connection.execute(_SQL["count_ended"]).fetchall()}
