"""The bench: `make bench`. Measures, prints, and judges nobody: a target missed is told, and the exit code is 0.

python bench/run.py [--quick] [--only ways,beside,…] [--json FILE] [--write docs/benchmarks]

On a PostgreSQL of its own that is thrown away, and then once more on the server that BACKFILLD_TEST_DATABASE_URL names.
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
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

# Run as a file, imports would begin in this folder; what is here are the modules of `bench`.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import (  # noqa: E402 - see above
    backup,
    beside,
    busy,
    commit,
    control,
    distance,
    give_way,
    idle,
    journal,
    loads,
    matrix,
    memory,
    observe,
    order,
    page,
    peers,
    rebuild,
    recovery,
    replica,
    scale,
    schema,
    speed,
    together,
    transform,
    trigger,
    undo,
)
from bench.effort import Effort, tell  # noqa: E402
from bench.figures import Section, table_of  # noqa: E402
from bench.stage import SETTINGS, NotHere, Stage  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

REPETITIONS = 3
#: Above this the machine was doing something else, and the figures are not worth keeping.
QUIET_LOAD = 0.5

#: What figures depend on where the settings are not ours.
TOLD = (*SETTINGS, "synchronous_commit", "full_page_writes")

MEASUREMENTS: dict[str, Callable[[Stage, Effort], Section]] = {
    "ways": matrix.measure,
    "beside": beside.measure,
    "order": order.measure,
    "scale": scale.measure,
    "speed": speed.measure,
    "distance": distance.measure,
    "busy": busy.measure,
    "commit": commit.measure,
    "memory": memory.measure,
    "control": control.measure,
    "recovery": recovery.measure,
    "give_way": give_way.measure,
    "replica": replica.measure,
    "schema": schema.measure,
    "transform": transform.measure,
    "trigger": trigger.measure,
    "journal": journal.measure,
    "load": loads.measure,
    "undo": undo.measure,
    "rebuild": rebuild.measure,
    "backup": backup.measure,
    "peers": peers.measure,
    "together": together.measure,
    "observe": observe.measure,
    "idle": idle.measure,
}


def main() -> None:
    arguments = _arguments()
    effort = Effort(repetitions=arguments.repetitions, is_quick=arguments.quick, rows=arguments.rows)
    reports = [
        _measure(where, server, effort, arguments.only, write=arguments.write)
        for where, server in _servers().items()
        if where in arguments.on
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps(reports, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _servers() -> dict[str, str | None]:
    """By name, with the URL of the one that is not ours."""
    servers: dict[str, str | None] = {"embedded": None}
    if url := os.environ.get("BACKFILLD_TEST_DATABASE_URL"):
        servers["own"] = url
    return servers


def _measure(where: str, server: str | None, effort: Effort, names: list[str], *, write: Path | None) -> dict[str, Any]:
    """All that was asked for on one server, as JSON (Any)."""
    began = time.monotonic()
    sections: list[Section] = []
    with (
        tempfile.TemporaryDirectory(prefix="backfilld-bench-") as folder,
        Stage(Path(folder), server=server) as stage,
    ):
        machine = _machine(stage)
        _say("\n".join(f"{name}: {value}" for name, value in machine.items()))
        for name in names:
            tell(f"{name} begins, after {(time.monotonic() - began) / 60:.0f} minutes")
            try:
                section = MEASUREMENTS[name](stage, effort)
            except NotHere as reason:
                _say(f"{name} is left out: {reason}")
                continue
            sections.append(section)
            _say(str(section))
            if write:
                page.write(section, write, where=where, machine=machine)
    judged = tuple(figure for section in sections for figure in section.figures if figure.target)
    if judged:
        _say(f"Targets, after {(time.monotonic() - began) / 60:.0f} minutes\n\n{table_of(judged)}")
    return {"where": where, "machine": machine, "sections": [section.to_json() for section in sections]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Measure backfilld on a PostgreSQL that is thrown away.")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, metavar="N", help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="everything once and smaller; not to be quoted")
    parser.add_argument("--rows", type=int, metavar="N", help="of the tables that ways are compared on")
    parser.add_argument(
        "--only", type=_names, default=list(MEASUREMENTS), metavar="NAMES", help=", ".join(MEASUREMENTS)
    )
    parser.add_argument(
        "--on",
        choices=("embedded", "own"),
        nargs="+",
        default=("embedded", "own"),
        help="which servers: one that is thrown away, the one BACKFILLD_TEST_DATABASE_URL names (default: both)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here, too")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write tables and plots here (docs/benchmarks)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repetitions = 1
    if arguments.repetitions < 1:
        parser.error("--repetitions: at least 1")
    if arguments.rows is not None and arguments.rows < 1000:
        parser.error("--rows: at least 1000")
    if arguments.write and find_spec("matplotlib") is None:
        parser.error('--write draws plots: pip install "backfilld[bench]"')
    return arguments


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in MEASUREMENTS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(MEASUREMENTS)}")
    return names


def _machine(stage: Stage) -> dict[str, str]:
    """What the figures depend on."""
    load = os.getloadavg()[0]
    with psycopg.connect(stage.url(), autocommit=True) as connection:
        settings = dict(
            connection.execute(
                "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s) ORDER BY name",
                [["server_version", *TOLD]],
            ).fetchall()
        )
        try:
            connection.execute("CHECKPOINT")
        except psycopg.errors.InsufficientPrivilege:
            settings["no CHECKPOINT before a measurement"] = "this role may not"
    version = settings.pop("server_version")
    return {
        "measured": time.strftime("%d %B %Y"),
        "machine": f"{os.cpu_count()} cores, {_processor()}, {_memory_gigabytes():.0f} GB, {platform.system()} {platform.release()}"
        + ("" if stage.embedded else "; the server may be elsewhere"),
        "PostgreSQL": f"{version}, {', '.join(f'{name} = {value}' for name, value in settings.items())}",
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
