"""What a change of a type is as a `rebuild`, for what cannot be exchanged in place: the lines of a file that does it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from backfilld.migrations.file import migration as definition
from backfilld.migrations.operations.rebuild import preflight as rebuild
from backfilld.migrations.planning.checks.findings import Findings
from backfilld.migrations.postgres.expression_probe import Rejected

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import ChangeType
    from backfilld.migrations.planning.checks.findings import Case

#: A migration's name has 63 characters at most.
_MOST = 63 - len("-anew")


def remedy(case: Case, operation: ChangeType, otherwise: str) -> str:
    """What to do, with a file to copy where `rebuild` makes the change as it is; else the other remedy alone."""
    lines = _lines(case, operation)
    if operation.default is not None or not _is_possible(case, lines):
        return otherwise
    return f"{otherwise}; or make the table anew with the new type, by a file of these lines:\n{lines}"


def _lines(case: Case, operation: ChangeType) -> str:
    parts = {"type": operation.type, "up": operation.up, "down": operation.down}
    settings = ["approve: [switch, contract]"]
    if allowed := case.migration.settings.allow_functions:
        settings.append(f"allow_functions: [{', '.join(map(_quoted, allowed))}]")
    column = [f"          {name}: {_quoted(text)}" for name, text in parts.items() if text is not None]
    return "\n".join(
        [
            f"name: {case.migration.name[:_MOST]}-anew",
            "operations:",
            "  - rebuild:",
            f"      table: {_quoted(str(operation.table))}",
            "      columns:",
            f"        {_quoted(operation.column)}:",
            *column,
            f"settings: {{{', '.join(settings)}}}",
        ]
    )


def _quoted(text: str) -> str:
    """A text as YAML has it; its strings in double quotes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _is_possible(case: Case, lines: str) -> bool:
    """Whether `rebuild` takes it."""
    found = Findings(
        backend=case.found.backend,
        tables=case.found.tables,
        rows=case.found.rows,
        publish_record=case.found.publish_record,
    )
    migration = definition.parse(lines)
    (operation,) = migration.operations
    if not isinstance(operation, definition.Rebuild):
        return False
    try:
        rebuild.examine(replace(case, found=found, migration=migration, number=0), operation)
    except Rejected:
        return False
    return not found.findings
