"""The channels of the settings, opened: a service that apprise supports, or a signed webhook.

Each message is sent in a thread of its own, and waited for no longer than its time limit: an endpoint or a library that hangs
delays no other message.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
import warnings
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

from backfilld.migrations.errors import InvalidSettings, UsageError
from backfilld.migrations.identifiers import TARGET
from backfilld.monitoring.notices.outcomes import NotTaken, TakenNever
from backfilld.monitoring.notices.webhook import Webhook
from backfilld.monitoring.notices.wording import word

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from apprise import NotifyBase

    from backfilld.migrations.settings import Channel, Settings
    from backfilld.monitoring.notices.wording import Message

__all__ = ["Dispatch", "NotTaken", "Outlet", "Sent", "TakenNever", "dispatch", "open_channels", "send_test"]

#: A delivery that is not over this long after its time limit hangs. Limits within the libraries are for each wait, so they may
#: be late by themselves.
GRACE_SECONDS = 1.0
#: Parts of a URL that are shorter than this are no secrets, and would hide half of every sentence.
SHORTEST_PIECE = 4


class Way(Protocol):
    """A way to send a message."""

    #: Between two messages, to spare the service.
    pause_seconds: float

    def send(self, message: Message) -> None:
        """Deliver it. Raises NotTaken where a retry may succeed, TakenNever where none will."""


@dataclass(frozen=True, kw_only=True)
class Outlet:
    """A channel that is open."""

    channel: Channel
    way: Way

    @property
    def deadline_seconds(self) -> float:
        """After this a delivery is abandoned, even if its thread still runs."""
        return self.channel.timeout_seconds + GRACE_SECONDS


def open_channels(channels: Sequence[Channel]) -> list[Outlet]:
    """Open the channels without contacting any. Raises InvalidSettings for a URL that apprise cannot read."""
    return [Outlet(channel=channel, way=_way(channel, number)) for number, channel in enumerate(channels)]


def _way(channel: Channel, number: int) -> Way:
    url = channel.url.get_secret_value()
    if channel.kind == "webhook":
        secret = channel.secret.get_secret_value() if channel.secret else ""
        return Webhook(url, secret, timeout_seconds=channel.timeout_seconds)
    return _Apprise(channel, url, variable=f"BACKFILLD_NOTIFICATIONS__{number}__URL")


class _Apprise:
    """A service that apprise supports."""

    def __init__(self, channel: Channel, url: str, *, variable: str) -> None:
        # Imported where it is needed: its two hundred services cost a third of a second and 30 MiB.
        import apprise  # noqa: PLC0415

        _quiet()
        asset = apprise.AppriseAsset(
            app_id="backfilld",
            app_desc="backfilld",
            app_url="",
            storage_mode=apprise.PersistentStoreMode.MEMORY,  # nothing on our disk
            allow_templates=False,  # a text is a text, whatever braces are in it
        )
        # As for webhooks. A URL may say otherwise (`redirect=yes`).
        asset.http_redirects = False
        with warnings.catch_warnings():
            # One of its services asks Python 3.11 for a module that 3.13 has no more, and has its own where there is none.
            warnings.simplefilter("ignore", DeprecationWarning)
            service = apprise.Apprise.instantiate(url, asset=asset)
        if service is None:
            raise InvalidSettings(
                variable,
                f"the url of channel {channel.name} is not one that apprise understands, such as slack://… or "
                "mailto://…; apprise's documentation of the service has its format",
            )
        self._service: NotifyBase = service
        self._service.socket_connect_timeout = self._service.socket_read_timeout = channel.timeout_seconds
        # Apprise would sleep that long before a message that comes sooner, and within our limit for it.
        self.pause_seconds = float(service.request_rate_per_sec)
        self._format = apprise.NotifyFormat.TEXT
        self._severities = {kind.value: kind for kind in apprise.NotifyType}
        self._secrets = _pieces(url)

    def send(self, message: Message) -> None:
        with _heard() as lines:
            taken = self._service.notify(
                title=message.subject,
                body=message.body,
                notify_type=self._severities[message.severity],
                body_format=self._format,
            )
        if not taken:
            raise NotTaken(self._scrubbed(lines[-1]) if lines else "the service did not accept it")

    def _scrubbed(self, line: str) -> str:
        """What apprise says of a failure, without any piece of the URL: which of them is a secret only the service knows."""
        for piece in self._secrets:
            line = line.replace(piece, "***")
        return line


def _pieces(url: str) -> list[str]:
    """The parts of a URL that may be a secret, in either spelling, the longest first."""
    _, _, rest = url.partition("://")
    pieces = {piece for text in (rest, unquote(rest)) for piece in re.split(r"[/?#&=:@\s,]+", text)}
    found = {url, rest, unquote(rest), *pieces}
    return sorted((piece for piece in found if len(piece) >= SHORTEST_PIECE), key=len, reverse=True)


class _Heard(threading.local):
    """The log lines of apprise in this thread, while they are collected."""

    def __init__(self) -> None:
        self.lines: list[str] | None = None

    def __enter__(self) -> list[str]:
        self.lines = []
        return self.lines

    def __exit__(self, *_: object) -> None:
        self.lines = None


_HEARD = _Heard()


def _heard() -> _Heard:
    return _HEARD


class _Ear(logging.Filter):
    """Hears every line, and lets none pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _HEARD.lines is not None and record.levelno >= logging.WARNING:
            _HEARD.lines.append(record.getMessage())
        return False


def _quiet() -> None:
    """Keep apprise's lines out of every log: URLs, and so tokens, are in them. Its reasons are taken from `_Heard`.

    A filter, as a handler would leave them to those that others have set up.
    """
    logger = logging.getLogger("apprise")
    if not any(isinstance(one, _Ear) for one in logger.filters):
        logger.addFilter(_Ear())


@dataclass(frozen=True, kw_only=True)
class Dispatch:
    """A message on its way."""

    future: Future[None]
    #: When it is given up (`time.monotonic`).
    deadline: float

    @property
    def error(self) -> Exception | None:
        """Why it was not taken; None when it was. Only once the future is done."""
        error = self.future.exception()
        if error is None or isinstance(error, NotTaken | TakenNever):
            return error
        # What a library raises may quote a URL.
        return NotTaken(f"the service failed with {type(error).__name__}")


def dispatch(outlet: Outlet, message: Message, *, finished: Callable[[], object] = lambda: None) -> Dispatch:
    """Send a message in a thread of its own; `finished` is called there at its end."""
    future: Future[None] = Future()

    def send() -> None:
        try:
            outlet.way.send(message)
            future.set_result(None)
        except BaseException as exc:  # noqa: BLE001 - a thread's edge: told where the outcome is asked for
            future.set_exception(exc)
        finished()

    # A daemon: the end of the process does not wait for a service that hangs.
    threading.Thread(target=send, name=f"notice {outlet.channel.name}", daemon=True).start()
    return Dispatch(future=future, deadline=time.monotonic() + outlet.deadline_seconds)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What became of a test message."""

    channel: str
    #: Why it was not taken; None when it was.
    error: str | None


def send_test(settings: Settings, name: str | None = None) -> list[Sent]:
    """Send a message to one channel, or to all, and wait for what becomes of it. Raises UsageError when there is none."""
    channels = [channel for channel in settings.notifications if name in {None, channel.name}]
    if not channels:
        known = ", ".join(channel.name for channel in settings.notifications)
        msg = (
            f"there is no channel {name}; there are: {known}" if known else "no channel is set: BACKFILLD_NOTIFICATIONS"
        )
        raise UsageError(msg)
    outlets = [one for one in open_channels(settings.notifications) if one.channel in channels]
    at = datetime.now(UTC).isoformat(timespec="seconds")
    sent = [dispatch(one, word(str(uuid.uuid4()), "test", {"target": TARGET, "at": at})) for one in outlets]
    return [_waited(one, dispatched) for one, dispatched in zip(outlets, sent, strict=True)]


def _waited(outlet: Outlet, sent: Dispatch) -> Sent:
    try:
        sent.future.exception(timeout=max(sent.deadline - time.monotonic(), 0.0))
    except TimeoutError:
        return Sent(channel=outlet.channel.name, error=f"no answer within {outlet.channel.timeout_seconds:g} s")
    return Sent(channel=outlet.channel.name, error=str(sent.error) if sent.error else None)
