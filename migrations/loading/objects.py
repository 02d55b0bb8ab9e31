"""Where the bytes of a source lie: anything that can be read from any place on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from backfilld.migrations.loading.packed import told


@dataclass(frozen=True, kw_only=True)
class Object:
    """A file that is open."""

    #: By whose end it is told how it is packed.
    name: str
    raw: BinaryIO
    size: int
    #: What another content would have another one of, where the place it lies in knows; empty: its bytes are compared.
    version: str = ""


def open_file(name: str) -> Object:
    """A file on this machine. Raises Unreadable."""
    with told():
        raw = Path(name).open("rb")  # noqa: SIM115 - its reader closes it
        return Object(name=name, raw=raw, size=Path(name).stat().st_size)
