"""A store that is a bucket of an S3 service, written in parts as they come."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from backfilld.migrations.errors import UsageError
from backfilld.migrations.stores.base import CHUNK_BYTES, StoreFailed, checked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import SecretStr

#: S3 takes no part below 5 MiB but the last, and 10,000 of them: parts grow, so that an object may have 5 TB, S3's own limit.
PART_BYTES = 8 * 1024**2
GROWS_EVERY = 1000
#: A region that is down is told within half a minute, not within boto3's five.
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 5, 30, 3


class S3Store:
    """One bucket; every key begins with `prefix`."""

    def __init__(  # noqa: PLR0913 - each is named where it is called
        self,
        *,
        name: str,
        bucket: str,
        region: str = "",
        prefix: str = "",
        endpoint_url: str | None = None,
        access_key: SecretStr | None = None,
        secret_key: SecretStr | None = None,
    ) -> None:
        """Without keys boto3 looks where it always looks. Raises UsageError where boto3 is missing."""
        self.name = name
        self.region = region
        self._bucket = bucket
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        #: Any: boto3 makes its classes when it runs.
        self._client: Any = connect(
            endpoint_url=endpoint_url, region=region, access_key=access_key, secret_key=secret_key
        )

    def begin(self, key: str) -> S3Writer:
        return S3Writer(self.name, self._client, {"Bucket": self._bucket, "Key": self._key(key)})

    def read(self, key: str) -> Iterator[bytes]:
        with _told(self.name):
            body = self._client.get_object(Bucket=self._bucket, Key=self._key(key))["Body"]
            yield from body.iter_chunks(CHUNK_BYTES)

    def remove(self, folder: str) -> None:
        for key in self.keys(f"{folder}/"):
            with _told(self.name):
                self._client.delete_object(Bucket=self._bucket, Key=self._key(key))
        with _told(self.name):
            where = {"Bucket": self._bucket, "Prefix": self._key(folder) + "/"}
            for page in self._client.get_paginator("list_multipart_uploads").paginate(**where):
                for upload in page.get("Uploads", ()):
                    self._client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )

    def keys(self, prefix: str) -> list[str]:
        with _told(self.name):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            return sorted(one["Key"].removeprefix(self._prefix) for page in pages for one in page.get("Contents", ()))

    def _key(self, key: str) -> str:
        return self._prefix + checked(self.name, key)


class S3Writer:
    """An upload in parts, each sent with its SHA-256, which the service compares."""

    def __init__(self, store: str, client: Any, where: dict[str, str]) -> None:  # Any: boto3's
        self._store, self._client, self._where = store, client, where
        self._waiting = bytearray()
        self._parts: list[dict[str, object]] = []
        with _told(store):
            self._upload = client.create_multipart_upload(**where, ChecksumAlgorithm="SHA256")["UploadId"]

    def write(self, part: bytes) -> None:
        self._waiting += part
        while len(self._waiting) >= self._part_bytes:
            size = self._part_bytes
            self._send(bytes(self._waiting[:size]))
            del self._waiting[:size]

    def finish(self) -> None:
        if self._waiting or not self._parts:
            self._send(bytes(self._waiting))
            self._waiting.clear()
        with _told(self._store):
            self._client.complete_multipart_upload(
                **self._where, UploadId=self._upload, MultipartUpload={"Parts": self._parts}
            )

    def abort(self) -> None:
        with suppress(StoreFailed), _told(self._store):
            self._client.abort_multipart_upload(**self._where, UploadId=self._upload)

    @property
    def _part_bytes(self) -> int:
        return PART_BYTES << (len(self._parts) // GROWS_EVERY)

    def _send(self, part: bytes) -> None:
        number = len(self._parts) + 1
        digest = b64encode(hashlib.sha256(part).digest()).decode()
        with _told(self._store):
            sent = self._client.upload_part(
                **self._where, UploadId=self._upload, PartNumber=number, Body=part, ChecksumSHA256=digest
            )
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": digest})


def connect(
    *,
    endpoint_url: str | None = None,
    region: str = "",
    access_key: SecretStr | None = None,
    secret_key: SecretStr | None = None,
) -> Any:  # Any: boto3 makes its classes when it runs
    """A client of an S3 service. Raises UsageError where boto3 is missing."""
    try:
        import boto3  # noqa: PLC0415 - of the extra `s3`, and a quarter of a second
        from botocore.config import Config  # noqa: PLC0415 - comes with it
    except ImportError:
        msg = 'a store of kind s3 needs boto3; run: pip install "backfilld[s3]"'
        raise UsageError(msg) from None
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=region or None,
        aws_access_key_id=access_key.get_secret_value() if access_key else None,
        aws_secret_access_key=secret_key.get_secret_value() if secret_key else None,
        config=Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            # What other services do not understand yet is not sent by itself.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # The path in place of the host's name: services of one's own have no name for each bucket.
            s3={"addressing_style": "path"} if endpoint_url else {},
        ),
    )


@contextmanager
def _told(store: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - it is there: see `connect`

    try:
        yield
    except (BotoCoreError, ClientError) as exc:
        raise StoreFailed(store, str(exc)) from exc
