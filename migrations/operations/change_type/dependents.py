"""What depends on the column by its name: views, policies, triggers and functions, taken away and made anew over the name.

Their texts were read before the run. They name the column, so they mean whichever of the two has the name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.base import Statement
from backfilld.migrations.operations.ddl import grants_and_comments
from backfilld.migrations.operations.ddl.columns import alter_table, operand
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.operations.change_type.change import Change
    from backfilld.migrations.postgres.column_dependents import DependentPolicy, DependentTrigger, DependentView

_MADE_ANEW = "made anew below"


def dropped(change: Change) -> Iterable[Statement]:
    """Views and triggers go; policies and functions are replaced in their place."""
    for view in reversed(change.dependents.views):
        drop = sql.SQL("DROP VIEW IF EXISTS {}").format(sql.Identifier(view.schema, view.name))
        yield Statement(sql=drop, lock=LockMode.ACCESS_EXCLUSIVE, note=_MADE_ANEW)
    for trigger in change.dependents.triggers:
        drop = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(trigger.name), change.table.identifier)
        yield Statement(sql=drop, lock=LockMode.ACCESS_EXCLUSIVE, note=_MADE_ANEW)


def made(change: Change) -> Iterable[Statement]:
    """All of them, as they were."""
    for function in change.dependents.functions:
        yield Statement(sql=_text(function), lock=LockMode.NONE)
    for policy in change.dependents.policies:
        yield _policy(policy)
    for trigger in change.dependents.triggers:
        yield from _trigger(change.table, trigger)
    for view in change.dependents.views:
        yield from _view(view)


def _trigger(table: TableName, trigger: DependentTrigger) -> Iterable[Statement]:
    yield Statement(sql=_text(trigger.definition), lock=LockMode.SHARE_ROW_EXCLUSIVE)
    if trigger.enabled != "ENABLE":
        what = sql.SQL("{} TRIGGER {}").format(sql.SQL(trigger.enabled), sql.Identifier(trigger.name))
        yield alter_table(table, what, lock=LockMode.SHARE_ROW_EXCLUSIVE)
    if trigger.comment is not None:
        yield grants_and_comments.on_trigger(table, trigger.name, trigger.comment)


def _policy(policy: DependentPolicy) -> Statement:
    parts = [sql.SQL("ALTER POLICY {} ON {}").format(sql.Identifier(policy.name), policy.table.identifier)]
    if policy.using is not None:
        parts.append(sql.SQL("USING {}").format(operand(policy.using)))
    if policy.with_check is not None:
        parts.append(sql.SQL("WITH CHECK {}").format(operand(policy.with_check)))
    return Statement(sql=sql.SQL(" ").join(parts), lock=LockMode.ACCESS_EXCLUSIVE, brief=True)


def _view(view: DependentView) -> Iterable[Statement]:
    """The view as it was, with its owner, privileges and comments, whatever default privileges add to a new one."""
    name = TableName(view.schema, view.name)
    options = sql.SQL(" WITH ({})").format(sql.SQL(view.options)) if view.options else sql.SQL("")
    create = sql.SQL("CREATE VIEW {}{} AS {}").format(name.identifier, options, sql.SQL(view.definition))
    owner = sql.SQL("ALTER VIEW {} OWNER TO {}").format(name.identifier, sql.SQL(view.owner))
    yield Statement(sql=create, lock=LockMode.NONE)
    yield Statement(sql=owner, lock=LockMode.NONE)
    yield grants_and_comments.revoke_given(name.identifier, what="view", from_owner=True)
    for grant in view.grants:
        yield grants_and_comments.grant(name, grant)
    if view.comment is not None:
        yield grants_and_comments.on_view(name, view.comment)
    for column, text in view.column_comments:
        yield grants_and_comments.on_view(name, text, column=column)


def _text(statement: str) -> sql.Composed:
    return sql.Composed([sql.SQL(statement)])  # PostgreSQL's own text
