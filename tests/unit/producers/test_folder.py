"""A folder of migrations: their order, and what is refused of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backfilld.migrations.errors import InvalidMigration, UsageError
from backfilld.producers import folder

if TYPE_CHECKING:
    from pathlib import Path

FILE = """
name: {name}
{more}
operations:
  - backfill: {{table: t, set: {{c: "1"}}, where: "c <> {value}"}}
"""


def write(path: Path, file: str, name: str, *, more: str = "", value: str = "1") -> None:
    (path / file).write_text(FILE.format(name=name, more=more, value=value))


def test_each_begins_after_the_one_before_it_by_the_names_of_the_files(tmp_path: Path) -> None:
    write(tmp_path, "02_b.yml", "b", more="after: [old]")
    write(tmp_path, "01_a.yaml", "a")
    write(tmp_path, "03_c.yaml", "c", more="after: [a, b]")
    write(tmp_path, ".04_hidden.yaml", "d")
    (tmp_path / "notes.txt").write_text("not a migration")
    found = folder.read(tmp_path, {})
    assert [(one.name, one.after) for one in found] == [("a", ()), ("b", ("old", "a")), ("c", ("a", "b"))]


def test_each_file_is_given_the_parameters_that_it_declares(tmp_path: Path) -> None:
    write(tmp_path, "1.yaml", "a", more="parameters: {v: {type: integer}}", value="${v}")
    write(tmp_path, "2.yaml", "b")
    assert [one.values for one in folder.read(tmp_path, {"v": "5"})] == [{"v": "5"}, {}]
    with pytest.raises(UsageError, match=r"no file in .* has a parameter w"):
        folder.read(tmp_path, {"v": "5", "w": "6"})


def test_what_cannot_be_put_in_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no migration file"):
        folder.read(tmp_path, {})
    write(tmp_path, "1.yaml", "a")
    write(tmp_path, "2.yaml", "a")
    with pytest.raises(UsageError, match=r"1\.yaml and 2\.yaml are both named a"):
        folder.read(tmp_path, {})
    write(tmp_path, "1.yaml", "a", more="after: [b]")
    write(tmp_path, "2.yaml", "b")
    with pytest.raises(UsageError, match=r"1\.yaml begins after b, which comes later"):
        folder.read(tmp_path, {})
    (tmp_path / "3.yaml").write_text("name: c\n")
    with pytest.raises(InvalidMigration, match=r"3\.yaml"):
        folder.read(tmp_path, {})
