"""What is bound to a column by its number and comes along in the switch: materialized views with their rows, places in publications."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_postgres import embedded
from fix_rules import application, engine_at
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands
from proof.fingerprint import difference, fingerprint

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.record.model import Run

ORDERS = """
CREATE TABLE customers (id bigint PRIMARY KEY, name text);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, total integer NOT NULL, note text DEFAULT '{}');
INSERT INTO customers SELECT n, 'c' || n FROM generate_series(1, 9) n;
INSERT INTO orders SELECT n, n % 9 + 1, n, json_build_object('n', n)::text FROM generate_series(1, 90) n;
"""
#: A view that a materialized view reads, one that reads such a one, one without rows, and one of its own in another schema.
VIEWS = """
CREATE SCHEMA "Odd Reports";
CREATE VIEW big AS SELECT id, customer_id, total FROM orders WHERE total > 10;
CREATE MATERIALIZED VIEW "Odd Reports".daily WITH (fillfactor = 70) AS
    SELECT b.customer_id, c.name, count(*) AS orders, sum(b.total) AS total, max(b.total) AS most
    FROM big b JOIN customers c ON c.id = b.customer_id GROUP BY 1, 2;
CREATE UNIQUE INDEX daily_customer ON "Odd Reports".daily (customer_id);
CREATE INDEX daily_most ON "Odd Reports".daily ((most + 1)) WHERE most > 3;
CREATE MATERIALIZED VIEW sums AS SELECT sum(most) AS total FROM "Odd Reports".daily;
CREATE MATERIALIZED VIEW empty AS SELECT total FROM orders WITH NO DATA;
CREATE VIEW best AS SELECT customer_id, most FROM "Odd Reports".daily ORDER BY most DESC LIMIT 3;
GRANT SELECT ON "Odd Reports".daily TO PUBLIC;
COMMENT ON MATERIALIZED VIEW "Odd Reports".daily IS 'by day'; COMMENT ON INDEX "Odd Reports".daily_customer IS 'one each';
ALTER MATERIALIZED VIEW "Odd Reports".daily ALTER COLUMN total SET STATISTICS 55;
CREATE STATISTICS daily_together ON orders, most FROM "Odd Reports".daily; COMMENT ON STATISTICS daily_together IS 'both';
"""
#: What is in the way of a plain ALTER COLUMN … TYPE, which is to be made again after it.
DROPPED = (
    'DROP VIEW best; DROP MATERIALIZED VIEW empty, sums, "Odd Reports".daily; DROP VIEW big; DROP SCHEMA "Odd Reports";'
)
FILE = "{{name: wider, operations: [{{change_type: {{table: orders, column: {0}, type: {1}}}}}], settings: {{lanes: 1, approve: [{2}]}}}}"


def approved(engine: Engine, run: int, phase: str = "contract") -> Run:
    commands.approve(engine.connection, run, phase, actor="ann")
    return engine.drive(run)


def seen(engine: Engine) -> list[object]:
    return [
        engine.execute('SELECT customer_id, name, orders, total, most FROM "Odd Reports".daily ORDER BY 1'),
        engine.value("SELECT total FROM sums"),
        engine.execute("SELECT customer_id FROM best ORDER BY 1"),
    ]


def owners_privileges_in_words(engine: Engine) -> None:
    """As they are once a view was made anew."""
    for view in ("best", "big", "sums", "empty"):
        engine.execute(f"GRANT ALL ON {view} TO CURRENT_USER")


def there_and_back(engine: Engine, *, wanted: frozenset[str], steps: int | None = None) -> Phase:
    """A run that is rolled back, after this many steps from the switch on or once it is completed; the phase it stopped in.

    Readers and a writer meet no error, and nobody waits for a materialized view to be filled.
    """
    run = engine.enqueue(FILE.format("total", "bigint", ""))
    readers = ('SELECT count(most) FROM "Odd Reports".daily', "SELECT count(most) FROM best")
    with application(engine, *readers, "UPDATE orders SET total = total", threads=1) as failures:
        engine.drive(run, batch_rows=50, until=lambda run: run.phase is Phase.SWITCH)
        for _ in range(steps or 0):
            engine.step()
        if steps is None:
            expect(engine.drive(run), State.COMPLETED)
            assert difference(wanted, fingerprint(engine.connection, positions=False)) == ""
            more = "UPDATE orders SET total = total + 3000000000 WHERE id = 90; REFRESH MATERIALIZED VIEW sums"
            engine.execute(more)
            engine.execute('REFRESH MATERIALIZED VIEW CONCURRENTLY "Odd Reports".daily')
            assert engine.value('SELECT max(most) FROM "Odd Reports".daily') == 3000000090
            engine.execute("UPDATE orders SET total = total - 3000000000 WHERE id = 90")
        stopped = engine.run(run).phase
        commands.rollback(engine.connection, run, actor="ann")
        expect(engine.drive(run), State.ROLLED_BACK)
    assert failures == []
    engine.sent.clear()
    return stopped


def test_materialized_views_come_along_with_their_rows_and_nobody_waits_for_them(engine: Engine) -> None:
    """There, as plain DDL and CREATE MATERIALIZED VIEW would leave it; and back, also from copies that wait for the exchange."""
    engine.execute(ORDERS + VIEWS)
    owners_privileges_in_words(engine)
    before, had = fingerprint(engine.connection, positions=False), seen(engine)
    with engine.connection.transaction(force_rollback=True):
        engine.execute(DROPPED + "ALTER TABLE orders ALTER total TYPE bigint;" + VIEWS)
        owners_privileges_in_words(engine)
        wanted = fingerprint(engine.connection, positions=False)
    for steps in (2, None):
        stopped = there_and_back(engine, wanted=wanted, steps=steps)
        assert stopped is (Phase.SWITCH if steps else Phase.DONE)
        assert difference(before, fingerprint(engine.connection, positions=False)) == "", steps
        assert seen(engine) == had


def test_an_index_that_a_materialized_view_has_got_since_stops_the_switch(engine: Engine) -> None:
    """It would go with the view that the copy replaces."""
    engine.execute(
        ORDERS + "CREATE MATERIALIZED VIEW sums AS SELECT total FROM orders; CREATE INDEX mine ON sums (total)"
    )
    run = engine.enqueue(FILE.format("total", "bigint", ""))
    engine.drive(run, until=lambda run: run.phase is Phase.SWITCH)
    engine.execute("CREATE INDEX late ON sums (total)")
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert "the index 'public.late' of the materialized view public.sums was created since" in now.error["message"]
    engine.execute("DROP INDEX late")
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.COMPLETED)


#: With a key that an UPDATE is sent by; a filter of what UPDATE sends could name nothing else.
NEWS = """
CREATE PUBLICATION news FOR TABLE customers, orders (id, note, total) WHERE (total > 10 AND note <> 'x') WITH (publish = 'insert');
CREATE PUBLICATION "Odd ""news" FOR TABLE orders (total, id);
CREATE PUBLICATION few FOR TABLE orders WHERE (total > 5) WITH (publish = 'insert');
CREATE PUBLICATION others FOR TABLE orders (id);
"""


def sent(engine: Engine) -> set[tuple[str, str, tuple[str, ...], str | None]]:
    """What each publication sends: of all columns, those that are the application's."""
    return {
        (
            row["pubname"],
            row["tablename"],
            tuple(sorted(one for one in row["attnames"] if "backfilld" not in one)),
            row["rowfilter"],
        )
        for row in engine.execute("SELECT pubname, tablename, attnames, rowfilter FROM pg_publication_tables")
    }


@pytest.mark.since(15)
def test_lists_of_columns_and_filters_name_the_column_in_use(engine: Engine) -> None:
    """By its number, so the table leaves the publication and comes back in the same transaction; there, back, and back after contract."""
    engine.execute(ORDERS + NEWS)
    had = sent(engine)
    run = engine.enqueue(FILE.format("total", "bigint", "switch, contract"))
    expect(engine.drive(run), State.WAITING)
    assert sent(engine) == had
    expect(approved(engine, run, "switch"), State.WAITING)
    assert {one[:3] for one in sent(engine)} == {one[:3] for one in had}
    engine.execute("UPDATE orders SET total = 3000000000 WHERE id = 90")
    engine.execute("ALTER PUBLICATION others SET TABLE orders (id, note)")  # not about the column
    expect(approved(engine, run), State.COMPLETED)
    assert engine.value(
        "SELECT array_agg(attnames::text ORDER BY pubname) FROM pg_publication_tables WHERE tablename = 'orders'"
    ) == [
        "{id,total}",
        "{id,customer_id,note,total}",
        "{id,note,total}",
        "{id,note}",
    ]
    engine.execute("UPDATE orders SET total = 90 WHERE id = 90; ALTER PUBLICATION others SET TABLE orders (id)")
    commands.rollback(engine.connection, run, actor="ann")
    engine.execute("ALTER PUBLICATION news SET TABLE customers, orders (id, note, total, customer_id)")
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert now.error is not None
    assert "the publication 'news' does not send the columns that it sent" in now.error["message"]
    engine.execute(
        "ALTER PUBLICATION news SET TABLE customers, orders (id, note, total) WHERE (total > 10 AND note <> 'x')"
    )
    commands.resume(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert sent(engine) == had


REFUSED = {
    "a filter that the new type cannot have": (
        "CREATE PUBLICATION p FOR TABLE orders WHERE (note LIKE 'a%')",
        ("note", "jsonb"),
        "the filter of the publication p is not accepted for the new type",
    ),
    "a filter over a type of the user's": (
        "CREATE TYPE kind AS ENUM ('a', 'b'); ALTER TABLE orders ALTER note DROP DEFAULT; CREATE PUBLICATION p FOR TABLE orders WHERE (note IS NOT NULL)",
        ("note", "public.kind"),
        "of a type that is not PostgreSQL's own",
    ),
    "an index of a materialized view": (
        "CREATE MATERIALIZED VIEW m AS SELECT note FROM orders; CREATE INDEX i ON m (lower(note))",
        ("note", "jsonb"),
        "an index of the materialized view public.m is not accepted",
    ),
    "a materialized view": (
        "CREATE MATERIALIZED VIEW m AS SELECT left(note, 1) AS note FROM orders",
        ("note", "jsonb"),
        "the materialized view public.m is not accepted for the new type",
    ),
    "a function of a materialized view": (
        "CREATE MATERIALIZED VIEW m AS SELECT note FROM orders; CREATE FUNCTION f() RETURNS SETOF m LANGUAGE sql AS 'TABLE m'",
        ("note", "jsonb"),
        "f() depends on it, or on a view that reads it",
    ),
    "two of one name": (
        (
            "CREATE MATERIALIZED VIEW m AS SELECT note FROM orders; CREATE SCHEMA s; CREATE VIEW s.m AS SELECT note FROM orders; "
            "CREATE MATERIALIZED VIEW n AS SELECT note FROM s.m"
        ),
        ("note", "jsonb"),
        "two have one name in different schemas",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_come_along_is_refused(engine: Engine, case: str) -> None:
    statements, (column, type_), words = REFUSED[case]
    if "filter" in case and engine.version < 15:
        pytest.skip("publications have no filters")
    engine.execute(ORDERS + statements)
    before = fingerprint(engine.connection)
    with pytest.raises(Refused, match=words.replace("(", r"\(").replace(")", r"\)")):
        engine.enqueue(FILE.format(column, type_, ""))
    assert fingerprint(engine.connection) == before


@pytest.mark.since(15)
def test_a_publication_of_another_role_is_refused_and_so_is_a_role_without_schemas(
    supabase_admin_url: str, supabase_url: str
) -> None:
    with engine_at(supabase_url) as owner, psycopg.connect(supabase_admin_url, autocommit=True) as other:
        owner.execute(ORDERS)
        other.execute("CREATE PUBLICATION news FOR TABLE public.orders (id, total)")
        with pytest.raises(
            Refused, match="the publication news names it in its list of columns or in its filter, and belongs"
        ):
            owner.enqueue(FILE.format("total", "bigint", ""))
        other.execute("DROP PUBLICATION news")
        owner.execute("CREATE MATERIALIZED VIEW sums AS SELECT sum(total) FROM orders")
        text = FILE.format("total", "bigint", "")
        assert any(
            "made once more before the switch" in one
            for one in examine.examine(owner.connection, definition.parse(text)).warnings
        )
        run = owner.enqueue(text)
        expect(owner.drive(run), State.COMPLETED)


#: What no exchange of two columns can do: statements, the column and its new type.
BY_REBUILD = {
    "an exclusion constraint": (
        "ALTER TABLE orders ADD CONSTRAINT apart EXCLUDE USING gist (int8range(total, total, '[]') WITH &&)",
        "type: bigint",
    ),
    "an index of a partitioned table": (
        (
            "ALTER TABLE orders RENAME TO plain; CREATE TABLE orders (LIKE plain INCLUDING DEFAULTS, PRIMARY KEY (id)) PARTITION BY HASH (id);"
            "CREATE TABLE orders_0 PARTITION OF orders FOR VALUES WITH (MODULUS 1, REMAINDER 0); INSERT INTO orders TABLE plain;"
            "CREATE INDEX ON orders (total)"
        ),
        "type: bigint",
    ),
    "a replica identity": (
        "ALTER TABLE orders ADD CONSTRAINT one UNIQUE (total); ALTER TABLE orders REPLICA IDENTITY USING INDEX one",
        "type: bigint",
    ),
    "a generated column": (
        (
            'ALTER TABLE orders ADD "do%ubled" bigint GENERATED ALWAYS AS (total * 2) STORED;'
            "CREATE FUNCTION mine(integer) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT 1::bigint * $1'"
        ),
        'type: bigint, up: "public.mine(total)", down: "(total % 4294967296)::integer"',
    ),
}


@pytest.mark.parametrize("case", BY_REBUILD)
def test_what_cannot_be_exchanged_is_refused_with_the_lines_of_a_file_that_does_it(engine: Engine, case: str) -> None:
    """They are taken as they are, and what was in the way is there afterwards."""
    statement, change = BY_REBUILD[case]
    engine.execute(ORDERS + statement)
    plain = "SELECT conname, contype, conindid <> 0 AS by_index FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype <> 'n' ORDER BY 1"
    constraints = engine.execute(plain)
    with pytest.raises(Refused) as refused:
        engine.enqueue(
            f"{{name: {'w' * 63}, operations: [{{change_type: {{table: orders, column: total, {change}}}}}], "
            "settings: {allow_functions: [public.mine]}}"
        )
    (finding,) = refused.value.findings
    assert finding.check in {"column_dependents", "index", "partitioned"}
    lines = finding.remedy.partition("by a file of these lines:\n")[2]
    assert lines, finding
    run = engine.enqueue(lines.replace("[switch, contract]", "[]"))
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT pg_typeof(total)::text FROM orders LIMIT 1") == "bigint"
    assert engine.execute(plain) == constraints


def test_a_file_that_rebuild_would_refuse_is_not_offered(engine: Engine) -> None:
    engine.execute(ORDERS + "CREATE RULE r AS ON UPDATE TO orders WHERE new.total = 1 DO INSTEAD NOTHING")
    with pytest.raises(Refused) as refused:
        engine.enqueue(FILE.format("total", "bigint", ""))
    (finding,) = refused.value.findings
    assert finding.remedy == "Drop that rule first, and recreate it afterwards"


#: A partition of partitions, one that was attached with its columns in another order, and what hangs on the column.
EVENTS = """
CREATE TABLE events (id bigint, at date NOT NULL, total integer NOT NULL DEFAULT 7 CHECK (total >= 0), code varchar, PRIMARY KEY (id, at))
    PARTITION BY RANGE (at);
CREATE TABLE events_first PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE events_second PARTITION OF events FOR VALUES FROM ('2026-07-01') TO ('2027-01-01') PARTITION BY HASH (id);
CREATE TABLE events_second_0 PARTITION OF events_second FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE events_second_1 PARTITION OF events_second FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE others (code varchar, total integer NOT NULL DEFAULT 7, gone text, at date NOT NULL, id bigint NOT NULL);
ALTER TABLE others DROP COLUMN gone, ADD CONSTRAINT events_total_check CHECK (total >= 0);
ALTER TABLE events ATTACH PARTITION others DEFAULT;
CREATE INDEX ON events (code);
ALTER TABLE events ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON events USING (total < 90);
GRANT SELECT (total) ON events TO PUBLIC; COMMENT ON COLUMN events.total IS 'in all';
CREATE VIEW totals AS SELECT at, sum(total) AS total FROM events GROUP BY at; GRANT SELECT ON totals TO PUBLIC;
INSERT INTO events SELECT n, date '2025-12-01' + n, n % 80, n FROM generate_series(1, 300) n;
"""
PLAIN_DDL = """
DROP VIEW totals; DROP POLICY few ON events; ALTER TABLE events ALTER total TYPE bigint;
CREATE POLICY few ON events USING (total < 90);
CREATE VIEW totals AS SELECT at, sum(total) AS total FROM events GROUP BY at; GRANT SELECT ON totals TO PUBLIC;
"""


def catalog(engine: Engine) -> frozenset[str]:
    """Without the names that NOT NULL has from PostgreSQL 18 on: what was attached has one of its own."""
    lines = fingerprint(engine.connection, positions=False)
    return frozenset(line for line in lines if " | NOT NULL " not in line)


def test_a_column_of_a_partitioned_table_there_and_back(engine: Engine) -> None:
    """Where no index holds it: PostgreSQL builds none CONCURRENTLY on such a table."""
    engine.execute(EVENTS)
    before, rows = catalog(engine), engine.execute("TABLE totals ORDER BY at")
    with engine.connection.transaction(force_rollback=True):
        engine.execute(PLAIN_DDL)
        wanted = catalog(engine)
    text = FILE.format("total", "bigint", "").replace("orders", "events")
    writes = ("UPDATE events SET total = total WHERE id = {n} % 300", "SELECT count(total) FROM totals")
    run = engine.enqueue(text)
    with application(engine, *writes, threads=1) as failures:
        expect(engine.drive(run, batch_rows=90), State.COMPLETED)
        assert difference(wanted, catalog(engine)) == ""
        engine.execute("UPDATE events SET at = at + 200, total = total + 1 WHERE id = 1")
        engine.execute("UPDATE events SET at = at - 200, total = total - 1 WHERE id = 1")
        commands.rollback(engine.connection, run, actor="ann")
        expect(engine.drive(run, batch_rows=90), State.ROLLED_BACK)
    assert failures == []
    assert difference(before, catalog(engine)) == ""
    assert engine.execute("TABLE totals ORDER BY at") == rows


def test_what_partitions_cannot_have_is_refused_and_what_takes_a_moment_is_done(engine: Engine) -> None:
    engine.execute(EVENTS)
    file = "{{name: wider, operations: [{{change_type: {{table: events, column: {}, type: {}}}}}], settings: {{approve: []}}}}"
    with pytest.raises(Refused, match="the index events_code_idx cannot be made for another column"):
        engine.enqueue(file.format("code", "integer, up: 'code::integer', down: 'code::text'"))
    with pytest.raises(Refused, match="events is partitioned, and at is in the partition key"):
        engine.enqueue(file.format("at", "timestamp"))
    run = engine.enqueue(file.format("code", "text"))
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT DISTINCT pg_typeof(code)::text FROM events_second_1") == "text"
    for statement, words in {
        "CREATE INDEX mine ON events_second_0 (total)": "mine is not the table's own",
        "DROP INDEX mine; CREATE VIEW ours AS SELECT total FROM others": "ours is not the table's own",
        "DROP VIEW ours; ALTER TABLE others ALTER total SET DEFAULT 8": "the DEFAULT of public.others is not",
        "ALTER TABLE others ALTER total SET DEFAULT 7; GRANT SELECT (total) ON others TO PUBLIC": "privileges on the column of public.others",
    }.items():
        engine.execute(statement)
        with pytest.raises(Refused, match=words):
            engine.enqueue(file.format("total", "bigint").replace("wider", "other"))


@pytest.mark.soak
@pytest.mark.since(15)
def test_a_subscriber_gets_every_row_over_the_switch_and_the_way_back(server_version: int) -> None:
    """It goes on by itself: nothing is refreshed, and no row is lost or sent twice, while the application writes."""
    assert server_version >= 15
    with embedded(settings={"wal_level": "logical", "shared_buffers": "16MB"}) as server:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE publisher")
            admin.execute("CREATE DATABASE subscriber")
        with (
            engine_at(server.url("publisher")) as engine,
            psycopg.connect(server.url("subscriber"), autocommit=True) as other,
        ):
            engine.execute(ORDERS + "CREATE PUBLICATION news FOR TABLE orders (id, total) WHERE (id > 20)")
            engine.execute("SELECT pg_create_logical_replication_slot('news', 'pgoutput')")
            other.execute("CREATE TABLE orders (id bigint PRIMARY KEY, total bigint NOT NULL)")
            # A slot of the same server cannot be made by CREATE SUBSCRIPTION, which would wait for itself.
            where = f"host={engine.connection.info.host} port={engine.connection.info.port} user={engine.connection.info.user} password={engine.connection.info.password} dbname=publisher"
            other.execute(
                f"CREATE SUBSCRIPTION news CONNECTION '{where}' PUBLICATION news WITH (create_slot = false, slot_name = 'news', copy_data = false)"
            )
            writes = (
                "INSERT INTO orders (id, total) SELECT 1000 + max(id), {n} FROM orders",
                "UPDATE orders SET total = total + 1 WHERE id = (SELECT max(id) FROM orders)",
            )
            with application(engine, *writes, threads=1) as failures:
                run = engine.enqueue(FILE.format("total", "bigint", "contract"))
                expect(engine.drive(run), State.WAITING)
                engine.execute("INSERT INTO orders (id, total) VALUES (777, 3000000000)")
                engine.execute("UPDATE orders SET total = 5 WHERE id = 777")
                commands.rollback(engine.connection, run, actor="ann")
                expect(engine.drive(run), State.ROLLED_BACK)
                expect(
                    engine.drive(engine.enqueue(FILE.format("total", "bigint", "").replace("wider", "again"))),
                    State.COMPLETED,
                )
                engine.execute("UPDATE orders SET total = 3000000000 WHERE id = 777")
            assert failures == []
            sent_rows = [
                tuple(row.values()) for row in engine.execute("SELECT id, total FROM orders WHERE id > 90 ORDER BY id")
            ]
            lsn = engine.value("SELECT pg_current_wal_lsn()::text")
            caught_up = "SELECT coalesce(bool_and(confirmed_flush_lsn >= %s::pg_lsn), false) FROM pg_replication_slots"
            deadline = time.monotonic() + 30
            while not engine.value(caught_up, lsn):
                assert time.monotonic() < deadline, other.execute("SELECT * FROM pg_stat_subscription_stats").fetchall()
                time.sleep(0.02)  # the grain of looking; nothing is assumed to have happened after it
            assert other.execute("SELECT id, total FROM orders WHERE id > 90 ORDER BY id").fetchall() == sent_rows
            assert len(sent_rows) > 20
            other.execute("DROP SUBSCRIPTION news")
