"""What preflight found, and what it knows while it looks at one operation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.postgres.foreign_code import Called

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.catalog import Backend, Table
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.expression_probe import Probe
    from backfilld.migrations.postgres.user_code import EventTrigger


@dataclass(kw_only=True)
class Findings:
    """What was found so far: reasons for refusal, warnings, and the tables they are about."""

    backend: Backend
    tables: dict[TableName, Table] = field(default_factory=dict)
    #: About how many rows each table has.
    rows: dict[TableName, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    #: Publications that send our own tables on.
    publish_record: tuple[str, ...] = ()
    #: What the expressions of the migration call and read.
    called: Called = field(default_factory=Called)
    #: Event triggers that DDL fires.
    event_triggers: tuple[EventTrigger, ...] = ()
    #: Of operations whose new column makes rows incomparable, by number: what compares rows, by kind and name.
    row_comparisons: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def refuse(self, check: str, problem: str, remedy: str) -> None:
        self.findings.append(Finding(check, problem, remedy))

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
