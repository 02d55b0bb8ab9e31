"""What all readers of sources have in common: pieces of whole bytes, in order, from where reading was left off."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Unreadable(Exception):
    """A source is not there, or not what it says it is; the message says why."""


class Missing(Unreadable):
    """A source needs a package that is not installed."""

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(f"{what}, which needs the extra `{extra}`")
        self.remedy = f'Run: pip install "backfilld[{extra}]"'


class Unknown(Unreadable):
    """A source is not among those that this process knows."""

    def __init__(self, name: str, known: str) -> None:
        super().__init__(f"this process knows no source {name}; it knows: {known}")
        self.remedy = (
            "Name it in the settings (BACKFILLD_SOURCES); or, where only workers know it, say in the file which fields it has: "
            "fields: [sku, price]"
        )


class Changed(Unreadable):
    """A source is another one than before."""


class Reader(ABC):
    """A source that is read. Every method raises Unreadable."""

    #: Of the source as it lies there.
    bytes_total: int
    #: Where the next record begins, in what the source holds unpacked: a byte, or a row where rows can be asked for.
    offset: int = 0
    #: Nothing follows what was read last.
    at_end: bool = False

    @property
    @abstractmethod
    def position(self) -> int:
        """How many bytes of the source as it lies there were read."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """What another source would have another one of, of all before `offset`."""

    @abstractmethod
    def pass_over(self, offset: int) -> str:
        """Go to where reading was left off; returns the digest of all before."""

    @abstractmethod
    def read(self, size: int) -> bytes:
        """About so many bytes, of CSV or of JSON."""

    @abstractmethod
    def take(self, content: bytes) -> None:
        """What was read is done with, up to the end of a record."""

    def place_of(self, start: int) -> int | None:
        """Where in the source a record begins, by where in what was read last; None where that says nothing."""
        return self.offset + start
