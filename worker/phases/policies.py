"""What was counted before other policies come into force, judged by what the file expects: a person is asked about the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.policies import results
from backfilld.migrations.policies.comparison import COMPARED, become, first_rows
from backfilld.migrations.policies.others import MOST_ROWS, reading, seen_of
from backfilld.migrations.policies.results import Counted
from backfilld.migrations.postgres.sqlstates import classify, in_words
from backfilld.migrations.record import audit, runs
from backfilld.migrations.record.states import Phase
from backfilld.worker.lanes.persona_kinds import LASTING, refuse_wrong

if TYPE_CHECKING:
    from backfilld.migrations.facts import OtherTable
    from backfilld.migrations.operations.replace_policies.steps import ReplacePolicies
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.policies import Persona, PolicySet

#: The event that says so; `phase` is the one that waits.
UNEXPECTED = "policies.unexpected"
#: A policy that reads another table for each row may take long on many of them: then a person is asked instead.
_TIME_LIMIT = "SET LOCAL statement_timeout = '10s'"


def judge(connection: Connection, run: int, operation: ReplacePolicies) -> None:
    """Put down what nobody expected. An approval that came before it was known counts for nothing.

    Raises Refused where a rule says something else than PostgreSQL, and psycopg.Error.
    """
    number, expect = operation.number, operation.definition.expect
    if others := _count_others(connection, operation):
        results.add(connection, run, operation=number, lane=0, counted=others)
    counted = results.of_run(connection, run).get(number, [])
    for phase, _ in operation.stages:
        unexpected = [one for one in counted if one.phase is phase and one.unexpected(expect)]
        if unexpected and not is_asked(connection, run, phase, operation=number):
            audit.record(
                connection,
                run,
                actor=runs.WORKER,
                what=UNEXPECTED,
                operation=number,
                phase=phase,
                # Without the keys of rows: events are kept for longer than these.
                findings=[
                    {
                        "relation": one.relation,
                        "persona": one.persona,
                        "command": one.command,
                        "said": one.unexpected(expect),
                    }
                    for one in unexpected
                ],
            )
            runs.withdraw_approval(connection, run, phase)


def _count_others(connection: Connection, operation: ReplacePolicies) -> list[Counted]:
    """What each persona may do with rows of tables whose policies read this one."""
    return [
        counted
        for other in operation.others
        for persona in other.personas
        for phase, later in operation.stages
        for counted in _count_other(connection, operation, other, persona, stage=(phase, later))
    ]


def _count_other(
    connection: Connection,
    operation: ReplacePolicies,
    other: OtherTable,
    persona: Persona,
    *,
    stage: tuple[Phase, PolicySet],
) -> list[Counted]:
    phase, later = stage
    reader = next(one for one in operation.personas if one.name == persona.name)
    ends, comparison, upto = first_rows(TableName.parse(other.relation), other.key, MOST_ROWS)
    statements = (
        *ends,
        *comparison.rows(),
        *seen_of(operation.table, reader, later),
        *comparison.rules(persona, other.policies, reading(other.policies, operation.table), seen=upto, really="now"),
        *become(persona),
    )
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(_TIME_LIMIT)
            for statement in statements:
                connection.execute(statement)
            told = connection.execute(COMPARED).fetchall()
    except psycopg.Error as exc:
        if classify(exc) not in LASTING and not isinstance(exc, psycopg.errors.QueryCanceled):
            raise
        error = f"it could not be counted: {exc.sqlstate}: {in_words(exc)}"
        return [Counted(phase=phase, relation=other.relation, persona=persona.name, command="select", error_then=error)]
    refuse_wrong(told, persona, other.relation, "sees today")
    return [Counted.from_row(row, phase=phase, relation=other.relation, persona=persona.name) for row in told]


def is_asked(connection: Connection, run: int, phase: Phase, *, operation: int | None = None) -> bool:
    """Whether a person has to look before a phase begins."""
    if phase not in {Phase.SWITCH, Phase.CONTRACT}:
        return False
    return any(
        event["detail"]["phase"] == phase and operation in {None, event["detail"]["operation"]}
        for event in audit.every(connection, run, what=UNEXPECTED)
    )
