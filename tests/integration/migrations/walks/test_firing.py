"""The statement of a batch on a table with triggers: nothing on the application's path is called in place of what it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from backfilld.migrations.facts import Target
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.connect import SEMANTICS, apply_settings
from backfilld.migrations.postgres.definitions import KeyColumn
from backfilld.migrations.record.model import Bounds
from backfilld.migrations.rollback import journal
from backfilld.migrations.rollback.journal import Journal
from backfilld.migrations.walks.firing import THEIRS, firing, table_code
from backfilld.migrations.walks.keys import KeyWalk
from backfilld.migrations.walks.update_sql import Update

if TYPE_CHECKING:
    from fix_runs import Engine

TABLE = TableName("app", "orders")
WALK = KeyWalk(table=TABLE, key=(KeyColumn(name="id", type="bigint"),))
LABEL = Target(column="label", type="text", plain_type="text")
JOURNAL = Journal(run=77, operation=0, walk=WALK, targets=(LABEL,))
ORDERS = """
CREATE SCHEMA app;
CREATE TABLE app.orders (id bigint PRIMARY KEY, label text);
INSERT INTO app.orders SELECT n, 'o' || n FROM generate_series(1, 60) n;
CREATE TABLE app.log (id bigint);
CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (new.id); RETURN new; END $$;
CREATE CONSTRAINT TRIGGER note AFTER UPDATE ON app.orders DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION app.note();
CREATE SCHEMA evil;
CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'captured'; END $$;
"""
OPERATORS = (("=", "boolean"), ("<>", "boolean"), (">=", "boolean"), ("<=", "boolean"), ("||", "text"))


@pytest.fixture
def evil(engine: Engine) -> Engine:
    """Operators of everybody's come before those of PostgreSQL in a session of the application's."""
    engine.execute(ORDERS)
    for type_ in ("bigint", "integer", "text", "text[]", "boolean"):
        for number, (name, returns) in enumerate(OPERATORS):
            engine.execute(
                f"CREATE FUNCTION evil.trap_{number}({type_}, {type_}) RETURNS {returns} LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE 'captured'; END $$;"
                f"CREATE OPERATOR evil.{name} (LEFTARG = {type_}, RIGHTARG = {type_}, FUNCTION = evil.trap_{number})"
            )
    journal.make(engine.connection, 77, [JOURNAL])
    database = engine.connection.info.dbname
    engine.execute(f'ALTER DATABASE "{database}" SET search_path = evil, app, public, pg_catalog')
    return engine


def test_nothing_on_the_path_of_the_application_is_called(evil: Engine) -> None:
    """Neither by the statement, nor by what follows it, nor at COMMIT; the trigger names what is on the path."""
    condition, parameters = WALK.within(Bounds(upto=("40",)))
    update = Update(
        table=TABLE.identifier,
        values=[(LABEL, sql.SQL("'p' || id"))],
        condition=condition,
        parameters=parameters,
        needs_work=sql.SQL("label <> 'o7'"),
    )
    with evil.connect() as connection, connection.transaction():
        apply_settings(connection, SEMANTICS)
        code = table_code(connection, table=TABLE, relation=TABLE, columns=["label"])
        assert (code.fires, code.by_parent, code.may_change) == (True, False, ())
        beside = journal.beside_firing([JOURNAL], pass_=1)
        query = firing(update, WALK, TABLE, code, still=sql.SQL("label = 'p' || orders.id"), beside=beside)
        row = connection.execute(*query).fetchone()
        assert row is not None
        assert (row["changed"], row["residual"], row["undone"]) == (39, 39, 0)
        apply_settings(connection, SEMANTICS)
        assert connection.execute("SELECT count(*) AS n FROM app.orders WHERE label = 'p' || id").fetchone() == {
            "n": 39
        }
        connection.execute(THEIRS)
    assert evil.value("SELECT count(DISTINCT id) FROM app.log") == 39
    assert (
        evil.value(
            "SELECT count(*) FROM backfilld.journal_77, unnest(key_0_0, old_0_0, new_0_0) AS kept (id, old, new) "
            "WHERE old = 'o' || id AND new = 'p' || id"
        )
        == 39
    )
