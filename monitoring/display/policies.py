"""Who reaches which rows by other policies: a table of personas and commands, and what nobody expected."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from backfilld.migrations.policies.results import NOT_COUNTED, named
from backfilld.monitoring.display.words import cell
from backfilld.monitoring.words import counted, number, safe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import RenderableType

    from backfilld.migrations.planning.policy_preview import Preview
    from backfilld.migrations.policies.results import Counted
    from backfilld.migrations.record.states import Phase


def preview(found: Preview) -> RenderableType:
    """The section of a plan."""
    looked = f"all {counted(found.rows, 'row')}" if found.all_rows else f"a sample of {counted(found.rows, 'row')}"
    parts: list[RenderableType] = [
        Text.assemble((f"who reaches which rows of {safe(found.relation)}", "bold"), f"  {looked}")
    ]
    blocks: dict[tuple[str, Phase], list[Counted]] = {}
    for one in found.counted:
        blocks.setdefault((one.relation, one.phase), []).append(one)
    for (relation, phase), block in blocks.items():
        if len(blocks) > 1:
            of = (
                ""
                if relation == found.relation
                else f", of {safe(relation)}, whose policies read {safe(found.relation)}"
            )
            parts.append(_indented(Text(f"from {phase} on{of}", style="dim")))
        parts.append(_indented(_table(block)))
    for mark, texts in (("not expected", found.unexpected), ("not counted", found.not_counted)):
        parts += [_indented(_marked(mark, text)) for text in texts]
    if found.unexpected:
        parts.append(_indented(Text("A person is asked before it comes into force.", style="green")))
    return Group(*parts)


def _table(block: Sequence[Counted]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(*(Text(title, style="dim") for title in ("persona", "command", "now", "then", "")))
    for persona, told in groupby(block, lambda one: one.persona):
        for line, (commands, one) in enumerate(_alike(told)):
            table.add_row(
                cell("" if line else persona),
                cell(", ".join(commands)),
                cell("fails" if one.error_now else number(one.rows_now)),
                cell(_then(one)),
                cell("; ".join(_changes(one)) or "as now"),
            )
    return table


def _alike(told: Iterable[Counted]) -> Iterator[tuple[list[str], Counted]]:
    """Commands of a persona that reach the same rows, with what is the same of them."""
    found: list[tuple[list[str], Counted]] = []
    for one in told:
        like = next((names for names, other in found if replace(other, command=one.command) == one), None)
        if like is not None:
            like.append(one.command)
        else:
            found.append(([one.command], one))
    yield from found


def _then(one: Counted) -> str:
    if one.error_then:
        return "?" if one.error_then.startswith(NOT_COUNTED) else "fails"
    return number(one.rows_then)


def _changes(one: Counted) -> Iterator[str]:
    for what, rows, keys in (("gains", one.gained, one.gained_keys), ("loses", one.lost, one.lost_keys)):
        if rows:
            yield f"{what} {number(rows)}{named(rows, keys)}"
    if one.error_then:
        yield one.error_then


def _marked(mark: str, text: str) -> Table:
    line = Table.grid(padding=(0, 2))
    line.add_column(style="yellow", no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(mark, cell(text))
    return line


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2))
