"""Notices: messages to people, created once for each channel, claimed by the worker that sends them, and settled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from backfilld.migrations.queries import queries
from backfilld.migrations.record.states import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from backfilld.migrations.postgres.connect import Connection, Row

_SQL = queries(__package__, "notices")


@dataclass(frozen=True, kw_only=True)
class RunSnapshot:
    """What a notice may have to say about a run."""

    run: int
    name: str
    state: State
    state_since: datetime
    created_at: datetime
    #: It stopped because a person said so.
    by_person: bool
    quarantined: int
    #: When the latest of them was quarantined.
    quarantined_at: datetime | None
    #: By the database's clock.
    now: datetime

    @classmethod
    def from_row(cls, row: Row) -> RunSnapshot:
        return cls(**{**row, "state": State(row["state"])})


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Something that a channel is to tell. Its fields are what makes it the same thing."""

    channel: str
    run: int
    about: str
    since: datetime
    #: The number of the reminder, or the size of what is told in powers of ten; 0 for plain news.
    ordinal: int = 0


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A notice that was claimed to be sent. Any: its facts are JSON, for `backfilld.monitoring.notices.wording`."""

    notice: int
    #: The same at each try.
    delivery: str
    channel: str
    run: int
    about: str
    facts: Mapping[str, Any]
    #: This try included.
    attempts: int
    last_error: str | None

    @classmethod
    def from_row(cls, row: Row) -> Notice:
        return cls(**{**row, "delivery": str(row["delivery"])})


@dataclass(frozen=True, kw_only=True)
class SeenHold:
    """A run that is held, as a channel has seen it."""

    since: datetime
    told: bool
    seconds: float


def channels(connection: Connection, names: Sequence[str]) -> dict[str, datetime]:
    """Since when each channel is known; one that was not is from now on."""
    known = _channels(connection, names)
    if len(known) < len(set(names)):
        connection.execute(_SQL["know_channels"], {"channels": list(names)})
        known = _channels(connection, names)
    return known


def _channels(connection: Connection, names: Sequence[str]) -> dict[str, datetime]:
    rows = connection.execute(_SQL["channels"], {"channels": list(names)}).fetchall()
    return {row["channel"]: row["since"] for row in rows}


def standings(connection: Connection, *, news_seconds: float, quarantine: bool) -> list[RunSnapshot]:
    """Runs that have not ended, or ended within `news_seconds`; with `quarantine`, their quarantined rows are counted."""
    rows = connection.execute(_SQL["standings"], {"news_seconds": news_seconds, "quarantine": quarantine}).fetchall()
    return [RunSnapshot.from_row(row) for row in rows]


def missing(connection: Connection, wanted: Sequence[Wanted]) -> list[Wanted]:
    """Those that have not been made yet."""
    rows = connection.execute(
        _SQL["missing_notices"],
        {
            "channels": [one.channel for one in wanted],
            "runs": [one.run for one in wanted],
            "abouts": [one.about for one in wanted],
            "sinces": [one.since for one in wanted],
            "ordinals": [one.ordinal for one in wanted],
        },
    ).fetchall()
    return [wanted[row["place"]] for row in rows]


def insert(connection: Connection, wanted: Wanted, facts: Mapping[str, Any]) -> None:
    """Make a notice, unless it has been made. Any: JSON."""
    connection.execute(_SQL["insert_notice"], {**vars(wanted), "facts": Jsonb(dict(facts))})


def see_hold(connection: Connection, channel: str, run: int, *, since: datetime, gaps: tuple[float, float]) -> SeenHold:
    """A run is on hold now. A hold that resumes within `gaps` (unreported, reported) seconds counts as the same hold."""
    gap_seconds, told_gap_seconds = gaps
    row = connection.execute(
        _SQL["see_hold"],
        {
            "channel": channel,
            "run": run,
            "since": since,
            "gap_seconds": gap_seconds,
            "told_gap_seconds": told_gap_seconds,
        },
    ).fetchone()
    if row is None:
        msg = "a hold that was seen is not there"
        raise LookupError(msg)
    return SeenHold(**row)


def tell_holds(connection: Connection, channel: str, runs: Sequence[int]) -> dict[int, datetime]:
    """Mark holds as reported; returns those that no other worker reported meanwhile, with their beginnings."""
    rows = connection.execute(_SQL["tell_holds"], {"channel": channel, "runs": list(runs)}).fetchall()
    return {row["run"]: row["since"] for row in rows}


def drop_untrue(connection: Connection, names: Sequence[str], *, gap_seconds: float) -> None:
    """Remove pending notices that are no longer true."""
    connection.execute(_SQL["drop_untrue"], {"channels": list(names), "gap_seconds": gap_seconds})


def give_up(connection: Connection, *, patience_seconds: float) -> list[Notice]:
    """Fail what could not be delivered in time."""
    rows = connection.execute(_SQL["give_up"], {"patience_seconds": patience_seconds}).fetchall()
    return [Notice.from_row(row) for row in rows]


def claim(connection: Connection, leases: Mapping[str, float]) -> list[Notice]:
    """The oldest due notice of each channel, for so many seconds."""
    rows = connection.execute(
        _SQL["claim_notices"], {"channels": list(leases), "lease_seconds": list(leases.values())}
    ).fetchall()
    return [Notice.from_row(row) for row in rows]


def deliver(connection: Connection, notice: Notice) -> None:
    connection.execute(_SQL["deliver_notice"], {"notice": notice.notice})


def postpone(connection: Connection, notice: Notice, *, delay_seconds: float, error: str) -> None:
    connection.execute(
        _SQL["postpone_notice"],
        {"notice": notice.notice, "attempts": notice.attempts, "delay_seconds": delay_seconds, "error": error},
    )


def fail(connection: Connection, notice: Notice, *, error: str) -> None:
    connection.execute(_SQL["fail_notice"], {"notice": notice.notice, "attempts": notice.attempts, "error": error})


def forget(connection: Connection, *, kept_seconds: float, holds_kept_seconds: float) -> None:
    """Remove notices sent long ago, and holds that are over."""
    connection.execute(_SQL["forget_notices"], {"kept_seconds": kept_seconds})
    connection.execute(_SQL["forget_holds"], {"kept_seconds": holds_kept_seconds})


def count(connection: Connection) -> tuple[int, int]:
    """How many are on their way, and how many failed for good."""
    row = connection.execute(_SQL["count_notices"]).fetchone()
    return (int(row["pending"]), int(row["failed"])) if row else (0, 0)
