"""`backfilld`: the verbs, and the exit codes that scripts rely on; what they print is in `answers`.

0 done · 1 failed · 2 wrong usage or an invalid file · 3 refused by preflight · 4 not finished yet · 5 database or Redis
unreachable · 130 interrupted. Answers go to stdout; warnings and errors go to stderr.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

    #: The whole command, for the tests of it.
    app: typer.Typer

__all__ = ["app", "main"]


def main() -> None:
    """The command `backfilld`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows ? in place of a traceback
    from backfilld.producers.cli import light  # noqa: PLC0415 - whoever imports `app` wants no more

    if not light.answered(sys.argv[1:]):
        _app()(prog_name="backfilld")


def _app() -> typer.Typer:
    from backfilld.producers.cli.verbs import app  # noqa: PLC0415 - typer and all verbs are half of the start

    return app


def __getattr__(name: str) -> typer.Typer:
    if name != "app":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return _app()
