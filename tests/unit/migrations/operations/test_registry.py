"""The registry: an operation is one model, one folder, one line, and one page for users."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from paths import ROOT

from backfilld.migrations import operations
from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.registry import REGISTRY

FOLDER = Path(operations.__file__).parent


def test_every_operation_of_the_file_has_a_line() -> None:
    assert list(REGISTRY) == list(get_args(file.Operation))


@pytest.mark.parametrize("model", REGISTRY, ids=lambda model: model.kind)
def test_an_operation_is_a_folder_of_its_name_and_a_page_of_its_own(model: type[file.Operation]) -> None:
    kind = REGISTRY[model]
    assert kind.bind.__module__ == f"backfilld.migrations.operations.{model.kind}.steps"
    if kind.examine is not None:
        assert kind.examine.__module__ == f"backfilld.migrations.operations.{model.kind}.preflight"
    assert {file.name for file in (FOLDER / model.kind).glob("*.py")} >= {"steps.py", "preflight.py"}
    assert (ROOT / "docs" / "operations" / f"{model.kind}.md").is_file()
