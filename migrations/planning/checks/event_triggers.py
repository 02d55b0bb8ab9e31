"""Event triggers: code of users' that every DDL statement of a run fires, and those of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from backfilld.migrations.postgres.connect import SEMANTICS, apply_settings
from backfilld.migrations.postgres.sqlstates import was_interrupted
from backfilld.migrations.postgres.user_code import event_triggers, refused_by

if TYPE_CHECKING:
    from backfilld.migrations.planning.checks.findings import Findings
    from backfilld.migrations.postgres.connect import Connection

#: One statement for each command of ours that temporary tables can be used for.
_TRIAL = (
    "CREATE TEMPORARY TABLE backfilld_trial (id integer)",
    "ALTER TABLE pg_temp.backfilld_trial ADD COLUMN n integer",
    "CREATE INDEX backfilld_trial_index ON pg_temp.backfilld_trial (n)",
    "COMMENT ON COLUMN pg_temp.backfilld_trial.n IS 'trial'",
    "DROP TABLE pg_temp.backfilld_trial",
)
#: What the statements of operations begin with, as event triggers name it.
_TAGS = {
    *("ALTER TABLE", "CREATE TABLE", "DROP TABLE", "CREATE INDEX", "DROP INDEX", "CREATE FUNCTION", "DROP FUNCTION"),
    *("CREATE TRIGGER", "DROP TRIGGER", "CREATE VIEW", "DROP VIEW", "COMMENT", "GRANT", "REVOKE", "CREATE SCHEMA"),
}


def check_event_triggers(connection: Connection, found: Findings) -> None:
    """Name the event triggers that the run fires, and refuse one whose function cannot run in our sessions."""
    found.event_triggers = event_triggers(connection)
    fire = [one for one in found.event_triggers if not one.tags or _TAGS & set(one.tags)]
    if not fire:
        return
    try:
        with connection.transaction(force_rollback=True):
            apply_settings(connection, {**SEMANTICS, "lock_timeout": "200ms", "statement_timeout": "5s"})
            for statement in _TRIAL:
                connection.execute(statement)
    except psycopg.Error as exc:
        if was_interrupted(exc) or not refuse_event_trigger(found, exc):
            raise
        return
    named = ", ".join(f"{one.name} ({one.calls})" for one in fire)
    found.warn(
        f"the DDL of a run fires event triggers, under backfilld's settings (no search_path, TimeZone UTC): {named}"
    )


def refuse_event_trigger(found: Findings, exc: psycopg.Error) -> bool:
    """Refuse the migration if the error arose in the function of an event trigger; returns whether it did."""
    finding = refused_by(found.event_triggers, exc)
    if finding is not None:
        found.findings.append(finding)
    return finding is not None
