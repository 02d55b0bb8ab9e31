"""The proof: workers killed at any statement of any phase, forward and back, while the application writes."""

from __future__ import annotations

import os
import random
import re
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, pairwise
from typing import TYPE_CHECKING

import pytest
from fix_postgres import new_database

from backfilld.migrations.operations.registry import REGISTRY
from proof.kills import Kill
from proof.nursery import Nursery
from proof.scenarios import SCENARIOS, Scenario
from proof.together import TABLE, Together
from proof.trial import Often, Once, Trial, Wrong, catalog_of, trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Begin = Callable[..., AbstractContextManager[Trial]]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as one:
        yield one


@pytest.fixture(scope="module")
def begin(admin_url: str, template: str, nursery: Nursery) -> Begin:
    """A trial of a scenario, in a database of its own."""
    wanted: dict[str, frozenset[str] | None] = {}

    @contextmanager
    def begun(scenario: Scenario, *, seed: int, **how: object) -> Iterator[Trial]:
        if scenario.name not in wanted:
            with new_database(admin_url, copy_of=template) as url:
                wanted[scenario.name] = catalog_of(scenario, url)
        with (
            new_database(admin_url, copy_of=template) as url,
            trial(scenario, url, nursery, seed=seed, wanted=wanted[scenario.name], kind=Trial, **how) as one,
        ):
            yield one

    return begun


@pytest.mark.parametrize("name", list(SCENARIOS)[::5])
def test_the_application_alone(begin: Begin, name: str) -> None:
    """The harness finds nothing wrong where nothing is."""
    with begin(SCENARIOS[name], seed=1) as one:
        one.application.act(100)
        one.look()


def test_a_worker_dies_between_two_effects(begin: Begin) -> None:
    """A COMMIT that was sent is a COMMIT, though nobody waited for its answer; one that was not sent is none."""
    scenario = SCENARIOS["backfill_once"]
    with begin(scenario, seed=1, quiet=True, tell_all=True) as one:
        one.work_once("enqueue")
        statements = one.outcomes[0].statements
    at = [
        n for n, text in enumerate(statements, start=1) if text == "COMMIT" and "The checkpoint" in statements[n - 2]
    ][3]
    steps = {}
    for sent in (False, True):
        with begin(scenario, seed=1) as one:
            (outcome,) = one.nursery.run(replace(one.job("enqueue"), kill=Kill(at=at, sent=sent)))
            one.wait_for_the_dead()
            assert (outcome.killed, outcome.count, outcome.last) == (True, at, "COMMIT")
            steps[sent] = one.value("SELECT sum(seq)::integer FROM backfilld.lanes")
    assert steps[True] == steps[False] + 1


@pytest.mark.parametrize("sabotage", ["no sync trigger", "blind verify"])
def test_a_mistake_is_found(begin: Begin, sabotage: str) -> None:
    with begin(SCENARIOS["add_column"], seed=1, quiet=True, sabotage=sabotage) as one, pytest.raises(Wrong):
        one.forward()


def test_a_mistake_on_the_way_back_is_found(begin: Begin) -> None:
    scenario, how = SCENARIOS["add_column"], {"seed": 1, "sabotage": "half a way back"}
    with begin(scenario, tell_all=True, **how) as one:
        one.work_once("enqueue")
        # The last one: the dry run made one, too.
        made = max(n for n, text in enumerate(one.outcomes[0].statements) if "CREATE OR REPLACE TRIGGER" in text)
    with begin(scenario, **how) as one:
        one.deaths = Once(at=made + 20, sent=False)
        one.forward_until_death()
        with pytest.raises(Wrong, match="catalog"):
            one.back()


def test_a_checkpoint_apart_from_its_rows_is_found(begin: Begin) -> None:
    """Where it is committed after them, a worker that dies in between does them twice."""
    scenario, how = SCENARIOS["backfill_once"], {"seed": 1, "quiet": True, "sabotage": "checkpoint apart"}
    with begin(scenario, tell_all=True, **how) as one:
        one.forward()
        (said,) = one.outcomes
    apart = [
        number
        for number, (before, text) in enumerate(pairwise(said.statements), start=2)
        if before.startswith("BEGIN") and "The checkpoint" in text
    ]
    with begin(scenario, deaths=Once(at=apart[1], sent=False), **how) as one, pytest.raises(Wrong, match="must be"):
        one.forward()


def fire(begin: Begin, scenario: Scenario, seed: int, *, most_returns: int = 2) -> None:
    """One trial by chance: who dies when, what is asked of the run, and how often it goes back before it goes through."""
    chance = random.Random(seed)
    how = {
        "workers": chance.choice([1, 1, 2]),
        "keeps_queue": chance.random() < 0.7,
        "in_haste": chance.random() < 0.3,
        "one_step": chance.random() < 0.7,
        "settings": f"lanes: {chance.choice([1, 2, 3])}, walk: {chance.choice(['auto', 'keys'])}",
    }
    often = Often(chance)
    with begin(scenario, seed=seed, **how) as one:
        if scenario.returns != "never":
            for _ in range(chance.randrange(most_returns + 1)):
                one.deaths = Once(at=chance.randrange(1, 500), sent=chance.random() < 0.5)
                one.forward_until_death()
                if not one.can_return():
                    return
                one.deaths = often
                one.back()
        one.deaths = often
        one.forward()
        if one.can_return():
            one.back()


def by_turns(seed: int) -> Scenario:
    return list(SCENARIOS.values())[seed % len(SCENARIOS)]


#: By turns these are scenarios of every operation; the other scenarios, and other chances for all of them, come in the soak.
SEEDS = (3, 5, 6, 8, 9, 13, 14, 15, 16, 20, 21, 22, 23, 24, 25, 26, 27)


def test_the_seeds_are_for_every_operation() -> None:
    used = "".join(by_turns(seed).operations for seed in SEEDS)
    assert [model.kind for model in REGISTRY if not re.search(rf"\b{model.kind}:\s", used)] == []
    assert {by_turns(seed).returns for seed in SEEDS} == {scenario.returns for scenario in SCENARIOS.values()}


@pytest.mark.parametrize("seed", SEEDS)
def test_by_chance(begin: Begin, seed: int) -> None:
    """Some workers die wherever chance has it; forward, back, and forward again. A seed that fails can be run alone."""
    fire(begin, by_turns(seed), seed, most_returns=1)


def together(admin_url: str, template: str, nursery: Nursery, seed: int) -> None:
    chance = random.Random(seed)
    with (
        new_database(admin_url, copy_of=template) as url,
        trial(TABLE, url, nursery, seed=seed, kind=Together, deaths=Often(chance)) as one,
    ):
        one.play()


@pytest.mark.parametrize("seed", [1])
def test_six_runs_on_one_table(admin_url: str, template: str, nursery: Nursery, seed: int) -> None:
    """All wait for contract, and end in any order, forward or back, while the application writes by every name."""
    together(admin_url, template, nursery, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 40))
def test_six_runs_on_one_table_for_long(admin_url: str, template: str, nursery: Nursery, seed: int) -> None:
    together(admin_url, template, nursery, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(*map(int, os.environ.get("BACKFILLD_PROOF_SEEDS", "0:220").split(":"))))
def test_by_chance_for_long(begin: Begin, seed: int) -> None:
    fire(begin, by_turns(seed), seed)


@pytest.mark.soak
@pytest.mark.parametrize("way", ["forward", "back"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_at_every_statement(begin: Begin, name: str, way: str) -> None:
    """A worker dies at the first statement, in another run at the second, and so on, until one gets through alive."""
    scenario = SCENARIOS[name]
    if way == "back" and scenario.returns == "never":
        pytest.skip("it has no way back")
    for at in count(1, int(os.environ.get("BACKFILLD_PROOF_STRIDE", "1"))):
        for sent in (False, True):
            with begin(scenario, seed=at, deaths=Once(at=at, sent=sent)) as one:
                if way == "forward":
                    one.forward()
                elif one.forward_until_death() and one.can_return():
                    one.back()
                dead = [outcome for outcome in one.outcomes if outcome.killed]
                if not dead:
                    return
                # What is sent inside of a transaction and is not its COMMIT has no effect of its own.
                if not dead[0].effective:
                    break
