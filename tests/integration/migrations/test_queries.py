"""Every named query, in the folder `sql` of whichever package sends it, is one PostgreSQL accepts, with the parameters it names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psycopg
import pytest
from paths import ROOT

from backfilld.migrations.queries import queries

if TYPE_CHECKING:
    from fix_runs import Engine

PARAMETER = re.compile(r"%\((\w+)\)s")
FILES = sorted(
    (f"backfilld.{'.'.join(file.relative_to(ROOT).parts[:-2])}", file.stem)
    for part in ("migrations", "monitoring", "worker", "producers")
    for file in ROOT.glob(f"{part}/**/sql/*.sql")
)


@pytest.mark.parametrize(("package", "file"), FILES)
def test_the_queries_of_a_file_are_valid(engine: Engine, package: str, file: str) -> None:
    """Planned with NULL for every parameter: names, types and casts are right without any row."""
    named = queries(package, file)
    assert named
    for name, query in named.items():
        parameters = dict.fromkeys(PARAMETER.findall(query))
        try:
            engine.connection.execute(f"EXPLAIN {query}".encode(), parameters)
        except psycopg.Error as exc:
            pytest.fail(f"{file}.{name}: {exc}")


@pytest.mark.parametrize(("package", "file"), FILES)
def test_every_parameter_is_cast_and_every_query_says_what_it_is_for(package: str, file: str) -> None:
    for name, query in queries(package, file).items():
        assert query.startswith("--"), f"{file}.{name} has no purpose line"
        for match in PARAMETER.finditer(query):
            assert query[match.end() :].startswith("::"), f"{file}.{name}: {match.group()} has no cast"
        assert not re.search(r"SELECT \*", query), f"{file}.{name} lists no columns"


def test_the_queries_that_find_work_use_the_index_of_open_lanes(engine: Engine) -> None:
    """Of a year of finished lanes, none is read."""
    engine.execute(
        "INSERT INTO backfilld.runs (name, checksum, definition, settings, facts, requested_by, state) "
        "VALUES ('m', 'c', '{}', '{}', '[]', 'me', 'running')"
    )
    engine.execute(
        "INSERT INTO backfilld.lanes (run, lane, kind, operation, relation, done_at) "
        "SELECT 1, n, 'verify', 0, 'jobs', now() FROM generate_series(1, 20000) n"
    )
    engine.execute("ANALYZE backfilld.lanes")
    query = queries("backfilld.migrations.record", "lanes")["due_lanes"]
    plan = engine.connection.execute(f"EXPLAIN {query}".encode(), {"grace_seconds": 1.0}).fetchall()
    assert any("lanes_open" in row["QUERY PLAN"] for row in plan), plan
