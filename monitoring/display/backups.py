"""Backups: a table of them, and one line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from backfilld.monitoring.display.tables import plain
from backfilld.monitoring.display.words import cell
from backfilld.monitoring.words import counted, duration, moment, number, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from backfilld.migrations.backups.report import GateReport
    from backfilld.migrations.record.backups import Backup

#: Tables that are named; the others are counted.
_MOST_TABLES = 5
#: By how much is known of a backup.
STYLES = {
    "taking": "cyan",
    "taken": "yellow",
    "verified": "green",
    "proved": "bold green",
    "failed": "red",
    "expired": "dim",
}


def backups(found: Sequence[Backup]) -> RenderableType:
    """Backups, one a line."""
    if not found:
        return Text("no backups", style="dim")
    table = plain("backup", "level", "of", "for", "holds", "size", "copies", right=[5])
    for one in found:
        table.add_row(
            str(one.backup),
            Text(one.level, style=STYLES[one.level]),
            moment(one.snapshot_at or one.began_at),
            cell(f"run {one.run}" if one.run is not None else one.requested_by),
            "all tables" if one.scope == "all" else counted(len(one.tables), "table"),
            size(one.bytes),
            cell(", ".join(copy.store for copy in one.copies) or one.error or str(one.details.get("kept", ""))),
        )
    return table


def gate(report: GateReport) -> RenderableType:
    """What a run waits for before it begins, and what would keep it waiting."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("because", cell(report.because))
    facts.add_row("by", cell(report.version or report.provider))
    shown = ", ".join(one.table for one in report.tables[:_MOST_TABLES])
    more = f" and {len(report.tables) - _MOST_TABLES} more" if len(report.tables) > _MOST_TABLES else ""
    facts.add_row("of", cell(f"{shown or 'no table with rows'}{more}, {size(report.bytes)}"))
    if report.copies:
        facts.add_row("to", cell(", ".join(report.copies)))
    facts.add_row("at first", cell(_first(report)))
    for problem in report.missing:
        facts.add_row(Text("missing", style="bold red"), cell(problem))
    head = Text.assemble(
        ("backup", "bold"), "  before it begins one must be ", (report.require, STYLES.get(report.require, ""))
    )
    return Group(head, Padding(facts, (0, 0, 0, 2)))


def _first(report: GateReport) -> str:
    from backfilld.migrations.backups.gate import Next  # noqa: PLC0415 - brings the settings along, which `status` does without

    match report.next:
        case Next.NOTHING if report.backup is None:
            return "nothing: none is needed"
        case Next.NOTHING:
            return f"nothing: backup {report.backup} will do, it is less than {duration(report.max_age_seconds)} old"
        case _:
            return "one is taken; the run waits for it, held with the cause backup"


def backup(one: Backup) -> list[str]:
    """One backup, line by line."""
    return list(_lines(one))


def _places(one: Backup) -> Iterator[str]:
    for copy in one.copies:
        yield f"  copy: {copy.store}{f' ({copy.region})' if copy.region else ''}, {one.label}"
    if "kept" in one.details:
        yield f"  kept by {one.provider}: {one.details['kept']}, {one.details['reference']}"


def _lines(one: Backup) -> Iterator[str]:
    run = f" for run {one.run}" if one.run is not None else ""
    yield f"backup {one.backup}: {one.level}{run}, by {one.provider}, asked for by {one.requested_by}"
    if one.error:
        yield f"  error: {one.error}"
    if one.snapshot_at is not None:
        yield f"  of {moment(one.snapshot_at)}, WAL {one.lsn_start}"
    if one.restore_point is not None:
        yield f"  restore point {one.restore_point} at {one.restore_point_lsn}"
    if one.taken_at is not None:
        yield f"  taken in {duration((one.taken_at - one.began_at).total_seconds())}: {size(one.bytes)}"
    if one.verified_at is not None:
        how = f"{one.provider} says that it is whole" if one.kind == "external" else "every copy was read back"
        yield f"  verified {moment(one.verified_at)}: {how}"
    if one.proved_at is not None and one.proof is not None:
        yield f"  proved {moment(one.proved_at)}: restored and compared in {duration(one.proof['seconds'])}"
    yield from _places(one)
    for table in one.tables:
        yield f"  {table.table}: {number(table.rows)} rows, checksum {table.checksum}"
    if one.expires_at is not None and one.state == "taken":
        yield f"  kept until {moment(one.expires_at)} at least"
