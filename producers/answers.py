"""What the command prints: answers, the next step, warnings and errors, and the exit code of each error.

An answer goes to stdout, as text or as one JSON object; warnings and errors go to stderr. Nothing here imports rich until
there is something to draw or a terminal to colour: scripts call these verbs in loops.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TextIO, TypeVar

from backfilld.migrations.errors import BackfilldError, InvalidMigration, NotFinished, Refused, Unreachable
from backfilld.monitoring.next_command import next_command
from backfilld.monitoring.words import redact, safe

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, RenderableType

    from backfilld.migrations.record.model import Run
    from backfilld.monitoring.progress import Progress

P = ParamSpec("P")
R = TypeVar("R")


# --- answers -----------------------------------------------------------------------------------------------------------


def give(*, as_json: bool, value: Callable[[], dict[str, Any]], text: Callable[[], RenderableType]) -> None:
    """The answer of a verb: one JSON object, or what a person reads. Any: JSON."""
    if as_json:
        print_json(value())
        return
    shown = text()
    if isinstance(shown, str):
        say(shown)
    else:
        console().print(shown)


def console(*, stderr: bool = False) -> Console:
    from rich.console import Console  # noqa: PLC0415 - see the head

    # A new one each time: the streams may have been replaced since this module was imported.
    return Console(stderr=stderr, highlight=False)


def say(text: str) -> None:
    """Plain lines, each made safe for a terminal and never wrapped."""
    sys.stdout.write("".join(f"{safe(line)}\n" for line in text.splitlines()))


def print_json(value: dict[str, Any], *, indent: int | None = None) -> None:  # Any: JSON
    sys.stdout.write(json.dumps(value, indent=indent, default=str) + "\n")


def answer(now: Progress, *, as_json: bool, before: str = "") -> None:
    """Where the run is after a command: a line `before`, the run, and what to type next."""
    if as_json:
        print_json(now.to_json())
        return
    from backfilld.monitoring.display import line  # noqa: PLC0415 - see the head

    if before:
        say(before)
    say(line(now))
    next_of(now)


def next_of(now: Progress | Run) -> None:
    """The line that names what to type next; none for a run that is over."""
    from backfilld.migrations.holds import Cause  # noqa: PLC0415 - whoever has a run has it, and `version` has none

    hold = getattr(now, "hold", None)  # of a `Progress`
    has_worker = hold is None or hold.cause is not Cause.WORKERS
    if then := next_command(now.name, now.state, now.phase, error_class=now.error_class, has_worker=has_worker):
        next_step(then)


def next_step(command: str) -> None:
    _mark("next: ", "dim", command, "green", stream=sys.stdout)


def warn(text: str, *, as_json: bool) -> None:
    if as_json:  # so that each line of stderr is an object, warnings and the error alike
        sys.stderr.write(json.dumps({"warning": redact(text)}) + "\n")
    else:
        _mark("warning: ", "yellow", redact(text), stream=sys.stderr)


def _mark(mark: str, style: str, text: str, text_style: str = "", *, stream: TextIO) -> None:
    """A line that begins with a coloured word, where there are colours."""
    if not has_colours(stream):
        stream.write(f"{mark}{safe(text)}\n")
        return
    from rich.text import Text  # noqa: PLC0415 - see the head

    console(stderr=stream is sys.stderr).print(Text.assemble((mark, style), (safe(text), text_style)), soft_wrap=True)


def has_colours(stream: TextIO) -> bool:
    """Whether rich might colour what goes there; it has the last word."""
    return stream.isatty() or any(name in os.environ for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"))


# --- errors ------------------------------------------------------------------------------------------------------------


def told(verb: Callable[P, R]) -> Callable[P, R]:
    """Errors become one message on stderr (an object with --json) and an exit code, never a traceback."""

    @functools.wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except BackfilldError as exc:
            _fail(exc, exc.exit_code, as_json=bool(kwargs.get("as_json")))
        except Exception as exc:
            code = _exit_code(exc)
            if code is None:  # a bug of ours, which a traceback shows best
                raise
            _fail(exc, code, as_json=bool(kwargs.get("as_json")))

    return run


def _exit_code(exc: Exception) -> int | None:
    """The exit code of an error of PostgreSQL or Redis; None for others. A module never imported has raised nothing."""
    if (psycopg := sys.modules.get("psycopg")) and isinstance(exc, psycopg.Error):
        from backfilld.migrations.postgres.sqlstates import cannot_serve  # noqa: PLC0415 - imports psycopg, which is there by now

        return 5 if isinstance(exc, psycopg.OperationalError) and cannot_serve(exc) else 1
    if (redis := sys.modules.get("redis")) and isinstance(exc, redis.RedisError):
        return 5
    return None


def _fail(exc: Exception, code: int, *, as_json: bool) -> NoReturn:
    message = redact(str(exc).strip()) or type(exc).__name__
    if as_json:
        error: dict[str, Any] = {"class": type(exc).__name__, "exit_code": code, "message": message}  # Any: JSON
        match exc:
            case InvalidMigration():
                error |= {
                    "file": exc.file,
                    "line": exc.line,
                    "key": exc.key,
                    "problem": exc.problem,
                    "remedy": exc.remedy,
                }
            case Refused():
                error["findings"] = [vars(finding) for finding in exc.findings]
        sys.stderr.write(json.dumps({"error": error}) + "\n")
    elif isinstance(exc, Refused):
        from backfilld.monitoring import display  # noqa: PLC0415 - see the head

        console(stderr=True).print(display.refusals(exc.findings))
    else:
        mark, style = ("not yet: ", "yellow") if isinstance(exc, NotFinished) else ("error: ", "red")
        _mark(mark, style, message, stream=sys.stderr)
        if hint := _hint(exc):
            _mark("", "", hint, "green", stream=sys.stderr)
    raise SystemExit(code) from exc


def _hint(exc: Exception) -> str:
    """What to do about an error whose message does not say so itself."""
    if isinstance(exc, Unreachable):
        if exc.remedy:
            return exc.remedy
        variable, option = ("REDIS", "redis") if exc.server == "Redis" else ("DATABASE", "database")
        return f"is it up, and is BACKFILLD_{variable}_URL (or --{option}-url in front of the verb) right?"
    if getattr(exc, "sqlstate", None) == "42501":  # insufficient_privilege
        return "connect as the role that owns the schema backfilld: the one that the worker uses"
    if (psycopg := sys.modules.get("psycopg")) and isinstance(exc, psycopg.Error):
        from backfilld.migrations.postgres.sqlstates import remedy_of  # noqa: PLC0415 - imports psycopg, which is there by now

        return remedy_of(exc.sqlstate)
    return ""
