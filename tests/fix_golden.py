"""Files that hold what a person is shown: compared with what is shown now, or rewritten by `pytest --write-golden`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class Golden:
    """The folder of these files."""

    folder: Path
    writes: bool

    def holds(self, name: str, text: str) -> bool:
        """Whether the file of this name holds this text; with `--write-golden` it does from now on."""
        file = self.folder / name
        if self.writes:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return file.exists() and file.read_text(encoding="utf-8") == text

    def holds_cases(self, name: str, cases: Mapping[str, str | Iterable[str]]) -> bool:
        """The same for a file of many cases: each under its title, indented."""
        parts = []
        for title, lines in cases.items():
            shown = lines.splitlines() if isinstance(lines, str) else list(lines)
            parts.append("\n".join([f"== {title}", *(f"  {line}".rstrip() for line in shown)]) + "\n")
        return self.holds(name, "\n".join(parts))

    def names(self, kind: str) -> list[str]:
        return sorted(file.name for file in (self.folder / kind).iterdir())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write what is shown now into tests/golden")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(Path(__file__).with_name("golden"), writes=bool(request.config.getoption("--write-golden")))
