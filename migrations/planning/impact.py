"""What an operation will do to each thing that depends on its table: an action for programs, and words for people.

A function for each kind of operation; `operations/registry.py` says which is whose.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.operations import (
        AddColumn,
        Backfill,
        ChangeColumns,
        ChangeKey,
        ChangeType,
        DeleteRows,
        DropColumn,
        DropTable,
        MoveColumn,
        Operation,
        Rebuild,
        RenameColumn,
        RenameTable,
        SetNotNull,
        Sql,
    )
    from backfilld.migrations.postgres.dependents import Dependent

#: What PostgreSQL binds to the number of a column, so that it follows a rename by itself.
BOUND = frozenset(
    {
        "view",
        "materialized view",
        "rule",
        "function",
        "policy",
        "index",
        "constraint",
        "foreign key",
        "inbound foreign key",
        "trigger",
        "column grant",
        "publication",
        "statistics",
        "comment",
        "default",
        "generated column",
        "sequence",
    }
)
#: What becomes of a materialized view over what is exchanged.
_COPIED = "is made over the new {} just before the switch, with its rows, and takes the place of the old one in it"
#: What goes with a column when it is dropped; the rest of the bound kinds forbid the drop.
_DROPPED_WITH_IT = frozenset(
    {"index", "constraint", "foreign key", "column grant", "statistics", "comment", "default", "sequence"}
)


class ImpactAction(StrEnum):
    """What happens to a dependent, or who has to act."""

    #: PostgreSQL carries it along.
    FOLLOWS = "follows"
    #: The run makes it again, or copies it, at the switch.
    REBUILT = "rebuilt"
    #: It goes with the column.
    DROPPED = "dropped"
    #: It is as before, and does not take part in the change.
    STAYS = "stays"
    #: It does something for each row that is changed.
    WORKS = "works"
    #: A person must change it, or the operation or the application fails.
    CHANGE_FIRST = "change_first"
    #: A person must look at it: PostgreSQL cannot tell whether it still works.
    REVIEW = "review"
    #: The subscribers of a publication need the change before it is made here.
    SUBSCRIBERS_FIRST = "subscribers_first"


class Effect(NamedTuple):
    """What becomes of one dependent."""

    action: ImpactAction
    words: str


@dataclass(frozen=True, kw_only=True)
class Impact:
    """What one operation will do to something that depends on its table."""

    #: The operation, by its number in the file.
    operation: int
    kind: str
    name: str
    action: ImpactAction
    #: In words, after the name.
    impact: str


def of_none(of: Operation, dependent: Dependent) -> Effect | None:
    """An operation that touches nothing but what it makes, or drops."""
    del of, dependent
    return None


def of_added(of: AddColumn, dependent: Dependent) -> Effect | None:  # noqa: PLR0911 - a line for each kind
    column, moves_rows = of.column.name, of.backfill is not None
    match dependent.kind:
        case "publication" if dependent.columns:
            return Effect(ImpactAction.STAYS, f"does not send {column} until you add it to its list of columns")
        case "publication":
            words = f"sends {column} once expand is done: add the column on its subscribers first"
            return Effect(ImpactAction.SUBSCRIBERS_FIRST, words)
        case "column grant":
            return Effect(ImpactAction.STAYS, f"does not cover {column}: grant it to the roles that need it")
        case "trigger" if moves_rows and "update" in dependent.detail and not dependent.columns:
            return Effect(ImpactAction.WORKS, "fires for each row that is filled")
        case "replica identity" if moves_rows and dependent.name == "full":
            return Effect(ImpactAction.WORKS, "writes each filled row to the WAL twice, old and new")
        case "view" | "materialized view":
            return Effect(ImpactAction.STAYS, f"does not show {column}, even if it was created with SELECT *")
        case _:
            return None


def of_backfilled(of: Backfill, dependent: Dependent) -> Effect | None:
    return _of_written(set(of.written), dependent)


def of_filled(of: SetNotNull, dependent: Dependent) -> Effect | None:
    return _of_written({of.column}, dependent) if of.backfill is not None else None


def _of_written(columns: set[str], dependent: Dependent) -> Effect | None:
    touched = bool(columns & set(dependent.columns))
    words = ""
    match dependent.kind:
        case "trigger" if "update" in dependent.detail and (touched or not dependent.columns):
            words = "fires for each row that is changed"
        case "index" if touched:
            words = "gets a new entry for each changed row, as does every other index of the table"
        case "constraint" | "foreign key" if touched:
            words = "is checked for each new value; rows that break it are quarantined"
        case "generated column" if touched:
            words = "is recomputed for each changed row"
        case "materialized view" if touched:
            return Effect(ImpactAction.STAYS, "keeps the old values until it is refreshed")
        case "policy" if touched:
            words = "decides by the new values which roles see the row"
        case "publication" if touched or not dependent.columns:
            words = "sends each changed row"
        case "replica identity" if dependent.name == "full":
            words = "writes each changed row to the WAL twice, old and new"
    return Effect(ImpactAction.WORKS, words) if words else None


def of_renamed(of: RenameColumn, dependent: Dependent) -> Effect | None:
    old, new = of.old, of.new
    if not dependent.names(old) or dependent.kind not in BOUND:
        return None
    if dependent.is_text:
        words = f"names {old}, which works until contract: change it to {new} before then"
        return Effect(ImpactAction.REVIEW, words)
    if dependent.kind in {"view", "materialized view"}:
        return Effect(ImpactAction.FOLLOWS, f"follows by itself; its own column keeps the name {old}")
    if dependent.kind == "publication":
        words = f"follows by itself, and sends {new}: rename the column on its subscribers first"
        return Effect(ImpactAction.SUBSCRIBERS_FIRST, words)
    return Effect(ImpactAction.FOLLOWS, "follows by itself")


def of_retyped(of: ChangeType, dependent: Dependent) -> Effect | None:
    if not dependent.names(of.column) or dependent.kind not in BOUND:
        return None
    if dependent.is_text:
        return Effect(ImpactAction.REVIEW, "reads the new type after the switch: check that it still works")
    if dependent.kind == "publication":
        words = "sends the new type after the switch: change the column on its subscribers first"
        return Effect(ImpactAction.SUBSCRIBERS_FIRST, words)
    if dependent.kind == "sequence":
        return Effect(ImpactAction.FOLLOWS, "follows the column, and goes on from its number")
    how = {
        "materialized view": _COPIED.format("column"),
        "comment": "is copied to the new column at the switch",
        "column grant": "is copied to the new column at the switch",
    }
    return Effect(ImpactAction.REBUILT, how.get(dependent.kind, "is recreated for the new type at the switch"))


def of_rekeyed(of: ChangeKey, dependent: Dependent) -> Effect | None:
    if not dependent.names(of.column) or dependent.kind not in BOUND:
        return None
    if dependent.is_text:
        return Effect(ImpactAction.REVIEW, "reads the new values after the switch: check that it still works")
    if dependent.kind == "sequence":
        return Effect(ImpactAction.STAYS, "goes on filling the old column, and goes with it")
    return Effect(ImpactAction.REBUILT, "is recreated for the new values at the switch")


def of_dropped(of: DropColumn, dependent: Dependent) -> Effect | None:
    if not dependent.names(of.column) or dependent.kind not in BOUND:
        return None
    if dependent.is_text:
        return Effect(ImpactAction.CHANGE_FIRST, "fails once the column is gone: change it before contract")
    if dependent.kind in _DROPPED_WITH_IT:
        return Effect(ImpactAction.DROPPED, "is dropped with the column")
    return Effect(ImpactAction.CHANGE_FIRST, "prevents the drop: change or drop it before contract")


def of_replaced(of: ChangeColumns, dependent: Dependent) -> Effect | None:
    return _of_one_that_goes([name for name in of.down if dependent.names(name)], ", ".join(of.up), dependent)


def of_moved(of: MoveColumn, dependent: Dependent) -> Effect | None:
    return _of_one_that_goes([of.column] if dependent.names(of.column) else [], f"{of.to}.{of.column}", dependent)


def _of_one_that_goes(old: Sequence[str], new: str, dependent: Dependent) -> Effect | None:
    if not old or dependent.kind not in BOUND:
        return None
    if dependent.is_text:
        return Effect(
            ImpactAction.CHANGE_FIRST, f"fails once {', '.join(old)} is gone: let it use {new} before contract"
        )
    if dependent.kind == "publication":
        words = f"names {', '.join(old)}: add {new} to it, and on its subscribers, before contract"
        return Effect(ImpactAction.SUBSCRIBERS_FIRST, words)
    if dependent.kind in _DROPPED_WITH_IT:
        return Effect(ImpactAction.DROPPED, f"is dropped with {', '.join(old)}")
    return Effect(ImpactAction.CHANGE_FIRST, f"keeps contract waiting: let it use {new} between switch and contract")


def of_renamed_table(of: RenameTable, dependent: Dependent) -> Effect | None:
    if dependent.is_text:
        words = f"names {of.table}, which works until contract: change it to {of.renamed} before then"
        return Effect(ImpactAction.REVIEW, words)
    if dependent.kind == "publication":
        words = f"follows by itself, and sends {of.renamed}: its subscribers need a table of that name first"
        return Effect(ImpactAction.SUBSCRIBERS_FIRST, words)
    return Effect(ImpactAction.FOLLOWS, "follows by itself") if dependent.kind in BOUND else None


def of_dropped_table(of: DropTable, dependent: Dependent) -> Effect | None:
    del of
    if dependent.is_text:
        return Effect(ImpactAction.CHANGE_FIRST, "fails once the table is gone: change it before contract")
    return Effect(ImpactAction.DROPPED, "goes with the table") if dependent.kind in BOUND else None


def of_deleted(of: DeleteRows, dependent: Dependent) -> Effect | None:
    del of
    match dependent.kind:
        case "trigger" if "delete" in dependent.detail:
            return Effect(ImpactAction.WORKS, "fires for the rows that are deleted")
        case "inbound foreign key":
            return Effect(ImpactAction.STAYS, "keeps the rows that it refers to: they are set aside with the error")
        case "materialized view":
            return Effect(ImpactAction.STAYS, "shows the rows until it is refreshed")
    return None


#: What becomes of a dependent of a table that is made anew, but for what is made before the switch.
_REBUILT = {
    "inbound foreign key": "changes hands in the switch, and is proved again after it",
    "foreign key": "changes hands in the switch, and is proved again after it",
    "publication": "sends the new table from the switch on, under the same name",
    "sequence": "goes on from its number",
    "trigger": "is made for the new table, and rests until the switch",
    "policy": "is made for the new table in the switch",
    "view": "is made anew in the switch, or before it where a materialized view reads it",
    "materialized view": _COPIED.format("table"),
    "function": "is made anew in the switch; a call that waits for the switch may fail once",
}


def of_rebuilt(of: Rebuild, dependent: Dependent) -> Effect | None:
    if dependent.kind not in BOUND and dependent.kind != "replica identity":
        return None
    gone = {name for name, column in of.columns.items() if column.drop} & set(dependent.columns)
    if dependent.is_text:
        action = ImpactAction.CHANGE_FIRST if gone else ImpactAction.STAYS
        return Effect(
            action,
            "fails once the new table is in place: change it first" if gone else "finds the new table by its name",
        )
    if gone and dependent.kind in _DROPPED_WITH_IT:
        return Effect(ImpactAction.DROPPED, f"is not made for the new table, which has no {', '.join(sorted(gone))}")
    action = ImpactAction.FOLLOWS if dependent.kind == "sequence" else ImpactAction.REBUILT
    return Effect(action, _REBUILT.get(dependent.kind, "is made for the new table before the switch"))


def of_raw(of: Sql, dependent: Dependent) -> Effect | None:
    del of
    if dependent.is_text:
        return Effect(ImpactAction.REVIEW, "is not changed: check that it still works")
    if dependent.kind in {"view", "materialized view", "function", "policy", "inbound foreign key", "publication"}:
        return Effect(ImpactAction.STAYS, "is not changed, unless your statements do it")
    return None
