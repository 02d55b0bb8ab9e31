"""What an operation will do to each thing that depends on its table, in words.

An operation that knows better than its kind says so itself, by a method `impact`; see `Fateful`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, assert_never, runtime_checkable

from backfilld.migrations.file import migration as definition

if TYPE_CHECKING:
    from backfilld.migrations.operations import Operation
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
#: What goes with a column when it is dropped; the rest of the bound kinds forbid the drop.
_DROPPED_WITH_IT = frozenset(
    {"index", "constraint", "foreign key", "column grant", "statistics", "comment", "default", "sequence"}
)


@runtime_checkable
class Fateful(Protocol):
    """An operation that says itself what becomes of a dependent."""

    def impact(self, dependent: Dependent) -> str | None:
        """In words; empty when the operation does not touch it, None to leave the answer to its kind."""
        ...


def impact(operation: Operation, of: definition.Operation, dependent: Dependent) -> str:
    """What becomes of a dependent, in words; empty when the operation does not touch it."""
    own = operation.impact(dependent) if isinstance(operation, Fateful) else None
    return own if own is not None else by_kind(of, dependent)


def by_kind(of: definition.Operation, dependent: Dependent) -> str:  # noqa: PLR0911 - a line for each operation
    """What becomes of a dependent by the kind of an operation alone; empty when it is not touched."""
    match of:
        case definition.AddColumn():
            return _of_added(of.column.name, dependent, moves_rows=of.backfill is not None)
        case definition.Backfill():
            return _of_written(set(of.written), dependent)
        case definition.RenameColumn():
            return _of_renamed(of.old, of.new, dependent)
        case definition.ChangeType():
            return _of_retyped(of.column, dependent)
        case definition.DropColumn():
            return _of_dropped(of.column, dependent)
        case definition.SetNotNull():
            return _of_written({of.column}, dependent) if of.backfill is not None else ""
        case definition.Sql():
            return _of_raw(dependent)
        case (
            definition.AddCheck()
            | definition.AddForeignKey()
            | definition.AddUnique()
            | definition.CreateIndex()
            | definition.DropIndex()
        ):
            return ""  # they touch nothing but themselves
    assert_never(of)


def _of_added(column: str, dependent: Dependent, *, moves_rows: bool) -> str:  # noqa: PLR0911 - a line for each kind
    match dependent.kind:
        case "publication" if dependent.columns:
            return f"does not send {column} until it is added to its list of columns"
        case "publication":
            return f"sends {column} from expand on: its subscribers need the column first"
        case "column grant":
            return f"does not cover {column}: grant it to whoever needs it"
        case "trigger" if moves_rows and "update" in dependent.detail and not dependent.columns:
            return "fires for each row that is filled"
        case "replica identity" if moves_rows and dependent.name == "full":
            return "writes each filled row to the WAL twice, old and new"
        case "view" | "materialized view":
            return f"stays as it is: it does not show {column}, not even if it was made with *"
        case _:
            return ""


def _of_written(columns: set[str], dependent: Dependent) -> str:  # noqa: PLR0911 - a line for each kind
    touched = bool(columns & set(dependent.columns))
    match dependent.kind:
        case "trigger" if "update" in dependent.detail and (touched or not dependent.columns):
            return "fires for each row that is changed"
        case "index" if touched:
            return "is written for each row that is changed, and all others with it"
        case "constraint" | "foreign key" if touched:
            return "is checked for each new value; rows that break it are quarantined"
        case "generated column" if touched:
            return "is computed anew for each row that is changed"
        case "materialized view" if touched:
            return "keeps the old values until it is refreshed"
        case "policy" if touched:
            return "decides by the new values who sees the row"
        case "publication" if touched or not dependent.columns:
            return "sends each row that is changed"
        case "replica identity" if dependent.name == "full":
            return "writes each changed row to the WAL twice, old and new"
        case _:
            return ""


def _of_renamed(old: str, new: str, dependent: Dependent) -> str:
    if not dependent.names(old) or dependent.kind not in BOUND:
        return ""
    if dependent.is_text:
        return f"keeps the name {old}, which works until contract: change it to {new} before"
    if dependent.kind in {"view", "materialized view"}:
        return f"follows by itself; its own column is still called {old}"
    if dependent.kind == "publication":
        return f"follows by itself, and sends {new}: its subscribers need the column first"
    return "follows by itself"


def _of_retyped(column: str, dependent: Dependent) -> str:
    if not dependent.names(column) or dependent.kind not in BOUND:
        return ""
    if dependent.is_text:
        return "meets the new type from the switch on: see whether it minds"
    if dependent.kind == "publication":
        return "sends the new type from the switch on: its subscribers need it first"
    if dependent.kind == "sequence":
        return "stays, and gives values of the type it has"
    if dependent.kind in {"comment", "column grant"}:
        return "is carried over at the switch"
    return "is made again over the new type at the switch"


def _of_dropped(column: str, dependent: Dependent) -> str:
    if not dependent.names(column) or dependent.kind not in BOUND:
        return ""
    if dependent.is_text:
        return "fails once the column is gone: must be changed by you, before contract"
    if dependent.kind in _DROPPED_WITH_IT:
        return "is dropped with it"
    return "forbids the drop: must be changed by you, before contract"


def _of_raw(dependent: Dependent) -> str:
    if dependent.is_text:
        return "is left as it is: see whether it minds"
    if dependent.kind in {"view", "materialized view", "function", "policy", "inbound foreign key", "publication"}:
        return "is left to the statements"
    return ""
