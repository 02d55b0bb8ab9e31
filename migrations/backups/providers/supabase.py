"""Point-in-time recovery of a Supabase project, by its Management API: a moment is put on record, and waited for until it can be recovered.

    the row `taking` is committed       the marker: whatever is recovered to the moment has it
    the moment                          the next whole second, as the API knows no other, and the whole second after it is ours too
    a write every few seconds           WAL of a project that is idle is not shipped
    latest ≥ the moment                 only then is it taken, so the first change of a run is at least a second later

The project can be restored in place only, which a person asks for: `backfilld restore RUN --in-place --yes`.
"""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from backfilld.migrations import exchange
from backfilld.migrations.backups import tools
from backfilld.migrations.backups.place import LOOK_SECONDS, BackupFailed, NotWhole
from backfilld.migrations.backups.providers.external import External, Kept

if TYPE_CHECKING:
    from backfilld.migrations.backup_settings import SupabaseSettings
    from backfilld.migrations.backups.contents import Server
    from backfilld.migrations.backups.place import Place, Watch
    from backfilld.migrations.backups.providers.base import Read, Task
    from backfilld.migrations.record.backups import Backup

#: For one exchange, connecting included.
EXCHANGE_SECONDS = 30.0
#: After the moment comes a whole second in which nothing of the run happens: recovery stops at a second, and not within one.
QUIET_SECONDS = 1.0
_MOST_BYTES = 1024 * 1024
#: What an answer of the API means for who set this up.
_MEANS = {
    401: "the token is not valid (backup.supabase.token)",
    402: "the plan of the project does not include it",
    403: "the token may not do it (it needs the right to read and restore backups)",
    404: "there is no project of this reference (backup.supabase.project)",
    429: "too many requests; it is tried again",
}


class OutcomeUnknown(BackupFailed):
    """A restore was asked for, and whether it was begun is not known: look at the project before anything else is done."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The moments that a project can be recovered to, in whole seconds since 1970."""

    earliest: int
    latest: int
    region: str

    def has(self, moment: int) -> bool:
        return self.earliest <= moment <= self.latest

    def in_words(self) -> str:
        return f"from {_when(self.earliest)} to {_when(self.latest)}"


class Supabase(External):
    """The provider `supabase`."""

    name = "supabase"

    def able(self, place: Place, server: Server) -> str:  # noqa: ARG002 - nothing depends on its version
        window(_settings(place))
        return "Management API v1"

    def keep(self, task: Task) -> Kept:
        settings = _settings(task.place)
        moment = math.floor(_now(task).timestamp()) + 1
        deadline = time.monotonic() + settings.wait_seconds
        while True:
            found = window(settings)
            if found.earliest > moment:
                msg = f"the project can be recovered {found.in_words()}, which is after {_when(moment)}: are the clocks right?"
                raise BackupFailed(msg)
            if found.has(moment) and _now(task).timestamp() >= moment + QUIET_SECONDS:
                break
            if time.monotonic() > deadline:
                msg = (
                    f"{_when(moment)} cannot be recovered after {settings.wait_seconds:.0f} s: the project can be recovered "
                    f"{found.in_words()}"
                )
                raise BackupFailed(msg)
            _sleep(settings.poll_seconds, task.watch)
        return Kept(
            reference=str(moment),
            where=f"project {settings.project}{f' in {found.region}' if found.region else ''}",
            at=datetime.fromtimestamp(moment, UTC),
            details={"project": settings.project, "moment": moment},
        )

    def verify(self, place: Place, backup: Backup, read: Read, watch: Watch) -> None:  # noqa: ARG002 - it has no objects
        found = window(_settings_for(place, backup))
        if not found.has(moment_of(backup)):
            raise NotWhole(f"the project can be recovered {found.in_words()}, and not to {_when(moment_of(backup))}")


def moment_of(backup: Backup) -> int:
    """What it is a backup of, in whole seconds since 1970."""
    return int(backup.details["moment"])


def window(settings: SupabaseSettings) -> Window:
    """What the project can be recovered to now. Raises BackupFailed where it cannot, or cannot be asked."""
    found = _ask(settings, "GET", "/database/backups")
    if not found.get("pitr_enabled"):
        daily = len(found.get("backups") or ())
        msg = (
            f"point-in-time recovery is off for project {settings.project} ({daily} daily backups are there, which no run can be "
            "taken back to): turn on its add-on, or use the provider pg_dump"
        )
        raise BackupFailed(msg)
    data = found.get("physical_backup_data") or {}
    try:
        return Window(
            earliest=int(data["earliest_physical_backup_date_unix"]),
            latest=int(data["latest_physical_backup_date_unix"]),
            region=str(found.get("region") or ""),
        )
    except (KeyError, TypeError, ValueError):
        msg = f"project {settings.project} has point-in-time recovery, and nothing to recover to yet: its first backup is being taken"
        raise BackupFailed(msg) from None


def restore_in_place(place: Place, backup: Backup) -> int:
    """Have the project restored to the moment of a backup; returns it. Everything written since is lost.

    Raises BackupFailed where nothing was begun, and OutcomeUnknown where that is not known.
    """
    settings = _settings_for(place, backup)
    moment = moment_of(backup)
    found = window(settings)
    if not found.has(moment):
        msg = f"the project can be recovered {found.in_words()}, and not to {_when(moment)}"
        raise BackupFailed(msg)
    _ask(settings, "POST", "/database/backups/restore-pitr", {"recovery_time_target_unix": moment})
    return moment


def status(settings: SupabaseSettings) -> str:
    """As the API calls it; `ACTIVE_HEALTHY` when it can be used. Raises BackupFailed."""
    return str(_ask(settings, "GET", "").get("status"))


def _ask(settings: SupabaseSettings, method: str, path: str, body: dict[str, int] | None = None) -> dict[str, Any]:
    """The answer to one request. Any: JSON. Raises BackupFailed; OutcomeUnknown for a POST that may have been heard."""
    url = urlsplit(f"{settings.url}/v1/projects/{settings.project}{path}")
    token = settings.token.get_secret_value()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "User-Agent": "backfilld"}
    late = threading.Event()
    sent = False
    try:
        with exchange.connected(url, timeout_seconds=EXCHANGE_SECONDS, late=late) as client:
            sent = True
            client.request(method, exchange.target(url), body=json.dumps(body) if body else None, headers=headers)
            with client.getresponse() as got:
                raw = got.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        why = (
            f"no answer within {EXCHANGE_SECONDS:g} s"
            if late.is_set()
            else tools.hidden(str(exc) or repr(exc), [token])
        )
        kind = OutcomeUnknown if sent and method == "POST" else BackupFailed
        raise kind(f"{url.hostname} cannot be asked: {why}") from None
    if late.is_set():
        kind = OutcomeUnknown if method == "POST" else BackupFailed
        raise kind(f"{url.hostname} cannot be asked: no whole answer within {EXCHANGE_SECONDS:g} s")
    if got.status >= http.client.BAD_REQUEST:
        means = _MEANS.get(got.status) or tools.hidden(raw[:300].decode(errors="replace").strip(), [token])
        kind = OutcomeUnknown if method == "POST" and got.status >= http.client.INTERNAL_SERVER_ERROR else BackupFailed
        raise kind(f"{url.hostname} answers {got.status} to {method} {path or '/'}: {means}")
    if method == "POST":
        return {}
    found = tools.json_of(raw.decode(errors="replace"), url.hostname or "", secrets=[token])
    if not isinstance(found, dict):
        raise BackupFailed(f"{url.hostname} answers {method} {path} with JSON that is no object")
    return found


def _settings(place: Place) -> SupabaseSettings:
    if place.settings.supabase is None:
        raise BackupFailed("this process knows no project of Supabase: set backup.supabase, as docs/backup.md has it")
    return place.settings.supabase


def _settings_for(place: Place, backup: Backup) -> SupabaseSettings:
    """Raises BackupFailed where the settings name another project than the one it is of."""
    settings = _settings(place)
    if (project := backup.details.get("project")) != settings.project:
        raise BackupFailed(f"backup {backup.backup} is of project {project}, and the settings name {settings.project}")
    return settings


def _now(task: Task) -> datetime:
    """By the clock of the database, by which recovery stops."""
    row = task.session.execute("SELECT clock_timestamp() AS now").fetchone()
    if row is None:
        raise LookupError("clock_timestamp")
    now: datetime = row["now"]
    return now


def _sleep(seconds: float, watch: Watch) -> None:
    """Raises what the watch raises; what it holds for is not ours: nothing is read from the server."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        watch()
        time.sleep(min(left, LOOK_SECONDS))
    watch()


def _when(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"
