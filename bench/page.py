"""The page of figures: each measurement is a block of it, and replaces its own when it is measured again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bench.figures import table_of
from bench.plots import draw

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.figures import Section, Table

PAGE = "README.md"
#: Of what stands between them nothing is written by hand.
BEGIN, END = "<!-- measured: {name} -->", "<!-- end: {name} -->"


def markdown(table: Table) -> str:
    """The same cells, as Markdown; a bar in a name would end its cell."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (table.columns, *table.rows)]
    rule = ["---", *(["---:"] * (len(table.columns) - 1))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:]))


def block(section: Section, *, where: str, machine: dict[str, str], pictures: Sequence[tuple[str, str]]) -> str:
    """One measurement: what was done, on what, and what came of it. `pictures` are files with their titles."""
    parts = [
        BEGIN.format(name=f"{section.name} on {where}"),
        f"### {section.title}",
        "\n".join(f"- {name}: {value}" for name, value in machine.items()),
        section.method,
        *(f"![{title}]({file})" for file, title in pictures),
        *(markdown(table) for table in section.tables),
        *([markdown(table_of(section.figures))] if section.figures else ()),
        END.format(name=f"{section.name} on {where}"),
    ]
    return "\n\n".join(parts)


def put(page: str, text: str) -> str:
    """The page with a block in place of the one of its name, or behind all others."""
    begin = text.partition("\n")[0]
    end = text.rpartition("\n")[2]
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if pattern.search(page):
        return pattern.sub(lambda _: text, page)
    return f"{page.rstrip()}\n\n{text}\n"


def write(section: Section, folder: Path, *, where: str, machine: dict[str, str]) -> None:
    """Put a measurement and its plots into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / PAGE
    page = file.read_text(encoding="utf-8") if file.exists() else "# Benchmarks\n"
    pictures = [(draw(plot, folder, prefix=f"{where}-").name, plot.title) for plot in section.plots]
    file.write_text(put(page, block(section, where=where, machine=machine, pictures=pictures)), encoding="utf-8")
