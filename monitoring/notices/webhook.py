"""A webhook that its receiver can trust: a POST of JSON, signed, with a name for each delivery.

`http.client`, as for the operator's own load signals: `requests` has a limit for each wait and none for the whole answer, reads
passwords from ~/.netrc and sends what it likes of them. Here a timer cuts the connection. Redirects are not followed: the
operator named the place, and a signature is for that place.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from backfilld.migrations import exchange
from backfilld.monitoring.notices.outcomes import NotTaken, TakenNever

if TYPE_CHECKING:
    from backfilld.monitoring.notices.wording import Message

#: Answers that say "not now": everything else from 400 to 499 says "not this".
_LATER = frozenset({408, 425, 429})
#: An answer is read to its end, for the connection's sake; a longer one is cut.
MOST_BYTES = 65536


class Webhook:
    """Posts messages to one place."""

    def __init__(self, url: str, secret: str, *, timeout_seconds: float) -> None:
        self._url = urlsplit(url)
        self._secret = secret.encode()
        self._timeout_seconds = timeout_seconds
        self.pause_seconds = 0.0

    def send(self, message: Message) -> None:
        """Deliver it. Raises NotTaken where a later try may do better, TakenNever where none will."""
        body = json.dumps(message.payload, ensure_ascii=False).encode()
        status, retry_after = self._post(body, self._headers(message.id, body))
        if http.client.OK <= status < http.client.MULTIPLE_CHOICES:
            return
        told = f"answers {status} {http.client.responses.get(status, '')}".rstrip()
        if http.client.MULTIPLE_CHOICES <= status < http.client.BAD_REQUEST:
            told += "; redirects are not followed"
        if http.client.BAD_REQUEST <= status < http.client.INTERNAL_SERVER_ERROR and status not in _LATER:
            raise TakenNever(told)
        raise NotTaken(told, after_seconds=_seconds(retry_after))

    def _headers(self, delivery: str, body: bytes) -> dict[str, str]:
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "backfilld",
            "Connection": "close",
            "Backfilld-Delivery": delivery,
            "Backfilld-Timestamp": timestamp,
            "Backfilld-Signature": f"v1={sign(self._secret, timestamp, body)}",
        }
        if self._url.username is not None:
            pair = f"{unquote(self._url.username)}:{unquote(self._url.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return headers

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, str | None]:
        """The status of the answer, and when it asks to be asked again. Raises NotTaken."""
        late = threading.Event()
        try:
            with exchange.connected(self._url, timeout_seconds=self._timeout_seconds, late=late) as client:
                client.request("POST", exchange.target(self._url), body=body, headers=headers)
                with client.getresponse() as answer:
                    if late.is_set():
                        raise TimeoutError  # a head that was cut reads like one that has ended
                    # The status has come: what follows it may be cut without harm.
                    with suppress(OSError, http.client.HTTPException):
                        answer.read(MOST_BYTES)
                    return answer.status, answer.headers.get("Retry-After")
        except (OSError, http.client.HTTPException, ValueError) as exc:
            if late.is_set() or isinstance(exc, TimeoutError):
                raise NotTaken(f"no answer within {self._timeout_seconds:g} s") from None
            # Not the error's text: it may quote the URL, and with it what makes the URL a secret.
            raise NotTaken(f"cannot be reached ({_kind(exc)})") from None


def sign(secret: bytes, timestamp: str, body: bytes) -> str:
    """The signature of a body sent at a moment: HMAC-SHA256, in hexadecimal digits."""
    return hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def _kind(exc: Exception) -> str:
    """What kind of failure: the system's own words for it, which name no place."""
    if isinstance(exc, OSError) and not isinstance(exc, socket.gaierror) and exc.strerror:
        return exc.strerror
    return type(exc).__name__


def _seconds(retry_after: str | None) -> float | None:
    """The header Retry-After: seconds, or a date. None for none, and for what cannot be read."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    with suppress(ValueError, TypeError):
        return max((parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds(), 0.0)
    return None
