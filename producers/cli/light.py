"""`gate`, `status` and `--version` without typer and pydantic, and without rich where no table is drawn: two thirds of their start.

Scripts and people call these in loops. The answers are those of the whole command, from the same functions. What is unusual is left to
it: another option, a `backfilld.toml`, a variable beside the two URLs. This file decides that before anything is asked.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Settings that are taken as they are. Any other may be wrong, and a wrong one is refused by name.
PLAIN_SETTINGS = frozenset({"BACKFILLD_DATABASE_URL", "BACKFILLD_REDIS_URL"})


@dataclass(frozen=True)
class Call:
    """A call that can be answered here."""

    verb: str
    database_url: str = ""
    run: str = ""
    phase: str = "switch"


def answered(arguments: Sequence[str]) -> bool:
    """Answer the call if it is one of these. Ends the process with the exit code of an error, as the whole command does."""
    call = recognised(arguments, os.environ, has_file=Path("backfilld.toml").exists())
    if call is None:
        return False
    try:
        _VERBS[call.verb](call)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone. Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    return True


def recognised(arguments: Sequence[str], environment: Mapping[str, str], *, has_file: bool) -> Call | None:
    """The call, when nothing about it is unusual. Pure."""
    if list(arguments) in (["version"], ["--version"]) and not _is_completing(environment):
        return Call("version")
    left = list(arguments)
    url = environment.get("BACKFILLD_DATABASE_URL", "")
    if len(left) > 1 and left[0] == "--database-url":
        url, left = left[1], left[2:]
    if not url or has_file or _is_completing(environment) or not _has_plain_settings(environment):
        return None
    match left:
        case ["status", *flags] if flags in ([], ["--json"]):
            return Call("status" if flags else "overview", url)
        case ["gate", run] if _is_plain(run):
            return Call("gate", url, run)
        case ["gate", run, "--phase", phase] | ["gate", "--phase", phase, run] if _is_plain(run) and _is_plain(phase):
            return Call("gate", url, run, phase)
        case _:
            return None


def _has_plain_settings(environment: Mapping[str, str]) -> bool:
    # pydantic reads variables in any case; exactly these spellings are taken as they are.
    return all(name in PLAIN_SETTINGS for name in environment if name.upper().startswith("BACKFILLD_"))


def _is_plain(argument: str) -> bool:
    return re.fullmatch(r"[^-].*", argument) is not None


def _is_completing(environment: Mapping[str, str]) -> bool:
    return "_BACKFILLD_COMPLETE" in environment


def _version(_: Call) -> None:
    import backfilld  # noqa: PLC0415 - for this verb alone
    from backfilld.producers import answers  # noqa: PLC0415 - see the head

    answers.say(f"backfilld {backfilld.__version__}")


def _status(call: Call) -> None:
    from backfilld.migrations.record import runs  # noqa: PLC0415 - a call that is not answered here must not pay for psycopg
    from backfilld.monitoring import progress  # noqa: PLC0415 - as above
    from backfilld.producers import answers, waiting  # noqa: PLC0415 - as above

    @answers.told
    def status(*, as_json: bool) -> None:  # noqa: ARG001 - `told` prints errors by it
        with waiting.record(call.database_url) as connection:
            found = progress.read(connection, runs.listed(connection, ended=True))
        answers.print_json({"runs": [one.to_json() for one in found]})

    status(as_json=True)


def _overview(call: Call) -> None:
    from backfilld.producers import answers, waiting  # noqa: PLC0415 - as above

    @answers.told
    def status() -> None:
        with waiting.record(call.database_url) as connection:
            found, left_out = waiting.recent(connection)
        from backfilld.monitoring.display.overview import overview  # noqa: PLC0415 - rich, once there is something to draw

        console = answers.console()
        console.print(overview(found, width=console.width, left_out=left_out))

    status()


def _gate(call: Call) -> None:
    from backfilld.migrations.record.states import State  # noqa: PLC0415 - as above
    from backfilld.producers import answers, waiting  # noqa: PLC0415 - as above

    @answers.told
    def gate() -> None:
        phase = waiting.phase_named(call.phase)
        with waiting.record(call.database_url) as connection:
            run = waiting.require_open(connection, call.run, phase)
        answers.say(waiting.opened(run.name, phase))
        if run.state is State.WAITING:
            answers.next_of(run)

    gate()


_VERBS: dict[str, Callable[[Call], None]] = {
    "version": _version,
    "status": _status,
    "overview": _overview,
    "gate": _gate,
}
