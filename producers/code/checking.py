"""Runs the commands of a migration file against the schema of each phase, on the machine of the person who asks.

A command that fails today as well proves nothing: what counts is a failure, or a line of one, that is new in a later phase.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backfilld.migrations.errors import UsageError
from backfilld.migrations.planning.planned_schema import At
from backfilld.producers.code import schema_types

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from backfilld.migrations.file.application_checks import Command
    from backfilld.migrations.identifiers import TableName
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
    #: Whether it says anything else where the tables of the migration are not in the types; None where that was not asked.
    sees_types: bool | None = None

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
            "sees_types": self.sees_types,
            "runs": [one.to_json() for one in self.ran],
        }


def check(  # noqa: PLR0913 - each is named where it is called
    commands: Sequence[Command],
    schemas_of: Callable[[Sequence[str]], Mapping[At, PlannedSchema]],
    *,
    tables: Collection[TableName] = (),
    until: At = At.CONTRACT,
    folder: Path | None = None,
    tell: Callable[[str], None] | None = None,
) -> tuple[Verdict, ...]:
    """Run each command once for each phase up to `until`, in the current folder. Raises UsageError for one that cannot be run at all.

    `schemas_of` gives the planned schema; it is asked once for each list of schemas. A command that finds nothing is run once more with
    types that lack `tables`: what passes then as well has not looked at them. `tell` hears what is being run.
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
            one = _Command(command, folder, types_file, tell)
            verdict = one.check(known[command.schemas], phases)
            if verdict.fails_from is None and not verdict.fails_today:
                verdict = replace(verdict, sees_types=one.sees(known[command.schemas][At.TODAY], tables))
            verdicts.append(verdict)
    return tuple(verdicts)


class _Command:
    """One command, and the file that holds the types while it runs."""

    def __init__(
        self, command: Command, folder: Path, types_file: Path | None, tell: Callable[[str], None] | None
    ) -> None:
        self._command = command
        self._folder = folder
        self._types_file = types_file
        self._tell = tell
        self._today: Counter[str] = Counter()

    def check(self, schemas: Mapping[At, PlannedSchema], phases: Sequence[At]) -> Verdict:
        ran: list[Ran] = []
        failed_today = False
        before: tuple[str, int, Counter[str]] | None = None
        for at in phases:
            text = self._types(schemas[at])
            if before is not None and before[0] == text:
                code, lines = before[1:]  # the same types, or none: the command would say the same
            else:
                code, lines = self._run(text, str(at))
            before = text, code, lines
            if at is At.TODAY:
                self._today, failed_today = lines, code != 0
            more = [line for line in (lines - self._today) if line] if code != 0 else []
            ran.append(
                Ran(
                    at=at,
                    exit_code=code,
                    new_lines=tuple(line[:_MOST_CHARACTERS] for line in more[:_MOST_LINES]),
                    is_new=code != 0 and at is not At.TODAY and (not failed_today or bool(more)),
                )
            )
        return Verdict(name=self._command.name, ran=tuple(ran))

    def sees(self, today: PlannedSchema, tables: Collection[TableName]) -> bool | None:
        """Whether it misses these tables in the types of today; None where they are in none."""
        left = replace(today, relations=tuple(one for one in today.relations if one.name not in tables))
        if self._types_file is None or left.relations == today.relations:
            return None
        code, lines = self._run(self._types(left), "without the tables of the migration")
        return code != 0 or lines != self._today

    def _types(self, schema: PlannedSchema) -> str:
        if self._types_file is None:
            return ""
        return schema_types.text(schema, "python" if self._types_file.suffix == ".py" else "typescript")

    def _run(self, types: str, at: str) -> tuple[int, Counter[str]]:
        if self._tell is not None:
            self._tell(f"{self._command.name}: {at}")
        if self._types_file is not None:
            self._types_file.write_text(types, encoding="utf-8")
        return _run(self._command, self._folder)


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
