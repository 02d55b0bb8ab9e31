"""Named queries: `queries(__package__, "runs")["insert_run"]` is the SQL under `-- name: insert_run` in `sql/runs.sql`.

SQL lives in `.sql` files, in the folder `sql` of the package that sends it, where a DBA can read it and a test can EXPLAIN it.
What names tables and columns of the user's is a template in `sql/templates`: `templates(__package__, "update")["update"]` is
filled by its `format`.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, LiteralString, cast

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Mapping

_PARAMETER = re.compile(r"%\((\w+)\)s")
_PURPOSE = re.compile(r"\A(?:--.*\n)+")
_HEADER = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def queries(package: str, file: str) -> dict[str, LiteralString]:
    """The named queries of one file of a package. Raises KeyError (on use) for a name the file does not have."""
    text = resources.files(package).joinpath("sql", f"{file}.sql").read_text(encoding="utf-8")
    parts = _HEADER.split(text)[1:]
    # The files are part of the program, so their text is as literal as if it stood here.
    return {name: cast("LiteralString", body.strip()) for name, body in zip(parts[::2], parts[1::2], strict=True)}


@cache
def templates(package: str, file: str) -> dict[str, sql.SQL]:
    """The templates of one file of a package, without their lines of purpose: one may be part of another.

    Raises KeyError (on use) for a name the file does not have.
    """
    named = queries(package, f"templates/{file}")
    return {name: sql.SQL(_PURPOSE.sub("", body)) for name, body in named.items()}


def literally(query: LiteralString, parameters: Mapping[str, str]) -> sql.Composed:
    """A named query with its parameters in its text, for a statement that is sent without any."""
    parts = _PARAMETER.split(query.replace("%%", "%"))
    return sql.Composed(
        [sql.Literal(parameters[part]) if number % 2 else sql.SQL(part) for number, part in enumerate(parts)]
    )
