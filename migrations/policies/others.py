"""Policies of other tables that read the one whose policies change: what they let a persona do changes with it.

They are asked as they stand, and once more with a function in place of the table, which gives the rows that the persona will see of
it. The table itself and its policies are not touched.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.policies.rules import rule
from backfilld.migrations.postgres.statements import split
from backfilld.migrations.queries import templates

if TYPE_CHECKING:
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.policies import Persona, Policy, PolicySet

_SQL = templates(__package__, "others")

#: Rows of another table that are looked at, the first by their key.
MOST_ROWS = 10_000


def seen_of(table: TableName, persona: Persona, later: PolicySet) -> tuple[sql.Composed, ...]:
    """Make the function that gives the rows of `table` that a persona will see, under the table's own name in pg_temp."""
    name = sql.Identifier(table.name)
    may = "select" in persona.may
    made = {
        "name": name,
        "table": table.identifier,
        "columns": sql.SQL("{}.*").format(name),
        "rule": rule(later, persona).parts["select"] if may else sql.SQL("false"),
    }
    return (
        _SQL["readable"].format(**made),
        sql.SQL("GRANT SELECT ON pg_temp.backfilld_readable TO PUBLIC").format(),
        _SQL["seen"].format(**made),
        sql.SQL("GRANT EXECUTE ON FUNCTION pg_temp.{}() TO PUBLIC").format(name),
    )


def reading(set_: PolicySet, table: TableName) -> PolicySet:
    """The policies, reading that function where they read the table."""
    return replace(set_, policies=tuple(_reading(policy, table) for policy in set_.policies))


def _reading(policy: Policy, table: TableName) -> Policy:
    return replace(policy, using=_text(policy.using, table), check=_text(policy.check, table))


def _text(condition: str | None, table: TableName) -> str | None:
    """PostgreSQL writes a table that is read with its schema, and its columns by its bare name, which the function has too."""
    if condition is None:
        return None
    (statement,) = split(condition)
    text, at = "", 0
    for start, end, name in statement.qualified:
        is_table = name == (table.schema, table.name) and not statement.text[end:].startswith("(")
        if is_table and not statement.text[:start].endswith("::"):
            text += statement.text[at:start] + sql.Identifier("pg_temp", table.name).as_string() + "()"
            at = end
    return text + statement.text[at:]
