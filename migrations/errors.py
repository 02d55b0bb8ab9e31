"""What can go wrong, grouped by what happens next.

Each class names the next act and carries the exit code of the command line. The facts are attributes,
so that `--json` and the logs need not take the message apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal


class BackfilldError(Exception):
    """Something went wrong; `exit_code` is what the command line returns for it."""

    exit_code: ClassVar[int] = 1


class UsageError(BackfilldError):
    """A command was asked for something it cannot mean; say it differently."""

    exit_code = 2


@dataclass(eq=False)
class InvalidMigration(BackfilldError):
    """The migration file is wrong; fix the file. Names the place and the remedy."""

    exit_code: ClassVar[int] = 2

    #: The file, as the user named it.
    file: str
    #: 1-based line of the offending key or value.
    line: int
    #: Dotted path of the key, such as `operations[0].add_column.table`; empty for the whole file.
    key: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" + (f": {self.key}" if self.key else "")
        return f"{place}: {self.problem}. {self.remedy}"


@dataclass(eq=False)
class InvalidSettings(BackfilldError):
    """A setting is wrong; fix the environment variable or the file that holds it."""

    exit_code: ClassVar[int] = 2

    #: The variable as the operator writes it, such as `BACKFILLD_HTTP_PORT`.
    variable: str
    problem: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.problem}"


@dataclass(frozen=True)
class Finding:
    """One reason why a migration cannot run safely, and what to do about it."""

    #: A short stable name of the check, such as `row_security`.
    check: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem}. {self.remedy}"


@dataclass(eq=False)
class Refused(BackfilldError):
    """Preflight found that the migration cannot run safely; change the plan or the database."""

    exit_code: ClassVar[int] = 3

    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(str(finding) for finding in self.findings)


class Unreachable(BackfilldError):
    """PostgreSQL or Redis cannot be reached; nothing was changed."""

    exit_code = 5

    def __init__(
        self, message: str, *, server: Literal["PostgreSQL", "Redis"] = "PostgreSQL", remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.server = server
        #: What to do, where the cause is known better than that it did not answer.
        self.remedy = remedy


class NotFinished(BackfilldError):
    """What was waited for is not there yet; ask again later."""

    exit_code = 4
