"""A folder of migration files, in the order of their names: each begins after the one before it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from backfilld.migrations.errors import UsageError
from backfilld.migrations.file import migration as definition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.file.parameters import Given

_SUFFIXES = frozenset({".yaml", ".yml"})


def read(folder: str | Path, parameters: Mapping[str, Given]) -> list[Migration]:
    """The migrations of a folder; each file is given those parameters that it declares.

    Raises InvalidMigration for the first file that is wrong, and UsageError for two of one name, for one that is to begin after a
    later one, and for a parameter that no file has.
    """
    files = sorted(
        file for file in Path(folder).iterdir() if file.suffix in _SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        msg = f"there is no migration file in {folder}: its name would end in .yaml or .yml"
        raise UsageError(msg)
    found = [definition.load(file, parameters, others_too=True) for file in files]
    declared = {name for migration in found for name in migration.parameters}
    if unknown := [name for name in parameters if name not in declared]:
        msg = f"no file in {folder} has a parameter {unknown[0]}"
        raise UsageError(msg)
    return _in_order(found, files)


def _in_order(found: list[Migration], files: list[Path]) -> list[Migration]:
    places: dict[str, Path] = {}
    for migration, file in zip(found, files, strict=True):
        if migration.name in places:
            msg = f"{places[migration.name].name} and {file.name} are both named {migration.name}: rename one of them"
            raise UsageError(msg)
        places[migration.name] = file
    ordered: list[Migration] = []
    for migration, file in zip(found, files, strict=True):
        earlier = [one.name for one in ordered]
        for name in migration.after:
            if name in places and name not in earlier:
                msg = f"{file.name} begins after {name}, which comes later in the folder ({places[name].name}): rename the files"
                raise UsageError(msg)
        after = tuple(dict.fromkeys([*migration.after, *earlier[-1:]]))
        ordered.append(migration.model_copy(update={"after": after}))
    return ordered
