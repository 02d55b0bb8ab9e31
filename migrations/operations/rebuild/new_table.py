"""The table that is made anew, as its parts know it: its columns, what is made on it and when, and how rows come to it and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.base import Statement, object_name
from backfilld.migrations.operations.ddl import grants_and_comments, views
from backfilld.migrations.operations.ddl.columns import alter_table
from backfilld.migrations.operations.ddl.key_journal import KeyJournal
from backfilld.migrations.postgres.locks import LockMode
from backfilld.migrations.walks.copying import CopiedColumn, Copying, KeptColumn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from backfilld.migrations.file.operations.rebuild import Rebuild
    from backfilld.migrations.postgres.belongings import (
        Belonging,
        ColumnDefinition,
        ForeignKey,
        PartitionDefinition,
        TableDefinition,
    )
    from backfilld.migrations.postgres.definitions import KeyColumn

#: Types whose values one index finds, so that a key may go from one to the other; a DEFAULT of one is a DEFAULT of the other.
_FAMILIES = (("smallint", "integer", "bigint"), ("text", "character varying"))
_ALSO_CALLED = {
    "int": "integer",
    "int4": "integer",
    "int8": "bigint",
    "int2": "smallint",
    "varchar": "character varying",
}
_AS_WIDE_AS_CAN_BE = {"smallint": "bigint", "integer": "bigint"}
#: What is made of a belonging's lock: nobody else knows the new table.
_NOTE = "the new table, which nobody else uses"


def are_akin(one: str, other: str) -> bool:
    """Whether one index finds the values of both types."""
    plain = {_plain(one), _plain(other)}
    return any(plain <= set(family) for family in _FAMILIES)


def as_wide_as_both(one: str, other: str) -> str:
    """The type that holds the values of two that are akin."""
    return "bigint" if _plain(one) in _FAMILIES[0] else "text" if _plain(one) != _plain(other) else one


def _plain(type_: str) -> str:
    name = type_.partition("(")[0].strip().lower()
    return _ALSO_CALLED.get(name, name)


@dataclass(frozen=True, kw_only=True)
class NewTable:
    """The old table and the new one. `key` are the columns by which rows are known in both."""

    table: TableName
    definition: TableDefinition
    of: Rebuild
    key: tuple[KeyColumn, ...]
    migration: str
    number: int

    # Names

    @property
    def next(self) -> TableName:
        """The new table while it is made; and after a way back."""
        return TableName(f"backfilld_{object_name('next', self.migration, self.number)}", self.table.name)

    @property
    def past(self) -> TableName:
        """The old table after the switch."""
        return TableName(f"backfilld_{object_name('past', self.migration, self.number)}", self.table.name)

    @property
    def kept(self) -> str:
        """The old table's name in our schema, from contract on."""
        return object_name("table", self.migration, self.number)

    @property
    def journal(self) -> KeyJournal:
        types = tuple(_AS_WIDE_AS_CAN_BE.get(one.type, one.type) for one in self.key)
        return KeyJournal(
            table=self.table,
            migration=self.migration,
            number=self.number,
            key=self.key,
            key_types=types,
            partitions=max(len(self.definition.own_partitions), len(self.definition.partitions)),
        )

    # Columns

    @cached_property
    def dropped(self) -> tuple[str, ...]:
        return tuple(name for name, one in self.of.columns.items() if one.drop)

    @cached_property
    def retyped(self) -> tuple[str, ...]:
        return tuple(name for name, one in self.of.columns.items() if not one.drop)

    @cached_property
    def columns(self) -> tuple[ColumnDefinition, ...]:
        """The columns of the new table, in order, each with its old definition."""
        first = self.of.order or ()
        own = [one for one in self.definition.columns if one.name not in self.dropped]
        return tuple(
            sorted(own, key=lambda one: first.index(one.name) if one.name in first else len(first))  # a stable sort
        )

    def type_of(self, column: ColumnDefinition) -> str:
        """The type of a column in the new table."""
        changed = self.of.columns.get(column.name)
        return changed.type if changed is not None and changed.type is not None else column.type

    @cached_property
    def forward(self) -> Copying:
        """From the old table to the new one."""
        return Copying(
            source=self.table,
            target=self.next,
            key=self.key,
            journal=self.journal.name,
            columns=tuple(
                CopiedColumn(name=one.name, type=self.type_of(one), expression=self._up(one))
                for one in self.columns
                if not one.generated
            ),
        )

    @cached_property
    def back(self) -> Copying:
        """From the new table to the old one, once it has been replaced."""
        stays = [one for one in self.definition.columns if not one.generated]
        return Copying(
            source=self.table,
            target=self.past,
            key=self.key,
            journal=self.journal.name,
            columns=tuple(
                CopiedColumn(name=one.name, type=one.type, expression=self._down(one))
                for one in stays
                if one.name not in self.dropped
            ),
            kept=tuple(
                KeptColumn(name=one.name, expression=self.of.columns[one.name].down or one.expression or "NULL")
                for one in stays
                if one.name in self.dropped
            ),
            backwards=True,
        )

    def _up(self, column: ColumnDefinition) -> str | None:
        changed = self.of.columns.get(column.name)
        if changed is None:
            return None
        return changed.up or sql.Identifier(column.name).as_string()

    def _down(self, column: ColumnDefinition) -> str | None:
        changed = self.of.columns.get(column.name)
        if changed is None:
            return None
        return changed.down or sql.Identifier(column.name).as_string()

    # What is made

    @property
    def created(self) -> Iterator[Statement]:
        """The new table, bare: no index, no foreign key, no trigger."""
        columns = sql.SQL(", ").join(self._column(one) for one in self.columns)
        created = sql.SQL("CREATE TABLE {} ({}){}{}").format(
            self.next.identifier, columns, self._kind, self._tablespace
        )
        yield Statement(
            sql=created, lock=LockMode.NONE, note="the new table, bare: no index, no foreign key, no trigger"
        )
        yield from self._partitions_made()
        yield from self.made("early")

    @property
    def _kind(self) -> sql.Composable:
        """A heap with its parameters; a table in partitions has neither, its partitions have."""
        if (by := self.of.partition_by) is None:
            if self.definition.partition_key:
                return sql.SQL(f" PARTITION BY {self.definition.partition_key}")
            return sql.SQL(" USING {}").format(sql.Identifier(self.definition.method)) + self._options
        how = "RANGE" if by.range else "LIST" if by.list else "HASH"
        return sql.SQL(f" PARTITION BY {how} ({{}})").format(sql.Identifier(by.column))

    @property
    def carried(self) -> tuple[PartitionDefinition, ...]:
        """The partitions of the old table, where the new one has the same."""
        return self.definition.own_partitions if self.of.partition_by is None else ()

    def partitions(self, schema: str) -> tuple[TableName, ...]:
        """The new table's partitions, where they are in this schema; none of a table that has none."""
        names = [name for name, _ in self.definition.partitions] or [one.name for one in self.carried]
        return tuple(TableName(schema, name) for name in names)

    def _partitions_made(self) -> Iterator[Statement]:
        definition = self.definition
        of_old = [(one.name, one.bounds, one.method, one.options, one.tablespace) for one in self.carried]
        of_file = [
            (name, bounds, definition.method, definition.options, definition.tablespace)
            for name, bounds in definition.partitions
        ]
        for name, bounds, method, options, tablespace in of_file or of_old:
            created = sql.SQL("CREATE TABLE {} PARTITION OF {} {} USING {}{}{}").format(
                sql.Identifier(self.next.schema, name),
                self.next.identifier,
                sql.SQL(bounds),
                sql.Identifier(method),
                self._with(options),
                self._in(tablespace),
            )
            yield Statement(sql=created, lock=LockMode.NONE, note="a partition of the new table")

    def _column(self, column: ColumnDefinition) -> sql.Composed:
        parts: list[sql.Composable] = [sql.Identifier(column.name), sql.SQL(self.type_of(column))]
        if column.collation:
            parts.append(sql.SQL(f"COLLATE {column.collation}"))
        if column.not_null:
            named = column.not_null_name
            parts.append(
                sql.SQL("CONSTRAINT {} NOT NULL").format(sql.Identifier(named)) if named else sql.SQL("NOT NULL")
            )
        if column.identity:
            name = sql.Identifier(self.next.schema, column.sequence)
            own = column.sequence_limits if self.type_of(column) == column.type else ""
            parts.append(
                sql.SQL("GENERATED {} AS IDENTITY (SEQUENCE NAME {} {})").format(
                    sql.SQL("ALWAYS" if column.identity == "a" else "BY DEFAULT"),
                    name,
                    sql.SQL(column.sequence_options + own),
                )
            )
        elif column.generated:
            kind = "STORED" if column.generated == "s" else "VIRTUAL"
            parts.append(sql.SQL("GENERATED ALWAYS AS ({}) {}").format(sql.SQL(column.expression), sql.SQL(kind)))
        elif column.expression:
            default: sql.Composable = sql.SQL(column.expression)
            if column.name in self.retyped and not are_akin(column.type, self.type_of(column)):
                default = sql.SQL("CAST(({}) AS {})").format(default, sql.SQL(self.type_of(column)))
            parts.append(sql.SQL("DEFAULT {}").format(default))
        return sql.SQL(" ").join(parts)

    @property
    def _options(self) -> sql.Composable:
        return self._with(self.definition.options)

    def _with(self, options: tuple[str, ...]) -> sql.Composable:
        own = dict(one.split("=", 1) for one in options) | {
            name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in self.of.with_.items()
        }
        if not own:
            return sql.SQL("")
        listed = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(
                sql.SQL(".").join(sql.Identifier(part) for part in name.split(".")), sql.Literal(value)
            )
            for name, value in own.items()
        )
        return sql.SQL(" WITH ({})").format(listed)

    @property
    def _tablespace(self) -> sql.Composable:
        return self._in(self.definition.tablespace)

    def _in(self, tablespace: str) -> sql.Composable:
        name = self.of.tablespace or tablespace
        return sql.SQL(" TABLESPACE {}").format(sql.Identifier(name)) if name else sql.SQL("")

    def made(self, moment: str) -> Iterator[Statement]:
        """What belongs to the new table and is made at this moment, while nobody else uses it."""
        for table, one in self._each(moment, self.next):
            yield Statement(sql=one.made(table), lock=LockMode.NONE, note=_NOTE)

    def in_place(self, moment: str) -> Iterator[Statement]:
        """The same, once the new table has the old one's place."""
        for table, one in self._each(moment, self.table):
            yield Statement(sql=one.made(table), lock=LockMode.ACCESS_EXCLUSIVE)

    @property
    def belongs_to_it(self) -> tuple[Statement, ...]:
        """All that is made once the rows and the indexes are there: the owner, privileges, comments, triggers that rest."""
        statements: list[Statement] = list(self._partitions_kept())
        revoked = self.next.identifier
        if not self.definition.owned_directly:
            statements.append(self._given_to_owner(self.next))
        statements.append(
            grants_and_comments.revoke_given(revoked, what="table", from_owner=self.definition.has_grants)
        )
        for one in self.columns:
            if one.identity:
                sequence = sql.Identifier(self.next.schema, one.sequence)
                statements.append(grants_and_comments.revoke_given(sequence, what="sequence", from_owner=False))
        return (*statements, *self.made("late"))

    def renamed(self, schema: str) -> dict[tuple[str, str], sql.Identifier]:
        """The table and the views that are copied, by their names, as they are called in this schema."""
        names = [self.table, *(TableName(one.view.schema, one.view.name) for one in self.definition.copied)]
        return {(one.schema, one.name): sql.Identifier(schema, one.name) for one in names}

    def unfilled(self) -> Self:
        """The same, where no copy of a materialized view has rows."""
        copied = tuple(replace(one, populated=False) for one in self.definition.copied)
        return replace(self, definition=replace(self.definition, copied=copied))

    def copies_made(self, schema: str) -> tuple[Statement, ...]:
        """Copies of materialized views, and of views that these read, over the table that is in this schema."""
        named = self.renamed(schema)
        return (
            *self.copies_gone(schema),
            *(one for copied in self.definition.copied for one in views.copy(copied, schema=schema, named=named)),
        )

    def copies_gone(self, schema: str) -> tuple[Statement, ...]:
        return tuple(views.drop_copied(one, schema=schema) for one in reversed(self.definition.copied))

    def _given_to_owner(self, table: TableName) -> Statement:
        owner = sql.SQL("OWNER TO {}").format(sql.SQL(self.definition.owner))
        return alter_table(table, owner, lock=LockMode.NONE, brief=False)

    def _partitions_kept(self) -> Iterator[Statement]:
        """Nobody comes to a partition but by its table, whose policies and privileges it does not have; one of the old table's has its own."""
        secured = any(one.kind == "row security" for one in self.definition.belongings) or self.definition.notifies
        for partition in self.partitions(self.next.schema):
            if not self.definition.owned_directly:
                yield self._given_to_owner(partition)
            yield grants_and_comments.revoke_given(partition.identifier, what="table", from_owner=False)
            if secured and not self.carried:
                what = sql.SQL("ENABLE ROW LEVEL SECURITY")
                yield alter_table(
                    partition, what, lock=LockMode.NONE, brief=False, note="no policy: nobody comes to it directly"
                )

    def _each(self, moment: str, table: TableName) -> Iterator[tuple[TableName, Belonging]]:
        """What is made at this moment, and for what: the table, or a partition of it."""
        for one in self._belongings(moment):
            yield table, one
        gone = set(self.dropped)
        for partition in self.carried:
            for one in partition.belongings:
                if one.moment == moment and not gone & set(one.columns):
                    yield TableName(table.schema, partition.name), one

    def _belongings(self, moment: str) -> Iterable[Belonging]:
        gone = set(self.dropped)
        return (
            self._with_key(one)
            for one in self.definition.belongings
            if one.moment == moment and not gone & set(one.columns)
        )

    def _with_key(self, one: Belonging) -> Belonging:
        """The primary key, with the columns that the file gives it."""
        if self.of.primary_key is None or not one.is_primary_key:
            return one
        return one.of_columns(self.of.primary_key)

    # Foreign keys

    @property
    def inbound(self) -> tuple[ForeignKey, ...]:
        """Those of other tables that refer to it."""
        return tuple(one for one in self.definition.foreign_keys if one.table != self.table)

    @property
    def outbound(self) -> tuple[ForeignKey, ...]:
        """Its own, those to itself included."""
        return tuple(one for one in self.definition.foreign_keys if one.table == self.table)

    def own_keys(self, *, new: bool) -> tuple[ForeignKey, ...]:
        """Its own in the new table, or in the old one: what is about a dropped column, the new one does not have."""
        gone = set(self.dropped) if new else set[str]()
        return tuple(one for one in self.outbound if not gone & set(one.columns))

    @property
    def serials(self) -> Sequence[ColumnDefinition]:
        """Columns whose sequence is theirs and can be given to another column."""
        return [one for one in self.columns if one.is_serial]

    @property
    def identities(self) -> Sequence[ColumnDefinition]:
        """Columns whose sequence belongs to its column for good, so that the new one has its own."""
        return [one for one in self.columns if one.identity]
