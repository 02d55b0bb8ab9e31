"""Tables walked by pages: striped, shared among lanes, rewritten under the walk, in partitions and under odd names."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine
from backfilld.migrations.record import runs
from backfilld.migrations.record.model import Bounds, PageRange
from backfilld.migrations.record.states import State
from backfilld.migrations.telemetry import BatchCommitted
from backfilld.monitoring import progress

if TYPE_CHECKING:
    from fix_runs import Engine

ADD = """
name: add
operations:
  - add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)", computed: true, not_null: true}
settings: {lanes: %d, approve: []}
"""
SET = """
name: set
operations:
  - backfill: {table: jobs, set: {slug: "lower(status)"}}
settings: {lanes: %d}
"""
WRONG = {
    ADD: "SELECT count(*) FROM jobs WHERE shout IS DISTINCT FROM upper(status)",
    SET: "SELECT count(*) FROM jobs WHERE slug IS DISTINCT FROM lower(status)",
}


def make_jobs(engine: Engine, rows: int) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text NOT NULL, slug text, pad text)")
    engine.execute("INSERT INTO jobs SELECT n, 'Open ' || n, NULL, repeat('x', 60) FROM generate_series(1, %s) n", rows)
    engine.execute("CREATE INDEX jobs_status ON jobs (status)")


def page_ranges(engine: Engine, run: int, kind: str = "backfill") -> list[PageRange]:
    return [lane.bounds for lane in engine.lanes(run, kind) if isinstance(lane.bounds, PageRange)]


def happened(engine: Engine, run: int, what: str) -> int:
    return int(engine.value("SELECT count(*) FROM backfilld.events WHERE run = %s AND what = %s", run, what))


@pytest.mark.parametrize("text", [ADD, SET], ids=["new column", "in place"])
def test_most_updates_stay_on_their_page_and_the_table_hardly_grows(engine: Engine, text: str) -> None:
    """One UPDATE of every row doubles the heap and touches the indexes for every row."""
    # Given
    make_jobs(engine, 10_000)
    before = engine.value("SELECT pg_relation_size('jobs')")
    # When
    run = engine.enqueue(text % 2)
    now = engine.drive(run)
    # Then
    expect(now, State.COMPLETED)
    assert engine.value(WRONG[text]) == 0
    lanes = engine.lanes(run, "backfill")
    assert {page_range.stripes for page_range in page_ranges(engine, run)} == {16}
    assert sum(lane.rows_changed for lane in lanes) == 10_000
    assert (
        engine.value("SELECT sum(rows_hot) FROM backfilld.lanes WHERE run = %s", run) > 0.75 * 10_000
    )  # the new value makes rows wider
    assert engine.value("SELECT pg_relation_size('jobs')") < 1.35 * before
    assert now.space is not None
    assert now.space["before"]["heap_bytes"] < now.space["after"]["heap_bytes"]
    assert now.rows_total == 10_000
    assert 0.75 < (progress.read(engine.connection, [now])[0].hot_update_ratio or 0) <= 1


def test_every_row_is_changed_once_whatever_the_order_of_the_lanes(engine: Engine) -> None:
    make_jobs(engine, 5_000)
    run = engine.enqueue(SET % 5)
    expect(engine.drive(run, batch_rows=150, shuffle=random.Random(7)), State.COMPLETED)
    assert sum(lane.rows_changed for lane in engine.lanes(run)) == 5_000
    assert engine.value(WRONG[SET]) == 0


def test_verify_goes_by_pages_only_where_no_row_that_moves_can_be_wrong(engine: Engine) -> None:
    """The sync trigger keeps values right, and the scan that proves NOT NULL finds those it could not compute."""
    make_jobs(engine, 300)
    for text, by in ((ADD % 2, PageRange), (SET % 2, Bounds)):
        run = engine.enqueue(text)
        expect(engine.drive(run), State.COMPLETED)
        assert {type(lane.bounds) for lane in engine.lanes(run, "verify")} == {by}
    maybe = engine.enqueue(
        (ADD % 2).replace("shout", "maybe").replace(", not_null: true", "").replace("add\n", "maybe\n")
    )
    expect(engine.drive(maybe), State.COMPLETED)
    assert {type(lane.bounds) for lane in engine.lanes(maybe, "verify")} == {Bounds}


def test_rows_that_move_behind_the_walk_are_found_by_verify_and_walked_again(engine: Engine) -> None:
    """Without a sync trigger, the application may move a row that needs work to a page the walk has passed."""
    # Given
    make_jobs(engine, 5_000)
    run = engine.enqueue(SET % 1)
    engine.drive_to_lanes(run)
    # When
    for _ in range(10):
        engine.step(batch_rows=50)
        engine.execute("UPDATE jobs SET pad = pad || 'y' WHERE slug IS NULL AND id % 3 = 0")
    now = engine.drive(run)
    # Then
    expect(now, State.COMPLETED)
    assert now.pass_ > 1
    assert engine.value(WRONG[SET]) == 0


@pytest.mark.parametrize("text", [ADD, SET], ids=["new column", "in place"])
def test_a_table_that_is_rewritten_under_the_walk_is_walked_again(engine: Engine, text: str) -> None:
    # Given
    make_jobs(engine, 6_000)
    run = engine.enqueue(text % 2)
    engine.drive_to_lanes(run)
    for _ in range(6):
        engine.step(batch_rows=100)
    engine.execute("DELETE FROM jobs WHERE id < 2000")
    # When
    engine.execute("VACUUM FULL jobs")
    now = engine.drive(run, batch_rows=500)
    # Then
    expect(now, State.COMPLETED)
    assert happened(engine, run, "table.rewritten") >= 1
    assert now.pass_ > 1
    assert engine.value(WRONG[text]) == 0


def test_a_table_that_is_rewritten_while_it_is_verified_is_verified_again(engine: Engine) -> None:
    make_jobs(engine, 6_000)
    run = engine.enqueue(ADD % 2)
    engine.drive_to_lanes(run, "verify")
    engine.step(batch_rows=500)
    engine.execute("VACUUM FULL jobs")
    now = engine.drive(run, batch_rows=500)
    expect(now, State.COMPLETED)
    assert now.pass_ == 2
    assert sum(lane.rows_walked for lane in engine.lanes(run, "verify") if lane.pass_ == 2) == 6_000


def test_wrong_rows_that_verify_meets_become_stretches_of_the_next_pass(engine: Engine) -> None:
    """Somebody switched the sync trigger off for a moment."""
    # Given
    make_jobs(engine, 6_000)
    run = engine.enqueue(ADD % 2)
    engine.drive_to_lanes(run, "verify")
    # When
    engine.execute("ALTER TABLE jobs DISABLE TRIGGER USER")
    engine.execute("UPDATE jobs SET shout = 'wrong' WHERE id IN (10, 3000, 5999)")
    engine.execute("ALTER TABLE jobs ENABLE TRIGGER USER")
    now = engine.drive(run, batch_rows=500)
    # Then
    expect(now, State.COMPLETED)
    assert now.pass_ == 2
    mended = [lane for lane in engine.lanes(run, "backfill") if lane.pass_ == 2]
    assert sum(lane.rows_changed for lane in mended) == 3
    assert all(isinstance(lane.bounds, PageRange) for lane in mended)
    assert engine.value(WRONG[ADD]) == 0


def test_rows_that_cannot_be_converted_are_set_aside_one_by_one(engine: Engine) -> None:
    # Given
    make_jobs(engine, 3_000)
    engine.execute("UPDATE jobs SET status = 'x' WHERE id IN (1, 2, 1500, 2999)")
    run = engine.enqueue(
        """
        name: numbers
        operations:
          - add_column: {table: jobs, column: {name: n, type: integer}, backfill: "substr(status, 6)::integer"}
        settings: {lanes: 2, approve: []}
        """
    )
    # When
    now = engine.drive(run, batch_rows=400)
    # Then
    expect(now, State.PAUSED)
    assert sorted(int(row.key[0]) for row in engine.quarantined(run)) == [1, 2, 1500, 2999]
    assert engine.value("SELECT count(*) FROM jobs WHERE n IS DISTINCT FROM id AND status <> 'x'") == 0


def test_the_leaves_of_a_partitioned_table_are_walked_one_after_the_other(engine: Engine) -> None:
    """Leaves with their columns in another order, in another schema, empty, and of very different sizes."""
    # Given
    engine.execute('CREATE SCHEMA "Odd Schema"')
    engine.execute(
        "CREATE TABLE jobs (id bigint, day date, status text, slug text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)"
    )
    engine.execute("CREATE TABLE jobs_a PARTITION OF jobs FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')")
    engine.execute(
        'CREATE TABLE "Odd Schema"."b.%s" (gone text, slug text, status text, day date NOT NULL, id bigint NOT NULL)'
    )
    engine.execute('ALTER TABLE "Odd Schema"."b.%s" DROP COLUMN gone')
    engine.execute(
        "ALTER TABLE jobs ATTACH PARTITION \"Odd Schema\".\"b.%s\" FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')"
    )
    engine.execute(
        "CREATE TABLE jobs_c PARTITION OF jobs FOR VALUES FROM ('2026-03-01') TO ('2026-04-01') PARTITION BY HASH (id)"
    )
    engine.execute("CREATE TABLE jobs_c0 PARTITION OF jobs_c FOR VALUES WITH (MODULUS 2, REMAINDER 0)")
    engine.execute("CREATE TABLE jobs_c1 PARTITION OF jobs_c FOR VALUES WITH (MODULUS 2, REMAINDER 1)")
    engine.execute("CREATE TABLE jobs_d PARTITION OF jobs FOR VALUES FROM ('2026-04-01') TO ('2026-05-01')")
    engine.execute(
        "INSERT INTO jobs SELECT n, date '2026-01-01' + CASE WHEN n % 10 = 0 THEN 40 ELSE n % 80 END, 'Open', NULL "
        "FROM generate_series(1, 4000) n WHERE n % 80 < 60 OR n % 10 = 0 OR n % 80 > 62"
    )
    rows = engine.value("SELECT count(*) FROM jobs")
    # When
    add = engine.enqueue(ADD % 2)
    expect(engine.drive(add, batch_rows=100), State.COMPLETED)
    change = engine.enqueue(SET % 2)
    expect(engine.drive(change, batch_rows=100), State.COMPLETED)
    # Then
    for run in (add, change):
        relations = {lane.relation for lane in engine.lanes(run, "backfill")}
        assert relations == {"jobs_a", 'Odd Schema."b.%s"', "jobs_c0", "jobs_c1"}
        assert sum(lane.rows_changed for lane in engine.lanes(run, "backfill")) == rows
        assert engine.run(run).rows_total == rows
        assert engine.value("SELECT sum(rows_hot) IS NOT NULL FROM backfilld.lanes WHERE run = %s", run)
    assert engine.value(WRONG[ADD]) == 0
    assert engine.value(WRONG[SET]) == 0


def test_no_more_lanes_are_at_work_than_the_run_wants(engine: Engine) -> None:
    """Ten leaves and two lanes: the others wait for their turn."""
    # Given
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text NOT NULL, slug text) PARTITION BY HASH (id)")
    for leaf in range(10):
        engine.execute(f"CREATE TABLE jobs_{leaf} PARTITION OF jobs FOR VALUES WITH (MODULUS 10, REMAINDER {leaf})")
    engine.execute("INSERT INTO jobs SELECT n, 'Open', NULL FROM generate_series(1, 3000) n")
    run = engine.enqueue(SET % 2)
    engine.drive_to_lanes(run)
    most = 0
    # When
    while engine.run(run).state is not State.COMPLETED:
        awake = [
            lane
            for lane in engine.lanes(run, "backfill", "verify")
            if lane.done_at is None and lane.next_run_at is not None
        ]
        most = max(most, len(awake))
        engine.step(batch_rows=100)
    # Then
    assert len(engine.lanes(run, "backfill")) == 10
    assert most == 2
    assert engine.value(WRONG[SET]) == 0


@pytest.mark.parametrize("walk", ["pages", "keys"])
def test_a_lane_shares_its_rest_when_more_are_wanted(engine: Engine, walk: str) -> None:
    # Given
    make_jobs(engine, 20_000)
    run = engine.enqueue((SET % 1).replace("lanes: 1", f"lanes: 1, walk: {walk}"))
    engine.drive_to_lanes(run)
    engine.step(batch_rows=200)
    # When
    settings = engine.run(run).settings.model_copy(update={"lanes": 4})
    runs.tune(engine.connection, run, settings, changes={}, actor="test")
    now = engine.drive(run, batch_rows=200)
    # Then
    expect(now, State.COMPLETED)
    lanes = engine.lanes(run, "backfill")
    assert len(lanes) >= 4
    assert happened(engine, run, "lane.split") >= 3
    assert sum(lane.rows_changed for lane in lanes) == 20_000
    assert engine.value(WRONG[SET]) == 0
    assert happened(engine, run, "phase.verify") == 1
    # Every one of them did a part of it: what is given away is not given to idlers.
    assert all(lane.rows_changed for lane in lanes)


@pytest.mark.parametrize("walk", ["pages", "keys"])
def test_a_lane_that_ends_early_gets_half_of_the_largest_rest(engine: Engine, walk: str) -> None:
    """Half of the table is done already: the lane that has it is at its end at once, and helps the other."""
    # Given
    make_jobs(engine, 20_000)
    engine.execute("CREATE TABLE copy AS TABLE jobs")
    run = engine.enqueue((SET % 2).replace("lanes: 2", f"lanes: 2, walk: {walk}"))
    first, second = engine.drive_to_lanes(run)
    # When
    while engine.lane(run, second.lane).done_at is None:
        engine.runner().advance(engine.message(run, second.lane))
    engine.sent.clear()
    now = engine.drive(run, batch_rows=200)
    # Then
    expect(now, State.COMPLETED)
    assert happened(engine, run, "lane.split") >= 1
    lanes = engine.lanes(run, "backfill")
    given = [lane for lane in lanes if lane.lane not in {first.lane, second.lane}]
    assert sum(lane.rows_changed for lane in given) > 3_000
    assert sum(lane.rows_changed for lane in lanes) == 20_000


def test_a_lane_steps_back_when_fewer_are_wanted_and_comes_again(engine: Engine) -> None:
    # Given
    make_jobs(engine, 20_000)
    run = engine.enqueue(SET % 3)
    lanes = engine.drive_to_lanes(run)
    settings = engine.run(run).settings
    runs.tune(engine.connection, run, settings.model_copy(update={"lanes": 1}), changes={}, actor="test")
    # When
    for lane in reversed(lanes):
        engine.execute("UPDATE backfilld.lanes SET batch_rows = 100")
        engine.runner().advance(engine.message(run, lane.lane))
    # Then
    asleep = [lane.lane for lane in engine.lanes(run, "backfill") if lane.next_run_at is None]
    assert asleep == [lanes[1].lane, lanes[2].lane]
    # And when
    engine.sent.clear()
    expect(engine.drive(run, batch_rows=400), State.COMPLETED)
    assert engine.value(WRONG[SET]) == 0


def test_names_and_keys_of_every_kind(engine: Engine) -> None:
    engine.execute('CREATE SCHEMA "q"')
    engine.execute('CREATE TABLE "q"."q" ("Order" text, "%s" integer, "ctid ""x" text, PRIMARY KEY ("Order", "%s"))')
    engine.execute("""INSERT INTO "q"."q" SELECT 'k' || n % 7, n, NULL FROM generate_series(1, 2000) n""")
    run = engine.enqueue(
        """
        name: odd
        operations:
          - backfill: {table: q.q, set: {'ctid "x': "1 / (\\"%s\\" - 1000) || \\"Order\\""}}
        settings: {lanes: 2, approve: []}
        """.replace('\\\\"', '\\"')
    )
    now = engine.drive(run, batch_rows=100)
    expect(now, State.PAUSED)
    (bad,) = engine.quarantined(run)
    assert bad.key == ("k6", "1000")
    assert engine.value("""SELECT count(*) FROM "q"."q" WHERE "ctid ""x" IS NULL""") == 1


def test_values_stored_out_of_line_and_one_row_to_a_page(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text NOT NULL, slug text, wide text)")
    engine.execute("ALTER TABLE jobs ALTER wide SET STORAGE PLAIN")
    engine.execute("INSERT INTO jobs SELECT n, 'Open' || n, NULL, repeat('x', 5000) FROM generate_series(1, 300) n")
    engine.execute("ALTER TABLE jobs ADD out_of_line text DEFAULT NULL")
    engine.execute(
        "UPDATE jobs SET out_of_line = (SELECT string_agg(md5((id * n)::text), '') FROM generate_series(1, 200) n)"
    )
    run = engine.enqueue(SET % 2)
    expect(engine.drive(run, batch_rows=20), State.COMPLETED)
    assert {page_range.stripes for page_range in page_ranges(engine, run)} == {1}
    assert engine.value(WRONG[SET]) == 0


def test_an_indexed_column_is_not_striped(engine: Engine) -> None:
    """Each of its updates writes every index, wherever the row goes; also where only an index's condition reads it."""
    make_jobs(engine, 2_000)
    engine.execute("CREATE INDEX ON jobs (id) WHERE slug IS NULL")
    run = engine.enqueue(SET % 2)
    expect(engine.drive(run), State.COMPLETED)
    assert {page_range.stripes for page_range in page_ranges(engine, run)} == {1}


def test_pages_are_refused_where_they_cannot_be_right(engine: Engine) -> None:
    """A row that is changed moves, and would be met again: slug would be lengthened twice."""
    make_jobs(engine, 10)
    text = """
        name: once
        operations:
          - backfill: {table: jobs, set: {slug: "slug || status"}}
        settings: {walk: pages}
        """
    found = examine.examine(engine.connection, definition.parse(text))
    (finding,) = found.findings
    assert finding.check == "walk"
    assert "reads slug" in finding.problem


@pytest.mark.parametrize("key", ["slug", "(lower(slug))"])
def test_a_column_that_decides_about_the_partition_is_set_by_key(engine: Engine, key: str) -> None:
    """A leaf does not send a row to another leaf."""
    engine.execute(f"CREATE TABLE jobs (id bigint NOT NULL, status text NOT NULL, slug text) PARTITION BY LIST ({key})")
    engine.execute("CREATE TABLE jobs_open PARTITION OF jobs FOR VALUES IN ('open')")
    engine.execute("CREATE TABLE jobs_other PARTITION OF jobs DEFAULT")
    for leaf in ("jobs_open", "jobs_other"):
        engine.execute(f"ALTER TABLE {leaf} ADD PRIMARY KEY (id)")
    found = examine.examine(engine.connection, definition.parse(SET % 2))
    assert "which partition" in found.facts[0].keys_because or [one.check for one in found.findings] == ["key"]


@pytest.mark.parametrize(
    ("statement", "because"),
    [
        ("ALTER TABLE leaf ENABLE ROW LEVEL SECURITY", "row security is active on leaf itself"),
        ("REVOKE ALL ON leaf FROM leaf_reader", "this role may not read and update leaf itself"),
    ],
)
def test_leaves_that_may_not_be_touched_themselves_are_walked_by_key(
    engine: Engine, statement: str, because: str
) -> None:
    """Rights and policies of the partitioned table do not count for a statement that names its leaf."""
    # Given
    engine.execute("DROP ROLE IF EXISTS leaf_reader")
    engine.execute("CREATE ROLE leaf_reader")
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text, slug text) PARTITION BY HASH (id)")
    engine.execute("CREATE TABLE leaf PARTITION OF jobs FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    engine.execute("INSERT INTO jobs SELECT n, 'Open', NULL FROM generate_series(1, 100) n")
    engine.execute("GRANT ALL ON jobs, leaf TO leaf_reader")
    engine.execute(statement)
    # When
    with engine.connect() as other:
        other.execute("SET ROLE leaf_reader")
        found = examine.examine(other, definition.parse(SET % 2))
    # Then
    assert not found.findings
    assert found.facts[0].keys_because == because


def test_batches_are_not_smaller_than_a_page(engine: Engine) -> None:
    make_jobs(engine, 150)
    run = engine.enqueue(SET % 1)
    expect(engine.drive(run, batch_rows=1), State.COMPLETED)
    batches = [event for event in engine.told(BatchCommitted) if event.kind == "backfill"]
    assert sum(batch.rows_changed for batch in batches) == 150
