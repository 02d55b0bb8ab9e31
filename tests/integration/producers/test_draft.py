"""The first draft of a file: for every operation one that the parser takes, and that can be planned on a table of the odd sort."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backfilld.migrations.errors import UsageError
from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine
from backfilld.producers import draft, enqueueing

if TYPE_CHECKING:
    from backfilld.migrations.postgres.connect import Connection

#: What the table has already, and what names a file and a table that nobody can guess: the draft is only read.
_NOT_PLANNED = frozenset({"add_primary_key", "load", "move_column"})


@pytest.fixture
def odd(connection: Connection) -> str:
    """A table with names that want quoting, and with one of everything that an operation may be about."""
    connection.execute(
        """
        CREATE SCHEMA "Odd Schema";
        CREATE TABLE "Odd Schema".customers (id integer PRIMARY KEY);
        CREATE TABLE "Odd Schema"."Order" (
            id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "user" text, "Total" integer NOT NULL DEFAULT 0 CHECK ("Total" >= 0),
            customer_id integer, note varchar(20) DEFAULT 'none', doc json
        );
        CREATE INDEX "Order by total" ON "Odd Schema"."Order" ("Total");
        INSERT INTO "Odd Schema".customers VALUES (1);
        INSERT INTO "Odd Schema"."Order" ("user", customer_id) SELECT 'ann', 1 FROM generate_series(1, 300);
        """
    )
    return "Odd Schema.Order"


@pytest.mark.parametrize("operation", draft.OPERATIONS)
def test_the_draft_of_every_operation_is_read_and_can_be_planned(
    connection: Connection, odd: str, operation: str
) -> None:
    table = "Odd Schema.new" if operation == "create_table" else odd
    text = draft.draft(connection, table, operation)
    migration = definition.parse(text)
    (of,) = migration.operations
    assert of.kind == operation
    model = draft.OPERATIONS[operation]
    for name, field in model.model_fields.items():
        assert f"{field.alias or name}: " in text or f"{field.alias or name}:\n" in text, "every key is there"
    if operation not in _NOT_PLANNED:
        assert [str(one) for one in examine.examine(connection, migration).findings] == []


def test_a_draft_says_what_is_known_of_the_table(connection: Connection, odd: str) -> None:
    file = "name: live\noperations: [{add_column: {table: Odd Schema.Order, column: {name: more, type: text}}}]"
    enqueueing.enqueue(connection, definition.parse(file), actor="test")
    text = draft.draft(connection, odd, "add_column", ["priority"])
    assert "Odd Schema.Order: about 300 rows" in text
    assert "key id" in text
    assert "#   Total        integer NOT NULL DEFAULT" in text
    assert "runs on it now: live (run 1), queued in expand" in text
    (of,) = definition.parse(text).operations
    assert of.subject == "priority text"


def test_no_name_gets_out_of_its_comment(connection: Connection) -> None:
    connection.execute(
        """CREATE TABLE "evil\n: t" (id bigint PRIMARY KEY, "a\nname: stolen" text, "it's \x1b[31m" text)"""
    )
    text = draft.draft(connection, "evil\n: t", "create_index", ["a\nname: stolen", "it's \x1b[31m"])
    assert "\x1b" not in text
    migration = definition.parse(text)
    assert migration.name == "evil-t-create-index-a-name-stolen-it-s-31m"
    assert getattr(migration.operations[0], "columns", ()) == ("a\nname: stolen", "it's \x1b[31m")


def test_columns_that_are_named_are_taken(connection: Connection, odd: str) -> None:
    (of,) = definition.parse(draft.draft(connection, odd, "create_index", ["Total", "user"])).operations
    assert (getattr(of, "columns", ()), getattr(of, "name", "")) == (("Total", "user"), "Order_Total_user_idx")
    (key,) = definition.parse(draft.draft(connection, odd, "add_foreign_key")).operations
    assert str(key.model_dump()["references"]["table"]) == "Odd Schema.customers", (
        "the table of which the column speaks"
    )


@pytest.mark.parametrize(
    ("table", "operation", "columns", "message"),
    [
        ("jbos", "add_column", [], "there is no table jbos"),
        ("Odd Schema.Ordr", "add_column", [], "Odd Schema.Order"),
        ("Odd Schema.Order", "add_colum", [], "did you mean add_column?"),
        ("Odd Schema.Order", "drop_column", ["usr"], "did you mean user?"),
        ('a"', "add_column", [], "is not a table name"),
    ],
)
def test_what_is_not_there_is_named(
    connection: Connection, odd: str, table: str, operation: str, columns: list[str], message: str
) -> None:
    assert odd
    with pytest.raises(UsageError) as refused:
        draft.draft(connection, table, operation, columns)
    assert message in str(refused.value)
