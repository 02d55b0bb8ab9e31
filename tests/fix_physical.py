"""A server whose physical backups are taken, and a chain of them taken once, of which tests copy what they harm."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_backups import UNWATCHED
from fix_contrib import contrib_programs
from fix_postgres import SETTINGS, missing_service
from psycopg.rows import dict_row

from backfilld.migrations.backup_settings import BackupSettings, StoreSettings, WalSettings
from backfilld.migrations.backups import take
from backfilld.migrations.backups.place import Place
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.record import schema
from backfilld.producers.demo.servers import EmbeddedFailed, EmbeddedPostgres, EmbeddedUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backfilld.migrations.record.backups import Backup

SERVER_SETTINGS = SETTINGS | {"wal_level": "replica", "summarize_wal": "on", "max_slot_wal_keep_size": "1GB"}
ORDERS = TableName("Odd Schema", "Order")
WANTED = take.Wanted(requested_by="test", tables=(ORDERS, TableName("public", "parts")))
SCHEMA = """
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."Order" (part int, id int, "Order" text, doc json, PRIMARY KEY (part, id));
INSERT INTO "Odd Schema"."Order" SELECT i % 3, i, 'order ' || i, '{"a": 1}' FROM generate_series(1, 600) i;
CREATE TABLE parts (id int, part int) PARTITION BY LIST (part);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
INSERT INTO parts SELECT i, 1 + i % 2 FROM generate_series(1, 100) i;
"""


@pytest.fixture(scope="module")
def physical_postgres() -> Iterator[EmbeddedPostgres]:
    """A server of the module's own: there is one slot and one history of the WAL. Who stops it starts it again."""
    try:
        server = EmbeddedPostgres(superuser="supabase_admin", settings=SERVER_SETTINGS, server=contrib_programs())
        server.start()
    except (EmbeddedUnavailable, EmbeddedFailed) as error:
        missing_service(str(error))
    try:
        with psycopg.connect(server.url(), autocommit=True, row_factory=dict_row) as connection:
            schema.ensure(connection)
            connection.execute(SCHEMA)
        yield server
    finally:
        server.close()


def physical_place(url: str, at: Path, **wal: Any) -> Place:  # Any: as the settings have them
    """Backups of this server into two folders, its WAL received into a third."""
    return Place(
        url=url,
        settings=BackupSettings(
            provider="pg_basebackup",
            programs=contrib_programs(),
            checkpoint="fast",
            wal=WalSettings(**({"folder": at / "wal"} | wal)),
        ),
        stores=tuple(
            StoreSettings(name=name, kind="folder", path=at / "stores" / name, region=f"region-{name}")
            for name in ("east", "west")
        ),
    )


@dataclass(frozen=True)
class Taken:
    """A chain of a whole and an incremental backup, and where it lies."""

    place: Place
    folder: Path
    #: Where the one lies that tests share, with the WAL since.
    shared: Path
    whole: Backup
    incremental: Backup


@pytest.fixture(scope="module")
def taken_chain(physical_postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """The chain that tests share: they do not change it."""
    folder = tmp_path_factory.mktemp("physical")
    place = physical_place(physical_postgres.url(), folder)
    whole = take.take(place, WANTED, UNWATCHED)
    with psycopg.connect(physical_postgres.url(), autocommit=True) as connection:
        connection.execute("""UPDATE "Odd Schema"."Order" SET "Order" = 'changed' WHERE part = 1""")
    return Taken(place, folder, folder, whole, take.take(place, WANTED, UNWATCHED))


@pytest.fixture
def chain(taken_chain: Taken, tmp_path: Path) -> Iterator[Taken]:
    """A copy of the chain, to be harmed; the record is as it was at the end."""
    shutil.copytree(taken_chain.folder / "stores", tmp_path / "stores")
    own = physical_place(taken_chain.place.url, tmp_path, folder=taken_chain.shared / "wal")
    yield replace(taken_chain, place=own, folder=tmp_path)
    with psycopg.connect(taken_chain.place.url, autocommit=True) as connection:
        connection.execute(
            """UPDATE backfilld.backups b SET state = 'taken', error = NULL, verified_at = NULL, proved_at = NULL,
                   objects = o.objects, expires_at = NULL
               FROM unnest(%s::bigint[], %s::jsonb[]) AS o (backup, objects) WHERE b.backup = o.backup""",
            [
                [one.backup for one in (taken_chain.whole, taken_chain.incremental)],
                [json.dumps([vars(i) for i in one.objects]) for one in (taken_chain.whole, taken_chain.incremental)],
            ],
        )
