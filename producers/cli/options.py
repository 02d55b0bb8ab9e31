"""What the verbs share: their arguments, and the client they ask."""

from __future__ import annotations

import functools
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from backfilld.migrations.errors import UsageError
from backfilld.producers import answers, completion

# What a verb alone needs it imports itself: `--help` and completion take a tenth of a second, not one.
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backfilld.monitoring.progress import Progress
    from backfilld.producers.client import Client

RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's id or name.", show_default=False, autocompletion=completion.runs),
]
RunOrAll = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="A run's id or name; or give --all.", show_default=False, autocompletion=completion.runs
    ),
]
OptionalRun = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="A run's id or name. Default: all runs.", autocompletion=completion.runs),
]
All = Annotated[bool, typer.Option("--all", help="All runs of the database, runs enqueued later included.")]
FileArgument = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The migration file.", show_default=False, autocompletion=completion.files),
]
FileOrFolder = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="The migration file, or a folder of them: each begins after the one before.",
        show_default=False,
        autocompletion=completion.files,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PARAM=VALUE", help="A value for a parameter of the file. May be given several times."
    ),
]
Again = Annotated[bool, typer.Option("--again", help="Run it once more where its last run is completed.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0,
        help="With --wait: give up after this, exit code 4. Default: BACKFILLD_WAIT_TIMEOUT_SECONDS.",
    ),
]


@dataclass
class Globals:
    """The options in front of the verb."""

    database_url: str | None = None
    redis_url: str | None = None

    def client(self, warn: Callable[[str], None]) -> Client:
        from backfilld.producers.client import Client  # noqa: PLC0415 - nine tenths of the start

        return Client(self.database_url, self.redis_url, warn=warn)


def client(context: typer.Context, *, as_json: bool = False) -> Client:
    """The client of this call; its warnings go to stderr."""
    given: Globals = context.obj
    return given.client(functools.partial(answers.warn, as_json=as_json))


def parameters(given: list[str] | None) -> dict[str, str]:
    """The values of `--set`, by name. Raises UsageError for one that is not PARAM=VALUE, and for a name that is given twice."""
    values: dict[str, str] = {}
    for one in given or ():
        name, sign, value = one.partition("=")
        if not sign or not name:
            msg = f"--set: {one} is not PARAM=VALUE"
            raise UsageError(msg)
        if name in values:
            msg = f"--set: {name} is given twice"
            raise UsageError(msg)
        values[name] = value
    return values


def check_timeout(timeout: float | None, *, wait: bool) -> None:
    """Raises UsageError for a --timeout that nothing would heed."""
    if timeout is not None and not wait:
        msg = "--timeout needs --wait"
        raise UsageError(msg)


@contextmanager
def watching(*, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """What to show while waiting; nothing when the output is for a program."""
    if quiet:
        yield None
        return
    from backfilld.monitoring import display  # noqa: PLC0415 - rich is a tenth of a second, for waiting people

    with display.Watch(answers.console()) as view:
        yield lambda now: view.show([now])


def become(context: typer.Context, module: str, *arguments: str) -> NoReturn:
    """Continue as another module of ours: `producers` may not import `worker`, and signals reach it without a go-between."""
    given: Globals = context.obj
    for variable, url in (("BACKFILLD_DATABASE_URL", given.database_url), ("BACKFILLD_REDIS_URL", given.redis_url)):
        if url is not None:
            os.environ[variable] = url
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])  # noqa: S606 - no shell, and our own module
