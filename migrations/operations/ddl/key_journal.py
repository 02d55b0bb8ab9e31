"""A table's journal of keys: triggers write down which rows were written, so that another table can follow (`walks/copying.py`).

AFTER each row, so that the key is what BEFORE triggers made of it; ENABLE ALWAYS, so that rows are written down that a subscription
or a session with `session_replication_role = replica` writes. The function is its owner's (SECURITY DEFINER): the application's
roles have no rights on the journal.

A transaction of REPEATABLE READ or SERIALIZABLE that began before two tables changed places has a snapshot in which rows of the one
that came may be missing. It must not write there: an UPDATE of such a row would change nothing, without an error. The *fence*, a
trigger for each statement, fails it as PostgreSQL fails a transaction that cannot be serialized (40001), until no such transaction
is left. That is known once an index was built CONCURRENTLY on a table of ours: PostgreSQL waits for all older snapshots.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.base import Action, Guard, Reliance, Statement, object_name
from backfilld.migrations.operations.ddl import indexes
from backfilld.migrations.operations.ddl.columns import alter_table
from backfilld.migrations.postgres.definitions import IndexDefinition
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from backfilld.migrations.postgres.definitions import KeyColumn

#: Keys that the journal may hold when the tables are locked: what is brought over then, the application waits for (20 to 40 µs each).
MOST_KEYS = 1000
#: Keys that may wait when the transaction begins that locks the tables: it brings them over first, with nobody behind it. Less than a
#: second's work; what is written meanwhile is what it finds under the lock.
MOST_KEYS_FIRST = 20 * MOST_KEYS
#: How a key is written down: what a row was, and what it has become; NULL for a TRUNCATE.
_BODY = """
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    {truncated}
    RETURN NULL;
  END IF;
  IF TG_OP <> 'INSERT' THEN
    INSERT INTO {journal} ({names}) VALUES ({old});
  END IF;
  IF TG_OP = 'INSERT' THEN
    INSERT INTO {journal} ({names}) VALUES ({new});
  ELSIF TG_OP = 'UPDATE' AND ROW({new}) IS DISTINCT FROM ROW({old}) THEN
    INSERT INTO {journal} ({names}) VALUES ({new});
  END IF;
  RETURN NULL;
END
"""

#: What a TRUNCATE writes down: that all rows go. Of a single partition, whose trigger fires before it, the keys that it has.
_ALL_GONE = "INSERT INTO {journal} (k1) VALUES (NULL);"
_SOME_GONE = """IF TG_WHEN = 'BEFORE' THEN
      EXECUTE pg_catalog.format('INSERT INTO {journal} ({names}) SELECT {key} FROM %I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME);
    ELSE
      {all_gone}
    END IF;"""

_FENCE = """
BEGIN
  IF NOT pg_catalog.pg_visible_in_snapshot(%L, pg_catalog.pg_current_snapshot()) THEN
    RAISE EXCEPTION USING ERRCODE = 'serialization_failure', HINT = 'The transaction might succeed if retried.',
      MESSAGE = 'could not serialize access: another table took the place of this one after the transaction began';
  END IF;
  RETURN NULL;
END
"""


@dataclass(frozen=True, kw_only=True)
class KeyJournal:
    """The journal of one run's operation, and the triggers that write it."""

    #: The table whose rows are written down.
    table: TableName
    migration: str
    number: int
    key: tuple[KeyColumn, ...]
    #: The types of the journal's columns: as wide as the key is in either table.
    key_types: tuple[str, ...]
    #: How many partitions the table has, or the one that takes its place; none where both have none.
    partitions: int = 0

    @property
    def name(self) -> TableName:
        return TableName("backfilld", object_name("changed", self.migration, self.number))

    @property
    def trigger(self) -> str:
        # Behind all others in the order of names, as far as names can tell.
        return f"~backfilld_{object_name('changed', self.migration, self.number)}"

    @property
    def fence(self) -> tuple[Statement, ...]:
        """No transaction writes the table from now on that began before now."""
        name = sql.Identifier("backfilld", object_name("fence", self.migration, self.number))
        function = f"CREATE OR REPLACE FUNCTION {name.as_string()}() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS %L"
        # The number of this transaction is known to it alone.
        block = f"BEGIN EXECUTE pg_catalog.format({_text(function)}, pg_catalog.format({_text(_FENCE)}, pg_catalog.pg_current_xact_id())); END"
        trigger = sql.SQL(
            "CREATE TRIGGER {} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {} FOR EACH STATEMENT EXECUTE FUNCTION {}()"
        ).format(sql.Identifier(self._fence), self.table.identifier, name)
        return (
            Statement(sql=sql.SQL("DO {}").format(sql.Literal(block)), lock=LockMode.NONE),
            Statement(sql=trigger, lock=LockMode.SHARE_ROW_EXCLUSIVE, note="older transactions would not see all rows"),
            alter_table(
                self.table,
                sql.SQL("ENABLE ALWAYS TRIGGER {}").format(sql.Identifier(self._fence)),
                lock=LockMode.SHARE_ROW_EXCLUSIVE,
            ),
            *self._on_partitions(
                f"CREATE TRIGGER %2$I BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %1$s FOR EACH STATEMENT EXECUTE FUNCTION {name.as_string()}(); "
                "ALTER TABLE %1$s ENABLE ALWAYS TRIGGER %2$I",
                self._fence,
                note="written by their own names",
            ),
        )

    def older_snapshots_gone(self, moment: str) -> Action:
        """Wait until no transaction is left whose snapshot is older than this step, whoever has it."""
        table = TableName("backfilld", object_name("snapshots", self.migration, self.number))
        definition = IndexDefinition(
            name=f"{table.name}_{moment}",
            unique=False,
            rest="USING btree (n) WHERE false",
            keys=("n",),
            where="false",
        )
        built = indexes.build(table, definition)
        note = "waits until all transactions have ended that have an older snapshot; the table is empty"
        return replace(built, statements=(replace(built.statements[0], scans=None, note=note),), back=())

    @property
    def created(self) -> tuple[Statement, ...]:
        """The journal, its function and the triggers, on a table that has none."""
        return (*self._journal, *self.put_on)

    @property
    def put_on(self) -> tuple[Statement, ...]:
        """The triggers alone. Once they are there, no row that is not written down is on its way."""
        rows, whole = self._triggers
        on = sql.SQL("ON {} ").format(self.table.identifier)
        function = sql.SQL("EXECUTE FUNCTION {}()").format(self.name.identifier)
        note = "waits until all transactions that write the table have ended"
        yields = (
            sql.SQL("CREATE TRIGGER {} AFTER INSERT OR UPDATE OR DELETE {}FOR EACH ROW {}").format(rows, on, function),
            sql.SQL("CREATE TRIGGER {} AFTER TRUNCATE {}FOR EACH STATEMENT {}").format(whole, on, function),
        )
        made = tuple(Statement(sql=one, lock=LockMode.SHARE_ROW_EXCLUSIVE, brief=True, note=note) for one in yields)
        always = tuple(
            alter_table(self.table, sql.SQL("ENABLE ALWAYS TRIGGER {}").format(name), lock=LockMode.SHARE_ROW_EXCLUSIVE)
            for name in (rows, whole)
        )
        of_partitions = self._on_partitions(
            f"CREATE TRIGGER %2$I BEFORE TRUNCATE ON %1$s FOR EACH STATEMENT EXECUTE FUNCTION {self.name.identifier.as_string()}(); "
            "ALTER TABLE %1$s ENABLE ALWAYS TRIGGER %2$I",
            f"{self.trigger}_t",
            note="a TRUNCATE of one partition",
        )
        return (*made, *always, *of_partitions)

    @property
    def taken_off(self) -> tuple[Statement, ...]:
        """The triggers go, if they are there."""
        return (
            *(
                Statement(
                    sql=sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(name, self.table.identifier),
                    lock=LockMode.ACCESS_EXCLUSIVE,
                    brief=True,
                )
                for name in (*self._triggers, sql.Identifier(self._fence))
            ),
            *self._off_partitions,
        )

    @property
    def gone(self) -> tuple[Statement, ...]:
        """The triggers, the function and the journal go."""
        return (
            *self.taken_off,
            *(
                Statement(
                    sql=sql.SQL("DROP FUNCTION IF EXISTS {}()").format(
                        sql.Identifier("backfilld", object_name(kind, self.migration, self.number))
                    ),
                    lock=LockMode.NONE,
                )
                for kind in ("changed", "fence")
            ),
            Statement(
                sql=sql.SQL("DROP TABLE IF EXISTS {}").format(
                    sql.Identifier("backfilld", object_name("snapshots", self.migration, self.number))
                ),
                lock=LockMode.NONE,
            ),
            Statement(
                sql=sql.SQL("DROP TABLE IF EXISTS {}").format(self.name.identifier),
                lock=LockMode.NONE,
                note="the journal, which nobody else reads",
            ),
        )

    @property
    def is_on(self) -> Guard:
        """Both triggers are there and enabled for all sessions."""
        name = sql.Literal(self.table.identifier.as_string())
        alone = sql.SQL("ARRAY[pg_catalog.to_regclass({})::pg_catalog.oid]").format(name)
        each = sql.SQL(
            " || ARRAY(SELECT p.relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass({})) p WHERE p.level > 0)"
        ).format(name)
        query = sql.SQL(
            "SELECT w.name FROM (VALUES ({rows}, {relations}), ({whole}, {alone})) w (name, of) WHERE EXISTS ("
            "SELECT FROM pg_catalog.unnest(w.of) r (oid) WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t "
            "WHERE t.tgrelid = r.oid AND t.tgname = w.name AND t.tgenabled = 'A')) LIMIT 1"
        ).format(
            rows=sql.Literal(self.trigger),
            relations=alone + each if self.partitions else alone,
            whole=sql.Literal(f"{self.trigger}_t"),
            alone=alone,
        )
        return Guard(
            sql=query,
            template="the trigger {!r} was dropped or disabled by another session, so rows may have been written that it did not see",
            remedy="Roll back, and enqueue the migration again",
        )

    def relied_on(self, columns: tuple[str, ...]) -> Reliance:
        again = Action(table=self.table, statements=(*self.taken_off, *self.put_on))
        return Reliance(table=self.table, columns=columns, trigger=self.trigger, again=again)

    @property
    def _off_partitions(self) -> tuple[Statement, ...]:
        """By the names of the triggers alone: a partition that was detached since has kept them."""
        if not self.partitions:
            return ()
        names = f"{_text(f'{self.trigger}_t')}, {_text(self._fence)}"
        body = (
            "DECLARE one record; BEGIN FOR one IN SELECT t.tgrelid::pg_catalog.regclass AS relation, t.tgname AS name "  # noqa: S608 - names are quoted
            f"FROM pg_catalog.pg_trigger t WHERE t.tgname IN ({names}) AND NOT t.tgisinternal ORDER BY t.oid "
            "LOOP EXECUTE pg_catalog.format('DROP TRIGGER %I ON %s', one.name, one.relation); END LOOP; END"
        )
        done = sql.SQL("DO {}").format(sql.Literal(body))
        note = "those of partitions"
        return (Statement(sql=done, lock=LockMode.ACCESS_EXCLUSIVE, brief=True, note=note, times=self.partitions),)

    def _on_partitions(self, statements: str, trigger: str, *, note: str) -> tuple[Statement, ...]:
        """Statements for each partition, %1$s, about its trigger of this name, %2$I: PostgreSQL clones no trigger for statements."""
        if not self.partitions:
            return ()
        body = (
            "DECLARE one record; BEGIN FOR one IN SELECT p.relid::pg_catalog.regclass AS name "  # noqa: S608 - names are quoted
            f"FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass({_text(self.table.identifier.as_string())})) p "
            "WHERE p.level > 0 AND p.isleaf "
            f"LOOP EXECUTE pg_catalog.format({_text(statements)}, one.name, {_text(trigger)}); END LOOP; END"
        )
        done = sql.SQL("DO {}").format(sql.Literal(body))
        return (Statement(sql=done, lock=LockMode.SHARE_ROW_EXCLUSIVE, brief=True, note=note, times=self.partitions),)

    @property
    def _fence(self) -> str:
        return f"~backfilld_{object_name('fence', self.migration, self.number)}"

    @property
    def _triggers(self) -> tuple[sql.Identifier, sql.Identifier]:
        return sql.Identifier(self.trigger), sql.Identifier(f"{self.trigger}_t")

    @property
    def _journal(self) -> tuple[Statement, ...]:
        names = [f"k{number}" for number, _ in enumerate(self.key, start=1)]
        table = sql.SQL(
            "CREATE TABLE {} (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {}, at timestamptz DEFAULT pg_catalog.now())"
        ).format(
            self.name.identifier,
            sql.SQL(", ").join(sql.SQL(f"{name} {type_}") for name, type_ in zip(names, self.key_types, strict=True)),
        )
        journal = self.name.identifier.as_string()
        truncated = _ALL_GONE.format(journal=journal)
        if self.partitions:
            key = ", ".join(sql.Identifier(one.name).as_string() for one in self.key)
            truncated = _SOME_GONE.format(
                journal=journal, names=", ".join(names), key=_in_format(key), all_gone=truncated
            )
        body = _BODY.format(
            journal=journal,
            truncated=truncated,
            names=", ".join(names),
            old=", ".join(sql.Identifier("old", one.name).as_string() for one in self.key),
            new=", ".join(sql.Identifier("new", one.name).as_string() for one in self.key),
        )
        function = sql.SQL(
            "CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS {}"
        ).format(self.name.identifier, sql.Literal(body))
        hidden = sql.SQL("SELECT backfilld.hide({}::pg_catalog.regclass)").format(
            sql.Literal(self.name.identifier.as_string())
        )
        revoked = sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(self.name.identifier)
        note = "the keys of rows that are written, for a moment"
        snapshots = sql.SQL("CREATE TABLE {} (n integer PRIMARY KEY)").format(
            sql.Identifier("backfilld", object_name("snapshots", self.migration, self.number))
        )
        return (
            Statement(sql=snapshots, lock=LockMode.NONE, note="empty; to wait for older transactions by"),
            Statement(sql=table, lock=LockMode.NONE, note=note),
            Statement(sql=hidden, lock=LockMode.NONE, note="nobody else reads it"),
            Statement(sql=function, lock=LockMode.NONE),
            Statement(sql=revoked, lock=LockMode.NONE),
        )


def _in_format(text: str) -> str:
    """SQL inside of a quoted text that is a format."""
    return text.replace("'", "''").replace("%", "%%")


def _text(text: str) -> str:
    return sql.Literal(text).as_string()
