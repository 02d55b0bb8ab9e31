"""How fast a database and a run on it may be worked at this moment, and why: what `backfilld pace` shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from backfilld.migrations import holds
from backfilld.migrations.record import pace as pace_store
from backfilld.monitoring import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.run_settings import RunSettings
    from backfilld.migrations.holds import Hold
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Changed, Pace, Run
    from backfilld.migrations.settings import Limit, Limits
    from backfilld.monitoring.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A load signal as last read, beside its limits: those of the governor, or else those in the settings of this process."""

    name: str
    #: None: it could not be read, which holds all work.
    value: float | None
    soft: float | None
    hard: float | None
    #: What the value is of, or why there is none.
    detail: str = ""

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            "signal": self.name,
            "value": self.value,
            "soft": self.soft,
            "hard": self.hard,
            "detail": self.detail,
        }


@dataclass(frozen=True, kw_only=True)
class PaceReport:
    """The pace of a database, and of one run on it where one was named."""

    width: int
    max_width: int
    #: What holds the run; without a run, what holds them all.
    hold_reason: str | None
    signals: tuple[Signal, ...]
    changed: tuple[Changed, ...] = ()
    run: Progress | None = None
    settings: RunSettings | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of a run's status where there is one, and those of the pace. Any: JSON."""
        told = self.run.to_json() if self.run else {}
        if self.settings:
            told["settings"] = self.settings.model_dump(mode="json")
        return told | {
            "width": self.width,
            "max_width": self.max_width,
            "hold_reason": self.hold_reason,
            "readings": [signal.to_json() for signal in self.signals],
            "changed": {one.name: {"before": one.before, "after": one.after} for one in self.changed},
        }


def read(connection: Connection, limits: Limits, run: Run | None, *, changed: Sequence[Changed] = ()) -> PaceReport:
    """The pace at this moment. The connection must not be in a transaction."""
    now = pace_store.read(connection)
    told = progress.read(connection, [run])[0] if run else None
    return PaceReport(
        width=now.width,
        max_width=now.max_width,
        hold_reason=told.hold_reason
        if told
        else _reason(holds.of_all(now, pace_store.read_stop(connection), now=datetime.now(UTC))),
        signals=signals(now, limits),
        changed=tuple(changed),
        run=told,
        settings=run.settings if run else None,
    )


def _reason(hold: Hold | None) -> str | None:
    return hold.reason if hold else None


def signals(now: Pace, limits: Limits) -> tuple[Signal, ...]:
    """The readings as the governor wrote them, each with its limits and a detail; the most important first.

    That is the order of the limits in the settings, and then the operator's own: JSON on record has no order.
    """
    order = {name: place for place, name in enumerate(type(limits).model_fields)}
    names = sorted(now.readings, key=lambda name: (order.get(name, len(order)), name))
    return tuple(_signal(name, now.readings[name], getattr(limits, name, None)) for name in names)


def _signal(name: str, read: object, limit: Limit | None) -> Signal:
    """A reading: with its limits, or a value alone."""
    known: dict[str, Any] = {"soft": limit.soft, "hard": limit.hard} if limit else {}  # Any: JSON
    told = {**known, **read} if isinstance(read, dict) else {**known, "value": read}
    return Signal(
        name=name,
        value=told.get("value"),
        soft=told.get("soft"),
        hard=told.get("hard"),
        detail=told.get("detail") or "",
    )
