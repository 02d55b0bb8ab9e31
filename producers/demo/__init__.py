"""`backfilld demo`: a migration under load, paused, struck and finished, on servers that are thrown away.

    site         the servers, the schema and its rows, the daemon; all of it in temporary folders
    application  sessions that keep writing, under row level security
    story        what happens, in order: the file to read first
    account      what must be true afterwards, and its words
    screen       one line for each step; in a terminal the run's progress below them

Nothing of the user's is read or changed: neither their variables, nor their `backfilld.toml`, nor any server.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from backfilld.producers.demo import account
from backfilld.producers.demo.screen import Screen
from backfilld.producers.demo.servers import EmbeddedUnavailable
from backfilld.producers.demo.site import Site, own_environment
from backfilld.producers.demo.story import DemoFailed, Story

if TYPE_CHECKING:
    from types import FrameType

#: Wrong usage in the sense of the command line: what it needs is to be installed first.
UNAVAILABLE = 2
INTERRUPTED = 130


def main() -> None:
    """Run the demo and end the process: 0 when every fact of the account is true, 1 when one is not, 2 without the extra."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup SIGHUP is ignored, and stays so
            signal.signal(number, _leave)
    sys.exit(run(Console(highlight=False), Console(stderr=True, highlight=False)))


def run(console: Console, errors: Console) -> int:
    """The demo itself; returns the exit code. Even when it fails, no process and no file is left behind."""
    began = time.monotonic()
    try:
        with own_environment() as folder, Screen(console) as screen, Site(folder) as site:
            told = Story(site, screen).run()
    except EmbeddedUnavailable as exc:
        errors.print(Text(f"error: {exc}", style="red"), soft_wrap=True)
        return UNAVAILABLE
    except DemoFailed as exc:
        errors.print(Text(f"failed: {exc}", style="red"), soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        errors.print(Text("interrupted; the servers and their folders were removed", style="yellow"), soft_wrap=True)
        return INTERRUPTED
    facts = account.judge(told, left_behind=site.left_behind(), seconds=time.monotonic() - began)
    console.print()
    for line in account.lines(facts, ascii_only=console.options.ascii_only):
        console.print(line, soft_wrap=True)
    code = account.exit_code(facts)
    if code:
        untrue = ", ".join(fact.name for fact in facts if not fact.holds)
        errors.print(Text(f"failed: this does not hold: {untrue}", style="red"), soft_wrap=True)
    return code


def _leave(number: int, _frame: FrameType | None) -> None:
    """A signal unwinds everything, as Ctrl-C does."""
    sys.exit(128 + number)
