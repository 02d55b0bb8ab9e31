"""What the dry run saw of each statement, and which of it refuses the migration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psycopg import errors

from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning.lint import RULES, SMALL_ROWS, instead
from backfilld.migrations.postgres.locks import BLOCKS_WRITES, LockMode
from backfilld.migrations.postgres.statements import names, split

if TYPE_CHECKING:
    import psycopg

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.operations import Statement
    from backfilld.migrations.planning.checks.findings import Doubt, Findings
    from backfilld.migrations.record.states import Phase

#: Errors that a copy answers as the table itself would. Not 42704, 42809 and 42P16: triggers, policies and foreign keys are
#: not copied, a partitioned table's copy is an ordinary one, and temporary tables may not do all that others may.
_TELLING = (
    errors.SyntaxError,
    errors.UndefinedColumn,
    errors.DuplicateColumn,
    errors.UndefinedFunction,
    errors.DatatypeMismatch,
    errors.CannotCoerce,
    errors.InvalidObjectDefinition,
    errors.InvalidColumnReference,
    errors.GroupingError,
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a statement did to the copies; by rule, where it was not run."""

    #: The strongest lock on a table; None where it was not measured, as behind a stronger one that is held already.
    lock: LockMode | None = None
    #: Other tables that the application cannot write meanwhile, each with its lock.
    also: tuple[tuple[TableName, LockMode], ...] = ()
    rewrites: bool = False
    scans: bool = False
    builds_index: bool = False
    #: A scan was spared, because a constraint proves what it would have shown.
    proved: bool = False
    #: How long it took, without the round trip; None where it was not run.
    seconds: float | None = None
    #: Why it was not run; empty where it was.
    by_rule_because: str = ""

    @property
    def measured(self) -> bool:
        return not self.by_rule_because

    @property
    def is_long(self) -> bool:
        """Whether it takes as long as the table is large."""
        return self.rewrites or self.scans or self.builds_index

    @property
    def stops_writes(self) -> bool:
        """Whether the application cannot write for as long as the table is large."""
        return self.measured and self.is_long and self.lock in BLOCKS_WRITES


@dataclass(frozen=True)
class Place:
    """Where a statement stands: in which phase of which operation, and which of its steps and statements it is."""

    phase: Phase
    operation: int
    step: int
    statement: int

    @property
    def of_raw(self) -> tuple[int, int, int]:
        """A statement of raw SQL, all of which is in one phase."""
        return self.operation, self.step, self.statement


@dataclass(kw_only=True)
class DryRun:
    """What was seen of a migration."""

    seen: dict[Place, Seen] = field(default_factory=dict)
    #: What statements of a rollback did after those that they take back.
    seen_back: dict[Place, Seen] = field(default_factory=dict)

    def at(self, place: Place) -> Seen:
        return self.seen.get(place, Seen(by_rule_because="it was not tried"))

    def shows_brief(self, doubt: Doubt) -> bool:
        """Whether a statement was run, and neither rewrote nor scanned a table nor built an index."""
        seen = self.seen_back if doubt.back else self.seen
        found = [one for place, one in seen.items() if place.of_raw == doubt.place]
        return bool(found) and all(one.measured and not one.is_long for one in found)


def judge(found: Findings, operation: definition.Operation, number: int, statement: Statement, seen: Seen) -> None:
    """Refuse what holds the application up for as long as the table is large."""
    did = "rewrites its table" if seen.rewrites else "builds an index" if seen.builds_index else "scans its table"
    place = f"operations[{number}].{operation.kind}"
    problem = f"{place}: {shown(statement)}: it {did} under {seen.lock}, seen on a copy (long-lock)"
    if not isinstance(operation, definition.Sql):
        found.refuse("dry_run", problem, "Write the change so that it needs neither, and report this as a bug")
        return
    looked_at = {"long-lock", *(name for name, rule in RULES.items() if rule.by_size)} & set(operation.allow)
    named = names(statement.sql.as_string())
    rows = max((count for table, count in found.rows.items() if (table.schema, table.name) in named), default=0)
    remedy = _instead(statement)
    if rows >= SMALL_ROWS and not looked_at:
        problem = f"{problem}, and there are about {rows:,} rows"
        found.refuse("dry_run", problem, f"{remedy}; or, if it is acceptable, write `allow: [long-lock]`")
    else:
        found.warn(f"{problem}. {remedy}")


def refuse_failed(
    found: Findings, operation: definition.Operation, number: int, statement: Statement, exc: psycopg.Error
) -> None:
    """Refuse a statement that PostgreSQL does not accept, where it would not accept it on the table itself either."""
    if isinstance(exc, _TELLING):
        found.refuse(
            "dry_run",
            f"operations[{number}].{operation.kind}: {shown(statement)}: {exc.diag.message_primary or exc}",
            exc.diag.message_hint or "Nothing was changed; fix the operation",
        )


def shown(statement: Statement) -> str:
    """A statement on one line, short."""
    text = " ".join(statement.sql.as_string().split())
    return f"{text[:77]}..." if len(text) > 80 else text


def _instead(statement: Statement) -> str:
    """The operation that does the same without holding the application up."""
    found = (instead(one) for one in split(statement.sql.as_string()))
    return next(filter(None, found), "Do it in steps, or while the application is stopped")
