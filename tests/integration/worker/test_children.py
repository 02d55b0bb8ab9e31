"""The daemon's children on a slow machine: real processes, with the time limits made short."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from fix_daemon import until

from backfilld.worker import children
from backfilld.worker.children import Child, Condition, Signs, look_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Imports for some seconds of processor, as a child does that gets a tenth of one, and works then.
SLOW = """
import pathlib, sys, time
while time.process_time() < float(sys.argv[2]): pass
while True:
    pathlib.Path(sys.argv[1]).write_text("here")
    time.sleep(0.05)
"""
#: Waits for something that does not come.
STUCK = "import time; time.sleep(600)"
#: Reports once, and goes round in circles.
HUNG = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('here')\nwhile True: pass"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    made: list[Child] = []

    def child(name: str, script: str, *arguments: str) -> Child:
        heartbeat = tmp_path / name
        command = [sys.executable, "-I", "-S", "-c", script, str(heartbeat), *arguments]
        made.append(Child(name=name, command=command, environment=os.environ, heartbeat=heartbeat))
        return made[-1]

    yield child
    for one in made:
        if one.process is not None:
            one.process.kill()
            one.process.wait()


def look_until(what: str, looked_at: list[Child], condition: Callable[[], bool]) -> None:
    def looked() -> bool:
        look_at(looked_at)
        return condition()

    until(what, looked, patience_seconds=60)


def test_a_child_that_imports_slowly_is_left_alone(make: Callable[..., Child], monkeypatch: pytest.MonkeyPatch) -> None:
    """At a tenth of a processor a child imports for longer than a working one may be silent."""
    monkeypatch.setattr(children, "SILENCE_SECONDS", 0.3)
    slow = make("lanes-1", SLOW, "1.2")
    look_at([slow])
    assert (slow.live().ok, slow.ready().ok) == (True, False)
    assert "lanes-1 is starting: 0 s so far" in slow.ready().detail
    look_until("it to work", [slow], lambda: slow.condition is Condition.WORKING)
    assert slow.restarts == 0
    assert slow.ready().ok


def test_children_start_one_after_another(make: Callable[..., Child]) -> None:
    """Several that import at once only take longer each; one that cannot start keeps no other from it."""
    broken, second, third = (
        make("control", "raise SystemExit(3)"),
        make("lanes-1", SLOW, "0.3"),
        make("lanes-2", SLOW, "0"),
    )
    everybody = [broken, second, third]
    look_at(everybody)
    assert [child.condition for child in everybody[1:]] == [Condition.WAITING, Condition.WAITING]
    assert third.live().ok
    look_until("the second to start", everybody, lambda: second.condition is Condition.STARTING)
    assert third.condition is Condition.WAITING
    look_until("the others to work", everybody, lambda: second.alive and third.alive)
    assert broken.restarts >= 1


@pytest.mark.parametrize(
    ("script", "limit"),
    [
        pytest.param(STUCK, "STUCK_SECONDS", id="it has not reported, and gets no processor"),
        pytest.param(HUNG, "SILENCE_SECONDS", id="it has reported, and does no more"),
    ],
)
def test_a_child_that_is_stuck_is_replaced(
    make: Callable[..., Child], monkeypatch: pytest.MonkeyPatch, script: str, limit: str
) -> None:
    """One that has reported is not spared for the processor that it burns."""
    monkeypatch.setattr(children, limit, 0.5)
    stuck = make("lanes-1", script)
    look_until("it to be replaced", [stuck], lambda: stuck.restarts == 1)


def test_a_parent_that_was_frozen_itself_has_seen_no_silence() -> None:
    """When it wakes, the last reports of its children are old, and they had no time to make others."""
    signs = Signs(looked_at=0.0)
    signs.see(heartbeat=5.0, processor_seconds=1.0, now=5.0)
    signs.see(heartbeat=5.0, processor_seconds=1.0, now=5.0 + 10 * children.SILENCE_SECONDS)
    assert not signs.stuck
    for second in range(int(children.SILENCE_SECONDS)):
        signs.see(heartbeat=5.0, processor_seconds=1.0, now=1000.0 + second)
    assert signs.stuck
