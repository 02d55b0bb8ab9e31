"""Values for the parameters of a statement, so that it can be run: what the statistics have of the column that each is compared with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.application.usable import walk
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.application.usable import Node, Plan
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "application")

_NAME = r'(?:"(?:[^"]|"")+"|[a-z_][\w$]*)'
#: A column beside a parameter, as EXPLAIN writes it: `(jobs.status = $1)`, `(jobs.id = ANY ($1))`, `((o.name)::text ~~ $2)`.
_COMPARED = re.compile(
    rf"\(*(?P<alias>{_NAME})\.(?P<column>{_NAME})\)*(?:::[\w \"]+)?\s*(?:=|<>|<=|>=|<|>|~~\*?)\s*(?P<any>ANY \()?\(?\$(?P<number>\d+)\b"
)
_CONDITIONS = ("Index Cond", "Recheck Cond", "Filter", "Hash Cond", "Merge Cond", "Join Filter")
_LIMIT = re.compile(r"\b(LIMIT|OFFSET|FETCH\s+(?:FIRST|NEXT))\s+\$(\d+)", re.IGNORECASE)
#: What the first page of a list asks for.
_FIRST_PAGE = {"LIMIT": "10", "OFFSET": "0"}
#: A SELECT that does more than read although the transaction is read-only, or that waits.
_DOES_MORE = re.compile(
    r"\b(pg_(try_)?advisory\w*|pg_sleep\w*|pg_notify|pg_(terminate|cancel)_backend|set_config|dblink\w*|lo_\w+|nextval|setval"
    r"|pg_(read|write|ls)_\w+|http\w*|net\.\w+|pg_stat_\w*reset\w*|pg_(switch|reload)\w*|FOR\s+(NO\s+KEY\s+)?(UPDATE|SHARE)|FOR\s+KEY\s+SHARE)\b",
    re.IGNORECASE,
)


def may_run(text: str) -> bool:
    """Whether a statement only reads, as far as its text tells; the transaction is read-only besides."""
    return re.match(r"\s*\(*(SELECT|WITH|TABLE|VALUES)\b", text, re.IGNORECASE) is not None and not _DOES_MORE.search(
        text
    )


def values(connection: Connection, text: str, plan: Plan, parameters: int) -> Sequence[str] | None:
    """A literal for each parameter; None where one is not known. Raises psycopg.Error."""
    if not parameters:
        return []
    known = {int(number): _FIRST_PAGE.get(word.upper(), "1") for word, number in _LIMIT.findall(text)}
    wanted = {number: one for number, one in compared(plan.root).items() if number not in known}
    if set(range(1, parameters + 1)) - set(known) - set(wanted):
        return None
    asked = {
        "numbers": list(wanted),
        "schemas": [one[0] for one in wanted.values()],
        "tables": [one[1] for one in wanted.values()],
        "columns": [one[2] for one in wanted.values()],
    }
    for row in connection.execute(_SQL["usual_values"], asked).fetchall() if wanted else ():
        if row["value"] is None:
            return None
        is_list = wanted[row["number"]][3]
        known[row["number"]] = sql.Literal(_listed(row["value"]) if is_list else row["value"]).as_string(connection)
    return [known[number] for number in range(1, parameters + 1)] if len(known) == parameters else None


def compared(root: Node) -> dict[int, tuple[str, str, str, bool]]:
    """The column that each parameter is compared with, by its number: schema, table, column, and whether with a list."""
    nodes = list(walk(root))
    tables = {
        str(node["Alias"]): (str(node.get("Schema", "")), str(node["Relation Name"]))
        for node in nodes
        if "Alias" in node and "Relation Name" in node
    }
    found: dict[int, tuple[str, str, str, bool]] = {}
    for node in nodes:
        for condition in _CONDITIONS:
            for match in _COMPARED.finditer(str(node.get(condition, ""))):
                alias, column = (_plain(match[name]) for name in ("alias", "column"))
                if alias in tables:
                    found.setdefault(int(match["number"]), (*tables[alias], column, match["any"] is not None))
    return found


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _listed(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{{"{escaped}"}}'
