"""Two tables of one name change places, by their schemas: nothing is renamed, so indexes, constraints and sequences keep their names.

The one that leaves gives up what a table alone can have: foreign keys in and out, publications, the sequence of a serial column,
triggers that fire. The one that comes gets all of it, in the same transaction. Foreign keys come NOT VALID, which reads no row, and
are proved afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.base import Action, Guard, Statement
from backfilld.migrations.operations.ddl import (
    grants_and_comments,
    publications,
    row_functions,
    statistics,
    tables,
    views,
)
from backfilld.migrations.operations.ddl.columns import alter_table
from backfilld.migrations.operations.ddl.key_journal import MOST_KEYS, MOST_KEYS_FIRST
from backfilld.migrations.postgres.catalog_diff import AllowedChanges
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from backfilld.migrations.operations.rebuild.new_table import NewTable
    from backfilld.migrations.postgres.belongings import ForeignKey
    from backfilld.migrations.postgres.column_dependents import DependentView
    from backfilld.migrations.walks.copying import Copying

#: How the mode of a trigger is said; one that was disabled stays so.
_ENABLE = {"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}
#: At most this many rows are named.
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One of the two directions."""

    new: NewTable
    #: The new table comes, and the old one leaves.
    forward: bool

    @property
    def action(self) -> Action:
        """The exchange, without what takes it back."""
        new = self.new
        return Action(
            table=new.table,
            locks=self._locks,
            first=self._first,
            # The outermost first, as whoever reads them locks them.
            views=tuple(TableName(one.schema, one.name) for one in reversed(self._views)),
            requires=(new.journal.is_on, *self._few_keys, self._nobody_aside, *self._as_read, *self._same_partitions),
            statements=tuple(self._statements()),
            drains=self._copying.waiting(most=MOST_KEYS_FIRST + 1),
            guards=(
                *(views.same_privileges(one) for one in self._views),
                *(row_functions.same_privileges(one) for one in new.definition.row_functions),
            ),
            allows=self.allows,
        )

    @property
    def proofs(self) -> Iterator[Action]:
        """Each foreign key is proved again, by a scan that lets the application work."""
        for table, key in (
            *((one.table, one) for one in self.new.inbound),
            *((self.new.table, one) for one in self._own),
        ):
            if key.valid and key.enforced:
                validate = sql.SQL("VALIDATE CONSTRAINT {}").format(sql.Identifier(key.name))
                lock = LockMode.SHARE_UPDATE_EXCLUSIVE
                statement = alter_table(
                    table, validate, lock=lock, brief=False, scans=True, note="scans the table that refers"
                )
                yield Action(table=table, statements=(statement,), scans=True)

    @property
    def _copying(self) -> Copying:
        return self.new.forward if self.forward else self.new.back

    @property
    def _comes(self) -> TableName:
        """Where the table that comes has waited, under the name of both."""
        return self.new.next if self.forward else self.new.past

    @property
    def _leaves(self) -> TableName:
        """Where the one that leaves will be."""
        return self.new.past if self.forward else self.new.next

    @property
    def _views(self) -> tuple[DependentView, ...]:
        """All views, each behind those that it reads."""
        return (*(one.view for one in self.new.definition.copied), *self.new.definition.views)

    def _partitions(self, *, leaves: bool) -> int:
        """How many partitions the table that leaves has, or the one that comes."""
        is_old = self.forward == leaves
        return len(self.new.definition.own_partitions if is_old else self.new.partitions(self.new.next.schema))

    @property
    def _own(self) -> tuple[ForeignKey, ...]:
        """The foreign keys of the table that comes."""
        return self.new.own_keys(new=self.forward)

    @property
    def _locks(self) -> tuple[TableName, ...]:
        new = self.new
        tables = {new.table, self._comes, *(one.table for one in new.inbound)}
        tables |= {one.other for one in new.outbound} | {one.table for one in new.definition.policies}
        return tuple(sorted(tables, key=lambda table: (table.schema, table.name)))

    @property
    def _first(self) -> tuple[Statement, ...]:
        """The journal is locked as lanes do that bring keys over, and then all that it has is brought over.

        The application goes on writing it, and must: a transaction that waits for the journal with the table in hand, and that we wait
        for with the journal in hand, is a deadlock.
        """
        lock = sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(self.new.journal.name.identifier)
        note = "all keys so far, before a table is locked"
        return (
            Statement(
                sql=lock, lock=LockMode.SHARE_UPDATE_EXCLUSIVE, note="no lane brings keys over meanwhile", brief=True
            ),
            Statement(sql=self._copying.drain_all(), lock=LockMode.ROW_EXCLUSIVE, note=note),
        )

    # What must hold once the tables are locked

    @property
    def _few_keys(self) -> tuple[Guard, ...]:
        """The application does not wait for more than these; a lane brings the others over first."""
        query = sql.SQL("SELECT behind.keys FROM ({}) behind WHERE behind.keys > {}").format(
            self._copying.waiting(most=MOST_KEYS + 1), sql.Literal(MOST_KEYS)
        )
        return (Guard(sql=query, template="", remedy="", postpones=True),)

    @property
    def _nobody_aside(self) -> Guard:
        """No row is put aside because it has no place in the table that comes."""
        new = self.new
        columns = [one.name for one in new.key]
        in_journal = self._is_aside("j", [f"k{place}" for place in range(1, len(columns) + 1)])
        query = sql.SQL(
            "SELECT m.key, count(*) OVER () AS rows FROM ("
            "SELECT f.key FROM backfilld.rollback_conflicts f WHERE f.operation = {number} AND f.run = {run} "
            "UNION SELECT ARRAY(SELECT jsonb_array_elements_text(q.key)) FROM backfilld.quarantine q "
            "WHERE q.operation = {number} AND q.run = {run}) m JOIN {table} t ON {at} "
            "WHERE NOT EXISTS (SELECT FROM {target} o WHERE {in_target}) AND NOT EXISTS (SELECT FROM {journal} j WHERE {in_journal}) "
            "ORDER BY m.key LIMIT {named}"
        ).format(
            number=sql.Literal(new.number),
            run=self._run,
            table=new.table.identifier,
            at=self._is_aside("t", columns),
            target=self._comes.identifier,
            in_target=self._is_aside("o", columns),
            journal=new.journal.name.identifier,
            in_journal=in_journal,
            named=sql.Literal(_NAMED),
        )
        which = "new" if self.forward else "old"
        return Guard(
            sql=query,
            template=f"rows that have no place in the {which} table, with their keys: {{!r}}",
            remedy="Fix these rows, then resume",
            names_rows=True,
        )

    @property
    def _as_read(self) -> Iterable[Guard]:
        """What is made anew from its text is as it was when that was read: a deploy's change of it would be lost.

        Of the way forward alone: over the new table PostgreSQL may write a text otherwise.
        """
        definition = self.new.definition
        for one in definition.copied:
            if one.materialized:
                yield views.same_indexes(one, schema=self._comes.schema)
        for view in self._views:
            yield views.privileges_as_read(view)
        texts = [
            (
                f"view {one.written}",
                f"pg_catalog.pg_get_viewdef(pg_catalog.to_regclass({_text(one.written)}))",
                one.definition,
            )
            for one in self._views
        ]
        texts += [
            (
                f"function {one.signature}",
                f"pg_catalog.pg_get_functiondef(pg_catalog.to_regprocedure({_text(one.signature)}))",
                one.definition,
            )
            for one in definition.row_functions
        ]
        if self.forward and texts:
            is_now = sql.SQL(", ").join(
                sql.SQL("({}, {}, {})").format(sql.Literal(name), sql.SQL(now), sql.Literal(had))
                for name, now, had in texts
            )
            query = sql.SQL(
                "SELECT w.name FROM (VALUES {}) w (name, now, had) WHERE pg_catalog.rtrim(w.now, E' ;\n') "
                "IS DISTINCT FROM pg_catalog.rtrim(w.had, E' ;\n') LIMIT 1"
            ).format(is_now)
            template = "the {!r} is not what it was when the run was enqueued, and would be made as it was"
            yield Guard(sql=query, template=template, remedy="Roll back, and enqueue the migration again")

    @property
    def _same_partitions(self) -> Iterable[Guard]:
        """The old table has the partitions that it had: rows of one that went, or came with rows, no trigger has written down."""
        known = self.new.definition.own_partitions
        if not self.forward or not known:
            return
        query = sql.SQL(
            "SELECT coalesce(w.name, p.name) AS name FROM (VALUES {known}) w (name, bounds) FULL JOIN ("
            "SELECT c.relname::text AS name, pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bounds "
            "FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = pg_catalog.to_regclass({table})) p ON p.name = w.name AND p.bounds = w.bounds "
            "WHERE w.name IS NULL OR p.name IS NULL ORDER BY 1 LIMIT 1"
        ).format(
            known=sql.SQL(", ").join(
                sql.SQL("({}, {})").format(sql.Literal(one.name), sql.Literal(one.bounds)) for one in known
            ),
            table=sql.Literal(self.new.table.identifier.as_string()),
        )
        template = "the partition {!r} came, went or has other bounds since the run was enqueued"
        yield Guard(sql=query, template=template, remedy="Roll back, and enqueue the migration again")

    def _is_aside(self, alias: str, columns: Sequence[str]) -> sql.Composed:
        """The key in these columns is that of an entry `m`."""
        return sql.SQL(" AND ").join(
            sql.SQL("{} = CAST(m.key[{}] AS {})").format(
                sql.Identifier(alias, name), sql.Literal(place), sql.SQL(type_)
            )
            for place, (name, type_) in enumerate(zip(columns, self.new.journal.key_types, strict=True), start=1)
        )

    @property
    def _run(self) -> sql.Composed:
        return sql.SQL("(SELECT max(r.run) FROM backfilld.runs r WHERE r.name = {})").format(
            sql.Literal(self.new.migration)
        )

    @property
    def allows(self) -> AllowedChanges:
        new, gone = self.new, set(self.new.dropped)
        keys = [("constraint", one.name) for one in new.outbound]
        keys += [("inbound foreign key", f"{one.name} of {one.relation}") for one in new.inbound]
        belongings = [
            (kind, one.name)
            for one in new.definition.belongings
            if gone & set(one.columns)
            for kind in ("constraint", "index", "statistics")
        ]
        # PostgreSQL writes their columns in the order of the table.
        belongings += [("statistics", one.name) for one in new.definition.statistics if new.of.order is not None]
        # Where a view had no privileges of its own it has them in words now: `same_privileges`.
        belongings += [("view", one.written) for one in self._views if not one.has_grants]
        if new.of.partition_by is not None or new.of.primary_key is not None:
            # The primary key has other columns, and of a table in partitions PostgreSQL writes each index otherwise.
            belongings += [
                (kind, one.name)
                for one in new.definition.belongings
                if one.moment in {"key", "unique", "index"}
                for kind in ("constraint", "index")
            ]
        whole = [("table", "")] if new.of.with_ or new.of.partition_by is not None else []
        return AllowedChanges(columns=new.dropped, retyped=new.retyped, may_differ=(*keys, *belongings, *whole))

    # The statements

    def _statements(self) -> Iterator[Statement]:
        new, table = self.new, self.new.table
        drain = self._copying.drain_all()
        yield Statement(sql=drain, lock=LockMode.ROW_EXCLUSIVE, note=f"the last keys, {MOST_KEYS} at most")
        yield from self._forgotten
        yield from self._unbound()
        yield from new.journal.taken_off
        yield from self._fired(off=True)
        for one in new.inbound:
            yield _drop_key(one.table, one, also=(table,))
        for one in new.own_keys(new=not self.forward):
            yield _drop_key(table, one, also=() if one.other == table else (one.other,))
        yield from self._sequences_free()
        for name in new.definition.publications:
            yield publications.drop(name, table)
        yield _set_schema(table, self._leaves.schema)
        if leave := self._partitions(leaves=True):
            yield _partitions_follow(self._leaves, of=table.schema, times=leave)
        yield _set_schema(self._comes, table.schema)
        if come := self._partitions(leaves=False):
            yield _partitions_follow(table, of=self._comes.schema, times=come)
        yield from self._statistics()
        yield from self._sequences_taken()
        for key in (*new.inbound, *self._own):
            yield from _add_key(key)
        if self.forward:
            yield from new.in_place("policy")
            yield from new.in_place("foreign key comment")
        for name in new.definition.publications:
            yield publications.add(name, table)
        yield from self._bound_anew()
        yield from self._fired(off=False)
        yield from new.journal.put_on
        yield from new.journal.fence
        yield from self._kept_ahead()
        if new.definition.notifies:
            yield tables.notify_postgrest()

    def _kept_ahead(self) -> Iterator[Statement]:
        """A worker makes the next partitions from now on; or no more."""
        by = self.new.of.partition_by
        if by is None or by.range is None:
            return
        relation = sql.SQL("{}::pg_catalog.regclass::text").format(sql.Literal(self.new.table.identifier.as_string()))
        if self.forward:
            kept = sql.SQL(
                "INSERT INTO backfilld.partitioned_tables (relation, run, partition_by) VALUES ({}, {}, {}) "
                "ON CONFLICT (relation) DO UPDATE SET run = excluded.run, partition_by = excluded.partition_by"
            ).format(relation, self._run, sql.Literal(by.model_dump_json(by_alias=True, exclude_defaults=True)))
            yield Statement(sql=kept, lock=LockMode.NONE, note="a worker makes the next partitions from now on")
        else:
            ended = sql.SQL("DELETE FROM backfilld.partitioned_tables p WHERE p.relation = {}").format(relation)
            yield Statement(sql=ended, lock=LockMode.NONE, note="no worker makes partitions of it any more")

    def _unbound(self) -> Iterator[Statement]:
        """What is bound to the table that leaves goes, whatever reads another before it."""
        definition = self.new.definition
        for view in reversed(definition.views):
            yield views.drop(view)
        for copied in reversed(definition.copied):
            yield views.drop_copied(copied, schema=copied.view.schema)
        for function in definition.row_functions:
            yield row_functions.drop(function)

    def _bound_anew(self) -> Iterator[Statement]:
        """Texts that were read before the run, run again: they name the table, and are bound to the one that has the name now."""
        for copied in self.new.definition.copied:
            yield from views.move_copied(copied, schema=self._comes.schema)
        yield from row_functions.made(self.new.definition.row_functions)
        for view in self.new.definition.views:
            yield from views.made(view)
        for function in self.new.definition.functions:
            yield Statement(sql=views.as_written(function), lock=LockMode.NONE, note="bound to the table that comes")
        for policy in self.new.definition.policies:
            yield views.policy(policy)

    @property
    def _forgotten(self) -> Iterator[Statement]:
        """Rows that were put aside have their place now: under the lock, a guard has seen to that, and what was brought over."""
        for of in ("quarantine", "rollback_conflicts"):
            forget = sql.SQL("DELETE FROM backfilld.{} o WHERE o.operation = {} AND o.run = {}").format(
                sql.Identifier(of), sql.Literal(self.new.number), self._run
            )
            yield Statement(sql=forget, lock=LockMode.NONE, note="all rows have their place")

    def _fired(self, *, off: bool) -> Iterator[Statement]:
        """Triggers of users': off on the table that leaves, each in its mode on the one that comes."""
        for name, mode in self.new.definition.triggers:
            if mode in _ENABLE:
                what = sql.SQL(f"{'DISABLE' if off else _ENABLE[mode]} TRIGGER {{}}").format(sql.Identifier(name))
                yield alter_table(self.new.table, what, lock=LockMode.SHARE_ROW_EXCLUSIVE)

    def _sequences_free(self) -> Iterable[Statement]:
        """A sequence would go with the table whose column owns it."""
        for one in self.new.serials:
            sequence = sql.Identifier(one.sequence_schema, one.sequence)
            free = sql.SQL("ALTER SEQUENCE {} OWNED BY NONE").format(sequence)
            yield Statement(sql=free, lock=LockMode.NONE, note="locks the sequence")

    def _sequences_taken(self) -> Iterable[Statement]:
        """Sequences go on from their numbers."""
        table = self.new.table
        for one in self.new.serials:
            sequence = sql.Identifier(one.sequence_schema, one.sequence)
            owned = sql.SQL("ALTER SEQUENCE {} OWNED BY {}").format(
                sequence, sql.Identifier(table.schema, table.name, one.name)
            )
            yield Statement(sql=owned, lock=LockMode.NONE, note="locks the sequence")
            if (type_ := self.new.type_of(one)) != one.type and type_ in {"smallint", "integer", "bigint"}:
                as_wide = type_ if self.forward else one.sequence_type
                widened = sql.SQL("ALTER SEQUENCE {} AS {}").format(sequence, sql.SQL(as_wide))
                yield Statement(sql=widened, lock=LockMode.NONE, note="locks the sequence")
        for one in self.new.identities:
            comes, leaves = (sql.Identifier(schema, one.sequence) for schema in (table.schema, self._leaves.schema))
            go_on = sql.SQL(
                "SELECT pg_catalog.setval({}::pg_catalog.regclass, s.last_value, s.is_called) FROM {} s"
            ).format(sql.Literal(comes.as_string()), leaves)
            yield Statement(sql=go_on, lock=LockMode.NONE, note="from where the other table's sequence was")

    def _statistics(self) -> Iterator[Statement]:
        """Extended statistics have a schema of their own; those about a dropped column the old table has alone."""
        for one in self.new.definition.statistics:
            in_both = not set(self.new.dropped) & set(one.columns)
            if self.forward or in_both:
                yield statistics.set_schema(one.schema, one.name, self._leaves.schema)
            if in_both or not self.forward:
                yield statistics.set_schema(self._comes.schema, one.name, one.schema)


def _text(text: str) -> str:
    return sql.Literal(text).as_string()


def _set_schema(table: TableName, schema: str) -> Statement:
    return alter_table(table, sql.SQL("SET SCHEMA {}").format(sql.Identifier(schema)))


def _partitions_follow(table: TableName, *, of: str, times: int) -> Statement:
    """The partitions of a table that has left a schema leave it too, those that came since among them."""
    body = (
        "DECLARE one record; BEGIN FOR one IN SELECT p.relid::pg_catalog.regclass AS name FROM pg_catalog.pg_partition_tree("  # noqa: S608 - names are quoted
        f"pg_catalog.to_regclass({_text(table.identifier.as_string())})) p JOIN pg_catalog.pg_class c ON c.oid = p.relid WHERE p.level > 0 "
        f"AND c.relnamespace = {_text(sql.Identifier(of).as_string())}::pg_catalog.regnamespace ORDER BY c.oid "
        f"LOOP EXECUTE pg_catalog.format('ALTER TABLE %s SET SCHEMA %I', one.name, {_text(table.schema)}); END LOOP; END"
    )
    moved = sql.SQL("DO {}").format(sql.Literal(body))
    return Statement(sql=moved, lock=LockMode.ACCESS_EXCLUSIVE, brief=True, note="its partitions", times=times)


def _drop_key(table: TableName, key: ForeignKey, *, also: tuple[TableName, ...]) -> Statement:
    return alter_table(table, sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(key.name)), also=also)


def _add_key(key: ForeignKey) -> Iterator[Statement]:
    """A foreign key comes, and binds rows that are written from then on."""
    added = sql.SQL("ADD CONSTRAINT {} {}{}").format(
        sql.Identifier(key.name), sql.SQL(key.definition), sql.SQL(" NOT VALID" if key.enforced else "")
    )
    other = () if key.other == key.table else (key.other,)
    yield alter_table(key.table, added, lock=LockMode.SHARE_ROW_EXCLUSIVE, also=other, note="reads no row")
    if key.comment:
        yield grants_and_comments.on_constraint(key.table, key.name, key.comment)
