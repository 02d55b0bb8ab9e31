"""The view of our sessions reads names as Python does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from backfilld.migrations.postgres.sessions import Doing, SessionName, named, tidying

if TYPE_CHECKING:
    from fix_runs import Engine

NAMES = [
    *(str(SessionName(run=7, lane=lane, seq=31, doing=doing)) for lane in (0, 2) for doing in Doing),
    named("governor"),
    tidying(7),
    "app",
    "backfilld run=x lane=1 seq=1",
    "backfilld run=7 lane=1 seq=1 sleeping",
    "backfilld run=7",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_view_agrees_with_the_parser(engine: Engine, name: str) -> None:
    expected = SessionName.parse(name)
    with engine.connect() as session:
        session.execute("SELECT set_config('application_name', %s, false)", [name])
        rows = engine.execute(
            "SELECT run, lane, seq, doing, is_here, is_mine, state FROM backfilld.own_sessions WHERE pid = %s",
            session.info.backend_pid,
        )
    if expected is None:
        assert rows == []
    else:
        (row,) = rows
        assert (row["run"], row["lane"], row["seq"], Doing(row["doing"])) == (
            expected.run,
            expected.lane,
            expected.seq,
            expected.doing,
        )
        assert (row["is_here"], row["is_mine"], row["state"]) == (True, True, "idle")


def test_another_role_and_another_database_are_told_apart(
    engine: Engine, plain_role: tuple[str, str], empty_database_url: str
) -> None:
    name, _ = plain_role
    ours = str(SessionName(run=7, lane=1, seq=1))
    with engine.connect() as other, psycopg.connect(empty_database_url, application_name=ours, autocommit=True) as away:
        other.execute(f'SET SESSION AUTHORIZATION "{name}"')
        other.execute("SELECT set_config('application_name', %s, false)", [ours])
        found = {
            row["pid"]: (row["is_here"], row["is_mine"])
            for row in engine.execute("SELECT pid, is_here, is_mine FROM backfilld.own_sessions")
        }
        assert found[away.info.backend_pid] == (False, True)
        assert found[other.info.backend_pid][0]
