"""What the size of a file does to the memory of who reads it for a load: nothing, if all is well."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from typing import IO, TYPE_CHECKING, cast

import pyarrow as pa
import zstandard
from pyarrow import parquet

from bench.effort import tell
from bench.figures import MEGABYTE, Figure, Section, Table, Target, number
from bench.stage import BenchBroken
from bench.tables import BASE

if TYPE_CHECKING:
    from pathlib import Path

    from bench.effort import Effort
    from bench.stage import Stage

SMALL_MB, LARGE_MB = 100, 2000
SMALL_QUICK_MB, LARGE_QUICK_MB = 20, 200
KINDS = ("csv", "csv.gz", "csv.zst", "parquet")
#: Lines that are made at once, of about 100 bytes each.
BLOCK = 10_000


def measure(stage: Stage, effort: Effort) -> Section:
    small, large = (SMALL_QUICK_MB, LARGE_QUICK_MB) if effort.is_quick else (SMALL_MB, LARGE_MB)
    peaks = {kind: (_sent(stage, kind, small), _sent(stage, kind, large)) for kind in KINDS}
    return Section(
        name="load_memory",
        title=f"Memory of who reads: files that hold {small:,} MB and {large:,} MB",
        method=(
            "The most that `backfilld enqueue` had resident (ru_maxrss) until the file was in its stage; a worker reads a bucket by the same "
            "code. Lanes hold no lines: what they send is the numbers of pages. Parquet has row groups of a million rows."
        ),
        tables=(
            Table(
                columns=("file", f"{small:,} MB: peak MB", f"{large:,} MB: peak MB"),
                rows=tuple(
                    (kind, number(one / MEGABYTE), number(other / MEGABYTE)) for kind, (one, other) in peaks.items()
                ),
            ),
        ),
        figures=tuple(
            Figure(
                name=f"change of the peak, {kind}",
                values=(100 * abs(other / one - 1),),
                unit="%",
                target=Target(at="most", value=10),
            )
            for kind, (one, other) in peaks.items()
        ),
    )


def _sent(stage: Stage, kind: str, megabytes: int) -> int:
    """Send a file of that kind that holds so much; returns how many bytes the process had at most."""
    path = stage.folder / f"memory-{megabytes}.{kind}"
    _write(path, kind, megabytes)
    migration = stage.folder / f"memory-{megabytes}-{kind}.yaml"
    source = {"file": str(path), "format": "parquet" if kind == "parquet" else "csv"}
    load = {"table": "jobs", "from": source, "key": ["id"], "identity": True}
    migration.write_text(json.dumps({"name": "memory", "operations": [{"load": load}]}), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BACKFILLD_")}
    with stage.copy_of(BASE.template(1000)) as database:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "backfilld", "enqueue", str(migration)],
            env=kept | {"BACKFILLD_DATABASE_URL": database.url, "BACKFILLD_REDIS_URL": stage.valkey.url},
            cwd=stage.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or not database.one("SELECT bool_and(staged_at IS NOT NULL) FROM backfilld.loads"):
            raise BenchBroken(f"a file of {megabytes} MB, {kind}, was not staged")
    path.unlink()
    tell(f"load_memory: {kind} of {megabytes} MB: {usage.ru_maxrss / 1024:.0f} MB")
    return usage.ru_maxrss * 1024


def _write(path: Path, kind: str, megabytes: int) -> None:
    """Lines with the same values again and again: where they go nobody asks."""
    names = ["id", "user_id", "status", "total", "created_at", "payload"]
    rows = [(n, n * 31 % 20011, "loaded", n % 1000, "2026-05-01T00:00:00+00:00", f"{n:064x}") for n in range(BLOCK)]
    block = "".join(",".join(map(str, row)) + "\n" for row in rows).encode()
    blocks = max(1, megabytes * MEGABYTE // len(block))
    if kind == "parquet":
        table = pa.table(dict(zip(names, (list(one) for one in zip(*rows, strict=True)), strict=True)))
        whole = pa.concat_tables([table] * (1_000_000 // BLOCK))
        with parquet.ParquetWriter(path, table.schema, use_dictionary=False) as writer:
            for _ in range(blocks * BLOCK // whole.num_rows):
                writer.write_table(whole, row_group_size=whole.num_rows)
            writer.write_table(whole.slice(0, blocks * BLOCK % whole.num_rows))
        return
    with _opened(path, kind) as file:
        file.write(",".join(names).encode() + b"\n")
        for _ in range(blocks):
            file.write(block)


def _opened(path: Path, kind: str) -> IO[bytes]:
    if kind == "csv.gz":
        return cast("IO[bytes]", gzip.open(path, "wb", 1))
    return cast("IO[bytes]", zstandard.open(path, "wb")) if kind == "csv.zst" else path.open("wb")
