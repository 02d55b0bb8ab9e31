"""How much is done for each figure, and what is said while it is done."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

QUICK_SHARE = 5


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What the person at the keyboard has patience for."""

    repetitions: int
    #: Everything smaller and once: to see that the bench works, not to quote.
    is_quick: bool = False
    #: Of the tables that ways are compared on; None: what the measurement finds right.
    rows: int | None = None

    def scale(self, full: int) -> int:
        """Of a pgbench table."""
        return max(1, full // QUICK_SHARE) if self.is_quick else full

    def rows_of(self, full: int, quick: int) -> int:
        return self.rows or (quick if self.is_quick else full)


def tell(text: str) -> None:
    """A line for whoever waits. Not on standard output, which is the report's."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()
