"""Sources that a worker reads: from a real S3 service into the stage, on from where it was left off, and only where settings allow it."""

from __future__ import annotations

import gzip
import io
import json
import re
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest
import zstandard
from fix_postgres import new_database
from fix_runs import expect
from fix_s3 import ACCESS, SECRET, client
from pyarrow import parquet
from pydantic import SecretStr

from backfilld.migrations.errors import InvalidMigration, Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.loading import buckets, stage
from backfilld.migrations.record.states import State
from backfilld.migrations.source_settings import SourceSettings
from backfilld.producers import commands, enqueueing
from backfilld.worker.side_tasks.sources import SourceReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_runs import Engine

    from backfilld.migrations.backup_settings import StoreSettings

LINES = 3000


class Reading:
    """A run whose source a worker reads."""

    def __init__(self, engine: Engine, place: SourceSettings) -> None:
        self.engine = engine
        self.place = place

    def enqueue(self, text: str, *, knows: bool = True) -> int:
        sources = (self.place,) if knows else ()
        found = enqueueing.enqueue(self.engine.connection, definition.parse(text), actor="test", sources=sources)
        run = found.run.run
        self.engine.sent.append(self.engine.message(run))
        return run

    def ask(self, run: int) -> str:
        """Let the coordinator come to where it waits for its source; returns what it says then."""
        for _ in range(10):
            self.engine.step()
            error = self.engine.lane(run, 0).last_error
            if error is not None and error["class"] == "staging":
                return str(error["message"])
            self.engine.execute("UPDATE backfilld.lanes SET next_run_at = now() - interval '1 s' WHERE lane = 0")
        pytest.fail("the coordinator does not wait for its source")

    def read(self, place: SourceSettings | None = None) -> int:
        """A worker looks for sources, and reads those that are asked for; returns whether it has begun."""
        reader = SourceReader(
            (place or self.place,),
            database_url=self.engine.url,
            observe=self.engine.events.append,
            stopping=threading.Event(),
        )
        begun = reader.run_once(self.engine.connection)
        reader.join(60)
        return begun

    def read_a_part(self, run: int) -> stage.Staging:
        """A worker that dies on its way."""
        self.engine.execute(
            """
            CREATE FUNCTION stop_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF OLD.lines > 600 THEN RAISE EXCEPTION 'the server goes down' USING ERRCODE = '57P01'; END IF; RETURN NEW; END $$;
            CREATE TRIGGER stop_it BEFORE UPDATE ON backfilld.loads FOR EACH ROW EXECUTE FUNCTION stop_it()
            """
        )
        self.read()
        self.engine.execute("DROP TRIGGER stop_it ON backfilld.loads")
        part = stage.read(self.engine.connection, run, 0)
        assert part is not None
        assert 600 < part.lines < LINES
        return part


class Lake(Reading):
    """A bucket, and who reads it."""

    def __init__(self, engine: Engine, url: str, bucket: str) -> None:
        self.client = client(url)
        self.bucket = bucket
        place = SourceSettings(
            name="lake",
            kind="s3",
            bucket=bucket,
            prefix="exports/",
            endpoint_url=url,
            region="x",
            access_key=SecretStr(ACCESS),
            secret_key=SecretStr(SECRET),
        )
        super().__init__(engine, place)

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)


@pytest.fixture
def goods(engine: Engine) -> None:
    engine.execute("CREATE TABLE goods (id int PRIMARY KEY, name text)")


@pytest.fixture
def lake(engine: Engine, s3_url: str, bucket: StoreSettings, goods: None) -> Lake:
    return Lake(engine, s3_url, bucket.bucket or "")


def migration(*sources: str, name: str = "goods") -> str:
    loads = "".join(f"  - load: {{table: goods, from: {{{one}}}, key: [id]}}\n" for one in sources)
    return f"name: {name}\noperations:\n{loads}settings: {{approve: []}}\n"


def test_a_worker_reads_objects_of_every_kind(lake: Lake) -> None:
    """They are told of by key; who enqueues needs no access to them where the file says which fields there are."""
    names = [f"ä{n}" for n in range(4 * LINES)]

    def lines(part: int) -> bytes:
        return b"".join(f"{n},{names[n]}\n".encode() for n in range(part * LINES, (part + 1) * LINES))

    lake.put("exports/a.csv", b"id,name\n" + lines(0))
    lake.put("exports/b c/ü.csv.gz", gzip.compress(lines(1)))
    objects = b"".join(json.dumps({"name": names[n], "id": n}).encode() + b"\n" for n in range(2 * LINES, 3 * LINES))
    lake.put("exports/c.ndjson.zst", zstandard.compress(objects))
    rows = range(3 * LINES, 4 * LINES)
    content = io.BytesIO()
    parquet.write_table(pa.table({"id": list(rows), "name": [names[n] for n in rows]}), content, row_group_size=500)
    lake.put("exports/d.parquet", content.getvalue())
    text = migration(
        "s3: lake/a.csv",
        "s3: lake/b c/ü.csv.gz, header: false, fields: [id, name]",
        "s3: lake/c.ndjson.zst, format: ndjson",
        f"file: s3://{lake.bucket}/exports/d.parquet, format: parquet",  # as files are named, by its own bucket
    )
    with pytest.raises(Refused, match="this process knows no source lake; it knows: none"):
        lake.enqueue(text, knows=False)
    run = lake.enqueue(text)
    assert "staged so far of lake/a.csv: nothing" in lake.ask(run)
    assert lake.read(lake.place.model_copy(update={"name": "other", "prefix": "other/"})) == 0
    assert lake.read() == 1
    expect(lake.engine.drive(run), State.COMPLETED)
    found = lake.engine.execute("SELECT array_agg(name ORDER BY id) AS names FROM goods")
    assert found == [{"names": names}]
    # Where the file says what the fields are, only workers need to know the source; they compare.
    lake.put("exports/e.csv", b"name,id\nx,1\n")
    other = lake.enqueue(migration("s3: lake/e.csv, fields: [id, name]", name="e"), knows=False)
    lake.ask(other)
    lake.read()
    failed = lake.engine.run(other)
    expect(failed, State.FAILED)
    assert "its fields are name, id, and `fields` says id, name" in str(failed.error)


@pytest.mark.parametrize("key", ["goods.csv", "goods.csv.zst"])
def test_reading_continues_where_it_was_left_off_and_an_object_that_was_replaced_is_refused(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr(stage, "BLOCK_BYTES", 4000)
    ranges: list[int] = []
    reads = buckets._Ranges._range

    def told(self: Any, begin: int, length: int) -> bytes:
        ranges.append(begin)
        return reads(self, begin, length)

    content = b"id,name\n" + b"".join(b"%d,n%d\n" % (n, n) for n in range(LINES))
    packed = key.endswith(".zst")
    content = zstandard.compress(content) if packed else content
    lake.put(f"exports/{key}", content)
    run = lake.enqueue(migration(f"s3: lake/{key}"))
    lake.ask(run)

    part = lake.read_a_part(run)
    lake.put(f"exports/{key}", content.replace(b"1", b"2", 1))
    lake.read()
    failed = lake.engine.run(run)
    expect(failed, State.FAILED)
    assert re.search("is not the file any more", str(failed.error))
    lake.client.delete_object(Bucket=lake.bucket, Key=f"exports/{key}")
    commands.resume(lake.engine.connection, run, actor="test")
    lake.ask(run)
    lake.read()
    assert "It cannot be read now: there is no such object" in lake.ask(run)
    lake.put(f"exports/{key}", content)
    monkeypatch.setattr(buckets._Ranges, "_range", told)
    lake.read()
    # A head, and from there on: what is not packed is not read again.
    assert [begin for begin in ranges if begin] == ([] if packed else [part.read_offset])
    expect(lake.engine.drive(run), State.COMPLETED)
    assert lake.engine.value("SELECT count(*) FROM goods WHERE name = 'n' || id") == LINES


# --- another database -------------------------------------------------------------------------------------------------------


@pytest.fixture
def legacy(engine: Engine, admin_url: str, goods: None) -> Iterator[tuple[Reading, psycopg.Connection[Any]]]:
    """A database with another encoding and other notations than ours."""
    with (
        new_database(admin_url, copy_of="template0", encoding="LATIN1") as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        name = connection.info.dbname
        for setting in (
            "datestyle = 'SQL, DMY'",
            "bytea_output = 'escape'",
            "timezone = 'Asia/Tokyo'",
            "extra_float_digits = -6",
        ):
            connection.execute(f'ALTER DATABASE "{name}" SET {setting}'.encode())
        yield Reading(engine, SourceSettings(name="legacy", kind="postgres", url=SecretStr(url))), connection


def test_a_query_of_another_database_is_a_source(
    legacy: tuple[Reading, psycopg.Connection[Any]],
) -> None:
    reading, source = legacy
    engine = reading.engine
    columns = "id int, t text, b bytea, a text[], j jsonb, m timestamptz, d date, f float8, i interval"
    for connection in (source, engine.connection):
        connection.execute(f"CREATE TABLE things ({columns}, PRIMARY KEY (id))".encode())
    source.execute(
        rb"""
        INSERT INTO things VALUES
            (1, E'\u00e4 "q", \n\\.\r\n\\N', '\x00ff', '{a,NULL,"x\"y"}', '{"k": "\\"}', '2026-02-01 03:04:05.6+00', '2026-02-01', 0.1::float8 + 0.2, '1 mon -3:00'),
            (2, '', '', '{}', 'null', 'infinity', '0044-03-15 BC', 'NaN', '0');
        INSERT INTO things (id, t) VALUES (3, '\.'), (4, NULL)
        """
    )
    text = """
name: things
operations:
  - load: {table: things, from: {database: legacy, query: 'SELECT * FROM public.things'}, key: [id]}
settings: {approve: []}
"""
    with pytest.raises(Refused, match="this process knows no source legacy"):
        reading.enqueue(text, knows=False)
    for wrong, said in (("public.things", "public.nothing"), ("SELECT *", "SELECT 1; SELECT *"), ("*", "id, t AS id")):
        with pytest.raises(Refused, match=r"query|relation|columns"):
            reading.enqueue(text.replace(wrong, said, 1))
    run = reading.enqueue(text)
    assert "staged so far of the query of legacy: nothing" in reading.ask(run)
    reading.read()
    expect(engine.drive(run), State.COMPLETED)
    source.execute("SET timezone = 'UTC'; SET datestyle = 'ISO'; SET extra_float_digits = 1; SET bytea_output = 'hex'")
    as_text = b"SELECT t.*::text FROM things t ORDER BY id"
    assert [row["t"] for row in engine.connection.execute(as_text)] == [row[0] for row in source.execute(as_text)]


def test_what_was_cut_off_of_another_database_begins_anew_as_of_another_moment(
    legacy: tuple[Reading, psycopg.Connection[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded was all there at one moment, never a part of one and a part of another."""
    monkeypatch.setattr(stage, "BLOCK_BYTES", 4000)
    reading, source = legacy
    source.execute(f"CREATE TABLE goods AS SELECT n AS id, 'first' AS name FROM generate_series(1, {LINES}) n".encode())
    run = reading.enqueue(
        migration("database: legacy, query: 'SELECT id, name FROM public.goods', fields: [id, name]"), knows=False
    )
    reading.ask(run)
    first = reading.read_a_part(run)
    source.execute("UPDATE goods SET name = 'second'; DELETE FROM goods WHERE id % 10 = 0")
    reading.read(reading.place.model_copy(update={"url": SecretStr("postgresql://nobody@127.0.0.1:1/x")}))
    assert "It cannot be read now" in reading.ask(run)
    reading.read()
    now = stage.read(reading.engine.connection, run, 0)
    assert now is not None
    assert (now.is_done, now.lines, now.bytes_read == now.bytes_total) == (True, LINES * 9 // 10, True)
    assert now.digest != first.digest
    expect(reading.engine.drive(run), State.COMPLETED)
    found = reading.engine.execute("SELECT name, count(*) AS n FROM goods GROUP BY 1")
    assert found == [{"name": "second", "n": LINES * 9 // 10}]
    assert reading.engine.value("SELECT count(*) FROM backfilld.events WHERE what = 'load.restarted'") >= 1


WRONG = ["lake", "lake/", "/a.csv", "lake/../a.csv", "lake/a//b.csv"]


@pytest.mark.parametrize("text", WRONG)
def test_a_key_that_leads_elsewhere_is_no_key(text: str) -> None:
    with pytest.raises(InvalidMigration, match="names no object"):
        definition.parse(migration(f"s3: '{text}'"))
