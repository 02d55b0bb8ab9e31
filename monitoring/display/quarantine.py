"""Quarantined rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from backfilld.monitoring.display.tables import plain
from backfilld.monitoring.display.words import cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from backfilld.migrations.record.model import Quarantined, Unconverted


def quarantine(rows_: Sequence[Quarantined], given_up: Sequence[Unconverted] = ()) -> RenderableType:
    """Quarantined rows: which, why, and how often they were tried; and some of those that were too many."""
    if given_up:
        few = plain("table", "key", "SQLSTATE", "error")
        for one in given_up:
            few.add_row(cell(one.relation), cell(", ".join(one.key)), cell(one.sqlstate), cell(one.error))
        told = Text("not in the quarantine, as the batch that met them was undone (the first ones only):")
        return Group(*((quarantine(rows_), Text()) if rows_ else ()), told, few)
    if not rows_:
        return Text("no rows are quarantined", style="dim")
    table = plain("table", "key", "SQLSTATE", "error", "tries", right=[4])
    for row in rows_:
        tries = f"{row.attempts}, retry" if row.retry else str(row.attempts)
        table.add_row(cell(row.relation), cell(", ".join(row.key)), cell(row.sqlstate), cell(row.error), tries)
    return table
