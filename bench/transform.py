"""How many rows a Python function gets through."""

from __future__ import annotations

import psycopg
from psycopg import sql

from backfilld.migrations.file.migration import Backfill
from bench.daemon import Daemon
from bench.effort import Effort, tell
from bench.figures import Figure, Section, Target
from bench.stage import BenchBroken, NotHere, Stage, Template

ROWS, ROWS_QUICK = 300_000, 30_000
MODULE = "bench_phones"
#: About as little as such a function does.
SOURCE = '''"""Digits of phone numbers."""

OTHERS = {code: None for code in range(128) if not chr(code).isdigit()}


def digits(rows):
    return [row | {"digits": row["phone"].translate(OTHERS)} for row in rows]
'''


def measure(stage: Stage, effort: Effort) -> Section:
    if "transform" not in Backfill.model_fields:
        raise NotHere("this version of backfilld runs no Python functions")
    rows = ROWS_QUICK if effort.is_quick else ROWS
    speeds = []
    for repetition in range(effort.repetitions):
        speeds.append(_rows_per_second(stage, rows))
        tell(f"transform {repetition + 1}/{effort.repetitions}: {speeds[-1]:,.0f} rows/s")
    return Section(
        name="transform",
        title=f"Transform: the digits of {rows:,} phone numbers, by a Python function, one lane",
        method=(
            "backfill with transform, reads [phone], writes [digits], where digits IS NULL, on a table of three columns with its "
            "key alone; the function is one str.translate a row. Seconds are those from the event phase.backfill to the event "
            "phase.verify. Afterwards all rows are compared with what PostgreSQL makes of them."
        ),
        figures=(
            Figure(
                name="rows/s of one lane", values=tuple(speeds), unit="rows/s", target=Target(at="least", value=20_000)
            ),
        ),
    )


def _rows_per_second(stage: Stage, rows: int) -> float:
    (stage.folder / f"{MODULE}.py").write_text(
        SOURCE, encoding="utf-8"
    )  # the daemon's folder, where it may import from
    operation = {
        "table": "phones",
        "transform": f"{MODULE}:digits",
        "reads": ["phone"],
        "writes": ["digits"],
        "where": "digits IS NULL",
    }
    with (
        stage.copy_of(_template(rows)) as database,
        Daemon(stage, database, processes=1, variables={"BACKFILLD_TRANSFORMS": MODULE}) as daemon,
    ):
        run = daemon.start({"backfill": operation}, settings={"lanes": 1})
        database.until_state(run, "completed")
        wrong = database.one(
            "SELECT count(*) FROM phones WHERE digits IS DISTINCT FROM regexp_replace(phone, '[^0-9]', '', 'g')"
        )
        if wrong:
            raise BenchBroken(f"{wrong} rows are not as they should be")
        return rows / database.lasted(run, "phase.backfill", "phase.verify")


def _template(rows: int) -> Template:
    def fill(stage: Stage, name: str) -> None:
        with psycopg.connect(stage.url(name), autocommit=True) as connection:
            connection.execute(
                "CREATE TABLE phones (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, phone text NOT NULL, digits text) "
                "WITH (autovacuum_enabled = off)"
            )
            connection.execute(
                sql.SQL(
                    "INSERT INTO phones (phone) SELECT format('+49 (%s) %s-%s', 100 + n % 900, n % 10000, n) "
                    "FROM generate_series(1, {}) n"
                ).format(rows)
            )
            connection.execute("VACUUM (FREEZE, ANALYZE) phones")

    return Template(name=f"phones_{rows}", table="phones", key="id", rows=rows, fill=fill)
