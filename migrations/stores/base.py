"""What a store can do: take an object whole or not at all, give it back, and forget it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from backfilld.migrations.errors import BackfilldError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How much is read at a time.
CHUNK_BYTES = 1024 * 1024

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


class StoreFailed(BackfilldError):
    """A store did not do what it was asked; the message names it. Nothing that is whole is lost by it."""

    def __init__(self, store: str, problem: str) -> None:
        super().__init__(f"store {store}: {problem}")
        self.store = store
        self.problem = problem


class Writer(Protocol):
    """An object that is being written; nobody sees it before `finish`."""

    def write(self, part: bytes) -> None:
        """Add bytes. Raises StoreFailed."""

    def finish(self) -> None:
        """The object is whole, on disk, and can be read. Raises StoreFailed."""

    def abort(self) -> None:
        """Forget what was written; raises nothing, as `Store.remove` finds what is left."""


class Store(Protocol):
    """A place for objects. Keys are parts of letters, digits, dots, hyphens and underscores, with slashes between them."""

    @property
    def name(self) -> str:
        """As the settings call it."""

    @property
    def region(self) -> str:
        """Where it is, for people."""

    def begin(self, key: str) -> Writer:
        """Begin an object, in place of what has the key. Raises StoreFailed."""

    def read(self, key: str) -> Iterator[bytes]:
        """The object, piece by piece. Raises StoreFailed, also for one that is not there."""

    def remove(self, folder: str) -> None:
        """Remove all objects below a folder (`a/b`, whose keys begin with `a/b/`), and what unfinished writes left there.

        Raises StoreFailed; nothing there is no failure.
        """

    def keys(self, prefix: str) -> list[str]:
        """The keys of whole objects that begin so, in order. Raises StoreFailed."""


def checked(store: str, key: str) -> str:
    """The key, if it is one: it becomes part of a path, and may have been read from a file that somebody else wrote."""
    if _KEY.fullmatch(key) is None:
        raise StoreFailed(store, f"{key!r} is not the key of an object of ours")
    return key
