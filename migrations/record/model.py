"""What the record holds, as frozen values. A row becomes a value in `from_row` and nowhere else."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from backfilld.migrations.facts import Facts
from backfilld.migrations.record.states import LaneKind, Phase, State, Wish

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.file.run_settings import RunSettings
    from backfilld.migrations.postgres.connect import Row

#: A position in a key's order: each column's value as PostgreSQL writes it.
Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reached:
    """How far a run had come: in a pass over the data, so many steps of a phase were done."""

    phase: Phase
    steps: int
    pass_: int


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """Whether a run goes back: a person asks for it, and the coordinator begins it once no batch is in flight."""

    requested: bool = False
    #: How far the run had come when the coordinator began to take it back; None until it has.
    begun: Reached | None = None

    @property
    def pending(self) -> bool:
        """Whether it was asked for and the coordinator has not begun."""
        return self.requested and self.begun is None

    def to_json(self) -> dict[str, str | int] | None:
        if self.begun is None:
            return {} if self.requested else None
        return {"phase": self.begun.phase, "step": self.begun.steps, "pass": self.begun.pass_}

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Self:
        if not value:
            return cls(requested=value is not None)
        return cls(requested=True, begun=Reached(phase=Phase(value["phase"]), steps=value["step"], pass_=value["pass"]))


@dataclass(frozen=True, kw_only=True)
class Awaited:
    """A migration that is not verified and usable yet, and after which a run begins."""

    name: str
    #: Of its newest run; None: it has none.
    state: State | None
    phase: Phase | None

    @classmethod
    def listed(cls, value: Sequence[Mapping[str, Any]] | None) -> tuple[Self, ...]:
        """From what `backfilld.awaited` gives."""
        return tuple(
            cls(
                name=one["name"],
                state=State(one["state"]) if one["state"] else None,
                phase=Phase(one["phase"]) if one["phase"] else None,
            )
            for one in value or ()
        )

    @property
    def in_words(self) -> str:
        """Where it is, and what a person can do where it does not get there by itself."""
        match self.state:
            case None:
                return f"{self.name}, which has no run: enqueue it"
            case State.FAILED | State.PAUSED:
                return f"{self.name}, which is {self.state.words}: backfilld explain {self.name}"
            case State.CANCELLING | State.CANCELLED | State.ROLLING_BACK | State.ROLLED_BACK:
                return f"{self.name}, which is {self.state.words}: enqueue it again, or cancel this run"
            case State.WAITING:
                return f"{self.name}, which waits for approval: backfilld approve {self.name} --phase {self.phase}"
            case _:
                return f"{self.name}, which is {self.state.words} in phase {self.phase}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One execution of a migration."""

    run: int
    name: str
    checksum: str
    #: As `Migration.canonical` wrote it. Any: JSON.
    definition: Mapping[str, Any]
    #: As `RunSettings` wrote them; `settings` reads them. Any: JSON.
    settings_json: Mapping[str, Any]
    facts: tuple[Facts, ...]
    phase: Phase
    state: State
    wish: Wish | None
    approved: frozenset[Phase]
    #: The number of the walk over the data: 1, and one more for each verify that found residual rows.
    pass_: int
    rows_total: int | None
    residual_rows: int | None
    verified_at: datetime | None
    #: Rows that hold a value of the application's own in a column that was added; None before a look at all rows.
    own_values: int | None
    error: Mapping[str, Any] | None
    #: Sizes of the tables that are walked, in bytes, before the walk and after it.
    space: Mapping[str, Any] | None
    rollback: Rollback
    #: Until when old values are kept; None: as long as the run lasts.
    kept_until: datetime | None
    #: When the old values were dropped, and with them the way back.
    purged_at: datetime | None
    requested_by: str
    created_at: datetime
    updated_at: datetime
    #: Since when the run is in its state, and in its phase.
    state_since: datetime
    phase_since: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def unconverted(self) -> tuple[Unconverted, ...]:
        """Some of the rows for which the run paused itself; they are in no quarantine, as their batch was given up."""
        found = (self.error or {}).get("examples", ()) if self.state is State.PAUSED else ()
        return tuple(Unconverted.from_json(one) for one in found)

    @property
    def error_class(self) -> str | None:
        """What the run paused itself or failed for; None for one that a person paused."""
        return str(self.error.get("class", "other")) if self.error else None

    @cached_property
    def settings(self) -> RunSettings:
        """How the run behaves. `status` and `gate` ask a few of them, from the JSON, and do without pydantic."""
        return run_settings(self.settings_json)

    @cached_property
    def migration(self) -> Migration:
        """What the run does. Raises InvalidMigration for one of another release; read only when asked for."""
        # Late, and read when asked for: a list of hundreds of runs is shown without any of it.
        from backfilld.migrations.file.migration import Migration  # noqa: PLC0415 - builds the models of all operations

        return Migration.from_canonical(dict(self.definition))

    @classmethod
    def from_row(cls, row: Row) -> Self:
        return cls(
            **{field.name: row[field.name] for field in fields(cls) if field.name in row and field.name not in _PARSED},
            settings_json=row["settings"],
            facts=tuple(Facts.from_json(facts) for facts in row["facts"]),
            phase=Phase(row["phase"]),
            state=State(row["state"]),
            wish=Wish(row["wish"]) if row["wish"] else None,
            approved=frozenset(Phase(phase) for phase in row["approved"]),
            pass_=row["pass"],
            rollback=Rollback.from_json(row["rollback"]),
        )


_PARSED = frozenset({"settings_json", "facts", "phase", "state", "wish", "approved", "pass_", "rollback"})


def run_settings(stored: Mapping[str, Any]) -> RunSettings:  # Any: JSON
    """The settings of a run as the record has them."""
    from backfilld.migrations.file.run_settings import RunSettings  # noqa: PLC0415 - pydantic is a quarter of the start of `status`

    return RunSettings.model_validate(stored)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The keys a lane walks: after `after` (exclusive, None: from the start) up to `upto` (inclusive, None: to the end)."""

    after: Key | None = None
    upto: Key | None = None

    def to_json(self) -> dict[str, list[str] | None]:
        return {
            "after": list(self.after) if self.after is not None else None,
            "upto": list(self.upto) if self.upto is not None else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        after, upto = value.get("after"), value.get("upto")
        return cls(after=tuple(after) if after is not None else None, upto=tuple(upto) if upto is not None else None)


@dataclass(frozen=True, kw_only=True)
class PageRange:
    """The pages a lane walks: from `first` up to before `last` (None: to the end) of one file of the table.

    What belongs to the table and not to the lane's progress is here as well, so that a batch needs no look at the table.
    """

    first: int
    last: int | None
    #: `pg_relation_filenode`: another one means that the table was rewritten, and pages are not where they were.
    filenode: int
    #: About how many rows a page holds.
    rows_per_page: float
    #: In how many rounds a page is rewritten, to begin with.
    stripes: int = 1
    #: How many pages are gone round together.
    group_pages: int = 1
    #: The line pointers that rows have on their pages, but for a few: what is cut into stripes.
    first_offset: int = 1
    last_offset: int = 255
    #: One lane walks it from its first page to its last, so that what leaves a page keeps its order.
    ordered: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class JournalShare:
    """The rows of a journal that a lane undoes: those of one `part` of `parts`, by a hash of their keys."""

    parts: int = 1
    part: int = 0
    #: So many numbers that follow one another are one to the hash, where the key is one number: neighbours are one lane's, and two
    #: lanes do not meet on a page.
    block: int = 1

    def to_json(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class StagePages:
    """The pages of a stage that a lane goes through: from `first_page` to before `last_page`. Nobody adds to them, and none moves."""

    first_page: int
    last_page: int
    #: About how many lines a page holds.
    lines_per_page: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**value)


#: What a lane walks.
LaneBounds = Bounds | PageRange | JournalShare | StagePages


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One past batch: how many rows it walked, how long its statements took, and when it ended (Unix time)."""

    rows: int
    seconds: float
    at: float


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a step leaves in its lane's row, in the transaction of its work. Counts are of this step alone."""

    #: See `Lane.cursor`. Any: JSON.
    cursor: Any
    walked: int = 0
    changed: int = 0
    residual: int = 0
    #: Rows that hold a value of the application's own.
    own: int = 0
    #: Of the changed rows, those that touched no index; None where they are not counted.
    hot: int | None = None
    #: How many rows the next batch takes; None: as many as this one.
    batch_rows: int | None = None
    recent: tuple[Timing, ...] = ()
    #: The lane is at its end.
    done: bool = False
    #: The lane waits until it is woken.
    sleeps: bool = False


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A part of a table that is processed in order; lane 0 is the run's coordinator."""

    run: int
    lane: int
    kind: LaneKind
    operation: int | None
    pass_: int
    relation: str | None
    bounds: LaneBounds
    #: The last key that is done, or the place among the pages or in the journal; for the coordinator, the step of the phase it is in.
    cursor: Any
    seq: int
    batch_rows: int
    recent: tuple[Timing, ...]
    rows_walked: int
    rows_changed: int
    rows_residual: int
    #: About how many rows the lane will have walked at its end; None when unknown.
    rows_expected: int | None
    batches_committed: int
    batches_retried: int
    attempts: int
    last_error: Mapping[str, Any] | None
    #: How long the coordinator has tried for a lock. Any: JSON, as `lock_policy.Wait` writes it.
    lock_wait: Mapping[str, Any] | None
    #: None: asleep until a message wakes it.
    next_run_at: datetime | None
    #: None: no message is on its way.
    enqueued_at: datetime | None
    progressed_at: datetime | None
    done_at: datetime | None

    @classmethod
    def from_row(cls, row: Row) -> Self:
        parsed = {"kind", "bounds", "recent", "pass_"}
        return cls(
            **{field.name: row[field.name] for field in fields(cls) if field.name not in parsed},
            kind=LaneKind(row["kind"]),
            pass_=row["pass"],
            bounds=_bounds(row["bounds"]),
            recent=tuple(Timing(rows=rows, seconds=seconds, at=at) for rows, seconds, at in row["recent"]),
        )

    def is_at(self, place: Lane) -> bool:
        """Whether the lane has before it what it had when it was read as `place`; its `seq` may be another commit's by now."""
        mine = (self.kind, self.operation, self.pass_, self.relation, self.bounds, self.cursor)
        return mine == (place.kind, place.operation, place.pass_, place.relation, place.bounds, place.cursor)

    @property
    def rows_left(self) -> int:
        """About how many rows the lane has still before it; 0 when unknown."""
        return max((self.rows_expected or 0) - self.rows_walked, 0)


def _bounds(value: Mapping[str, Any]) -> LaneBounds:
    if "parts" in value:
        return JournalShare.from_json(value)
    if "first_page" in value:
        return StagePages.from_json(value)
    return PageRange.from_json(value) if "first" in value else Bounds.from_json(value)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How hard the database may be worked, and why."""

    width: int
    max_width: int
    hold_reason: str | None
    #: Seconds since the governor's reading; None when there never was one.
    age_seconds: float | None
    #: The load signal that holds all work, and for how many seconds it has; None when none does.
    hold_signal: str | None = None
    held_seconds: float | None = None
    #: Seconds since a person stopped all runs; None: they are not stopped.
    stopped_seconds: float | None = None
    #: Seconds a lane rests for each second of work.
    rest: float = 0.0
    #: The longest a batch may last; None: as long as its run says.
    batch_seconds: float | None = None
    #: The load signals as last read: `value` (None: could not be read), `soft`, `hard`, `detail`. Any: JSON.
    readings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: Row) -> Self:
        return cls(**{field.name: row[field.name] for field in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Something that a person set, and what it was before. Any: a setting of a run, or the width."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class Unconverted:
    """A row that a batch could not convert, and was given up for: it had met too many of them."""

    operation: int
    relation: str
    key: Key
    sqlstate: str
    error: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"key": list(self.key)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{**value, "key": tuple(value["key"])})


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A row that could not be converted."""

    quarantine: int
    run: int
    operation: int
    relation: str
    key: Key
    sqlstate: str
    error: str
    retry: bool
    attempts: int
    #: What the column held where a sync trigger could not compute it; None for a row that lanes could not convert, and for NULL.
    kept: str | None
    quarantined_at: datetime

    @classmethod
    def from_row(cls, row: Row) -> Self:
        return cls(**{**{field.name: row[field.name] for field in fields(cls)}, "key": tuple(row["key"])})
