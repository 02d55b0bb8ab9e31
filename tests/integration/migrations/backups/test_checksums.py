"""A checksum is of one moment, however many statements it takes; and it goes no faster than it may."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from psycopg.rows import dict_row

from backfilld.migrations.backups import checksums, contents, pacing
from backfilld.migrations.backups.contents import Held
from backfilld.migrations.backups.pacing import Pace
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.connect import open_session_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.postgres.connect import Connection

#: Of about 50 pages, and some of its values elsewhere.
ORDERS = """
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."Order" (id int, "Order" text);
INSERT INTO "Odd Schema"."Order" SELECT i, repeat(md5(i::text), 1 + i % 7) FROM generate_series(1, 3000) i;
INSERT INTO "Odd Schema"."Order" SELECT i, (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 500) j) FROM generate_series(1, 9) i;
INSERT INTO "Odd Schema"."Order" SELECT 0, NULL FROM generate_series(1, 3);
DELETE FROM "Odd Schema"."Order" WHERE id BETWEEN 200 AND 900;
"""
ORDER = Held(name=TableName("Odd Schema", "Order"), bytes=400_000, hides_rows=False)
AT_ONCE = """
SELECT count(*) AS rows, sum(hashtextextended((o.*)::text COLLATE "C", 0)::numeric)::text AS checksum FROM "Odd Schema"."Order" o
"""
OTHER_KIND = """
CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler;
ALTER TABLE "Odd Schema"."Order" RENAME TO moved;
CREATE TABLE "Odd Schema"."Order" USING other AS SELECT * FROM "Odd Schema".moved
"""


@pytest.fixture
def session(connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """By parts of a few pages, and whoever watches is asked before each."""
    monkeypatch.setattr(checksums, "FIRST_PAGES", 4)
    monkeypatch.setattr(checksums, "STATEMENT_SECONDS", 0.0)
    monkeypatch.setattr(pacing, "LOOK_SECONDS", 0.0)
    connection.execute(ORDERS.encode())
    with open_session_at(database_url, application_name="test", settings=contents.SESSION) as opened:
        opened.row_factory = dict_row
        yield opened


@pytest.mark.parametrize("kind", ["by its pages", "of a kind that has none"])
def test_the_parts_give_what_the_whole_gives(session: Connection, connection: Connection, kind: str) -> None:
    if kind != "by its pages":
        connection.execute(OTHER_KIND.encode())
    asked: list[int] = []
    whole = session.execute(AT_ONCE).fetchone()

    found = checksums.checksum(session, ORDER, lambda: asked.append(1))

    assert {"rows": found.rows, "checksum": found.checksum} == whole
    assert found.rows == 3000 - 701 + 9 + 3
    assert len(asked) > 10 if kind == "by its pages" else not asked


def test_an_empty_table_has_one_too(session: Connection, connection: Connection) -> None:
    connection.execute("CREATE TABLE nothing (id int)")
    found = checksums.checksum(session, replace(ORDER, name=TableName("public", "nothing")), lambda: None)
    assert (found.rows, found.checksum) == (0, "0")


def test_what_is_written_between_the_parts_is_not_in_it(session: Connection, connection: Connection) -> None:
    """Rows move to pages that were not read yet, others come and go."""
    whole = session.execute(AT_ONCE).fetchone()

    def write() -> None:
        connection.execute("""
            UPDATE "Odd Schema"."Order" SET "Order" = 'changed' WHERE id % 10 = 0;
            DELETE FROM "Odd Schema"."Order" WHERE id % 10 = 1;
            INSERT INTO "Odd Schema"."Order" SELECT i, 'new' FROM generate_series(1, 500) i
        """)

    found = checksums.checksum(session, ORDER, write)

    assert {"rows": found.rows, "checksum": found.checksum} == whole
    assert session.execute(AT_ONCE).fetchone() != whole


def test_it_waits_where_the_load_holds_it(session: Connection) -> None:
    reasons = iter(["busy", None, "busy", "busy", *[None] * 100])
    whole = session.execute(AT_ONCE).fetchone()

    found = checksums.checksum(session, ORDER, lambda: next(reasons))

    assert {"rows": found.rows, "checksum": found.checksum} == whole


def test_it_goes_no_faster_than_its_pace(session: Connection, connection: Connection) -> None:
    connection.execute('VACUUM FULL "Odd Schema"."Order"')
    (size,) = connection.execute("""SELECT pg_relation_size('"Odd Schema"."Order"')""").fetchone().values()  # type: ignore[union-attr]
    began = time.monotonic()

    checksums.checksum(session, ORDER, lambda: None, pace=Pace(2 * size))

    # What was read last is not waited for.
    assert time.monotonic() - began >= 0.4


def test_who_stops_it_finds_it_stopped(session: Connection, connection: Connection) -> None:
    """Also while it waits for a lock."""

    class Stopped(Exception):
        pass

    def stop() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise Stopped

    asked: list[int] = []
    connection.execute("BEGIN")
    connection.execute('LOCK TABLE "Odd Schema"."Order" IN ACCESS EXCLUSIVE MODE')
    with pytest.raises(Stopped):
        checksums.checksum(session, ORDER, stop)
    connection.execute("ROLLBACK")
    assert len(asked) == 2
    assert checksums.checksum(session, ORDER, lambda: None).rows > 0
