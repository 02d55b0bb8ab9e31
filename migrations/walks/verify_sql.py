"""The statements of a verifying batch; their text is `sql/templates/verify.sql`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.queries import templates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.walks.keys import KeyWalk

_SQL = templates(__package__, "verify")


def count_residual(
    table: sql.Composable, condition: sql.Composable, *, wanted: sql.Composable, own: Sequence[sql.Composable]
) -> sql.Composed:
    """Gives `rows` of a range, and of them `residual`: those that are `wanted`, and `own`: those that meet such a condition."""
    counts = sql.SQL(" + ").join(_SQL["count"].format(condition=one) for one in own)
    return _SQL["count_residual"].format(
        table=table, condition=condition, wanted=wanted, own=counts if own else sql.SQL("0")
    )


def keys_wanted(
    walk: KeyWalk, table: sql.Composable, condition: sql.Composable, *, wanted: sql.Composable
) -> sql.Composed:
    """The keys of the rows of a range that are `wanted`; the last parameter says how many at most."""
    return _SQL["keys_wanted"].format(key=walk.texts(), table=table, condition=condition, wanted=wanted)


def wanted(walk: KeyWalk, condition: sql.Composable, *, carefully: bool) -> sql.Composed:
    """A condition for rows that are not quarantined; its parameters are the run and the operation.

    `carefully` where the condition raises an error for a row that is.
    """
    return _SQL["wanted_carefully" if carefully else "wanted"].format(
        condition=condition, set_aside=_SQL["set_aside"].format(key=walk.texts())
    )
