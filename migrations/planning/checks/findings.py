"""What preflight found, and what it knows while it looks at one operation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.postgres.foreign_code import Called

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.planning.checks.numbers import NumbersLeft
    from backfilld.migrations.postgres.catalog import Backend, Table
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.expression_probe import Probe
    from backfilld.migrations.postgres.user_code import EventTrigger
    from backfilld.migrations.source_settings import SourceSettings


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """What a rule has against how long a statement of raw SQL takes. The dry run answers it."""

    #: The operation, the step, and the statement, by their numbers; and whether it stands in the step's rollback.
    place: tuple[int, int, int]
    back: bool
    rule: str
    #: What to refuse, or to warn of, where the dry run does not show the statement to be brief.
    told: Finding | str


@dataclass(kw_only=True)
class Findings:
    """What was found so far: reasons for refusal, warnings, and the tables they are about."""

    backend: Backend
    #: Where this process may read what is loaded.
    sources: Sequence[SourceSettings] = ()
    tables: dict[TableName, Table] = field(default_factory=dict)
    #: About how many rows each table has.
    rows: dict[TableName, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    #: What is left of the numbers of columns that change.
    numbers: list[NumbersLeft] = field(default_factory=list)
    #: Publications that send our own tables on.
    publish_record: tuple[str, ...] = ()
    #: What the expressions of the migration call and read.
    called: Called = field(default_factory=Called)
    #: Event triggers that DDL fires.
    event_triggers: tuple[EventTrigger, ...] = ()
    #: What the linter doubts and has not answered yet.
    doubts: list[Doubt] = field(default_factory=list)
    #: The rules that a statement of an operation was shown not to break, with the operation's number.
    disproved: set[tuple[int, str]] = field(default_factory=set)
    #: Of operations whose new column makes rows incomparable, by number: what compares rows, by kind and name.
    row_comparisons: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def refuse(self, check: str, problem: str, remedy: str) -> None:
        self.findings.append(Finding(check, problem, remedy))

    def settle(self, brief: Callable[[Doubt], bool]) -> None:
        """Put down what the linter doubts, but for the statements that were seen to be brief."""
        doubts, self.doubts = self.doubts, []
        for doubt in doubts:
            if brief(doubt):
                self.disproved.add((doubt.place[0], doubt.rule))
            else:
                self.tell(doubt.told)

    def tell(self, told: Finding | str) -> None:
        """Put down a refusal or a warning."""
        if isinstance(told, Finding):
            self.findings.append(told)
        else:
            self.warn(told)

    def require(self) -> None:
        """Raises Refused when there is a reason for it."""
        if self.findings:
            raise Refused(list(self.findings))

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operation under examination."""

    connection: Connection
    found: Findings
    migration: Migration
    number: int
    #: Where it stands in the file, for people.
    place: str
    table: Table
    #: A temporary copy of the table, in which expressions and DDL can be tried.
    trial: Probe

    def refuse(self, check: str, problem: str, remedy: str) -> None:
        """Add a reason why the migration cannot run; `problem` is reported with its place in the file."""
        self.found.refuse(check, f"{self.place}: {problem}", remedy)

    def warn(self, text: str) -> None:
        """Put down what a careful person should know; told with its place in the file."""
        self.found.warn(f"{self.place}: {text}")
