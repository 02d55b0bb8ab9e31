"""What a person is asked about a run that waits for an approval, and what a check of the application found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.application.checked import HOLDING, MOMENTS, Kind, holding
from backfilld.monitoring.explain.explanation import Remedy
from backfilld.monitoring.words import counted, duration, sentence

if TYPE_CHECKING:
    from collections.abc import Collection

    from backfilld.monitoring.explain.explanation import Told
    from backfilld.monitoring.progress import Progress


def awaiting(run: Progress) -> Told:
    """What waits, what is known of the data, and what speaks against it."""
    yield f"{str(run.phase).capitalize()} has waited for approval for {duration(run.state_seconds)}."
    if run.verified:
        yield "The data is verified, and the new structure can be used."
        if run.own_values:
            yield f"{counted(run.own_values, 'row')} {'holds' if run.own_values == 1 else 'hold'} a value of the application's own."
    elif run.changed_since:
        yield sentence(f"Another session has changed what the verification relies on: {'; '.join(run.changed_since)}")
        yield "The data will be verified again before the run continues."
    for one in run.after_contract:
        yield sentence(one.in_words)
    if run.policies:
        yield f"The policies from {run.phase} on do more than the file expects:"
        yield from (sentence(one.in_words) for one in run.policies)
    yield from found(run)
    begin = f"let it begin: backfilld approve {run.name} --phase {run.phase}"
    if holding(run.application) and not any(one.still_comes for one in run.after_contract):
        yield Remedy(f"do what is said of each, then {begin}")
        yield Remedy(f"or let it begin all the same: backfilld approve {run.name} --phase {run.phase} --yes")
        yield Remedy(f"or switch back, which loses nothing: backfilld rollback {run.name}")
        return
    if any(one.still_comes for one in run.after_contract):
        yield Remedy(f"deploy an application that no longer sends such statements, then {begin}")
        yield Remedy(f"or let them fail: backfilld approve {run.name} --phase {run.phase} --yes")
    else:
        yield Remedy(begin)
    yield Remedy(f"or undo everything: backfilld rollback {run.name}")


def found(run: Progress, kinds: Collection[Kind] = HOLDING) -> Told:
    """What the newest check of the application found that contract is held for."""
    for one in (told for told in holding(run.application) if told.kind in kinds):
        yield sentence(f"The check of the application {MOMENTS[run.application['moment']]} found: {one.in_words}")  # type: ignore[index] # there is one where it holds
        if one.remedy:
            yield Remedy(one.remedy)
