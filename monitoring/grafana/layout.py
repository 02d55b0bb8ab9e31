"""A dashboard from its panels: where each stands, what can be chosen at the top, what is marked in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from grafana_foundation_sdk.models.dashboard import (
    AnnotationContainer,
    AnnotationQuery,
    Dashboard,
    DashboardCursorSync,
    DashboardDashboardTemplating,
    DashboardDashboardTime,
    DashboardLink,
    DashboardLinkType,
    GridPos,
    Panel,
    RowPanel,
    TimePickerConfig,
    VariableHide,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
    VariableType,
)

from backfilld.monitoring.grafana.panels import BLUE, ORANGE, SOURCE
from backfilld.monitoring.grafana.queries import select

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = 24
#: What the four have in common, by which they find each other.
TAG = "backfilld"


class _Interval(TypedDict):
    auto: None
    auto_min: None
    auto_count: None


#: The SDK writes what only variables of intervals have into all of them; Grafana's schema does not know it there.
_NO_INTERVAL = _Interval(auto=None, auto_min=None, auto_count=None)


@dataclass(frozen=True, kw_only=True)
class Section:
    """Panels from left to right, going on below where a line is full. Without a title they need no heading."""

    panels: Sequence[Panel]
    title: str | None = None
    #: Closed until a reader opens it; until then its queries are not made.
    closed: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """What makes a dashboard, but for what all have."""

    uid: str
    title: str
    description: str
    sections: Sequence[Section]
    variables: Sequence[VariableModel] = ()
    annotations: Sequence[AnnotationQuery] = ()
    since: str = "now-1h"


class Mark(AnnotationQuery):
    """An annotation from Prometheus. The SDK has no field for what its data source reads beside the expression."""

    def __init__(self, name: str, expression: str, *, title: str, text: str, colour: str) -> None:
        super().__init__(name=name, datasource=SOURCE, expr=expression, icon_color=colour)
        self.title_format = title
        self.text_format = text

    def to_json(self) -> dict[str, object]:
        return super().to_json() | {
            "titleFormat": self.title_format,
            "textFormat": self.text_format,
            "tagKeys": "run,phase,state,reason",
            # Several scrapes, however long they are apart: a window without one would mark every run as new.
            "step": "60s",
        }


def dashboard(page: Page) -> Dashboard:
    """The dashboard of a page. Ids are numbers in reading order."""
    return Dashboard(
        uid=page.uid,
        title=page.title,
        description=page.description,
        tags=[TAG],
        timezone="browser",
        # What is provisioned is changed in the code: docs/dashboards.md
        editable=False,
        graph_tooltip=DashboardCursorSync.CROSSHAIR,
        time=DashboardDashboardTime(from_val=page.since, to="now"),
        timepicker=TimePickerConfig(refresh_intervals=["5s", "10s", "30s", "1m", "5m"]),
        refresh="10s",
        panels=_placed(page.sections),
        templating=DashboardDashboardTemplating(list_val=[_source(), _job(), *page.variables]),
        annotations=AnnotationContainer(list_val=list(page.annotations)),
        links=[
            DashboardLink(
                title="backfilld",
                type_val=DashboardLinkType.DASHBOARDS,
                tags=[TAG],
                as_dropdown=False,
                include_vars=True,
                keep_time=True,
            )
        ],
    )


def _placed(sections: Sequence[Section]) -> list[Panel | RowPanel]:
    placed: list[Panel | RowPanel] = []
    number, top = 0, 0
    for section in sections:
        row: RowPanel | None = None
        if section.title is not None:
            number += 1
            row = RowPanel(title=section.title, collapsed=section.closed, id_val=number, panels=[])
            row.grid_pos = GridPos(x=0, y=top, w=COLUMNS, h=1)
            placed.append(row)
            top += 1
        left, height = 0, 0
        for panel in section.panels:
            assert panel.grid_pos is not None  # noqa: S101 - every panel of `panels` has a size
            if left + panel.grid_pos.w > COLUMNS:
                top, left, height = top + height, 0, 0
            number += 1
            panel.id_val = number
            panel.grid_pos.x, panel.grid_pos.y = left, top
            left, height = left + panel.grid_pos.w, max(height, panel.grid_pos.h)
            if row is not None and section.closed:
                row.panels.append(panel)
            else:
                placed.append(panel)
        top += height
    return placed


def _source() -> VariableModel:
    return VariableModel(
        type_val=VariableType.DATASOURCE,
        name="datasource",
        label="Prometheus",
        description="The Prometheus that scrapes the workers.",
        query="prometheus",
        hide=VariableHide.DONT_HIDE,
        refresh=VariableRefresh.ON_DASHBOARD_LOAD,
        **_NO_INTERVAL,
    )


def _job() -> VariableModel:
    return variable(
        "job",
        "Database",
        "label_values(backfilld_database_up, job)",
        "The Prometheus job: one for each target database.",
    )


def variable(  # noqa: PLR0913 - most have a name and a query alone
    name: str, label: str, query: str, description: str, *, several: bool = False, everything: str | None = None
) -> VariableModel:
    """A choice among the values of a label. `several`: any number of them, and all of them to begin with.

    `everything` stands for all of them in a query, those included that come later.
    """
    return VariableModel(
        type_val=VariableType.QUERY,
        name=name,
        label=label,
        description=description,
        # The form in which Grafana writes it down itself; 1 says that label values are asked for.
        query={"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        datasource=SOURCE,
        # Also the runs that had ended by then are found in a time that is over.
        refresh=VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=VariableSort.ALPHABETICAL_ASC,
        multi=several,
        include_all=several,
        all_value=everything,
        current=VariableOption(selected=True, text=["All"], value=["$__all"]) if several else None,
        hide=VariableHide.DONT_HIDE,
        **_NO_INTERVAL,
    )


def state_changes(*matchers: str) -> list[AnnotationQuery]:
    """Marks where a run changed its phase or state, and where it ended.

    Each looks at the time from one point of the query to the next, and at as much before it: no change falls between two
    points, and none is marked twice. A time in which the record could not be read, or nobody scraped, marks nothing.
    """
    window, earlier = "[$__interval]", "[$__interval] offset $__interval"
    seen = select("backfilld_run_info", *matchers)
    now, before = f"last_over_time({seen}{window})", f"last_over_time({seen}{earlier})"
    was_readable, is_readable = (
        f"(max by (job) (max_over_time({select('backfilld_database_up')}{when})) == 1)" for when in (earlier, window)
    )
    standing, run = "max by (job, run, phase, state)", "max by (job, run)"
    return [
        Mark(
            "Changes of runs",
            f"({standing} ({now}) unless {standing} ({before})) and on (job) {was_readable}",
            title="{{run}}: {{phase}}, {{state}}",
            text="Who did it, and why: backfilld events {{run}}",
            colour=BLUE,
        ),
        Mark(
            "Ends of runs",
            f"({run} ({before}) unless {run} ({now})) and on (job) {is_readable}",
            title="{{run}} has ended",
            text="Completed, cancelled or rolled back: backfilld status {{run}}",
            colour="#8e8e8e",
        ),
    ]


def holds() -> AnnotationQuery:
    """Marks the times in which load held all work."""
    return Mark(
        "Holds by load",
        f"max by (job, reason) ({select('backfilld_hold_info')})",
        title="held: {{reason}}",
        text="All runs wait until {{reason}} can be read and is below its hard limit.",
        colour=ORANGE,
    )
