"""The examples as they stand, on the tables they are about: to the end, and back from there to what was."""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
from fix_postgres import new_database
from fix_runs import Engine, expect
from paths import ROOT
from psycopg.rows import dict_row

from backfilld.migrations.postgres.connect import open_pool
from backfilld.migrations.record import schema
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands
from proof.fingerprint import difference, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


EXAMPLES = ROOT / "examples"
#: pgbench makes its own tables; here they are as small as they need to be.
PGBENCH = """
    CREATE TABLE pgbench_accounts (aid integer PRIMARY KEY, bid integer, abalance integer, filler character(84));
    INSERT INTO pgbench_accounts SELECT n, 1, n % 7 - 3, '' FROM generate_series(1, 500) n
"""

#: What an older server does not have: an identity of a table in partitions.
SINCE = {"orders_partitioned": 17}
#: Their contract is final; until then there is a way back.
FINAL = frozenset({"accounts_uuid"})
#: One asks an API and counts statements: tests/integration/worker/phases/test_application_example.py has both. The other's contract
#: waits for code: tests/integration/producers/code/test_example.py.
ELSEWHERE = frozenset({"jobs_revenue_checked", "jobs_code"})


def contents(engine: Engine) -> list[str]:
    """What every table holds, whatever the order of its columns; a column that was dropped comes back behind the others."""
    tables = engine.execute(
        "SELECT relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname"
    )
    return [
        f"{table['name']}: {row['row']}"
        for table in tables
        for row in engine.execute(f"SELECT to_jsonb(t)::text AS row FROM {table['name']} t ORDER BY 1")
    ]


@pytest.fixture
def deployer(request: pytest.FixtureRequest, admin_url: str) -> Iterator[Engine]:
    """An engine that works as a role made by exactly the statements of docs/install.md, the first or those of the parameter."""
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```pgsql\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    with new_database(admin_url, copy_of="template0") as url, psycopg.connect(url, autocommit=True) as admin:
        database, suffix = admin.info.dbname, secrets.token_hex(4)
        role, owner = f"backfilld_test_deployer_{suffix}", f"backfilld_test_owner_{suffix}"
        statements = blocks[getattr(request, "param", 0)]
        made = re.sub(r"\bshop_owner\b", owner, re.sub(r"\bbackfilld(_data)?\b", role, statements))
        admin.execute(f"CREATE ROLE {owner} LOGIN".encode())
        with suppress(psycopg.errors.DuplicateObject):
            admin.execute("CREATE ROLE shop_visitor NOLOGIN")
        try:
            admin.execute(f"GRANT CREATE ON SCHEMA public TO {owner}; SET ROLE {owner}".encode())
            admin.execute((EXAMPLES / "schema.sql").read_bytes())
            admin.execute(PGBENCH)
            admin.execute("INSERT INTO orders (total) VALUES (0.1)")  # a draft
            admin.execute(f"RESET ROLE; REVOKE CREATE ON SCHEMA public FROM {owner}".encode())
            admin.execute(re.sub(r"\bshop\b", database, made).encode())
            admin.execute(f"GRANT shop_visitor TO {role}".encode())  # as whom policies are compared
            own = (
                urlsplit(url)._replace(netloc=f"{role}:change%20me@{urlsplit(url).netloc.rpartition('@')[2]}").geturl()
            )
            with (
                psycopg.connect(own, autocommit=True, row_factory=dict_row) as connection,
                open_pool(own, size=8) as pool,
            ):
                schema.ensure(connection)
                engine = Engine(url=own, connection=connection, pool=pool)
                engine.set_pace()
                yield engine
        finally:
            admin.execute(f"DROP OWNED BY {role}, {owner} CASCADE; DROP ROLE {role}, {owner}".encode())


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(one, id=one.stem, marks=pytest.mark.since(SINCE.get(one.stem, 14)))
        for one in sorted(EXAMPLES.glob("*.yaml"))
        if one.stem not in ELSEWHERE
    ],
)
def test_an_example_there_and_back(deployer: Engine, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given the tables, and for the Python function the module where the worker finds it
    engine = deployer
    monkeypatch.syspath_prepend(str(EXAMPLES))
    catalog, rows = fingerprint(engine.connection, positions=False), contents(engine)

    # When the example goes all the way
    text = file.read_text(encoding="utf-8").replace("myapp.backfills:", "backfills:")
    run = engine.enqueue(text)
    runner = engine.runner(transforms=["backfills"])
    while (now := engine.drive(run, runner=runner)).state is State.WAITING:
        if file.stem in FINAL and now.phase is Phase.CONTRACT:
            break
        commands.approve(engine.connection, run, now.phase, actor="ann")
    expect(engine.run(run), State.WAITING if file.stem in FINAL else State.COMPLETED)
    assert (fingerprint(engine.connection, positions=False), contents(engine)) != (catalog, rows), (
        "it changed something"
    )

    # Then nothing of it is left once it is taken back
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run, runner=runner), State.ROLLED_BACK)
    assert difference(catalog, fingerprint(engine.connection, positions=False)) == ""
    assert contents(engine) == rows


@pytest.mark.parametrize("deployer", [1], indirect=True)
def test_a_role_that_owns_nothing_may_change_rows(deployer: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runner = deployer.runner(transforms=["backfills"])
    for example in ("users_phone_e164", "orders_without_drafts"):
        text = (EXAMPLES / f"{example}.yaml").read_text(encoding="utf-8").replace("myapp.backfills:", "backfills:")
        run = deployer.enqueue(text)
        expect(deployer.drive(run, runner=runner), State.COMPLETED)
        commands.rollback(deployer.connection, run, actor="ann")
        expect(deployer.drive(run, runner=runner), State.ROLLED_BACK)
