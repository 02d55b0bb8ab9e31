"""Contract is held while the application still needs what it removes, and for a regression; what was lost is given back by a rollback."""

from __future__ import annotations

import pytest
from fix_contrib import passes
from fix_runs import Engine, expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.holds import Cause
from backfilld.migrations.record.states import Phase, State
from backfilld.monitoring.record import RecordCollector
from backfilld.producers.client import Client
from backfilld.worker.side_tasks import retention

RENAME = """
name: revenue
operations:
  - rename_column: {table: jobs, from: total, to: revenue}
application: {statements: {window: WINDOW}}
settings: {approve: APPROVE}
"""


@pytest.fixture
def counted(counting_engine: Engine) -> Engine:
    """An engine on a server that counts statements, with a table that the application reads."""
    one = counting_engine
    one.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text, total numeric, note text)")
    one.execute("INSERT INTO jobs SELECT n, 's' || n, n, repeat('x', 200) FROM generate_series(1, 300) n")
    one.execute("CREATE INDEX jobs_status_idx ON jobs (status)")
    one.execute("ANALYZE jobs")
    one.execute("SELECT pg_stat_statements_reset()")
    return one


def enqueue(counted: Engine, text: str = RENAME, *, window: str = "1s", approve: str = "[contract]") -> int:
    return counted.enqueue(text.replace("WINDOW", window).replace("APPROVE", approve))


def test_contract_is_not_approved_while_old_statements_come(counted: Engine) -> None:
    client = Client(counted.url)
    counted.execute("SELECT total FROM jobs WHERE id = 1")
    run = enqueue(counted, window="24h")
    expect(counted.drive(run), State.WAITING)
    checked = client.status(run).application
    assert checked is not None
    assert (checked["moment"], checked["counts"]) == ("waiting", {"unknown": 1})
    assert any("watched only since the switch" in one for one in client.explain(run).sentences)

    with pytest.raises(Refused, match="watched only since the switch") as refused:
        client.approve(run)
    assert [one.check for one in refused.value.findings] == ["application"]

    passes(counted, run, seconds=100_000)
    counted.execute("SELECT total FROM jobs WHERE id = 1")
    counted.execute("SELECT revenue FROM jobs WHERE id = 1")
    with pytest.raises(Refused) as refused:
        client.approve(run)
    (found,) = refused.value.findings
    assert "SELECT total FROM jobs WHERE id = $1" in found.problem, found
    assert "came once since the switch" in found.problem

    # What is refused is told beforehand, by a look that the worker takes now and then; the same once more is no event.
    retention.run_once(counted.connection)
    retention.run_once(counted.connection)
    checked = client.status(run).application
    assert checked is not None
    assert (checked["moment"], checked["counts"]) == ("waiting", {"needed": 1})
    told = client.explain(run)
    assert any(found.problem in one for one in told.sentences), told
    assert (
        f"or let it begin all the same: backfilld approve {client.status(run).name} --phase contract --yes"
        in told.remedies
    )
    looks = [one["detail"] for one in client.events(run) if one["what"] == "application.checked"]
    assert [one["counts"] for one in looks if one["moment"] == "waiting"] == [{"unknown": 1}, {"needed": 1}]

    passes(counted, run, seconds=100_000)
    client.approve(run)
    expect(counted.drive(run), State.COMPLETED)


def held(counted: Engine, run: int) -> str:
    """Drive a run until its contract is held; why it is."""
    counted.drive(run, until=lambda _run: bool(counted.lane(run, 0).last_error))
    found = Client(counted.url).status(run)
    assert found.hold is not None
    assert (found.state, found.phase, found.hold.cause) == (State.RUNNING, Phase.CONTRACT, Cause.APPLICATION)
    return found.hold.reason


@pytest.mark.parametrize("how", ["the old code is gone", "a person says so"])
def test_a_contract_that_nobody_has_to_approve_is_held_until_it_is_safe(counted: Engine, how: str) -> None:
    counted.execute("SELECT total FROM jobs WHERE id = 1")
    run = enqueue(counted, window="1h", approve="[]")
    assert "watched only since the switch" in held(counted, run)
    passes(counted, run, seconds=4000)
    counted.execute("SELECT total FROM jobs WHERE id = 1")
    counted.step()
    client = Client(counted.url)
    assert "SELECT total FROM jobs" in (client.status(run).hold_reason or "")
    told = client.explain(run)
    assert any("came once since the switch" in one for one in told.sentences), told
    assert told.remedies[-1] == "or switch back, which loses nothing: backfilld rollback revenue"
    before = len(client.events(run))
    counted.step()
    assert len(client.events(run)) == before  # the same once more is no event
    assert counted.value("SELECT count(*) FROM information_schema.columns WHERE column_name = 'total'") == 1

    if how == "a person says so":
        client.approve(run, "contract", yes=True)
    else:
        passes(counted, run, seconds=4000)
    expect(counted.drive(run), State.COMPLETED)
    assert counted.value("SELECT count(*) FROM information_schema.columns WHERE column_name = 'total'") == 0


def test_a_reset_of_the_counts_is_not_a_proof(counted: Engine) -> None:
    run = enqueue(counted, window="1h")
    expect(counted.drive(run), State.WAITING)
    passes(counted, run, seconds=4000)
    counted.execute("SELECT pg_sleep(1.1); SELECT pg_stat_statements_reset()")
    retention.run_once(counted.connection)  # looks, as the worker does now and then
    client = Client(counted.url)
    with pytest.raises(Refused, match="were reset, so statements may have come unseen"):
        client.approve(run)
    passes(counted, run, seconds=4000)
    assert client.approve(run).state is State.RUNNING


def test_where_the_file_only_warns_nothing_is_held(counted: Engine) -> None:
    counted.execute("SELECT total FROM jobs WHERE id = 1")
    text = RENAME.replace("window: WINDOW}", "window: 24h}, on_regression: warn")
    run = enqueue(counted, text, approve="[]")
    expect(counted.drive(run), State.COMPLETED)
    checked = Client(counted.url).status(run).application
    assert checked is not None
    assert (checked["moment"], checked["counts"]) == ("before_contract", {"unknown": 1})
    assert counted.value("SELECT count(*) FROM backfilld.application_statements") > 0
    retention.run_once(counted.connection)
    assert counted.value("SELECT count(*) FROM backfilld.application_statements") == 0


def test_a_function_that_names_the_old_column_holds_contract_until_it_is_replaced(counted: Engine) -> None:
    counted.execute("CREATE FUNCTION dear() RETURNS numeric LANGUAGE sql AS 'SELECT max(total) FROM jobs'")
    run = enqueue(counted)
    expect(counted.drive(run), State.WAITING)
    passes(counted, run, seconds=10)
    with pytest.raises(Refused, match=r"function public\.dear\(\) fails after contract"):
        Client(counted.url).approve(run)
    counted.execute("CREATE OR REPLACE FUNCTION dear() RETURNS numeric LANGUAGE sql AS 'SELECT max(revenue) FROM jobs'")
    Client(counted.url).approve(run)
    expect(counted.drive(run), State.COMPLETED)
    assert counted.value("SELECT dear()") == 300


def test_after_a_rename_of_the_table_who_uses_its_old_name_holds_contract(counted: Engine) -> None:
    counted.execute("SELECT note FROM jobs WHERE id = 1")
    text = RENAME.replace(
        "rename_column: {table: jobs, from: total, to: revenue}", "rename_table: {table: jobs, to: tasks}"
    )
    run = enqueue(counted, text)
    expect(counted.drive(run), State.WAITING)
    passes(counted, run, seconds=10)
    counted.execute("SELECT note FROM tasks WHERE id = 1")
    client = Client(counted.url)
    counted.execute("SELECT note FROM jobs WHERE id = 1")
    with pytest.raises(Refused, match="SELECT note FROM jobs WHERE id") as refused:
        client.approve(run)
    assert len(refused.value.findings) == 1
    passes(counted, run, seconds=10)
    counted.execute("SELECT note FROM tasks WHERE id = 2")
    client.approve(run)
    expect(counted.drive(run), State.COMPLETED)


def test_a_copy_of_the_old_column_holds_contract(counted: Engine) -> None:
    """It is counted by its text, before the switch as after it."""

    def copy() -> None:
        with counted.connection.cursor() as cursor, cursor.copy(b"COPY jobs (id, total) TO STDOUT") as rows:
            list(rows)

    copy()
    run = enqueue(counted)
    expect(counted.drive(run), State.WAITING)
    passes(counted, run, seconds=10)
    copy()
    client = Client(counted.url)
    with pytest.raises(Refused, match=r'column "total" does not exist\) and came once since the switch.*/\* COPY \*/'):
        client.approve(run)
    passes(counted, run, seconds=10)
    client.approve(run)
    expect(counted.drive(run), State.COMPLETED)


def test_an_index_that_is_still_used_holds_the_contract_that_drops_it(counted: Engine) -> None:
    counted.execute("INSERT INTO jobs SELECT n, 's' || n, n FROM generate_series(1000, 9000) n; ANALYZE jobs")
    text = RENAME.replace(
        "rename_column: {table: jobs, from: total, to: revenue}", "drop_index: {table: jobs, name: jobs_status_idx}"
    )
    run = enqueue(counted, text)
    expect(counted.drive(run), State.WAITING)
    passes(counted, run, seconds=10)
    counted.execute("SELECT id FROM jobs WHERE status = 's5'")
    client = Client(counted.url)
    with pytest.raises(Refused, match="reads jobs by jobs_status_idx, and can use none after contract") as refused:
        client.approve(run)
    assert len(refused.value.findings) == 1
    passes(counted, run, seconds=10)
    client.approve(run)
    expect(counted.drive(run), State.COMPLETED)


def test_a_table_that_is_dropped_is_needed_by_whoever_reads_it(counted: Engine) -> None:
    text = RENAME.replace("rename_column: {table: jobs, from: total, to: revenue}", "drop_table: {table: jobs}")
    run = enqueue(counted, text)
    expect(counted.drive(run), State.WAITING)
    passes(counted, run, seconds=10)
    counted.execute("SELECT note FROM jobs WHERE id = 1")
    with pytest.raises(Refused, match='relation "jobs" does not exist') as refused:
        Client(counted.url).approve(run)
    assert len(refused.value.findings) == 1


#: A rename that forgets an index: the way back has it again.
PLANTED = """
name: planted
operations:
  - rename_column: {table: jobs, from: total, to: revenue}
  - sql:
      table: jobs
      phase: switch
      run: DROP INDEX public.jobs_status_idx
      rollback: CREATE INDEX jobs_status_idx ON public.jobs (status)
      allow: [require-concurrent-index-creation]
application: {statements: {window: 1s}}
settings: {approve: []}
"""


def test_a_planted_regression_is_caught_before_contract_and_switched_back(counted: Engine) -> None:
    counted.execute("INSERT INTO jobs SELECT n, 's' || n, n, repeat('x', 900) FROM generate_series(1000, 9000) n")
    counted.execute("ANALYZE jobs")
    counted.execute("SELECT id, note FROM jobs WHERE status = 's77'")
    run = counted.enqueue(PLANTED)
    why = held(counted, run)
    assert "SELECT id, note FROM jobs WHERE status = $1" in why, why
    passes(counted, run, seconds=10)
    counted.step()
    client = Client(counted.url)
    checked = client.status(run).application
    assert checked is not None
    (worse,) = [one for one in checked["findings"] if one["kind"] == "regression"]
    assert "pages, and read" in worse["problem"]
    assert "jobs_status_idx" in worse["plan_before"]
    assert worse["plan_after"] == "Seq Scan jobs"
    record = RecordCollector(counted.url)
    try:
        (metric,) = [one for one in record.collect() if one.name == "backfilld_application_findings"]
    finally:
        record.close()
    values = {sample.labels["kind"]: sample.value for sample in metric.samples if sample.labels["run"] == "planted"}
    assert (values["regression"], values["needed"]) == (1, 0)

    told = client.explain(run)
    assert any("Before: " in one and "Now: Seq Scan jobs" in one for one in told.sentences), told
    assert any("Switch back, which loses nothing: backfilld rollback planted" in one for one in told.remedies)

    counted.execute("INSERT INTO jobs (id, status, revenue, note) VALUES (99999, 'new', 5, 'n')")
    client.rollback(run)
    expect(counted.drive(run), State.ROLLED_BACK)
    assert counted.value("SELECT total FROM jobs WHERE id = 99999") == 5
    assert counted.value("SELECT to_regclass('jobs_status_idx') IS NOT NULL")


#: A policy that asks a function for each row, beside one that an index serves.
PER_ROW = """
name: policies
operations:
  - replace_policies:
      table: jobs
      policies:
        - {name: own, to: [ROLE], using: "owner = current_setting('app.who')"}
        - {name: shared, to: [ROLE], for: select, using: public.is_shared(id)}
      keep_both: true
      expect: {gained: any}
application:
  personas:
    ann: {role: ROLE, settings: {app.who: ann}}
  statements: {window: 1s, roles: [ROLE]}
settings: {approve: []}
"""


def test_a_function_for_each_row_in_a_policy_is_caught_before_contract_and_switched_back(counted: Engine) -> None:
    """For our own role, which no policy is asked for, the statement costs what it did."""
    role = f"member_of_{counted.value('SELECT current_database()::text')}"
    statement = "SELECT id, note FROM jobs WHERE note LIKE 'x%'"
    counted.execute(f"""
        CREATE ROLE {role};
        ALTER TABLE jobs ADD COLUMN owner text, ENABLE ROW LEVEL SECURITY;
        UPDATE jobs SET owner = CASE WHEN id = 7 THEN 'ann' ELSE 'bob' END; CREATE INDEX ON jobs (owner);
        CREATE TABLE shared (job bigint PRIMARY KEY);
        INSERT INTO shared SELECT n FROM generate_series(1, 3000) n;
        CREATE FUNCTION is_shared(bigint) RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER
            AS 'BEGIN RETURN EXISTS (SELECT FROM public.shared s WHERE s.job = -$1); END';
        CREATE POLICY old ON jobs TO {role} USING (owner = current_setting('app.who'));
        GRANT SELECT ON jobs TO {role};
        ANALYZE""")
    try:
        counted.execute(f"SET app.who = 'ann'; SET ROLE {role}")
        assert [row["id"] for row in counted.execute(statement)] == [7]
        counted.execute("RESET ROLE; RESET app.who")
        run = counted.enqueue(PER_ROW.replace("ROLE", role))
        held(counted, run)
        passes(counted, run, seconds=10)
        counted.step()
        client = Client(counted.url)
        checked = client.status(run).application
        assert checked is not None
        (worse,) = [one for one in checked["findings"] if one["kind"] == "regression"]
        assert "SELECT id, note FROM jobs WHERE note LIKE $1" in worse["statement"]
        assert worse["problem"].startswith("as ann it reads "), worse
        assert ("jobs_owner_idx" in worse["plan_before"], worse["plan_after"]) == (True, "Seq Scan jobs"), worse

        client.rollback(run)
        expect(counted.drive(run), State.ROLLED_BACK)
        assert counted.value("SELECT array_agg(polname::text) FROM pg_policy WHERE polrelid = 'jobs'::regclass") == [
            "old"
        ]
    finally:
        counted.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


def test_of_a_whole_run_no_statement_is_taken_for_the_applications(counted: Engine) -> None:
    text = RENAME.replace("rename_column: {table: jobs, from: total, to: revenue}", OTHERS)
    counted.execute("SELECT status FROM jobs WHERE id = 1")
    run = enqueue(counted, text)
    expect(counted.drive(run), State.WAITING)
    seen = counted.execute("SELECT DISTINCT statement FROM backfilld.application_statements WHERE queryid IS NOT NULL")
    assert {row["statement"] for row in seen} == {"SELECT status FROM jobs WHERE id = $1"}


OTHERS = """add_column: {table: jobs, column: {name: big, type: text}, backfill: upper(status), not_null: true}
  - change_type: {table: jobs, column: note, type: varchar(300), up: note, down: note}
  - backfill: {table: jobs, set: {status: "status || 'x'"}, where: "status NOT LIKE '%x'"}"""
