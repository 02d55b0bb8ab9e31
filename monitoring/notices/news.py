"""Which notices are due, derived from the present state of the runs, and recorded once for each channel.

Not from the audit and not from memory: events become visible in another order than they are numbered in, and a process that
starts knows nothing. A run's state and since when it is in it is a name for the piece of news; the unique key of `notices`
makes it one, no matter which worker reads it, and how often.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from backfilld.migrations.application.checked import HOLDING, Kind
from backfilld.migrations.holds import Cause
from backfilld.migrations.identifiers import TARGET
from backfilld.migrations.postgres.connect import apply_settings
from backfilld.migrations.record import notices, pace, runs
from backfilld.migrations.record.notices import Wanted
from backfilld.migrations.record.states import ACTIVE, ENDED, State
from backfilld.monitoring import progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run
    from backfilld.migrations.record.notices import RunSnapshot
    from backfilld.migrations.settings import About, Channel
    from backfilld.monitoring.progress import Progress

#: The longest any of these queries may load the application.
STATEMENT_TIMEOUT = "5s"
#: Older events are no news: a channel that was away for a month starts with the present.
NEWS_SECONDS = 86400.0
#: Between two looks at what is held.
HOLD_LOOK_SECONDS = 10.0
#: A hold that is released for no longer than this is still the same hold.
HOLD_GAP_SECONDS = 60.0
#: A run with a batch committed this recently moves, even if one of its lanes waits.
STILL_SECONDS = 30.0

#: The notice of each state. A pause makes one only where `wish` says that no person asked for it.
_OF_STATE: dict[State, About] = {
    State.WAITING: "approval",
    State.FAILED: "failed",
    State.PAUSED: "paused",
    State.COMPLETED: "completed",
    State.ROLLED_BACK: "rolled_back",
    State.CANCELLED: "cancelled",
}
#: Holds of the whole database: one notice for all runs.
_OF_ALL = frozenset({Cause.STOP, Cause.LOAD, Cause.BLIND})
#: Holds that are intended, or reported otherwise.
_NOT_TOLD = frozenset({Cause.APPROVAL, Cause.AFTER, Cause.WINDOW})
#: Holds with a known beginning. Of the others only the last movement is known, and a scan moves nothing for an hour.
_DATED = _OF_ALL | {Cause.LOCK}


@dataclass(frozen=True, kw_only=True)
class _Ripe:
    """A hold that a channel must report."""

    now: Progress
    since: datetime
    seconds: float


class News:
    """Records which notices are due."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = channels
        self._names = [channel.name for channel in channels]
        #: When holds were last looked at (`time.monotonic`).
        self._looked_at = float("-inf")

    def look(self, connection: Connection) -> None:
        """Record new notices, and drop those that are no longer true. The connection must not be in a transaction."""
        with connection.transaction():
            apply_settings(connection, {"statement_timeout": STATEMENT_TIMEOUT})
            known = notices.channels(connection, self._names)
            snapshots = notices.standings(
                connection,
                news_seconds=NEWS_SECONDS,
                quarantine=any("quarantine" in channel.about for channel in self._channels),
            )
            wanted = [
                one
                for channel in self._channels
                for stand in snapshots
                for one in _wanted(channel, stand, known[channel.name])
            ]
            missing = notices.missing(connection, wanted) if wanted else []
        self._tell(connection, missing)
        if time.monotonic() - self._looked_at >= HOLD_LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._look_at_holds(connection, snapshots, known)
        notices.drop_untrue(connection, self._names, gap_seconds=HOLD_GAP_SECONDS)

    def _tell(self, connection: Connection, missing: Sequence[Wanted]) -> None:
        if not missing:
            return
        named = sorted({one.run for one in missing})
        found = _measured(connection, [run for run in (runs.get(connection, one) for one in named) if run is not None])
        for one in missing:
            # A run that has left its state since is reported, if at all, in its present one.
            if one.run in found:
                run, now = found[one.run]
                if one.about == "quarantine" or run.state_since == one.since:
                    notices.insert(connection, one, _facts(connection, run, now, reminder=_reminder(one)))

    def _look_at_holds(
        self, connection: Connection, snapshots: Sequence[RunSnapshot], known: dict[str, datetime]
    ) -> None:
        listeners = [channel for channel in self._channels if "held" in channel.about]
        active = {
            stand.run: stand
            for stand in snapshots
            if stand.state in ACTIVE and any(channel.wants("held", stand.name) for channel in listeners)
        }
        if not active:
            return
        working = sorted(
            (run for run in runs.listed(connection, most=None) if run.run in active), key=lambda run: run.run
        )
        held = [(run, now) for run, now in _measured(connection, working).values() if _is_told(now)]
        for channel in listeners:
            ripe = []
            for run, now in held:
                if channel.wants("held", run.name):
                    since = max(_began(now, active[run.run].now), known[channel.name])
                    seen = notices.see_hold(
                        connection,
                        channel.name,
                        run.run,
                        since=since,
                        gaps=(HOLD_GAP_SECONDS, max(channel.held_minutes * 60, HOLD_GAP_SECONDS)),
                    )
                    if not seen.told and seen.seconds >= channel.held_minutes * 60:
                        ripe.append((run, _Ripe(now=now, since=seen.since, seconds=seen.seconds)))
            for group in _grouped(ripe):
                self._tell_hold(connection, channel, group)

    def _tell_hold(self, connection: Connection, channel: Channel, group: Sequence[tuple[Run, _Ripe]]) -> None:
        with connection.transaction():
            told = notices.tell_holds(connection, channel.name, [run.run for run, _ in group])
            mine = [(run, ripe) for run, ripe in group if run.run in told]
            if not mine:
                return  # another worker was first
            (run, ripe), others = mine[0], mine[1:]
            wanted = Wanted(channel=channel.name, run=run.run, about="held", since=told[run.run])
            facts = _facts(connection, run, ripe.now)
            facts["hold"] = _hold(connection, ripe) | {"also": [other.name for other, _ in others]}
            notices.insert(connection, wanted, facts)


def _wanted(channel: Channel, stand: RunSnapshot, known_since: datetime) -> Iterable[Wanted]:
    """The notices a channel owes about a run, sent or not."""
    about = _OF_STATE.get(stand.state)
    if about is not None and not (about == "paused" and stand.by_person) and channel.wants(about, stand.name):
        ordinal = 0 if stand.state in ENDED else _reminders(channel, stand, known_since)
        if ordinal or _is_news(stand.state_since, stand.now, known_since):
            yield Wanted(channel=channel.name, run=stand.run, about=about, since=stand.state_since, ordinal=ordinal)
    if (
        stand.quarantined_at is not None
        and channel.wants("quarantine", stand.name)
        and _is_news(stand.quarantined_at, stand.now, known_since)
    ):
        # At the first row, and again at ten, a hundred, …
        size = len(str(stand.quarantined)) - 1
        yield Wanted(channel=channel.name, run=stand.run, about="quarantine", since=stand.created_at, ordinal=size)


def _is_news(moment: datetime, now: datetime, known_since: datetime) -> bool:
    return moment >= known_since and now - moment < timedelta(seconds=NEWS_SECONDS)


def _reminders(channel: Channel, stand: RunSnapshot, known_since: datetime) -> int:
    """How many reminders are due for a run that waits for a person. A new channel learns of old states by these."""
    if channel.remind_hours == 0:
        return 0
    return int((stand.now - max(stand.state_since, known_since)) / timedelta(hours=channel.remind_hours))


def _reminder(wanted: Wanted) -> int:
    return 0 if wanted.about == "quarantine" else wanted.ordinal


def _measured(connection: Connection, found: Sequence[Run]) -> dict[int, tuple[Run, Progress]]:
    """Where these runs are, by run."""
    by_run = {run.run: run for run in found}
    return {now.run: (by_run[now.run], now) for now in progress.read(connection, found)}


def _is_told(now: Progress) -> bool:
    """Whether a run is held by something that is reported."""
    if now.hold is None or now.hold.cause in _NOT_TOLD:
        return False
    return now.hold.cause in _OF_ALL or now.progress_age_seconds >= STILL_SECONDS


def _began(now: Progress, moment: datetime) -> datetime:
    """Since when a run is held, where that is known; otherwise since this look."""
    if now.hold is None or now.hold.cause not in _DATED:
        return moment
    return moment - timedelta(seconds=min(now.hold.seconds, now.state_seconds))


def _grouped(ripe: Sequence[tuple[Run, _Ripe]]) -> list[list[tuple[Run, _Ripe]]]:
    """Holds that share a notice: those of the whole database do."""
    of_all = [one for one in ripe if one[1].now.hold is not None and one[1].now.hold.cause in _OF_ALL]
    return [*([of_all] if of_all else []), *([one] for one in ripe if one not in of_all)]


def _hold(connection: Connection, ripe: _Ripe) -> dict[str, Any]:
    """Cause, beginning and length. Without the words of the reason: they quote statements of others. Any: JSON."""
    cause = ripe.now.hold.cause if ripe.now.hold else Cause.ERROR
    return {
        "cause": str(cause),
        "signal": pace.read(connection).hold_signal if cause is Cause.LOAD else None,
        "since": ripe.since.isoformat(timespec="seconds"),
        "seconds": round(ripe.seconds),
    }


def _facts(connection: Connection, run: Run, now: Progress, *, reminder: int = 0) -> dict[str, Any]:
    """What the wording needs to know of a run: names, numbers and codes, and nothing that a row holds. Any: JSON."""
    return {
        "run": run.run,
        "name": run.name,
        "target": TARGET,
        "database": _database(connection),
        "phase": str(run.phase),
        "state": str(run.state),
        "since": run.state_since.isoformat(timespec="seconds"),
        "at": (run.state_since + timedelta(seconds=now.state_seconds)).isoformat(timespec="seconds"),
        "seconds": round(now.state_seconds),
        "rows_done": now.rows_done,
        "rows_total": now.rows_total,
        "rows_quarantined": now.quarantined,
        "verified": now.verified,
        "problem": _problem(now),
        "application": _of_application(now),
        "reminder": reminder,
    }


def _problem(now: Progress) -> dict[str, Any] | None:
    """Codes and the table of the first error on record: its text may quote a row. Any: JSON."""
    if not now.errors or now.state in ENDED:
        return None
    first = now.errors[0]
    return {key: first.get(key) for key in ("class", "sqlstate", "relation")}


def _of_application(now: Progress) -> dict[str, int]:
    """How many findings of the newest check of the application hold contract, by kind: their texts may quote a row."""
    counts = now.application["counts"] if now.application is not None else {}
    return {str(kind): counts[kind] for kind in Kind if kind in HOLDING and kind in counts}


def _database(connection: Connection) -> str:
    """Which database, as its URL says, without user and password."""
    host = connection.info.host
    return f"{'localhost' if host.startswith('/') or not host else host}/{connection.info.dbname}"
