"""All that is known of a migration before it runs: what the checks found, the facts, the costs and the dry run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backfilld.migrations.planning.checks.findings import Findings

if TYPE_CHECKING:
    from backfilld.migrations.facts import Facts
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.planning.dry_run_findings import DryRun
    from backfilld.migrations.planning.estimate import CostEstimate
    from backfilld.migrations.postgres.dependents import Dependent
    from backfilld.migrations.postgres.foreign_code import ForeignCode


@dataclass(kw_only=True)
class Examination(Findings):
    """What `examine` gives. A refused migration has findings, and neither estimates nor a dry run."""

    #: Of each operation.
    facts: tuple[Facts, ...] = ()
    #: How each operation will walk its table; None where it moves no data.
    costs: tuple[CostEstimate | None, ...] = ()
    #: What depends on each table.
    dependents: dict[TableName, tuple[Dependent, ...]] = field(default_factory=dict)
    #: What runs as our role and belongs to a role with fewer rights.
    foreign_code: tuple[ForeignCode, ...] = ()
    #: What each statement did to empty copies of the tables.
    dry_run: DryRun | None = None
