"""`replace_policies`: compared for each persona before it happens, counted once more as it happens, and the old policies come back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from fix_policies import ANN, OWN, PERSONAS, SCHEMA, TEAM, file
from fix_rules import engine_at, whole_way_back_from_every_other_step
from fix_runs import expect
from typer.testing import CliRunner

from backfilld.migrations.errors import Refused
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine
from backfilld.migrations.policies import results
from backfilld.migrations.record.states import Phase, State
from backfilld.monitoring import display
from backfilld.monitoring.policies import unexpected
from backfilld.monitoring.record import RecordCollector
from backfilld.producers import cli, commands
from backfilld.producers.client import Client
from backfilld.worker.phases import policies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_runs import Engine

    from backfilld.migrations.policies.results import Counted


@pytest.fixture
def project(supabase_url: str) -> Iterator[Engine]:
    """As a project's own role, which is no superuser."""
    with engine_at(supabase_url) as engine:
        engine.execute(SCHEMA)
        yield engine


def names(engine: Engine) -> set[str]:
    return {row["name"] for row in engine.execute("SELECT polname::text AS name FROM pg_policy")}


def counted(engine: Engine, run: int) -> dict[tuple[str, str], Counted]:
    return {
        (one.persona, one.command): one
        for one in results.of_run(engine.connection, run)[0]
        if one.phase is Phase.SWITCH
    }


def told(engine: Engine, text: str) -> str:
    found = examine.examine(engine.connection, definition.parse(text))
    return "\n".join([*map(str, found.findings), *found.warnings])


def test_back_from_every_other_step(project: Engine) -> None:
    """Names, comments, expressions and row level security are as before, whatever step the run has come to; then all the way."""
    project.execute('ALTER TABLE "Odd Schema"."Order" DISABLE ROW LEVEL SECURITY')
    assert "is off, so that no policy is asked [0007]" in told(project, file(OWN))
    visitor = {"visitor": PERSONAS["visitor"]}  # one says it all, and each step of the way enqueues the file anew
    text = file(OWN, keep_both=True, enable=True, force=True, personas=visitor)
    assert whole_way_back_from_every_other_step(project, text) > 8
    project.sent.clear()
    run = project.enqueue(text)
    expect(project.drive(run), State.COMPLETED)
    assert names(project) == {"own rows"}
    seen = counted(project, run)
    assert (seen["visitor", "select"].rows_now, seen["visitor", "select"].rows_then) == (60, 0)


def test_a_gain_that_nobody_expects_waits_for_a_person(project: Engine) -> None:
    run = project.enqueue(file(OWN, TEAM))
    # An approval that came before anybody could know counts for nothing.
    commands.approve(project.connection, run, "switch", actor="ann")
    found = project.drive(run, batch_rows=7)
    expect(found, State.WAITING)
    assert found.phase is Phase.SWITCH
    assert names(project) == {"it's old", "no team 4"}
    seen = counted(project, run)
    # By its own rows of team 4, and by those of others of team 1.
    assert (seen["ann", "select"].rows_now, seen["ann", "select"].rows_then) == (24, 36)
    assert (seen["ann", "select"].gained, seen["ann", "select"].lost) == (12, 0)
    assert set(seen["ann", "select"].gained_keys) == {
        (str(n), 'a, "b"') for n in range(1, 61) if (n % 2 == 0 and n % 5 == 4) or (n % 2 and n % 5 == 1)
    }
    assert (seen["ann", "insert"].rows_now, seen["ann", "insert"].gained) == (30, 0)
    assert seen["visitor", "select"].rows_then == 0
    commands.approve(project.connection, run, "switch", actor="ann")
    expect(project.drive(run, batch_rows=7), State.COMPLETED)
    assert names(project) == {"own rows", "team"}


@pytest.fixture
def staff(project: Engine) -> Iterator[Staff]:
    """A role that a persona is not a member of, and the persona's own role."""
    database = project.value("SELECT current_database()::text")
    found = Staff(engine=project, role=f"staff_{database}", visitor=f"visitor_{database}")
    project.execute(
        f'CREATE ROLE "{found.role}"; CREATE ROLE "{found.visitor}"; GRANT "{found.visitor}" TO CURRENT_USER; '
        f'GRANT USAGE ON SCHEMA "Odd Schema" TO "{found.visitor}"; GRANT SELECT ON "Odd Schema"."Order" TO "{found.visitor}"; '
        f'CREATE POLICY "old staff" ON "Odd Schema"."Order" FOR SELECT TO "{found.role}" USING (team = 2)'
    )
    yield found
    for policy in ("staff", "old staff"):
        project.execute(f'DROP POLICY IF EXISTS "{policy}" ON "Odd Schema"."Order"')
    project.execute(f'DROP OWNED BY "{found.visitor}"; DROP ROLE "{found.visitor}"; DROP ROLE "{found.role}"')


@dataclass(frozen=True)
class Staff:
    engine: Engine
    role: str
    visitor: str

    def enqueue(self) -> int:
        """A run that gives the table a policy for the role, and waits before the switch."""
        policy = {"name": "staff", "for": "select", "to": [self.role], "using": "true"}
        personas = {**PERSONAS, "visitor": {"role": self.visitor, "claims": {"aud": "x"}}}
        return self.engine.enqueue(file(OWN, policy, expect={"gained": "any"}, approve=("switch",), personas=personas))

    def grant(self) -> None:
        """From now on policies are asked for the persona that nobody counted."""
        self.engine.execute(f'GRANT "{self.role}" TO "{self.visitor}"')

    def failed(self, run: int) -> str:
        """Drive the run until it fails; the error."""
        found = self.engine.drive(run)
        expect(found, State.FAILED)
        assert found.error is not None
        return str(found.error["message"])


OLD = {"it's old", "no team 4", "old staff"}


def test_nothing_is_predicted_where_the_rules_are_not_what_postgresql_does(project: Engine, staff: Staff) -> None:
    run = staff.enqueue()
    staff.grant()
    assert (
        "what visitor sees today of Odd Schema.Order is not what its policies say: 6 rows differ (2, a, "
        in staff.failed(run)
    )
    assert names(project) == OLD


def test_what_was_not_predicted_undoes_the_switch(project: Engine, staff: Staff) -> None:
    run = staff.enqueue()
    expect(project.drive(run), State.WAITING)
    staff.grant()
    commands.approve(project.connection, run, "switch", actor="ann")
    assert 'visitor would not see what was predicted: 60 (1, a, "b"; ' in staff.failed(run)
    assert names(project) == OLD, "nothing of the switch is left"
    project.execute(f'REVOKE "{staff.role}" FROM "{staff.visitor}"')
    commands.resume(project.connection, run, actor="ann")
    expect(project.drive(run), State.COMPLETED)


def test_after_the_switch_all_rows_are_looked_at_once_more(project: Engine, staff: Staff) -> None:
    run = staff.enqueue()
    expect(project.drive(run), State.WAITING)
    commands.approve(project.connection, run, "switch", actor="ann")
    project.drive_to_lanes(run, "confirm")
    staff.grant()
    assert "what visitor sees since the switch of Odd Schema.Order is not what its policies say" in staff.failed(run)
    commands.rollback(project.connection, run, actor="ann")
    expect(project.drive(run), State.ROLLED_BACK)
    assert names(project) == OLD


def test_rows_that_change_meanwhile_are_no_wrong_prediction(project: Engine) -> None:
    run = project.enqueue(file(OWN, TEAM, expect={"gained": "any"}, approve=("switch",)))
    expect(project.drive(run), State.WAITING)
    project.execute(
        'UPDATE "Odd Schema"."Order" SET team = 1, owner = NULL; DELETE FROM "Odd Schema"."Order" WHERE id > 50'
    )
    commands.approve(project.connection, run, "switch", actor="ann")
    expect(project.drive(run), State.COMPLETED)


def test_policies_that_somebody_else_has_changed_are_left_alone(project: Engine) -> None:
    run = project.enqueue(file(OWN, expect={"gained": "any"}, approve=("switch",)))
    expect(project.drive(run), State.WAITING)
    project.execute('ALTER POLICY "no team 4" ON "Odd Schema"."Order" USING (team <> 3)')
    commands.approve(project.connection, run, "switch", actor="ann")
    failed = project.drive(run)
    expect(failed, State.FAILED)
    assert failed.error is not None
    assert "'no team 4' is another" in failed.error["message"]
    assert names(project) == {"it's old", "no team 4"}


def test_both_sets_live_side_by_side_until_contract(project: Engine) -> None:
    text = file(OWN, TEAM, keep_both=True, expect={"gained": 12}, approve=("contract",))
    run = project.enqueue(text)
    found = project.drive(run)
    expect(found, State.WAITING)
    assert found.phase is Phase.CONTRACT, "team 4 is still restricted: fewer rows are gained than later"
    assert names(project) == {"it's old", "no team 4", "own rows", "team"}
    commands.approve(project.connection, run, "contract", actor="ann")
    expect(project.drive(run), State.COMPLETED)
    assert names(project) == {"own rows", "team"}
    by_phase = {(one.phase, one.persona, one.command): one.gained for one in results.of_run(project.connection, run)[0]}
    assert (by_phase[Phase.SWITCH, "ann", "select"], by_phase[Phase.CONTRACT, "ann", "select"]) == (6, 12)


def test_the_owner_alone_needs_no_other_right(project: Engine) -> None:
    """Neither superuser nor BYPASSRLS; `force` would hide the rows from it."""
    owner = f"owner_{project.value('SELECT current_database()::text')}"
    project.execute(f'CREATE ROLE "{owner}"; GRANT anon, authenticated, "{owner}" TO CURRENT_USER')
    try:
        project.execute(
            f'GRANT anon, authenticated TO "{owner}"; GRANT USAGE, CREATE ON SCHEMA "Odd Schema" TO "{owner}"'
        )
        project.execute(f'ALTER TABLE "Odd Schema"."Order" OWNER TO "{owner}"')
        with project.connection.transaction(force_rollback=True):
            project.execute(f'SET LOCAL ROLE "{owner}"')
            found = examine.examine(project.connection, definition.parse(file(OWN, enable=True)))
            assert not found.findings, found.findings
            assert "`force` would hide rows" in told(project, file(OWN, enable=True, force=True))
    finally:
        project.execute(f'REASSIGN OWNED BY "{owner}" TO CURRENT_USER; DROP OWNED BY "{owner}"; DROP ROLE "{owner}"')


def test_an_error_that_a_persona_meets_then_waits_for_a_person(project: Engine) -> None:
    project.execute('UPDATE "Odd Schema"."Order" SET "Part %" = \'7\'')
    fails = {
        "name": "number",
        "for": "select",
        "using": "CAST(nullif(current_setting('app.tenant', true), '') AS integer) = team",
    }
    personas = {
        **PERSONAS,
        "broken": {"role": "authenticated", "claims": {"sub": ANN}, "settings": {"app.tenant": "x"}},
    }
    run = project.enqueue(file(fails, personas=personas))
    expect(project.drive(run, batch_rows=20), State.WAITING)
    seen = counted(project, run)
    assert "22P02" in (seen["broken", "select"].error_then or "")
    assert seen["broken", "select"].error_now is None
    assert seen["ann", "select"].error_then is None
    asked = results.of_run(project.connection, run)[0]
    expectation = definition.parse(file(fails)).operations[0].expect  # type: ignore[union-attr] # it is this one
    assert {one.persona for one in asked if one.unexpected(expectation)} == {"broken"}


REFUSED = {
    "nobody to ask": (file(OWN, personas={}), "there is nobody as whom"),
    "an unknown role": (file(OWN, personas={"a": {"role": "nobody"}}), "personas.a: there is no role nobody"),
    "a role that is not ours to take": (
        file(OWN, personas={"a": {"role": "supabase_auth_admin"}}),
        "the role postgres may not take the role supabase_auth_admin",
    ),
    "a policy for an unknown role": (file({**OWN, "to": ["Anon"]}), "policies[0].to: there is no role Anon"),
    "an unknown column": (file({**OWN, "using": "nobody = 1"}), 'column "nobody" does not exist'),
    "two expressions": (file({**OWN, "using": "true) WITH CHECK (true"}), "policies[0].using is not one expression"),
    "reads itself": (
        file({**OWN, "using": 'team IN (SELECT o.team FROM "Odd Schema"."Order" o)'}),
        "reads Odd Schema.Order itself",
    ),
    "reads itself by its name alone": (
        file({**OWN, "using": 'team IN (SELECT o.team FROM "Order" o)'}),
        "would have to ask themselves: infinite recursion",
    ),
    "reads itself by way of another": (
        file({**OWN, "using": "team IN (SELECT r.team FROM public.rota r)"}),
        "reads Odd Schema.Order through the policies of rota, whose policies",
    ),
    "the same again": (
        file(
            {"name": "it's old", "to": ["authenticated"], "using": "owner = auth.uid()"},
            {"name": "no team 4", "for": "select", "restrictive": True, "using": "team <> 4"},
        ),
        "has these policies already",
    ),
    "twice": (
        json.dumps(
            {
                **(twice := json.loads(file(OWN))),
                "operations": [
                    *twice["operations"],
                    {"enable_row_security": {"table": "Odd Schema.Order", "force": True}},
                ],
            }
        ),
        "operations[1].enable_row_security is about the policies of Odd Schema.Order too",
    ),
    "two of one name": (
        file({"name": "it's old", "using": "true"}, keep_both=True),
        "both have a policy it's old",
    ),
}


def test_what_is_refused(project: Engine) -> None:
    project.execute(
        "CREATE TABLE rota (team integer); ALTER TABLE rota ENABLE ROW LEVEL SECURITY; CREATE POLICY shared ON rota "
        'USING (EXISTS (SELECT FROM "Odd Schema"."Order" o WHERE o.team = rota.team))'
    )
    for name, (text, words) in REFUSED.items():
        with pytest.raises(Refused) as refused:
            project.enqueue(text)
        assert words in str(refused.value), name
    project.execute('ALTER TABLE "Odd Schema"."Order" DROP CONSTRAINT "Order_pkey"')
    with pytest.raises(Refused, match="has no primary key"):
        project.enqueue(file(OWN))


ADVICE: dict[str, tuple[dict[str, Any], str | None]] = {
    "asked for each row": ({**OWN, "using": "owner = auth.uid()"}, "calls auth.uid() for each row [0003]"),
    "once": (OWN, None),
    "several": (
        {**TEAM, "for": "all"},
        "2 permissive policies are asked for each row that authenticated reaches by SELECT [0006]",
    ),
    "a function for each row": (
        {**OWN, "using": "app.is_mine(team)"},
        "app.is_mine() is called for each row of Odd Schema.Order",
    ),
    "metadata": ({**OWN, "using": "(auth.jwt() -> 'user_metadata') IS NOT NULL"}, "reads user_metadata"),
    "nobody": ({**OWN, "using": "auth.uid() IS NULL OR team = 1"}, "lets a session without a user in [0030]"),
    "anything": ({"name": "w", "for": "update", "using": "true"}, "lets public write any row [0024]"),
    "no index": ({**OWN, "using": "team = 1"}, "no index serves team; create one first"),
    "an index": ({**OWN, "using": "id = 1"}, None),
}


def test_advice(project: Engine) -> None:
    project.execute(
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC; CREATE FUNCTION app.is_mine(integer) RETURNS boolean "
        "LANGUAGE plpgsql STABLE SECURITY DEFINER AS 'BEGIN RETURN $1 = 1; END'"
    )
    for name, (policy, words) in ADVICE.items():
        if name == "no index":  # of a table that is large enough
            project.execute('INSERT INTO "Odd Schema"."Order" SELECT n, \'b\' FROM generate_series(100, 11000) n')
            project.execute('ANALYZE "Odd Schema"."Order"')
        said = told(project, file(policy, *([OWN] if name == "several" else [])))
        if words is None:
            assert "for each row" not in said, name
            assert "no index" not in said, name
        else:
            assert words in said, name


def test_ways_past_the_policies_are_named(project: Engine) -> None:
    """Views that read as an owner for whom no policy is asked, and functions of such an owner that the API shows."""
    project.execute(
        """
        CREATE VIEW public."All" AS SELECT o.id FROM "Odd Schema"."Order" o; GRANT SELECT ON public."All" TO anon;
        CREATE VIEW public.hidden AS SELECT o.id FROM "Odd Schema"."Order" o; REVOKE ALL ON public.hidden FROM anon, authenticated;
        CREATE SCHEMA private; GRANT USAGE ON SCHEMA private TO anon, authenticated;
        CREATE FUNCTION public.mine() RETURNS SETOF bigint LANGUAGE sql STABLE SECURITY DEFINER AS 'SELECT 1::bigint';
        CREATE FUNCTION private.mine() RETURNS SETOF bigint LANGUAGE sql STABLE SECURITY DEFINER AS 'SELECT 1::bigint';
        REVOKE EXECUTE ON FUNCTION public.mine() FROM PUBLIC, anon
        """
    )
    said = told(project, file({**OWN, "using": "id IN (SELECT public.mine()) OR id IN (SELECT private.mine())"}))
    assert (
        "the view All shows anon, authenticated the rows of Odd Schema.Order with the rights of postgres, for whom no policy is asked "
        '[0010]: ALTER VIEW "public"."All" SET (security_invoker = true)' in said
    )
    assert "hidden" not in said
    assert (
        "the function mine(), which the policy own rows calls, runs with the rights of postgres for authenticated outside"
        in said
    )
    assert "[0029]: move it to a schema that the API does not show" in said
    assert "private.mine()" not in said
    if project.connection.info.server_version >= 150_000:
        project.execute('ALTER VIEW public."All" SET (security_invoker = true)')
        assert "[0010]" not in told(project, file(OWN))
    project.execute(
        'ALTER TABLE "Odd Schema"."Order" SET SCHEMA public; ALTER TABLE "Order" DISABLE ROW LEVEL SECURITY'
    )
    said = told(project, file(OWN).replace("Odd Schema.Order", "Order"))
    assert "no policy is asked and the API shows all of its rows [0007, 0013]" in said


def test_rows_of_tables_whose_policies_read_this_one_are_counted(project: Engine) -> None:
    """Under the policy of parts, which reads the table whose policies change; and what is said of them is what comes true."""
    project.execute(
        """
        CREATE TABLE "Odd Schema".parts (part integer PRIMARY KEY, "order" bigint);
        INSERT INTO "Odd Schema".parts SELECT n, n / 2 FROM generate_series(1, 100) n;
        GRANT SELECT, UPDATE ON "Odd Schema".parts TO anon, authenticated; ALTER TABLE "Odd Schema".parts ENABLE ROW LEVEL SECURITY;
        CREATE POLICY shared ON "Odd Schema".parts FOR SELECT
            USING (EXISTS (SELECT FROM "Odd Schema"."Order" o WHERE o.id = parts."order") OR "order" IN (SELECT id FROM "Odd Schema"."Order"))
        """
    )
    assert "the policy shared of Odd Schema.parts reads Odd Schema.Order" in told(project, file(OWN))

    def seen() -> set[int]:
        with project.connection.transaction(force_rollback=True):
            project.execute("SELECT set_config('request.jwt.claims', %s, true)", json.dumps({"sub": ANN}))
            project.execute("SET LOCAL ROLE authenticated")
            return {row["part"] for row in project.execute('SELECT part FROM "Odd Schema".parts')}

    before = seen()
    run = project.enqueue(file(OWN, TEAM))
    expect(project.drive(run), State.WAITING)
    parts = {
        (one.persona, one.command): one
        for one in results.of_run(project.connection, run)[0]
        if one.relation == "Odd Schema.parts"
    }
    assert parts["visitor", "select"].rows_then == 0
    commands.approve(project.connection, run, "switch", actor="ann")
    expect(project.drive(run), State.COMPLETED)
    after = seen()
    assert (parts["ann", "select"].rows_now, parts["ann", "select"].rows_then) == (len(before), len(after))
    assert {int(key[0]) for key in parts["ann", "select"].gained_keys} == after - before != set()
    assert {int(key[0]) for key in parts["ann", "select"].lost_keys} == before - after


def test_a_table_that_takes_too_long_is_for_a_person(project: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "_SECONDS", 0.2)
    project.execute(
        """
        CREATE TABLE parts (part integer PRIMARY KEY); INSERT INTO parts VALUES (1); GRANT SELECT ON parts TO authenticated;
        ALTER TABLE parts ENABLE ROW LEVEL SECURITY;
        CREATE POLICY slow ON parts USING (pg_sleep(1) IS NOT NULL AND EXISTS (SELECT FROM "Odd Schema"."Order"))
        """
    )
    run = project.enqueue(file(OWN, expect={"gained": "any"}))
    expect(project.drive(run), State.WAITING)
    (asked,) = {
        one.in_words for one in unexpected(project.connection, [project.run(run)])[run] if one.counted.persona == "ann"
    }
    assert "what ann reaches of parts is not known: it could not be counted: 57014" in asked


def test_whoever_reads_or_writes_is_not_kept_waiting_while_rows_are_counted(project: Engine) -> None:
    """Another session holds a lock that lets nothing beside it but a SELECT."""
    run = project.enqueue(file(OWN, expect={"gained": "any"}, approve=("switch",)))
    project.drive_to_lanes(run, "compare")
    with project.connect() as other, other.transaction():
        other.execute('LOCK TABLE "Odd Schema"."Order" IN EXCLUSIVE MODE')
        project.drive(run, batch_rows=15)
    expect(project.run(run), State.WAITING)
    assert project.value("SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()") == 0
    assert counted(project, run)["ann", "select"].rows_now == 24


def test_status_says_how_many_rows_were_looked_at_as_each_persona(project: Engine) -> None:
    """While lanes compare, and once they have; never "0 of 0 rows verified"."""
    run = project.enqueue(file(OWN, expect={"gained": "any"}, approve=("switch",)))
    project.drive_to_lanes(run, "compare")
    client = Client(project.url)

    def walked(_: object) -> bool:
        return any(lane.rows_walked for lane in project.lanes(run, "compare"))

    project.drive(run, batch_rows=15, until=walked)
    now = client.status(run)
    assert now.old_values_walk is not None
    assert 0 < now.old_values_walk.rows_walked < 60
    assert (now.personas, now.percent) == (2, now.old_values_walk.rows_walked * 1000 // 60 / 10)
    assert display.rows(now) == f"{now.old_values_walk.rows_walked} of about 60 rows compared as 2 personas"
    expect(project.drive(run, batch_rows=15), State.WAITING)
    assert display.rows(client.status(run)) == "60 rows compared as 2 personas"
    commands.approve(project.connection, run, "switch", actor="ann")
    project.drive_to_lanes(run, "confirm")
    assert display.rows(client.status(run)) == "0 of about 60 rows looked at as 2 personas"
    expect(project.drive(run), State.COMPLETED)
    assert display.rows(client.status(run)) == "60 rows compared as 2 personas"


def test_what_is_said_of_a_policy_stays_with_its_name(project: Engine) -> None:
    new = {"name": "it's old", "to": ["authenticated"], "using": "owner = (SELECT auth.uid())"}
    same = {"name": "no team 4", "for": "select", "restrictive": True, "using": "team <> 4"}
    before = project.value("SELECT oid FROM pg_policy WHERE polname = 'no team 4'")
    expect(project.drive(project.enqueue(file(new, same))), State.COMPLETED)
    assert (
        project.value("SELECT obj_description(oid, 'pg_policy') FROM pg_policy WHERE polname = 'it''s old'")
        == "since 2019"
    )
    assert project.value("SELECT oid FROM pg_policy WHERE polname = 'no team 4'") == before, "it is left alone"


def test_a_policy_may_read_a_column_that_the_same_file_adds(project: Engine) -> None:
    text = json.loads(file({"name": "open", "for": "select", "using": "is_open"}, expect={"gained": "any"}))
    column = {"table": "Odd Schema.Order", "column": {"name": "is_open", "type": "boolean"}, "backfill": "id % 3 = 0"}
    text["operations"].insert(0, {"add_column": column})
    run = project.enqueue(json.dumps(text))
    expect(project.drive(run, batch_rows=25), State.COMPLETED)
    (seen,) = (
        one for one in results.of_run(project.connection, run)[1] if (one.persona, one.command) == ("ann", "select")
    )
    assert seen.rows_then == 20


def test_a_partitioned_table(project: Engine) -> None:
    project.execute(
        """
        CREATE TABLE logs (id bigint, day integer, owner uuid, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
        CREATE TABLE logs_1 PARTITION OF logs FOR VALUES IN (1); CREATE TABLE logs_2 PARTITION OF logs DEFAULT;
        INSERT INTO logs SELECT n, n % 3 FROM generate_series(1, 30) n; ALTER TABLE logs ENABLE ROW LEVEL SECURITY;
        """
    )
    text = file({"name": "day", "for": "select", "using": "day = 1"}).replace("Odd Schema.Order", "logs")
    run = project.enqueue(text)
    expect(project.drive(run, batch_rows=9), State.WAITING)
    (seen,) = (
        one for one in results.of_run(project.connection, run)[0] if (one.persona, one.command) == ("ann", "select")
    )
    assert (seen.rows_now, seen.rows_then, seen.gained) == (0, 10, 10)
    commands.approve(project.connection, run, "switch", actor="ann")
    expect(project.drive(run), State.COMPLETED)


def test_code_of_users_runs_under_the_applications_settings(project: Engine) -> None:
    """A policy calls a function that finds its table by the application's search_path, and not by ours."""
    project.execute(
        f"""
        CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC; CREATE TABLE app.teams (team integer); INSERT INTO app.teams VALUES (1);
        GRANT SELECT ON app.teams TO PUBLIC;
        CREATE FUNCTION app.in_team(integer) RETURNS boolean LANGUAGE plpgsql STABLE
            AS 'BEGIN RETURN EXISTS (SELECT FROM teams WHERE team = $1); END';
        ALTER DATABASE {project.value("SELECT current_database()::text")} SET search_path = app, public;
        """
    )
    with engine_at(project.url) as engine:  # whose sessions have that path
        called = {"name": "called", "for": "select", "using": "app.in_team(team)"}
        run = engine.enqueue(file(called, expect={"gained": "any"}))
        expect(engine.drive(run), State.COMPLETED)
        assert counted(engine, run)["ann", "select"].rows_then == 12


def test_people_see_who_gains_what_before_they_decide(project: Engine) -> None:
    run = project.enqueue(file(OWN, TEAM))
    expect(project.drive(run), State.WAITING)
    said = 'ann sees 12 rows of Odd Schema.Order that it could not before (such as (1, a, "b"), '
    client = Client(project.url)
    now = client.status(run)
    # Its own rows of team 4, which it sees now, it may change and delete as well.
    assert {one.counted.command for one in now.policies} == {"select", "update", "update_check", "delete", "upsert"}
    assert [one.in_words.startswith(said) for one in now.policies if one.counted.command == "select"] == [True]
    (told,) = (one for one in now.to_json()["policies"] if one["command"] == "select")
    assert (told["persona"], told["command"], told["gained"], len(told["gained_keys"])) == ("ann", "select", 12, 12)
    assert any(one.lower().startswith(said.lower()) for one in client.explain(run).sentences)
    collector = RecordCollector(project.url)
    scraped = {
        sample.labels["kind"]: sample.value
        for family in collector.collect()
        for sample in family.samples
        if sample.name == "backfilld_application_findings"
    }
    collector.close()
    assert scraped == {"policies": 5}
    shown = CliRunner().invoke(
        cli.app, ["approve", str(run), "--phase", "switch"], env={"BACKFILLD_DATABASE_URL": project.url}
    )
    assert (shown.exit_code, said in shown.output) == (0, True), shown.output
    assert client.status(run).policies == ()
