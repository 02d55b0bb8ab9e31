"""Identity columns: their sequence belongs to its column for good, so another column gets one that goes on from the same number.

A sequence's number is read under its lock, before it goes with the old column, and kept in a setting of the transaction until the
new one is there: `nextval` in another session can take no number in between, and a rollback of the transaction undoes it all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import Statement
from backfilld.migrations.operations.ddl import grants_and_comments
from backfilld.migrations.operations.ddl.columns import alter_table
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.column_dependents import DependentIdentity

#: The setting that holds the sequence's number, and whether it was given out, within the transaction.
_KEPT = "backfilld.identity"


def taken_off(table: TableName, column: str, identity: DependentIdentity) -> Iterable[Statement]:
    """The column is no identity any more, and its sequence is gone; its number is kept in the transaction."""
    yield from number_kept(sql.Identifier(identity.schema, identity.name), cache=identity.cache)
    drop = sql.SQL("ALTER COLUMN {} DROP IDENTITY").format(sql.Identifier(column))
    yield alter_table(table, drop, note="the sequence goes with it")


def number_kept(name: sql.Identifier, *, cache: int) -> Iterable[Statement]:
    """The number of a sequence is kept in the transaction, and nobody takes another one until it ends."""
    # The same cache as before: it changes nothing, and takes the lock for which nextval waits. LOCK TABLE takes no sequence.
    lock = sql.SQL("ALTER SEQUENCE {} CACHE {}").format(name, sql.Literal(cache))
    keep = sql.SQL(
        "SELECT pg_catalog.set_config({}, pg_catalog.concat_ws(' ', s.last_value, s.is_called), true) FROM {} s"
    ).format(sql.Literal(_KEPT), name)
    yield Statement(sql=lock, lock=LockMode.NONE, note="changes nothing: SHARE ROW EXCLUSIVE on the sequence")
    yield Statement(sql=keep, lock=LockMode.NONE, note="the sequence's number, for the one that replaces it")


def put_on(table: TableName, column: str, identity: DependentIdentity, *, options: str) -> Iterable[Statement]:
    """The column, which is NOT NULL, is an identity, and its sequence goes on from the number that was kept."""
    name = sql.Identifier(identity.schema, identity.name)
    add = sql.SQL("ALTER COLUMN {} ADD GENERATED {} AS IDENTITY (SEQUENCE NAME {} {})").format(
        sql.Identifier(column), sql.SQL(identity.generated), name, sql.SQL(options)
    )
    yield alter_table(table, add)
    yield goes_on(name)
    yield from _belongings(name, identity)


def goes_on(name: sql.Identifier) -> Statement:
    """A sequence goes on from the number that was kept in the transaction."""
    number = sql.SQL("pg_catalog.split_part(pg_catalog.current_setting({}), ' ', {})")
    query = sql.SQL("SELECT pg_catalog.setval({}::pg_catalog.regclass, {}::bigint, {}::boolean)").format(
        sql.Literal(name.as_string()),
        number.format(sql.Literal(_KEPT), sql.Literal(1)),
        number.format(sql.Literal(_KEPT), sql.Literal(2)),
    )
    return Statement(sql=query, lock=LockMode.NONE, note="from where the sequence before it was")


def sequence_again(sequence: DependentIdentity) -> Iterable[Statement]:
    """A sequence that a column owned, as it was, from the number that was kept in the transaction; it belongs to no column yet."""
    name = sql.Identifier(sequence.schema, sequence.name)
    create = sql.SQL("CREATE SEQUENCE {} AS {} {}").format(name, sql.SQL(sequence.type), sql.SQL(sequence.old))
    yield Statement(sql=create, lock=LockMode.NONE)
    yield goes_on(name)
    yield from _belongings(name, sequence)
    if sequence.owner:
        owner = sql.SQL("ALTER SEQUENCE {} OWNER TO {}").format(name, sql.SQL(sequence.owner))
        yield Statement(sql=owner, lock=LockMode.NONE)


def _belongings(name: sql.Identifier, identity: DependentIdentity) -> Iterable[Statement]:
    yield grants_and_comments.revoke_given(name, what="sequence", from_owner=identity.has_grants)
    for granted in identity.grants:
        yield grants_and_comments.grant_on_sequence(name, granted)
    if identity.comment is not None:
        yield grants_and_comments.on_sequence(name, identity.comment)
