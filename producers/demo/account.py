"""What must be true at the end of the demo, and its words. Pure: measurements in, facts and an exit code out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from backfilld.migrations.record.states import Phase, State
from backfilld.monitoring import display

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backfilld.producers.demo.application import Latency

#: As few as the demo promises to migrate.
LEAST_ROWS = 300_000
#: The demo promises to be over by then.
LONGEST_SECONDS = 90.0
#: A pause takes effect "within about a second": a batch in flight is given 0.4 s, then cancelled. The rest is for a slow machine.
LONGEST_PAUSE_SECONDS = 2.0
#: A lane whose wake-up got lost is found after 2.5 s, by a look every half second; a batch then takes half a second. The rest as above.
LONGEST_RECOVERY_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class Paused:
    """The measured effect of a pause."""

    #: Until the command returned, with its wish on record.
    acknowledged_seconds: float
    #: Until no batch was in flight.
    seconds: float
    #: Whether every lane stayed where it was, while the application continued.
    is_still: bool
    #: Of `pause` and `resume`: that a queue could not be reached, say.
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Struck:
    """The measured effect of SIGKILL and FLUSHALL."""

    #: Lanes that the dead process was in the middle of.
    lanes_lost: int
    lanes_open: int
    #: Until every lane that was open had made a checkpoint again.
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What plain SQL found afterwards."""

    state: str
    phase: str
    verified: bool
    quarantined: int
    rows_walked: int
    #: From the first row to the last, the pause and the recovery included.
    backfill_seconds: float
    jobs_after: int
    residual_rows: int
    #: Words that users typed into the new column, before contract and after it; and how many of them are there.
    words_typed: int
    words_kept: int
    not_null: bool
    #: Triggers and constraints of ours that are still on the table.
    objects_left: int


@dataclass(frozen=True, kw_only=True)
class Told:
    """All that was measured."""

    jobs_before: int
    #: Rows the application inserted, less those it deleted, by its own ledger.
    growth: int
    writes: int
    latency: Latency
    errors: tuple[str, ...]
    paused: Paused
    struck: Struck
    checked: Checked
    daemon_exit_code: int


@dataclass(frozen=True)
class Fact:
    """One line of the account."""

    name: str
    told: str
    holds: bool


def judge(told: Told, *, left_behind: Sequence[str], seconds: float) -> tuple[Fact, ...]:
    """Every fact, and whether it is true."""
    checked, paused, struck = told.checked, told.paused, told.struck
    expected = told.jobs_before + told.growth
    left = [*left_behind, *([f"the worker's exit code {told.daemon_exit_code}"] if told.daemon_exit_code else [])]
    return (
        Fact(
            "rows",
            f"{checked.rows_walked:,} in {checked.backfill_seconds:.1f} s, "
            f"{checked.rows_walked / max(checked.backfill_seconds, 0.001):,.0f} rows/s, pause and kill included",
            checked.rows_walked >= LEAST_ROWS,
        ),
        Fact(
            "pause",
            f"recorded after {paused.acknowledged_seconds:.2f} s, in effect after {paused.seconds:.2f} s"
            + _because(paused.warnings),
            paused.seconds <= LONGEST_PAUSE_SECONDS and not paused.warnings,
        ),
        Fact(
            "while paused",
            "no lane moved, the application kept writing" if paused.is_still else "a lane moved",
            paused.is_still,
        ),
        Fact(
            "recovery",
            f"{struck.seconds:.1f} s from SIGKILL and FLUSHALL until all {struck.lanes_open} lanes moved",
            struck.lanes_lost > 0 and struck.lanes_open > 0 and struck.seconds <= LONGEST_RECOVERY_SECONDS,
        ),
        Fact(
            "application",
            f"{told.writes:,} writes, {len(told.errors)} errors" + _because(told.errors),
            not told.errors and told.writes > 0,
        ),
        Fact(
            "its latency",
            f"p50 {_ms(told.latency.median)}, p99 {_ms(told.latency.p99)}, longest {_ms(told.latency.longest)}",
            told.latency.longest > 0,
        ),
        Fact(
            "nothing lost",
            f"{told.jobs_before:,} jobs before, {told.growth:+,} by the application, {checked.jobs_after:,} after"
            if checked.jobs_after == expected
            else f"{checked.jobs_after:,} jobs after, where the ledger says {expected:,}",
            checked.jobs_after == expected,
        ),
        Fact("residual rows", f"{checked.residual_rows:,}, counted by plain SQL", checked.residual_rows == 0),
        Fact(
            "own words",
            f"{checked.words_kept:,} of {checked.words_typed:,} that users typed into new_field are there",
            checked.words_kept == checked.words_typed > 0,
        ),
        Fact(
            "schema",
            ("new_field is NOT NULL" if checked.not_null else "new_field is not NOT NULL")
            + (
                ", the sync trigger is gone"
                if not checked.objects_left
                else f", {checked.objects_left} helpers are left"
            ),
            checked.not_null and not checked.objects_left,
        ),
        Fact(
            "the record",
            f"{checked.state}, {'verified' if checked.verified else 'not verified'}, {checked.quarantined} quarantined",
            (checked.state, checked.phase) == (State.COMPLETED, Phase.DONE)
            and checked.verified
            and not checked.quarantined,
        ),
        Fact("left behind", "no process, no folder" if not left else ", ".join(left), not left),
        Fact("all in all", f"{seconds:.1f} s, limit {LONGEST_SECONDS:.0f} s", seconds < LONGEST_SECONDS),
    )


def exit_code(facts: Sequence[Fact]) -> int:
    """0 only if all of it is true."""
    return 0 if all(fact.holds for fact in facts) else 1


def lines(facts: Sequence[Fact], *, ascii_only: bool = False) -> Iterator[Text]:
    """The account, a line for each fact. Not a table of rich: that pads its lines with blanks."""
    yes, no = ("ok", "NO") if ascii_only else ("✓", "✗")
    width = max(len(fact.name) for fact in facts)
    for fact in facts:
        yield Text.assemble(
            (yes, "green") if fact.holds else (no, "bold red"),
            (f"  {fact.name:{width}}  ", "dim"),
            (display.safe(fact.told), "" if fact.holds else "red"),
        )


def _because(reasons: Sequence[str]) -> str:
    return f": {reasons[0]}" if reasons else ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
