"""Runs the commands of a migration file against the schema of each phase, on the machine of the person who asks.

A command that fails today as well proves nothing: what counts is a failure, or a line of one, that is new in a later phase.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backfilld.migrations.errors import UsageError
from backfilld.migrations.planning.planned_schema import At
from backfilld.producers.code import schema_types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from backfilld.migrations.file.application_checks import Command
    from backfilld.migrations.planning.planned_schema import PlannedSchema

#: As many new lines of one run are told and put on record.
_MOST_LINES = 20
#: Longer lines are cut: a compiler may print a whole type.
_MOST_CHARACTERS = 300
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
#: What the exit code is called where there was none.
_TIMED_OUT, _NOT_STARTED = "timed out", "could not be started"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One run of a command."""

    at: At
    exit_code: int
    #: Lines that it did not print today; of a run that succeeded, none.
    new_lines: tuple[str, ...] = ()
    #: It fails, and what it says is new: it succeeded today, or said less.
    is_new: bool = False

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {"at": str(self.at), "exit_code": self.exit_code, "new": self.is_new, "lines": list(self.new_lines)}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one command says of each phase."""

    name: str
    ran: tuple[Ran, ...]

    @property
    def fails_from(self) -> At | None:
        """The first phase with a failure that today does not have."""
        return next((one.at for one in self.ran if one.is_new), None)

    @property
    def fails_today(self) -> bool:
        return any(one.at is At.TODAY and one.exit_code != 0 for one in self.ran)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            "name": self.name,
            "passes": self.fails_from is None,
            "fails_from": str(self.fails_from) if self.fails_from else None,
            "fails_today": self.fails_today,
            "runs": [one.to_json() for one in self.ran],
        }


def check(
    commands: Sequence[Command],
    schemas_of: Callable[[Sequence[str]], Mapping[At, PlannedSchema]],
    *,
    until: At = At.CONTRACT,
    folder: Path | None = None,
    tell: Callable[[str], None] | None = None,
) -> tuple[Verdict, ...]:
    """Run each command once for each phase up to `until`, in the current folder. Raises UsageError for one that cannot be run at all.

    `schemas_of` gives the planned schema; it is asked once for each list of schemas. `tell` hears what is being run.
    """
    folder = folder or Path.cwd()
    phases = list(At)[: list(At).index(until) + 1]
    known: dict[tuple[str, ...], Mapping[At, PlannedSchema]] = {}
    verdicts = []
    for command in commands:
        if command.schemas not in known:
            known[command.schemas] = schemas_of(command.schemas)
        types_file = folder / command.types_to if command.types_to is not None else None
        with _put_back(types_file):
            verdicts.append(_check(command, known[command.schemas], phases, folder, types_file, tell))
    return tuple(verdicts)


def _check(  # noqa: PLR0913, PLR0917 - a command, the schemas, and where
    command: Command,
    schemas: Mapping[At, PlannedSchema],
    phases: Sequence[At],
    folder: Path,
    types_file: Path | None,
    tell: Callable[[str], None] | None,
) -> Verdict:
    ran: list[Ran] = []
    today: Counter[str] = Counter()
    failed_today = False
    before: tuple[str, int, Counter[str]] | None = None
    for at in phases:
        text = ""
        if types_file is not None:
            text = schema_types.text(schemas[at], "python" if types_file.suffix == ".py" else "typescript")
        if before is not None and before[0] == text:
            code, lines = before[1:]  # the same types, or none: the command would say the same
        else:
            if tell is not None:
                tell(f"{command.name}: {at}")
            if types_file is not None:
                types_file.write_text(text, encoding="utf-8")
            code, lines = _run(command, folder)
        before = text, code, lines
        if at is At.TODAY:
            today, failed_today = lines, code != 0
        more = [line for line in (lines - today) if line] if code != 0 else []
        ran.append(
            Ran(
                at=at,
                exit_code=code,
                new_lines=tuple(line[:_MOST_CHARACTERS] for line in more[:_MOST_LINES]),
                is_new=code != 0 and at is not At.TODAY and (not failed_today or bool(more)),
            )
        )
    return Verdict(name=command.name, ran=tuple(ran))


def _run(command: Command, folder: Path) -> tuple[int, Counter[str]]:
    """The exit code of a command, and the lines that it printed."""
    try:
        done = subprocess.run(  # noqa: S603 - the file's own command, which the person who calls this asks for
            command.run,
            cwd=folder,
            env={**os.environ, "NO_COLOR": "1"},
            capture_output=True,
            timeout=command.timeout_seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as exc:
        msg = f"{command.name}: {command.run[0]} {_TIMED_OUT} after {command.timeout_seconds:g} s; see timeout_seconds"
        raise UsageError(msg) from exc
    except OSError as exc:
        msg = f"{command.name}: {command.run[0]} {_NOT_STARTED}: {exc.strerror or exc}"
        raise UsageError(msg) from exc
    printed = (done.stdout + b"\n" + done.stderr).decode("utf-8", "replace")
    return done.returncode, Counter(_line(one) for one in printed.splitlines())


def _line(text: str) -> str:
    """A line without what differs from run to run: colours, and how long something took."""
    return re.sub(r"\b\d+(\.\d+)? ?(ms|s|sec|seconds)\b", "", _COLOURS.sub("", text)).strip()


@contextmanager
def _put_back(file: Path | None) -> Iterator[None]:
    """Whatever happens, the file is afterwards as it was; after a kill, the next check puts it back first."""
    if file is None:
        yield
        return
    kept = file.with_name(f".{file.name}.backfilld-kept")
    try:
        if kept.exists():
            kept.replace(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        was_there = file.exists()
        if was_there:
            kept.write_bytes(file.read_bytes())
        try:
            yield
        finally:
            if was_there:
                kept.replace(file)
            else:
                file.unlink(missing_ok=True)
    except OSError as exc:
        msg = f"{file} cannot be written: {exc.strerror or exc}"
        raise UsageError(msg) from exc
