"""What the command prints: answers, the next step, warnings and errors, and the exit code of each error.

What was asked for goes to stdout, as text or as one JSON object; warnings and errors go to stderr.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from backfilld.migrations.errors import BackfilldError, InvalidMigration, NotFinished, Refused, Unreachable
from backfilld.migrations.record.states import State
from backfilld.monitoring import display

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from backfilld.monitoring.progress import Progress

P = ParamSpec("P")
R = TypeVar("R")


# --- answers -----------------------------------------------------------------------------------------------------------


def console(*, stderr: bool = False) -> Console:
    # Made anew each time: the streams may have been replaced since this module was imported.
    return Console(stderr=stderr, highlight=False)


def show(renderable: RenderableType) -> None:
    console().print(renderable)


def say(text: str) -> None:
    console().print(Text(display.safe(text)), soft_wrap=True)


def print_json(value: dict[str, Any], *, indent: int | None = None) -> None:  # Any: JSON
    sys.stdout.write(json.dumps(value, indent=indent, default=str) + "\n")


def answer(now: Progress, *, as_json: bool, then: str = "") -> None:
    """Where the run is now, after a command, and what to type `then`; NAME stands for the run's name."""
    if as_json:
        print_json(now.to_json())
        return
    say(display.line(now))
    if now.state is State.FAILED:
        then = "backfilld explain NAME"
    if then:
        next_step(then.replace("NAME", now.name))


def next_step(command: str) -> None:
    console().print(Text.assemble(("next: ", "dim"), (display.safe(command), "green")), soft_wrap=True)


def warn(text: str, *, as_json: bool) -> None:
    from backfilld.monitoring.logs import redact  # noqa: PLC0415 - brings structlog along, for warnings alone

    if as_json:  # so that each line of stderr is an object, warnings and the error alike
        sys.stderr.write(json.dumps({"warning": redact(text)}) + "\n")
    else:
        console(stderr=True).print(Text.assemble(("warning: ", "yellow"), display.safe(redact(text))), soft_wrap=True)


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
            if code is None:  # a mistake of ours, which a traceback tells best
                raise
            _fail(exc, code, as_json=bool(kwargs.get("as_json")))

    return run


def _exit_code(exc: Exception) -> int | None:
    """The exit code of an error of PostgreSQL or Redis; None for others. What was never imported has raised nothing."""
    if (psycopg := sys.modules.get("psycopg")) and isinstance(exc, psycopg.Error):
        from backfilld.migrations.postgres.sqlstates import cannot_serve  # noqa: PLC0415 - imports psycopg, which is there by now

        return 5 if isinstance(exc, psycopg.OperationalError) and cannot_serve(exc) else 1
    if (redis := sys.modules.get("redis")) and isinstance(exc, redis.RedisError):
        return 5
    return None


def _fail(exc: Exception, code: int, *, as_json: bool) -> NoReturn:
    from backfilld.monitoring.logs import redact  # noqa: PLC0415 - brings structlog along, for errors alone

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
        console(stderr=True).print(display.refusals(exc.findings))
    else:
        mark = ("not yet: ", "yellow") if isinstance(exc, NotFinished) else ("error: ", "red")
        console(stderr=True).print(Text.assemble(mark, display.safe(message)), soft_wrap=True)
        if hint := _hint(exc):
            console(stderr=True).print(Text(hint, style="green"), soft_wrap=True)
    raise typer.Exit(code) from exc


def _hint(exc: Exception) -> str:
    """What to do about an error whose message does not say so itself."""
    told = str(exc)
    if isinstance(exc, Unreachable):
        variable, option = ("REDIS", "redis") if "Redis" in told else ("DATABASE", "database")
        return f"is it up, and is BACKFILLD_{variable}_URL (or --{option}-url in front of the verb) right?"
    if getattr(exc, "sqlstate", None) == "42501":  # insufficient_privilege
        return "act as the role that owns the schema backfilld: the one the worker connects as"
    return ""
