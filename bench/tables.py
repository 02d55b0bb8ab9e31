"""The tables that the ways are compared on: one base, and each property varied by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import psycopg
from psycopg import sql

from bench.stage import Template

if TYPE_CHECKING:
    from bench.stage import Stage

TABLE = "jobs"

#: In the order in which a table gets them; none covers the column that is rewritten.
INDEXES = ("user_id", "created_at", "status, created_at", "total", "payload")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What makes one way better than another."""

    name: str
    key: Literal["identity", "uuid"] = "identity"
    indexes: int = 2
    fillfactor: int = 100
    #: Every second row deleted, and vacuumed: each page has room for its own new versions.
    is_half_empty: bool = False

    def template(self, rows: int) -> Template:
        """So many rows that are there, whatever was deleted."""

        def fill(stage: Stage, name: str) -> None:
            with psycopg.connect(stage.url(name), autocommit=True) as connection:
                self._fill(connection, rows)

        return Template(name=f"{self.name.replace(' ', '_')}_{rows}", table=TABLE, key="id", rows=rows, fill=fill)

    def _fill(self, connection: psycopg.Connection[tuple[object, ...]], rows: int) -> None:
        key = (
            "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
            if self.key == "identity"
            else "uuid DEFAULT gen_random_uuid() PRIMARY KEY"
        )
        connection.execute(
            sql.SQL(
                "CREATE TABLE {} (id {}, user_id bigint NOT NULL, status text NOT NULL, total bigint NOT NULL, "
                "created_at timestamptz NOT NULL, payload text NOT NULL, revenue bigint) "
                "WITH (fillfactor = {}, autovacuum_enabled = off)"
            ).format(sql.Identifier(TABLE), sql.SQL(key), sql.Literal(self.fillfactor))
        )
        # About 150 bytes a row, header and line pointer included.
        connection.execute(
            sql.SQL(
                "INSERT INTO {} (user_id, status, total, created_at, payload) "
                "SELECT n * 7919 %% 20011, (ARRAY['new', 'running', 'done', 'failed'])[1 + n %% 4], n %% 100000, "
                "timestamptz '2026-01-01' + n * interval '7 seconds', md5(n::text) || md5((-n)::text) "
                "FROM generate_series(1, %s::bigint) n"
            ).format(sql.Identifier(TABLE)),
            [2 * rows if self.is_half_empty else rows],
        )
        for columns in INDEXES[: self.indexes]:
            connection.execute(sql.SQL("CREATE INDEX ON {} ({})").format(sql.Identifier(TABLE), sql.SQL(columns)))
        if self.is_half_empty:
            connection.execute(
                sql.SQL(
                    "DELETE FROM {table} WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER (ORDER BY ctid) AS n "
                    "FROM {table}) numbered WHERE n %% 2 = 0)"
                ).format(table=sql.Identifier(TABLE)),
                [],
            )
        connection.execute(sql.SQL("VACUUM (FREEZE, ANALYZE) {}").format(sql.Identifier(TABLE)))


BASE = Kind(name="2 indexes")
NO_INDEX = Kind(name="no index", indexes=0)
FIVE_INDEXES = Kind(name="5 indexes", indexes=5)

KINDS = (
    BASE,
    NO_INDEX,
    FIVE_INDEXES,
    Kind(name="random UUID key", key="uuid"),
    Kind(name="fillfactor 90", fillfactor=90),
    Kind(name="half-empty pages", is_half_empty=True),
)
KINDS_QUICK = (BASE, NO_INDEX, FIVE_INDEXES)
