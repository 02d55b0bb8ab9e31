"""What is proved, as data: a table, a migration of it, and what each version of the application reads and writes.

A scenario speaks of *fields*, the facts that an application keeps, and says for each version of the application under which
columns it finds and writes them. What the columns must hold is thereby said without any of the product's own expressions.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from paths import ROOT


class Row(dict[str, Any]):
    """The fields of a row, by name. Any: a field has the type it has."""

    def __init__(self, *fields: Any, **named: Any) -> None:
        super().__init__(*fields, **named)
        #: The fields that the application has written since the migration began.
        self.written: set[str] = set()
        #: Whether its key was changed since then.
        self.moved = False


class OneOf(tuple[Any, ...]):
    """Values of which a column may hold any."""

    __slots__ = ()


#: Each holds something that SQL or a placeholder could take for its own.
WORDS = ("open", "in Arbeit", "é%s", "it's", '"quoted\\"')

#: A new value of a field.
Draw = Callable[[random.Random], Any]
#: What a column holds for a row: what the application writes into it, and what it must read.
Shows = Callable[[Row], Any]


def shown(name: str) -> Shows:
    """The column holds the field as it is."""
    return lambda row: row[name]


def word(chance: random.Random) -> str:
    """A text that hardly comes up twice."""
    return f"{chance.choice(WORDS)} {chance.randrange(10**9)}"


def lower_word(chance: random.Random) -> str:
    return word(chance).lower()


def number(chance: random.Random) -> int:
    return chance.randrange(-(10**6), 10**6)


def moment(chance: random.Random) -> datetime:
    """A moment without a zone, as a `timestamp` is."""
    return datetime(2020, 1, 1) + timedelta(microseconds=chance.randrange(10**14))  # noqa: DTZ001 - see above


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One table, one migration, and an application in two versions."""

    name: str
    #: The table, and whatever is beside it.
    schema: str
    table: str = "items"
    #: The `operations` of the file.
    operations: str
    #: Its `application`; empty for none.
    application: str = ""
    #: What the application keeps, and how it makes new values.
    fields: Mapping[str, Draw]
    #: What they are where a row is added by a version of the application that does not know them; otherwise NULL.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: Those that it writes with a new row and never again.
    constant: frozenset[str] = frozenset()
    #: Those of which no two rows may have the same value.
    unique: frozenset[str] = frozenset()
    #: How the rows got their values that are there at the beginning, where that is another way.
    first: Mapping[str, Draw] = field(default_factory=dict)
    #: The columns that the application knows before the migration.
    before: Mapping[str, Shows]
    #: The columns that it knows afterwards.
    after: Mapping[str, Shows]
    #: What the columns of `before` may hold between the beginning and the end, where that is not the same.
    meanwhile: Mapping[str, Shows] = field(default_factory=dict)
    #: What they hold once the run is rolled back, where that is not the same; each of these columns is called as its field.
    back: Mapping[str, Shows] = field(default_factory=dict)
    #: What a person would type who may stop the application for it; None where the catalog cannot be told from that.
    reference: str | None = ""
    #: Whether columns are in the same order as before even where what comes back had been dropped.
    keeps_order: bool = True
    #: Whether rows of another table follow a key by a cascade, which fires for no replica: a session like one changes no key.
    cascades: bool = False
    #: Whether a run can be rolled back to what was there before.
    returns: Literal["always", "never"] = "always"
    rows: int = 12

    @property
    def keeps_names(self) -> bool:
        """Whether each version of the application finds its columns at all times."""
        return self.before.keys() == self.after.keys()


_PADDING = "padding text NOT NULL DEFAULT repeat('x', 700)"

ADD_COLUMN = Scenario(
    name="add_column",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text NOT NULL, n integer, {_PADDING});",
    operations='[{add_column: {table: items, column: {name: shout, type: text}, backfill: "upper(status)", not_null: true}}]',
    fields={"status": word, "n": number},
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": shown("n"), "shout": lambda row: row["status"].upper()},
    reference="""
        ALTER TABLE items ADD shout text;
        UPDATE items SET shout = upper(status);
        ALTER TABLE items ALTER shout SET NOT NULL;
    """,
)


def _counted(row: Row) -> Any:  # Any: a number, or one of several
    """A row that was added meanwhile may have been met or not; one whose key was changed, under both keys or none."""
    if row.moved:
        return OneOf(row["n"] + times for times in range(3))
    return OneOf((row["n"], row["n"] + 1)) if "n" in row.written else row["n"] + 1


#: A trigger of the user's that finds its table by the application's search_path: it fails in a batch that has another.
_NOTED = """
CREATE TABLE noted (id bigint);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO noted VALUES (new.id); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER note AFTER UPDATE ON items DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
"""

#: Each row is to be counted up once, and only once: it cannot be told from its values whether it was.
COUNT_UP = Scenario(
    name="backfill_once",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text, n integer NOT NULL, {_PADDING});{_NOTED}",
    operations='[{backfill: {table: items, set: {n: "n + 1"}}}]',
    fields={"status": word, "n": number},
    constant=frozenset({"n"}),
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": _counted},
    meanwhile={"n": lambda row: OneOf(row["n"] + times for times in range(3 if row.moved else 2))},
    # The journal knows a row by its key.
    back={"n": lambda row: OneOf(row["n"] + times for times in range(3)) if row.moved else row["n"]},
)

LOWER = Scenario(
    name="backfill_where",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text NOT NULL, n integer, {_PADDING});",
    operations='[{backfill: {table: items, set: {status: "lower(status)"}, where: "status <> lower(status)"}}]',
    fields={"status": lower_word, "n": number},
    first={"status": lambda chance: word(chance).upper()},
    before={"status": shown("status"), "n": shown("n")},
    after={"status": lambda row: row["status"].lower(), "n": shown("n")},
    meanwhile={"status": lambda row: OneOf((row["status"], row["status"].lower()))},
    back={"status": lambda row: OneOf((row["status"], row["status"].lower())) if row.moved else row["status"]},
)

SET_NOT_NULL = Scenario(
    name="set_not_null",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text, n integer, {_PADDING});",
    operations="""[{set_not_null: {table: items, column: status, backfill: "'unknown'"}}]""",
    fields={"status": word, "n": number},
    first={"status": lambda chance: chance.choice([None, word(chance)])},
    before={"status": shown("status"), "n": shown("n")},
    after={"status": lambda row: "unknown" if row["status"] is None else row["status"], "n": shown("n")},
    meanwhile={"status": lambda row: OneOf((None, "unknown")) if row["status"] is None else row["status"]},
    back={"status": lambda row: OneOf((None, "unknown")) if row["status"] is None and row.moved else row["status"]},
    reference="UPDATE items SET status = 'unknown' WHERE status IS NULL; ALTER TABLE items ALTER status SET NOT NULL",
)

ADD_CHECK = Scenario(
    name="add_check",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text, n integer, {_PADDING});",
    operations='[{add_check: {table: items, name: small_n, check: "n < 10000000"}}]',
    fields={"status": word, "n": number},
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": shown("n")},
    reference="ALTER TABLE items ADD CONSTRAINT small_n CHECK (n < 10000000)",
)

ADD_FOREIGN_KEY = Scenario(
    name="add_foreign_key",
    schema="CREATE TABLE customers (id integer PRIMARY KEY); INSERT INTO customers SELECT generate_series(1, 9);"
    f"CREATE TABLE items (id bigint PRIMARY KEY, status text, customer integer, {_PADDING});",
    operations="[{add_foreign_key: {table: items, name: items_customer, columns: [customer], "
    "references: {table: customers}, on_delete: restrict}}]",
    fields={"status": word, "customer": lambda chance: chance.choice([None, 1, 2, 3, 9])},
    before={"status": shown("status"), "customer": shown("customer")},
    after={"status": shown("status"), "customer": shown("customer")},
    reference="ALTER TABLE items ADD CONSTRAINT items_customer FOREIGN KEY (customer) REFERENCES customers ON DELETE RESTRICT",
)

ADD_UNIQUE = Scenario(
    name="add_unique",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text, n integer, {_PADDING});",
    operations="[{add_unique: {table: items, name: items_status_key, columns: [status]}}]",
    fields={"status": word, "n": number},
    unique=frozenset({"status"}),
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": shown("n")},
    reference="ALTER TABLE items ADD CONSTRAINT items_status_key UNIQUE (status)",
)

CREATE_INDEX = Scenario(
    name="create_index",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text, n integer, {_PADDING});",
    operations="""[{create_index: {table: items, name: items_lower, expressions: lower(status) DESC, include: [n], where: n > 0}}]""",
    fields={"status": word, "n": number},
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": shown("n")},
    reference="CREATE INDEX items_lower ON items (lower(status) DESC) INCLUDE (n) WHERE n > 0",
)

DROP_INDEX = Scenario(
    name="drop_index",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text, n integer, {_PADDING});"
    "CREATE INDEX items_n ON items (n DESC) WITH (fillfactor = 80) WHERE status IS NOT NULL;"
    "COMMENT ON INDEX items_n IS 'for the list';",
    operations="[{drop_index: {table: items, name: items_n}}]",
    fields={"status": word, "n": number},
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": shown("n")},
    reference="DROP INDEX items_n",
)

#: Of a table that the application only reads: what it may delete is not in its ledger.
_DRAFTS = (
    "CREATE TABLE drafts (id bigint PRIMARY KEY, body text[]); INSERT INTO drafts SELECT n, ARRAY['d' || n] FROM generate_series(1, 30) n;"
    "CREATE TABLE products (id bigint PRIMARY KEY, name text); INSERT INTO products SELECT n, 'p' || n FROM generate_series(1, 5) n;"
)

SQL = Scenario(
    name="sql",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text, n integer, {_PADDING});{_DRAFTS}",
    operations="""
  - sql: {table: items, run: "CREATE VIEW public.some_items AS SELECT id, n FROM public.items", rollback: "DROP VIEW public.some_items"}
  - sql:
      table: items
      phase: switch
      run: "CREATE FUNCTION public.items_of(text) RETURNS bigint STABLE BEGIN ATOMIC SELECT count(*) FROM public.items WHERE status = $1; END"
      rollback: "DROP FUNCTION public.items_of(text)"
  - delete_rows: {table: drafts, where: id % 3 = 0}
  - load: {table: products, from: {file: PRODUCTS}, columns: {id: id, name: name}, key: [id]}
""".replace("PRODUCTS", str(ROOT / "examples" / "products.csv")),
    fields={"status": word, "n": number},
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": shown("n")},
    reference="CREATE VIEW some_items AS SELECT id, n FROM items;"
    "CREATE FUNCTION items_of(text) RETURNS bigint STABLE BEGIN ATOMIC SELECT count(*) FROM items WHERE status = $1; END",
)
RENAME_COLUMN = Scenario(
    name="rename_column",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text, total integer, {_PADDING});",
    operations="[{rename_column: {table: items, from: total, to: revenue}}]",
    fields={"status": word, "total": number},
    before={"status": shown("status"), "total": shown("total")},
    after={"status": shown("status"), "revenue": shown("total")},
    reference="ALTER TABLE items RENAME total TO revenue",
)

#: As PostgreSQL writes it, so that it is the same text after the way there and back.
_JSON = {"status": word, "info": lambda chance: json.dumps({"a": chance.randrange(10**6)})}

TEXT_TO_JSONB = Scenario(
    name="text_to_jsonb",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text, info text NOT NULL DEFAULT '{{}}', {_PADDING});"
    "CREATE INDEX items_info ON items (info);",
    operations='[{change_type: {table: items, column: info, type: jsonb, up: "info::jsonb", down: "info::text"}}]',
    fields=_JSON,
    before={"status": shown("status"), "info": shown("info")},
    after={"status": shown("status"), "info": lambda row: json.loads(row["info"])},
    meanwhile={"info": lambda row: OneOf((row["info"], json.loads(row["info"])))},
    reference="""
        DROP INDEX items_info;
        ALTER TABLE items ALTER info DROP DEFAULT, ALTER info TYPE jsonb USING info::jsonb, ALTER info SET DEFAULT ('{}'::text)::jsonb;
        CREATE INDEX items_info ON items (info);
    """,
    keeps_order=False,
)

_BALANCES = """
    CREATE MATERIALIZED VIEW balances AS SELECT balance, count(*) AS items FROM items GROUP BY balance;
    CREATE UNIQUE INDEX balances_balance ON balances (balance); GRANT SELECT ON balances TO PUBLIC;
"""

INT_TO_BIGINT = Scenario(
    name="int_to_bigint",
    schema="CREATE TABLE branches (id integer PRIMARY KEY); INSERT INTO branches SELECT generate_series(1, 9);"
    f"CREATE TABLE items (id bigint PRIMARY KEY, status text, balance integer NOT NULL DEFAULT 0, {_PADDING},"
    " branch integer REFERENCES branches, CONSTRAINT solvent CHECK (balance > -2000000), UNIQUE (balance, id));"
    f"COMMENT ON COLUMN items.balance IS 'in cents'; {_BALANCES}",
    operations="[{change_type: {table: items, column: balance, type: bigint}}]",
    fields={"status": word, "balance": number},
    before={"status": shown("status"), "balance": shown("balance")},
    after={"status": shown("status"), "balance": shown("balance")},
    reference=f"DROP MATERIALIZED VIEW balances; ALTER TABLE items ALTER balance TYPE bigint; {_BALANCES}",
    keeps_order=False,
)

DROP_COLUMN = Scenario(
    name="drop_column",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text, {_PADDING}, legacy text DEFAULT 'none');"
    "CREATE INDEX items_legacy ON items (legacy); COMMENT ON COLUMN items.legacy IS 'not used';",
    operations="[{drop_column: {table: items, column: legacy}}]",
    defaults={"legacy": "none"},
    fields={"status": word, "legacy": lambda chance: chance.choice([None, word(chance)])},
    before={"status": shown("status"), "legacy": shown("legacy")},
    after={"status": shown("status")},
    # A row that changed its key once the column was gone is another one to the archive.
    back={"legacy": lambda row: OneOf((row["legacy"], None, "none")) if row.moved else row["legacy"]},
    reference="ALTER TABLE items DROP COLUMN legacy",
    keeps_order=False,
)

#: A column that much depends on; a plain RENAME takes all of it along.
RENAME_USED = Scenario(
    name="rename_used",
    schema=f"""
        CREATE TABLE items (id bigint PRIMARY KEY, total integer NOT NULL DEFAULT 7 CHECK (total > -10000000), status text,
                            {_PADDING});
        CREATE INDEX items_total ON items (total DESC) INCLUDE (status) WHERE total > 0;
        CREATE VIEW totals AS SELECT id, total FROM items;
        CREATE FUNCTION all_of_it() RETURNS bigint STABLE BEGIN ATOMIC SELECT sum(total) FROM items; END;
        CREATE STATISTICS totals_status ON total, status FROM items;
        COMMENT ON COLUMN items.total IS 'in cents';
        CREATE FUNCTION trimmed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.status := trim(new.status); RETURN new; END $$;
        CREATE TRIGGER trimmed BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION trimmed();
    """,
    operations="[{rename_column: {table: items, from: total, to: revenue}}]",
    fields={"status": word, "total": number},
    before={"status": shown("status"), "total": shown("total")},
    after={"status": shown("status"), "revenue": shown("total")},
    reference="ALTER TABLE items RENAME total TO revenue",
)

#: Rows that change their key may change their partition.
PARTITIONED = Scenario(
    name="partitioned",
    schema="""
        CREATE TABLE items (id bigint NOT NULL, status text, n integer, region text NOT NULL DEFAULT 'here',
                            PRIMARY KEY (id)) PARTITION BY RANGE (id);
        CREATE TABLE items_low PARTITION OF items FOR VALUES FROM (MINVALUE) TO (9000);
        CREATE TABLE items_high PARTITION OF items FOR VALUES FROM (9000) TO (MAXVALUE);
    """,
    operations="""
  - add_column: {table: items, column: {name: shout, type: text}, backfill: upper(status)}
  - backfill: {table: items, set: {n: n + 1}}
""",
    fields={"status": word, "n": number},
    constant=frozenset({"n"}),
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": _counted, "shout": lambda row: row["status"].upper()},
    meanwhile={"n": lambda row: OneOf(row["n"] + times for times in range(3 if row.moved else 2))},
    back={"n": lambda row: OneOf(row["n"] + times for times in range(3)) if row.moved else row["n"]},
    reference="ALTER TABLE items ADD shout text",
)

_MOODS = ("sad", "ok", "happy")

TEXT_TO_ENUM = Scenario(
    name="text_to_enum",
    schema="CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');"
    f"CREATE TABLE items (id bigint PRIMARY KEY, status text, mood varchar(9) DEFAULT 'ok', {_PADDING});",
    operations="[{change_type: {table: items, column: mood, type: public.mood}}]",
    defaults={"mood": "ok"},
    fields={"status": word, "mood": lambda chance: chance.choice([None, *_MOODS])},
    before={"status": shown("status"), "mood": shown("mood")},
    after={"status": shown("status"), "mood": shown("mood")},
    reference=None,
    keeps_order=False,
)

TO_TIMESTAMPTZ = Scenario(
    name="to_timestamptz",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text, at timestamp NOT NULL DEFAULT 'epoch', {_PADDING});",
    operations="[{change_type: {table: items, column: at, type: timestamptz}}]",
    fields={"status": word, "at": moment},
    before={"status": shown("status"), "at": shown("at")},
    after={"status": shown("status"), "at": lambda row: row["at"].replace(tzinfo=UTC)},
    meanwhile={"at": lambda row: OneOf((row["at"], row["at"].replace(tzinfo=UTC)))},
    reference=None,
    keeps_order=False,
)

#: What changes no row: rules, DEFAULTs and words about a table.
RULES = Scenario(
    name="rules",
    schema=f"""
        CREATE TABLE items (id bigint PRIMARY KEY, status text NOT NULL, n integer CONSTRAINT small CHECK (n < 10000000),
                            code bigint DEFAULT 7 NOT NULL, spare text DEFAULT 'none', shelf bigint, {_PADDING},
                            CONSTRAINT once UNIQUE (id, n), CONSTRAINT apart CHECK (id > 0));
        CREATE TABLE shelves (id bigint PRIMARY KEY); INSERT INTO shelves VALUES (1);
        ALTER TABLE items ADD CONSTRAINT on_shelf FOREIGN KEY (shelf) REFERENCES shelves;
        COMMENT ON CONSTRAINT small ON items IS 'few';
    """,
    operations="""
  - drop_not_null: {table: items, column: status}
  - set_default: {table: items, column: code, default: "8"}
  - drop_default: {table: items, column: spare}
  - drop_constraint: {table: items, name: small}
  - drop_constraint: {table: items, name: once}
  - drop_constraint: {table: items, name: on_shelf}
  - rename_constraint: {table: items, from: apart, to: positive}
  - set_comment: {table: items, comment: 50% of what there is}
""",
    fields={"status": word, "n": number},
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": shown("n")},
    reference="""
        ALTER TABLE items ALTER status DROP NOT NULL, ALTER code SET DEFAULT 8, ALTER spare DROP DEFAULT, DROP CONSTRAINT small,
            DROP CONSTRAINT once, DROP CONSTRAINT on_shelf;
        ALTER TABLE items RENAME CONSTRAINT apart TO positive;
        COMMENT ON TABLE items IS '50% of what there is';
    """,
)

#: What is done to tables as a whole, beside one that an application works on.
TABLES = Scenario(
    name="tables",
    schema=f"""
        CREATE TABLE items (id bigint PRIMARY KEY, status text NOT NULL, {_PADDING});
        CREATE TABLE views (id bigint, path text NOT NULL); INSERT INTO views SELECT n, 'p' FROM generate_series(1, 9) n;
        CREATE TABLE old (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text DEFAULT 'a');
        CREATE VIEW of_old AS SELECT a FROM old; GRANT SELECT ON old TO PUBLIC; COMMENT ON TABLE old IS 'old';
        CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text UNIQUE); INSERT INTO events (a) VALUES ('a');
        CREATE TABLE secrets (id bigint PRIMARY KEY); CREATE POLICY mine ON secrets USING (true);
        CREATE TABLE letters (id bigint PRIMARY KEY, "to" text); INSERT INTO letters SELECT n, n % 3 FROM generate_series(1, 99) n;
        ALTER TABLE letters ENABLE ROW LEVEL SECURITY; CREATE POLICY "50%" ON letters USING ("to" = '1');
        COMMENT ON POLICY "50%" ON letters IS 'half'; GRANT SELECT ON letters TO PUBLIC;
    """,
    application="{personas: {reader: {role: pg_database_owner, settings: {app.who: '2'}}}}",
    operations="""
  - replace_policies: {table: letters, policies: [{name: '50%', for: select, using: '"to" = current_setting(''app.who'')'}], expect: {gained: any}}
  - create_table:
      table: fresh
      columns: [{name: id, type: bigint, identity: always}, {name: item, type: bigint, references: {table: items}, comment: 50%}]
      primary_key: [id]
  - add_primary_key: {table: views, columns: [id]}
  - rename_table: {table: old, to: 50% new}
  - drop_table: {table: events}
  - enable_row_security: {table: secrets, force: true}
""",
    fields={"status": word},
    before={"status": shown("status")},
    after={"status": shown("status")},
    reference="""
        CREATE TABLE fresh (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item bigint REFERENCES items);
        COMMENT ON COLUMN fresh.item IS '50%';
        ALTER TABLE views ADD PRIMARY KEY (id);
        ALTER TABLE old RENAME TO "50% new";
        DROP TABLE events;
        ALTER TABLE secrets ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        DROP POLICY "50%" ON letters; CREATE POLICY "50%" ON letters FOR SELECT USING ("to" = current_setting('app.who'));
    """,
)

#: Several at once, on a table with names that have to be quoted.
TOGETHER = Scenario(
    name="together",
    schema=f"""CREATE TABLE "Order" (id bigint PRIMARY KEY, "a%b" integer, "it's" text NOT NULL, {_PADDING});""",
    table="Order",
    operations="""
  - add_column: {table: Order, column: {name: Shout, type: text}, backfill: 'upper("it''s")', not_null: true}
  - add_column: {table: Order, column: {name: 100%, type: uuid}, default: gen_random_uuid(), not_null: true}
  - add_check: {table: Order, name: not %s, check: '"a%b" < 10000000'}
  - create_index: {table: Order, name: by a%b, columns: [a%b, it's]}
""",
    fields={"n": number, "status": word},
    before={"a%b": shown("n"), "it's": shown("status")},
    after={"a%b": shown("n"), "it's": shown("status"), "Shout": lambda row: row["status"].upper()},
    reference="""
        ALTER TABLE "Order" ADD "Shout" text, ADD "100%" uuid DEFAULT gen_random_uuid() NOT NULL;
        UPDATE "Order" SET "Shout" = upper("it's");
        ALTER TABLE "Order" ALTER "Shout" SET NOT NULL, ADD CONSTRAINT "not %s" CHECK ("a%b" < 10000000);
        CREATE INDEX "by a%b" ON "Order" ("a%b", "it's");
    """,
)

#: On the way back what lets the application work comes before what is walked, of whichever operation either is.
FREED_FIRST = Scenario(
    name="freed_first",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text NOT NULL, total integer, {_PADDING}, legacy text DEFAULT 'none');"
    "CREATE INDEX items_legacy ON items (legacy);",
    operations="""
  - add_column: {table: items, column: {name: shout, type: text}, backfill: "upper(status)", not_null: true}
  - add_check: {table: items, name: small, check: "id < 10000000"}
  - rename_column: {table: items, from: total, to: revenue}
  - drop_column: {table: items, column: legacy}
""",
    defaults={"legacy": "none"},
    fields={"status": word, "total": number, "legacy": lambda chance: chance.choice([None, word(chance)])},
    before={"status": shown("status"), "total": shown("total"), "legacy": shown("legacy")},
    after={"status": shown("status"), "revenue": shown("total"), "shout": lambda row: row["status"].upper()},
    back={"legacy": lambda row: OneOf((row["legacy"], None, "none")) if row.moved else row["legacy"]},
    reference="""
        ALTER TABLE items ADD shout text;
        UPDATE items SET shout = upper(status);
        ALTER TABLE items ALTER shout SET NOT NULL, ADD CONSTRAINT small CHECK (id < 10000000);
        ALTER TABLE items RENAME total TO revenue;
        ALTER TABLE items DROP COLUMN legacy;
    """,
    keeps_order=False,
)

#: The key by which rows are named, and to which others refer. Parts are those of a writer whose foreign keys are enforced.
KEY_TO_BIGINT = Scenario(
    name="key_to_bigint",
    schema=f"""
        CREATE TABLE items (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, status text, n integer, {_PADDING},
                            above bigint REFERENCES items);
        CREATE TABLE parts (item bigint NOT NULL REFERENCES items ON UPDATE CASCADE ON DELETE CASCADE);
        CREATE INDEX ON parts (item);
        CREATE FUNCTION part() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO public.parts VALUES (new.id); RETURN NULL; END $$;
        CREATE TRIGGER part AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION part();
    """,
    operations="[{change_type: {table: items, column: id, type: bigint}}]",
    fields={"status": word, "n": number},
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": shown("n")},
    reference="ALTER TABLE items ALTER id TYPE bigint",
    keeps_order=False,
)


def pair(chance: random.Random) -> str:
    """A text that has two parts."""
    return f"{word(chance)}|{word(chance)}"


SPLIT_COLUMN = Scenario(
    name="change_columns",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, n integer, {_PADDING}, both_of text NOT NULL);"
    "CREATE INDEX items_both ON items (both_of); COMMENT ON COLUMN items.both_of IS 'in two';",
    operations="""[{change_columns: {table: items, down: {both_of: "part_one || '|' || part_two"},
        up: {part_one: "split_part(both_of, '|', 1)", part_two: "split_part(both_of, '|', 2)"}}}]""",
    fields={"n": number, "both": pair},
    before={"n": shown("n"), "both_of": shown("both")},
    after={
        "n": shown("n"),
        "part_one": lambda row: row["both"].split("|")[0],
        "part_two": lambda row: row["both"].split("|")[1],
    },
    reference="""
        ALTER TABLE items ADD part_one text, ADD part_two text;
        UPDATE items SET part_one = split_part(both_of, '|', 1), part_two = split_part(both_of, '|', 2);
        ALTER TABLE items DROP COLUMN both_of;
    """,
)

MOVE_COLUMN = Scenario(
    name="move_column",
    schema=f"CREATE TABLE items (id bigint PRIMARY KEY, status text, {_PADDING}, note text DEFAULT 'none');"
    "CREATE INDEX items_note ON items (note); COMMENT ON COLUMN items.note IS 'to be moved';"
    "CREATE TABLE details (item bigint PRIMARY KEY REFERENCES items ON UPDATE CASCADE ON DELETE CASCADE, seen integer);",
    operations="[{move_column: {from: items, column: note, to: details, on: item}}]",
    fields={"status": word, "note": lambda chance: chance.choice([None, word(chance)])},
    before={"status": shown("status"), "note": shown("note")},
    after={"status": shown("status")},
    defaults={"note": "none"},
    # Nothing has a DEFAULT for a row that was added once the column was gone.
    back={"note": lambda row: OneOf((None, "none")) if row["note"] == "none" else row["note"]},
    reference="ALTER TABLE details ADD note text; ALTER TABLE items DROP COLUMN note",
    cascades=True,
)

#: The application writes no key: which one a row has is decided by a trigger of its own, in whichever type keys are.
CHANGE_KEY = Scenario(
    name="change_key",
    schema=f"""
        CREATE TABLE owners (id integer PRIMARY KEY, n bigint UNIQUE);
        INSERT INTO owners SELECT n, n FROM generate_series(0, 6) n;
        CREATE TABLE items (id bigint PRIMARY KEY, status text, n integer, {_PADDING}, owner integer REFERENCES owners);
        CREATE INDEX items_owner ON items (owner, n);
        CREATE FUNCTION pick() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN new.owner := (SELECT o.id FROM public.owners o WHERE o.n = new.id % 9); RETURN new; END $$;
        CREATE TRIGGER pick BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION pick();
    """,
    operations='[{change_key: {table: owners, column: id, type: uuid, values: "md5(id::text)::uuid"}}]',
    fields={"status": word, "n": number},
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": shown("n")},
    reference="""
        ALTER TABLE items DROP CONSTRAINT items_owner_fkey;
        ALTER TABLE items ALTER owner TYPE uuid USING md5(owner::text)::uuid;
        ALTER TABLE owners ALTER id TYPE uuid USING md5(id::text)::uuid;
        ALTER TABLE items ADD FOREIGN KEY (owner) REFERENCES owners;
    """,
    keeps_order=False,
)

#: A key that holds the key of others, and is referred to as a whole: the change goes along the chain, a column of each.
KEY_CHAIN = Scenario(
    name="key_chain",
    schema=f"""
        CREATE TABLE owners (id integer PRIMARY KEY, n bigint UNIQUE);
        CREATE TABLE accounts (owner integer REFERENCES owners ON DELETE CASCADE, n integer, PRIMARY KEY (owner, n));
        INSERT INTO owners SELECT n, n FROM generate_series(0, 6) n; INSERT INTO accounts SELECT id, n % 3 FROM owners;
        CREATE TABLE items (id bigint PRIMARY KEY, status text, n integer, {_PADDING}, owner integer NOT NULL, account integer NOT NULL,
                            FOREIGN KEY (owner, account) REFERENCES accounts MATCH FULL ON UPDATE CASCADE);
        CREATE INDEX items_account ON items (account, owner);
        CREATE FUNCTION pick() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN SELECT a.owner, a.n INTO STRICT new.owner, new.account FROM public.accounts a
               JOIN public.owners o ON o.id = a.owner WHERE o.n = new.id % 7; RETURN new; END $$;
        CREATE TRIGGER pick BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION pick();
        ALTER TABLE items ENABLE ALWAYS TRIGGER pick;
    """,
    operations='[{change_key: {table: owners, column: id, type: uuid, values: "gen_random_uuid()"}}]',
    fields={"status": word, "n": number},
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": shown("n")},
    reference="""
        ALTER TABLE items DROP CONSTRAINT items_owner_account_fkey; ALTER TABLE accounts DROP CONSTRAINT accounts_owner_fkey;
        ALTER TABLE items ALTER owner TYPE uuid USING md5(owner::text)::uuid;
        ALTER TABLE accounts ALTER owner TYPE uuid USING md5(owner::text)::uuid;
        ALTER TABLE owners ALTER id TYPE uuid USING md5(id::text)::uuid;
        ALTER TABLE accounts ADD FOREIGN KEY (owner) REFERENCES owners ON DELETE CASCADE;
        ALTER TABLE items ADD FOREIGN KEY (owner, account) REFERENCES accounts MATCH FULL ON UPDATE CASCADE;
    """,
    keeps_order=False,
)

#: A table made anew with all that belongs to it: a key that others refer to, a unique key whose values are handed round, triggers,
#: policies, statistics, a sequence. The application finds its columns at all times.
REBUILD = Scenario(
    name="rebuild",
    schema=f"""
        CREATE TABLE items (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, legacy text DEFAULT 'none', status text UNIQUE,
                            n integer DEFAULT 3, {_PADDING}, above integer REFERENCES items, place serial, CONSTRAINT small CHECK (n < 10000000));
        CREATE TABLE parts (item bigint NOT NULL REFERENCES items ON UPDATE CASCADE ON DELETE CASCADE);
        CREATE INDEX ON parts (item); CREATE INDEX items_lower ON items (lower(status) DESC) INCLUDE (n) WHERE n > 0;
        CREATE FUNCTION part() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO public.parts VALUES (new.id); RETURN NULL; END $$;
        CREATE TRIGGER part AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION part();
        CREATE STATISTICS items_both ON status, n FROM items;
        ALTER TABLE items ENABLE ROW LEVEL SECURITY; CREATE POLICY all_of_them ON items USING (true);
        GRANT SELECT ON items TO PUBLIC; COMMENT ON COLUMN items.n IS 'in cents';
    """,
    operations="""
  - rebuild:
      table: items
      columns: {id: {type: bigint}, n: {type: bigint}, above: {type: bigint}, legacy: {drop: true}}
      with: {fillfactor: 70}
""",
    fields={"status": word, "n": number},
    unique=frozenset({"status"}),
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": shown("n")},
    reference="""
        ALTER TABLE items DROP COLUMN legacy, ALTER id TYPE bigint, ALTER n TYPE bigint, ALTER above TYPE bigint;
        ALTER TABLE items SET (fillfactor = 70);
    """,
)

#: The policies of the application's own table: both sets until contract, with row security that was off before.
POLICIES = Scenario(
    name="policies",
    schema=f"""
        CREATE TABLE items (id bigint PRIMARY KEY, "pa%rt" text DEFAULT 'it''s', status text NOT NULL, n integer, {_PADDING});
        CREATE POLICY "50%" ON items USING (status LIKE '%s%') WITH CHECK (n > 0); COMMENT ON POLICY "50%" ON items IS 'half';
        CREATE POLICY "few" ON items AS RESTRICTIVE FOR SELECT TO pg_monitor USING (n < 500000); GRANT SELECT, UPDATE ON items TO PUBLIC;
        CREATE TABLE parts (item bigint PRIMARY KEY); INSERT INTO parts SELECT n FROM generate_series(1, 9) n;
        ALTER TABLE parts ENABLE ROW LEVEL SECURITY; GRANT SELECT ON parts TO PUBLIC;
        CREATE POLICY shared ON parts USING (EXISTS (SELECT FROM items i WHERE i.id = parts.item));
    """,
    application="{personas: {reader: {role: pg_database_owner, settings: {app.who: '2'}}, watcher: {role: pg_monitor}}}",
    operations="""
  - replace_policies:
      table: items
      policies:
        - {name: '100% new', for: select, using: 'n > 0'}
        - {name: writes, for: update, to: [pg_database_owner], using: 'n > 0', check: 'n IS NOT NULL'}
        - {name: never, restrictive: true, using: 'status <> current_setting(''app.who'', true)'}
      keep_both: true
      enable: true
      force: true
      expect: {gained: any}
""",
    fields={"status": word, "n": number},
    before={"status": shown("status"), "n": shown("n")},
    after={"status": shown("status"), "n": shown("n")},
    reference="""
        ALTER TABLE items ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; DROP POLICY "50%" ON items; DROP POLICY few ON items;
        CREATE POLICY "100% new" ON items FOR SELECT USING (n > 0);
        CREATE POLICY writes ON items FOR UPDATE TO pg_database_owner USING (n > 0) WITH CHECK (n IS NOT NULL);
        CREATE POLICY never ON items AS RESTRICTIVE USING (status <> current_setting('app.who', true));
    """,
)

_ALL = (
    ADD_COLUMN, COUNT_UP, LOWER, SET_NOT_NULL, ADD_CHECK, ADD_FOREIGN_KEY, ADD_UNIQUE, CREATE_INDEX, DROP_INDEX, SQL,
    RENAME_COLUMN, TEXT_TO_JSONB, INT_TO_BIGINT, DROP_COLUMN, TOGETHER, RENAME_USED, PARTITIONED, TEXT_TO_ENUM, TO_TIMESTAMPTZ,
    FREED_FIRST, RULES, TABLES, KEY_TO_BIGINT, SPLIT_COLUMN, MOVE_COLUMN, CHANGE_KEY, REBUILD,
    POLICIES, KEY_CHAIN,
)  # fmt: skip

SCENARIOS = {scenario.name: scenario for scenario in _ALL}
