"""What speaks against a run's contract at this moment, for whoever is about to approve it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.application import code_verdict
from backfilld.migrations.application.checked import Checked, Kind, Moment
from backfilld.migrations.application.moments import needed
from backfilld.migrations.errors import Finding
from backfilld.migrations.record import application as record
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Run


def look(connection: Connection, run: Run) -> Checked:
    """What speaks against contract as of now: statements and functions that need what it removes, what is not known of that, what got
    worse by the newest check, and the newest verdict on the code.
    """
    newest = [
        one
        for moment in (Moment.BEFORE_CONTRACT, Moment.AFTER_SWITCH)
        if (one := record.last_check(connection, run.run, moment=moment).detail) is not None
    ]
    known = Checked.from_json(newest[0]).told if newest else ()
    worse = [one for one in known if one.kind in {Kind.REGRESSION, Kind.API}]
    return needed(connection, run).and_also((*worse, *code_verdict.told(connection, run)))


def against_contract(connection: Connection, run: Run) -> tuple[Finding, ...]:
    """What `look` finds that contract is held for.

    Nothing of a run that has not switched yet: its worker looks when it comes so far. Nothing either where the file only warns.
    """
    application = run.migration.checked_application
    if application is None or application.on_regression == "warn" or run.phase is not Phase.CONTRACT:
        return ()
    if record.last_check(connection, run.run, moment=Moment.AFTER_SWITCH).detail is None:
        return ()
    return tuple(
        Finding(
            "application",
            one.in_words,
            (f"{one.remedy}; or" if one.remedy else "Find out, or")
            + f" let contract begin all the same: backfilld approve {run.name} --phase {Phase.CONTRACT} --yes",
        )
        for one in look(connection, run).holding
    )
