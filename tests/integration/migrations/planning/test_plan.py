"""What `plan` shows a person of each example, kept in files that a person can read."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING

from paths import ROOT
from rich.console import Console

from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine, plan, policy_preview
from backfilld.monitoring import display

if TYPE_CHECKING:
    from pathlib import Path

    from fix_golden import Golden
    from fix_runs import Engine

EXAMPLES = ROOT / "examples"
#: pgbench makes its own tables.
PGBENCH = "CREATE TABLE pgbench_accounts (aid integer PRIMARY KEY, bid integer, abalance integer, filler character(84))"
#: What autovacuum learns of a table in the middle changes what is expected of it.
STAY_AS_THEY_ARE = """
DO $$ DECLARE one regclass; BEGIN
    FOR one IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace LOOP
        EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', one);
    END LOOP;
END $$
"""
#: Plans that are others on an older server: before 15 a view has no security_invoker, before 17 a table in partitions no identity,
#: before 18 a NOT NULL no name.
SHOWN_SINCE = {"orders_to_purchases": 15, "orders_partitioned": 18, "orders_anew": 18}
#: Sizes and what is reckoned from them depend on the server's version and build.
_TIME = re.compile(r"\babout [\d,]+ ms\b")
#: Where its lines break depends on the time in it.
_TIMED = re.compile(r"in one transaction, which holds [^:]*:")
_SIZE = re.compile(r"\b\d+(\.\d+)? (B|kB|MB|GB)\b|\(\+\d+%\)|\babout \d+%")


def shown(engine: Engine, file: Path) -> str:
    migration = definition.load(file)
    found = examine.examine(engine.connection, migration)
    made = plan.make(migration, found, policies=policy_preview.look(engine.connection, migration, found))
    page = io.StringIO()
    Console(file=page, width=100, color_system=None).print(display.plan(made))
    text = _TIMED.sub(lambda found: " ".join(found[0].split()), page.getvalue())
    text = _TIME.sub("about <time>", _SIZE.sub("<size>", text))
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def test_a_plan_is_read_at_eighty_columns_and_by_programs(engine: Engine) -> None:
    engine.execute((EXAMPLES / "schema.sql").read_text(encoding="utf-8"))
    migration = definition.load(EXAMPLES / "jobs_priority.yaml")
    made = plan.make(migration, examine.examine(engine.connection, migration))
    page = io.StringIO()
    Console(file=page, width=80, color_system=None).print(display.plan(made))
    assert max(map(len, page.getvalue().splitlines())) <= 80

    told = json.loads(json.dumps(made.to_json()))
    assert [one["summary"] for one in told["operations"]] == ["add_column jobs: priority integer", "sql in switch"]
    (view, *_) = next(phase["actions"] for phase in told["phases"] if phase["phase"] == "switch")
    assert (view["operation"], view["lock"], view["hold"], view["known"]) == (1, "ACCESS SHARE", "brief", "measured")
    impacts = {(one["operation"], one["kind"], one["name"]) for table in told["tables"] for one in table["impacts"]}
    assert (0, "view", "public.open_jobs") in impacts
    assert {one["level"] for one in told["risks"]} <= {"high", "medium", "low"}
    assert sum(told["summary"]["risks"].values()) == len(told["risks"])
    assert told["summary"]["usable_after_gate"] == ["jobs.priority"]
    assert told["summary"]["approvals"] == ["contract"]


def test_each_example_is_planned_as_its_file_shows(engine: Engine, golden: Golden) -> None:
    engine.execute((EXAMPLES / "schema.sql").read_text(encoding="utf-8"))
    engine.execute(PGBENCH)
    engine.execute(STAY_AS_THEY_ARE)
    version = engine.connection.info.server_version // 10_000
    different = [
        file.stem
        for file in sorted(EXAMPLES.glob("*.yaml"))
        if version >= SHOWN_SINCE.get(file.stem, 14) and not golden.holds(f"plan/{file.stem}.txt", shown(engine, file))
    ]
    assert different == [], "look at what `pytest --write-golden` writes for these, and commit it"
    assert golden.names("plan") == sorted(f"{file.stem}.txt" for file in EXAMPLES.glob("*.yaml")), (
        "one for each example"
    )
