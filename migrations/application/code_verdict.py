"""What the newest verdict on the application's code says against contract. The commands themselves are run by `backfilld check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.application.checked import Kind, Told
from backfilld.migrations.record import code_verdicts
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run

#: Of a command that passes as well where the tables are not in the types.
SEES_NOTHING = (
    "says the same without the tables of the migration, so it proves nothing of them: no code that it checks names them, or its client "
    "has no types (createClient<Database>)"
)


def told(connection: Connection, run: Run) -> tuple[Told, ...]:
    """For each command of the file: that it fails, or that nobody knows; nothing where it passes."""
    application = run.migration.application
    if application is None or not application.commands:
        return ()
    verdict = code_verdicts.latest(connection, run.checksum)
    known = {one["name"]: one for one in verdict["detail"]["commands"]} if verdict is not None else {}
    is_whole = verdict is not None and verdict["detail"]["until"] == Phase.CONTRACT
    found = []
    for command in application.commands:
        one = known.get(command.name)
        if one is not None and not one["passes"]:
            found.append(
                Told(
                    kind=Kind.CODE,
                    problem=f"the command {command.name} fails from {one['fails_from']} on",
                    remedy="Deploy code that fits the schema after contract, then run backfilld check with the migration file",
                )
            )
            continue
        if one is not None and one.get("sees_types") is False:
            found.append(Told(kind=Kind.UNCHECKED, problem=f"the command {command.name} {SEES_NOTHING}"))
        if one is None or not is_whole:
            found.append(
                Told(
                    kind=Kind.UNKNOWN,
                    problem=f"no verdict is on record of the command {command.name} for the schema after contract",
                    remedy="Run backfilld check with the migration file",
                )
            )
    return tuple(found)
