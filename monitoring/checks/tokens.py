"""A token that says who asks, signed as PostgREST, Supabase and others read it: a JSON Web Token by HS256. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: One token serves the few requests of one moment. Clocks may differ by less; what leaks is soon worth nothing.
_SECONDS = 300


def signed(claims: Mapping[str, Any], *, secret: str, now: float) -> str:  # Any: JSON
    """A token with these claims that ends in five minutes, whatever the claims say of that."""
    head = _encoded({"alg": "HS256", "typ": "JWT"})
    body = _encoded({**claims, "exp": int(now) + _SECONDS})
    signature = hmac.digest(secret.encode(), f"{head}.{body}".encode(), hashlib.sha256)
    return f"{head}.{body}.{_base64(signature)}"


def _encoded(value: Mapping[str, Any]) -> str:  # Any: JSON
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
