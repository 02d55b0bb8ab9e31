"""Whether a table can be made anew in partitions, or with other columns in its primary key; and which partitions it gets."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from backfilld.migrations.file.operations.partitioning import MOST_PARTITIONS
from backfilld.migrations.operations.rebuild.new_table import are_akin
from backfilld.migrations.operations.rebuild.partitions import partitions, ranges
from backfilld.migrations.planning.checks.columns import column_of
from backfilld.migrations.postgres.catalog import partition_columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.file.migration import Rebuild
    from backfilld.migrations.file.operations.partitioning import PartitionBy
    from backfilld.migrations.planning.checks.findings import Case
    from backfilld.migrations.postgres.belongings import Belonging, TableDefinition

#: The first version whose partitioned tables may have an identity, and the first whose foreign keys may be added NOT VALID.
_IDENTITY, _NOT_VALID = 170000, 180000
#: Types of which a range is a span of time.
_TIMES = ("date", "timestamp")
_INTEGERS = frozenset({"smallint", "integer", "bigint"})


def settle(case: Case, operation: Rebuild, definition: TableDefinition) -> TableDefinition:
    """The definition with its partitions. Raises Rejected for a column that is not there."""
    by, key = operation.partition_by, operation.primary_key
    if definition.partition_key:
        _check_source(case, operation, definition)
    if by is None and key is None:
        return definition
    before = len(case.found.findings)
    for name in (*(key or ()), *([by.column] if by is not None else [])):
        if not column_of(case.table, name).not_null:
            what = "primary key" if by is None or name != by.column else "key of partitions"
            case.refuse(
                "null", f"{name} is to be in the {what} and may be NULL", "Make it NOT NULL first: set_not_null"
            )
    if key is not None:
        _check_primary_key(case, key, definition)
    _check_inbound(case, operation, definition)
    if by is None:
        return definition
    _check_keys(case, operation, by, definition)
    if not definition.partition_key:
        _check_version(case, definition)
        _check_publications(case, definition)
    if len(case.found.findings) > before:
        return definition
    reaches = _reaches(case, operation, by)
    if reaches is None:
        return definition
    found = partitions(by, case.table.name.name, reaches=reaches)
    _check_names(case, found, but={one.name for one in definition.own_partitions})
    _warn(case, by, found, reaches)
    return replace(definition, partitions=found)


def _check_source(case: Case, operation: Rebuild, definition: TableDefinition) -> None:
    """A table that is in partitions: the new one has the same, unless the file says otherwise."""
    name = case.table.name
    _check_version(case, definition)
    _check_publications(case, definition)
    if operation.cluster_by is not None:
        case.refuse("cluster_by", f"{name} is partitioned: rows of several partitions have no order", "Remove it")
    if len(definition.own_partitions) > MOST_PARTITIONS:
        case.refuse("partitions", f"{name} has more than {MOST_PARTITIONS:,} partitions", "Merge some of them first")
    for column in sorted(one for one in partition_columns(case.connection, case.table) if one is not None):
        changed = operation.columns.get(column)
        if changed is None or (operation.partition_by is not None and not changed.drop):
            continue
        if operation.partition_by is None and changed.drop:
            case.refuse(
                "partition_by",
                f"{column} is dropped, and {name} is partitioned by it",
                "Keep it, or say by what the new table is partitioned: partition_by",
            )
        elif changed.type is not None and not are_akin(changed.type, column_of(case.table, column).type):
            case.refuse(
                "partition_by",
                f"{name} is partitioned by {column}, and the bounds of its partitions may mean something else of {changed.type}",
                "Keep its type, let it go from one integer type to another, or say the partitions anew: partition_by",
            )
    if operation.partition_by is None and not definition.own_partitions:
        case.refuse("partitions", f"{name} has no partition", "Create one first, or say the partitions: partition_by")
    case.warn(
        f"{name} has {len(definition.own_partitions)} partitions, and must have the same until the switch: one that is created, attached, "
        "detached or dropped meanwhile stops it. Let whatever makes partitions be ahead by more than the run takes"
    )


def _check_publications(case: Case, definition: TableDefinition) -> None:
    if definition.publications:
        case.refuse(
            "publication",
            f"the publication {definition.publications[0]} sends {case.table.name}, and would send each partition by its own name",
            "Take the table out of it first",
        )


def _check_primary_key(case: Case, key: tuple[str, ...], definition: TableDefinition) -> None:
    walked = tuple(one.name for one in case.table.keys[0].columns)
    own = next((one for one in definition.belongings if one.is_primary_key), None)
    if own is None:
        case.refuse("key", f"{case.table.name} has no primary key", "Give it one first: add_primary_key")
    elif key[: len(walked)] != walked:
        case.refuse(
            "key",
            f"rows are known by {', '.join(walked)}, and could not be found in the new table by a key of {', '.join(key)}",
            f"Begin primary_key with {', '.join(walked)}",
        )
    elif "INCLUDE" in own.statement or "DEFERRABLE" in own.statement:
        case.refuse(
            "key", f"the primary key {own.name} is deferrable, or includes other columns", "Leave primary_key out"
        )


def _check_inbound(case: Case, operation: Rebuild, definition: TableDefinition) -> None:
    """Keys of other tables, and of its own, need one that is unique in the new table."""
    unique = [set(_columns(one, operation)) for one in definition.belongings if _is_unique(one)]
    for foreign in definition.foreign_keys:
        if foreign.other == case.table.name and set(foreign.other_columns) not in unique:
            case.refuse(
                "foreign_key",
                f"the foreign key {foreign.name} of {foreign.table} refers to {', '.join(foreign.other_columns)}, "
                "which alone is not unique in the new table",
                "Drop it first (drop_constraint), or leave the key as it is",
            )


def _check_keys(case: Case, operation: Rebuild, by: PartitionBy, definition: TableDefinition) -> None:
    """PostgreSQL holds a rule of uniqueness in each partition alone, so each must have the partition key in it."""
    for one in definition.belongings:
        columns = _columns(one, operation)
        if not _is_unique(one) or by.column in columns:
            continue
        if one.is_primary_key:
            names = ", ".join((*columns, by.column))
            remedy = f"Add primary_key: [{names}]; {', '.join(columns)} alone is not unique then"
        else:
            remedy = "Drop it first, partition by a column of it, or add it with the partition key in it"
        case.refuse("unique", f"{one.name} is unique without {by.column}, by which the table is partitioned", remedy)


def _check_version(case: Case, definition: TableDefinition) -> None:
    version = case.connection.info.server_version
    for column in definition.columns if version < _IDENTITY else ():
        if column.identity:
            case.refuse(
                "identity",
                f"{column.name} is an identity, which a partitioned table cannot have before PostgreSQL 17",
                "Give it a sequence as its DEFAULT first",
            )
    for foreign in definition.foreign_keys if version < _NOT_VALID else ():
        if foreign.table == case.table.name:
            case.refuse(
                "foreign_key",
                f"the foreign key {foreign.name} of a partitioned table cannot be added NOT VALID before PostgreSQL 18, so the switch "
                "would read the table under its lock",
                "Drop it first (drop_constraint), and add it again afterwards",
            )


def _reaches(case: Case, operation: Rebuild, by: PartitionBy) -> date | int | None:
    """Today, or the greatest value; None where that cannot be told."""
    if by.range is None:
        return 0
    changed = operation.columns.get(by.range)
    type_ = changed.type if changed is not None and changed.type is not None else column_of(case.table, by.range).type
    if isinstance(by.every, int) != (type_ in _INTEGERS) or (type_ not in _INTEGERS and not type_.startswith(_TIMES)):
        case.refuse(
            "partition_by",
            f"{by.range} is {type_}, of which {by.every} is no range",
            "Write a span of time for a date or a time, and a number for an integer",
        )
        return None
    found = _today(case) if isinstance(by.from_, date) else _greatest(case, by.range)
    if found is None or by.from_ is None:
        return None
    # Counted before they are made: a mistake in `every` would make millions.
    for number, _ in enumerate(ranges(by, reaches=found)):
        if number >= MOST_PARTITIONS:
            case.refuse(
                "partition_by", f"there would be more than {MOST_PARTITIONS:,} partitions", "Make `every` longer"
            )
            return None
    return found


def _today(case: Case) -> date:
    row = case.connection.execute("SELECT (now() AT TIME ZONE 'UTC')::date AS today").fetchone() or {}
    today: date = row["today"]
    return today


def _greatest(case: Case, column: str) -> int | None:
    query = sql.SQL("SELECT max({})::bigint AS greatest FROM {}").format(
        sql.Identifier(column), case.table.name.identifier
    )
    try:
        with case.connection.transaction():
            case.connection.execute("SET LOCAL statement_timeout = '10s'")
            row = case.connection.execute(query).fetchone() or {}
    except psycopg.errors.QueryCanceled:
        case.refuse("partition_by", f"the greatest {column} is not found within 10 s", "Build an index on it first")
        return None
    return int(row["greatest"] or 0)


def _check_names(case: Case, found: tuple[tuple[str, str], ...], *, but: set[str]) -> None:
    """Partitions of the old table leave their names to those of the new one."""
    schema = case.table.name.schema
    for name in (name for name, _ in found if name not in but):
        text = sql.Identifier(schema, name).as_string()
        row = case.connection.execute("SELECT to_regclass(%s) IS NOT NULL AS there", [text]).fetchone()
        if row is not None and row["there"]:
            case.refuse(
                "name", f"there is a relation {schema}.{name}, as a partition is to be called", "Rename it first"
            )


def _warn(case: Case, by: PartitionBy, found: tuple[tuple[str, str], ...], reaches: date | int) -> None:
    name = case.table.name
    case.warn(f"{name} gets {len(found)} partitions, {found[0][0]} to {found[-1][0]}, in the schema {name.schema}")
    if by.range is not None:
        *_, last = ranges(by, reaches=reaches)
        case.warn(
            f"the partitions of {name} reach to {last[2]}, and a worker makes the next ones from the switch on, {by.ahead} ahead, until a "
            f"person ends it (backfilld partitions {name} --end): later rows come into {found[-1][0]}"
        )
    walked = ", ".join(one.name for one in case.table.keys[0].columns)
    case.warn(
        f"a statement that finds rows of {name} without {by.column} looks into each partition, and ON CONFLICT needs a key with "
        f"{by.column} in it" + ("" if by.column in walked.split(", ") else f"; {walked} alone is not unique any more")
    )


def _columns(one: Belonging, operation: Rebuild) -> tuple[str, ...]:
    return operation.primary_key if operation.primary_key is not None and one.is_primary_key else one.columns


def _is_unique(one: Belonging) -> bool:
    return one.kind in {"constraint", "index"} and any(_unique(one))


def _unique(one: Belonging) -> Iterator[bool]:
    yield one.is_primary_key
    yield one.kind == "index" and one.statement.startswith("CREATE UNIQUE INDEX")
    yield one.moment in {"key", "unique"} and one.kind == "constraint"
