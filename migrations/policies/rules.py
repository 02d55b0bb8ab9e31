"""Which rows a set of policies lets a persona read and write: the rule that PostgreSQL makes of them. Pure: has no connection.

what is asked       policies of the command and of ALL, whose roles the persona has
rule                (any of the permissive) and (each of the restrictive); no row where none is permissive
NULL                no
update, delete      the rows that SELECT shows, for such a statement has a WHERE
a row is written    WITH CHECK, or USING where a policy has none
ON CONFLICT         what INSERT, UPDATE and SELECT ask, all of it
nobody is asked     row level security is off, the role bypasses it, or owns the table and it is not forced
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.postgres.policies import Persona, Policy, PolicySet

_TRUE, _FALSE = sql.SQL("true"), sql.SQL("false")


class Command(StrEnum):
    """What a persona does to a row."""

    SELECT = "select"
    #: Insert one that is like it.
    INSERT = "insert"
    #: Reach it by an UPDATE, which may then fail.
    UPDATE = "update"
    #: Write it back as it is.
    UPDATE_CHECK = "update_check"
    DELETE = "delete"
    #: Write it back as it is by INSERT … ON CONFLICT DO UPDATE, which reaches no row that it may not read and change.
    UPSERT = "upsert"


#: The privileges of a table that a command needs.
_PRIVILEGES: dict[Command, frozenset[str]] = {
    Command.SELECT: frozenset({"select"}),
    Command.INSERT: frozenset({"insert"}),
    Command.UPDATE: frozenset({"select", "update"}),
    Command.UPDATE_CHECK: frozenset({"select", "update"}),
    Command.DELETE: frozenset({"select", "delete"}),
    Command.UPSERT: frozenset({"select", "insert", "update"}),
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What the policies say of a row, part by part, each a condition; a command needs several of them."""

    parts: dict[str, sql.Composable]
    #: The parts that a command needs; None where the table's privileges let the persona not even try.
    needs: dict[Command, tuple[str, ...] | None]


#: The parts of a rule: whose policies, and whether those for rows that are written.
_PARTS: dict[str, tuple[str, bool]] = {
    "select": ("select", False),
    "insert": ("insert", True),
    "update": ("update", False),
    "update_check": ("update", True),
    "delete": ("delete", False),
}
_NEEDS: dict[Command, tuple[str, ...]] = {
    Command.SELECT: ("select",),
    Command.INSERT: ("insert",),
    Command.UPDATE: ("select", "update"),
    Command.UPDATE_CHECK: ("select", "update", "update_check"),
    Command.DELETE: ("select", "delete"),
    Command.UPSERT: ("select", "insert", "update", "update_check"),
}


def rule(set_: PolicySet, persona: Persona) -> Rule:
    """What a set of policies lets a persona do."""
    asked = set_.enabled and not persona.bypasses and not (persona.owns and not set_.forced)
    parts = {
        part: _part(set_.policies, persona, command, written=written) if asked else _TRUE
        for part, (command, written) in _PARTS.items()
    }
    may = set(persona.may)
    needs = {command: wanted if _PRIVILEGES[command] <= may else None for command, wanted in _NEEDS.items()}
    return Rule(parts=parts, needs=needs)


def both(old: PolicySet, new: PolicySet) -> PolicySet:
    """The two sets at once, with the switches of the newer."""
    names = {policy.name for policy in new.policies}
    kept = tuple(policy for policy in old.policies if policy.name not in names)
    together = tuple(sorted(kept + new.policies, key=lambda policy: policy.name.encode()))
    return type(new)(policies=together, enabled=new.enabled, forced=new.forced)


def applies(policy: Policy, persona: Persona) -> bool:
    """Whether a policy is for one of the persona's roles."""
    return any(role == "public" or role in persona.roles for role in policy.roles)


def _part(policies: Sequence[Policy], persona: Persona, command: str, *, written: bool) -> sql.Composable:
    asked = [one for one in policies if one.command in {command, "all"} and applies(one, persona)]
    conditions = {
        permissive: [
            condition
            for one in asked
            if one.permissive is permissive and (condition := _condition(one, written=written)) is not None
        ]
        for permissive in (True, False)
    }
    if not conditions[True]:
        return _FALSE
    any_of = sql.SQL("({})").format(sql.SQL(" OR ").join(map(_operand, conditions[True])))
    return sql.SQL(" AND ").join([any_of, *map(_operand, conditions[False])])


def _condition(policy: Policy, *, written: bool) -> str | None:
    return policy.check if written and policy.check is not None else policy.using


def _operand(condition: str) -> sql.Composable:
    return sql.SQL("({})").format(sql.SQL(condition))  # PostgreSQL's own text
