"""What a careful person should know of a set of policies: what it costs for each row, and what it lets in by mistake.

The names in brackets are those of Supabase's linter, splinter, where it knows the same. Pure: has no connection.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from backfilld.migrations.policies.rules import applies

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from backfilld.migrations.policies.trial import Seen
    from backfilld.migrations.postgres.policies import Past, Persona, Policy, PolicySet

#: Calls that give the same for every row of a statement.
_OF_SESSION = re.compile(r"\b(auth\.(?:uid|jwt|role|email)|(?:pg_catalog\.)?current_setting)\(")
_SELECT = re.compile(r"\(\s*SELECT\b", re.IGNORECASE)
_METADATA = re.compile(r"\buser_metadata\b|\braw_user_meta_data\b")
_NOBODY = re.compile(r"\(\s*auth\.uid\(\)\s+IS\s+NULL\s*\)|\bSELECT auth\.uid\(\)[^)]*\)\s+IS\s+NULL", re.IGNORECASE)
_FUNCTION = re.compile(r'((?:"[^"]+"|[a-z_][\w$]*)\.(?:"[^"]+"|[a-z_][\w$]*))\(')
#: From so many rows on it matters whether an index serves a policy.
MANY_ROWS = 10_000
#: What splinter calls a SECURITY DEFINER function that a role may call.
_DEFINERS = {"anon": "0028", "authenticated": "0029"}
_COMMANDS = ("select", "insert", "update", "delete")


def of_set(table: str, new: PolicySet, personas: Sequence[Persona], *, exposed: bool) -> Iterator[str]:
    """What the policies themselves say; `exposed` is a table that an API shows."""
    if not new.enabled:
        number, shown = ("0007, 0013", " and the API shows all of its rows") if exposed else ("0007", "")
        yield (
            f"row level security of {table} is off, so that no policy is asked{shown} [{number}]: add `enable: true` to turn it on at the "
            "switch"
        )
    for policy in new.policies:
        yield from _of_policy(policy)
    for persona in personas:
        if persona.bypasses:
            yield f"no policy is asked for {persona.name}: its role {persona.role} is a superuser or has BYPASSRLS"
        elif persona.owns and not new.forced:
            yield (
                f"no policy is asked for {persona.name}: its role {persona.role} has the rights of the owner of {table}, and row level "
                "security is not forced"
            )
        for command in _COMMANDS:
            several = [
                policy.name
                for policy in new.policies
                if policy.permissive and policy.command in {command, "all"} and applies(policy, persona)
            ]
            if len(several) > 1:
                yield (
                    f"{len(several)} permissive policies are asked for each row that {persona.role} reaches by {command.upper()} [0006]: "
                    f"{', '.join(several)}; one with OR says the same"
                )


def of_views(table: str, views: Sequence[Past]) -> Iterator[str]:
    """Ways past the policies, for somebody who may read a view."""
    for view in views:
        yield (
            f"the view {view.name} shows {', '.join(view.roles)} the rows of {table} with the rights of {view.owner}, for whom no policy is "
            f"asked [0010]: ALTER VIEW {view.name.identifier.as_string()} SET (security_invoker = true), unless that is what it is for"
        )


def of_definers(functions: Sequence[Past], exposed: Collection[str]) -> Iterator[str]:
    """Functions that policies call, and that whoever calls the API may call as well."""
    for one in functions:
        if one.name.schema in exposed:
            numbers = ", ".join(_DEFINERS[role] for role in one.roles if role in _DEFINERS)
            yield (
                f"the function {one.name}(), which the policy {one.policy} calls, runs with the rights of {one.owner} for "
                f"{', '.join(one.roles)} outside of the policy too{f' [{numbers}]' if numbers else ''}: move it to a schema that the API does "
                "not show; the policy may call it there"
            )


def _of_policy(policy: Policy) -> Iterator[str]:
    for text in filter(None, (policy.using, policy.check)):
        if called := sorted(set(_OF_SESSION.findall(_without_selects(text)))):
            yield (
                f"the policy {policy.name} calls {called[0]}() for each row [0003]: write (SELECT {called[0]}(…)), which is asked once"
            )
        if _METADATA.search(text):
            yield (
                f"the policy {policy.name} reads user_metadata, which each user may change [0015]: use app_metadata, or a table"
            )
        if _NOBODY.search(text):
            yield (
                f"the policy {policy.name} lets a session without a user in [0030]: auth.uid() IS NULL is true for everybody who has not "
                "signed in; write `to: [authenticated]` instead"
            )
    writes = policy.check if policy.check is not None else policy.using
    if policy.permissive and policy.command != "select" and writes is not None and writes.strip("() ") == "true":
        yield f"the policy {policy.name} lets {', '.join(policy.roles)} write any row [0024]"


def of_plan(table: str, persona: Persona, seen: Seen, *, columns: Sequence[str], rows: int) -> Iterator[str]:
    """What a persona's plan says. Of small tables nothing is said of indexes."""
    if seen.problem:
        yield f"as {persona.name} every statement on {table} fails: {seen.problem}"
        return
    for text in seen.filters:
        for function, arguments in _calls(text):
            if any(re.search(rf"(?<![\w$]){re.escape(column)}(?![\w$])", arguments) for column in columns):
                yield (
                    f"as {persona.name} {function}() is called for each row of {table}: have it return the set, and write "
                    f"COLUMN IN (SELECT {function}())"
                )
        compared = [column for column in columns if _is_compared(column, text)]
        if compared and not seen.uses_index and rows >= MANY_ROWS:
            yield (
                f"as {persona.name} every statement reads all of {table} (about {rows:,} rows): no index serves {', '.join(compared)}; "
                "create one first"
            )


def _calls(text: str) -> Iterator[tuple[str, str]]:
    """Functions with a schema that a condition calls, each with what stands between its parentheses."""
    for found in _FUNCTION.finditer(text):
        yield found[1], text[found.end() : _closed(text, found.end()) - 1]


def _without_selects(text: str) -> str:
    """What stands outside of sub-selects: PostgreSQL asks one once, where nothing in it is about the row."""
    while (found := _SELECT.search(text)) is not None:
        text = text[: found.start()] + text[_closed(text, found.start() + 1) :]
    return text


def _closed(text: str, start: int) -> int:
    """Behind the parenthesis that closes the one before `start`."""
    depth, end = 1, start
    while depth and end < len(text):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    return end


def _is_compared(column: str, text: str) -> bool:
    """Whether a column is compared for equality, or looked up in a list."""
    name = rf'"?{re.escape(column)}"?'
    return re.search(rf"\(\(?{name}\)?(?:::[\w ]+)? = |= \(?{name}\)", text) is not None
