"""The kinds of panels that the dashboards are made of: each the same everywhere, so that one glance is enough.

A panel's title is an operator's question. Its description says what to look at, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import heatmap as heatmaps
from grafana_foundation_sdk.models.dashboard import (
    DashboardFieldConfigSourceOverrides,
    DashboardLink,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColor,
    FieldColorModeId,
    FieldConfig,
    FieldConfigSource,
    GridPos,
    MatcherConfig,
    Panel,
    Threshold,
    ThresholdsConfig,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.monitoring.grafana.queries import Query

#: Whichever Prometheus the reader has chosen.
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
#: Where the dashboard of a run is; the table of runs and the exemplars lead there.
RUN_UID = "backfilld-run"

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY = "green", "yellow", "orange", "red", "blue", "purple", "text"

#: A value's text and colour. Colours are the same wherever the word appears.
STATES: Mapping[str, tuple[str, str]] = {
    "queued": ("queued", BLUE),
    "running": ("running", GREEN),
    "waiting": ("waiting for approval", ORANGE),
    "pausing": ("pausing", YELLOW),
    "paused": ("paused", ORANGE),
    "cancelling": ("cancelling", YELLOW),
    "rolling_back": ("rolling back", PURPLE),
    "failed": ("failed", RED),
}
PHASES: Mapping[str, tuple[str, str]] = {
    "expand": ("expand", BLUE),
    "backfill": ("backfill", GREEN),
    "verify": ("verify", "super-light-green"),
    "switch": ("switch", PURPLE),
    "contract": ("contract", ORANGE),
}
#: What holds a run, in words.
CAUSES: Mapping[str, str] = {
    "approval": "a person has to approve",
    "stop": "a person stopped all runs",
    "after": "it begins after another run",
    "window": "outside its hours",
    "load": "load on the database",
    "blind": "the load is unknown",
    "workers": "no worker can take work",
    "lock": "other sessions hold a lock",
    "index": "an index build waits for old transactions",
    "application": "a check of the application found something",
    "error": "every lane waits after an error",
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """How values are shown. `steps` are the values from which a colour holds; the first colour holds below them."""

    unit: str = "short"
    #: Below the first step, and without any.
    base: str = GREEN
    steps: Sequence[tuple[float, str]] = ()
    decimals: int | None = None
    least: float | None = None
    most: float | None = None
    #: What is said where there is no value.
    nothing: str | None = None
    #: Text and colour of single values, by how Prometheus writes them.
    words: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    #: Series by name, and what they are called instead.
    names: Mapping[str, str] = field(default_factory=dict)
    #: Series by name, and their colour.
    colours: Mapping[str, str] = field(default_factory=dict)
    #: Where a click on a value leads.
    link: str | None = None


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: the label or the query (`A`, `B`, …) it comes from, and how it looks."""

    source: str
    look: Look = Look()
    width: int | None = None
    #: Drawn as a bar from `look.least` to `look.most`.
    bar: bool = False


def stat_panel(title: str, description: str, *queries: Query, look: Look, size: tuple[int, int] = (4, 4)) -> Panel:
    """One number, or a few, coloured when they are bad."""
    return _panel(
        _stat(look, shapes.BigValueTextMode.AUTO), title, description, _instant(queries), look=look, size=size
    )


def words_panel(title: str, description: str, *queries: Query, look: Look, size: tuple[int, int] = (6, 4)) -> Panel:
    """What a series is called, and its number beside it: for states and reasons."""
    panel = _stat(look, shapes.BigValueTextMode.VALUE_AND_NAME)
    return _panel(panel, title, description, _instant(queries), look=look, size=size)


def names_panel(title: str, description: str, *queries: Query, look: Look, size: tuple[int, int] = (6, 4)) -> Panel:
    """What the series are called; their number says nothing."""
    panel = _stat(look, shapes.BigValueTextMode.NAME)
    return _panel(panel, title, description, _instant(queries), look=look, size=size)


def _stat(look: Look, text: shapes.BigValueTextMode) -> Panel:
    """A plain number without colours; a coloured ground where there is a value that is bad."""
    coloured = bool(look.steps or look.words)
    return (
        stat.Panel()
        .graph_mode(shapes.BigValueGraphMode.NONE)
        .color_mode(shapes.BigValueColorMode.BACKGROUND if coloured else shapes.BigValueColorMode.VALUE)
        .text_mode(text)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .build()
    )


def bars_panel(title: str, description: str, *queries: Query, look: Look, size: tuple[int, int] = (8, 7)) -> Panel:
    """A bar for each series, with its number: a list that sorts itself by eye."""
    builder = (
        bargauge.Panel()
        .orientation(shapes.VizOrientation.HORIZONTAL)
        .display_mode(shapes.BarGaugeDisplayMode.BASIC)
        .name_placement(shapes.BarGaugeNamePlacement.LEFT)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    )
    return _panel(builder.build(), title, description, _instant(queries), look=look, size=size)


def lines_panel(  # noqa: PLR0913 - what a panel is, and by keyword how it looks
    title: str,
    description: str,
    *queries: Query,
    look: Look,
    size: tuple[int, int] = (8, 8),
    stacked: bool = False,
    steps: bool = False,
) -> Panel:
    """Values over time. `stacked` for parts of a whole, `steps` for what is set and not measured."""
    builder = (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(25 if stacked else 8)
        .show_points(shapes.VisibilityMode.NEVER)
        .line_interpolation(shapes.LineInterpolation.STEP_AFTER if steps else shapes.LineInterpolation.LINEAR)
        .stacking(
            common.StackingConfig().mode(shapes.StackingMode.NORMAL if stacked else shapes.StackingMode.NONE).group("A")
        )
        .thresholds_style(
            common.GraphThresholdsStyleConfig().mode(
                shapes.GraphThresholdsStyleMode.DASHED if look.steps else shapes.GraphThresholdsStyleMode.OFF
            )
        )
        .tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(shapes.LegendDisplayMode.TABLE)
            .placement(shapes.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
            .sort_by("Max")
            .sort_desc(True)
        )
    )
    panel = _panel(builder.build(), title, description, [_target(query) for query in queries], look=look, size=size)
    # Lines are told apart by colour; the thresholds are lines of their own.
    _defaults(panel).color = FieldColor(mode=FieldColorModeId.PALETTE_CLASSIC)
    return panel


def timeline_panel(title: str, description: str, *queries: Query, look: Look, size: tuple[int, int] = (24, 7)) -> Panel:
    """A bar through time for each series, coloured by its value."""
    builder = (
        statetimeline.Panel()
        .merge_values(True)
        .show_value(shapes.VisibilityMode.AUTO)
        .row_height(0.8)
        .fill_opacity(80)
        .legend(common.VizLegendOptions().show_legend(False))
        .tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.SINGLE))
    )
    return _panel(builder.build(), title, description, [_target(query) for query in queries], look=look, size=size)


def heatmap_panel(title: str, description: str, query: Query, *, look: Look, size: tuple[int, int] = (12, 8)) -> Panel:
    """How a histogram is spread, over time."""
    builder = (
        heatmap.Panel()
        .calculate(False)
        .color(heatmap.HeatmapColorOptions().mode(heatmaps.HeatmapColorMode.SCHEME).scheme("Oranges").steps(32))
        .y_axis(heatmap.YAxisConfig().unit(look.unit))
        .cell_gap(1)
        .show_legend()
    )
    return _panel(builder.build(), title, description, [_target(query)], look=look, size=size)


def table_panel(
    title: str, description: str, *queries: Query, columns: Mapping[str, Column], size: tuple[int, int] = (24, 8)
) -> Panel:
    """A row for each thing, a column for each query. Queries share their labels but for those that are columns themselves."""
    builder = table.Panel().show_header(True).cell_height(shapes.TableCellHeight.SM)
    panel = _panel(builder.build(), title, description, _instant(queries, table=True), look=Look(), size=size)
    # A query with a single letter is a column called `Value #A`.
    sources = {
        name: f"Value #{column.source}" if len(column.source) == 1 else column.source
        for name, column in columns.items()
    }
    panel.transformations = [
        DataTransformerConfig(id_val="merge", options={}),
        DataTransformerConfig(
            id_val="organize",
            options={
                # The database is chosen above, and the time is now.
                "excludeByName": {"Time": True, "job": True},
                "indexByName": {source: place for place, source in enumerate(sources.values())},
                "renameByName": {source: name for name, source in sources.items()},
            },
        ),
    ]
    _config(panel).overrides = [_override(name, _of_column(column)) for name, column in columns.items()]
    return panel


def _of_column(column: Column) -> dict[str, object]:
    look = column.look
    wanted: dict[str, object] = {"unit": look.unit}
    if look.words:
        wanted["mappings"] = [_mapping(look.words)]
    if look.nothing is not None:
        wanted["noValue"] = look.nothing
    if column.bar:
        wanted["custom.cellOptions"] = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
        wanted["min"], wanted["max"] = look.least, look.most
    elif look.words or look.steps:
        wanted["custom.cellOptions"] = {"type": "color-text"}
    if look.steps or look.base != GREEN:
        wanted["thresholds"] = _thresholds(look)
        wanted["color"] = FieldColor(mode=FieldColorModeId.THRESHOLDS)
    if column.width is not None:
        wanted["custom.width"] = column.width
    if look.link is not None:
        wanted["links"] = [_to_the_run(look.link)]
    return wanted


def _panel(  # noqa: PLR0913 - what every panel has
    panel: Panel,
    title: str,
    description: str,
    targets: Sequence[prometheus.Dataquery],
    *,
    look: Look,
    size: tuple[int, int],
) -> Panel:
    """What all kinds have in common."""
    panel.title = title
    panel.description = description
    panel.datasource = SOURCE
    panel.targets = [target.ref_id(chr(ord("A") + number)).build() for number, target in enumerate(targets)]
    width, height = size
    panel.grid_pos = GridPos(w=width, h=height)
    defaults = _defaults(panel)
    defaults.unit = look.unit
    defaults.decimals = look.decimals
    defaults.min_val, defaults.max_val = look.least, look.most
    defaults.no_value = look.nothing
    defaults.thresholds = _thresholds(look)
    defaults.color = FieldColor(mode=FieldColorModeId.THRESHOLDS)
    if look.words:
        defaults.mappings = [_mapping(look.words)]
    if look.link is not None:
        defaults.links = [_to_the_run(look.link)]
    _config(panel).overrides = [
        _override(
            series,
            ({"displayName": look.names[series]} if series in look.names else {})
            | ({"color": FieldColor(FieldColorModeId.FIXED, look.colours[series])} if series in look.colours else {}),
        )
        for series in dict.fromkeys([*look.names, *look.colours])
    ]
    return panel


def _target(query: Query) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).range().datasource(SOURCE)
    if query.exemplars:
        target = target.exemplar(True)
    return target.format(PromQueryFormat.HEATMAP if query.buckets else PromQueryFormat.TIME_SERIES)


def _instant(queries: Sequence[Query], *, table: bool = False) -> list[prometheus.Dataquery]:
    """What is true now: a value of an hour ago must not stand for one that is gone."""
    kind = PromQueryFormat.TABLE if table else PromQueryFormat.TIME_SERIES
    return [_target(query).instant().format(kind) for query in queries]


def _config(panel: Panel) -> FieldConfigSource:
    if panel.field_config is None:
        panel.field_config = FieldConfigSource()
    return panel.field_config


def _defaults(panel: Panel) -> FieldConfig:
    return _config(panel).defaults


def _thresholds(look: Look) -> ThresholdsConfig:
    steps = [Threshold(value=None, color=look.base), *(Threshold(value=at, color=colour) for at, colour in look.steps)]
    return ThresholdsConfig(mode=ThresholdsMode.ABSOLUTE, steps=steps)


def _mapping(words: Mapping[str, tuple[str, str]]) -> ValueMap:
    results = {
        value: ValueMappingResult(text=text, color=colour, index=place)
        for place, (value, (text, colour)) in enumerate(words.items())
    }
    return ValueMap(options=results)


def _to_the_run(url: str) -> DashboardLink:
    # The time is in the URL: what the link offers for that is for links of dashboards.
    return DashboardLink(title="Open the run", type_val=DashboardLinkType.LINK, url=url)


def _override(name: str, wanted: Mapping[str, object]) -> DashboardFieldConfigSourceOverrides:
    return DashboardFieldConfigSourceOverrides(
        matcher=MatcherConfig(id_val="byName", options=name),
        properties=[DynamicConfigValue(id_val=key, value=value) for key, value in wanted.items()],
    )
