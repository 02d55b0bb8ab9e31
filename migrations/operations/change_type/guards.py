"""What must hold before and after the two columns change places; otherwise nothing is changed, and the error names what to fix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import Action, Guard
from backfilld.migrations.operations.ddl import put_down, views
from backfilld.migrations.postgres import dependents

if TYPE_CHECKING:
    from backfilld.migrations.operations.change_type.change import Change


def unchanged(change: Change) -> Guard:
    """What depends on the column is what it was when preflight looked."""
    return Guard(
        sql=dependents.changed_since(change.table, change.column, change.dependents.seen),
        template=f"the {{!r}} of column {change.column} has changed since the run began",
        remedy="Change it back and resume, or roll back and enqueue the migration again",
    )


def nothing_new(change: Change) -> Guard:
    """Nothing was made over the column that the way back would lose."""
    return Guard(
        sql=dependents.appeared_since(change.table, change.column, change.dependents.seen),
        template=f"the {{!r}} was created after column {change.column} got its new type, and would be lost",
        remedy="Drop it, then resume",
    )


def fits(change: Change, inactive: str, type_: str) -> Guard:
    """No row may be without a value in the inactive column because its value in the other one did not fit.

    The sync trigger has put such a row down as a rollback conflict, or the lanes that restore have quarantined it.
    """
    condition = sql.SQL("t.{} IS DISTINCT FROM NULL AND t.{} IS NOT DISTINCT FROM NULL").format(
        sql.Identifier(change.column), sql.Identifier(inactive)
    )
    return put_down.guard(
        change.table,
        key=change.key,
        migration=change.migration,
        operation=change.number,
        condition=condition,
        template=f"rows whose {change.column} does not fit {type_}, with their keys: {{!r}}",
    )


def sequence_fits(change: Change, *, new: bool) -> tuple[Guard, ...]:
    """The sequence of an identity has not come further than the one that replaces it can go."""
    identity = change.dependents.identity
    if identity is None:
        return ()
    name = sql.Identifier(identity.schema, identity.name)
    least, most = identity.new_range if new else identity.old_range
    query = sql.SQL("SELECT s.last_value FROM {} s WHERE s.last_value NOT BETWEEN {} AND {}").format(
        name, sql.Literal(least), sql.Literal(most)
    )
    return (
        Guard(
            sql=query,
            template=f"the sequence of {change.column} is at {{!r}}, which is no value of the "
            f"{'new' if new else 'old'} type",
            remedy=f"Set it to a value of that type which is not taken: SELECT setval('{name.as_string()}', …), then resume",
        ),
    )


def all_there(change: Change) -> Action:
    """Look at every row: one that was put down under a key which has changed since is found by its values alone.

    A cast gives NULL for NULL only. What a `down` of one's own gives NULL for cannot be told from what did not fit.
    """
    query = sql.SQL(
        "SELECT ARRAY[{keys}] AS key FROM {table} WHERE {column} IS DISTINCT FROM NULL "
        "AND {old} IS NOT DISTINCT FROM NULL LIMIT 1"
    ).format(
        keys=sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column.name)) for column in change.key),
        table=change.table.identifier,
        column=sql.Identifier(change.column),
        old=sql.Identifier(change.old_column),
    )
    guard = Guard(
        sql=query,
        template=f"a row whose {change.column} does not fit the old type ({change.dependents.type}), with its key: {{!r}}",
        remedy="Fix it, then resume",
        names_rows=True,
    )
    return Action(table=change.table, statements=(), guards=(guard,), scans=True)


def same_privileges(change: Change) -> tuple[Guard, ...]:
    """Views are made anew, so their privileges must be the ones they had."""
    return tuple(views.same_privileges(view) for view in change.dependents.all_views)


def privileges_as_read(change: Change) -> tuple[Guard, ...]:
    """What was granted on a view since the run was enqueued would be lost."""
    return tuple(views.privileges_as_read(view) for view in change.dependents.all_views)


def copies_have_all(change: Change) -> tuple[Guard, ...]:
    """Materialized views have got no index that their copies have not."""
    return tuple(views.same_indexes(one, schema=change.copies) for one in change.dependents.copied if one.materialized)


def sent_as_read(change: Change) -> tuple[Guard, ...]:
    """Lists of columns are made anew, so what another session has added to one would be lost."""
    return tuple(
        Guard(
            sql=dependents.sends_otherwise(change.table, one.name, one.columns),
            template="the publication {!r} does not send the columns that it sent when the run was enqueued",
            remedy="Give it the list that it had, then resume",
        )
        for one in change.dependents.publications
    )
