"""`backfilld watch` as a person starts it: in a terminal of its own, and at the end of a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_daemon import PATIENCE_SECONDS, backfilld, environment

from backfilld.migrations.file import migration as definition
from backfilld.migrations.postgres.connect import connect
from backfilld.producers import enqueueing

if TYPE_CHECKING:
    from collections.abc import Iterator

JOBS = """
name: jobs-shout
operations:
- add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)"}
"""
COMMAND = [sys.executable, "-c", "from backfilld.producers.cli import main; main()", "watch"]

#: What a terminal is told: sequences that begin with Esc.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[()][A-Z0-9]|[=>78])")


@pytest.fixture
def url(database_url: str) -> str:
    """A database with a run that nobody works on."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text NOT NULL)")
    with connect(database_url) as record:
        enqueueing.enqueue(record, definition.parse(JOBS), actor="ann@laptop")
    return database_url


class Terminal:
    """A pseudo terminal with the command in it."""

    def __init__(self, process: subprocess.Popen[bytes], end: int) -> None:
        self.process = process
        self._end = end
        self.raw = ""

    def reads(self, text: str) -> None:
        """Wait until this was written to the terminal, whatever colours and movements are between the words."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self.text:
            if time.monotonic() > deadline:
                pytest.fail(f"{text!r} is not in {self.text!r}")
            self._read()

    def types(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def ends(self) -> int:
        """Read what is still written, and return the exit code."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read()
        self._read()
        return self.process.wait(timeout=1)

    @property
    def text(self) -> str:
        return _SEQUENCE.sub("", self.raw)

    def _read(self) -> None:
        if not select.select([self._end], [], [], 0.05)[0]:
            return
        with suppress(OSError):  # the other end is closed
            self.raw += os.read(self._end, 65536).decode(errors="replace")


@contextmanager
def terminal(*arguments: str, url: str, term: str = "xterm-256color") -> Iterator[Terminal]:
    """The command in a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(url, None) | {"TERM": term},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)


def test_it_takes_the_screen_and_gives_it_back(url: str) -> None:
    with terminal(url=url) as shown:
        shown.reads("jobs-shout")
        shown.reads("q quit")
        shown.types("?")
        shown.reads("Every change is confirmed first")
        shown.types("qq")  # out of the help, and out
        assert shown.ends() == 0, shown.text
    assert shown.raw.count("\x1b[?1049h") == shown.raw.count("\x1b[?1049l") == 1, "the other screen"
    assert shown.raw.rindex("\x1b[?25h") > shown.raw.rindex("\x1b[?25l"), "the cursor"
    assert "Traceback" not in shown.text


def test_ctrl_c_in_the_terminal_ends_it_with_130(url: str) -> None:
    with terminal("jobs-shout", url=url) as shown:
        shown.reads("q quit")
        shown.types("\x03")
        assert shown.ends() == 130
    assert shown.raw.count("\x1b[?1049l") == 1


@pytest.mark.parametrize(("arguments", "term"), [((), "dumb"), (("--plain",), "xterm-256color")])
def test_a_terminal_that_can_do_nothing_and_plain_get_no_screen(
    url: str, arguments: tuple[str, ...], term: str
) -> None:
    with terminal("1", *arguments, url=url, term=term) as shown:
        shown.reads("jobs-shout")
        shown.reads("queued")
        assert "\x1b[?1049h" not in shown.raw
        shown.process.send_signal(signal.SIGINT)
        assert shown.ends() == 130


def test_at_the_end_of_a_pipe_there_are_lines(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            'UPDATE backfilld.runs SET state = \'failed\', error = \'{"class": "fatal", "message": "boom"}\''
        )
    told = backfilld("watch", "1", database_url=url, redis_url=None)
    assert (told.returncode, told.stdout) == (1, "jobs-shout (run 1): expand failed, error: boom\n")


def test_what_is_wrong_is_said_before_the_screen_is_taken(url: str) -> None:
    with terminal("nobody", url=url) as shown:
        assert shown.ends() == 2
    assert "there is no run nobody. There is jobs-shout." in shown.text
    assert "\x1b[?1049h" not in shown.raw
