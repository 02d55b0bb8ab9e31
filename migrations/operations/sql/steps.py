"""Run the user's own SQL in the phase that the file names; the file also has the SQL that takes it back.

expand, switch or contract   the statements of `run`, in one transaction, or of one step after the other, each in a transaction of its
                             own; the way back of each is its `rollback`

The lock of a statement is derived from its first words alone, since the steps must not depend on when they are asked for. The plan
has what was measured beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Bound, Statement, Step
from backfilld.migrations.postgres.locks import LockMode
from backfilld.migrations.postgres.statements import split

if TYPE_CHECKING:
    from backfilld.migrations.identifiers import TableName

#: What statements lock, by their first words; the first that matches counts. (Measured on 15, 16 and 18.)
_LOCKS = (
    (r"ALTER TABLE .* VALIDATE CONSTRAINT ", LockMode.SHARE_UPDATE_EXCLUSIVE),
    (r"ALTER TABLE .* ALTER (COLUMN )?\S+ SET STATISTICS ", LockMode.SHARE_UPDATE_EXCLUSIVE),
    (r"ALTER TABLE .* ADD (CONSTRAINT \S+ )?FOREIGN KEY ", LockMode.SHARE_ROW_EXCLUSIVE),
    (r"ALTER TABLE .* (ENABLE|DISABLE) (ALWAYS |REPLICA )?TRIGGER ", LockMode.SHARE_ROW_EXCLUSIVE),
    (r"CREATE (OR REPLACE )?(CONSTRAINT )?TRIGGER ", LockMode.SHARE_ROW_EXCLUSIVE),
    (r"CREATE (UNIQUE )?INDEX |REINDEX ", LockMode.SHARE),
    (
        r"COMMENT ON (TABLE|COLUMN|CONSTRAINT|TRIGGER|POLICY) |CREATE STATISTICS |ALTER PUBLICATION |ANALYZE ",
        LockMode.SHARE_UPDATE_EXCLUSIVE,
    ),
    (r"UPDATE |DELETE |INSERT |MERGE |WITH ", LockMode.ROW_EXCLUSIVE),
    (r"SELECT .* FOR (NO KEY UPDATE|UPDATE|KEY SHARE|SHARE)", LockMode.ROW_SHARE),
    (
        r"(ALTER|DROP) (TABLE|INDEX|VIEW|MATERIALIZED VIEW) |TRUNCATE |(CREATE|ALTER|DROP) POLICY |DROP TRIGGER ",
        LockMode.ACCESS_EXCLUSIVE,
    ),
    (
        r"(CREATE|DROP) RULE |CLUSTER |LOCK |CREATE OR REPLACE RULE |REFRESH MATERIALIZED VIEW ",
        LockMode.ACCESS_EXCLUSIVE,
    ),
    (
        (
            r"CREATE (OR REPLACE )?(TEMP |TEMPORARY |RECURSIVE )*VIEW |CREATE MATERIALIZED VIEW |SELECT |TABLE |VALUES "
            r"|CREATE (TEMP |TEMPORARY |UNLOGGED )?TABLE .* AS (SELECT|TABLE|VALUES|WITH|\() "
        ),
        LockMode.ACCESS_SHARE,
    ),
    (r"DO ", LockMode.UNKNOWN),
)


@dataclass(frozen=True, kw_only=True)
class Sql(Bound[file.Sql]):
    """A `sql` of a migration, bound to a database."""

    @property
    def table(self) -> TableName | None:
        return self.definition.table

    def expand(self) -> tuple[Step, ...]:
        return self._steps("expand")

    def switch(self) -> tuple[Step, ...]:
        return self._steps("switch")

    def contract(self) -> tuple[Step, ...]:
        return self._steps("contract")

    def _steps(self, phase: str) -> tuple[Step, ...]:
        if phase != self.definition.phase:
            return ()
        return tuple(
            Action(
                table=self.table,
                statements=statements(one.run),
                back=(Action(table=self.table, statements=statements(one.rollback), is_users=True),),
            )
            for one in self.definition.transactions
        )


def statements(text: str) -> tuple[Statement, ...]:
    """A text as statements that are sent one after the other."""
    return tuple(
        # The user's own, read by preflight; without parameters, so that a percent sign is one.
        Statement(sql=sql.Composed([sql.SQL(one.text)]), lock=lock_of(one.bare), note="raw SQL")
        for one in split(text)
    )


def lock_of(bare: str) -> LockMode:
    """The lock that a statement takes on the table it is about, by its first words."""
    return next((lock for pattern, lock in _LOCKS if re.match(pattern, bare + " ", re.DOTALL)), LockMode.NONE)
