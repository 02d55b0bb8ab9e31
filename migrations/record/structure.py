"""What a run's proof relies on: tables, columns and sync triggers as they were when it was made, and what has changed of them since."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb

from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "structure")


@dataclass(frozen=True, kw_only=True)
class StructureChange:
    """Something that a proof relies on, and that is not any longer what it was."""

    #: The table, as files name it.
    relation: str
    #: `table`, `column total`, `sync trigger ~backfilld_sync_… on jobs`.
    what: str
    gone: bool

    @property
    def is_column(self) -> bool:
        return self.what.startswith("column ")

    def __str__(self) -> str:
        of = f" of {self.relation}" if self.is_column else f" {self.relation}" if self.what == "table" else ""
        return f"the {self.what}{of} {'is gone' if self.gone else 'has changed'}"


def remember(connection: Connection, run: int, parts: Sequence[Mapping[str, object]]) -> None:
    """Put down what a proof relies on as it is at this moment; each part is `name`, `relation`, `columns` and `trigger`."""
    connection.execute(_SQL["remember"], {"run": run, "parts": Jsonb(list(parts))})


def changes(connection: Connection, run: int) -> list[StructureChange]:
    """What has changed of that since."""
    return [StructureChange(**row) for row in connection.execute(_SQL["changes"], {"run": run}).fetchall()]
