"""`backfill` with values from other tables: the example of its page, there and exactly back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fix_runs import expect
from paths import ROOT

from backfilld.migrations.record.states import State
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

PAGE = ROOT / "docs" / "operations" / "backfill.md"


def test_values_from_another_table_and_exactly_back(engine: Engine) -> None:
    """Verify computes them again; the way back does not, so that it matters not what has become of the other table."""
    (example,) = (
        text for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL) if "orders-totals" in text
    )
    engine.execute("""
        CREATE TABLE jobs (id bigint PRIMARY KEY, customer_id bigint, total integer);
        INSERT INTO jobs SELECT n, n % 10, n FROM generate_series(1, 100) n;
        CREATE INDEX ON jobs (customer_id);
        CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, total numeric);
        INSERT INTO orders SELECT n, n % 12, n FROM generate_series(1, 60) n;
    """)
    before = engine.execute("SELECT * FROM orders ORDER BY id")
    run = engine.enqueue(example)
    # Given half of the rows, a change in the other table is seen when every row is looked at
    engine.drive(
        run, until=lambda _: bool(engine.value("SELECT count(*) FROM orders WHERE total > 100")), batch_rows=30
    )
    engine.execute("UPDATE jobs SET total = total + 1000 WHERE id % 10 = 1")
    expect(engine.drive(run), State.COMPLETED)
    wrong = """SELECT o.id FROM orders o LEFT JOIN (SELECT customer_id, sum(total) AS total FROM jobs GROUP BY 1) j USING (customer_id)
               WHERE o.total <> coalesce(j.total, 0)"""
    assert engine.execute(wrong) == []
    assert engine.execute("SELECT * FROM orders ORDER BY id") != before
    # When the other table is empty, the old values come back all the same
    engine.execute("TRUNCATE jobs")
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert engine.execute("SELECT * FROM orders ORDER BY id") == before
