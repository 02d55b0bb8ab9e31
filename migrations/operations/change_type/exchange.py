"""The statements by which the two columns change places, in one transaction; the way back is the same exchange.

Of two columns that change places one is in use, under the name that the application knows, and the other is inactive. Rules stay
on the one in use alone: on an inactive column they would fail statements of the application, which does not know of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfilld.migrations.operations.ddl import columns, constraints, grants_and_comments, identity, indexes, statistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.operations.base import Statement
    from backfilld.migrations.operations.change_type.change import Change
    from backfilld.migrations.postgres.column_dependents import DependentIndex


def to_new(change: Change) -> Iterable[Statement]:
    """The old column becomes inactive, and the new one is in use with all that was made ready on it."""
    yield from old_leaves(change)
    yield from new_comes(change)


def old_leaves(change: Change) -> Iterable[Statement]:
    """The old column becomes inactive."""
    names = [index.old.name for index in change.dependents.indexes]
    yield from _inactive(change, change.old_column, names=names, keeps=change.keeps)


def new_comes(change: Change) -> Iterable[Statement]:
    """The new column is in use, with all that was made ready on it."""
    table, column, dependents = change.table, change.column, change.dependents
    yield columns.rename(table, change.new_column, column)
    if dependents.not_null:
        yield from constraints.settled_not_null(table, column, proof=change.not_null(column))
    for index in dependents.indexes:
        yield _named(change, index, index.new.name)
    for number, rule in enumerate(dependents.rules):
        yield constraints.rename(table, change.rule_name(number), rule.name)
    for number, one in enumerate(dependents.statistics):
        yield statistics.rename(one.schema, change.statistics_name(number), one.name)
    if dependents.identity is not None:
        yield from identity.put_on(table, column, dependents.identity, options=dependents.identity.new)
    yield from _belongings(change, dependents.new_default)
    if dependents.sequence is not None:
        type_ = change.type if dependents.widens_sequence else None
        yield columns.own_sequence(table, column, dependents.sequence, type_=type_)


def to_old(change: Change) -> Iterable[Statement]:
    """The new column becomes inactive, and the old one is in use; its rules hold for what is written from then on."""
    yield from new_leaves(change)
    yield from old_comes(change)


def new_leaves(change: Change) -> Iterable[Statement]:
    """The new column becomes inactive."""
    names = [index.new.name for index in change.dependents.indexes]
    yield from _inactive(change, change.new_column, names=names)


def old_comes(change: Change) -> Iterable[Statement]:
    """The old column is in use; its rules hold for what is written from then on."""
    table, column, dependents = change.table, change.column, change.dependents
    yield columns.rename(table, change.old_column, column)
    if dependents.must_be_not_null and not change.keeps:
        yield from constraints.settled_not_null(table, column, proof=change.not_null(column))
    for index in dependents.indexes:
        yield _named(change, index, index.old.name)
    for rule, _ in change.rules_of_old():
        yield rule.add
    if dependents.not_null and not dependents.must_be_not_null and not change.keeps:
        yield change.not_null(column).add
    for one in dependents.statistics:
        yield statistics.create(table, one.schema, one.name, kinds=one.kinds, of=one.old)
    yield from tuned(change, column)
    if dependents.identity is not None:
        yield from identity.put_on(table, column, dependents.identity, options=dependents.identity.old)
    yield from _belongings(change, dependents.default)
    if dependents.sequence is not None:
        yield columns.own_sequence(table, column, dependents.sequence)


def at_once(change: Change, type_: str, *, default: str | None) -> Iterable[Statement]:
    """The column itself gets this type and this DEFAULT, where PostgreSQL need not write it anew.

    Its DEFAULT goes first: what ALTER COLUMN … TYPE makes of it may be another moment in another session.
    """
    table, column, dependents = change.table, change.column, change.dependents
    if dependents.default is not None or dependents.new_default is not None:
        yield columns.drop_default(table, column)
    yield columns.set_type(table, column, type_, collation=dependents.collation)
    if default is not None:
        yield columns.set_default(table, column, default)


def tuned(change: Change, column: str) -> Iterable[Statement]:
    """What ANALYZE is told about the column."""
    if change.dependents.statistics_target >= 0:
        yield columns.set_statistics(change.table, column, change.dependents.statistics_target)
    if change.dependents.options:
        yield columns.set_options(change.table, column, change.dependents.options)


def _inactive(change: Change, column: str, *, names: Sequence[str], keeps: bool = False) -> Iterable[Statement]:
    """The column in use gets this name, its indexes these; what may not stay on an inactive column comes off.

    With `keeps` it goes on filling itself: NOT NULL and its DEFAULT stay.
    """
    table, dependents = change.table, change.dependents
    for reference in dependents.references:
        also = () if reference.table == table else (table,)
        yield constraints.drop(reference.table, reference.name, also=also)
    for rule, _ in change.rules_of_old():
        yield rule.drop
    for index, name in zip(dependents.indexes, names, strict=True):
        if index.harmless:
            yield indexes.rename(table.schema, index.name, name)
        elif index.constraint is not None:
            yield constraints.drop(table, index.name)
        else:
            why = "values of the inactive column must not make a statement fail"
            yield indexes.drop_at_once(table.schema, index.name, note=why)
    if dependents.identity is not None:
        yield from identity.taken_off(table, change.column, dependents.identity)
    if dependents.not_null and not keeps:
        yield columns.drop_not_null(table, change.column)
    if (dependents.default is not None or dependents.new_default is not None) and not keeps:
        yield columns.drop_default(table, change.column)
    for one in dependents.statistics:
        yield statistics.drop(one.schema, one.name)
    yield columns.rename(table, change.column, column)


def _named(change: Change, index: DependentIndex, inactive: str) -> Statement:
    """An index of the column that is in use now gets its name, and is the constraint that it was."""
    table = change.table
    if index.primary:
        return constraints.primary_key_using_index(table, index.name, index=inactive, deferred=index.constraint or "")
    if index.constraint is not None:
        return constraints.unique_using_index(table, index.name, index=inactive, deferred=index.constraint)
    return indexes.rename(table.schema, inactive, index.name)


def _belongings(change: Change, default: str | None) -> Iterable[Statement]:
    """Give the column in use what belongs to the name: default, privileges, comments."""
    table, column, dependents = change.table, change.column, change.dependents
    if default is not None:
        yield columns.set_default(table, column, default)
    for grant in dependents.grants:
        yield grants_and_comments.grant(table, grant, column=column)
    if dependents.comment is not None:
        yield grants_and_comments.on_column(table, column, dependents.comment)
    for index in dependents.indexes:
        if index.clustered:
            yield indexes.cluster_on(table, index.name)
    for number, reference in enumerate(dependents.references):
        yield constraints.rename(reference.table, change.reference_name(number), reference.name)
    yield from _comments(change)


def _comments(change: Change) -> Iterable[Statement]:
    """What was made anew gets its comment."""
    table, dependents = change.table, change.dependents
    named = [(index.name, index.comment) for index in dependents.indexes if index.constraint is not None]
    for name, text in [*named, *((rule.name, rule.comment) for rule in dependents.rules)]:
        if text is not None:
            yield grants_and_comments.on_constraint(table, name, text)
    for reference in dependents.references:
        if reference.comment is not None:
            yield grants_and_comments.on_constraint(reference.table, reference.name, reference.comment)
    for index in dependents.indexes:
        if index.comment is not None and index.constraint is None:
            yield grants_and_comments.on_index(table.schema, index.name, index.comment)
    for one in dependents.statistics:
        if one.comment is not None:
            yield grants_and_comments.on_statistics(one.schema, one.name, one.comment)
