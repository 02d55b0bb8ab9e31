"""The application: it writes to its table all the while, and keeps a ledger of what must be there.

Its statements are its own, its ledger is in memory, and nothing of the product is in either. Each of its writers owns the
keys with a certain remainder, so that what it wrote last is what must be there, whoever came first at other rows.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from proof.scenarios import OneOf, Row

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from proof.scenarios import Scenario, Shows

#: Between two statements of a writer: the processor is shared with the workers.
REST_SECONDS = 0.004
#: A statement that waits for longer is as good as failed.
LONGEST_WAIT = "10s"
#: What the sessions of the writers are like: an ordinary one, and one as a replica's or a strict pooler's may be.
_SETTINGS = ("", "-c session_replication_role=replica -c search_path= -c DateStyle=German")
#: Keys of the first rows are this far apart: there is room for others between them.
_GAP = 1000


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A statement of the application that failed; there must be none."""

    statement: str
    error: str


class Application:
    """Writers on a table, each in a thread of its own; also to be moved by hand."""

    def __init__(self, url: str, scenario: Scenario, *, seed: int, writers: int = 2) -> None:
        self._scenario = scenario
        self._done = threading.Event()
        #: The versions of the application that are deployed: each a set of columns.
        self.versions: tuple[Mapping[str, Shows], ...] = (scenario.before,)
        self.failures: list[Failure] = []
        self.longest_wait_seconds = 0.0
        self._writers = [_Writer(self, url, scenario, seed=seed, number=n, of=writers) for n in range(writers)]

    def fill(self) -> None:
        """The rows that are there at the beginning."""
        for writer in self._writers:
            writer.fill()

    @property
    def ledger(self) -> dict[int, Row]:
        """What must be there. To be read while the writers are quiet."""
        return {key: row for writer in self._writers for key, row in writer.ledger.items()}

    def begin(self) -> None:
        """Note that the migration begins: what is written from here on is written by the application meanwhile."""
        for writer in self._writers:
            for row in writer.ledger.values():
                row.written.clear()
                row.moved = False

    def act(self, statements: int) -> None:
        """Write by hand: so many statements of each writer."""
        for writer in self._writers if self.versions else ():
            for _ in range(statements):
                writer.act()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write all the while, in threads."""
        if not self.versions:
            yield
            return
        self._done.clear()
        threads = [threading.Thread(target=writer.act_until, args=(self._done,)) for writer in self._writers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._done.set()
            for thread in threads:
                thread.join()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class _Writer:
    def __init__(
        self, application: Application, url: str, scenario: Scenario, *, seed: int, number: int, of: int
    ) -> None:
        self.ledger: dict[int, Row] = {}
        #: Keys of the first rows that it leaves alone: with time it would have written all others.
        self._resting: set[int] = set()
        #: Every key that a row has had. None is taken twice, as none comes twice out of a sequence.
        self._used: set[int] = set()
        self._application = application
        self._scenario = scenario
        self._chance = random.Random(f"{seed} {number}")
        self._number, self._of = number, of
        self._settings = _SETTINGS[number % len(_SETTINGS)]
        self._connection = psycopg.connect(
            url,
            autocommit=True,
            row_factory=tuple_row,
            # Values as literals: an application that says of what type its parameters are goes no further than the switch.
            cursor_factory=psycopg.ClientCursor,
            application_name="the application",
            options=f"-c lock_timeout={LONGEST_WAIT} {self._settings}",
        )
        self._table = sql.Identifier("public", scenario.table.replace("%", "%%"))

    def fill(self) -> None:
        draws = {**self._scenario.fields, **self._scenario.first}
        for key in range(_GAP, (self._scenario.rows + 1) * _GAP, _GAP):
            if key // _GAP % self._of == self._number:
                if key // _GAP % 3 == 0:
                    self._resting.add(key)
                self._insert(
                    key, Row({name: draw(self._chance) for name, draw in draws.items()}), self._scenario.before
                )

    def act_until(self, done: threading.Event) -> None:
        while not done.is_set() and not self._application.failures:
            self.act()
            done.wait(REST_SECONDS)

    def act(self) -> None:
        """One statement, through one of the versions that are deployed."""
        version = self._chance.choice(self._application.versions)
        move = self._chance.choices(
            [
                self._add,
                self._change,
                self._change_many,
                self._upsert,
                self._remove,
                self._rekey,
                self._copy,
                self._change_both,
            ],
            [3, 8, 2, 2, 2, 1, 1, 1],
        )[0]
        try:
            move(version)
        except psycopg.Error as exc:
            self._application.failures.append(Failure(statement=self._last, error=f"{type(exc).__name__}: {exc}"))

    def close(self) -> None:
        self._connection.close()

    _last = ""

    def _add(self, version: Mapping[str, Shows]) -> None:
        if len(self.ledger) < self._scenario.rows:
            self._insert(self._new_key(), self._new_row(version), version)
        else:
            self._remove(version)

    def _insert(self, key: int, row: Row, version: Mapping[str, Shows]) -> None:
        self._execute(self._insertion(version), [key, *(_written(shows(row)) for shows in version.values())])
        self.ledger[key] = row

    def _insertion(self, version: Mapping[str, Shows]) -> sql.Composed:
        columns = [_name(column) for column in version]
        return sql.SQL("INSERT INTO {} (id, {}) VALUES ({})").format(
            self._table, sql.SQL(", ").join(columns), sql.SQL(", ").join([sql.Placeholder()] * (len(columns) + 1))
        )

    def _upsert(self, version: Mapping[str, Shows]) -> None:
        """INSERT of a row that is there: it gets all but what is never written again."""
        key = self._some_key()
        if key is None:
            return
        there = self.ledger[key]
        new = self._new_row(version)
        changes = {name: new[name] for name in sorted(self._shown_by(version) - self._scenario.constant)}
        row = Row(there | changes)
        setting = self._showing(version, changes, row)
        query = self._insertion(version) + sql.SQL(" ON CONFLICT (id) DO UPDATE SET {}").format(
            sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(_name(column)) for column in setting)
        )
        self._execute(query, [key, *(_written(shows(row)) for shows in version.values())])
        there.update(changes)
        there.written |= set(changes)

    def _copy(self, version: Mapping[str, Shows]) -> None:
        row, key = self._new_row(version), self._new_key()
        query = sql.SQL("COPY {} (id, {}) FROM STDIN").format(
            sql.Identifier("public", self._scenario.table),
            sql.SQL(", ").join([sql.Identifier(column) for column in version]),
        )
        self._last = query.as_string()
        began = time.monotonic()
        with self._connection.cursor() as cursor, cursor.copy(query) as copy:
            copy.write_row([key, *(_written(shows(row)) for shows in version.values())])
        self._waited(began)
        self.ledger[key] = row

    def _change(self, version: Mapping[str, Shows]) -> None:
        key = self._some_key()
        if key is not None:
            self._update([key], self._some_changes(version), version)

    def _change_many(self, version: Mapping[str, Shows]) -> None:
        self._update(self._some_keys(4), self._some_changes(version, but=self._scenario.unique), version)

    def _change_both(self, version: Mapping[str, Shows]) -> None:
        """Two statements in a transaction, which holds the first one's row meanwhile."""
        with self._connection.transaction():
            self._change(version)
            self._add(version)

    def _update(self, keys: list[int], changes: dict[str, Any], version: Mapping[str, Shows]) -> None:
        """Set the columns that show what changes, and no others; each of the rows gets the same values."""
        sample = Row(self.ledger[keys[0]] | changes) if keys else Row()
        setting = self._showing(version, changes, sample)
        if not keys or not setting:
            return
        query = sql.SQL("UPDATE {} SET {} WHERE id = ANY(%s)").format(
            self._table, sql.SQL(", ").join(sql.SQL("{} = %s").format(_name(column)) for column in setting)
        )
        self._execute(query, [*(_written(version[column](sample)) for column in setting), keys])
        for key in keys:
            self.ledger[key].update(changes)
            self.ledger[key].written |= set(changes)

    def _showing(self, version: Mapping[str, Shows], changes: Mapping[str, Any], row: Row) -> list[str]:
        """The columns that show one of the fields that are changed."""
        hidden = Row({name: value for name, value in row.items() if name not in changes})
        return [column for column, shows in version.items() if _depends(shows, hidden)]

    def _remove(self, _version: Mapping[str, Shows]) -> None:
        if len(self.ledger) > self._scenario.rows // 4 and (key := self._some_key()) is not None:
            self._execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(self._table), [key])
            del self.ledger[key]

    def _rekey(self, _version: Mapping[str, Shows]) -> None:
        key = self._some_key()
        if key is not None and not (self._scenario.cascades and "replica" in self._settings):
            new = self._new_key()
            self._execute(sql.SQL("UPDATE {} SET id = %s WHERE id = %s").format(self._table), [new, key])
            row = self.ledger[new] = self.ledger.pop(key)
            row.moved = True

    def _execute(self, query: sql.Composed, parameters: list[Any]) -> None:  # Any: values of its columns
        self._last = f"{query.as_string()} {parameters}"
        began = time.monotonic()
        self._connection.execute(query, parameters)
        self._waited(began)

    def _waited(self, began: float) -> None:
        application = self._application
        application.longest_wait_seconds = max(application.longest_wait_seconds, time.monotonic() - began)

    def _some_key(self) -> int | None:
        keys = self._some_keys(1)
        return keys[0] if keys else None

    def _some_keys(self, most: int) -> list[int]:
        keys = sorted(self.ledger.keys() - self._resting)
        return self._chance.sample(keys, k=min(len(keys), most))

    def _new_key(self) -> int:
        """A key of this writer's that no row has, before, between or behind the others."""
        while True:
            key = self._chance.randrange(1, 2 * (self._scenario.rows + 1) * _GAP)
            if key % _GAP and key % self._of == self._number and key not in self._used:
                self._used.add(key)
                return key

    def _new_row(self, version: Mapping[str, Shows]) -> Row:
        """New values for what the version of the application knows; NULL for what it does not."""
        shown = self._shown_by(version)
        scenario = self._scenario
        row = Row(
            {
                name: draw(self._chance) if name in shown else scenario.defaults.get(name)
                for name, draw in scenario.fields.items()
            }
        )
        row.written = set(row)
        return row

    def _some_changes(
        self, version: Mapping[str, Shows], *, but: Collection[str] = ()
    ) -> dict[str, Any]:  # Any: values
        names = sorted(self._shown_by(version) - self._scenario.constant - set(but))
        chosen = self._chance.sample(names, k=self._chance.randrange(1, len(names) + 1)) if names else []
        return {name: self._scenario.fields[name](self._chance) for name in chosen}

    def _shown_by(self, version: Mapping[str, Shows]) -> set[str]:
        """The fields that a version of the application knows."""
        sample = {name: draw(random.Random(0)) for name, draw in self._scenario.fields.items()}
        return {
            name
            for name in sample
            if any(
                _depends(shows, Row({other: sample[other] for other in sample if other != name}))
                for shows in version.values()
            )
        }


def _name(name: str) -> sql.Identifier:
    """A name in a statement that is sent with parameters."""
    return sql.Identifier(name.replace("%", "%%"))


def _depends(shows: Shows, hidden: Row) -> bool:
    """Whether a column shows one of the fields that the row lacks."""
    try:
        shows(hidden)
    except KeyError:
        return True
    return False


def _written(value: Any) -> Any:  # Any: a value of a column
    """What is sent for a value that a column is to show."""
    if isinstance(value, OneOf):
        return value[0]
    return Jsonb(value) if isinstance(value, dict) else value
