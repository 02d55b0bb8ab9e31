"""Which risks a migration has and how they rank: by facts, never by the words of a sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backfilld.migrations.facts import Facts
from backfilld.migrations.file import migration as definition
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations import bind
from backfilld.migrations.planning.dry_run_findings import DryRun, Place, Seen
from backfilld.migrations.planning.estimate import CostEstimate
from backfilld.migrations.planning.examination import Examination
from backfilld.migrations.planning.impact import Impact, ImpactAction
from backfilld.migrations.planning.risks import LEVELS, Cause, Risk, rank
from backfilld.migrations.postgres.catalog import Backend, Table
from backfilld.migrations.postgres.locks import LockMode
from backfilld.migrations.record.states import Phase

JOBS = TableName("public", "jobs")
BACKEND = Backend(pid=1, version=160_000, in_recovery=False, read_only=False, may_make_temporary=True, role="app")
TABLE = Table(
    name=JOBS,
    oid=1,
    kind="r",
    pages=1000,
    heap_bytes=8_192_000,
    index_bytes=0,
    row_security_active=False,
    owned=True,
    may_select=True,
    may_update=True,
    replica_identity="d",
    has_children=False,
    is_partition=False,
    persistence="p",
    columns=(),
    keys=(),
    triggers=(),
    publications=(),
    dependents=(),
)
COST = CostEstimate(walk="pages", because="", stripes=4, heap_growth_bytes=0, index_growth_bytes=0, wal_bytes=0)

DROP = "drop_column: {table: jobs, column: total}"
WRITE = "backfill: {table: jobs, set: {total: '1'}}"
INDEX = "create_index: {table: jobs, name: i, columns: [total]}"
RAW = "sql: {table: jobs, phase: expand, run: 'ALTER TABLE public.jobs SET LOGGED', rollback: SELECT 1, allow: [%s]}"


def ranked(operation: str, *, settings: str = "{}", impacts: tuple[Impact, ...] = (), **known: Any) -> tuple[Risk, ...]:
    """The risks of a migration of one operation; `known` is what was found out about it."""
    migration = definition.parse(f"name: x\noperations: [{{{operation}}}]\nsettings: {settings}")
    examination = Examination(backend=BACKEND, facts=(Facts(relation="jobs"),), tables={JOBS: TABLE}, **known)
    # An operation whose steps need more facts than these is ranked by its file alone.
    operations = bind(migration, examination.facts) if operation.startswith("sql") else ()
    return rank(migration, examination, operations, {JOBS: impacts})


def of(risks: tuple[Risk, ...], cause: Cause) -> list[str]:
    return [risk.level for risk in risks if risk.cause is cause]


@pytest.mark.parametrize(
    ("operation", "settings", "cause", "levels"),
    [
        (DROP, "{}", Cause.DROPPED_COLUMN, ["high"]),
        (DROP, "{}", Cause.CACHED_PLANS, ["low"]),
        (WRITE, "{}", Cause.OLD_VALUES, ["low"]),
        (WRITE, "{journal: off}", Cause.OLD_VALUES, ["high"]),
        (WRITE, "{}", Cause.CACHED_PLANS, []),
        (INDEX, "{}", Cause.CACHED_PLANS, []),
        (RAW % "long-lock", "{}", Cause.ALLOWED_RULE, ["high"]),
        (RAW % "", "{}", Cause.ALLOWED_RULE, []),
        (RAW % "", "{}", Cause.LOCK_WAIT, ["low"]),
    ],
)
def test_what_the_file_alone_tells(operation: str, settings: str, cause: Cause, levels: list[str]) -> None:
    assert of(ranked(operation, settings=settings), cause) == levels


@pytest.mark.parametrize("action", ImpactAction)
def test_a_dependent_is_a_risk_where_a_person_has_to_act(action: ImpactAction) -> None:
    levels = {
        ImpactAction.CHANGE_FIRST: ["high"],
        ImpactAction.REVIEW: ["medium"],
        ImpactAction.SUBSCRIBERS_FIRST: ["medium"],
    }
    # Whatever the words are: they are quoted, and never read
    for words in ("", "must be changed by you", "follows by itself"):
        one = Impact(operation=0, kind="view", name="v", action=action, impact=words)
        assert of(ranked(INDEX, impacts=(one,)), Cause.DEPENDENT) == levels.get(action, [])


HELD = Seen(lock=LockMode.ACCESS_EXCLUSIVE)


@pytest.mark.parametrize(
    ("seen", "cause", "levels"),
    [
        (HELD, Cause.LONG_LOCK, []),
        (replace(HELD, rewrites=True), Cause.LONG_LOCK, ["high"]),
        (replace(HELD, scans=True), Cause.LONG_LOCK, ["high"]),
        (replace(HELD, builds_index=True, lock=LockMode.SHARE), Cause.LONG_LOCK, ["high"]),
        (replace(HELD, scans=True, lock=LockMode.SHARE_UPDATE_EXCLUSIVE), Cause.LONG_LOCK, []),
        (replace(HELD, scans=True, by_rule_because="it is not known"), Cause.LONG_LOCK, []),
        (replace(HELD, by_rule_because="it is not known"), Cause.UNMEASURED_LOCK, ["medium"]),
        (HELD, Cause.UNMEASURED_LOCK, []),
    ],
)
def test_what_the_dry_run_tells(seen: Seen, cause: Cause, levels: list[str]) -> None:
    dry_run = DryRun(seen={Place(Phase.EXPAND, 0, 0, 0): seen})
    assert of(ranked(RAW % "", dry_run=dry_run), cause) == levels


@pytest.mark.parametrize(("part", "levels"), [(0.29, []), (0.31, ["medium"])])
def test_a_table_that_grows_by_a_third_needs_disk_space(part: float, levels: list[str]) -> None:
    cost = replace(COST, heap_growth_bytes=round(part * TABLE.heap_bytes))
    assert of(ranked(WRITE, costs=(cost,)), Cause.GROWTH) == levels


def test_the_worst_comes_first_and_each_once() -> None:
    view = Impact(operation=0, kind="view", name="v", action=ImpactAction.REVIEW, impact="")
    risks = ranked(DROP, impacts=(view, view))
    levels = [LEVELS.index(risk.level) for risk in risks]
    assert levels == sorted(levels)
    assert len(set(risks)) == len(risks) == 3
