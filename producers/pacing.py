"""How fast a run and a database may be worked, as people ask: settings of a run, the width of the database, the stop of all runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backfilld.migrations.errors import BackfilldError, UsageError
from backfilld.migrations.identifiers import Wrong
from backfilld.migrations.record import audit, lanes, pace, runs
from backfilld.migrations.record.model import Changed
from backfilld.migrations.record.states import ENDED
from backfilld.producers.locked import at_once, change

if TYPE_CHECKING:
    from backfilld.migrations.file.run_settings import RunSettings
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.pace import Stop
    from backfilld.migrations.record.runs import LockedRun

#: The narrowest and widest that `pace --width` takes; `pace` in the schema holds the same.
WIDTHS = range(1, 65)


def tune(
    connection: Connection,
    reference: int | str | None,
    changes: dict[str, Any],  # Any: values of RunSettings, checked there
    *,
    width: int | None,
    actor: str,
) -> tuple[Changed, ...]:
    """Change how a run behaves from its next batch on, and how many lanes of this database may work at once.

    Returns each setting that was named, with its value before. Without a run only the width can be changed.
    """
    if not changes and width is None:
        return ()
    if width is not None and width not in WIDTHS:
        msg = f"--width: {width} is not between {WIDTHS[0]} and {WIDTHS[-1]}"
        raise UsageError(msg)
    changed: list[Changed] = []

    def act(locked: LockedRun) -> None:
        if locked.state in ENDED:
            msg = f"run {locked.name} is {locked.state.words}; it has no pace to change"
            raise UsageError(msg)
        if changes:
            changed.extend(_tune(connection, locked, changes, actor=actor))
        if width is not None:
            changed.append(_set_width(connection, width, run=locked.run, actor=actor))

    if reference is not None:
        change(connection, reference, act)
        return tuple(changed)
    if changes:
        option = _option(next(iter(changes)))
        msg = f"{option} belongs to a run; name the run: backfilld pace RUN {option} …"
        raise UsageError(msg)
    if width is not None:
        with at_once(connection, "the pace of this database"):
            changed.append(_set_width(connection, width, run=None, actor=actor))
    return tuple(changed)


def _tune(
    connection: Connection, locked: LockedRun, changes: dict[str, Any], *, actor: str
) -> list[Changed]:  # Any: as above
    settings = _tuned(locked.settings, changes)
    before, after = locked.settings.model_dump(mode="json"), settings.model_dump(mode="json")
    different = {name: (before[name], after[name]) for name in changes if before[name] != after[name]}
    if different:
        runs.tune(connection, locked.run, settings, changes=different, actor=actor)
    if "windows" in different:
        # Lanes that sleep until the old window opens must look at the new ones.
        lanes.wake_run(connection, locked.run, coordinator=False)
    return [Changed(name=name, before=before[name], after=after[name]) for name in changes]


def _tuned(settings: RunSettings, changes: dict[str, Any]) -> RunSettings:  # Any: checked here
    from pydantic import ValidationError  # noqa: PLC0415 - a quarter of the start of a command, for this one alone

    from backfilld.migrations.file.run_settings import RunSettings  # noqa: PLC0415 - as above

    try:
        return RunSettings.model_validate({**settings.model_dump(mode="json"), **changes})
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        option = _option(str(first["loc"][0]))
        wrong = first.get("ctx", {}).get("error")
        if isinstance(wrong, Wrong):
            msg = f"{option}: {wrong}"
        else:
            msg = f"{option}: {first['input']} is not possible: {first['msg'].removeprefix('Input ')}"
        raise UsageError(msg) from None


def _option(setting: str) -> str:
    return "--window" if setting == "windows" else "--" + setting.replace("_", "-")


def _set_width(connection: Connection, width: int, *, run: int | None, actor: str) -> Changed:
    before = pace.read(connection).max_width
    if width != before:
        pace.set_max_width(connection, width)
        audit.record(connection, run, actor=actor, what="pace.width", max_width=(before, width))
    return Changed(name="width", before=before, after=width)


def stop_all(connection: Connection, *, actor: str) -> Stop:
    """Stop all runs of the database, runs enqueued later included, until the stop is lifted; returns who asked first."""
    with at_once(connection, "the pace of this database"):
        pace.stop_all(connection, actor=actor)
        stop = pace.read_stop(connection)
    if stop is None:  # another client lifted it between the two statements
        msg = "another client lifted the stop at the same moment; ask again"
        raise BackfilldError(msg)
    return stop


def resume_all(connection: Connection, *, actor: str) -> bool:
    """Lift the stop of all runs; a run with a pause of its own stays paused. False when there was none."""
    with at_once(connection, "the pace of this database"):
        return pace.resume_all(connection, actor=actor)
