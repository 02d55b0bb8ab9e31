"""What runs without a record have left on a table, by the names that we give: after a DROP SCHEMA backfilld nobody takes it back."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.postgres import catalog
from backfilld.migrations.record import runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.planning.checks.findings import Findings
    from backfilld.migrations.postgres.catalog import NamedAsOurs, Table
    from backfilld.migrations.postgres.connect import Connection


def tell_leftovers(connection: Connection, found: Findings, table: Table) -> None:
    """Put down by name what is left on a table that no run on record accounts for, and the statements that remove it.

    Nothing for a role that may not read the record: it cannot tell what is left from what is in use.
    """
    left = catalog.named_as_ours(connection, table)
    if not left:
        return
    try:
        with connection.transaction():
            known = runs.made_names(connection)
    except psycopg.errors.InsufficientPrivilege:
        return
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        known = runs.MadeNames(digests=frozenset(), columns=frozenset())
    lost = [
        one
        for one in left
        if not (one.digest in known.digests if one.digest else (str(table.name), one.name) in known.columns)
    ]
    if lost:
        found.warn(_in_words(str(table.name), lost))


def without_a_record(connection: Connection) -> list[str]:
    """What is left on each table of a database whose record has just been made, in words."""
    left = catalog.named_as_ours(connection)
    return [_in_words(table, list(of_table)) for table, of_table in groupby(left, key=lambda one: one.relation)]


def _in_words(table: str, lost: Sequence[NamedAsOurs]) -> str:
    names = ", ".join(f"the {one.kind} {one.name}" for one in lost)
    return (
        f"{table} holds what a run left whose record is lost, as after DROP SCHEMA backfilld: {names}. "
        f"To remove it: {'; '.join(one.remedy for one in lost)}"
    )
