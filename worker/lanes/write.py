"""How a batch changes rows: one statement, in the form that the table's own code asks for.

Whether a table runs code of its own for the update (triggers, mainly) is known from the batch before; the first asks while it takes
its lane. Each batch asks again behind its statement, when the table's lock keeps new triggers out: no round trip is spent, and a
batch that was sent in the wrong form is rolled back and comes back at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from backfilld.migrations.postgres.connect import SEMANTICS, apply_settings
from backfilld.migrations.postgres.pipelines import pipeline
from backfilld.migrations.postgres.sqlstates import classify
from backfilld.migrations.queries import queries
from backfilld.migrations.record import audit, runs
from backfilld.migrations.walks import firing
from backfilld.migrations.walks.firing import TableCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Lane
    from backfilld.migrations.walks.keys import Query

_HOT_UPDATES = queries("backfilld.migrations.walks", "walks")["hot_updates"]

#: What the audit calls it when a table's triggers kept rows from being changed as they should; the coordinator reads it.
UNDONE = "batch.undone"


@dataclass(frozen=True, kw_only=True)
class Change:
    """An UPDATE in both of its forms."""

    #: The table that has the key, and what of it is walked: itself or a partition.
    table: TableName
    relation: TableName
    columns: tuple[str, ...]
    #: Where the table runs no code of its own.
    plain: Query
    #: Where it does.
    firing: Callable[[TableCode], Query]


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a statement did."""

    changed: int
    #: How many of the changed rows stayed on their page and touched no index.
    hot: int
    #: How many of the changed rows still meet the user's condition, where it was asked.
    residual: int = 0
    #: How many rows a trigger kept from being what they should be.
    undone: int = 0


@dataclass(frozen=True)
class TableCodes:
    """What each walked table was last seen to run; shared by the threads of a process."""

    seen: dict[TableName, TableCode] = field(default_factory=dict)


def write(connection: Connection, codes: TableCodes, change: Change, *, is_fresh: bool) -> tuple[Written, TableCode]:
    """Change rows; afterwards our settings are in force, whatever form the statement had.

    `is_fresh` where what is known of the table was asked in this transaction. Raises psycopg.Error, and ChangedMeanwhile where the table has come to run other code than it did.
    """
    asked = firing.asked(table=change.table, relation=change.relation, columns=change.columns)
    known = codes.seen.get(change.relation)
    code = known or firing.table_code(connection, table=change.table, relation=change.relation, columns=change.columns)
    hot = {"relation": change.relation.identifier.as_string()}
    try:
        with pipeline(connection):
            # PostgreSQL's counters grow on from earlier transactions, so what this one did is a difference.
            before = connection.execute(_HOT_UPDATES, hot)
            if code.by_parent:
                connection.execute(firing.JOIN_BY_KEY)
            changed = connection.execute(*(change.firing(code) if code.fires else change.plain))
            if code.fires:
                apply_settings(connection, SEMANTICS)
            after = connection.execute(_HOT_UPDATES, hot)
            now = connection.execute(firing.TABLE_CODE, asked)
    except psycopg.Error as exc:
        codes.seen.pop(change.relation, None)
        if known is not None and not is_fresh and classify(exc) == "fatal":
            # It may be a new trigger's, and only because it saw our settings: the next batch asks first.
            raise runs.ChangedMeanwhile from exc
        raise
    codes.seen[change.relation] = TableCode.from_row(now.fetchone())
    if codes.seen[change.relation] != code:
        raise runs.ChangedMeanwhile
    row = (changed.fetchone() if changed.description else None) or {"changed": changed.rowcount}
    counts = {name: row[name] for name in ("changed", "residual", "undone") if name in row}
    return Written(**counts, hot=_hot(after) - _hot(before)), code


def tell_undone(connection: Connection, lane: Lane, change: Change, code: TableCode) -> None:
    """Put on record, once in each pass, that triggers keep rows from being changed."""
    detail = {
        "operation": lane.operation,
        "pass": lane.pass_,
        "relation": str(change.table),
        "triggers": list(code.may_change),
    }
    latest = audit.latest(connection, lane.run, what=UNDONE)
    if latest is None or latest["detail"] != detail:
        audit.record(connection, lane.run, actor=runs.WORKER, what=UNDONE, **detail)


def undone_by(connection: Connection, run: int, *, pass_: int) -> str | None:
    """Which triggers kept rows from being changed in a pass, in words; None where none did."""
    latest = audit.latest(connection, run, what=UNDONE)
    if latest is None or latest["detail"]["pass"] != pass_:
        return None
    triggers, relation = latest["detail"]["triggers"], latest["detail"]["relation"]
    if not triggers:
        return f"the code that {relation} runs for an UPDATE keeps them from being changed"
    which = f"the trigger {triggers[0]}" if len(triggers) == 1 else f"one of the triggers {', '.join(triggers)}"
    return f"{which} on {relation} keeps them from being changed, or changes what is written"


def _hot(cursor: psycopg.Cursor[dict[str, Any]]) -> int:  # Any: a row
    row = cursor.fetchone()
    return int(row["hot"]) if row else 0
