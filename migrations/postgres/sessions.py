"""The names of our sessions (`application_name`): by them batches are counted, cancelled and told from everybody else's.

`backfilld run=7 lane=2 seq=31` while a batch is done, with ` python` behind it while a user's function runs and ` index` for a
session that builds or drops an index; `backfilld governor` and the like for what works for no run. In SQL they are read by the
view `backfilld.own_sessions`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

#: What the name of every session of ours begins with.
OURS = "backfilld"
_OF_A_RUN = re.compile(rf"{OURS} run=(\d{{1,18}}) lane=(\d{{1,9}}) seq=(\d{{1,18}})(?: (python|index))?")


class Doing(StrEnum):
    """What a session does for its lane."""

    #: A batch, or a step of DDL in a transaction.
    BATCH = "batch"
    #: A user's function runs in Python: the session is idle, and not forgotten.
    PYTHON = "python"
    #: An index is built or dropped CONCURRENTLY.
    INDEX = "index"


@dataclass(frozen=True, kw_only=True)
class SessionName:
    """The name of a session that works for a run. The coordinator's lane is 0."""

    run: int
    lane: int
    seq: int
    doing: Doing = Doing.BATCH

    def __str__(self) -> str:
        end = "" if self.doing is Doing.BATCH else f" {self.doing}"
        return f"{OURS} run={self.run} lane={self.lane} seq={self.seq}{end}"

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Read a name; None when it is not one of these."""
        found = _OF_A_RUN.fullmatch(name)
        if found is None:
            return None
        run, lane, seq, doing = found.groups()
        return cls(run=int(run), lane=int(lane), seq=int(seq), doing=Doing(doing or Doing.BATCH))


def tidying(run: int) -> str:
    """The name of a session that removes what an unfinished index left; it outlives a run that is asked to stop."""
    return f"{OURS} tidies run={run}"


def named(what: str) -> str:
    """The name of a session that works for no run: a side task, a signal, a command."""
    return f"{OURS} {what}"
