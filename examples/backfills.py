"""The function of users_phone_e164.yaml, as it would stand in a module `myapp.backfills` of your application.

Allow it in the worker: BACKFILLD_TRANSFORMS=myapp.backfills
"""

from __future__ import annotations

import re

#: What a country's numbers begin with, abroad.
PREFIXES = {"CH": "+41", "DE": "+49", "FR": "+33"}


def _e164(phone: str, country: str) -> str:
    """A number as it is dialled from anywhere: +41791234567."""
    digits = re.sub(r"[^0-9+]", "", phone)
    if digits.startswith("+"):
        return digits
    if not digits:
        raise ValueError(f"{phone!r} is no phone number")
    return PREFIXES[country] + digits.removeprefix("0")


def normalise_phone(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Each row with its number in one notation. A number that cannot be read raises, and only its row is quarantined."""
    for row in rows:
        row["phone_e164"] = _e164(str(row["phone"]), str(row["country"]))
    return rows
