"""Sources that a worker reads: from a real S3 service into the stage, on from where it was left off, and only where settings allow it."""

from __future__ import annotations

import gzip
import io
import json
import re
import threading
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
import zstandard
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
    from fix_runs import Engine

    from backfilld.migrations.backup_settings import StoreSettings
    from backfilld.migrations.record.model import Run

LINES = 3000


class Lake:
    """A bucket, and who reads it."""

    def __init__(self, engine: Engine, url: str, bucket: str) -> None:
        self.engine = engine
        self.client = client(url)
        self.bucket = bucket
        self.settings = SourceSettings(
            name="lake",
            kind="s3",
            bucket=bucket,
            prefix="exports/",
            endpoint_url=url,
            region="x",
            access_key=SecretStr(ACCESS),
            secret_key=SecretStr(SECRET),
        )
        self.stopping = threading.Event()

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def enqueue(self, text: str, *, knows: bool = True) -> Run:
        sources = (self.settings,) if knows else ()
        found = enqueueing.enqueue(self.engine.connection, definition.parse(text), actor="test", sources=sources).run
        self.engine.sent.append(self.engine.message(found.run))
        return found

    def ask(self, run: int) -> str:
        """Let the coordinator come to where it waits for its source; returns what it says then."""
        for _ in range(10):
            self.engine.step()
            error = self.engine.lane(run, 0).last_error
            if error is not None and error["class"] == "staging":
                return str(error["message"])
            self.engine.execute("UPDATE backfilld.lanes SET next_run_at = now() - interval '1 s' WHERE lane = 0")
        pytest.fail("the coordinator does not wait for its source")

    def read(self, *sources: SourceSettings) -> int:
        """A worker looks for sources, and reads the first that is asked for; returns how many it began with."""
        reader = SourceReader(
            sources or (self.settings,), database_url=self.engine.url, observe=lambda _: None, stopping=self.stopping
        )
        begun = reader.run_once(self.engine.connection)
        reader.join(60)
        return begun


@pytest.fixture
def lake(engine: Engine, s3_url: str, bucket: StoreSettings) -> Lake:
    engine.execute("CREATE TABLE goods (id int PRIMARY KEY, name text)")
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
        "s3: lake/d.parquet, format: parquet",
    )
    with pytest.raises(Refused, match="this process knows no source lake; it knows: none"):
        lake.enqueue(text, knows=False)
    run = lake.enqueue(text)
    assert "staged so far of lake/a.csv: nothing" in lake.ask(run.run)
    assert lake.read(lake.settings.model_copy(update={"name": "other"})) == 0
    assert lake.read() == 1
    expect(lake.engine.drive(run.run), State.COMPLETED)
    found = lake.engine.execute("SELECT array_agg(name ORDER BY id) AS names FROM goods")
    assert found == [{"names": names}]
    # Where the file says what the fields are, only workers need to know the source; they compare.
    lake.put("exports/e.csv", b"name,id\nx,1\n")
    other = lake.enqueue(migration("s3: lake/e.csv, fields: [id, name]", name="e"), knows=False)
    lake.ask(other.run)
    lake.read()
    failed = lake.engine.run(other.run)
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
    run = lake.enqueue(migration(f"s3: lake/{key}")).run
    lake.ask(run)

    lake.engine.execute(
        """
        CREATE FUNCTION stop_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF OLD.lines > 600 THEN RAISE EXCEPTION 'the server goes down' USING ERRCODE = '57P01'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER stop_it BEFORE UPDATE ON backfilld.loads FOR EACH ROW EXECUTE FUNCTION stop_it()
        """
    )
    lake.read()
    part = stage.read(lake.engine.connection, run, 0)
    assert part is not None
    assert 600 < part.lines < LINES
    lake.engine.execute("DROP TRIGGER stop_it ON backfilld.loads")

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


WRONG = ["lake", "lake/", "/a.csv", "lake/../a.csv", "lake/a//b.csv"]


@pytest.mark.parametrize("text", WRONG)
def test_a_key_that_leads_elsewhere_is_no_key(text: str) -> None:
    with pytest.raises(InvalidMigration, match="names no object"):
        definition.parse(migration(f"s3: '{text}'"))
