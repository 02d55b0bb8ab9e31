"""One migration under fire: workers that die, one after the other, while the application writes; and what must hold meanwhile.

Whenever a worker has ended, by itself or not, everything is looked at: each row against the application's ledger, the catalog
against what it was or is to be. The looking shares no code with the product; where a run stands is read from its record.
"""

from __future__ import annotations

import random
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import psycopg
from fix_daemon import until
from psycopg import sql
from psycopg.rows import dict_row, tuple_row

from proof.application import Application
from proof.child import APPLICATION_NAME, Job
from proof.fingerprint import difference, fingerprint
from proof.kills import Kill
from proof.scenarios import OneOf

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from proof.nursery import Nursery, Outcome
    from proof.scenarios import Row, Scenario, Shows

#: A run that has not come to rest after so many workers never will.
MOST_WORKERS = 200
#: Statements of each writer between two workers, when nobody else is at work.
ACTS = 3


class Wrong(AssertionError):
    """Something is not as it must be."""


class Deaths(Protocol):
    """When workers die."""

    def next(self) -> Kill | None:
        """The end of the next worker; None for one that is let live."""

    def learn(self, outcome: Outcome) -> None:
        """A worker has ended."""


@dataclass
class Never:
    """Nobody dies."""

    def next(self) -> Kill | None:
        return None

    def learn(self, outcome: Outcome) -> None:
        pass


@dataclass
class Once:
    """One worker dies, at a statement that is counted over all workers since the beginning."""

    at: int
    sent: bool
    dead: bool = False
    _before: int = 0

    def next(self) -> Kill | None:
        return None if self.dead else Kill(at=self.at - self._before, sent=self.sent)

    def learn(self, outcome: Outcome) -> None:
        self.dead = self.dead or outcome.killed
        self._before += outcome.count


@dataclass
class Often:
    """Two of three workers die, each at a statement that is left to chance."""

    chance: random.Random

    def next(self) -> Kill | None:
        if self.chance.random() < 0.35:
            return None
        # A step has up to some twenty statements, a run some hundreds: both the next ones and far ones are of interest.
        return Kill(at=self.chance.randrange(1, self.chance.choice([15, 60, 200])), sent=self.chance.random() < 0.5)

    def learn(self, outcome: Outcome) -> None:
        pass


@dataclass
class Trial:
    """A database with a scenario's table, its application, and workers from the nursery."""

    scenario: Scenario
    url: str
    nursery: Nursery
    connection: psycopg.Connection[dict[str, Any]]  # Any: a column has the type it has
    application: Application
    #: The catalog before anything was done, and as it is to be in the end.
    before: frozenset[str]
    wanted: frozenset[str] | None
    chance: random.Random
    deaths: Deaths = field(default_factory=Never)
    sabotage: str | None = None
    #: Whether the application writes only between two workers.
    quiet: bool = False
    #: Workers at the same time.
    workers: int = 1
    #: Whether what was in the queue when a worker died is there still, and is delivered again.
    keeps_queue: bool = True
    #: Whether the next worker begins while what the dead one sent may still be going on.
    in_haste: bool = False
    one_step: bool = True
    tell_all: bool = False
    settings: str = "lanes: 2"
    #: What has happened, for whoever reads a failure.
    log: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    _order_is_kept: bool = True

    # --- what a person does, with workers that die -------------------------------------------------------------------------

    def forward(self) -> None:
        """From enqueueing to the end, with the approval in between, after which the old application is gone."""
        self.application.begin()
        state = self.work("enqueue")["state"]
        if state == "waiting":
            self.application.versions = (self.scenario.before, self.scenario.after)
            self._act_and_look()
            self.application.versions = (self.scenario.after,)
            state = self.work("approve:contract")["state"]
        if state != "completed":
            raise self.wrong(f"the run is {state}")
        self.application.versions = (self.scenario.after,)
        self._act_and_look()

    def forward_until_death(self) -> bool:
        """The same until a worker dies, which is true, or to the end."""
        self.application.begin()
        outcomes = self.work_once("enqueue")
        if not _died(outcomes) and outcomes[0].said["state"] == "waiting":
            self.application.versions = (self.scenario.before, self.scenario.after)
            self._act_and_look()
            self.application.versions = (self.scenario.after,)
            outcomes = self.work_once("approve:contract")
        return _died(outcomes)

    def back(self) -> None:
        """Roll the run back from wherever it is; the old application is there again."""
        if self._run() is None:
            return  # it died before there was anything
        contracts = self._contracts()
        self.application.versions = () if contracts and not self.scenario.keeps_names else (self.scenario.before,)
        self._order_is_kept = self.scenario.keeps_order or not contracts
        state = self.work("rollback")["state"]
        if state != "rolled_back":
            raise self.wrong(f"the run is {state}")
        self._settle()
        self.before, self._order_is_kept = fingerprint(self.connection), True
        self.application.versions = (self.scenario.before,)
        self._act_and_look()

    def _settle(self) -> None:
        """Where more than one value was right after the way back, the one that is there is the application's from here on."""
        for column in self.scenario.back:
            for key, value in self._read([column]).items():
                (self.application.ledger[key][column],) = value

    def can_return(self) -> bool:
        """Whether the run, as it stands, can be rolled back to what was there before."""
        return self.scenario.returns == "always"

    def _contracts(self) -> bool:
        """Whether the run is so far that the old may be gone."""
        at = self._run()
        return at is not None and at["phase"] in {"contract", "done"} and at["state"] != "waiting"

    def work(self, *asks: str) -> dict[str, Any]:  # Any: JSON
        """Workers one after the other, until one comes to its end by itself; returns what that said of the run."""
        for _ in range(MOST_WORKERS):
            for outcome in self.work_once(*asks):
                if not outcome.killed:
                    return outcome.said
        raise self.wrong("the run does not come to rest")

    def work_once(self, *asks: str) -> tuple[Outcome, ...]:
        """One worker, or some side by side, until all of them have ended; then everything is looked at."""
        jobs = [self.job(*asks, number=number) for number in range(self.workers)]
        with nullcontext() if self.quiet else self.application.writing():
            outcomes = self.nursery.run(*jobs)
        self.outcomes += outcomes
        for job, outcome in zip(jobs, outcomes, strict=True):
            self._note(job, outcome)
        if self.in_haste and _died(outcomes):
            self.application.act(ACTS)
        else:
            self.wait_for_the_dead()
            self._act_and_look()
        return outcomes

    def job(self, *asks: str, number: int = 0) -> Job:
        """What the next worker is to do."""
        lost = tuple(message for outcome in self.outcomes[-self.workers :] for message in outcome.sent)
        return Job(
            url=self.url,
            migration=self.migration,
            asks=asks,
            kill=self.deaths.next(),
            queue=lost if self.keeps_queue and number == 0 else (),
            seed=self.chance.randrange(10**6) if self.workers > 1 else None,
            one_step=self.one_step,
            sabotage=self.sabotage,
            tell_all=self.tell_all,
        )

    @property
    def migration(self) -> str:
        application = f"application: {self.scenario.application}\n" if self.scenario.application else ""
        return f"name: proof\n{application}operations: {self.scenario.operations}\nsettings: {{{self.settings}}}\n"

    def _note(self, job: Job, outcome: Outcome) -> None:
        self.deaths.learn(outcome)
        how = f"died {job.kill}: {' '.join(outcome.last.split())[:80]}" if outcome.killed else f"ended: {outcome.said}"
        self.log.append(f"{', '.join(job.asks) or 'a worker'}, after {outcome.count} statements {how}")
        if outcome.signal and not outcome.killed:
            raise self.wrong(
                f"a worker hung and was ended by signal {outcome.signal}; its last statement: {outcome.last}"
            )
        if not outcome.killed and (
            outcome.said.get("error") or outcome.said.get("state") in {None, "failed", "paused"}
        ):
            raise self.wrong(f"a worker ended with {outcome.said}")

    def wait_for_the_dead(self) -> None:
        gone = "SELECT count(*) AS left FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s"
        until("the sessions of the workers to end", lambda: self.value(gone, f"{APPLICATION_NAME}%") == 0)

    # --- what must hold ----------------------------------------------------------------------------------------------------

    def _act_and_look(self) -> None:
        self.application.act(ACTS)
        self.look()

    def look(self) -> None:  # noqa: C901 - each state of a run by name
        """Everything that must hold at this moment. Raises Wrong."""
        if self.application.failures:
            raise self.wrong(f"statements of the application failed: {self.application.failures}")
        run = self._run()
        scenario = self.scenario
        match run:
            case None:
                self._compare(scenario.before, "before")
            case {"state": "rolled_back"}:
                self._compare({**scenario.before, **scenario.back}, "rolled back")
                self._compare_catalog(self.before, "rolled back", positions=self._order_is_kept)
            case {"state": "completed"}:
                if not run["verified"]:
                    raise self.wrong("the run is completed, and was not verified")
                self._compare(scenario.after, "completed")
                if self.wanted is not None:
                    self._compare_catalog(self.wanted, "completed", positions=False)
            case {"state": "rolling_back"} if (run["began"] or run["phase"]) in {
                "contract",
                "done",
            } and not scenario.keeps_names:
                self._compare({}, "rolling back after contract began")
            case {"state": "rolling_back"}:
                self._compare({**scenario.before, **scenario.meanwhile}, "rolling back")
            case {"phase": "contract", "state": "waiting"}:
                self._compare({**scenario.before, **scenario.meanwhile}, "switched, by the old application")
                self._compare(scenario.after, "switched, by the new application")
            case {"phase": "contract" | "done"}:
                self._compare(scenario.after, "contract")
            case _:
                self._compare({**scenario.before, **scenario.meanwhile}, "under way")

    def _compare(self, columns: Mapping[str, Shows], moment: str) -> None:
        """The table against the ledger: no row lost, doubled or brought back, no value another than it must be."""
        ledger, there = self.application.ledger, self._read(columns)
        problems = [f"row {key} is lost: {dict(ledger[key])}" for key in ledger.keys() - there.keys()]
        problems += [
            f"row {key} is there and was never written, or was deleted" for key in there.keys() - ledger.keys()
        ]
        for key in ledger.keys() & there.keys():
            for (name, shows), value in zip(columns.items(), there[key], strict=True):
                wanted = shows(ledger[key])
                if not _matches(wanted, value):
                    row = _in_words(ledger[key])
                    problems.append(f"row {key}: {name} is {value!r}, and must be {wanted!r}, for {row}")
        if problems:
            raise self.wrong(f"{moment}: " + "\n  ".join(problems[:10]))

    def _read(self, columns: Iterable[str]) -> dict[int, tuple[Any, ...]]:  # Any: values of columns
        query = sql.SQL("SELECT {} FROM {}").format(
            sql.SQL(", ").join(sql.Identifier(name) for name in ("id", *columns)), sql.Identifier(self.scenario.table)
        )
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            found = cursor.execute(query).fetchall()
        there = {row[0]: row[1:] for row in found}
        if len(there) != len(found):
            raise self.wrong(f"{len(found) - len(there)} keys are there twice")
        return there

    def _compare_catalog(self, wanted: frozenset[str], moment: str, *, positions: bool) -> None:
        found = fingerprint(self.connection, positions=positions)
        if not positions:
            wanted = frozenset(line for line in wanted if not line.startswith("position:"))
        if problem := difference(wanted, found):
            raise self.wrong(f"{moment}: the catalog is not what it must be:\n{problem}")

    def _run(self) -> dict[str, Any] | None:  # Any: a row
        return self.connection.execute(
            "SELECT state, phase, rollback ->> 'phase' AS began, verified_at IS NOT NULL AS verified FROM backfilld.runs "
            "WHERE name = 'proof' ORDER BY run DESC LIMIT 1"
        ).fetchone()

    def value(self, query: str, *parameters: object) -> Any:  # Any: depends on the query
        row = self.connection.execute(query.encode(), parameters).fetchone()
        return next(iter(row.values())) if row else None

    def wrong(self, problem: str) -> Wrong:
        return Wrong("\n".join([f"{self.scenario.name}: {problem}", "What happened:", *self.log]))


T = TypeVar("T", bound=Trial)


def _died(outcomes: tuple[Outcome, ...]) -> bool:
    return any(outcome.killed for outcome in outcomes)


def _matches(wanted: Any, value: Any) -> bool:  # Any: a value of a column
    if isinstance(wanted, OneOf):
        return any(_matches(one, value) for one in wanted)
    return type(wanted) is type(value) and bool(wanted == value)


def _in_words(row: Row) -> str:
    return f"{dict(row)}, written meanwhile: {sorted(row.written) or 'nothing'}{', moved' if row.moved else ''}"


@contextmanager
def trial(
    scenario: Scenario,
    url: str,
    nursery: Nursery,
    *,
    seed: int,
    wanted: frozenset[str] | None = None,
    kind: type[T],
    **how: Any,  # Any: fields of Trial
) -> Iterator[T]:
    """A trial in a fresh database that holds the control schema and nothing else."""
    with (
        psycopg.connect(url, autocommit=True, row_factory=dict_row, application_name="the proof") as connection,
    ):
        # A prepared SELECT fails when the type of what it gives is changed under it.
        connection.prepare_threshold = None
        connection.execute(scenario.schema.encode())
        with closing(Application(url, scenario, seed=seed)) as application:
            application.fill()
            yield kind(
                scenario=scenario,
                url=url,
                nursery=nursery,
                connection=connection,
                application=application,
                before=fingerprint(connection),
                wanted=wanted,
                chance=random.Random(seed),
                **how,
            )


def catalog_of(scenario: Scenario, url: str) -> frozenset[str] | None:
    """The catalog of a fresh database in which a person has done by hand what the migration is to do."""
    if scenario.reference is None:
        return None
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute(scenario.schema.encode())
        connection.execute(scenario.reference.encode() or b"SELECT")
        return fingerprint(connection)
