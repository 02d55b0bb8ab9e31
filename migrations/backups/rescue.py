"""The rows of a backup beside the tables, in a schema of their own: compared by key, and put back where they are wrong.

    restore into a scratch server       the definitions of that day may be others than today's; or a server that somebody has restored
    copy the rows over                  one transaction a table: whole or not there
    compare by key                      missing, different, and added since
    a migration that puts them back     by lanes, under the governor, with a journal: rolled back as any other

Rows that others have written since stay as they are, but for those that are wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from psycopg import sql

from backfilld.migrations.backups import contents, prove
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.backups.providers.base import Restoring
from backfilld.migrations.backups.providers.named import provider_named
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.connect import apply_settings, connected, open_session_at
from backfilld.migrations.postgres.sessions import named
from backfilld.migrations.queries import queries, templates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.record.backups import Backup

_SQL = queries(__package__, "restore")
_TEMPLATES = templates(__package__, "restore")
#: Rows that one transaction puts back; a second's work, and no more locks than a batch has.
ROWS_PER_STEP = 5000
SAVED, NOW, MISSING, SAME = "backfilld_saved", "now", "missing", "same"


@dataclass(frozen=True, kw_only=True)
class Rescued:
    """A table beside its rows of the backup."""

    table: TableName
    #: Where the saved rows are, and the keys of those that are missing.
    saved: TableName
    missing_keys: TableName
    keys: tuple[str, ...]
    #: Columns that both have, of the same type, the keys included.
    columns: tuple[str, ...]
    #: Columns of the backup that the table has no longer, or with another type.
    left_out: tuple[str, ...]
    rows: int
    missing: int
    different: int
    #: Rows of the table that the backup does not have: they stay.
    added: int

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            **{name: str(getattr(self, name)) for name in ("table", "saved")},
            **{name: list(getattr(self, name)) for name in ("keys", "columns", "left_out")},
            **{name: getattr(self, name) for name in ("rows", "missing", "different", "added")},
        }

    def parts(self) -> dict[str, sql.Composable]:
        """What the templates ask for."""
        own = self.table.name

        def listed(names: Sequence[str], of: str | None = None) -> sql.Composed:
            return sql.SQL(", ").join(sql.Identifier(*((of, one) if of else (one,))) for one in names)

        return {
            "table": self.table.identifier,
            "saved": self.saved.identifier,
            "missing": self.missing_keys.identifier,
            "keys": listed(self.keys),
            "columns": listed(self.columns),
            "saved_keys": listed(self.keys, SAVED),
            "now_keys": listed(self.keys, NOW),
            "own_keys": listed(self.keys, own),
            "missing_keys": listed(self.keys, MISSING),
            "same_keys": listed(self.keys, SAME),
            "saved_columns": listed(self.columns, SAVED),
            "now_columns": listed(self.columns, NOW),
            "own_columns": listed(self.columns, own),
        }


def rescue(place: Place, backup: Backup, tables: Sequence[TableName], *, schema: str, watch: Watch) -> list[Rescued]:
    """Put the rows of a backup into a schema, which is made where it is not there, and compare. Parents come first.

    Raises BackupFailed, StoreFailed, psycopg.Error, and what the watch raises; a table is there whole or not at all.
    """
    provider = provider_named(backup.provider)
    if not isinstance(provider, Restoring):
        msg = (
            f"backup {backup.backup} is by {backup.provider}: take its rows from a server restored to {backup.lsn_stop}"
        )
        raise BackupFailed(msg)
    with provider.restored(place, backup, prove.reader(place, backup, watch), watch) as (url, _):
        return _rescue(place, url, tables, schema, watch)


def rescue_from(place: Place, url: str, tables: Sequence[TableName], *, schema: str, watch: Watch) -> list[Rescued]:
    """The same with the rows of another server, one that was restored to a moment say. Raises as `rescue`, and Unreachable."""
    with connected(url) as there, connected(place.url) as here:
        if contents.is_same(there, here):
            raise BackupFailed("that is this database itself: name the server that was restored")
    return _rescue(place, url, tables, schema, watch)


def _rescue(place: Place, url: str, tables: Sequence[TableName], schema: str, watch: Watch) -> list[Rescued]:
    with (
        open_session_at(url, application_name=named("restore"), settings=contents.SESSION) as saved,
        connected(place.url) as connection,
    ):
        found = _parents_first(connection, tables)
        names = Counter(one.name for one in found)
        into = {
            one: TableName(schema, one.name if names[one.name] == 1 else f"{one.schema}_{one.name}") for one in found
        }
        _require_free(
            connection, [*into.values(), *(_missing_keys(schema, number) for number in range(1, len(found) + 1))]
        )
        return [
            _rescue_one(connection, saved, table, into[table], number=number, watch=watch)
            for number, table in enumerate(found, 1)
        ]


def _missing_keys(schema: str, number: int) -> TableName:
    return TableName(schema, f"backfilld_missing_{number}")


def _require_free(connection: Connection, tables: Iterable[TableName]) -> None:
    """Raises BackupFailed where an earlier restore has left its rows: they are not mixed with others."""
    for one in tables:
        row = connection.execute("SELECT to_regclass(%s) AS there", [one.identifier.as_string()]).fetchone() or {}
        if row["there"] is not None:
            msg = f"{one} is there already, from an earlier restore say: give another schema, or drop it"
            raise BackupFailed(msg)


def _parents_first(connection: Connection, tables: Sequence[TableName]) -> list[TableName]:
    asked = {"schemas": [one.schema for one in tables], "names": [one.name for one in tables]}
    there = [TableName(row["schema"], row["name"]) for row in connection.execute(_SQL["parents_first"], asked)]
    if gone := [str(one) for one in tables if one not in there]:
        msg = (
            f"the table {gone[0]} is not there any more: make it again from the definitions in the backup, "
            "as docs/disaster.md has it, then ask again"
        )
        raise BackupFailed(msg)
    return there


def _rescue_one(  # noqa: PLR0913 - each is named where it is called
    connection: Connection, scratch: Connection, table: TableName, saved: TableName, *, number: int, watch: Watch
) -> Rescued:
    were, are = (_columns(session, table) for session in (scratch, connection))
    if not were:
        msg = f"what was saved has no table {table}"
        raise BackupFailed(msg)
    keys = tuple(name for name, (_, is_key) in are.items() if is_key)
    if not keys or any(key not in were for key in keys):
        msg = f"{table} has no primary key that it had then too, so rows cannot be compared"
        raise BackupFailed(msg)
    columns = tuple(name for name, (kind, _) in are.items() if name in were and were[name][0] == kind)
    found = Rescued(
        table=table,
        saved=saved,
        missing_keys=_missing_keys(saved.schema, number),
        keys=keys,
        columns=columns,
        left_out=tuple(name for name in were if name not in columns),
        rows=0,
        missing=0,
        different=0,
        added=0,
    )
    with connection.transaction():
        apply_settings(connection, {name: value for name, value in contents.SESSION.items() if name != "row_security"})
        _make(connection, found, were, are)
        rows = _copy(scratch, connection, found, watch)
        parts = found.parts()
        missing = connection.execute(_TEMPLATES["missing"].format(**parts)).rowcount
        counts = connection.execute(_TEMPLATES["different"].format(**parts)).fetchone() or {}
    return Rescued(**{**vars(found), "rows": rows, "missing": missing, **counts})


def _columns(session: Connection, table: TableName) -> dict[str, tuple[str, bool]]:
    rows = session.execute(_SQL["columns"], {"schema": table.schema, "name": table.name}).fetchall()
    return {row["name"]: (row["type"], row["is_key"]) for row in rows}


def _make(
    connection: Connection, found: Rescued, were: dict[str, tuple[str, bool]], are: dict[str, tuple[str, bool]]
) -> None:
    """Make the tables of the rescue, for nobody else to read: they hold what people have trusted the application with."""
    schema = sql.Identifier(found.saved.schema)
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
    keys = sql.SQL(", ").join(map(sql.Identifier, found.keys))
    # What has another type by now is kept as text, to be looked at.
    saved = sql.SQL(", ").join(
        sql.SQL("{} {}").format(
            sql.Identifier(name),
            sql.SQL(are[name][0] if name in found.columns else "text"),  # as the catalog writes it
        )
        for name in were
    )
    of_keys = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(are[name][0])) for name in found.keys
    )
    for place, columns in (
        (found.saved, saved),
        (found.missing_keys, sql.SQL("number bigint UNIQUE, {}").format(of_keys)),
    ):
        connection.execute(sql.SQL("CREATE TABLE {} ({}, PRIMARY KEY ({}))").format(place.identifier, columns, keys))
        connection.execute("SELECT backfilld.hide(%s::regclass)", [place.identifier.as_string()])


def _copy(scratch: Connection, connection: Connection, found: Rescued, watch: Watch) -> int:
    columns = sql.SQL(", ").join(map(sql.Identifier, (*found.columns, *found.left_out)))
    out = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(columns, found.table.identifier)
    into = sql.SQL("COPY {} ({}) FROM STDIN").format(found.saved.identifier, columns)
    with scratch.cursor() as source, connection.cursor() as target:
        with source.copy(out) as reading, target.copy(into) as writing:
            for part in reading:
                writing.write(part)
                watch()
        rows = target.rowcount
    connection.execute(sql.SQL("ANALYZE {}").format(found.saved.identifier))
    return rows


def name_of(schema: str, is_taken: Callable[[str], bool]) -> str:
    """What the run is called that puts rows of this schema back: nothing that another is called already."""
    base = "restore-" + (re.sub(r"[^a-z0-9]+", "-", schema.lower()).strip("-")[:40] or "rows")
    names = chain([base], (f"{base}-{number}" for number in count(2)))
    return next(name for name in names if not is_taken(name))


def migration(name: str, rescued: Sequence[Rescued]) -> dict[str, Any] | None:
    """The migration that puts back what is missing, then what is different; None where nothing is. Any: as a file has it.

    It asks for no backup of its own: its journal and its steps bring back what it replaces.
    """
    operations: list[dict[str, Any]] = []
    for one in rescued:
        parts = one.parts()
        if one.missing:
            # A step has as many rows as a batch, whatever the linter thinks of it.
            operations.append(
                {"sql": {"table": str(one.table), "allow": ["data-change"], "steps": _inserts(one, parts)}}
            )
    for one in rescued:
        parts = one.parts()
        wanted = [column for column in one.columns if column not in one.keys]
        if one.different and wanted:
            values = {
                column: _text("saved_value", parts, saved_column=sql.Identifier(SAVED, column)) for column in wanted
            }
            where = _text("is_wrong", parts)
            operations.append({"backfill": {"table": str(one.table), "set": values, "where": where}})
    settings = {"backup": {"require": "off"}}
    return {"name": name, "operations": operations, "settings": settings} if operations else None


def _inserts(one: Rescued, parts: dict[str, sql.Composable]) -> list[dict[str, str]]:
    steps = []
    for first in range(1, one.missing + 1, ROWS_PER_STEP):
        reach = {"first": sql.Literal(first), "last": sql.Literal(min(first + ROWS_PER_STEP - 1, one.missing))}
        steps.append({"run": _text("insert", parts, **reach), "rollback": _text("delete", parts, **reach)})
    return steps


def _text(template: str, parts: dict[str, sql.Composable], **more: sql.Composable) -> str:
    return _TEMPLATES[template].format(**parts, **more).as_string()
