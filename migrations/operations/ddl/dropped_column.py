"""A column that was dropped, made again: with its values' type first, and with what it carried once it has its values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.operations.base import Action, Guard, Statement, Step
from backfilld.migrations.operations.ddl import columns, constraints, grants_and_comments, indexes
from backfilld.migrations.operations.ddl.constraints import from_catalog, not_null_check
from backfilld.migrations.postgres.dependents import appeared_since

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.facts import Dropped
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.definitions import Constraint, IndexDefinition, KeyColumn


def nothing_lost(table: TableName, column: str, dropped: Dropped, *, instead: str) -> Guard:
    """Nothing uses a column that is about to go but what comes back with it."""
    return Guard(
        sql=appeared_since(table, column, dropped.carries),
        template=f"the {{!r}} still uses {column}, which is about to go",
        remedy=f"Let it use {instead} instead, or drop it; then resume",
    )


def added(table: TableName, column: str, dropped: Dropped) -> tuple[Statement, ...]:
    """The column again, without values."""
    statements = [columns.add(table, column, dropped.type, collation=dropped.collation)]
    if dropped.default is not None:
        statements.append(columns.set_default(table, column, dropped.default))
    if dropped.comment is not None:
        statements.append(grants_and_comments.on_column(table, column, dropped.comment))
    statements += [grants_and_comments.grant(table, grant, column=column) for grant in dropped.grants]
    return tuple(statements)


def carried(table: TableName, dropped: Dropped, *, key: Sequence[KeyColumn]) -> tuple[Step, ...]:
    """What the column carried: its indexes and its constraints."""
    return (
        *(step for index in dropped.indexes for step in _index(table, index, dropped, key=key)),
        *(step for constraint in dropped.constraints for step in _constraint(table, constraint, key=key)),
    )


def not_null_again(table: TableName, column: str, *, name: str, key: Sequence[KeyColumn]) -> tuple[Step, ...]:
    """NOT NULL, proved by a check of this name."""
    proof = not_null_check(table, column, name=name, key=key)
    settled = constraints.settled_not_null(table, column, proof=proof)
    return (*proof.steps(looks=True), Action(table=table, statements=settled))


def _index(table: TableName, kept: IndexDefinition, dropped: Dropped, *, key: Sequence[KeyColumn]) -> tuple[Step, ...]:
    """An index, again; and the UNIQUE constraint that it was."""
    build = indexes.build(table, kept, key=key)
    if kept.name not in dropped.unique:
        return (build,)
    return (build, Action(table=table, statements=(constraints.unique_using_index(table, kept.name),)))


def _constraint(table: TableName, kept: Constraint, *, key: Sequence[KeyColumn]) -> tuple[Step, ...]:
    # As pg_get_constraintdef wrote it, without the word that says it was not validated either.
    definition = kept.definition.removesuffix(" NOT VALID")
    rule = from_catalog(table, kept.name, definition, key=key)
    return rule.steps(looks=True) if kept.valid else (rule.added,)
