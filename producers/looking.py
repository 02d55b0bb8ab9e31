"""Looking at runs from Python: where they are, why, and what they did."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from backfilld.migrations.record import audit, lanes, quarantine, runs
from backfilld.monitoring import after_contract, progress
from backfilld.producers import waiting
from backfilld.producers.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.errors import Finding
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.model import Lane, Quarantined, Run, Unconverted
    from backfilld.monitoring.after_contract import AfterContract
    from backfilld.monitoring.emergency import Step
    from backfilld.monitoring.explain.explanation import Explanation
    from backfilld.monitoring.progress import Progress


class Looking(Target):
    """The methods that read and change nothing."""

    def status(self, run: int | str) -> Progress:
        """Where a run is, by id or name, and whether it can still be rolled back."""
        from backfilld.migrations.rollback import check as rollback_check  # noqa: PLC0415 - knows every operation, which no other way of looking must
        from backfilld.migrations.rollback import retention  # noqa: PLC0415 - comes with it

        with self._record_of_runs() as connection:
            found = waiting.find(connection, run)
            way_back = rollback_check.look(connection, found)
            kept = retention.size(connection, found.run)
            behind = rollback_check.behind(connection, found)
            return replace(
                progress_of(connection, found),
                rollback=way_back.to_json(),
                journal_bytes=kept["journal_bytes"],
                behind=behind.keys if behind is not None else None,
                behind_seconds=round(behind.seconds, 1) if behind is not None else None,
            )

    def explain(self, run: int | str) -> Explanation:
        """What a run is doing, what it waits for, and what would let it continue, in words."""
        from backfilld.monitoring import explain  # noqa: PLC0415 - for this verb alone

        with self._record_of_runs() as connection:
            return explain.read(connection, waiting.find(connection, run), self._settings.limits)

    def emergency(self, run: int | str) -> list[Step]:
        """What to do when a run has done harm, from cheap to dear, with its own names and places: `.title`, `.note`, `.commands`."""
        from backfilld.migrations.backups import gate  # noqa: PLC0415 - for this verb alone
        from backfilld.migrations.record import audit, backups  # noqa: PLC0415 - as above
        from backfilld.monitoring import emergency  # noqa: PLC0415 - as above

        now = self.status(run)
        with self._record_of_runs() as connection:
            found = waiting.find(connection, now.run)
            backup = backups.of_run(connection, now.run)
            opened = audit.first(connection, now.run, what="backup.gate")
        before = opened["detail"].get("moment") if opened is not None else None
        return emergency.steps(now, backup, [str(one) for one in gate.operated(found.migration)], before=before)

    def runs(self, *, ended: bool = True) -> list[Progress]:
        """Where all runs are, newest first."""
        with self._record_of_runs() as connection:
            return progress.read(connection, runs.listed(connection, ended=ended))

    def recent(self) -> tuple[list[Progress], int]:
        """The runs in progress and those that ended last, newest first; and how many more have ended."""
        with self._record_of_runs() as connection:
            return waiting.recent(connection)

    def check(self) -> None:
        """Raise Unreachable or UsageError when the database cannot be reached, or has no schema of ours."""
        with self._record_of_runs():
            pass

    def lanes(self, run: int | str) -> list[Lane]:
        """The lanes of a run, the coordinator first."""
        with self._record_of_runs() as connection:
            return lanes.of_run(connection, waiting.find(connection, run).run)

    def events(self, run: int | str) -> list[dict[str, Any]]:
        """Who did what, and every change of state, oldest first. Any: columns of the audit.

        Events of the whole database during the run's life are included, with None for the run: they are why it waited.
        """
        with self._record_of_runs() as connection:
            return audit.whole_story(connection, waiting.find(connection, run).run)

    def quarantine(self, run: int | str) -> list[Quarantined]:
        """The rows of a run that could not be converted, a thousand at most."""
        with self._record_of_runs() as connection:
            return quarantine.listed(connection, waiting.find(connection, run).run)

    def set_aside_lines(self, run: int | str, format_: Literal["csv", "ndjson"] = "csv") -> Iterator[str]:
        """The lines of a load that are set aside, in the shape of its file: CSV with their errors, or JSON as it was."""
        from backfilld.migrations.loading import export  # noqa: PLC0415 - for this verb alone

        with self._record_of_runs() as connection:
            found = waiting.find(connection, run).run
            yield from export.as_csv(connection, found) if format_ == "csv" else export.as_json_lines(connection, found)

    def unconverted(self, run: int | str) -> tuple[Unconverted, ...]:
        """Some of the rows for which a run paused itself because they were too many; the quarantine does not have them."""
        with self._record_of_runs() as connection:
            return waiting.find(connection, run).unconverted

    def after_contract(self, run: int | str) -> tuple[AfterContract, ...]:
        """What the application can no longer do once the run has done its contract, and whether it still does it."""
        with self._record_of_runs() as connection:
            found = waiting.find(connection, run)
            return after_contract.read(connection, [found]).get(found.run, ())

    def against_contract(self, run: int | str) -> tuple[Finding, ...]:
        """What the application's statements have against contract of a run that has switched; nothing where its file checks none."""
        from backfilld.migrations.application import gate  # noqa: PLC0415 - knows every operation, which no other look must

        with self._record_of_runs() as connection:
            return gate.against_contract(connection, waiting.find(connection, run))


def progress_of(connection: Connection, run: Run) -> Progress:
    return progress.read(connection, [run])[0]
