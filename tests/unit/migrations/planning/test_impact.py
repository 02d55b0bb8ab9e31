"""What an operation does to each kind of dependent, as an action that programs can rely on; the words are in tests/golden/plan."""

from __future__ import annotations

import pytest

from backfilld.migrations.file import migration as definition
from backfilld.migrations.operations.registry import REGISTRY
from backfilld.migrations.planning.impact import BOUND, Effect, ImpactAction
from backfilld.migrations.postgres.dependents import Dependent

A = ImpactAction

#: As `dependents.of_table` tells of them, for a table with the columns total and customer.
VIEW = Dependent(kind="view", name="totals", columns=("total",))
STORED = Dependent(kind="materialized view", name="stored", columns=("total",))
PARSED = Dependent(kind="function", name="parsed()", columns=("total",), detail="parsed")
IN_TEXT = Dependent(kind="function", name="in_text()", columns=("total",), detail="text")
POLICY = Dependent(kind="policy", name="own", columns=("total",))
INDEX = Dependent(kind="index", name="by_total", columns=("total",))
CHECK = Dependent(kind="constraint", name="positive", columns=("total",), detail="CHECK (total > 0)")
SENT = Dependent(kind="publication", name="feed")
SENT_IN_PART = Dependent(kind="publication", name="part", columns=("total",))
FIRES = Dependent(kind="trigger", name="touched", detail="insert update")
FIRES_FOR_IT = Dependent(kind="trigger", name="of_total", columns=("total",), detail="update")
INSERTS_ONLY = Dependent(kind="trigger", name="inserted", detail="insert")
WHOLE_ROWS = Dependent(kind="replica identity", name="full")
COMPUTED = Dependent(kind="generated column", name="twice", columns=("total", "twice"))
GRANT = Dependent(kind="column grant", name="total to reader", columns=("total",))
TABLE_GRANT = Dependent(kind="grant", name="public")
COMMENT = Dependent(kind="comment", name="total", columns=("total",))
SEQUENCE = Dependent(kind="sequence", name="jobs_id_seq", columns=("total",))
REFERRED = Dependent(kind="inbound foreign key", name="of_job of parts", columns=("total",))
#: About another column.
OTHER = Dependent(kind="index", name="by_customer", columns=("customer",))

ADD = "add_column: {table: jobs, column: {name: x, type: text}}"
FILL = "add_column: {table: jobs, column: {name: x, type: text}, backfill: '1'}"
WRITE = "backfill: {table: jobs, set: {total: '1'}}"
PROVE = "set_not_null: {table: jobs, column: total}"
FILL_NULLS = "set_not_null: {table: jobs, column: total, backfill: '0'}"
RENAME = "rename_column: {table: jobs, from: total, to: revenue}"
RETYPE = "change_type: {table: jobs, column: total, type: bigint}"
DROP = "drop_column: {table: jobs, column: total}"
RAW = "sql: {table: jobs, phase: expand, run: ALTER TABLE jobs SET (fillfactor = 70), rollback: ALTER TABLE jobs RESET (fillfactor)}"
INDEXED = "create_index: {table: jobs, name: i, columns: [total]}"

CASES: dict[tuple[str, Dependent], ImpactAction | None] = {
    (ADD, VIEW): A.STAYS,
    (ADD, GRANT): A.STAYS,
    (ADD, SENT): A.SUBSCRIBERS_FIRST,
    (ADD, SENT_IN_PART): A.STAYS,
    (ADD, FIRES): None,
    (ADD, INDEX): None,
    (FILL, FIRES): A.WORKS,
    (FILL, FIRES_FOR_IT): None,
    (FILL, INSERTS_ONLY): None,
    (FILL, WHOLE_ROWS): A.WORKS,
    (WRITE, FIRES): A.WORKS,
    (WRITE, FIRES_FOR_IT): A.WORKS,
    (WRITE, INSERTS_ONLY): None,
    (WRITE, INDEX): A.WORKS,
    (WRITE, OTHER): None,
    (WRITE, CHECK): A.WORKS,
    (WRITE, COMPUTED): A.WORKS,
    (WRITE, STORED): A.STAYS,
    (WRITE, VIEW): None,
    (WRITE, POLICY): A.WORKS,
    (WRITE, SENT): A.WORKS,
    (WRITE, WHOLE_ROWS): A.WORKS,
    (PROVE, INDEX): None,
    (FILL_NULLS, INDEX): A.WORKS,
    (RENAME, VIEW): A.FOLLOWS,
    (RENAME, PARSED): A.FOLLOWS,
    (RENAME, IN_TEXT): A.REVIEW,
    (RENAME, SENT): None,
    (RENAME, SENT_IN_PART): A.SUBSCRIBERS_FIRST,
    (RENAME, OTHER): None,
    (RENAME, TABLE_GRANT): None,
    (RETYPE, IN_TEXT): A.REVIEW,
    (RETYPE, SENT_IN_PART): A.SUBSCRIBERS_FIRST,
    (RETYPE, SEQUENCE): A.FOLLOWS,
    (RETYPE, COMMENT): A.REBUILT,
    (RETYPE, VIEW): A.REBUILT,
    (RETYPE, INDEX): A.REBUILT,
    (DROP, IN_TEXT): A.CHANGE_FIRST,
    (DROP, PARSED): A.CHANGE_FIRST,
    (DROP, VIEW): A.CHANGE_FIRST,
    (DROP, COMPUTED): A.CHANGE_FIRST,
    (DROP, REFERRED): A.CHANGE_FIRST,
    (DROP, INDEX): A.DROPPED,
    (DROP, COMMENT): A.DROPPED,
    (DROP, OTHER): None,
    (RAW, IN_TEXT): A.REVIEW,
    (RAW, VIEW): A.STAYS,
    (RAW, INDEX): None,
    (INDEXED, INDEX): None,
}


def effect(text: str, dependent: Dependent) -> Effect | None:
    (of,) = definition.parse(f"name: x\noperations: [{{{text}}}]").operations
    return REGISTRY[type(of)].effect(of, dependent)


@pytest.mark.parametrize(
    ("text", "dependent", "action"),
    [(text, one, action) for (text, one), action in CASES.items()],
    ids=[f"{text.split(':')[0]}-{one.name}" for text, one in CASES],
)
def test_what_becomes_of_a_dependent(text: str, dependent: Dependent, action: ImpactAction | None) -> None:
    what = effect(text, dependent)
    assert (what.action if what is not None else None) is action


@pytest.mark.parametrize("text", [RENAME, RETYPE, DROP])
def test_whatever_names_a_column_is_told_of_when_it_changes(text: str) -> None:
    """No kind that PostgreSQL binds to a column is passed over in silence, and none without words."""
    for kind in sorted(BOUND):
        what = effect(text, Dependent(kind=kind, name="it", columns=("total",)))
        assert what is not None, kind
        assert what.words
