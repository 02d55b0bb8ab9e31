"""What a run is doing, what it waits for, and what would let it continue, in words.

`explain` decides and is pure; `facts` asks the database and does nothing else. A file for each situation: `moving`, `load`, `approval`,
`stopped`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from backfilld.migrations.record.states import State
from backfilld.monitoring.explain import approval, facts, moving, stopped
from backfilld.monitoring.explain.explanation import Explanation, Remedy

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run
    from backfilld.migrations.settings import Limits
    from backfilld.monitoring.explain.explanation import Told
    from backfilld.monitoring.explain.facts import Facts


def read(connection: Connection, run: Run, limits: Limits) -> Explanation:
    """Explain a run as it is now. The connection must not be in a transaction."""
    return explain(facts.read(connection, run, limits))


def explain(known: Facts) -> Explanation:
    """Put the facts into words."""
    run = known.run
    told = [*_by_state(known), *stopped.left_aside(run)]
    return Explanation(
        run=run.run,
        name=run.name,
        cause=run.hold.cause if run.hold is not None else None,
        sentences=tuple(one for one in told if isinstance(one, str)),
        remedies=tuple(dict.fromkeys(one.text for one in told if isinstance(one, Remedy))),
    )


def _by_state(known: Facts) -> Told:
    run = known.run
    match run.state:
        case State.QUEUED | State.RUNNING | State.ROLLING_BACK:
            yield from moving.going(known)
        case State.WAITING:
            yield from approval.awaiting(run)
        case State.PAUSING | State.CANCELLING:
            yield from stopped.stopping(known)
        case State.PAUSED:
            yield from stopped.paused(known)
        case State.FAILED:
            yield from stopped.failed(known)
        case State.CANCELLED | State.ROLLED_BACK | State.COMPLETED:
            yield from stopped.ended(known)
        case _:
            assert_never(run.state)
