"""Each statement of the vocabulary takes the lock that it is labelled with, on its own table and on the others that it names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.ddl import (
    columns,
    constraints,
    grants_and_comments,
    identity,
    indexes,
    statistics,
    tables,
)
from backfilld.migrations.operations.ddl.sync_trigger import SyncTrigger
from backfilld.migrations.postgres.column_dependents import DependentIdentity
from backfilld.migrations.postgres.definitions import Grant, KeyColumn
from backfilld.migrations.postgres.locks import LockMode, from_pg_locks, strength

if TYPE_CHECKING:
    from backfilld.migrations.operations import Statement
    from backfilld.migrations.postgres.connect import Connection

JOBS, CUSTOMERS = TableName("public", "jobs"), TableName("public", "customers")
VIEW = TableName("public", "some")
KEY = (KeyColumn(name="id", type="bigint"),)
SCHEMA = """
CREATE TABLE customers (id bigint PRIMARY KEY);
CREATE TABLE jobs (id bigint PRIMARY KEY, n integer DEFAULT 1, customer bigint,
                   CONSTRAINT positive CHECK (n > 0), CONSTRAINT fk FOREIGN KEY (customer) REFERENCES customers);
ALTER TABLE jobs ADD number integer GENERATED ALWAYS AS IDENTITY;
CREATE UNIQUE INDEX also_once ON jobs (id);
CREATE INDEX by_n ON jobs (n);
CREATE UNIQUE INDEX once ON jobs (customer);
CREATE STATISTICS two ON id, n FROM jobs;
CREATE SEQUENCE numbers;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER touched BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION touch();
CREATE SCHEMA IF NOT EXISTS backfilld;
"""
FOREIGN_KEY = constraints.from_catalog(
    JOBS, "another", "FOREIGN KEY (customer) REFERENCES public.customers(id)", key=KEY, references=CUSTOMERS
)
NOT_NULL = constraints.not_null_check(JOBS, "n", name="n_not_null", key=KEY)
IDENTITY = DependentIdentity(
    schema="public",
    name="jobs_number_seq",
    generated="ALWAYS",
    old="",
    new="",
    old_range=(1, 9),
    new_range=(1, 9),
    cache=1,
    has_grants=False,
    grants=(),
    comment=None,
)
TRIGGER = SyncTrigger(table=JOBS, name="sync_test_0")
STATEMENTS: dict[str, tuple[Statement, ...]] = {
    "add a column": (columns.add(JOBS, "more", "text"),),
    "drop a column": (columns.drop(JOBS, "n"),),
    "drop a column, if it is there": (columns.drop_if_exists(JOBS, "n"),),
    "rename a column": (columns.rename(JOBS, "n", "m"),),
    "set a default": (columns.set_default(JOBS, "n", "2"),),
    "drop a default": (columns.drop_default(JOBS, "n"),),
    "set not null": (columns.set_not_null(JOBS, "n"),),
    "drop not null": (columns.drop_not_null(JOBS, "n"),),
    "set a statistics target": (columns.set_statistics(JOBS, "n", 200),),
    "set options": (columns.set_options(JOBS, "n", "n_distinct=5"),),
    "own a sequence": (columns.own_sequence(JOBS, "n", "public.numbers", type_="bigint"),),
    "add a check": (NOT_NULL.add,),
    "look for rows": NOT_NULL.look.statements,
    "add a foreign key": (FOREIGN_KEY.add,),
    "drop a constraint": (constraints.drop(JOBS, "positive"),),
    "drop a foreign key": (constraints.drop(JOBS, "fk", also=(CUSTOMERS,)),),
    "rename a constraint": (constraints.rename(JOBS, "positive", "above_zero"),),
    "make an index unique": (constraints.unique_using_index(JOBS, "once"),),
    "make an index the key": (
        columns.set_not_null(JOBS, "customer"),
        constraints.drop(JOBS, "jobs_pkey"),
        constraints.primary_key_using_index(JOBS, "once"),
    ),
    "rename a table": (tables.rename(JOBS, "tasks"),),
    "row level security": tuple(tables.row_security(JOBS, what) for what in ("ENABLE", "FORCE", "NO FORCE", "DISABLE")),
    "create a view": (tables.create_view(VIEW, of=JOBS, columns=["id"], security_invoker=False),),
    "drop a view": (replace(tables.drop_view(VIEW), lock=LockMode.NONE),),
    "notify": (tables.notify_postgrest(),),
    "make an index the primary key": (
        constraints.drop(JOBS, "jobs_pkey"),
        constraints.primary_key_using_index(JOBS, "jobs_pkey", index="also_once"),
    ),
    "make another column an identity": (
        *identity.taken_off(JOBS, "number", IDENTITY),
        next(iter(identity.put_on(JOBS, "id", IDENTITY, options="START WITH 1"))),
    ),
    "rename an index": (indexes.rename("public", "by_n", "of_n"),),
    "drop an index at once": (indexes.drop_at_once("public", "by_n", note=""),),
    "cluster on": (indexes.cluster_on(JOBS, "by_n"),),
    "create statistics": (statistics.create(JOBS, "public", "three", kinds="", of="id, n"),),
    "drop statistics": (statistics.drop("public", "two"),),
    "rename statistics": (statistics.rename("public", "two", "both"),),
    "analyze": statistics.analyze(JOBS, "n").statements,
    "grant": (grants_and_comments.grant(JOBS, Grant(privilege="SELECT", grantee="PUBLIC", grantable=False)),),
    "comment on a table": (grants_and_comments.on_table(JOBS, "text"),),
    "remove a comment": (grants_and_comments.on_table(JOBS, None),),
    "comment on a column": (grants_and_comments.on_column(JOBS, "n", "text"),),
    "comment on a constraint": (grants_and_comments.on_constraint(JOBS, "positive", "text"),),
    "comment on a trigger": (grants_and_comments.on_trigger(JOBS, "touched", "text"),),
    "comment on an index": (grants_and_comments.on_index("public", "by_n", "text"),),
    "comment on statistics": (grants_and_comments.on_statistics("public", "two", "text"),),
    "create the sync trigger": TRIGGER.created("BEGIN RETURN NEW; END"),
    "silence the sync trigger": (TRIGGER.silenced,),
}


@pytest.mark.parametrize("what", STATEMENTS)
def test_a_statement_takes_the_lock_that_it_says(connection: Connection, what: str) -> None:
    connection.execute(SCHEMA.encode())
    relations = {table: _oid(connection, table) for table in (JOBS, CUSTOMERS)}
    for statement in STATEMENTS[what]:
        with connection.transaction():
            connection.execute(statement.sql)
            for table, relation in relations.items():
                labelled = statement.lock if table in {JOBS, *statement.also} else LockMode.NONE
                assert _taken(connection, relation) == _counted(labelled), f"{statement.sql.as_string()} on {table}"


def test_no_number_is_given_out_between_two_sequences(database_url: str, connection: Connection) -> None:
    """`nextval` in another session waits from the moment at which the number is read."""
    connection.execute(SCHEMA.encode())
    with (
        psycopg.connect(database_url, autocommit=True, options="-c lock_timeout=50") as other,
        connection.transaction(),
    ):
        lock, keep, *_ = identity.taken_off(JOBS, "number", IDENTITY)
        other.execute("SELECT nextval('jobs_number_seq')")
        connection.execute(lock.sql)
        connection.execute(keep.sql)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("SELECT nextval('jobs_number_seq')")


def _oid(connection: Connection, table: TableName) -> int:
    row = connection.execute("SELECT %s::regclass::oid::bigint AS oid", [table.identifier.as_string()]).fetchone()
    return int(row["oid"]) if row else 0


def _taken(connection: Connection, relation: int) -> LockMode:
    """The strongest lock on a table that this transaction has, whatever its name is by now."""
    rows = connection.execute(
        "SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = %s::bigint::oid", [relation]
    ).fetchall()
    return _counted(max((from_pg_locks(row["mode"]) for row in rows), key=strength, default=LockMode.NONE))


def _counted(mode: LockMode) -> LockMode:
    """Nearly every statement takes ACCESS SHARE, if only to look the table up."""
    return LockMode.NONE if mode is LockMode.ACCESS_SHARE else mode
