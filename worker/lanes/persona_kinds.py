"""What a lane does for other policies: count what each persona may do with rows by the old ones and the new, and look whether what
it really sees is what the rules say. No policy is touched, and no row.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
from psycopg import ClientCursor, sql

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.policies import results
from backfilld.migrations.policies.comparison import COMPARED, Comparison, become
from backfilld.migrations.policies.results import Counted
from backfilld.migrations.postgres.sqlstates import classify, in_words
from backfilld.worker.lanes.batch import Tally
from backfilld.worker.lanes.kinds import LaneWork

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.operations.replace_policies.steps import ReplacePolicies
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.policies import Persona, PolicySet
    from backfilld.migrations.record.states import Phase
    from backfilld.migrations.walks.next_batch import BatchRange
    from backfilld.worker.lanes.batch import Batch

#: What asking again later would answer the same: a row, a right or an expression of the rule is to blame.
LASTING = frozenset({"data", "fatal"})


@dataclass(frozen=True, kw_only=True)
class _Range:
    """The rows of one batch, in the transaction that holds its lane."""

    connection: Connection
    comparison: Comparison
    policies: ReplacePolicies

    def ask(
        self, persona: Persona, now: PolicySet | None, later: PolicySet | None, *, really: str
    ) -> list[dict[str, Any]]:
        """What the persona may do by the two sets. Raises psycopg.Error. Any: columns of `compared`."""
        made = self.comparison.rules(persona, now, later, seen=self.comparison.condition, really=really)
        return self._as_persona(persona, made, COMPARED)

    def reads(self, persona: Persona) -> bool:
        """Whether the persona's own SELECT of these rows succeeds."""
        if "select" not in persona.may:
            return False
        table = self.comparison.table
        query = sql.SQL("SELECT pg_catalog.count(*) FROM {} AS {} WHERE {}").format(
            table.identifier, sql.Identifier(table.name), self.comparison.condition
        )
        try:
            self._as_persona(persona, (), query)
        except psycopg.Error as exc:
            if classify(exc) not in LASTING:
                raise
            return False
        return True

    def _as_persona(self, persona: Persona, made: Iterable[sql.Composed], query: sql.Composed) -> list[dict[str, Any]]:
        with self.connection.transaction(force_rollback=True):
            for statement in (*made, *become(persona)):
                self.connection.execute(statement)
            return self.connection.execute(query).fetchall()


@dataclass(frozen=True, kw_only=True)
class _Persona(LaneWork):
    """Looks at rows as each persona."""

    changes_rows: ClassVar[bool] = False

    policies: ReplacePolicies

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        del carefully
        condition, parameters = batch.within(batch_range)
        text = ClientCursor(batch.connection).mogrify(sql.Composed([condition]), parameters)  # DDL takes no parameters
        comparison = Comparison(table=self.walk.table, key=self.walk.key, condition=sql.SQL(text))
        counted: list[Counted] = []
        with batch.connection.transaction(force_rollback=True):
            for statement in comparison.rows():
                batch.connection.execute(statement)
            rows = _Range(connection=batch.connection, comparison=comparison, policies=self.policies)
            for persona in self.policies.personas:
                counted += self.as_persona(rows, persona)
        if counted:
            results.add(batch.connection, batch.lane.run, operation=self.number, lane=batch.lane.lane, counted=counted)
        return Tally()

    @abstractmethod
    def as_persona(self, rows: _Range, persona: Persona) -> list[Counted]:
        """Look at the rows as one persona; what was counted."""


@dataclass(frozen=True, kw_only=True)
class Compare(_Persona):
    """Counts what each persona may do now and then. First of all it proves that the rules say what PostgreSQL does today."""

    def as_persona(self, rows: _Range, persona: Persona) -> list[Counted]:
        return [one for phase, later in self.policies.stages for one in self._count(rows, persona, phase, later)]

    def _count(self, rows: _Range, persona: Persona, phase: Phase, later: PolicySet) -> list[Counted]:
        now: PolicySet | None = self.policies.old
        after: PolicySet | None = later
        errors: dict[str, Any] = {}
        try:
            told = rows.ask(persona, now, after, really="now")
        except psycopg.Error as exc:
            if classify(exc) not in LASTING:
                raise
            now, after, errors = self._without_errors(rows, persona, later)
            told = rows.ask(persona, now, after, really="now") if now or after else []
        if now is not None:
            refuse_wrong(told, persona, self.relation, "sees today")
        counted = [
            Counted.from_row({**row, **errors}, phase=phase, relation=self.relation, persona=persona.name)
            for row in told
        ]
        if not counted and errors:
            return [Counted(phase=phase, relation=self.relation, persona=persona.name, command="select", **errors)]
        return counted

    def _without_errors(
        self, rows: _Range, persona: Persona, later: PolicySet
    ) -> tuple[PolicySet | None, PolicySet | None, dict[str, Any]]:
        """Of the two sets, those that give no error for these rows, and the errors of the others.

        A persona whose statements fail today reaches no row. Where they succeed the rules are not what PostgreSQL does.
        """
        kept: list[PolicySet | None] = []
        errors: dict[str, Any] = {}
        for name, pair in (("error_now", (self.policies.old, None)), ("error_then", (None, later))):
            try:
                rows.ask(persona, *pair, really="now")
                kept.append(pair[0] or pair[1])
            except psycopg.Error as exc:
                if classify(exc) not in LASTING:
                    raise
                errors[name] = f"{exc.sqlstate}: {in_words(exc)}"
                kept.append(None)
        if "error_now" in errors and rows.reads(persona):
            problem = f"{persona.name} reads {self.walk.table} today, where the rule of its policies fails ({errors['error_now']})"
            raise Refused([Finding("prediction", problem, _CANNOT)])
        return kept[0], kept[1], errors


@dataclass(frozen=True, kw_only=True)
class Confirm(_Persona):
    """Looks, after the switch, whether each persona sees the rows that were predicted."""

    def as_persona(self, rows: _Range, persona: Persona) -> list[Counted]:
        try:
            told = rows.ask(persona, None, self.policies.switched, really="later")
        except psycopg.Error as exc:
            if classify(exc) not in LASTING:
                raise
            if rows.reads(persona):
                problem = (
                    f"{persona.name} reads {self.walk.table}, where the rule of its policies fails ({in_words(exc)})"
                )
                raise Refused([Finding("prediction", problem, _BACK)]) from exc
            return []  # as it was said before the switch
        refuse_wrong(told, persona, self.relation, "sees since the switch", remedy=_BACK)
        return []


#: What there is to do where a rule is not what PostgreSQL does.
_CANNOT = (
    "Nothing was changed. Where roles or policies have changed since the migration was enqueued, roll it back and enqueue it again; "
    "policies that call functions which write, or whose answer changes from one call to the next, cannot be predicted"
)
_BACK = "The old policies come back by: backfilld rollback"


def refuse_wrong(told: list[dict[str, Any]], persona: Persona, table: str, when: str, *, remedy: str = _CANNOT) -> None:
    """Raises Refused for rows of which a rule says something else than PostgreSQL."""
    wrong = sum(row["wrong"] for row in told)
    if wrong:
        keys = "; ".join(", ".join(key) for row in told for key in row["wrong_keys"][:5])
        problem = f"what {persona.name} {when} of {table} is not what its policies say: {wrong} rows differ ({keys})"
        raise Refused([Finding("prediction", problem, remedy)])
