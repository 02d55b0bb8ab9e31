"""A chosen part of the tests on the oldest version of PostgreSQL and on one in between; `make test-versions` runs all on all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from fix_postgres import SERVERS
from paths import ROOT

#: Where the catalog, the grammar or the messages of PostgreSQL differ from version to version.
CHOSEN = ("tests/integration/migrations/postgres",)


@pytest.mark.parametrize("version", [14, 17])
def test_a_chosen_part_passes_on(version: int) -> None:
    if not (SERVERS / str(version)).exists():
        pytest.skip(f"PostgreSQL {version} is not in {SERVERS}: `make test` brings it where npm is installed")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *CHOSEN]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "BACKFILLD_TEST_"))
    }
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment | {"BACKFILLD_TEST_POSTGRES": str(version)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
