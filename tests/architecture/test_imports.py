"""The picture in ARCHITECTURE.md, held by import-linter."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

from paths import ROOT

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_imports_run_one_way() -> None:
    """Every contract in pyproject.toml is kept."""
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
    assert f"{len(CONTRACTS)} kept, 0 broken" in lint.stdout


def test_every_module_of_the_engine_has_its_room() -> None:
    """A module that no layer names could import anything."""
    (rooms,) = (one["layers"] for one in CONTRACTS if one.get("containers") == ["backfilld.migrations"])
    named = {name for layer in rooms for name in re.findall(r"[\w.]+", layer)}
    engine = ROOT / "migrations"
    modules = {
        ".".join(path.relative_to(engine).with_suffix("").parts)
        for path in engine.rglob("*.py")
        if path.name != "__init__.py"
    }

    astray = {one for one in modules if not any(one == name or one.startswith(f"{name}.") for name in named)}

    assert modules
    assert not astray


def test_every_pipeline_ends_with_a_sync() -> None:
    """psycopg's own ends with a Flush, which a frozen process would hide behind: `migrations/postgres/pipelines.py`."""
    folders = ("migrations", "worker", "monitoring", "producers")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]

    assert sources
    assert not [path for path in sources if re.search(r"\.pipeline\(\)", path.read_text(encoding="utf-8"))]
