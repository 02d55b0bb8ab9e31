"""The control schema: made, brought up to date, or refused when it is newer than this program."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors, sql

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.postgres.sqlstates import server_is_gone
from backfilld.migrations.postgres.user_code import event_triggers, refused_by
from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.postgres.connect import Connection

#: What there is to do about a publication that sends our tables on: PostgreSQL can leave none out of one for all tables.
PUBLISH_A_LIST = (
    "Publish a list of tables, or (from PostgreSQL 15 on) TABLES IN SCHEMA of the application's schemas, instead"
)

#: Advisory lock under which the schema changes; any constant does, as long as all releases use the same.
_LOCK = 0x6261636B66696C6C  # "backfill"


#: Stands for a query of `migrations/postgres/sql/`, in a function that has its parameters in this order.
_INCLUDED = re.compile(r"/\* query: (?P<name>\w+)\((?P<parameters>[\w, ]+)\) \*/")


def _query(found: re.Match[str]) -> str:
    text = str(queries("backfilld.migrations.postgres", found["name"])[found["name"]])
    for number, parameter in enumerate(found["parameters"].split(", "), start=1):
        text = text.replace(f"%({parameter})s", f"${number}")
    return text


@cache
def versions() -> tuple[tuple[int, str], ...]:
    """The versions of the control schema, in order, as (number, SQL)."""
    files = sorted(
        (
            file
            for file in resources.files(__package__).joinpath("sql", "schema").iterdir()
            if file.name.endswith(".sql")
        ),
        key=lambda file: file.name,
    )
    return tuple(
        (int(file.name.split("_")[0]), _INCLUDED.sub(_query, file.read_text(encoding="utf-8"))) for file in files
    )


def newest() -> int:
    """The version this program knows."""
    return versions()[-1][0]


def version(connection: Connection) -> int:
    """The version the database has; 0 when there is none."""
    row = connection.execute("SELECT to_regclass('backfilld.schema_version') IS NOT NULL AS present").fetchone()
    if row is None or not row["present"]:
        return 0
    row = connection.execute("SELECT coalesce(max(version), 0) AS version FROM backfilld.schema_version").fetchone()
    return int(row["version"]) if row else 0


def check(connection: Connection) -> None:
    """Refuse a database whose control schema this program does not know. Raises Refused."""
    check_dates(connection)
    found = version(connection)
    if found > newest():
        raise Refused(
            [
                Finding(
                    "schema_version",
                    f"the schema backfilld in the database has version {found}, and this release knows versions "
                    f"up to {newest()}",
                    "Use the release that created it, or a newer one",
                )
            ]
        )


def check_dates(connection: Connection) -> None:
    """Refuse dates in another notation than ISO, in which our own timestamps could not be read. Raises Refused."""
    row = connection.execute("SELECT current_setting('DateStyle') AS style, current_user::text AS role").fetchone()
    if row and not row["style"].startswith("ISO"):
        raise Refused(
            [
                Finding(
                    "date_style",
                    f"the DateStyle of this role is {row['style']}",
                    f"ALTER ROLE {row['role']} SET DateStyle = 'ISO, MDY' (the application's own roles may keep theirs)",
                )
            ]
        )


def publishing(connection: Connection) -> list[str]:
    """Publications that send our tables on, or will once there are any."""
    rows = connection.execute(
        "SELECT p.pubname::text AS name FROM pg_catalog.pg_publication p WHERE p.puballtables OR EXISTS ("
        "SELECT FROM pg_catalog.pg_publication_tables t WHERE t.pubname = p.pubname AND t.schemaname = 'backfilld') ORDER BY 1"
    ).fetchall()
    return [row["name"] for row in rows]


def published_because(publications: Sequence[str]) -> str:
    """Why it is harmful that these publications send our tables on."""
    which = f"the publication{'s' if len(publications) > 1 else ''} {', '.join(publications)}"
    return (
        f"{which} would send on the tables of backfilld, those included that each run makes for itself: a PostgreSQL subscriber "
        "stops at the first change of a table that it does not have"
    )


def ensure(connection: Connection, *, published: bool = False) -> list[int]:
    """Make the control schema, or bring it up to date; returns the versions applied.

    All in one transaction under an advisory lock: two workers that start together do it once, and a failure leaves
    what was there. Raises Refused for a newer schema, when the role may not create it, and, unless `published`, where a
    publication would send it on.
    """
    check(connection)
    if version(connection) == newest():
        return []
    if not published and version(connection) == 0 and (publications := publishing(connection)):
        remedy = (
            f"{PUBLISH_A_LIST}; or, where whatever reads it ignores tables that it does not know, as Debezium can: "
            "backfilld init --published"
        )
        raise Refused([Finding("publication", published_because(publications), remedy)])
    try:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            connection.execute("SET LOCAL search_path = ''")
            connection.execute("SET LOCAL lock_timeout = '5s'")
            check(connection)
            connection.execute("CREATE SCHEMA IF NOT EXISTS backfilld")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS backfilld.schema_version ("
                "version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
            )
            found = version(connection)
            applied = [number for number, _ in versions() if number > found]
            for number, text in versions():
                if number > found:
                    connection.execute(sql.SQL(text))  # read from a file of this package
                    connection.execute("INSERT INTO backfilld.schema_version (version) VALUES (%s)", [number])
            return applied
    except errors.InsufficientPrivilege as exc:
        raise Refused(
            [
                Finding(
                    "schema_privilege",
                    f"this role may not create the schema backfilld: {exc.diag.message_primary}",
                    "Run `backfilld init` as a role that has CREATE on the database, or grant it",
                )
            ]
        ) from exc
    except psycopg.Error as exc:
        if server_is_gone(exc) or (finding := refused_by(event_triggers(connection), exc)) is None:
            raise
        raise Refused([finding]) from exc
