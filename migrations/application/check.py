"""A check of the application's statements beside a migration, before anything is changed."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from backfilld.migrations.application import corpus, functions, readers
from backfilld.migrations.application.paths import Paths
from backfilld.migrations.application.real_plans import plans_of
from backfilld.migrations.application.report import Breaks, LosesIndex, Named, Report, Unchecked
from backfilld.migrations.application.states import Found, States
from backfilld.migrations.file.application import Statements
from backfilld.migrations.planning.dry_run import tables_named
from backfilld.migrations.planning.dry_run_copies import copied
from backfilld.migrations.postgres import catalog
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.application.corpus import QueryFile, Statement
    from backfilld.migrations.application.readers import Readers
    from backfilld.migrations.application.usable import Plan
    from backfilld.migrations.errors import Finding
    from backfilld.migrations.facts import Facts
    from backfilld.migrations.file.migration import Migration
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.connect import Connection

#: The phases that change what a statement finds; backfill changes rows alone.
PHASES = (Phase.EXPAND, Phase.VERIFY, Phase.SWITCH, Phase.CONTRACT)
_NOT_PLANNED = (
    "COPY of all columns, LOCK and TRUNCATE are not planned: look whether the migration changes what they mean"
)


def check(
    connection: Connection,
    migration: Migration,
    facts: Sequence[Facts],
    *,
    rows: Mapping[TableName, int],
    files: Sequence[QueryFile] = (),
) -> Report:
    """Bind and plan all statements in each state of a migration that nothing was refused of. Raises only for the loss of the
    connection.
    """
    wanted = migration.application.statements if migration.application is not None else Statements()
    found = corpus.read(connection, wanted, files)
    tables = tables_named(connection, rows, migration, facts)
    checked, unchecked = functions.read(connection, tables)
    statements: list[Statement] = [*corpus.by_text(found.statements), *checked]
    seen = Found(unchecked=unchecked)
    paths = paths_of(connection, [*statements, *found.commands], tables, wanted)
    if statements and facts:
        with copied(connection, [*tables, *paths.readers.joined]) as copies:
            name = f"dry_run {secrets.token_hex(8)}"  # that no migration and no other dry run has
            states = States(connection, migration, facts, copies, paths=paths, name=name, phases=PHASES)
            seen = states.check(statements)
            seen.unchecked += unchecked
    real = plans_of(connection, [one.statement for one in seen.loses_index], paths)
    seen.unchecked += found.malformed
    seen.unchecked += [(one, _NOT_PLANNED) for one in found.commands if paths.concerns(one)]
    report = _report(seen, real, paths.readers, rows=rows, silence=found.silence)
    return replace(report, asked=migration.checked_application is not None)


def paths_of(
    connection: Connection, statements: Sequence[Statement], tables: Sequence[TableName], wanted: Statements
) -> Paths:
    """The search path of each statement, and through what it may read the tables."""
    default = wanted.roles[0] if wanted.roles else catalog.backend(connection).role
    roles = {one.roles[0] for one in statements if one.roles}
    return Paths(connection, tables, roles, default, readers.read(connection, tables))


def _report(
    seen: Found,
    real: Mapping[str, Plan],
    through: Readers,
    *,
    rows: Mapping[TableName, int],
    silence: Sequence[Finding],
) -> Report:
    lost = []
    for one in seen.loses_index:
        plan = real.get(one.statement.text)
        # A statement that scans the table today as well loses nothing.
        if plan is None or not through.by_index(plan, one.table):
            continue
        lost.append(
            LosesIndex(
                **Named.of(one.statement),
                phase=one.phase,
                table=str(one.table),
                rows=rows.get(one.table, 0),
                indexes=plan.indexes,
            )
        )
    broken = [
        Breaks(**Named.of(one.statement), phase=one.phase, sqlstate=one.sqlstate, message=one.message)
        for one in seen.breaks
    ]
    return Report(
        checked=len(seen.checked) + seen.elsewhere,
        elsewhere=seen.elsewhere,
        breaks=tuple(sorted(broken, key=lambda one: (-(one.calls or 0), one.statement))),
        loses_index=tuple(sorted(lost, key=lambda one: (-(one.calls or 0), one.statement))),
        cannot_be_checked=tuple(Unchecked(**Named.of(one), because=because) for one, because in seen.unchecked),
        silence=tuple(silence),
        untried=tuple(dict.fromkeys(seen.untried)),
    )
