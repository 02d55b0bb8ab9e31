"""What is said of a run that does not move any more: stopped by a person, by itself, or at its end; and of rows set aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backfilld.migrations.application.checked import Kind
from backfilld.migrations.record.states import ENDED, Phase, State
from backfilld.monitoring.explain import approval
from backfilld.monitoring.explain.explanation import Remedy
from backfilld.monitoring.explain.moving import blockers
from backfilld.monitoring.next_command import for_rows_set_aside
from backfilld.monitoring.words import counted, duration, number, rows_left, sentence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backfilld.monitoring.explain.explanation import Told
    from backfilld.monitoring.explain.facts import Facts
    from backfilld.monitoring.progress import Progress

#: A stop takes about a second. After this no worker is there to complete it.
UNSETTLED_SECONDS = 5.0
#: What a check of the application found that stays true of a completed run.
LASTING = frozenset({Kind.REGRESSION, Kind.API})


def stopping(facts: Facts) -> Told:
    """Who asked for it, and what is still in flight."""
    run = facts.run
    verb = "pause" if run.state is State.PAUSING else "cancel"
    in_flight = (
        f"{counted(facts.working_sessions, 'batch or step is', 'batches or steps are')} in flight"
        if facts.working_sessions
        else "nothing is in flight"
    )
    yield f"{_actor(facts)} asked {duration(run.state_seconds)} ago to {verb} it; {in_flight}."
    if run.state_seconds > UNSETTLED_SECONDS:
        yield "Only a worker can complete that; with one it takes about a second."
        yield Remedy("start a worker: backfilld worker")


def paused(facts: Facts) -> Told:
    """Who paused it, or what it met."""
    run = facts.run
    if run.error_class is None:
        yield f"{_actor(facts)} paused it {duration(run.state_seconds)} ago."
        yield Remedy(f"let it continue: backfilld resume {run.name}")
        return
    yield sentence(f"It paused itself {duration(run.state_seconds)} ago: {_text(run.errors[0])}")
    match run.error_class:
        case "quarantine":
            yield Remedy(f"see which rows, and why: backfilld quarantine list {run.name}")
            yield Remedy(f"fix them and retry them, which also resumes it: backfilld quarantine retry {run.name}")
            if run.phase is not Phase.VERIFY:  # there nothing else is left to do, and a higher limit would not help
                more = 2 * run.max_quarantined or 100
                yield Remedy(f"or allow more of them: backfilld pace {run.name} --max-quarantined {more}")
                yield Remedy(f"and then let it continue: backfilld resume {run.name}")
        case "violated":
            yield Remedy(f"fix the rows that are named, then let it continue: backfilld resume {run.name}")
        case "blocked":
            yield from blockers(run)
            yield Remedy(f"then let it continue: backfilld resume {run.name}")
        case _:
            yield Remedy(f"fix the cause, then let it continue: backfilld resume {run.name}")
    yield Remedy(f"or undo everything: backfilld rollback {run.name}")


def failed(facts: Facts) -> Told:
    """What it met, and where."""
    run = facts.run
    error = run.errors[0] if run.errors else {"message": "no reason is on record"}
    state = f" (SQLSTATE {error['sqlstate']})" if error.get("sqlstate") else ""
    where = f", in lane {error['lane']}" if error.get("lane") else ""
    on = f" on {error['relation']}" if error.get("relation") else ""
    when = "while it was being rolled back, in phase" if facts.goes_back else "in phase"
    yield f"It failed {duration(run.state_seconds)} ago {when} {run.phase}{where}{on}: {_text(error)}{state}."
    yield "Nothing is lost: what was committed is still in place, and the rest was rolled back."
    yield Remedy(f"fix the cause, then let it continue where it was: backfilld resume {run.name}")
    if not facts.goes_back:
        yield Remedy(f"or undo everything: backfilld rollback {run.name}")
    yield Remedy(f"see what came before: backfilld events {run.name}")


def ended(facts: Facts) -> Told:
    """How it ended, and what is left."""
    run, ago = facts.run, f"{duration(facts.run.state_seconds)} ago"
    match run.state:
        case State.CANCELLED:
            yield f"{_actor(facts)} cancelled it {ago}. What it had already done is still in place."
            yield Remedy(f"undo what it left: backfilld rollback {run.name}")
        case State.ROLLED_BACK:
            yield f"It was rolled back {ago}, as {_actor(facts, 'a person')} asked."
            if facts.rows_left:
                yield f"Everything it had done is undone, but for rows that are no longer its own: {rows_left(facts.rows_left, facts.keys_left)}."
            else:
                yield "Everything it had done is undone."
        case _:
            but = f", but for {counted(run.residual_rows, 'row')} that a person accepted" if run.residual_rows else ""
            yield f"It was completed {ago}, and the data is verified{but}."
            # What a check could not know no longer matters; what got worse does, until somebody does something about it.
            yield from (one for one in approval.found(run, LASTING) if isinstance(one, str))
            yield Remedy(f"whether it can still be rolled back, and until when: backfilld status {run.name}")


def _text(error: Mapping[str, Any]) -> str:  # Any: JSON
    return str(error["message"]).removesuffix(".")


def _actor(facts: Facts, unknown: str = "A person") -> str:
    return facts.asked_by or unknown


def left_aside(run: Progress) -> Told:
    """Rows that a person has to look at, as long as the run lasts."""
    if run.state is State.COMPLETED and run.load is not None and (lines := run.load["set_aside"]):
        yield f"{counted(lines, 'line was', 'lines were')} set aside, because they could not be loaded."
        yield Remedy(for_rows_set_aside(run.name, run.state, of_load=True))
    if run.state in ENDED:
        return
    if run.quarantined:
        yield (
            f"{counted(run.quarantined, 'row is', 'rows are')} quarantined, because conversion failed; with more than "
            f"{number(run.max_quarantined)} the run pauses."
        )
        yield Remedy(f"see which rows, and why: backfilld quarantine list {run.name}")
        if run.state in {State.RUNNING, State.FAILED}:
            yield Remedy(f"once they are fixed: backfilld quarantine retry {run.name}")
    if run.rollback_conflicts:
        yield (
            f"{counted(run.rollback_conflicts, 'row does', 'rows do')} not fit the old column; until that is fixed "
            "it cannot be rolled back."
        )
        yield Remedy(f"whether it can be rolled back: backfilld status {run.name}")
