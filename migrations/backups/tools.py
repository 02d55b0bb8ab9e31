"""A tool of the operator's, run once: what it printed, within its time, and in words what went wrong. No secret is in the words."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backfilld.migrations.backups import programs
from backfilld.migrations.backups.place import BackupFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from backfilld.migrations.backups.place import Watch

#: What is printed by a tool that answers in JSON; more is none of an answer.
MOST_BYTES = 16 * 1024 * 1024
#: A secret that is shorter would be found in every second word.
_SHORTEST_SECRET = 4
HIDDEN = "…"


class ToolFailed(BackupFailed):
    """A tool has run, and ended with something else than 0; it may have printed an answer all the same."""

    def __init__(self, message: str, printed: str) -> None:
        super().__init__(message)
        self.printed = printed


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    seconds: float,
    watch: Watch,
    secrets: Collection[str] = (),
) -> str:
    """Run it and return what it printed. Raises BackupFailed, and what the watch raises; all of its processes are gone by then.

    Raises ToolFailed where it has run, and failed.

    It is begun when the load allows. Whatever it does then, it is not held in the middle: nobody can hold a tool of others.
    """
    printed = bytearray()
    name = Path(command[0]).name

    def write(part: bytes) -> None:
        printed.extend(part)
        if len(printed) > MOST_BYTES:
            msg = f"{name} prints more than {MOST_BYTES} bytes"
            raise BackupFailed(msg)

    programs.wait_for_the_load(watch)
    try:
        programs.read_from(command, environment, write=write, watch=_within(seconds, name, watch))
    except BackupFailed as exc:
        said = printed.decode(errors="replace").strip()[-programs.LAST_WORDS :]
        more = f"; it printed: {said}" if said else ""
        told = hidden(f"{exc}{more}", secrets)
        if isinstance(exc, programs.ProgramFailed):
            raise ToolFailed(told, hidden(printed.decode(errors="replace"), secrets)) from None
        raise BackupFailed(told) from None
    return printed.decode(errors="replace")


def json_of(printed: str, name: str, *, secrets: Collection[str] = ()) -> Any:  # Any: JSON
    """The JSON that a tool has printed, and nothing else. Raises BackupFailed."""
    try:
        return json.loads(printed)
    except ValueError as exc:
        shown = hidden(printed.strip()[:200], secrets)
        msg = f"{name} did not answer with JSON alone ({exc}): {shown or 'with nothing'}"
        raise BackupFailed(msg) from None


def hidden(text: str, secrets: Collection[str]) -> str:
    """The text with every secret out of it."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, HIDDEN)
    return text


def _within(seconds: float, name: str, watch: Watch) -> Callable[[], str | None]:
    """A watch that ends what takes longer."""
    ends = time.monotonic() + seconds

    def look() -> None:
        watch()
        if time.monotonic() > ends:
            msg = f"{name} took longer than {seconds:g} s, and was ended"
            raise BackupFailed(msg)

    return look
