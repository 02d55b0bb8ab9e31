"""The gate as a project's own role has it: no superuser, BYPASSRLS, row security on the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from fix_runs import Engine, expect
from psycopg.rows import dict_row

from backfilld.migrations.backup_settings import BackupSettings
from backfilld.migrations.backups.place import Place
from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import backups, schema
from backfilld.migrations.record.states import State

if TYPE_CHECKING:
    from backfilld.migrations.backup_settings import StoreSettings


def test_a_backup_of_tables_with_row_security_has_every_row(
    supabase_url: str, stores: tuple[StoreSettings, ...]
) -> None:
    with (
        psycopg.connect(supabase_url, autocommit=True, row_factory=dict_row) as connection,
        open_pool(supabase_url, size=4) as pool,
    ):
        schema.ensure(connection)
        connection.execute("CREATE TABLE public.own (id int PRIMARY KEY, status text)")
        connection.execute(
            "ALTER TABLE public.own ENABLE ROW LEVEL SECURITY; ALTER TABLE public.own FORCE ROW LEVEL SECURITY"
        )
        connection.execute("INSERT INTO public.own SELECT i, 'x' FROM generate_series(1, 100) i")
        engine = Engine(url=supabase_url, connection=connection, pool=pool)
        engine.set_pace()
        run = engine.enqueue(
            "{name: own, operations: [{backfill: {table: own, set: {status: upper(status)}}}], settings: {backup: {require: proved}}}"
        )
        place = Place(url=supabase_url, settings=BackupSettings(), stores=stores)

        runner = engine.runner(backups=place)
        for _ in range(6):  # six steps of the gate; a backup that fails would be tried again and again
            engine.step(runner=runner)
        expect(engine.drive(run, runner=runner), State.COMPLETED)
        (found,) = backups.listed(connection)
    assert [(one.table, one.rows) for one in found.tables] == [("own", 100)]
    assert (found.level, found.restore_point) == ("proved", None), "this role may not make one, and the LSN is there"
    assert found.lsn_stop is not None
