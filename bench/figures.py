"""What a measurement brings home: figures, each with its unit and perhaps a target, and tables to print."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, Literal

MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a figure should be. Missing one is reported, and is no error."""

    at: Literal["least", "most"]
    value: float

    def met_by(self, value: float) -> bool:
        return value >= self.value if self.at == "least" else value <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at == 'least' else '≤'} {self.value:g}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number, as often as it was measured."""

    name: str
    values: tuple[float, ...]
    unit: str = ""
    target: Target | None = None
    #: How many measurements become one.
    taken: Literal["median", "max", "min"] = "median"

    @property
    def value(self) -> float:
        if self.taken == "median":
            return statistics.median(self.values)
        return max(self.values) if self.taken == "max" else min(self.values)

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        return "✓" if self.target.met_by(self.value) else "✗"

    def to_json(self) -> dict[str, Any]:
        """Any: JSON."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "taken": self.taken,
            "values": list(self.values),
            "target": str(self.target) if self.target else None,
            "met": self.target.met_by(self.value) if self.target else None,
        }


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows side by side; the first column is their name, the others are numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        widths = [max(len(row[column]) for row in (self.columns, *self.rows)) for column in range(len(self.columns))]
        lines = [
            "  ".join(cell.ljust(width) if number == 0 else cell.rjust(width) for number, (cell, width) in cells)
            for cells in (enumerate(zip(row, widths, strict=True)) for row in (self.columns, *self.rows))
        ]
        return "\n".join(line.rstrip() for line in lines)


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A plot: panels of the same ways, a bar for each."""

    #: Of the file.
    name: str
    title: str
    panels: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
    #: What the bars are to be seen against.
    line: float | None = None


@dataclass(frozen=True, kw_only=True)
class Spans:
    """A plot: for each way a few marks on one line, without it (hollow) and with it (filled)."""

    name: str
    title: str
    marks: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Series:
    """A plot: values one after the other, a line for each name."""

    name: str
    title: str
    lines: tuple[tuple[str, tuple[float, ...]], ...]
    #: What is counted along the line.
    across: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """One measurement's answer."""

    name: str
    title: str
    #: What was done, and what is divided by what.
    method: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = field(default=())
    plots: tuple[Bars | Spans | Series, ...] = ()

    def __str__(self) -> str:
        parts = [self.title, *(str(table) for table in self.tables)]
        if self.figures:
            parts.append(str(table_of(self.figures)))
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Any: JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "method": self.method,
            "figures": [figure.to_json() for figure in self.figures],
            "tables": [{"columns": table.columns, "rows": table.rows} for table in self.tables],
        }


def table_of(figures: tuple[Figure, ...]) -> Table:
    """Figures as a table, the least and the greatest measurement beside what counts."""
    return Table(
        columns=("figure", "value", "unit", "measured", "least", "most", "target", ""),
        rows=tuple(
            (
                figure.name,
                number(figure.value),
                figure.unit,
                f"{figure.taken} of {len(figure.values)}" if len(figure.values) > 1 else "once",
                number(min(figure.values)),
                number(max(figure.values)),
                str(figure.target or ""),
                figure.verdict,
            )
            for figure in figures
        ),
    )


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
