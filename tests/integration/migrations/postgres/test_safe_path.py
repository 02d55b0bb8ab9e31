"""Every transaction of ours begins with an empty search_path, however it is begun, and leaves nothing to the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from backfilld.migrations.postgres.connect import connect, open_pool, open_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.postgres.connect import Connection

PATH = "SELECT current_setting('search_path') AS path"


@pytest.fixture
def ours(database_url: str) -> Iterator[Connection]:
    with connect(database_url) as connection:
        yield connection


def path(connection: Connection) -> str:
    row = connection.execute(PATH).fetchone()
    assert row is not None
    return str(row["path"])


def test_a_statement_alone_is_a_transaction_with_the_safe_path(ours: Connection) -> None:
    assert path(ours) == '""'
    row = ours.execute(
        "SELECT %(a)s::text AS a, %(b)s::text[] AS b, %(n)s::int AS n", {"a": "it's %", "b": ["\\"], "n": -1}
    )
    assert row.fetchall() == [{"a": "it's %", "b": ["\\"], "n": -1}]
    ours.execute("CREATE TABLE public.t (n int)")
    assert ours.execute("INSERT INTO public.t VALUES (1), (2)").rowcount == 2


def test_an_error_of_a_statement_alone_leaves_no_transaction_open(ours: Connection) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        ours.execute("SELECT 1 / %s::int", [0])
    assert ours.info.transaction_status is TransactionStatus.IDLE
    assert path(ours) == '""'


def test_a_transaction_begins_with_the_safe_path_and_a_savepoint_keeps_it(ours: Connection) -> None:
    with ours.transaction():
        assert path(ours) == '""'
        ours.execute("SET LOCAL search_path = public")
        with ours.transaction(force_rollback=True):
            assert path(ours) == "public"
    with pytest.raises(psycopg.errors.DivisionByZero), ours.transaction():
        ours.execute("CREATE TABLE public.undone AS SELECT 1 / 0 AS n")
    assert ours.execute("SELECT to_regclass('public.undone') AS undone").fetchone() == {"undone": None}


def test_a_pipeline_that_begins_a_transaction_has_the_safe_path(ours: Connection) -> None:
    with ours.pipeline():
        ours.execute("BEGIN")
        asked = ours.execute(PATH)
        ours.execute("COMMIT")
    assert asked.fetchone() == {"path": '""'}


def test_nothing_is_left_to_the_session_or_to_who_gets_it_next(ours: Connection, database_url: str) -> None:
    """Behind a pooler in transaction mode the session is somebody else's the moment after."""
    ours.execute("SELECT")
    with ours.transaction():
        ours.execute("SELECT")
    assert psycopg.Cursor(ours, row_factory=tuple_row).execute(PATH).fetchone() == ('"$user", public',)
    with open_pool(database_url, size=1) as pool:
        with pool.connection() as first:
            assert path(first) == '""'
        session = open_session(pool, application_name="backfilld", settings={"lock_timeout": "1s"})
        with session:
            assert path(session) == '""', "a session of its own keeps it"
