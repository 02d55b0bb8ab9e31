"""Tells people what they must know: writes down what there is to tell, and sees to it that it arrives.

A notice is claimed for as long as sending it may take, sent outside of any transaction in a thread of its own, and settled. A
worker that dies in between leaves a claim that runs out: it is sent again under the same id. One message at a time leaves by
a channel, so one that is slow or dead keeps up nothing but itself.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.record import notices as store
from backfilld.migrations.telemetry import NoticeSent
from backfilld.monitoring import notices
from backfilld.monitoring.notices import News, NotTaken, TakenNever
from backfilld.worker.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.notices import Notice
    from backfilld.migrations.settings import Channel
    from backfilld.migrations.telemetry import Observer
    from backfilld.monitoring.notices import Dispatch, Outlet

#: Between two looks at what there is to tell: a person takes longer to read it.
LOOK_SECONDS = 2.0
#: After a delivery that failed. A service that comes back after a night hears of it within the hour, and not of all notices at once.
BACKOFF = Backoff(first_seconds=10.0, longest_seconds=3600.0, jitter=0.2)
#: After a day a notice is no longer of use.
PATIENCE_SECONDS = 86400.0
#: How long sent notices are kept: longer than the interval of reminders, which are counted by them.
KEPT_SECONDS = 14 * 86400.0
#: Between two times that old notices are removed.
FORGET_SECONDS = 3600.0
#: How long a claim outlasts the delivery's time limit: its outcome has to be written still.
LEASE_GRACE_SECONDS = 30.0
#: Deliveries of a channel that hang, in threads that cannot be ended. With so many of them it is not tried until one comes back.
MOST_LOST = 3
#: At the end, deliveries under way get this long, so that they need not be repeated.
FAREWELL_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class _Sending:
    notice: Notice
    dispatch: Dispatch


@dataclass(kw_only=True)
class _Desk:
    """A channel, and what leaves by it."""

    outlet: Outlet
    sending: _Sending | None = None
    #: Past their time limit, and not come back.
    lost: list[_Sending] = field(default_factory=list)
    #: Before this nothing more is sent (`time.monotonic`).
    rests_until: float = 0.0

    @property
    def free(self) -> bool:
        return self.sending is None and len(self.lost) < MOST_LOST and time.monotonic() >= self.rests_until

    def leave(self) -> None:
        """Nothing is under way any more."""
        self.sending, self.rests_until = None, time.monotonic() + self.outlet.way.pause_seconds


class Notifier:
    """Looks for news, and delivers. All of it in one thread but the sending."""

    def __init__(self, channels: Sequence[Channel], *, observe: Observer) -> None:
        """Raises InvalidSettings for a channel that cannot be opened."""
        self._observe = observe
        self._news = News(channels)
        self._desks = {outlet.channel.name: _Desk(outlet=outlet) for outlet in notices.open_channels(channels)}
        self._finished = threading.Event()
        self._connection: Connection | None = None
        #: When news was last looked for, and when old notices were last removed (`time.monotonic`).
        self._looked_at = self._forgot_at = float("-inf")

    @property
    def sending(self) -> int:
        """How many messages are on their way."""
        return sum(desk.sending is not None for desk in self._desks.values())

    def run_once(self, connection: Connection) -> int:
        """Look, claim, send and settle, without waiting for any of it; returns how many messages are on their way."""
        self._connection = connection
        self._settle(connection)
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = time.monotonic()
            self._news.look(connection)
            self._tidy(connection)
        self._send(connection)
        return self.sending

    def wait(self, sending: int, stopping: threading.Event) -> None:
        """Until there is something to do: a message has left, or it is time to look again."""
        if sending:
            # Looked at often enough to see a stop, and a message that is past its limit.
            self._finished.wait(LOOK_SECONDS / 4)
            self._finished.clear()
        else:
            stopping.wait(LOOK_SECONDS)
        if stopping.is_set():
            self._say_farewell()

    def _say_farewell(self) -> None:
        """Tell what came last (`backfilld run` ends with its run), and settle what is under way, so that it is not repeated."""
        if self._connection is None:
            return
        deadline, self._looked_at = time.monotonic() + FAREWELL_SECONDS, float("-inf")
        # What cannot be settled is sent again by the next worker.
        with suppress(psycopg.Error):
            while self.run_once(self._connection) and self._finished.wait(max(deadline - time.monotonic(), 0.0)):
                self._finished.clear()

    def _tidy(self, connection: Connection) -> None:
        for notice in store.give_up(connection, patience_seconds=PATIENCE_SECONDS):
            self._tell(notice, "failed", f"gave up after a day: {notice.last_error}")
        if time.monotonic() - self._forgot_at >= FORGET_SECONDS:
            self._forgot_at = time.monotonic()
            store.forget(connection, kept_seconds=KEPT_SECONDS, holds_kept_seconds=KEPT_SECONDS)

    def _send(self, connection: Connection) -> None:
        free = {name: desk.outlet for name, desk in self._desks.items() if desk.free}
        leases = {name: outlet.deadline_seconds + LEASE_GRACE_SECONDS for name, outlet in free.items()}
        if not leases:
            return
        for notice in store.claim(connection, leases):
            message = notices.word(notice.delivery, notice.about, notice.facts)
            dispatch = notices.dispatch(free[notice.channel], message, finished=self._finished.set)
            self._desks[notice.channel].sending = _Sending(notice=notice, dispatch=dispatch)

    def _settle(self, connection: Connection) -> None:
        """Write down what became of the messages that were sent."""
        for desk in self._desks.values():
            for late in [one for one in desk.lost if one.dispatch.future.done()]:
                desk.lost.remove(late)
                if late.dispatch.error is None:
                    self._delivered(connection, late.notice)
            sending = desk.sending
            if sending is None:
                continue
            if sending.dispatch.future.done():
                self._settle_one(connection, sending.notice, sending.dispatch.error)
                desk.leave()
            elif time.monotonic() >= sending.dispatch.deadline:
                desk.lost.append(sending)
                late_error = NotTaken(f"no answer within {desk.outlet.channel.timeout_seconds:g} s")
                self._settle_one(connection, sending.notice, late_error)
                desk.leave()

    def _settle_one(self, connection: Connection, notice: Notice, error: Exception | None) -> None:
        if error is None:
            self._delivered(connection, notice)
        elif isinstance(error, TakenNever):
            store.fail(connection, notice, error=str(error))
            self._tell(notice, "failed", str(error))
        else:
            delay = _delay_seconds(notice.attempts, error, chance=random.random())  # noqa: S311 - spreading load, not guarding secrets
            store.postpone(connection, notice, delay_seconds=delay, error=str(error))
            self._tell(notice, "retried", f"{error}; retried in {delay:.0f} s")

    def _delivered(self, connection: Connection, notice: Notice) -> None:
        store.deliver(connection, notice)
        self._tell(notice, "delivered", "")

    def _tell(self, notice: Notice, outcome: Literal["delivered", "retried", "failed"], message: str) -> None:
        self._observe(
            NoticeSent(
                run=notice.run,
                name=str(notice.facts.get("name")),
                about=notice.about,
                channel=notice.channel,
                outcome=outcome,
                message=message,
            )
        )


def _delay_seconds(attempts: int, error: Exception, *, chance: float) -> float:
    """How long to wait after so many tries; longer where the channel asks for it, within bounds. `chance` is between 0 and 1."""
    asked = error.after_seconds if isinstance(error, NotTaken) and error.after_seconds is not None else 0.0
    return max(BACKOFF.seconds(attempts - 1, chance=chance), min(asked, BACKOFF.longest_seconds))
