"""One load signal at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a load signal says; None when it could not be read, which stops the work as surely as a bad value."""

    #: Named as the field of `Limits` that judges it, or as the operator's own signal.
    signal: str
    value: float | None
    #: Whose value it is, or why there is none; for people.
    detail: str = ""


def unreadable(signal: str, why: object) -> Reading:
    return Reading(signal=signal, value=None, detail=str(why).strip() or "no reason was given")
