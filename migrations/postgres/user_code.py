"""Code of users' that statements of ours run: the triggers of a table, event triggers, and what is handed whole rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import errors, sql

from backfilld.migrations.errors import Finding
from backfilld.migrations.postgres.sqlstates import in_words
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import psycopg

    from backfilld.migrations.postgres.catalog import Table
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "catalog")

#: A whole row: `NEW`, `OLD.*`, `ROW(NEW.*)`; not `NEW.status`.
_ROW = r"(?:ROW\s*)?\(*\s*(?:NEW|OLD)(?:\s*\.\s*\*)?\s*\)*"
_COMPARES_ROWS = re.compile(
    rf"(?<![\w.]){_ROW}\s*(?:\bIS\s+(?:NOT\s+)?DISTINCT\s+FROM\b|=|<>|!=|<=?|>=?)\s*{_ROW}(?!\w|\s*\.)", re.IGNORECASE
)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class UserTrigger:
    """A trigger, or an event trigger, and its function."""

    name: str
    schema: str
    function: str

    @property
    def calls(self) -> str:
        return f"{self.schema}.{self.function}()"

    def is_in(self, context: str) -> bool:
        """Whether an error arose in its function, by what PostgreSQL says of where: `PL/pgSQL function audit() line 3 at …`."""
        name = re.escape(self.function)
        return re.search(rf'(?<![\w.])(?:"?{re.escape(self.schema)}"?\.)?"?{name}"?(?:\(|"|\s)', context) is not None


@dataclass(frozen=True, kw_only=True)
class TableTrigger(UserTrigger):
    """A trigger of a table."""

    #: It fires for each row, and not for each statement.
    for_rows: bool
    #: Its function has effects that a rollback does not take back.
    reaches_outside: bool


@dataclass(frozen=True, kw_only=True)
class EventTrigger(UserTrigger):
    """An event trigger."""

    #: The commands it fires for; empty for all.
    tags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Body:
    """A function, and the text of what it does."""

    name: str
    code: str


def called_functions(connection: Connection, names: Sequence[tuple[str, str]]) -> tuple[Body, ...]:
    """The functions of users' of these names, by schema and name, and those whose names stand in their bodies, and so on."""
    rows = connection.execute(
        _SQL["called_functions"], {"schemas": [one[0] for one in names], "names": [one[1] for one in names]}
    )
    return tuple(Body(**row) for row in rows)


def blamed(triggers: Iterable[UserTrigger], exc: psycopg.Error) -> UserTrigger | None:
    """The trigger in whose function an error arose."""
    context = exc.diag.context or ""
    return next((trigger for trigger in triggers if trigger.is_in(context)), None)


def fired(connection: Connection, table: Table, columns: Sequence[str]) -> tuple[TableTrigger, ...]:
    """The triggers that an UPDATE of these columns fires; ours aside."""
    rows = connection.execute(_SQL["fired_triggers"], {"oid": table.oid, "columns": list(columns)})
    return tuple(TableTrigger(**row) for row in rows)


def event_triggers(connection: Connection) -> tuple[EventTrigger, ...]:
    """The event triggers that DDL fires."""
    rows = connection.execute(_SQL["event_triggers"])
    return tuple(EventTrigger(**{**row, "tags": tuple(row["tags"])}) for row in rows)


def update_rules(connection: Connection, table: Table) -> tuple[str, ...]:
    """The rules that rewrite an UPDATE of a table."""
    return tuple(row["name"] for row in connection.execute(_SQL["update_rules"], {"oid": table.oid}))


def refused_by(triggers: Iterable[EventTrigger], exc: psycopg.Error) -> Finding | None:
    """What to say of an error that arose in the function of an event trigger; None for another."""
    trigger = blamed(triggers, exc)
    if trigger is None:
        return None
    return Finding(
        "event_trigger",
        f"the event trigger {trigger.name} ({trigger.calls}) fails for DDL of ours with {exc.sqlstate}: {in_words(exc)}",
        "DDL runs without a search_path and as this role: name the schemas in the function, or fix its path with "
        f"ALTER FUNCTION {trigger.calls} SET search_path = …, and let it accept the change",
    )


def compares_rows(code: str) -> bool:
    """Whether a piece of SQL or PL/pgSQL compares NEW and OLD as a whole."""
    return _COMPARES_ROWS.search(_COMMENT.sub(" ", code)) is not None


def row_comparisons(connection: Connection, table: Table) -> tuple[str, ...]:
    """The triggers and rules of a table that compare whole rows, by kind and name."""
    rows = connection.execute(_SQL["row_code"], {"oid": table.oid}).fetchall()
    return tuple(f"{row['kind']} {row['name']}" for row in rows if compares_rows(row["code"]))


def rows_compare(connection: Connection, type_: str) -> bool:
    """Whether rows with a column of this type can be compared: PostgreSQL looks for an operator class, not for an operator."""
    value = sql.SQL("ROW(CAST(NULL AS {}))::pg_catalog.record").format(sql.SQL(type_))
    try:
        with connection.transaction():
            connection.execute("SET LOCAL search_path = ''")
            connection.execute(sql.SQL("SELECT {} OPERATOR(pg_catalog.=) {}").format(value, value))
    except errors.UndefinedFunction:
        return False
    return True
