"""Policies that read a table through views, functions and other policies: said to do so, and where that changes what they show, counted
or left to a person.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from fix_policies import ANN, OWN, SCHEMA, TEAM, file
from fix_rules import engine_at
from fix_runs import expect

from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine
from backfilld.migrations.policies import results
from backfilld.migrations.postgres import catalog, readings
from backfilld.migrations.record.states import State
from backfilld.producers import commands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_runs import Engine

    from backfilld.migrations.planning.examination import Examination

TABLE = '"Odd Schema"."Order"'

#: A table whose policy asks `app.readable`, whatever that is; and a table on the way that has a policy of its own. `reader` is no
#: owner of the first.
BESIDE = f"""
CREATE SCHEMA app AUTHORIZATION CURRENT_USER; GRANT ALL ON SCHEMA app TO anon, authenticated; CREATE SCHEMA other;
CREATE TABLE other."Order" (id bigint); CREATE TABLE app.parts (part bigint PRIMARY KEY);
INSERT INTO app.parts SELECT n FROM generate_series(1, 60) n;
GRANT SELECT ON app.parts TO anon, authenticated; ALTER TABLE app.parts ENABLE ROW LEVEL SECURITY;
CREATE TABLE app.rota (id bigint PRIMARY KEY); INSERT INTO app.rota SELECT n FROM generate_series(1, 60) n;
GRANT SELECT ON app.rota TO anon, authenticated; ALTER TABLE app.rota ENABLE ROW LEVEL SECURITY;
CREATE POLICY shared ON app.rota USING (id IN (SELECT o.id FROM {TABLE} o));
"""


@dataclass(frozen=True)
class Reading:
    """How the policy of `parts` comes to the rows of the table."""

    #: Makes what it needs.
    made: str
    #: Its expression.
    using: str
    #: What is said to lie between; None where nothing changes for it.
    between: str | None
    #: From this server on.
    since: int = 14


FUNCTION = "CREATE FUNCTION app.readable() RETURNS SETOF bigint LANGUAGE sql STABLE"
IDS = f"SELECT o.id FROM {TABLE} o"
VIEW = f"CREATE VIEW app.readable AS {IDS}; GRANT SELECT ON app.readable TO PUBLIC"
OF_VIEW, OF_FUNCTION = "part IN (SELECT r.id FROM app.readable r)", "part IN (SELECT app.readable())"

READINGS = {
    "by itself": Reading("", f"part IN ({IDS})", ""),
    "a view": Reading(VIEW, OF_VIEW, None),
    "a view as whoever asks": Reading(
        f"{VIEW}; ALTER VIEW app.readable SET (security_invoker = true)",
        OF_VIEW,
        "through the view app.readable",
        since=15,
    ),
    "a view of a role whom policies are for": Reading(
        f"{VIEW}; ALTER VIEW app.readable OWNER TO authenticated",
        OF_VIEW,
        "through the view app.readable as authenticated",
    ),
    "a view as whoever asks in another view": Reading(
        f"CREATE VIEW app.inner AS {IDS}; ALTER VIEW app.inner SET (security_invoker = true); GRANT SELECT ON app.inner TO PUBLIC; "
        "CREATE VIEW app.readable AS SELECT i.id FROM app.inner i; GRANT SELECT ON app.readable TO PUBLIC",
        OF_VIEW,
        "through the view app.readable and the view app.inner",
        since=15,
    ),
    "a materialized view": Reading(VIEW.replace("VIEW", "MATERIALIZED VIEW", 1), OF_VIEW, None),
    "a function": Reading(f"{FUNCTION} AS '{IDS}'", OF_FUNCTION, "through the function app.readable()"),
    "a function in words of its own": Reading(
        f"{FUNCTION} BEGIN ATOMIC {IDS}; END", OF_FUNCTION, "through the function app.readable()"
    ),
    "a function that puts its statement together": Reading(
        f"{FUNCTION.replace('sql', 'plpgsql', 1)} AS $$ BEGIN RETURN QUERY EXECUTE 'SELECT id FROM {TABLE}'; END $$",
        OF_FUNCTION,
        "through the function app.readable()",
    ),
    "a function of the owner's": Reading(f"{FUNCTION} SECURITY DEFINER AS '{IDS}'", OF_FUNCTION, None),
    "a function of a role whom policies are for": Reading(
        f"{FUNCTION} SECURITY DEFINER BEGIN ATOMIC {IDS}; END; ALTER FUNCTION app.readable() OWNER TO authenticated",
        OF_FUNCTION,
        "through the function app.readable() as authenticated",
    ),
    "a function in a view": Reading(
        f"{FUNCTION.replace('readable', 'ids')} AS '{IDS}'; CREATE VIEW app.readable AS SELECT i.id FROM app.ids() i (id); "
        "GRANT SELECT ON app.readable TO PUBLIC",
        OF_VIEW,
        "through the view app.readable and the function app.ids()",
    ),
    "another table's policies": Reading(
        "", "part IN (SELECT r.id FROM app.rota r)", "through the policies of app.rota"
    ),
    "another table of that name": Reading(
        f"{FUNCTION} SECURITY DEFINER AS 'SELECT o.id FROM other.\"Order\" o'", OF_FUNCTION, None
    ),
}


@pytest.fixture
def project(supabase_url: str) -> Iterator[Engine]:
    with engine_at(supabase_url) as engine:
        engine.execute(SCHEMA)
        engine.execute(BESIDE)
        yield engine


def examined(engine: Engine, text: str) -> Examination:
    return examine.examine(engine.connection, definition.parse(text))


def seen(engine: Engine) -> set[int]:
    """What Ann sees of `parts`."""
    with engine.connection.transaction(force_rollback=True):
        engine.execute("SELECT set_config('request.jwt.claims', %s, true)", json.dumps({"sub": ANN}))
        engine.execute("SET LOCAL ROLE authenticated")
        return {row["part"] for row in engine.execute("SELECT part FROM app.parts")}


def test_whoever_reads_it_on_whatever_way_is_found(project: Engine) -> None:
    """Of each way it is tried whether the policies of the table matter there: nothing that changes is left unsaid, and nothing else said."""
    version = project.connection.info.server_version // 10_000
    for name, one in READINGS.items():
        if version < one.since:
            continue
        with project.connection.transaction(force_rollback=True):
            project.execute(f"{one.made}; CREATE POLICY shared ON app.parts USING ({one.using})")
            table = catalog.oid_of(project.connection, definition.parse(file(OWN)).operations[0].table.identifier)  # type: ignore[union-attr] # it is this one
            ways = [way for way in readings.ways(project.connection, table) if way.table.name == "parts"]
            before = seen(project)
            project.execute(f'DROP POLICY "it\'s old" ON {TABLE}; CREATE POLICY team ON {TABLE} USING (team = 1)')
            changes = seen(project) != before
        assert changes == (one.between is not None), name
        said = [way.in_words.removeprefix("itself") for way in ways]
        assert said == ([] if one.between is None else [one.between]), name


def test_what_cannot_be_counted_is_left_to_a_person(project: Engine) -> None:
    """A function as whoever asks: named in the plan, and the switch waits however much the file expects."""
    project.execute(f"{FUNCTION} AS '{IDS}'; CREATE POLICY shared ON app.parts USING ({OF_FUNCTION})")
    text = file(OWN, TEAM, expect={"gained": "any"})
    warned = "\n".join(examined(project, text).warnings)
    assert (
        "the policy shared of app.parts reads Odd Schema.Order: which rows of app.parts a role reaches changes with these policies, and "
        "cannot be counted, for shared seems to read it through the function app.readable(); a person is asked"
        in warned
    )
    assert "the policy shared of app.rota reads Odd Schema.Order" in warned, "which is counted"
    run = project.enqueue(text)
    expect(project.drive(run), State.WAITING)
    told = results.of_run(project.connection, run)[0]
    (ann,) = (one for one in told if (one.relation, one.persona) == ("app.parts", "ann"))
    expected = definition.parse(text).operations[0].expect  # type: ignore[union-attr] # it is this one
    assert ann.unexpected(expected).startswith(
        "what ann reaches of app.parts is not known: it could not be counted: shared seems to read"
    )
    assert {one.relation for one in told if one.unexpected(expected)} == {"app.parts"}
    commands.approve(project.connection, run, "switch", actor="ann")
    expect(project.drive(run), State.COMPLETED)


OF_ITSELF_VIEW = "team IN (SELECT r.team FROM app.readable r)"
TEAMS = f"SELECT o.team FROM {TABLE} o"
#: What is made, the expression of the new policy, and what is said of it: of `refused`, and of `warned` only.
OF_ITSELF: dict[str, tuple[str, str, str, str]] = {
    "a view": (VIEW.replace("o.id", "o.team"), OF_ITSELF_VIEW, "", ""),
    "a view of a role whom policies are for": (
        f"{VIEW.replace('o.id', 'o.team')}; ALTER VIEW app.readable OWNER TO authenticated",
        OF_ITSELF_VIEW,
        "reads Odd Schema.Order through the view app.readable as authenticated, and policies that change are asked for that role too",
        "",
    ),
    "a function of the owner's": (
        f"CREATE FUNCTION app.mine() RETURNS SETOF integer LANGUAGE sql STABLE SECURITY DEFINER AS '{TEAMS}'",
        "team IN (SELECT app.mine())",
        "",
        "",
    ),
    "a function in words of its own": (
        f"CREATE FUNCTION app.mine() RETURNS SETOF integer LANGUAGE sql STABLE BEGIN ATOMIC {TEAMS}; END",
        "team IN (SELECT app.mine())",
        "reads Odd Schema.Order through the function app.mine(), whose policies would have to be asked for that (42P17)",
        "",
    ),
    "a function": (
        f"CREATE FUNCTION app.mine() RETURNS SETOF integer LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY {TEAMS}; END $$",
        "team IN (SELECT app.mine())",
        "",
        "seems to read Odd Schema.Order through the function app.mine(): where it does",
    ),
}


def test_a_policy_that_would_have_to_ask_itself_on_some_way_is_refused(project: Engine) -> None:
    for name, (made, using, refused, warned) in OF_ITSELF.items():
        with project.connection.transaction(force_rollback=True):
            project.execute(made)
            found = examined(project, file({"name": "new", "to": ["authenticated"], "using": using}))
        said = "\n".join(map(str, found.findings))
        assert (refused in said) if refused else not said, (name, said)
        assert (warned in "\n".join(found.warnings)) if warned else "seems to read" not in str(found.warnings), name


def test_where_only_its_text_says_so_the_switch_is_undone(project: Engine) -> None:
    """PostgreSQL knows it no sooner than when the persona reads: no row was shown or hidden meanwhile."""
    made, using, *_ = OF_ITSELF["a function"]
    project.execute(made)
    before = project.value("SELECT array_agg(polname::text ORDER BY polname)::text FROM pg_policy")
    run = project.enqueue(file({"name": "new", "to": ["authenticated"], "using": using}, expect={"gained": "any"}))
    found = project.drive(run)
    expect(found, State.FAILED)
    assert found.error is not None
    assert "stack depth limit exceeded" in found.error["message"]
    assert project.value("SELECT array_agg(polname::text ORDER BY polname)::text FROM pg_policy") == before
    commands.rollback(project.connection, run, actor="ann")
    expect(project.drive(run), State.ROLLED_BACK)


def test_supabases_own_functions_read_nothing_of_it(project: Engine) -> None:
    project.execute(
        "CREATE POLICY mine ON app.parts USING (auth.uid() IS NOT NULL AND auth.role() <> '' AND auth.jwt() IS NOT NULL)"
    )
    assert "app.parts" not in "\n".join(examined(project, file(OWN)).warnings)
