"""What depends on the column by its name: views, policies, triggers and functions, taken away and made anew over the name.

Their texts were read before the run. They name the column, so they mean whichever of the two has the name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.base import Action, Statement
from backfilld.migrations.operations.ddl import columns, grants_and_comments, publications, statistics, tables, views
from backfilld.migrations.operations.ddl.columns import alter_table
from backfilld.migrations.postgres.catalog_diff import AllowedChanges
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.operations.change_type.change import Change
    from backfilld.migrations.postgres.column_dependents import DependentTrigger

_MADE_ANEW = "made anew below"


def dropped(change: Change) -> Iterable[Statement]:
    """Views, triggers and the table's place in publications go; policies and functions are replaced in their place."""
    for view in reversed(change.dependents.views):
        yield views.drop(view)
    for copied in reversed(change.dependents.copied):
        yield views.drop_copied(copied, schema=copied.view.schema)
    for trigger in change.dependents.triggers:
        drop = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(trigger.name), change.table.identifier)
        yield Statement(sql=drop, lock=LockMode.ACCESS_EXCLUSIVE, note=_MADE_ANEW)
    for one in change.dependents.publications:
        yield publications.drop(one.name, change.table)


def made(change: Change) -> Iterable[Statement]:
    """All of them, as they were; of materialized views the copies that were made before."""
    for copied in change.dependents.copied:
        yield from views.move_copied(copied, schema=change.copies)
    if change.dependents.copied:
        yield tables.drop_schema(change.copies)
    for function in change.dependents.functions:
        yield Statement(sql=views.as_written(function), lock=LockMode.NONE)
    for policy in change.dependents.policies:
        yield views.policy(policy)
    for trigger in change.dependents.triggers:
        yield from _trigger(change.table, trigger)
    for view in change.dependents.views:
        yield from views.made(view)
    for one in change.dependents.publications:
        yield publications.add(one.name, change.table, columns=one.columns, where=one.where)


def copied(change: Change, *, new: bool) -> tuple[Action, ...]:
    """Copies of materialized views over the column that is about to come, with their rows: in the exchange they only move.

    Their texts name the column. So for the length of one transaction, in which they are made without rows, the two columns have
    each other's names; PostgreSQL binds what it reads by number. Then they are filled, while nobody waits.
    """
    table, dependents = change.table, change.dependents
    if not dependents.copied:
        return ()
    leaves, comes = (change.old_column, change.new_column) if new else (change.new_column, change.old_column)
    gone = (
        *(views.drop_copied(one, schema=change.copies) for one in reversed(dependents.copied)),
        tables.drop_schema(change.copies),
    )
    named = {
        (one.view.schema, one.view.name): sql.Identifier(change.copies, one.view.name) for one in dependents.copied
    }
    bare = Action(
        table=table,
        locks=(table,),
        statements=(
            *gone,
            tables.make_schema(change.copies, owner=dependents.owner),
            columns.rename(table, change.column, leaves),
            columns.rename(table, comes, change.column),
            *(
                statement
                for one in dependents.copied
                for statement in views.copy(replace(one, populated=False), schema=change.copies, named=named)
            ),
            columns.rename(table, change.column, comes),
            columns.rename(table, leaves, change.column),
        ),
        allows=AllowedChanges(),
        back=(Action(table=table, statements=gone),),
    )
    filled = [
        statement
        for one in dependents.copied
        if one.materialized and one.populated
        for statement in views.fill(TableName(change.copies, one.view.name))
    ]
    return (bare, *([Action(table=table, statements=tuple(filled), scans=True)] if filled else ()))


def statistics_made(change: Change) -> Action:
    """Extended statistics over the new column while it is inactive, under names of ours."""
    table = change.table
    names = [(one, change.statistics_name(number)) for number, one in enumerate(change.dependents.statistics)]
    gone = Action(table=table, statements=tuple(statistics.drop(one.schema, name) for one, name in names))
    return Action(
        table=table,
        statements=tuple(
            statistics.create(table, one.schema, name, kinds=one.kinds, of=one.new) for one, name in names
        ),
        back=(gone,),
    )


def _trigger(table: TableName, trigger: DependentTrigger) -> Iterable[Statement]:
    yield Statement(sql=views.as_written(trigger.definition), lock=LockMode.SHARE_ROW_EXCLUSIVE)
    if trigger.enabled != "ENABLE":
        what = sql.SQL("{} TRIGGER {}").format(sql.SQL(trigger.enabled), sql.Identifier(trigger.name))
        yield alter_table(table, what, lock=LockMode.SHARE_ROW_EXCLUSIVE)
    if trigger.comment is not None:
        yield grants_and_comments.on_trigger(table, trigger.name, trigger.comment)
