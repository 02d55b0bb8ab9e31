"""Plots as SVG. matplotlib is needed for this alone, and comes with the extra `bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from bench.figures import Bars, Series, Spans, number

if TYPE_CHECKING:
    from pathlib import Path

#: Read as well on white as on black, which the page behind a transparent picture may be.
GREY = "#808890"
OTHERS, OURS = "#9aa3ad", "#2f81f7"
WIDTH_INCHES = 9.0
ROW_INCHES = 0.24
PANELS_BESIDE = 3


def draw(plot: Bars | Spans | Series, folder: Path, *, prefix: str = "") -> Path:
    """Write a plot; raises ImportError when matplotlib is not there."""
    import matplotlib as mpl  # noqa: PLC0415 - not needed by those who only measure

    mpl.use("svg")
    mpl.rcParams.update(
        {
            "svg.hashsalt": "backfilld",  # the same figures give the same file
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 9,
            **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
        }
    )
    match plot:
        case Bars():
            figure = _bars(plot)
        case Spans():
            figure = _spans(plot)
        case Series():
            figure = _series(plot)
        case _:
            assert_never(plot)
    file = folder / f"{prefix}{plot.name}.svg"
    figure.savefig(file, transparent=True, bbox_inches="tight", metadata={"Date": None})
    return file


def _bars(plot: Bars) -> Any:  # Any: matplotlib's figure
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    beside = min(PANELS_BESIDE, len(plot.panels))
    down = -(-len(plot.panels) // beside)
    ways = len(plot.panels[0][1])
    figure = Figure(figsize=(WIDTH_INCHES, down * (ways * ROW_INCHES + 0.45)), layout="constrained")
    figure.suptitle(plot.title, fontsize=11)
    axes = figure.subplots(down, beside, sharey=True, squeeze=False)
    most = max(value for _, bars in plot.panels for _, value in bars)
    for index, axis in enumerate(axes.flat):
        if index >= len(plot.panels):
            axis.set_visible(False)
            continue
        name, bars = plot.panels[index]
        axis.set_title(name, fontsize=9)
        names, values = [way for way, _ in bars], [value for _, value in bars]
        axis.barh(names, values, color=[_color(way) for way in names], height=0.7)
        for at, value in enumerate(values):
            axis.text(value + most * 0.02, at, number(value), va="center", fontsize=8)
        if plot.line is not None:
            axis.axvline(plot.line, color=GREY, linewidth=0.8, linestyle=":")
        axis.set_xlim(0, most * 1.18)
        _plain(axis)
        axis.set_xticks([])
        axis.spines["bottom"].set_visible(False)
    axes[0][0].invert_yaxis()  # once: the axes are shared
    return figure


def _spans(plot: Spans) -> Any:  # Any: as above
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = Figure(figsize=(WIDTH_INCHES, len(plot.rows) * ROW_INCHES * 2.2 + 0.8), layout="constrained")
    axis = figure.subplots()
    axis.set_title(plot.title, fontsize=11)
    for at, (name, without, with_) in enumerate(plot.rows):
        for values, shift, face in ((without, -0.16, "none"), (with_, 0.16, _color(name))):
            axis.plot(values, [at + shift] * len(values), color=_color(name), linewidth=1, alpha=0.6)
            axis.scatter(values, [at + shift] * len(values), s=26, facecolors=face, edgecolors=_color(name), zorder=3)
            # The first and the third are named, away from each other; those close by are in the table.
            for mark, side in ((0, "right"), (2, "left")):
                text = f"{plot.marks[mark]} {number(values[mark])}"
                offset = -5 if side == "right" else 5
                place = (values[mark], at + shift)
                axis.annotate(text, place, (offset, 3), textcoords="offset points", fontsize=7, ha=side)
    axis.set_yticks(range(len(plot.rows)), [name for name, _, _ in plot.rows])
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.margins(x=0.1)  # for the names of the first and the last mark
    axis.xaxis.set_major_formatter(lambda value, _: number(value))  # 100, not ten to the second
    axis.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
    _plain(axis)
    return figure


def _series(plot: Series) -> Any:  # Any: as above
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = Figure(figsize=(WIDTH_INCHES, 2.4), layout="constrained")
    axis = figure.subplots()
    axis.set_title(plot.title, fontsize=11)
    for name, values in plot.lines:
        axis.plot(
            range(1, len(values) + 1), values, color=_color(name), linewidth=1, marker="o", markersize=3, label=name
        )
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(lambda value, _: number(value))
    axis.yaxis.set_minor_formatter(lambda value, _: number(value))
    axis.set_xlabel(plot.across)
    axis.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
    axis.legend(frameon=False, fontsize=8)
    _plain(axis)
    return figure


def _plain(axis: Any) -> None:  # Any: matplotlib's axes
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(length=0)


def _color(way: str) -> str:
    return OURS if way.startswith("backfilld") else OTHERS
