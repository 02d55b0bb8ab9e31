"""Indexes as the catalog has them, and as the temporary copy of a table tries them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.ddl import indexes as ddl_indexes
from backfilld.migrations.postgres import catalog, indexes
from backfilld.migrations.postgres.definitions import KeyColumn
from backfilld.migrations.postgres.expression_probe import Rejected, probe

if TYPE_CHECKING:
    from fix_runs import Engine

    from backfilld.migrations.postgres.definitions import IndexDefinition

ODD = TableName('Odd "Schema', 'a%b USING "c')
ODD_INDEX = 'x" USING gin (%s)'

RESTS = {
    "columns": ("USING btree (a, b)", ("a", "b"), ""),
    "expressions": ("(lower(b), a DESC NULLS LAST)", ("lower((b)::text)", "a"), ""),
    "partial": ("USING btree (a) INCLUDE (b) WHERE (b <> '100%' AND a % 2 = 0)", ("a",), "WHERE"),
    "an operator class": ("(b text_pattern_ops, a) WITH (fillfactor = 70)", ("b", "a"), ""),
    "hash": ("USING hash (a)", ("a",), ""),
}


@pytest.fixture(autouse=True)
def tables(engine: Engine) -> None:
    engine.connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(ODD.schema)))
    engine.connection.execute(
        sql.SQL("CREATE TABLE {} (id bigint PRIMARY KEY, a integer, b varchar(20))").format(ODD.identifier)
    )


def tried(engine: Engine, rest: str, *, unique: bool = False) -> IndexDefinition:
    table = catalog.describe(engine.connection, ODD)
    assert table is not None
    with probe(engine.connection, table) as trial:
        return trial.index(ODD_INDEX, sql.SQL(rest), unique=unique)


@pytest.mark.parametrize("case", RESTS)
def test_what_the_copy_has_is_what_the_table_gets(engine: Engine, case: str) -> None:
    """The same definition, whatever the names are, and built from it as well as from the text it came from."""
    rest, keys, condition = RESTS[case]
    definition = tried(engine, rest)
    assert definition.keys == keys
    assert bool(definition.where) is bool(condition)
    (statement,) = ddl_indexes.build(ODD, definition).statements
    engine.connection.execute("SET search_path = ''")
    engine.connection.execute(statement.sql)
    found = indexes.find(engine.connection, ODD.schema, ODD_INDEX)
    assert found is not None
    assert (found.table, found.valid, found.kind) == (ODD, True, "i")
    assert definition.same_as(found.definition)
    assert not replace(definition, unique=True).same_as(found.definition)
    assert found in indexes.of_table(engine.connection, catalog.describe(engine.connection, ODD).oid)  # type: ignore[union-attr] # it is there


def test_what_is_no_index_is_found_by_its_name(engine: Engine) -> None:
    found = indexes.find(engine.connection, ODD.schema, ODD.name)
    assert found is not None
    assert (found.kind, found.table, found.definition) == ("r", None, None)
    assert indexes.find(engine.connection, "public", "nothing") is None


def test_an_index_that_postgresql_does_not_make_is_refused_in_its_words(engine: Engine) -> None:
    with pytest.raises(Rejected, match="functions in index expression must be marked IMMUTABLE"):
        tried(engine, "((b || now()::text))")
    with pytest.raises(Rejected, match='"hash" does not support unique indexes'):
        tried(engine, "USING hash (a)", unique=True)


def test_duplicates_are_named(engine: Engine) -> None:
    engine.connection.execute(
        sql.SQL("INSERT INTO {} SELECT n, n % 4, CASE WHEN n < 9 THEN 'X' END FROM generate_series(1, 12) n").format(
            ODD.identifier
        )
    )
    definition = tried(engine, "(a, lower(b)) WHERE a > 2", unique=True)
    key = KeyColumn(name="id", type="bigint")
    for named_by, wanted in (((key,), [{"name_0": "3"}, {"name_0": "7"}]), ((), 2)):
        action = ddl_indexes.build(ODD, definition, key=named_by)
        assert action.offenders is not None
        engine.connection.execute("SET search_path = ''")
        rows = engine.connection.execute(action.offenders).fetchall()
        assert sorted(rows, key=str) == wanted if isinstance(wanted, list) else len(rows) == wanted
