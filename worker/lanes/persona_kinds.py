"""What a lane does for other policies: count what each persona may do with rows by the old ones and the new, and look whether what
it really sees is what the rules say. No policy is touched, and no row.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import psycopg
from psycopg import ClientCursor, sql

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.policies import results
from backfilld.migrations.policies.comparison import Comparison
from backfilld.migrations.policies.counting import LASTING, Range, count, refuse_wrong
from backfilld.migrations.postgres.sqlstates import classify, in_words
from backfilld.worker.lanes.batch import Tally
from backfilld.worker.lanes.kinds import LaneWork

if TYPE_CHECKING:
    from backfilld.migrations.operations.replace_policies.steps import ReplacePolicies
    from backfilld.migrations.policies.results import Counted
    from backfilld.migrations.postgres.policies import Persona
    from backfilld.migrations.walks.next_batch import BatchRange
    from backfilld.worker.lanes.batch import Batch

_BACK = "The old policies come back by: backfilld rollback"


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
            rows = Range(connection=batch.connection, comparison=comparison)
            for persona in self.policies.personas:
                counted += self.as_persona(rows, persona)
        if counted:
            results.add(batch.connection, batch.lane.run, operation=self.number, lane=batch.lane.lane, counted=counted)
        return Tally()

    @abstractmethod
    def as_persona(self, rows: Range, persona: Persona) -> list[Counted]:
        """Look at the rows as one persona; what was counted."""


@dataclass(frozen=True, kw_only=True)
class Compare(_Persona):
    """Counts what each persona may do now and then. First of all it proves that the rules say what PostgreSQL does today."""

    def as_persona(self, rows: Range, persona: Persona) -> list[Counted]:
        return count(rows, persona, self.policies.old, self.policies.stages)


@dataclass(frozen=True, kw_only=True)
class Confirm(_Persona):
    """Looks, after the switch, whether each persona sees the rows that were predicted."""

    def as_persona(self, rows: Range, persona: Persona) -> list[Counted]:
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
