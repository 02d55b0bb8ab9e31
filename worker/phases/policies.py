"""What was counted before other policies come into force, judged by what the file expects: a person is asked about the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.file.operations import ReplacePolicies
from backfilld.migrations.policies import results
from backfilld.migrations.record import audit, runs
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run

#: The event that says so; `phase` is the one that waits.
UNEXPECTED = "policies.unexpected"


def judge(connection: Connection, run: Run, operation: int) -> None:
    """Put down what nobody expected. An approval that came before it was known counts for nothing."""
    definition = run.migration.operations[operation]
    if not isinstance(definition, ReplacePolicies):
        return
    counted = results.of_run(connection, run.run).get(operation, [])
    for phase in (Phase.SWITCH, Phase.CONTRACT):
        unexpected = [one for one in counted if one.phase is phase and one.unexpected(definition.expect)]
        if unexpected and not is_asked(connection, run.run, phase, operation=operation):
            audit.record(
                connection,
                run.run,
                actor=runs.WORKER,
                what=UNEXPECTED,
                operation=operation,
                phase=phase,
                # Without the keys of rows: events are kept for longer than these.
                findings=[
                    {"persona": one.persona, "command": one.command, "said": one.unexpected(definition.expect)}
                    for one in unexpected
                ],
            )
            runs.withdraw_approval(connection, run.run, phase)


def is_asked(connection: Connection, run: int, phase: Phase, *, operation: int | None = None) -> bool:
    """Whether a person has to look before a phase begins."""
    if phase not in {Phase.SWITCH, Phase.CONTRACT}:
        return False
    return any(
        event["detail"]["phase"] == phase and operation in {None, event["detail"]["operation"]}
        for event in audit.every(connection, run, what=UNEXPECTED)
    )
