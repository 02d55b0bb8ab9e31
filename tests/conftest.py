"""Fixtures live in one plugin per subject; here, where temporary files are and which tests come first."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
from functools import cache
from pathlib import Path

import hypothesis
import pytest
import typer.testing

pytest_plugins = [
    "fix_postgres",
    "fix_runs",
    "fix_contrib",
    "fix_backups",
    "fix_physical",
    "fix_s3",
    "fix_supabase",
    "fix_redis",
    "fix_proxy",
    "fix_pgbouncer",
    "fix_daemon",
    "fix_rest",
    "fix_golden",
    "fix_prometheus",
    "fix_scene",
    "fix_archives",
]

# Started in the background of a script, the tests inherit an ignored SIGINT, and so would every process they press Ctrl-C on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# In memory where there is room for it: the servers of the tests write gigabytes that nobody reads twice, and a disk that is
# waited for, or shared with others, doubled their time. The room is that of some servers, each with the log of its work.
IN_MEMORY, ROOM = Path("/dev/shm"), 4 * 1024**3  # noqa: S108 - what is made in it gets a name of its own by `tempfile`
if "TMPDIR" not in os.environ and IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free >= ROOM:
    runs_programs = not os.statvfs(IN_MEMORY).f_flag & os.ST_NOEXEC
    if os.access(IN_MEMORY, os.W_OK) and runs_programs:
        tempfile.tempdir = os.environ["TMPDIR"] = str(IN_MEMORY)

# Whoever set this did not think of tests that start Python hundreds of times: each would compile all of backfilld for itself.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Its runner builds every verb and option of a command line anew at each call, which takes five times as long as the call.
typer.testing._get_command = cache(typer.testing._get_command)  # type: ignore[attr-defined] # there is no public way

# A busy machine is no failure.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

#: Those that wait for processes, of minutes together. Begun first, none of them is left alone at the end with idle processes beside.
FIRST = (
    "acceptance/",
    "architecture/test_docs.py",
    "architecture/test_compose.py",
    "test_notifier.py",
    "test_give_way.py",
    "test_stop.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first; within both parts the order stays that of pytest-randomly."""
    items.sort(key=lambda item: not any(name in item.nodeid for name in FIRST))


# Garbage is rare and collected more rarely: at Python's own pace looking for it took a twentieth of the tests' time.
gc.set_threshold(50_000, 20, 50)


def pytest_collection_finish() -> None:
    """What is there now stays to the end: no collection of garbage looks through thousands of tests and their modules again."""
    gc.collect()
    gc.freeze()
