"""What people of the nearest peer change in its examples, restated as files of our own (`peers.yaml`) and done for real.

Each goes to its end and all the way back beside an application that writes; at both ends the catalog and every row are what plain
SQL would have made of them in a database of its own. A few stand for all in `make test`; `make soak` has the others.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml
from fix_postgres import new_database
from fix_runs import expect
from paths import ROOT
from psycopg import sql
from psycopg.rows import dict_row

from backfilld.migrations.record.states import RESTING, State
from backfilld.producers import commands
from proof.fingerprint import difference, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_runs import Engine

    from backfilld.migrations.record.model import Run

Example = dict[str, Any]  # Any: YAML
EXAMPLES: list[Example] = [
    one for one in yaml.safe_load_all((ROOT / "tests" / "proof" / "peers.yaml").read_text(encoding="utf-8")) if one
]
#: As many of them are native, at least.
NATIVE = 45
#: Those that stand for the others.
ALWAYS = frozenset({"e04", "e09", "e18", "e19", "e27", "e35", "e46", "e55"})
#: Rows that an application writes, in turn.
ROWS = 60


def cases() -> list[Any]:  # Any: pytest's own
    return [
        pytest.param(one, id=one["name"], marks=() if one["name"].partition("-")[0] in ALWAYS else pytest.mark.soak)
        for one in EXAMPLES
    ]


@pytest.fixture(scope="module")
def twin(admin_url: str, template: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """A database in which a person does everything by hand. It has our schema, as the functions there are compared."""
    with (
        new_database(admin_url, copy_of=template) as url,
        psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection,
    ):
        yield connection


class Application:
    """Writes a row, and the same row in the other database; what it wrote can be done once more."""

    def __init__(self, example: Example, connection: psycopg.Connection[dict[str, Any]]) -> None:
        self._example = example
        self._connection = connection
        self.written: list[str] = []

    def write(self) -> None:
        text = self._example.get("writes")
        if text is None:
            return
        statement = text.format(n=1 + 7 * len(self.written) % ROWS)
        self.written.append(statement)
        with self._renamed(statement) as known:
            self._connection.execute(known.encode())

    @contextmanager
    def _renamed(self, statement: str) -> Iterator[str]:
        """By the name that the table has by then: an application knows the new one before the old one goes."""
        for one in self._example["migration"]["operations"]:
            if "rename_table" not in one:
                continue
            old, new = one["rename_table"]["table"], one["rename_table"]["to"]
            if self._connection.execute("SELECT to_regclass(%s) AS it", [old]).fetchone() == {"it": None}:
                statement = statement.replace(old, new)
        yield statement


def test_most_are_native() -> None:
    assert len(EXAMPLES) == 56
    assert max(Counter(one["name"] for one in EXAMPLES).values()) == 1
    assert sum("by_sql" not in one for one in EXAMPLES) >= NATIVE
    for one in EXAMPLES:
        used = {kind for file in files(one) for operation in file["operations"] for kind in operation}
        assert ("by_sql" in one) == ("sql" in used), one["name"]


@pytest.mark.parametrize("example", cases())
def test_there_and_back(engine: Engine, twin: psycopg.Connection[dict[str, Any]], example: Example) -> None:
    start(engine.connection, example)
    application = Application(example, engine.connection)
    done = []
    for number, migration in enumerate(files(example)):
        text = {"name": f"{example['name']}-{number}", **migration, "settings": {"approve": [], "lanes": 1}}
        done.append(engine.enqueue(yaml.safe_dump(text)))
        beside(engine, done[-1], application)
        expect(engine.run(done[-1]), State.COMPLETED)
    by_hand(twin, example, application.written, plain=True)
    compare(twin, engine.connection, example)

    for run in reversed(done):
        commands.rollback(engine.connection, run, actor="ann")
        beside(engine, run, application)
        expect(engine.run(run), State.ROLLED_BACK)
    by_hand(twin, example, application.written, plain=False)
    compare(twin, engine.connection, example)


def files(example: Example) -> list[dict[str, Any]]:  # Any: as above
    return [example[key] for key in ("migration", "then") if key in example]


def beside(engine: Engine, run: int, application: Application) -> None:
    """Step by step, and the application writes after each but the last: what is computed is not, from then on."""
    while engine.run(run).state not in RESTING:
        application.write()
        looks = iter((False, True))
        engine.drive(run, until=partial(next_of, looks), batch_rows=20)


def next_of(looks: Iterator[bool], _run: Run) -> bool:
    """After one step."""
    return next(looks)


def start(connection: psycopg.Connection[dict[str, Any]], example: Example) -> None:
    connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    connection.execute((example.get("before", "") + ";" + example.get("rows", "")).encode())


def by_hand(
    connection: psycopg.Connection[dict[str, Any]], example: Example, written: list[str], *, plain: bool
) -> None:
    start(connection, example)
    for statement in written:
        connection.execute(statement.encode())
    if plain:
        connection.execute(example["plain"].encode())


def compare(
    wanted: psycopg.Connection[dict[str, Any]], found: psycopg.Connection[dict[str, Any]], example: Example
) -> None:
    # A column that another one replaced stands at the end: the order of columns is said in the plan.
    differs = difference(*(fingerprint(one, positions=False) for one in (wanted, found)))
    assert not differs, differs
    assert rows(wanted, example) == rows(found, example)


def rows(connection: psycopg.Connection[dict[str, Any]], example: Example) -> dict[str, list[str]]:
    """Every row of every table, with its columns by name."""
    tables = connection.execute(
        "SELECT oid::regclass::text AS name FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return {
        one["name"]: [
            row["it"]
            for row in connection.execute(
                sql.SQL("SELECT (to_jsonb(t) - %s::text[])::text AS it FROM {} t ORDER BY 1").format(
                    sql.SQL(one["name"])  # quoted by PostgreSQL
                ),
                [example.get("random", [])],
            )
        ]
        for one in tables.fetchall()
    }
