"""The files of queries that a migration file names, read where its person is: a worker has none of them."""

from __future__ import annotations

from dataclasses import replace
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
            if path in found:
                found[path] = replace(found[path], patterns=(*found[path].patterns, pattern))
            elif path.is_file():
                name = path.relative_to(folder).as_posix()
                try:
                    size += path.stat().st_size  # before it is read: it may be a dump
                    if size > MOST_BYTES:
                        raise _refused(name, "makes more than 10 MiB of SQL", "Name the files of queries alone")
                    text = path.read_bytes().decode("utf-8-sig")
                except OSError as exc:
                    raise _refused(name, f"cannot be read: {exc.strerror}", "Let it be read, or leave it out") from exc
                except UnicodeDecodeError as exc:
                    raise _refused(name, "is not UTF-8 text", "Save it as UTF-8, or leave it out") from exc
                if "\x00" in text:
                    raise _refused(name, "has a NUL character, so it is no text", "Save it as UTF-8, or leave it out")
                found[path] = QueryFile(name, text, (pattern,))
    return tuple(found.values())


def _refused(name: str, problem: str, remedy: str) -> UsageError:
    return UsageError(f"the file {name} of application.statements.files {problem}. {remedy}")
