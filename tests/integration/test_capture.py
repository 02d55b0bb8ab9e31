"""Nobody makes the daemon run their code: functions and operators planted in `public` are never called.

`planted.sql` plants an overload of every function and operator of pg_catalog, as a role that may do nothing but CREATE there.
The database's own `search_path` has `public` before pg_catalog, so that whatever leaves the lookup to it calls what was planted,
with an exact match or without.
"""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
from fix_daemon import Daemon, backfilld, until
from fix_postgres import new_database
from fix_runs import Engine, expect
from integration.migrations.planning.test_examples import ELSEWHERE, FINAL
from paths import ROOT
from psycopg import sql
from typer.testing import CliRunner

from backfilld.migrations.postgres.connect import connect, open_pool
from backfilld.migrations.record import schema
from backfilld.migrations.record.states import Phase, State
from backfilld.migrations.settings import Channel, Limit, Limits, Signal
from backfilld.monitoring.record import RecordCollector
from backfilld.producers import cli, commands
from backfilld.worker.side_tasks import retention
from backfilld.worker.side_tasks.control import Control
from backfilld.worker.side_tasks.give_way import GiveWay
from backfilld.worker.side_tasks.governor import Governor
from backfilld.worker.side_tasks.notifier import Notifier
from backfilld.worker.side_tasks.reconciler import Reconciler
from backfilld.worker.side_tasks.reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

EXAMPLES = ROOT / "examples"
FOUNDING_CASE = EXAMPLES / "jobs_founding_case.yaml"
PLANTED = ROOT / "tests" / "planted.sql"
PGBENCH = """
    CREATE TABLE public.pgbench_accounts (aid integer PRIMARY KEY, bid integer, abalance integer, filler character(84));
    INSERT INTO public.pgbench_accounts SELECT n, 1, n % 7 - 3, '' FROM generate_series(1, 500) n
"""
#: Every signal is judged, so that every probe asks.
LIMITS = Limits(**{name: Limit(soft=1e15, hard=1e16) for name in Limits.model_fields})


@dataclass(frozen=True)
class Planted:
    """A database in which everything is planted."""

    #: As the role that the daemon works as.
    url: str
    #: The superuser's, with the safe path.
    admin: psycopg.Connection[Any]  # Any: rows of several shapes
    #: The role that planted.
    attacker: str

    def count(self, relation: str, owner: str) -> int:
        counted = sql.SQL("SELECT count(*) FROM {} WHERE {} = {}::regrole").format(
            sql.Identifier(relation), sql.Identifier(owner), sql.Literal(self.attacker)
        )
        return int(self.admin.execute(counted).fetchall()[0][0])

    def called(self) -> list[str]:
        """What was called so far. A session's calls are counted when it has ended."""
        others = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' "
            "AND pid <> pg_backend_pid()"
        )
        until("every other session to end", lambda: not self.admin.execute(others).fetchall())
        return [
            f"{name}, {calls} times"
            for name, calls in self.admin.execute(
                "SELECT funcid::regprocedure::text, calls FROM pg_stat_user_functions JOIN pg_proc p ON p.oid = funcid "
                "WHERE proowner = %s::regrole ORDER BY 1",
                [self.attacker],
            )
        ]


@pytest.fixture
def planted(request: pytest.FixtureRequest, admin_url: str) -> Iterator[Planted]:
    """A database in which one role has planted what it could, and the daemon's role owns the tables.

    For `make soak` that is four overloads of each function and operator, for `make test` one, as it takes its time.
    """
    daemon, attacker = (f"backfilld_test_{what}_{secrets.token_hex(4)}" for what in ("daemon", "attacker"))
    roles = sql.Identifier(daemon), sql.Identifier(attacker)
    with psycopg.connect(admin_url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE ROLE {} LOGIN BYPASSRLS PASSWORD 'x'").format(roles[0]))
        server.execute(sql.SQL("CREATE ROLE {}").format(roles[1]))
        with suppress(psycopg.errors.DuplicateObject):
            server.execute("CREATE ROLE shop_visitor NOLOGIN")
        server.execute(sql.SQL("GRANT shop_visitor TO {}").format(roles[0]))  # as whom policies are compared
        try:
            with new_database(admin_url, copy_of="template0") as url:
                parts = urlsplit(url)
                own = parts._replace(netloc=f"{daemon}:x@{parts.netloc.rpartition('@')[2]}").geturl()
                with psycopg.connect(url, autocommit=True, options="-c search_path=") as admin:
                    _plant(admin, own, *roles, nearer=request.node.get_closest_marker("soak") is not None)
                    yield Planted(own, admin, attacker)
        finally:
            server.execute(sql.SQL("DROP ROLE {}, {}").format(*roles))


def _plant(
    admin: psycopg.Connection[Any],  # Any: rows of several shapes
    own: str,
    daemon: sql.Identifier,
    attacker: sql.Identifier,
    *,
    nearer: bool,
) -> None:
    database = sql.Identifier(admin.info.dbname)
    admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, daemon))
    admin.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}, {}").format(daemon, attacker))
    with psycopg.connect(own, autocommit=True) as owner:
        owner.execute((EXAMPLES / "schema.sql").read_bytes())
        owner.execute(PGBENCH)
    admin.execute(sql.SQL("SET ROLE {}").format(attacker))
    admin.execute(sql.SQL("SET planted.nearer = {}").format(sql.Literal(nearer)))
    admin.execute(PLANTED.read_bytes())
    admin.execute("RESET ROLE; SET search_path = ''")
    admin.execute(sql.SQL("ALTER DATABASE {} SET search_path = public, pg_catalog").format(database))
    admin.execute(sql.SQL("ALTER DATABASE {} SET track_functions = 'all'").format(database))


def test_nothing_that_is_planted_is_called(planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of three operations, there and back, what a daemon does beside it, and the command line.

    `make soak` does the same with every operation and with a daemon.
    """
    bait = _take_the_bait(planted)
    with _engine(planted.url) as engine:
        _there_and_back(engine, [FOUNDING_CASE, EXAMPLES / "jobs_policies.yaml"])
        _side_tasks(engine)
    _every_verb(planted.url, tmp_path, monkeypatch)
    assert planted.called() == bait


@pytest.mark.soak
def test_nothing_that_is_planted_is_called_by_any_operation(
    planted: Planted, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bait = _take_the_bait(planted)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with _engine(planted.url) as engine:
        _there_and_back(engine, sorted(one for one in EXAMPLES.glob("*.yaml") if one.stem not in ELSEWHERE))
    daemon = Daemon(planted.url, redis_url, tmp_path / "daemon.log").ready()
    try:
        file = EXAMPLES / "jobs_open_index.yaml"
        enqueued = backfilld("enqueue", str(file), "--wait", database_url=planted.url, redis_url=redis_url)
        assert enqueued.returncode == 0, enqueued.stderr
        assert daemon.metric("backfilld_database_up") == 1
    finally:
        daemon.stop()
    # The same in one process, with the queue in memory.
    ran = backfilld("run", str(EXAMPLES / "users_email_unique.yaml"), database_url=planted.url, redis_url=None)
    assert ran.returncode == 0, ran.stderr
    assert planted.called() == bait


def _take_the_bait(planted: Planted) -> list[str]:
    """What is called by whoever leaves the lookup to the path: with the same arguments, and with nearer ones."""
    assert planted.count("pg_proc", "proowner") + planted.count("pg_operator", "oprowner") > 3_250
    with psycopg.connect(planted.url, autocommit=True) as session:
        session.execute("SELECT upper('x'), concat('x')")
    bait = planted.called()
    assert [call.partition("(")[0] for call in bait] == ["public.concat", "public.upper"]
    return bait


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    with connect(url) as connection, open_pool(url, size=8) as pool:
        schema.ensure(connection)
        engine = Engine(url=url, connection=connection, pool=pool)
        engine.set_pace()
        yield engine


def _there_and_back(engine: Engine, files: Iterable[Path]) -> None:
    """Operations through their whole life."""
    runner = engine.runner(transforms=["backfills"])
    for file in files:
        run = engine.enqueue(file.read_text(encoding="utf-8").replace("myapp.backfills:", "backfills:"))
        is_final = file.stem in FINAL
        while (now := engine.drive(run, runner=runner)).state is State.WAITING:
            if is_final and now.phase is Phase.CONTRACT:
                break
            commands.approve(engine.connection, run, now.phase, actor="ann")
        expect(engine.run(run), State.WAITING if is_final else State.COMPLETED)
        commands.rollback(engine.connection, run, actor="ann")
        expect(engine.drive(run, runner=runner), State.ROLLED_BACK)


def _side_tasks(engine: Engine) -> None:
    """What a daemon does beside the lanes, with a run at work."""
    run = engine.enqueue((EXAMPLES / "jobs_new_field.yaml").read_text(encoding="utf-8"))
    engine.drive_to_lanes(run)
    signal = Signal(name="mine", kind="sql", query="SELECT count(*) FROM public.jobs", soft=1e9, hard=1e10)
    channel = Channel(name="mine", kind="apprise", url="json://127.0.0.1:1/", about=("held",), held_minutes=1e-6)
    governor = Governor(LIMITS, observe=engine.events.append, signals=(signal,), database_url=engine.url)
    tasks = (
        governor.tick,
        governor.run_once,
        Control(observe=engine.events.append).run_once,
        GiveWay(observe=engine.events.append).run_once,
        Reconciler(send=engine.sent.append, observe=engine.events.append).run_once,
        retention.run_once,
        Reporter(observe=engine.events.append).run_once,
        Notifier((channel,), observe=engine.events.append).run_once,
    )
    for task in tasks * 2:
        task(engine.connection)
    collector = RecordCollector(engine.url)
    assert {metric.name: metric.samples for metric in collector.collect()}["backfilld_database_up"][0].value == 1
    collector.close()
    commands.cancel(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.CANCELLED)


def _every_verb(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BACKFILLD_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(folder)
    (folder / "backfilld.toml").write_text(
        '[[notifications]]\nname = "mine"\nkind = "apprise"\nurl = "json://127.0.0.1:1/"\n', encoding="utf-8"
    )
    run, file = "jobs-new-field", str(EXAMPLES / "jobs_new_field.yaml")
    verbs = (
        f"init; plan {file}; plan --json {file}; enqueue {file}; status; status {run} --json; explain {run}; events {run}; "
        f"gate {run}; pause {run}; resume {run}; pace {run} --lanes 2; pace --max-width 4; pause --all; resume --all; "
        f"quarantine list {run}; quarantine retry {run}; cancel {run}; watch {run} --json; purge {run}; schema; "
        "notify --test; status --json; explain"
    )
    for verb in verbs.split("; "):
        told = CliRunner().invoke(cli.app, verb.split(), env={"BACKFILLD_DATABASE_URL": url})
        assert told.exception is None or isinstance(told.exception, SystemExit), verb
