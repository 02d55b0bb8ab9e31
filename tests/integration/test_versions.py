"""A chosen part of the tests on the oldest version of PostgreSQL and on one in between; `make test-versions` runs all on all."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from fix_postgres import SERVERS
from paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

IN = "tests/integration/migrations"
#: Where the catalog, the grammar or the messages of PostgreSQL differ from version to version, and some changes as a whole.
CHOSEN = (
    f"{IN}/postgres",
    f"{IN}/test_templates.py",
    f"{IN}/planning/test_dry_run.py",
    f"{IN}/planning/test_examples.py::test_an_example_there_and_back[jobs_founding_case]",
    f"{IN}/planning/test_examples.py::test_an_example_there_and_back[orders_customer_fk]",
    f"{IN}/operations/test_change_type.py::test_everything_on_the_column_goes_with_it_and_comes_back[text to jsonb]",
    f"{IN}/operations/test_change_type_keys.py::test_one_column_of_a_composite_key_there_and_back[tenant-bigint]",
    f"{IN}/operations/test_set_not_null.py::test_what_a_partition_has_of_its_own_is_kept_or_told",
    f"{IN}/operations/test_add_foreign_key.py::test_a_partitioned_table_refers",
)


@pytest.mark.versions
@pytest.mark.parametrize("version", [14, 17])
def test_a_chosen_part_passes_on(version: int) -> None:
    if not (SERVERS / str(version)).exists():
        pytest.skip(f"PostgreSQL {version} is not in {SERVERS}: `make test-chosen` brings it where npm is installed")
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


@pytest.mark.parametrize(("version", "because"), [(14, "npm is not installed"), (13, "13 is not among 14, 15, 17")])
def test_a_server_that_cannot_be_had_is_said(tmp_path: Path, version: int, because: str) -> None:
    command = [sys.executable, str(ROOT / "tests" / "get_postgres.py"), str(tmp_path / "postgres"), str(version)]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert because in done.stderr
    assert list(tmp_path.iterdir()) == []
