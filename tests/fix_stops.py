"""The verbs that stop a run, for tests that ask the same of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.producers import commands, pacing

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_runs import Engine

#: What a person says, and what it does to a run.
STOPS: dict[str, Callable[[Engine, int], object]] = {
    "pause": lambda engine, run: commands.pause(engine.connection, run, actor="ann"),
    "pause --all": lambda engine, _run: pacing.stop_all(engine.connection, actor="ann"),
    "cancel": lambda engine, run: commands.cancel(engine.connection, run, actor="ann"),
    "rollback": lambda engine, run: commands.rollback(engine.connection, run, actor="ann"),
}
