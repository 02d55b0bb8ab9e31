"""The journal of a load: of a row that was updated what it was, and of every row a digest of what was written.

What was written need not come back. The way back asks only whether a row still is what the load made it, and for that a digest of 64
bits serves: of 10^19 rows that another session has changed, one has the digest of what was there. The values themselves were the most
that a load cost (docs/benchmarks, `load`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.queries import templates
from backfilld.migrations.rollback.journal import Form, Journal

if TYPE_CHECKING:
    from collections.abc import Sequence

_TEMPLATES = templates(__package__, "loaded_rows")

#: Whether a row of the journal was inserted, and the digest of what was written; in our statements.
INSERTED, DIGEST = sql.Identifier("~ins"), sql.Identifier("~digest")
_BOOLEAN, _BIGINT = Form(type="boolean", element="boolean"), Form(type="bigint", element="bigint")


@dataclass(frozen=True, kw_only=True)
class LoadedRows(Journal):
    """Where a run keeps what a load replaces, and which rows it inserted."""

    #: Columns that are not loaded: of a row that was inserted they count too.
    others: Sequence[str]

    @property
    def arrays(self) -> list[tuple[sql.Identifier, Form, sql.Identifier]]:
        number = self.operation
        new = [self.now(n) for n, _ in enumerate(self.columns)]
        return [
            *(one for one in super().arrays if one[2] not in new),
            (sql.Identifier(f"digest_{number}"), _BIGINT, DIGEST),
            (sql.Identifier(f"inserted_{number}"), _BOOLEAN, INSERTED),
        ]

    def stored(self, *, has_lz4: bool) -> list[sql.Composed]:
        """Keys and digests hardly compress, and trying to was an eighth of the processor that a batch of a load took; as much are texts
        where the server has nothing quicker than pglz.
        """
        quickly = [column for column, form, _ in self.arrays if has_lz4 and not form.is_fixed]
        external = [column for column, _, _ in self.arrays if column not in quickly]
        return [sql.SQL("ALTER COLUMN {} SET STORAGE EXTERNAL").format(column) for column in external] + [
            sql.SQL("ALTER COLUMN {} SET COMPRESSION lz4").format(column) for column in quickly
        ]

    @property
    def differs(self) -> sql.Composable:
        return sql.SQL("true")

    def digest(
        self, values: Sequence[sql.Composable], others: Sequence[sql.Composable], *, inserted: sql.Composable
    ) -> sql.Composed:
        """Of the columns that are written, and where the row was `inserted` of the others as well. Letter by letter: 1.0 is not 1.00.

        Under our settings: some types have texts that depend on them.
        """
        kept = [one.form.kept(value) for one, value in zip(self.columns, values, strict=True)]
        if not others:
            return self._digest(kept)
        # Not of a CASE between two rows: for each one that has another shape than the last, `record_send` looks up all types anew.
        whole = self._digest([*kept, sql.SQL('{}::text COLLATE "C"').format(_row(others))])
        return sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(inserted, whole, self._digest(kept))

    def _digest(self, values: Sequence[sql.Composable]) -> sql.Composed:
        return _TEMPLATES["digest"].format(row=_row(values), seed=sql.Literal(self.run))


def _row(values: Sequence[sql.Composable]) -> sql.Composed:
    return sql.SQL("ROW({})").format(sql.SQL(", ").join(values))
