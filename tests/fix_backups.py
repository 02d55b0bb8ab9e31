"""Backups of the tests: two folders for stores, and a place over the database under test."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg
import pytest

from backfilld.migrations.backup_settings import BackupSettings, StoreSettings
from backfilld.migrations.backups.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: What a test does that does not want to stop anything.
UNWATCHED: Callable[[], str | None] = lambda: None  # noqa: E731 - as short as what it says


@pytest.fixture
def stores(tmp_path: Path) -> tuple[StoreSettings, ...]:
    """Two folders, `east` and `west`."""
    return tuple(
        StoreSettings(name=name, kind="folder", path=tmp_path / "stores" / name, region=f"region-{name}")
        for name in ("east", "west")
    )


@pytest.fixture
def place(database_url: str, stores: tuple[StoreSettings, ...]) -> Place:
    """The database under test, its backups copied to both folders."""
    return Place(url=database_url, settings=BackupSettings(), stores=stores)


@pytest.fixture
def governed(database_url: str) -> Iterator[None]:
    """Readings of the load come in, as a governor writes them: a step of the gate may last longer than one may be old."""
    with readings(database_url):
        yield


@contextmanager
def readings(url: str) -> Iterator[None]:
    """As `governed`, in this database."""
    stopping = threading.Event()

    def read() -> None:
        # A test may take the server away.
        with suppress(psycopg.OperationalError), psycopg.connect(url, autocommit=True) as connection:
            while not stopping.wait(1.0):
                connection.execute("UPDATE backfilld.pace SET sampled_at = clock_timestamp()")

    governor = threading.Thread(target=read)
    governor.start()
    try:
        yield
    finally:
        stopping.set()
        governor.join()


def files_of(stores: tuple[StoreSettings, ...]) -> list[str]:
    """Everything that lies in the folders, what is unfinished included."""
    return sorted(
        str(file.relative_to(store.path.parent))
        for store in stores
        if store.path is not None
        for file in store.path.rglob("*")
        if file.is_file()
    )
