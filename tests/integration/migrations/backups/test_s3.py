"""Copies in a real S3 service, beside a folder: written in one pass, read back, and one of the two away in the middle."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from fix_backups import UNWATCHED, files_of
from fix_proxy import Proxy
from fix_s3 import bucket_at, client

from backfilld.migrations.backups import copies, prove, sweep, take
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.backups.prove import BadBackup
from backfilld.migrations.backups.take import Wanted
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.record import backups
from backfilld.migrations.stores.base import StoreFailed
from backfilld.migrations.stores.opened import open_store
from backfilld.migrations.stores.s3 import PART_BYTES

if TYPE_CHECKING:
    import psycopg

    from backfilld.migrations.backup_settings import StoreSettings
    from backfilld.migrations.backups.place import Place


WANTED = Wanted(requested_by="test", tables=(TableName("public", "jobs"),))


@pytest.fixture
def two(place: Place, bucket: StoreSettings, connection: psycopg.Connection[Any]) -> Place:
    """A folder and a bucket."""
    connection.execute("CREATE TABLE jobs AS SELECT i AS id, md5(i::text) AS text FROM generate_series(1, 500) i")
    return replace(place, stores=(place.stores[0], bucket))


def test_both_have_the_same_and_the_second_can_be_restored_alone(
    two: Place, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    taken = take.take(two, WANTED, UNWATCHED)

    assert [(one.store, one.region) for one in taken.copies] == [("east", "region-east"), ("cloud", "region-cloud")]
    assert open_store(two.stores[1]).keys(f"{taken.label}/") == [
        key.removeprefix("east/") for key in files_of(two.stores[:1])
    ]
    assert prove.verify(two, taken.backup, UNWATCHED).level == "verified"
    connection.execute("UPDATE backfilld.backups SET copies = copies - 0")
    assert prove.prove(replace(two, stores=two.stores[1:]), taken.backup, UNWATCHED).level == "proved"


def test_an_object_is_written_in_parts_and_seen_when_it_is_whole(bucket: StoreSettings) -> None:
    store = open_store(bucket)
    content = bytes(range(256)) * (PART_BYTES // 256 * 2 + 7)
    with copies.Copies([store], "label", "rows.dump") as writing:
        for start in range(0, len(content), 1_000_003):
            writing.write(content[start : start + 1_000_003])
        assert store.keys("") == []
        stored = writing.finish()

    assert b"".join(copies.read_back(store, "label", stored)) == content
    assert store.keys("lab") == ["label/rows.dump"]


def test_what_an_unfinished_upload_left_is_removed(bucket: StoreSettings, s3_url: str) -> None:
    """Parts of it are paid for until somebody aborts it."""
    store = open_store(bucket)
    store.begin("label/a").write(b"x" * (PART_BYTES + 1))
    asked = {"Bucket": bucket.bucket}
    assert client(s3_url).list_multipart_uploads(**asked)["Uploads"]

    store.remove("label")
    assert not client(s3_url).list_multipart_uploads(**asked).get("Uploads")


@pytest.mark.soak  # a copy in a folder is looked at in the same way: test_take.py
def test_a_byte_that_the_service_gives_back_wrong_is_found(two: Place, s3_url: str) -> None:
    taken = take.take(two, WANTED, UNWATCHED)
    where = {"Bucket": two.stores[1].bucket, "Key": f"team/backfilld/{taken.label}/rows.dump"}
    content = bytearray(client(s3_url).get_object(**where)["Body"].read())
    content[len(content) // 2] ^= 1
    client(s3_url).put_object(**where, Body=bytes(content))

    with pytest.raises(BadBackup, match=r"rows\.dump in store cloud is not what was written"):
        prove.verify(two, taken.backup, UNWATCHED)


def test_a_region_that_goes_down_in_the_middle_leaves_nothing_in_the_other(
    two: Place, s3_url: str, connection: psycopg.Connection[dict[str, Any]]
) -> None:
    """What it has itself is removed once it is back."""
    place = urlsplit(s3_url)
    with Proxy(place.hostname or "", place.port or 0) as proxy:
        away = replace(two, stores=(two.stores[0], bucket_at(proxy.url(s3_url), two.stores[1].bucket or "")))

        def down_after_the_first_object() -> str | None:
            if open_store(two.stores[1]).keys(""):
                proxy.refuse()
            return None

        with pytest.raises(StoreFailed, match="store cloud"):
            take.take(away, WANTED, down_after_the_first_object)
        (failed,) = backups.listed(connection)
        assert (failed.state, len(failed.copies)) == ("failed", 2)
        assert files_of(two.stores[:1]) == []
        assert open_store(two.stores[1]).keys("")

        proxy.accept()
        assert sweep.remove(connection, away) == 1
    assert open_store(two.stores[1]).keys("") == []
    (failed,) = backups.listed(connection)
    assert failed.copies == ()


def test_a_worker_without_the_extra_says_what_to_install(two: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(BackupFailed, match=r'pip install "backfilld\[s3\]"'):
        take.take(two, WANTED, UNWATCHED)
