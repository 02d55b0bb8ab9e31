"""Programs that a backup runs: how fast they go, and who goes before them."""

from __future__ import annotations

import fcntl
import os
import sys
import time

import pytest
from fix_backups import UNWATCHED

from backfilld.migrations.backups import programs
from backfilld.migrations.backups.pacing import Pace

NICE = """
tries=0
while [ "$(nice)" -lt 10 ] && [ $tries -lt 2000 ]; do tries=$((tries + 1)); done
nice
"""


def test_what_else_runs_on_the_machine_goes_before_them() -> None:
    said: list[bytes] = []
    programs.read_from(["/bin/sh", "-c", NICE], os.environ, write=said.append, watch=UNWATCHED)
    assert b"".join(said).strip() == str(os.nice(0) + programs.NICE).encode()


def test_what_they_write_is_taken_no_faster_than_the_pace() -> None:
    parts: list[tuple[float, int]] = []
    began = time.monotonic()
    programs.read_from(
        ["/bin/sh", "-c", "head -c 600000 /dev/zero"],
        os.environ,
        write=lambda part: parts.append((time.monotonic() - began, len(part))),
        watch=UNWATCHED,
        pace=Pace(2_000_000),
    )
    taken = 0
    for at, size in parts:
        assert taken <= 2_000_000 * at, parts
        taken += size
    assert taken == 600_000


@pytest.mark.skipif(not hasattr(fcntl, "F_GETPIPE_SZ"), reason="only Linux has pipes of any size")
def test_with_a_pace_they_write_little_ahead() -> None:
    parts: list[bytes] = []
    ask = "import fcntl; print(fcntl.fcntl(1, fcntl.F_GETPIPE_SZ), end=''); print(' ' * 100_000, end='')"
    programs.read_from(
        [sys.executable, "-c", ask], os.environ, write=parts.append, watch=UNWATCHED, pace=Pace(10_000_000)
    )
    assert int(b"".join(parts)) == max(map(len, parts)) == 8192
