"""An object in a bucket of an S3 service, read from any place on, as long as it is the same object.

Each read asks for a range of bytes of the object with the ETag that it had in the beginning, so what is read is never of two objects.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from backfilld.migrations.errors import UsageError
from backfilld.migrations.loading.objects import Object
from backfilld.migrations.loading.reader import Changed, Missing, Unreadable
from backfilld.migrations.stores import s3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import WriteableBuffer

    from backfilld.migrations.source_settings import SourceSettings

#: Of a range that is asked for when a file of lines is read: the time until the first byte is an eighth of it or less.
_AHEAD_BYTES = 4 * 1024 * 1024
#: A connection that breaks while a range comes is told apart from a service that is away by trying again.
_ATTEMPTS = 3
_CHANGED = frozenset({"PreconditionFailed", "412"})


def open_object(settings: SourceSettings, key: str, *, ahead: bool, version: str = "") -> Object:
    """The object of that key. Raises Unreadable; Changed where it has another ETag than `version`.

    `ahead`: it is read from its beginning to its end.
    """
    if settings.bucket is None:
        msg = f"the source {settings.name} is no bucket"
        raise Unreadable(msg)
    try:
        client = s3.connect(
            endpoint_url=settings.endpoint_url,
            region=settings.region,
            access_key=settings.access_key,
            secret_key=settings.secret_key,
        )
    except UsageError:
        raise Missing(f"{settings.name} is a bucket", extra="s3") from None
    prefix = f"{settings.prefix.rstrip('/')}/" if settings.prefix else ""
    where = {"Bucket": settings.bucket, "Key": prefix + key}
    with _told():
        found = client.head_object(**where)
    if version and found["ETag"] != version:
        raise Changed
    raw = _Ranges(client, where, etag=found["ETag"], size=found["ContentLength"])
    return Object(
        name=key,
        raw=cast("BinaryIO", io.BufferedReader(raw, _AHEAD_BYTES) if ahead else raw),
        size=found["ContentLength"],
        version=found["ETag"],
    )


class _Ranges(io.RawIOBase):
    """An object as a file. A read is a request, and gives all that it asks for."""

    def __init__(self, client: Any, where: dict[str, str], *, etag: str, size: int) -> None:  # Any: of boto3
        self._client = client
        self._where = where
        self._etag = etag
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        length = min(len(view), self._size - self._at)
        if length <= 0:
            return 0
        content = self._range(self._at, length)
        view[:length] = content
        self._at += length
        return length

    def _range(self, begin: int, length: int) -> bytes:
        for attempt in range(_ATTEMPTS):
            with _told(again=attempt + 1 < _ATTEMPTS):
                answer = self._client.get_object(
                    **self._where, Range=f"bytes={begin}-{begin + length - 1}", IfMatch=self._etag
                )
                if answer["ETag"] != self._etag:
                    raise Changed
                content: bytes = answer["Body"].read()
                if len(content) == length:
                    return content
        msg = f"{length} bytes were asked for, and did not come"
        raise Unreadable(msg)


@contextmanager
def _told(*, again: bool = False) -> Iterator[None]:
    """What the service says is Unreadable; but for a connection that is lost, where it is tried `again`."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError  # noqa: PLC0415 - it is there: see `connect`

    try:
        yield
    except ClientError as exc:
        error = exc.response.get("Error", {})
        if error.get("Code") in _CHANGED:
            raise Changed from exc
        missing = error.get("Code") in {"404", "NoSuchKey"}
        raise Unreadable("there is no such object" if missing else str(exc)) from exc
    except (HTTPClientError, IncompleteReadError) as exc:
        if not again:
            raise Unreadable(str(exc)) from exc
    except BotoCoreError as exc:
        raise Unreadable(str(exc)) from exc
