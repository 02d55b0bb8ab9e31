"""The picture in ARCHITECTURE.md, held by import-linter."""

from __future__ import annotations

import subprocess
import sys

from paths import ROOT


def test_imports_run_one_way() -> None:
    """Processes, then monitoring, then the domain; and the domain knows no Redis, Dramatiq or Prometheus."""
    lint = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert lint.returncode == 0, lint.stdout
    assert "4 kept, 0 broken" in lint.stdout
