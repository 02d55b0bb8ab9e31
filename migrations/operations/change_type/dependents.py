"""What depends on the column by its name: views, policies, triggers and functions, taken away and made anew over the name.

Their texts were read before the run. They name the column, so they mean whichever of the two has the name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import Action, Statement
from backfilld.migrations.operations.ddl import grants_and_comments, statistics, views
from backfilld.migrations.operations.ddl.columns import alter_table
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations.change_type.change import Change
    from backfilld.migrations.postgres.column_dependents import DependentTrigger

_MADE_ANEW = "made anew below"


def dropped(change: Change) -> Iterable[Statement]:
    """Views and triggers go; policies and functions are replaced in their place."""
    for view in reversed(change.dependents.views):
        yield views.drop(view)
    for trigger in change.dependents.triggers:
        drop = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(trigger.name), change.table.identifier)
        yield Statement(sql=drop, lock=LockMode.ACCESS_EXCLUSIVE, note=_MADE_ANEW)


def made(change: Change) -> Iterable[Statement]:
    """All of them, as they were."""
    for function in change.dependents.functions:
        yield Statement(sql=views.as_written(function), lock=LockMode.NONE)
    for policy in change.dependents.policies:
        yield views.policy(policy)
    for trigger in change.dependents.triggers:
        yield from _trigger(change.table, trigger)
    for view in change.dependents.views:
        yield from views.made(view)


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
