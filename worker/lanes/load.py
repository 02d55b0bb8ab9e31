"""What the lanes of a load do: they check the lines of its stage, insert and update rows, look at them again, and take them back.

All walk pages of the stage, to which nobody adds. A batch in which a line is an error is gone over again, halved until the line is
alone; the line leaves the stage and is set aside, in the same transaction.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg

from backfilld.migrations.loading import check, stage, upsert
from backfilld.migrations.loading.loaded_rows import LoadedRows
from backfilld.migrations.loading.loading import pages, places
from backfilld.migrations.loading.unload import Unload
from backfilld.migrations.postgres.sqlstates import classify, in_words
from backfilld.migrations.record import lanes
from backfilld.migrations.record.model import StagePages, Unconverted
from backfilld.migrations.record.states import LaneKind
from backfilld.migrations.walks import firing
from backfilld.migrations.walks.keys import KeyWalk
from backfilld.migrations.walks.next_batch import After
from backfilld.worker.lanes.batch import Tally, TooManyQuarantined
from backfilld.worker.lanes.kinds import LaneWork, Stepped
from backfilld.worker.lanes.walk_kinds import Undo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg import sql

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.loading.loading import Loading
    from backfilld.migrations.operations.load.steps import Load
    from backfilld.migrations.record.model import Lane
    from backfilld.migrations.walks.next_batch import BatchRange, Seen
    from backfilld.worker.lanes.batch import Batch

#: Lines of a first batch, 0.2 s or less of work: sorted batches of 10,000 cost a third less than small ones (docs/benchmarks, `load`).
FIRST_LINES = 10_000
#: Rows that other sessions keep writing, or a trigger keeps: a batch is tried so many times before its lines are gone over one by one,
#: and those are set aside.
PATIENT_ATTEMPTS = 6
#: The rows of one batch of so many are compared with the lines that are checked, where nobody waits for an exact count.
LOOKED_AT = 8


class WrittenMeanwhile(psycopg.errors.SerializationFailure):
    """A row was written by another session between the look at it and the write; the batch is tried again."""


@dataclass(frozen=True, kw_only=True)
class OfStage(LaneWork):
    """What lanes have in common that walk a stage."""

    first_rows: ClassVar[int] = FIRST_LINES

    loading: Loading
    run: int

    @property
    def table(self) -> TableName:
        """The table that is loaded."""
        return self.loading.table

    def look(self, lane: Lane) -> None:
        del lane

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        del carefully
        msg = f"lane {batch.lane.lane} of run {batch.lane.run} does not walk {batch_range}"
        raise TypeError(msg)

    def step(self, batch: Batch, seen: Seen, *, beside_others: bool, carefully: bool) -> Stepped:
        del seen, beside_others
        lane = batch.lane
        bounds = _bounds(lane)
        cursor = dict(lane.cursor or {"page": bounds.first_page})
        first = cursor["page"]
        count = max(1, round(lane.batch_rows / max(bounds.lines_per_page, 1.0)))
        last = min(first + count, bounds.last_page)
        done = Counts()
        if first < last:
            if carefully or lane.attempts >= PATIENT_ATTEMPTS:
                batch.check_constraints_now()
                done = self._carefully(batch, first, last)
            else:
                done = self._take(batch, pages(first, last))
            if done.set_aside:
                self._require_few(batch)
        for name, value in done.counts.items():
            cursor[name] = cursor.get(name, 0) + value
        cursor["page"] = last
        tally = Tally(
            walked=done.walked,
            changed=done.changed,
            residual=done.residual,
            quarantined=done.set_aside,
            sqlstates=done.sqlstates,
        )
        if done.residual:
            self.walk_again(batch, StagePages(first_page=first, last_page=last, lines_per_page=bounds.lines_per_page))
        return Stepped(tally=tally, after=After(cursor=cursor, done=last >= bounds.last_page))

    def _take(self, batch: Batch, condition: sql.Composable) -> Counts:
        # Before each statement: one that fires the table's own code leaves the application's settings behind.
        batch.connection.execute(firing.JOIN_BY_KEY)
        return self.take(batch, condition)

    @abstractmethod
    def take(self, batch: Batch, condition: sql.Composable) -> Counts:
        """Do the work on some lines of the stage. Raises psycopg.Error."""

    def before_care(self, batch: Batch, condition: sql.Composable) -> Counts:
        """What is done before lines are gone over one by one."""
        del batch, condition
        return Counts()

    def walk_again(self, batch: Batch, bounds: StagePages) -> None:
        """Rows are not as their lines say."""
        del batch, bounds

    def _carefully(self, batch: Batch, first: int, last: int) -> Counts:
        done = self.before_care(batch, pages(first, last))
        found = batch.connection.execute(check.places(self.loading, pages(first, last))).fetchall()
        return done + self._halve(batch, [row["place"] for row in found])

    def _halve(self, batch: Batch, where: Sequence[str]) -> Counts:
        if not where:
            return Counts()
        try:
            with batch.connection.transaction():
                return self._take(batch, places(where))
        except psycopg.Error as exc:
            patient = isinstance(exc, WrittenMeanwhile) and batch.lane.attempts < PATIENT_ATTEMPTS
            if patient or not (isinstance(exc, WrittenMeanwhile) or classify(exc) == "data"):
                raise
            failure = exc
        if len(where) == 1:
            return self._set_aside(batch, where[0], failure)
        middle = len(where) // 2
        done = self._halve(batch, where[:middle]) + self._halve(batch, where[middle:])
        self._require_few(batch)
        return done

    def _set_aside(self, batch: Batch, place: str, failure: psycopg.Error) -> Counts:
        sqlstate = failure.sqlstate or ""
        query = check.set_aside_one(self.loading, place, run=self.run, sqlstate=sqlstate, error=in_words(failure))
        batch.connection.execute(query)
        return Counts(walked=1, set_aside=1, sqlstates=(sqlstate,))

    def _require_few(self, batch: Batch) -> None:
        """Raises TooManyQuarantined."""
        found = stage.set_aside(batch.connection, self.run)
        if found.lines > batch.cap:
            examples = [
                Unconverted(
                    operation=one.operation,
                    relation=self.relation,
                    key=(f"line {one.line}",),
                    sqlstate=one.sqlstate,
                    error=one.error,
                )
                for one in stage.some_set_aside(batch.connection, self.run)
            ]
            raise TooManyQuarantined(examples[-1], batch.cap, examples)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of some lines."""

    walked: int = 0
    changed: int = 0
    residual: int = 0
    set_aside: int = 0
    sqlstates: tuple[str, ...] = ()
    #: What is kept in the lane's cursor, by name.
    counts: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        names = [*self.counts, *(name for name in other.counts if name not in self.counts)]
        return Counts(
            walked=self.walked + other.walked,
            changed=self.changed + other.changed,
            residual=self.residual + other.residual,
            set_aside=self.set_aside + other.set_aside,
            sqlstates=self.sqlstates + other.sqlstates,
            counts={name: self.counts.get(name, 0) + other.counts.get(name, 0) for name in names},
        )


@dataclass(frozen=True, kw_only=True)
class CheckLines(OfStage):
    """Sets lines aside that cannot be loaded, before the first row is written."""

    changes_rows: ClassVar[bool] = False

    #: Compare every line with its row, for a person who is to approve what follows.
    looks: bool

    def take(self, batch: Batch, condition: sql.Composable) -> Counts:
        looks = self.looks or batch.lane.batches_committed % LOOKED_AT == 0
        query = check.check(self.loading, condition, run=self.run, looks=looks)
        row = batch.connection.execute(query).fetchone() or {}
        walked, aside = row["walked"], row["set_aside"]
        counts = {}
        if looks:
            there, updates = row["there"], row["updates"]
            counts = {
                "looked": walked - aside,
                "new": walked - aside - there,
                "changed": updates,
                "same": there - updates,
            }
        return Counts(walked=walked, set_aside=aside, sqlstates=_CHECKED * aside, counts=counts)

    def before_care(self, batch: Batch, condition: sql.Composable) -> Counts:
        if batch.connection.info.server_version < check.TELLS_BAD_INPUT:
            return Counts()
        query = check.bad_input(self.loading, condition, run=self.run)
        row = batch.connection.execute(query).fetchone() if query is not None else None
        aside = int(row["set_aside"]) if row else 0
        return Counts(walked=aside, set_aside=aside, sqlstates=_CHECKED * aside)


@dataclass(frozen=True, kw_only=True)
class Upsert(OfStage):
    """Inserts rows and updates them."""

    journal: LoadedRows | None

    @property
    def journals(self) -> tuple[LoadedRows, ...]:
        return (self.journal,) if self.journal is not None else ()

    def take(self, batch: Batch, condition: sql.Composable) -> Counts:
        if self._differ(batch):
            return self._write_at_once(batch, condition)
        return self.write(batch, self.loading.from_stage(condition))

    def _differ(self, batch: Batch) -> bool:
        """Whether so many rows of the lane differ from their lines that a look at each before would cost more than it saves."""
        connection, done = batch.connection, batch.lane.cursor or {}
        if not upsert.may_write_at_once(self.loading, connection.info.server_version):
            return False
        differ, same = done.get("inserted", 0) + done.get("updated", 0), done.get("same", 0)
        if not (differ or same):
            differ, same = stage.found(connection, self.run, self.number)
        if differ <= same:
            return False
        return not stage.has_triggers(connection, self.table)  # somebody may have made one since

    def _write_at_once(self, batch: Batch, condition: sql.Composable) -> Counts:
        query = upsert.upsert_at_once(self.loading, condition, journal=self.journal, pass_=batch.lane.pass_)
        return self._counted(batch.connection.execute(query).fetchone() or {})

    def write(self, batch: Batch, given: sql.Composable) -> Counts:
        """Write the rows of some lines. Raises psycopg.Error, and WrittenMeanwhile where another session was in between."""
        journal = self.journal
        query = upsert.upsert(self.loading, given, run=self.run, journal=journal, pass_=batch.lane.pass_)
        row = batch.execute_firing((query, None))  # type: ignore[arg-type] # sent without parameters
        if row["updated"] != row["updates"] or row["inserted"] != row["inserts"]:
            msg = "a row was written by another session, or kept by a trigger, between the look at it and the write"
            raise WrittenMeanwhile(msg)
        return self._counted(row)

    def _counted(self, row: Mapping[str, int]) -> Counts:
        counts = {name: row[name] for name in ("inserted", "updated", "same")}
        return Counts(
            walked=row["walked"],
            changed=row["inserted"] + row["updated"],
            set_aside=row["set_aside"],
            sqlstates=_CHECKED * row["set_aside"],
            counts=counts,
        )


@dataclass(frozen=True, kw_only=True)
class VerifyLoad(OfStage):
    """Looks whether rows are as their lines say."""

    changes_rows: ClassVar[bool] = False

    def take(self, batch: Batch, condition: sql.Composable) -> Counts:
        query = upsert.verify(self.loading, self.loading.from_stage(condition), run=self.run)
        row = batch.connection.execute(query).fetchone() or {}
        counts = {"changed_since": row["changed_since"]}
        return Counts(walked=row["walked"], residual=row["residual"], counts=counts)

    def walk_again(self, batch: Batch, bounds: StagePages) -> None:
        connection, lane = batch.connection, batch.lane
        lanes.lock_coordinator(connection, lane.run)
        lanes.insert(
            connection,
            lane.run,
            kind=LaneKind.BACKFILL,
            operation=self.number,
            pass_=lane.pass_ + 1,
            relation=self.relation,
            bounds=bounds,
            batch_rows=lane.batch_rows,
            awake=False,
        )


@dataclass(frozen=True, kw_only=True)
class RetryLines(LaneWork):
    """Tries lines again that were set aside, one in each step."""

    upsert: Upsert

    def look(self, lane: Lane) -> None:
        del lane

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        del carefully
        msg = f"lane {batch.lane.lane} of run {batch.lane.run} does not walk {batch_range}"
        raise TypeError(msg)

    def step(self, batch: Batch, seen: Seen, *, beside_others: bool, carefully: bool) -> Stepped:
        del seen, beside_others, carefully
        connection, run, number = batch.connection, batch.lane.run, self.number
        cursor = dict(batch.lane.cursor or {})
        line = stage.next_retry(connection, run, operation=number)
        if line is None:
            return Stepped(tally=Tally(), after=After(cursor=cursor, done=True))
        given = self.upsert.loading.from_set_aside(run, line)
        done = Counts()
        try:
            with connection.transaction():
                connection.execute(firing.JOIN_BY_KEY)
                batch.check_constraints_now()
                done = self.upsert.write(batch, given)
        except psycopg.Error as exc:
            if classify(exc) != "data":
                raise
            stage.set_aside_again(connection, run, number, line, sqlstate=exc.sqlstate or "", error=in_words(exc))
        else:
            if done.set_aside:
                stage.set_aside_again(connection, run, number, line, sqlstate="", error="")
            else:
                stage.release(connection, run, number, line)
        for name, value in done.counts.items():
            cursor[name] = cursor.get(name, 0) + value
        return Stepped(tally=Tally(walked=1, changed=done.changed), after=After(cursor=cursor, done=False))


@dataclass(frozen=True, kw_only=True)
class UndoLoad(Undo):
    """Takes back what the journal says was inserted and updated."""

    loading: Loading

    @property
    def columns(self) -> tuple[str, ...]:
        return ()  # of an UPDATE

    def attempt(self, batch: Batch, batch_range: BatchRange, *, carefully: bool) -> Tally:
        del carefully
        covered, way_back = self.slice_of(batch, batch_range), self._undo(batch.lane)
        batch.connection.execute(firing.JOIN_BY_KEY)
        if (lock := way_back.lock(covered)) is not None:
            batch.connection.execute(*lock)
        return Tally(changed=batch.execute_firing(way_back.query(covered))["changed"])

    def _undo(self, lane: Lane) -> Unload:
        if not isinstance(self.journal, LoadedRows):
            msg = f"the journal of operation {self.number} is none of a load"
            raise TypeError(msg)
        return Unload(journal=self.journal, share=self.share_of(lane), facts=self.loading.facts)


#: Lines that the table's rules refuse, told by SQLSTATE to who counts them: which it was is in `load_lines`.
_CHECKED = ("23000",)


def _bounds(lane: Lane) -> StagePages:
    if not isinstance(lane.bounds, StagePages):
        msg = f"lane {lane.lane} of run {lane.run} does not walk a stage"
        raise TypeError(msg)
    return lane.bounds


def works_of(operation: Load, number: int, *, run: int, journals: bool, looks: bool) -> dict[LaneKind, LaneWork]:
    """What the lanes of a load do, by their kind."""
    loading, key = operation.loading, KeyWalk(table=operation.table, key=operation.facts.key)
    common: dict[str, Any] = {"number": number, "operation": operation, "walk": key}
    of_stage = {**common, "loading": loading, "run": run}
    journal = operation.journal(run)
    writes = Upsert(**of_stage, journal=journal if journals else None)
    return {
        LaneKind.CHECK: CheckLines(**of_stage, looks=looks),
        LaneKind.BACKFILL: writes,
        LaneKind.VERIFY: VerifyLoad(**of_stage),
        LaneKind.RETRY: RetryLines(**common, upsert=writes),
        LaneKind.UNDO: UndoLoad(**common, loading=loading, journal=journal),
    }
