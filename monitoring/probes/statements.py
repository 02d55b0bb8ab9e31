"""What statements of others took, from pg_stat_statements where it is installed; without it nothing is known."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from backfilld.migrations.postgres.connect import apply_settings
from backfilld.migrations.postgres.sqlstates import lost
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection

_FIND = queries(__package__, "probes")["statements_function"]

#: Thousands of statements are gone over each time.
EVERY_SECONDS = 3.0
#: After a look that found nothing, or failed.
LOOK_AGAIN_SECONDS = 60.0
STATEMENT_TIMEOUT = "1s"
#: The most called ones; the rest say little about what most requests feel.
STATEMENTS = 40

# `false`: without their texts, which are in a file. Ours are left out as far as they are seen: what a session of ours did last.
_READ = sql.SQL("""
SELECT s.queryid::text AS id, sum(s.calls)::bigint AS calls, (sum(s.total_exec_time) / 1000)::float8 AS seconds
FROM {}.pg_stat_statements(false) s
WHERE s.dbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()) AND s.queryid IS NOT NULL
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a
                  WHERE starts_with(a.application_name, 'backfilld') AND a.query_id = s.queryid)
GROUP BY 1 ORDER BY 2 DESC LIMIT {}
""")


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What one statement took, all its calls together."""

    statement: str
    calls: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Span:
    """The statements of some seconds."""

    seconds: float
    statements: tuple[Spent, ...]


@dataclass
class Statements:
    """Reads the counters now and then; what they have grown by is a `Span`."""

    _schema: str | None = None
    _next_look: float = 0.0
    _read_at: float = 0.0
    _before: dict[str, tuple[int, float]] = field(default_factory=dict)

    def read(self, connection: Connection) -> Span | None:
        """The statements since the last span; None when it is not time yet, or nothing can be known.

        Not being able to read it is no hold: it is an addition to the canary. A lost connection raises psycopg's error.
        Inside a transaction of the caller's, our `statement_timeout` stays until it ends.
        """
        now = time.monotonic()
        if now < self._next_look or now - self._read_at < EVERY_SECONDS:
            return None
        try:
            with connection.transaction():
                apply_settings(connection, {"statement_timeout": STATEMENT_TIMEOUT})
                counters = self._count(connection)
        except psycopg.Error as exc:
            if lost(exc):
                raise
            counters = None
        if counters is None:
            self._schema, self._before, self._next_look = None, {}, now + LOOK_AGAIN_SECONDS
            return None
        span = Span(seconds=now - self._read_at, statements=tuple(self._grown(counters)))
        first, self._before, self._read_at = not self._before, counters, now
        return None if first else span

    def _count(self, connection: Connection) -> dict[str, tuple[int, float]] | None:
        if self._schema is None:
            found = connection.execute(_FIND).fetchone()
            if found is None:
                return None
            self._schema = found["schema"]
        rows = connection.execute(_READ.format(sql.Identifier(self._schema or ""), sql.Literal(STATEMENTS))).fetchall()
        return {row["id"]: (row["calls"], row["seconds"]) for row in rows}

    def _grown(self, counters: dict[str, tuple[int, float]]) -> list[Spent]:
        return [
            Spent(
                statement=statement,
                calls=calls - self._before[statement][0],
                seconds=max(0.0, seconds - self._before[statement][1]),
            )
            for statement, (calls, seconds) in counters.items()
            # Fewer calls than before: the counters were reset.
            if statement in self._before and calls > self._before[statement][0]
        ]
