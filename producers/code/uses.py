"""Where the code of an application names what a migration changes: certain finds, and mere mentions of the word."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from backfilld.migrations.errors import UsageError
from backfilld.producers.code import changes as named_by
from backfilld.producers.code.finds import Named, Unread, Use, Uses

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.migrations.file.migration import Migration
    from backfilld.producers.code.changes import Change

#: Folders that hold other people's code, or what was built.
_LEFT_OUT = frozenset(
    {"node_modules", "__pycache__", "venv", "dist", "build", "out", "coverage", "vendor", "site-packages", "target"}
)
#: Larger files are generated: nobody edits them by hand.
_MOST_BYTES = 1024 * 1024
_SQL_SUFFIX = ".sql"


def uses(migration: Migration, paths: Sequence[Path]) -> Uses:
    """Look through files and folders. Raises UsageError for a path that is not there, and where the extra is missing."""
    _require_extra()
    found = Uses(changes=named_by.changes(migration), unknown=named_by.unknown(migration))
    for path in paths:
        if not path.exists():
            msg = f"{path} is not there"
            raise UsageError(msg)
    for file in sorted({file for path in paths for file in _files(path)}):
        _look(file, found)
    return found


def _require_extra() -> None:
    try:
        import ast_grep_py  # noqa: F401, PLC0415 - in the extra `application`
        import sqlglot  # noqa: F401, PLC0415 - as above
    except ImportError as exc:
        msg = "to read code, backfilld needs its extra `application`: pip install 'backfilld[application]'"
        raise UsageError(msg) from exc


def _files(path: Path) -> Iterator[Path]:
    """The files to read: those that are named, and in folders those of a language that is known."""
    from backfilld.producers.code.syntax import LANGUAGES  # noqa: PLC0415 - with the extra

    if path.is_file():
        yield path
        return
    for folder, inner, names in os.walk(path):
        inner[:] = [name for name in inner if name not in _LEFT_OUT and not name.startswith(".")]
        yield from (
            Path(folder, name) for name in names if Path(name).suffix in LANGUAGES or name.endswith(_SQL_SUFFIX)
        )


def _look(file: Path, found: Uses) -> None:
    try:
        text = _text(file)
    except ValueError as exc:
        found.unread.append(Unread(file=file, because=str(exc)))
        return
    found.files += 1
    wanted = [change for change in found.changes if change.name in text]
    if not wanted:
        return
    names, trouble = _named(file, text, wanted)
    found.unread += [Unread(file=file, because=because) for because in trouble]
    found.certain += [
        _use(file, text, one.at, change, one.how) for one in names for change in wanted if one.is_about(change)
    ]
    settled = {one.at for one in names}
    for change in wanted:
        for match in re.finditer(rf"(?<![\w$]){re.escape(change.name)}(?![\w$])", text):
            if match.start() not in settled:
                found.mentions.append(_use(file, text, match.start(), change, ""))


def _text(file: Path) -> str:
    """The text of a file. Raises ValueError with the reason why it is not read."""
    try:
        if file.stat().st_size > _MOST_BYTES:
            msg = "it is larger than 1 MiB"
            raise ValueError(msg)
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        msg = "it is not UTF-8 text"
        raise ValueError(msg) from None
    except OSError as exc:
        raise ValueError(exc.strerror or str(exc)) from None


def _use(file: Path, text: str, at: int, change: Change, how: str) -> Use:
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    line = text[start : end if end >= 0 else len(text)]
    number = text.count("\n", 0, at) + 1
    return Use(file=file, line=number, column=at - start + 1, text=line.strip(), change=change, how=how)


def _named(file: Path, text: str, wanted: Sequence[Change]) -> tuple[list[Named], list[str]]:
    """The names that are certain, in order, and what could not be read."""
    from ast_grep_py import SgRoot  # noqa: PLC0415 - in the extra `application`

    from backfilld.producers.code import sql_text  # noqa: PLC0415 - as above
    from backfilld.producers.code.reading import Reader  # noqa: PLC0415 - as above
    from backfilld.producers.code.syntax import LANGUAGES  # noqa: PLC0415 - as above

    if file.suffix == _SQL_SUFFIX:
        try:
            return sorted(sql_text.named(text), key=lambda one: one.at), []
        except ValueError as exc:
            return [], [f"{exc}: only the word was searched for"]
    language = LANGUAGES.get(file.suffix)
    if language is None:
        return [], []
    root = SgRoot(text, language).root()
    try:
        reader = Reader(root)
    except RecursionError:
        return [], ["it is nested too deeply: only the word was searched for"]
    trouble = []
    if (error := root.find(kind="ERROR")) is not None:
        line = error.range().start.line + 1
        trouble.append(f"line {line} cannot be read as {language}: uses near it may be missing")
    for at, sql in reader.unreadable:
        if any(change.name in sql for change in wanted):
            trouble.append(
                f"the SQL in line {text.count(chr(10), 0, at) + 1} cannot be read: only the word was searched for"
            )
    return sorted(reader.names.finds.values(), key=lambda one: one.at), trouble
