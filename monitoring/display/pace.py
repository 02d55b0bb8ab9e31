"""The pace of a database and of a run on it, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.monitoring.words import signal_name, signal_value

if TYPE_CHECKING:
    from backfilld.migrations.record.model import Changed
    from backfilld.monitoring.pace import PaceReport


def changes(report: PaceReport) -> list[str]:
    """Each setting that was changed, before and after: those of the run, then that of the database."""
    of_run = [one for one in report.changed if one.name != "width"]
    of_database = [one for one in report.changed if one.name == "width"]
    told = []
    if report.run and of_run:
        changed = ", ".join(f"{one.name} {_before_and_after(one)}" for one in of_run)
        told.append(f"{report.run.name} (run {report.run.run}): {changed}, from the next batch on")
    told += [f"database: width at most {_before_and_after(one)}, for all runs" for one in of_database]
    return told


def pace(report: PaceReport) -> list[str]:
    """The pace of the database, the signals behind it, and the settings of the run."""
    held = f", hold: {report.hold_reason}" if report.hold_reason else ""
    told = [f"database: width {report.width} of at most {report.max_width}{held}"]
    for signal in report.signals:
        value = "cannot be read" if signal.value is None else signal_value(signal.name, signal.value)
        detail = f" ({signal.detail})" if signal.detail else ""
        slower = f", slower from {signal_value(signal.name, signal.soft)}" if signal.soft is not None else ""
        stops = f", held from {signal_value(signal.name, signal.hard)}" if signal.hard is not None else ""
        told.append(f"  {signal_name(signal.name)}: {value}{detail}{slower}{stops}")
    if report.run and report.settings:
        settings = report.settings.model_dump(
            mode="json", exclude={"allow_functions", "approve", "backup", "journal", "retention_days"}
        )
        told.append(f"{report.run.name} (run {report.run.run}):")
        told += [f"  {name}: {_setting(value)}" for name, value in settings.items()]
    return told


def _before_and_after(one: Changed) -> str:
    if one.before == one.after:
        return f"{_setting(one.after)} (unchanged)"
    return f"{_setting(one.before)} → {_setting(one.after)}"


def _setting(value: object) -> str:
    match value:
        case list():
            return "; ".join(str(one) for one in value) or "any time"
        case float():
            return f"{value:g}"
        case _:
            return str(value)
