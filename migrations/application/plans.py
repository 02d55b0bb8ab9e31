"""Plans of one statement before and after, compared: what was lost, by what a person would look at first. Pure.

Pages that are read come first, milliseconds second: the same plan reads the same pages on a busy machine and on an idle one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: So many times as many pages, and so many more. A walk leaves a table up to twice as large for a while, which is no regression.
MORE_PAGES_RATIO = 3.0
MORE_PAGES = 200
#: So many times as long, and so much longer: medians of a quiet statement differ by half on a busy machine.
SLOWER_RATIO = 3.0
SLOWER_MILLISECONDS = 50.0
#: A plan that reads a small table from end to end costs about what the one by its index did.
COSTLIER_RATIO = 2.0


@dataclass(frozen=True, kw_only=True)
class Planned:
    """How a statement is planned at one moment, and what running it took."""

    #: The plan in one line.
    shape: str = ""
    indexes: tuple[str, ...] = ()
    #: Tables that are read by an index, and those that are read from end to end, as `schema.name`.
    by_index: tuple[str, ...] = ()
    scanned: tuple[str, ...] = ()
    cost: float = 0.0
    #: Medians; None where it was not run.
    buffers: int | None = None
    milliseconds: float | None = None
    #: Why there is no plan.
    error: str = ""
    #: It was run, and not done in this time.
    longer_than_milliseconds: float | None = None
    #: As which persona it was planned and run; empty for our own role.
    persona: str = ""
    #: Somebody else's lock or a replica's replay was in the way, several times: it says nothing of the statement.
    is_busy: bool = False

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Planned:  # Any: JSON
        known: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in stored.items()}
        return cls(**known)


def regression(before: Planned, after: Planned) -> str:
    """What is worse, in words that follow the statement's name; empty where nothing is."""
    if before.error or after.is_busy:
        return ""
    who = f"as {before.persona} " if before.persona else ""
    worse = _worse(before, after)
    return who + worse if worse else ""


def _worse(before: Planned, after: Planned) -> str:
    if after.error:
        return f"it fails: {after.error}"
    if before.milliseconds is not None and after.longer_than_milliseconds is not None:
        limit = after.longer_than_milliseconds
        if _more(before.milliseconds, limit, ratio=SLOWER_RATIO, least=SLOWER_MILLISECONDS):
            return f"it takes more than {limit:.0f} ms, and took {before.milliseconds:.0f} ms before"
    lost = sorted(set(before.by_index) & set(after.scanned) - set(before.scanned))
    if before.buffers is not None and after.buffers is not None:
        if _more(before.buffers, after.buffers, ratio=MORE_PAGES_RATIO, least=MORE_PAGES):
            return f"it reads {after.buffers} pages, and read {before.buffers} before"
    elif lost and after.cost > COSTLIER_RATIO * before.cost:
        by = f"by {', '.join(before.indexes)}" if before.indexes else "by an index"
        return f"it reads {', '.join(lost)} from end to end, and read it {by} before"
    if (
        before.milliseconds is not None
        and after.milliseconds is not None
        and _more(before.milliseconds, after.milliseconds, ratio=SLOWER_RATIO, least=SLOWER_MILLISECONDS)
    ):
        return f"it takes {after.milliseconds:.0f} ms, and took {before.milliseconds:.0f} ms before"
    return ""


def _more(before: float, after: float, *, ratio: float, least: float) -> bool:
    return after > ratio * before and after - before > least
