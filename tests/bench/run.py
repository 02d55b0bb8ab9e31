"""The bench: `make bench`. Measures, prints, and judges nobody: a target missed is told, and the exit code is 0.

python tests/bench/run.py [--quick] [--only speed,busy,…] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

# Run as a file, this folder is where imports begin; what is here are the modules of `bench`.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import busy, control, memory, recovery, speed, trigger  # noqa: E402 - see above
from bench.figures import Section, table_of  # noqa: E402
from bench.stage import SETTINGS, Stage  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

REPETITIONS = 3
#: Above this the machine was doing something else, and the figures are not worth keeping.
QUIET_LOAD = 0.5

MEASUREMENTS: dict[str, Callable[[Stage, int], Section]] = {
    "speed": speed.measure,
    "busy": busy.measure,
    "memory": memory.measure,
    "control": control.measure,
    "recovery": recovery.measure,
    "trigger": trigger.measure,
}


def main() -> None:
    arguments = _arguments()
    began = time.monotonic()
    sections: list[Section] = []
    with tempfile.TemporaryDirectory(prefix="backfilld-bench-") as folder, Stage(Path(folder)) as stage:
        machine = _machine(stage)
        _say("\n".join(f"{name}: {value}" for name, value in machine.items()))
        for name in arguments.only:
            section = MEASUREMENTS[name](stage, arguments.repetitions)
            sections.append(section)
            _say(str(section))
    judged = tuple(figure for section in sections for figure in section.figures if figure.target)
    if judged:
        _say(f"Targets, after {(time.monotonic() - began) / 60:.0f} minutes\n\n{table_of(judged)}")
    if arguments.json:
        report = {"machine": machine, "sections": [section.to_json() for section in sections]}
        arguments.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Measure backfilld on a PostgreSQL that is thrown away.")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, metavar="N", help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="one repetition, fewer pauses and kills")
    parser.add_argument(
        "--only", type=_names, default=list(MEASUREMENTS), metavar="NAMES", help=", ".join(MEASUREMENTS)
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here, too")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repetitions = 1
    if arguments.repetitions < 1:
        parser.error("--repetitions: at least 1")
    return arguments


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in MEASUREMENTS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(MEASUREMENTS)}")
    return names


def _machine(stage: Stage) -> dict[str, Any]:
    """What the figures depend on. Any: JSON."""
    load = os.getloadavg()[0]
    with psycopg.connect(stage.postgres.url()) as connection:
        version = connection.execute("SHOW server_version").fetchone()
    return {
        "machine": f"{os.cpu_count()} cores, {_processor()}, {_memory_gigabytes():.0f} GB, {platform.system()} {platform.release()}",
        "PostgreSQL": f"{version[0] if version else '?'}, {', '.join(f'{name} = {value}' for name, value in SETTINGS.items())}",
        "Python": platform.python_version(),
        "load before": f"{load:.2f}" + ("" if load < QUIET_LOAD else ", NOT QUIET"),
    }


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _memory_gigabytes() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _say(text: str) -> None:
    sys.stdout.write(text + "\n\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
