"""What was counted before other policies come into force, judged by what the file expects: a person is asked about the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.policies import results
from backfilld.migrations.policies.counting import Read, count_other, not_counted
from backfilld.migrations.record import audit, runs
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from backfilld.migrations.operations.replace_policies.steps import ReplacePolicies
    from backfilld.migrations.policies.results import Counted
    from backfilld.migrations.postgres.connect import Connection

#: The event that says so; `phase` is the one that waits.
UNEXPECTED = "policies.unexpected"
#: A policy that reads another table for each row may take long on many of them: then a person is asked instead.
_SECONDS = 10.0


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
    read = Read(table=operation.table, personas=operation.personas, stages=operation.stages)
    counted = [one for other in operation.others for one in count_other(connection, other, read, seconds=_SECONDS)]
    return [*counted, *(one for other in operation.uncounted for one in not_counted(other, read))]


def is_asked(connection: Connection, run: int, phase: Phase, *, operation: int | None = None) -> bool:
    """Whether a person has to look before a phase begins."""
    if phase not in {Phase.SWITCH, Phase.CONTRACT}:
        return False
    return any(
        event["detail"]["phase"] == phase and operation in {None, event["detail"]["operation"]}
        for event in audit.every(connection, run, what=UNEXPECTED)
    )
