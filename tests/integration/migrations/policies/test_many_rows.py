"""As many rows as a busy table has, and as many kinds of users: how long it takes, and what it locks."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from fix_policies import ANN, OWN, SCHEMA
from fix_rules import engine_at
from fix_runs import expect

from backfilld.migrations.policies import results
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_runs import Engine

ROWS = 100_000
PERSONAS = {
    "ann": {"role": "authenticated", "claims": {"sub": ANN}},
    "bob": {"role": "authenticated", "claims": {"sub": ANN.replace("a", "b")}},
    "nobody": {"role": "authenticated"},
    "visitor": {"role": "anon", "claims": {"aud": "x"}},
    "service": {"role": "service_role", "claims": {"aud": "x"}},
}
#: One of its policies reads another table with policies of its own, as those of applications do.
POLICIES = [
    OWN,
    {
        "name": "team",
        "for": "select",
        "to": ["authenticated"],
        "using": "team IN (SELECT m.team FROM public.members m)",
    },
    {"name": "open", "for": "select", "to": ["anon"], "using": "team = 1"},
]


@pytest.fixture
def project(supabase_url: str) -> Iterator[Engine]:
    with engine_at(supabase_url) as engine:
        engine.execute(SCHEMA)
        engine.execute(
            f"""
            INSERT INTO "Odd Schema"."Order" SELECT n, 'x', CASE WHEN n % 10 = 0 THEN '{ANN}'::uuid END, n % 100
                FROM generate_series(61, {ROWS}) n;
            ANALYZE "Odd Schema"."Order";
            CREATE TABLE members ("user" uuid, team integer); INSERT INTO members SELECT '{ANN}', n FROM generate_series(1, 5) n;
            GRANT SELECT ON members TO authenticated; ALTER TABLE members ENABLE ROW LEVEL SECURITY;
            CREATE POLICY own ON members USING ("user" = (SELECT auth.uid()))
            """
        )
        yield engine


@pytest.mark.soak
def test_a_hundred_thousand_rows_as_five_personas_within_a_minute(project: Engine) -> None:
    """Beside a session whose lock lets nothing in but a SELECT, from the first row that is compared to the last."""
    operation = {"table": "Odd Schema.Order", "policies": POLICIES, "expect": {"gained": "any"}}
    text = {
        "name": "policies",
        "application": {"personas": PERSONAS},
        "operations": [{"replace_policies": operation}],
        "settings": {"approve": ["switch"], "lanes": 4},
    }
    run = project.enqueue(json.dumps(text))
    assert len(project.drive_to_lanes(run, "compare")) == 4
    began = time.monotonic()
    with project.connect() as other, other.transaction():
        other.execute('LOCK TABLE "Odd Schema"."Order" IN EXCLUSIVE MODE')
        expect(project.drive(run), State.WAITING)
    compared = time.monotonic() - began
    told = {
        (one.persona, one.command): one
        for one in results.of_run(project.connection, run)[0]
        if one.phase is Phase.SWITCH
    }
    assert {persona for persona, _ in told} == PERSONAS.keys()
    for persona, condition in (("ann", f"owner = '{ANN}' OR team BETWEEN 1 AND 5"), ("visitor", "team = 1")):
        rows = project.value(f'SELECT count(*) FROM "Odd Schema"."Order" WHERE {condition}')
        assert told[persona, "select"].rows_then == rows
    assert (told["service", "select"].rows_now, told["service", "select"].gained) == (
        told["service", "select"].rows_then,
        0,
    )
    commands.approve(project.connection, run, "switch", actor="ann")
    began = time.monotonic()
    expect(project.drive(run), State.COMPLETED)
    confirmed = time.monotonic() - began
    assert compared < 60, f"{compared:.1f} s"
    assert confirmed < 60, f"{confirmed:.1f} s"
    print(f"compared in {compared:.1f} s, looked at in {confirmed:.1f} s")  # noqa: T201 - shown by `pytest -s`
