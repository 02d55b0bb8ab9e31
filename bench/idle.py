"""What a daemon costs that has nothing to do."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.daemon import Daemon
from bench.figures import Figure, Section, Target

if TYPE_CHECKING:
    from bench.effort import Effort
    from bench.stage import Database, Stage

#: Long enough for several verdicts of the governor, and two looks of each slow side task.
SECONDS, SECONDS_QUICK = 120.0, 30.0
#: After the start everything is looked at once; that is not what an idle hour costs.
SETTLE_SECONDS = 20.0
PROCESSES = 2
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def measure(stage: Stage, effort: Effort) -> Section:
    log = stage.embedded_here().log
    seconds = SECONDS_QUICK if effort.is_quick else SECONDS
    with stage.database(1) as database, Daemon(stage, database, processes=PROCESSES) as daemon:
        _log_statements(database, "all")
        try:
            time.sleep(SETTLE_SECONDS)
            began, spent, logged = time.monotonic(), _processor_seconds(daemon.pid), log.stat().st_size
            time.sleep(seconds)
            took = time.monotonic() - began
            spent = {name: now - spent.get(name, 0.0) for name, now in _processor_seconds(daemon.pid).items()}
            statements = _statements(log, logged)
        finally:
            _log_statements(database, "none")
    return Section(
        name="idle",
        title=f"Idle: a daemon of {PROCESSES} processes with no run, for {seconds:.0f} s",
        method=(
            "The daemon has started and no run is on record. Processor: user and system time of its processes, from "
            "/proc/PID/stat, as a share of one core. Statements: lines that log_statement = all writes for sessions whose "
            "application_name is ours, BEGIN and COMMIT among them."
        ),
        figures=(
            Figure(
                name="processor, all processes",
                values=(100 * sum(spent.values()) / took,),
                unit="% of a core",
                target=Target(at="most", value=1.0),
            ),
            *(
                Figure(name=f"processor, {name}", values=(100 * one / took,), unit="% of a core")
                for name, one in spent.items()
            ),
            Figure(
                name="statements a second",
                values=(statements / took,),
                target=Target(at="most", value=2.0),
            ),
        ),
    )


def _log_statements(database: Database, which: str) -> None:
    database.do(f"ALTER SYSTEM SET log_statement = '{which}'".encode())
    database.one("SELECT pg_reload_conf()")


def _statements(log: Path, after: int) -> int:
    with log.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(after)
        return sum(
            "] backfilld" in line and ("LOG:  statement: " in line or "LOG:  execute " in line) for line in lines
        )


def _processor_seconds(parent: int) -> dict[str, float]:
    """Of the daemon's processes, by what each is for."""
    spent = {"parent": _ticks(parent) / _TICKS_PER_SECOND}
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split():
        command = Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8").split("\0")
        name = "side tasks" if "control" in command else "lanes"
        spent[name] = spent.get(name, 0.0) + _ticks(int(child)) / _TICKS_PER_SECOND
    return spent


def _ticks(pid: int) -> int:
    """User and system time; see proc(5)."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    return int(after_name[11]) + int(after_name[12])
