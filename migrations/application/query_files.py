"""The files of queries that a migration file names, read where its person is: a worker has none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.application.corpus import QueryFile
from backfilld.migrations.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from backfilld.migrations.file.migration import Migration

#: All of them together. Above what an application has, below what a `**` over a home folder would read.
MOST_BYTES = 10 * 1024 * 1024


def read(migration: Migration) -> tuple[QueryFile, ...]:
    """The files that match, each once, in the order of the patterns and their names. Raises UsageError."""
    folder = migration.folder
    if migration.application is None or folder is None:
        return ()
    found: dict[Path, QueryFile] = {}
    size = 0
    for pattern in migration.application.statements.files:
        for path in sorted(folder.glob(pattern)):
            if not path.is_file() or path in found:
                continue
            name = path.relative_to(folder).as_posix()
            try:
                content = path.read_bytes()
                text = content.decode("utf-8-sig")
            except OSError as exc:
                msg = f"the file {name} of application.statements.files cannot be read: {exc.strerror}"
                raise UsageError(msg) from exc
            except UnicodeDecodeError as exc:
                msg = f"the file {name} of application.statements.files is not UTF-8 text"
                raise UsageError(msg) from exc
            size += len(content)
            if size > MOST_BYTES:
                msg = "application.statements.files names more than 10 MiB of SQL: name the files of queries alone"
                raise UsageError(msg)
            found[path] = QueryFile(name, text)
    return tuple(found.values())
