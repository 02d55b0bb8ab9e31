"""The example whose application is looked at, from its plan to its contract and back: what the plan names is what then fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_contrib import passes
from fix_rest import serving
from fix_runs import Engine, expect
from paths import ROOT
from pydantic import SecretStr

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import State
from backfilld.monitoring.checks.targets import Targets
from backfilld.producers.client import Client
from backfilld.worker.side_tasks import retention

if TYPE_CHECKING:
    from collections.abc import Iterable

EXAMPLE = ROOT / "examples" / "jobs_revenue_checked.yaml"
OLD = "SELECT id, total FROM jobs WHERE id = 7"
#: All that the application sends: what is in the file of queries, and what is only counted.
SENT = {
    "SELECT id, status FROM jobs WHERE status = $1 ORDER BY created_at LIMIT $2": "SELECT id, status FROM jobs WHERE status = 'open' ORDER BY created_at LIMIT 5",
    "SELECT customer_id, sum(total) FROM jobs GROUP BY customer_id": "SELECT customer_id, sum(total) FROM jobs GROUP BY customer_id",
    "SELECT id, total FROM jobs WHERE id = $1": OLD,
    "SELECT total FROM open_jobs WHERE id = $1": "SELECT total FROM open_jobs WHERE id = 7",
    "SELECT count(*) FROM jobs": "SELECT count(*) FROM jobs",
    "SELECT sum(total) FROM public.jobs": "SELECT public.revenue()",
}


def fails(engine: Engine, statements: Iterable[str]) -> set[str]:
    """Those that fail at this moment, each as a session of its own sends it."""
    found = set()
    for statement in statements:
        with engine.connect() as session:
            try:
                session.execute(SENT[statement].encode())
            except psycopg.Error:
                found.add(statement)
    return found


def test_the_example_takes_nothing_away_that_is_still_needed(counting_engine: Engine) -> None:
    engine, client = counting_engine, Client(counting_engine.url)
    engine.execute((EXAMPLE.parent / "schema.sql").read_text(encoding="utf-8"))
    engine.execute("ANALYZE; SELECT pg_stat_statements_reset()")
    assert fails(engine, SENT) == set()

    with serving(engine.url) as rest:
        values = {"API": SecretStr(rest.url), "ANON_KEY": SecretStr("anon")}
        runner = engine.runner(targets=Targets(allowed=[rest.url], values=values))

        # Beforehand the plan names what will fail.
        told = client.plan(EXAMPLE).to_json()["application"]
        named = {one["statement"] for one in told["breaks"]}
        assert {str(one["phase"]) for one in told["breaks"]} == {"contract"}
        assert [one["source"] for one in told["cannot_be_checked"]] == ["function public.touch()"]  # in PL/pgSQL
        assert (told["untried"], told["loses_index"]) == ((), ())

        # Until contract nothing fails, and contract waits while any of that comes.
        run = engine.enqueue(EXAMPLE)
        expect(engine.drive(run, runner=runner), State.WAITING)
        assert fails(engine, SENT) == set()
        retention.run_once(engine.connection)  # looks, as the worker does now and then
        passes(engine, run, seconds=2 * 86400)
        assert fails(engine, {"SELECT id, total FROM jobs WHERE id = $1"}) == set()
        with pytest.raises(Refused) as refused:
            client.approve(run)
        problems = sorted(one.problem for one in refused.value.findings)
        assert [one.partition(" fails after contract")[0] for one in problems] == ["function public.revenue()", "it"]
        assert "SELECT id, total FROM jobs WHERE id = $1" in problems[1]

        # The new code is deployed, a day passes, and contract is free.
        body = "CREATE OR REPLACE FUNCTION public.revenue() RETURNS bigint LANGUAGE sql AS 'SELECT sum(revenue) FROM public.jobs'"
        engine.execute(body)
        passes(engine, run, seconds=2 * 86400)
        client.approve(run)
        expect(engine.drive(run, runner=runner), State.COMPLETED)
        checked = client.status(run).application
        assert checked is not None
        assert (checked["moment"], checked["counts"]) == ("after_contract", {})  # the API answers as before
        assert fails(engine, SENT) == named - {"SELECT sum(total) FROM public.jobs"}  # which was replaced

        # And back.
        client.rollback(run)
        expect(engine.drive(run, runner=runner), State.ROLLED_BACK)
        assert engine.value("SELECT total FROM jobs WHERE id = 7") == 7
