"""What a physical backup needs: programs of the server's own version that run, rights, and settings. Said before anything is written."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import make_conninfo

from backfilld.migrations.backups import programs
from backfilld.migrations.backups.place import BackupFailed
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from pathlib import Path

    from backfilld.migrations.backup_settings import BackupSettings
    from backfilld.migrations.backups.place import Place
    from backfilld.migrations.postgres.connect import Connection

_SQL = queries(__package__, "physical")
#: Came with incremental backups.
INCREMENTAL = 17


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is asked of the server, and of this role there."""

    is_standby: bool
    wal_level: str
    segment_bytes: int
    #: `max_slot_wal_keep_size`, as the server writes it; `-1`: no limit.
    slot_limit: str
    summarizes: bool
    prepared_transactions: int
    tablespaces: int
    may_replicate: bool
    #: One that may log in, where there is any.
    superuser: str
    may_switch: bool


def facts(connection: Connection) -> Facts:
    return Facts(**(connection.execute(_SQL["facts"]).fetchone() or {}))


def find_server(place: Place, major: int) -> programs.Programs:
    """The programs of a server of exactly this version: no other reads its data. Raises BackupFailed."""
    found = programs.find(place.settings.programs, server_major=major)
    if found.major != major or not found.has_server:
        what = f"is of PostgreSQL {found.major}" if found.major != major else "has no postgres and initdb"
        msg = (
            f"a physical backup needs the programs and the server of PostgreSQL {major} itself, and {found.folder} {what}; "
            "install them, and say where they are: BACKFILLD_BACKUP__PROGRAMS"
        )
        raise BackupFailed(msg)
    return found


def find(place: Place, major: int) -> programs.Programs:
    """The programs of exactly this version, each of which was run once. Raises BackupFailed."""
    found = find_server(place, major)
    wanted = ["pg_basebackup", "pg_verifybackup", "pg_waldump", "pg_receivewal"]
    if major >= INCREMENTAL:
        wanted.append("pg_combinebackup")
    if problems := [said for said in (_tried(found.folder, program) for program in wanted) if said]:
        msg = f"{'; '.join(problems)}: install the client programs of PostgreSQL {major}, and set BACKFILLD_BACKUP__PROGRAMS"
        raise BackupFailed(msg)
    return found


@cache
def _tried(folder: Path, program: str) -> str:
    """Why a program is of no use; empty for one that runs. There are packages whose pg_verifybackup crashes."""
    try:
        done = subprocess.run(  # noqa: S603 - a program that the operator has installed, and no shell
            [folder / program, "--version"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except OSError as exc:
        return f"{folder}/{program}: {exc.strerror}"
    return f"{folder}/{program} --version ends with {done.returncode}" if done.returncode else ""


def require(known: Facts, settings: BackupSettings, role: str) -> None:
    """Raises BackupFailed for what the server or the role lacks, with the statement that helps. Pure."""
    if problem := _problem(known, settings, role):
        raise BackupFailed(problem)


def _problem(known: Facts, settings: BackupSettings, role: str) -> str:  # noqa: PLR0911 - one a check, in the order of remedies
    if settings.wal.folder is None and settings.wal.restore_command is None:
        return (
            "a physical backup needs the WAL that is written meanwhile: set BACKFILLD_BACKUP__WAL__FOLDER, where it is received, or "
            "BACKFILLD_BACKUP__WAL__RESTORE_COMMAND, which fetches it out of your archive"
        )
    if not known.may_replicate:
        return (
            f"the role {role} may not replicate: ALTER ROLE {role} REPLICATION; and pg_hba.conf needs a line for it: "
            f"host replication {role} ADDRESS scram-sha-256"
        )
    if known.is_standby:
        return "the server is a standby; backups are taken from the primary, which has the record"
    if known.wal_level == "minimal":
        return "wal_level is minimal, and nothing can be recovered with it: ALTER SYSTEM SET wal_level = 'replica', and restart"
    if settings.wal.folder is not None and known.slot_limit == "-1":
        return (
            "max_slot_wal_keep_size is -1: a slot whose receiver is gone would fill the server's disk: "
            "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf()"
        )
    if known.tablespaces:
        return f"the server has {known.tablespaces} tablespaces of its own, which pg_basebackup cannot stream: use pgbackrest or barman"
    return ""


def require_replication(url: str) -> None:
    """Ask for a replication connection: only this shows what pg_hba.conf and a pooler think of one. Raises BackupFailed."""
    connection = psycopg.pq.PGconn.connect(make_conninfo(url, replication="true", connect_timeout=10).encode())
    try:
        if connection.status != psycopg.pq.ConnStatus.OK:
            said = connection.error_message.decode(errors="replace").strip()
            msg = (
                f"no replication connection can be opened: {said}; pg_hba.conf needs a line `host replication ROLE ADDRESS METHOD`, and "
                "a pooler cannot pass one on: name the server itself"
            )
            raise BackupFailed(msg)
        answer = connection.exec_(b"IDENTIFY_SYSTEM")
        if answer.status != psycopg.pq.ExecStatus.TUPLES_OK:
            msg = f"what answers is no server that replicates: {connection.error_message.decode(errors='replace').strip()}"
            raise BackupFailed(msg)
    finally:
        connection.finish()
