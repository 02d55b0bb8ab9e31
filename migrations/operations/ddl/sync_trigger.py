"""The statements of a sync trigger as operations have them: each with its lock, and the guard that it fires last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.operations.base import Guard, Statement
from backfilld.migrations.operations.ddl.rule import BRIEF
from backfilld.migrations.operations.ddl.sync_function import NEUTRAL

if TYPE_CHECKING:
    from backfilld.migrations.operations.ddl.sync_function import SyncTrigger


def created(trigger: SyncTrigger, body: str) -> tuple[Statement, ...]:
    """The function and the trigger; belongs into one action with the column, under the guard `fires_last`."""
    return (
        Statement(sql=trigger.function(body), lock="none"),
        Statement(sql=trigger.create, lock="SHARE ROW EXCLUSIVE", note=BRIEF),
        Statement(
            sql=trigger.enable_always,
            lock="SHARE ROW EXCLUSIVE",
            note="fires under session_replication_role = replica too",
        ),
    )


def turned(trigger: SyncTrigger, body: str) -> Statement:
    """The trigger does something else from here on."""
    return Statement(sql=trigger.function(body), lock="none", note="the sync trigger turns round")


def silenced(trigger: SyncTrigger) -> Statement:
    """The trigger does nothing from here on, so that what it reads and writes may go."""
    return Statement(sql=trigger.function(NEUTRAL), lock="none", note="the trigger does nothing from here on")


def dropped(trigger: SyncTrigger) -> tuple[Statement, Statement]:
    """The trigger, then its function."""
    return (
        Statement(sql=trigger.drop, lock="ACCESS EXCLUSIVE", note=BRIEF),
        Statement(sql=trigger.drop_function, lock="none"),
    )


def fires_last(trigger: SyncTrigger) -> Guard:
    """No other trigger may change a row after the sync trigger has read it."""
    return Guard(
        sql=trigger.later,
        problem="the trigger {!r} fires after the sync trigger and could change what it read",
        remedy="Rename it so that its name sorts before a tilde (~)",
    )


def fires(trigger: SyncTrigger) -> Guard:
    """Nobody has disabled the sync trigger meanwhile, as a restore with --disable-triggers does."""
    return Guard(
        sql=trigger.silent,
        problem="the sync trigger {!r} was dropped or disabled, so what was written meanwhile is in one of the columns only",
        remedy="Take the run back with `backfilld rollback`, and begin again",
    )
