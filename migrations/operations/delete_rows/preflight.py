"""Whether rows can be deleted so that they can be inserted again: rights, rules, foreign keys that refer to them, triggers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.facts import Facts, Target
from backfilld.migrations.planning.checks.columns import check_reads
from backfilld.migrations.planning.checks.walks import key_of
from backfilld.migrations.postgres.expression_probe import Rejected
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from backfilld.migrations.file.migration import DeleteRows
    from backfilld.migrations.planning.checks.findings import Case

_SQL = queries(__package__, "delete_rows")

#: What a foreign key does to rows that refer to a deleted one, where it is anything but to forbid it.
_FOLLOWS = {"c": "deletes rows", "n": "sets columns to NULL", "d": "sets columns to their default"}


def examine(case: Case, operation: DeleteRows) -> Facts:
    """Raises Rejected."""
    table = case.table
    analysis = case.trial.analyse(operation.where, what="where", type_="boolean")
    check_reads(case, analysis)
    if analysis.unrepeatable:
        raise Rejected(
            "condition",
            f"the condition calls {', '.join(analysis.unrepeatable)}, so that other rows meet it from one batch to the next",
            "Give the moment as a parameter: `parameters: {before: {type: timestamp}}`, and `created_at < ${before}`",
        )
    _check_rights(case)
    _check_referrers(case)
    keys_because = _tell_triggers(case)
    key = {column.name for column in key_of(table)}
    return Facts(
        relation=str(table.name),
        # What the journal keeps beside the key; a generated column computes itself.
        targets=tuple(
            Target(column=column.name, type=column.type)
            for column in table.columns
            if column.name not in key and not column.generated
        ),
        reads=tuple(sorted(analysis.reads)),
        keys_because=keys_because,
    )


def _check_rights(case: Case) -> None:
    oid, name = {"oid": case.table.oid}, case.table.name
    rights = case.connection.execute(_SQL["rights"], oid).fetchone() or {}
    if not (rights["may_delete"] and rights["may_insert"]):
        role = case.found.backend.role
        case.refuse(
            "privileges",
            f"the role {role} may not delete rows of {name} and insert them again",
            f"GRANT DELETE, INSERT ON {name.identifier.as_string()} TO {role}",
        )
    if rules := [row["name"] for row in case.connection.execute(_SQL["rules"], oid)]:
        case.refuse(
            "rule",
            f"the rule {', '.join(rules)} rewrites every DELETE or INSERT of {name}, which cannot be combined with a batch",
            "Write it as a trigger, or disable it for the time of the run (ALTER TABLE … DISABLE RULE)",
        )


def _check_referrers(case: Case) -> None:
    name = case.table.name
    for one in case.connection.execute(_SQL["referrers"], {"oid": case.table.oid}):
        if follows := _FOLLOWS.get(one["action"]):
            case.refuse(
                "foreign_key",
                f"the foreign key {one['name']} of {one['relation']} {follows} that refer to a deleted row, and no journal keeps those",
                f"Delete or change the rows of {one['relation']} first, in an operation of its own, and leave out here what "
                "they refer to: AND NOT EXISTS (SELECT …); or make the foreign key ON DELETE NO ACTION",
            )
            continue
        case.warn(
            f"rows of {name} to which {one['relation']} refers ({one['name']}) are not deleted, but set aside with the error"
        )
        if not one["is_indexed"]:
            case.warn(
                f"no index of {one['relation']} begins with {one['columns']}: for each deleted row all of it is read, "
                "while the row is locked. Create one first"
            )


def _tell_triggers(case: Case) -> str:
    """Name the triggers; returns why the table is to be walked by its key, empty for no reason."""
    found = case.connection.execute(_SQL["triggers"], {"oid": case.table.oid}).fetchall()
    for one in found:
        every = "deleted row" if one["for_rows"] else "batch"
        keeps = ", and may keep the row" if one["may_keep"] else ""
        case.warn(
            f"the trigger {one['name']} on {case.table.name} fires for every {every} ({one['schema']}.{one['function']}){keeps}; "
            "WHEN (coalesce(current_setting('backfilld.batch', true), '') = '') in its definition makes it skip backfilld's batches"
        )
    if case.table.publications:
        case.warn(f"every DELETE is replicated by {', '.join(case.table.publications)}")
    of_statements = [one["name"] for one in found if not one["for_rows"]]
    if of_statements and case.table.kind == "p":
        return f"the trigger {of_statements[0]} fires for statements that name the partitioned table"
    return ""
