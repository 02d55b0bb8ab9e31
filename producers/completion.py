"""What the shell offers after Tab: names of runs, phases, migration files.

Quick and silent: Tab shows no error, and does not wait for a database that is far away or down.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer  # noqa: TC002 - typer reads the annotations of these functions when it runs

from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from types import ModuleType

#: After this a person who pressed Tab types on.
PATIENCE_SECONDS = 1.0

#: Names in use first, the newest first of each.
_QUERY = "SELECT name FROM backfilld.runs ORDER BY ended_at IS NOT NULL, run DESC LIMIT 200"


def runs(context: typer.Context, incomplete: str) -> list[str]:
    """Names of runs that begin so. None when the database does not answer in time."""
    found: list[str] = []
    try:
        url = context.find_root().params.get("database_url") or os.environ.get("BACKFILLD_DATABASE_URL") or _of_file()
        asking = threading.Thread(target=_ask, args=(_psycopg(), url, found), daemon=True)
        asking.start()
        asking.join(PATIENCE_SECONDS)
    except Exception:  # noqa: BLE001, S110 - completion shows no errors; the verb itself will say what is wrong
        pass
    return [name for name in dict.fromkeys(list(found)) if name.startswith(incomplete)]


def _of_file() -> str:
    from backfilld.migrations import settings  # noqa: PLC0415 - half a second, for a backfilld.toml alone

    return settings.load().require_database()


def _psycopg() -> ModuleType:
    import psycopg  # noqa: PLC0415 - a third of a second, which phases and files do without

    return psycopg


def _ask(psycopg: ModuleType, url: str, found: list[str]) -> None:
    with (
        suppress(psycopg.Error),
        psycopg.connect(url, connect_timeout=2, application_name="backfilld completion") as connection,
    ):
        # Not `connect`, which takes longer to import: completion is waited for. psycopg has begun a transaction.
        connection.execute("SET LOCAL search_path = ''")
        found += [name for (name,) in connection.execute(_QUERY)]


def phases(incomplete: str) -> list[str]:
    return [phase for phase in Phase if phase is not Phase.DONE and phase.startswith(incomplete)]


def operations(incomplete: str) -> list[str]:
    from backfilld.producers import draft  # noqa: PLC0415 - the models of all operations, for this argument alone

    return [kind for kind in draft.OPERATIONS if kind.startswith(incomplete)]


def files(incomplete: str) -> list[str]:
    """Migration files, and folders on the way to them."""
    folder, _, begun = incomplete.rpartition("/")
    prefix = f"{folder}/" if folder or incomplete.startswith("/") else ""
    try:
        entries = sorted(os.scandir(Path(prefix or ".").expanduser()), key=lambda entry: entry.name)
    except OSError:
        return []
    return [
        f"{prefix}{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in entries
        if entry.name.startswith(begun)
        and (begun.startswith(".") or not entry.name.startswith("."))
        and (entry.is_dir() or entry.name.endswith((".yaml", ".yml")))
    ]
