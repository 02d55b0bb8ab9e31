"""A DEFAULT gives what `up` makes of the old one in every session, whatever its time zone, at every moment of the change."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from fix_runs import expect

from backfilld.migrations.errors import Refused
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands

if TYPE_CHECKING:
    from fix_runs import Engine

#: The old type with its DEFAULT, the new type, and what gives the new value from the old one, and back, where that is no cast.
COLUMNS = {
    "utc": ("timestamp", "timezone('utc', now())", "timestamptz", "", ""),
    "local": ("timestamp(3)", "LOCALTIMESTAMP", "timestamptz(3)", "", ""),
    "fixed": ("timestamp", "'2020-01-01 12:00'", "timestamptz", "", ""),
    "moment": ("timestamptz", "now()", "timestamp", "", ""),
    "day": ("date", "CURRENT_DATE", "timestamptz", "", ""),
    "to_day": ("timestamptz", "now()", "date", "", ""),
    "berlin": (
        "timestamp",
        "now() AT TIME ZONE 'Europe/Berlin'",
        "timestamptz",
        "berlin AT TIME ZONE 'Europe/Berlin'",
        "berlin AT TIME ZONE 'Europe/Berlin'",
    ),
    "cents": ("integer", "5", "bigint", "jobs.cents * 100", "cents / 100"),
    "mixed": ("text", "'A'", "varchar(9)", """lower("mixed") || 'mixed' """, "upper(left(mixed, 1))"),
}
ZONES = ("UTC", "Asia/Tokyo", "America/New_York")


def migration() -> str:
    operations = [
        {"change_type": {"table": "jobs", "column": name, "type": type_, **({"up": up, "down": down} if up else {})}}
        for name, (_, _, type_, up, down) in COLUMNS.items()
    ]
    return json.dumps(
        {"name": "zones", "operations": operations, "settings": {"lanes": 1, "approve": ["switch", "contract"]}}
    )


def wrong(engine: Engine, zone: str, *, changed: bool) -> dict[str, object]:
    """Columns of a row that was just added in a session of this time zone whose value is not what it must be."""
    # Read as text before the table, so that nothing but a literal reaches the comparison.
    olds = ", ".join(f"CAST({default} AS {old}) AS {name}" for name, (old, default, *_) in COLUMNS.items())
    wanted = ", ".join(
        f"(SELECT CAST(({(up if changed else '') or name}) AS {new if changed else old}) "
        f"FROM (SELECT jobs.{name}) AS jobs)::text AS {name}"
        for name, (old, _, new, up, _) in COLUMNS.items()
    )
    found = ", ".join(f"{name}::text" for name in COLUMNS)
    with closing(engine.connect()) as session, session.transaction():
        session.execute(f"SET LOCAL TimeZone = '{zone}'".encode())
        session.execute(f"CREATE TEMPORARY TABLE old ON COMMIT DROP AS SELECT {olds}".encode())
        session.execute("INSERT INTO jobs (id) SELECT max(id) + 1 FROM jobs")
        session.execute("SET LOCAL TimeZone = 'UTC'")
        expected = session.execute(f"SELECT {wanted} FROM old AS jobs".encode()).fetchone() or {}
        row = session.execute(f"SELECT {found} FROM jobs ORDER BY id DESC LIMIT 1".encode()).fetchone() or {}
    return {name: (row[name], expected[name]) for name in COLUMNS if row[name] != expected[name]}


def test_the_default_is_the_same_moment_in_every_session(engine: Engine) -> None:
    columns = ", ".join(f"{name} {old} DEFAULT ({default})" for name, (old, default, *_) in COLUMNS.items())
    engine.execute(f"CREATE TABLE jobs (id bigint PRIMARY KEY, {columns})")
    engine.execute("INSERT INTO jobs (id) SELECT n FROM generate_series(1, 5) n")
    defaults = "SELECT pg_get_expr(adbin, adrelid) AS one FROM pg_attrdef WHERE adrelid = 'jobs'::regclass ORDER BY 1"
    before = engine.execute(defaults)
    run = engine.enqueue(migration())

    expect(engine.drive(run), State.WAITING)
    assert [wrong(engine, zone, changed=False) for zone in ZONES] == [{}] * 3, "before the switch"
    for phase in (Phase.SWITCH, Phase.CONTRACT):
        commands.approve(engine.connection, run, phase, actor="ann")
        engine.drive(run)
        assert [wrong(engine, zone, changed=True) for zone in ZONES] == [{}] * 3, f"after {phase}"
    expect(engine.run(run), State.COMPLETED)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert [wrong(engine, zone, changed=False) for zone in ZONES] == [{}] * 3, "after the rollback"
    assert engine.execute(defaults) == before


@pytest.mark.parametrize(
    ("column", "change"),
    [
        pytest.param(
            "timestamp DEFAULT LOCALTIMESTAMP",
            "timestamptz, up: \"at::timestamptz + interval '1 hour'\"",
            id="a setting",
        ),
        pytest.param("integer DEFAULT 1", 'bigint, up: "at + id"', id="another column"),
        pytest.param("text DEFAULT gen_random_uuid()::text", 'varchar, up: "at || at"', id="asked twice"),
    ],
)
def test_one_that_cannot_be_the_same_is_refused(engine: Engine, column: str, change: str) -> None:
    engine.execute(f"CREATE TABLE jobs (id bigint PRIMARY KEY, at {column})")
    text = f"name: zones\noperations: [{{change_type: {{table: jobs, column: at, type: {change}, down: 'null'}}}}]"
    with pytest.raises(Refused) as refused:
        engine.enqueue(text)
    (finding,) = refused.value.findings
    assert finding.check == "default"
    assert "default:" in finding.remedy
    assert engine.enqueue(text.replace("down: 'null'", "down: 'null', default: 'null'"))
