"""Give a column another type: one of the new type grows beside it, and when all is proved the two change places.

expand    the new column and the sync trigger that keeps both columns saying the same, in one short transaction
backfill  lanes give every row its new value; rows whose value does not fit are set aside with their errors
verify    every row is looked at; then everything that hangs on the column is made for the new one as well: indexes
          CONCURRENTLY, checks and foreign keys NOT VALID and validated, statistics
switch    one transaction: the columns change names, what hangs on the old one comes off it, what is ready on the new one gets
          its names, and views, policies, triggers and functions are made anew over the name; the sync trigger turns round
contract  the old values go to the archive, and then the old column goes

Of the two columns one is in use, under the name that the application knows, and the other is parked. Rules stay on the one in
use alone: on a parked column they would fail statements of the application, which does not know of it. So the switch takes
checks, foreign keys, NOT NULL, and indexes that are unique or compute something off the old column, and its way back, which
is the same exchange, builds those indexes again before it and proves the rules after it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.facts import Target
from backfilld.migrations.operations.base import Action, Archived, Guard, Plain, Statement, Step, Walk, object_name
from backfilld.migrations.operations.ddl import concurrently
from backfilld.migrations.operations.ddl.rule import BRIEF, naming
from backfilld.migrations.operations.ddl.sync_function import Pair, RollbackConflicts, Side, SyncTrigger
from backfilld.migrations.operations.ddl.sync_trigger import created, dropped, fires_last, silenced, turned
from backfilld.migrations.postgres import dependents
from backfilld.migrations.postgres.catalog_diff import AllowedChanges
from backfilld.migrations.rollback.archive import restored
from backfilld.migrations.walks.rewrite import Assignment, Rewrite

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.file.migration import ChangeType as Definition
    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.column_dependents import (
        ColumnDependents,
        DependentPolicy,
        DependentRule,
        DependentTrigger,
        DependentView,
    )
    from backfilld.migrations.postgres.definitions import Grant

_SCAN = "scans the table while reads and writes go on"
_PROVED = "no scan: the validated check proves it; "
#: So many offending rows are named.
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class ChangeType(Plain):
    """A `change_type` of a migration, bound to a database."""

    definition: Definition
    migration: str
    number: int

    @property
    def table(self) -> TableName:
        return self.definition.table

    @property
    def column(self) -> str:
        return self.definition.column

    @property
    def up(self) -> str:
        """The new value, over a row in which the column's name means the old one."""
        return self.definition.up or cast(self.column, self.facts.targets[0].plain_type)

    @property
    def down(self) -> str:
        """The old value, over a row in which the column's name means the new one."""
        return self.definition.down or cast(self.column, self._held.plain_type)

    def rewrite(self) -> Rewrite:
        return Rewrite(
            table=self.table,
            facts=self.facts,
            assignments=(Assignment(target=self.facts.targets[0], expression=self.up),),
            not_null=self._held.not_null,
            synced=True,
            writes=self._trigger.name,
        )

    def expand(self) -> tuple[Step, ...]:
        held = self._held
        add = sql.SQL("ADD COLUMN {} {}").format(sql.Identifier(held.new_column), sql.SQL(self.facts.targets[0].type))
        return (
            Action(
                table=self.table,
                statements=(
                    self._alter(add, note="no rewrite; " + BRIEF),
                    *self._tuned(held.new_column),
                    *created(self._trigger, self._before()),
                ),
                guards=(fires_last(self._trigger),),
                back=(
                    Action(
                        table=self.table,
                        statements=(
                            dropped(self._trigger)[0],
                            self._alter(sql.SQL("DROP COLUMN IF EXISTS {}").format(sql.Identifier(held.new_column))),
                            dropped(self._trigger)[1],
                        ),
                    ),
                ),
            ),
        )

    def verify(self) -> tuple[Step, ...]:
        held = self._held
        new = sql.Identifier(held.new_column)
        steps: list[Step] = [concurrently.build(self.table, index.new, key=self.facts.key) for index in held.indexes]
        for number, rule in enumerate(held.rules):
            steps += self._proved(self._rule_name(number), rule.new, rule=rule)
        if held.not_null:
            steps += self._proved(self._not_null, _not_null(held.new_column))
        if held.statistics:
            steps.append(
                Action(
                    table=self.table,
                    statements=tuple(
                        self._statistics(one.schema, self._statistics_name(number), one.kinds, one.new)
                        for number, one in enumerate(held.statistics)
                    ),
                    back=(
                        Action(
                            table=self.table,
                            statements=tuple(
                                _drop_statistics(one.schema, self._statistics_name(number))
                                for number, one in enumerate(held.statistics)
                            ),
                        ),
                    ),
                )
            )
        columns = sql.SQL("") if held.statistics else sql.SQL(" ({})").format(new)
        steps.append(self._analyzed(columns))
        return tuple(steps)

    def switch(self) -> tuple[Step, ...]:
        held = self._held
        return (
            Action(
                table=self.table,
                locks=self._locks,
                requires=(
                    Guard(
                        sql=dependents.changed_since(self.table, self.column, held.seen),
                        problem=f"the {{!r}} of column {self.column} is not what it was when the run began",
                        remedy="Make it as it was and resume, or roll back and enqueue the migration again",
                    ),
                    self._rollback_conflict(held.new_column, "the new type"),
                ),
                statements=(
                    *self._dependents_dropped(),
                    *self._parked(held.old_column, names=[index.old.name for index in held.indexes]),
                    *self._new_in_use(),
                    *self._dependents_made(),
                    turned(self._trigger, self._after()),
                ),
                guards=self._as_before(),
                keeps=self._keeps(),
                back=self._switched_back(),
            ),
        )

    def contract(self) -> tuple[Step, ...]:
        held = self._held
        old = sql.Identifier(held.old_column)
        drop_trigger, drop_function = dropped(self._trigger)
        return (
            Walk(
                kind="archive",
                operation=self.number,
                table=self.table,
                key=self.facts.key,
                archived=Archived(old=held.old_column, new=self.column),
                note=f"the old values of {self.column}, each with the new one that replaced it",
            ),
            Action(
                table=self.table,
                statements=(
                    silenced(self._trigger),
                    drop_trigger,
                    self._alter(sql.SQL("DROP COLUMN IF EXISTS {}").format(old)),
                    drop_function,
                ),
                back=(
                    Action(
                        table=self.table,
                        statements=(
                            self._alter(
                                sql.SQL("ADD COLUMN {} {}").format(old, self._old_type), note="no rewrite; " + BRIEF
                            ),
                            *created(self._trigger, self._after()),
                        ),
                        guards=(fires_last(self._trigger),),
                    ),
                    self._restored(),
                    *(concurrently.build(self.table, index.old) for index in held.indexes if index.harmless),
                ),
            ),
        )

    # The way back of the switch

    def _switched_back(self) -> tuple[Step, ...]:
        held = self._held
        steps: list[Step] = [
            concurrently.build(self.table, index.old, key=self.facts.key)
            for index in held.indexes
            if not index.harmless
        ]
        if self.definition.down is None:
            steps.append(self._all_there())
        steps.append(
            Action(
                table=self.table,
                locks=self._locks,
                requires=(
                    Guard(
                        sql=dependents.appeared_since(self.table, self.column, held.seen),
                        problem=f"the {{!r}} was made since column {self.column} has its new type, and would be lost",
                        remedy="Drop it, then resume",
                    ),
                    self._rollback_conflict(held.old_column, f"the old type ({held.type})"),
                ),
                statements=(
                    *self._dependents_dropped(),
                    *self._parked(held.new_column, names=[index.new.name for index in held.indexes]),
                    *self._old_in_use(),
                    *self._dependents_made(),
                    turned(self._trigger, self._before()),
                ),
                guards=self._as_before(),
                # It comes back once it is proved.
                keeps=self._keeps(("not null", self.column)),
            )
        )
        steps += [self._validated(rule.name, rule=rule, text=rule.old) for rule in held.rules if rule.valid]
        if held.not_null:
            steps += [
                self._validated(self._not_null, offenders=self._offenders(sql.SQL("{} IS NULL").format(self._column))),
                Action(table=self.table, statements=self._not_null_set()),
            ]
        steps.append(self._analyzed(sql.SQL("") if held.statistics else sql.SQL(" ({})").format(self._column)))
        return tuple(steps)

    def _all_there(self) -> Action:
        """Look at every row: one that was put down under a key which has changed since is found by its values alone.

        A cast gives NULL for NULL only. What a `down` of one's own gives NULL for cannot be told from what did not fit.
        """
        query = sql.SQL(
            "SELECT concat_ws(', ', {keys}) AS key FROM {table} WHERE {column} IS DISTINCT FROM NULL "
            "AND {old} IS NOT DISTINCT FROM NULL LIMIT 1"
        ).format(
            keys=sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in self._key),
            table=self.table.identifier,
            column=self._column,
            old=sql.Identifier(self._held.old_column),
        )
        guard = Guard(
            sql=query,
            problem=f"a row whose {self.column} does not fit the old type ({self._held.type}), with its key: {{!r}}",
            remedy="Mend it, then resume",
        )
        return Action(table=self.table, statements=(), guards=(guard,), scans=True)

    def _restored(self) -> Walk:
        held = self._held
        target = Target(column=held.old_column, type=held.type, as_text=held.as_text)
        facts = replace(self.facts, targets=(target,))
        expression = restored(
            table=self.table,
            key=self.facts.key,
            operation=self.number,
            type_=held.type,
            new=self.column,
            fallback=self.down,
        )
        return Walk(
            kind="restore",
            operation=self.number,
            table=self.table,
            key=self.facts.key,
            rewrite=Rewrite(
                table=self.table,
                facts=facts,
                assignments=(Assignment(target=target, expression=expression),),
                synced=True,
                writes=self._trigger.name,
            ),
            note="the archived value where the new one is still what replaced it, else `down`",
        )

    # The two columns change places

    def _parked(self, column: str, *, names: Sequence[str]) -> Iterable[Statement]:
        """The column in use gets this name, its indexes these; what may not hang on a parked column comes off."""
        held = self._held
        for rule in held.rules:
            yield self._drop_constraint(rule.name, rule=rule)
        if held.not_null:
            yield self._alter(sql.SQL("ALTER COLUMN {} DROP NOT NULL").format(self._column))
        if held.default is not None or held.new_default is not None:
            yield self._alter(sql.SQL("ALTER COLUMN {} DROP DEFAULT").format(self._column))
        for index, name in zip(held.indexes, names, strict=True):
            if index.harmless:
                yield self._rename_index(index.name, name)
            elif index.constraint is not None:
                yield self._drop_constraint(index.name)
            else:
                yield self._drop_index(index.name)
        for one in held.statistics:
            yield _drop_statistics(one.schema, one.name)
        yield self._rename(self.column, column)

    def _new_in_use(self) -> Iterable[Statement]:
        held = self._held
        yield self._rename(held.new_column, self.column)
        for index in held.indexes:
            if index.constraint is not None:
                yield self._constraint_of(index.name, index.new.name, index.constraint)
            else:
                yield self._rename_index(index.new.name, index.name)
        for number, rule in enumerate(held.rules):
            yield self._alter(
                sql.SQL("RENAME CONSTRAINT {} TO {}").format(
                    sql.Identifier(self._rule_name(number)), sql.Identifier(rule.name)
                )
            )
        if held.not_null:
            yield from self._not_null_set()
        for number, one in enumerate(held.statistics):
            rename = sql.SQL("ALTER STATISTICS {} RENAME TO {}").format(
                sql.Identifier(one.schema, self._statistics_name(number)), sql.Identifier(one.name)
            )
            yield Statement(sql=rename, lock="none")
        yield from self._belongings(held.new_default)
        if held.sequence is not None:
            yield self._owned_sequence(held.sequence, widened=held.widens_sequence)

    def _old_in_use(self) -> Iterable[Statement]:
        held = self._held
        yield self._rename(held.old_column, self.column)
        for index in held.indexes:
            if index.constraint is not None:
                yield self._constraint_of(index.name, index.old.name, index.constraint)
            else:
                yield self._rename_index(index.old.name, index.name)
        for rule in held.rules:
            yield self._add_constraint(rule.name, rule.old, rule=rule)
        if held.not_null:
            yield self._add_constraint(self._not_null, _not_null(self.column))
        for one in held.statistics:
            yield self._statistics(one.schema, one.name, one.kinds, one.old)
        yield from self._tuned(self.column)
        yield from self._belongings(held.default)
        if held.sequence is not None:
            yield self._owned_sequence(held.sequence, widened=False)

    def _belongings(self, default: str | None) -> Iterable[Statement]:
        """Give the column in use what belongs to the name: default, privileges, comments."""
        held = self._held
        if default is not None:
            set_default = sql.SQL("ALTER COLUMN {} SET DEFAULT {}").format(self._column, _operand(default))
            yield self._alter(set_default)
        for grant in held.grants:
            yield _granted(grant, self.table.identifier, column=self.column)
        if held.comment is not None:
            yield _commented(
                sql.SQL("COLUMN {}").format(sql.Identifier(self.table.schema, self.table.name, self.column)),
                held.comment,
            )
        yield from self._clustered()
        yield from self._comments()

    def _clustered(self) -> Iterable[Statement]:
        for index in self._held.indexes:
            if index.clustered:
                yield self._alter(
                    sql.SQL("CLUSTER ON {}").format(sql.Identifier(index.name)), lock="SHARE UPDATE EXCLUSIVE", note=""
                )

    def _comments(self) -> Iterable[Statement]:
        """What was made anew gets its comment."""
        held = self._held
        constraints = [(index.name, index.comment) for index in held.indexes if index.constraint is not None]
        for name, text in [*constraints, *((rule.name, rule.comment) for rule in held.rules)]:
            if text is not None:
                of = sql.SQL("CONSTRAINT {} ON {}").format(sql.Identifier(name), self.table.identifier)
                yield _commented(of, text)
        for index in held.indexes:
            if index.comment is not None and index.constraint is None:
                yield _commented(
                    sql.SQL("INDEX {}").format(sql.Identifier(self.table.schema, index.name)), index.comment
                )
        for one in held.statistics:
            if one.comment is not None:
                yield _commented(sql.SQL("STATISTICS {}").format(sql.Identifier(one.schema, one.name)), one.comment)

    def _tuned(self, column: str) -> Iterable[Statement]:
        """What ANALYZE is told about the column."""
        held = self._held
        if held.statistics_target >= 0:
            yield self._alter(
                sql.SQL("ALTER COLUMN {} SET STATISTICS {}").format(
                    sql.Identifier(column), sql.Literal(held.statistics_target)
                )
            )
        if held.options:
            yield self._alter(sql.SQL("ALTER COLUMN {} SET ({})").format(sql.Identifier(column), sql.SQL(held.options)))

    # What depends on the column

    def _dependents_dropped(self) -> Iterable[Statement]:
        for view in reversed(self._held.views):
            yield Statement(
                sql=sql.SQL("DROP VIEW IF EXISTS {}").format(sql.Identifier(view.schema, view.name)),
                lock="ACCESS EXCLUSIVE",
                note="made anew below",
            )
        for trigger in self._held.triggers:
            drop = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
                sql.Identifier(trigger.name), self.table.identifier
            )
            yield Statement(sql=drop, lock="ACCESS EXCLUSIVE", note="made anew below")

    def _dependents_made(self) -> Iterable[Statement]:
        """The texts that were read before the run name the column, so they mean whichever has the name."""
        for function in self._held.functions:
            yield Statement(sql=_text(function), lock="none")
        for policy in self._held.policies:
            yield _altered(policy)
        for trigger in self._held.triggers:
            yield from self._made(trigger)
        for view in self._held.views:
            yield from _viewed(view)

    def _made(self, trigger: DependentTrigger) -> Iterable[Statement]:
        yield Statement(sql=_text(trigger.definition), lock="SHARE ROW EXCLUSIVE")
        if trigger.enabled != "ENABLE":
            yield self._alter(sql.SQL("{} TRIGGER {}").format(sql.SQL(trigger.enabled), sql.Identifier(trigger.name)))
        if trigger.comment is not None:
            yield _commented(
                sql.SQL("TRIGGER {} ON {}").format(sql.Identifier(trigger.name), self.table.identifier), trigger.comment
            )

    def _keeps(self, *more: tuple[str, str]) -> AllowedChanges:
        """All else must be as it was. Where a view had no privileges of its own it has them in words now; see `_as_before`."""
        held = self._held
        views = [("view", view.written) for view in held.views if not view.has_grants]
        return AllowedChanges(
            retyped=(self.column,), columns=(held.new_column, held.old_column), may_differ=(*views, *more)
        )

    def _as_before(self) -> tuple[Guard, ...]:
        """Views are made anew, so their privileges must be the ones they had."""
        return tuple(_same_grants(view) for view in self._held.views)

    # The sync trigger, before the switch and after it

    def _before(self) -> str:
        held = self._held
        default = held.default if held.constant_default else None
        return Pair(
            table=self.table,
            authority=Side(
                column=self.column,
                type=held.type,
                expression=self._seen_as(self.down, held.new_column, held.down_reads),
                default=default,
                fills_itself=held.default is not None and not held.constant_default,
            ),
            mirror=Side(column=held.new_column, type=self.facts.targets[0].type, expression=self.up),
            rollback_conflicts=self._rollback_conflicts,
        ).body()

    def _after(self) -> str:
        held = self._held
        default = held.new_default if held.constant_default else None
        return Pair(
            table=self.table,
            authority=Side(
                column=self.column,
                type=self.facts.targets[0].type,
                expression=self._seen_as(self.up, held.old_column, held.up_reads),
                default=default,
                fills_itself=held.new_default is not None and not held.constant_default,
            ),
            mirror=Side(column=held.old_column, type=held.type, expression=self.down),
            settled=True,
            rollback_conflicts=self._rollback_conflicts,
        ).body()

    def _seen_as(self, expression: str, stands: str, reads: Iterable[str]) -> str:
        """The expression over a row in which another column has the column's name."""
        row = sql.Identifier(self.table.name).as_string()
        names = [(stands, self.column), *((read, read) for read in reads)]
        scope = ", ".join(
            f"{row}.{sql.Identifier(column).as_string()} AS {sql.Identifier(name).as_string()}"
            for column, name in names
        )
        return f"(SELECT (\n{expression}\n) FROM (SELECT {scope}) AS {row})"  # noqa: S608 - checked by preflight, names are quoted

    def _rollback_conflict(self, mirror: str, type_: str) -> Guard:
        """No row may be without a value in the parked column because its value in the other one did not fit.

        Such a row was put down by the sync trigger, or set aside by the lanes that restore.
        """
        at = sql.SQL(" AND ").join(
            sql.SQL("t.{} = CAST(m.key[{}] AS {})").format(
                sql.Identifier(column.name), sql.Literal(place), sql.SQL(column.type)
            )
            for place, column in enumerate(self.facts.key, start=1)
        )
        query = sql.SQL(
            "SELECT count(*) || ' (' || string_agg(array_to_string(m.key, ', '), '; ') FILTER (WHERE m.place <= {named}) || ')' "
            "AS keys FROM (SELECT m.key, row_number() OVER (ORDER BY m.key) AS place FROM ("
            "SELECT f.key FROM backfilld.rollback_conflicts f WHERE f.operation = {number} AND f.run = {run} "
            "UNION SELECT ARRAY(SELECT jsonb_array_elements_text(q.key)) FROM backfilld.quarantine q "
            "WHERE q.operation = {number} AND q.run = {run}) m JOIN {table} t ON {at} "
            "WHERE t.{column} IS DISTINCT FROM NULL AND t.{mirror} IS NOT DISTINCT FROM NULL) m HAVING count(*) > 0"
        ).format(
            named=sql.Literal(_NAMED),
            table=self.table.identifier,
            at=at,
            number=sql.Literal(self.number),
            run=sql.SQL("(SELECT max(r.run) FROM backfilld.runs r WHERE r.name = {})").format(
                sql.Literal(self.migration)
            ),
            column=self._column,
            mirror=sql.Identifier(mirror),
        )
        return Guard(
            sql=query,
            problem=f"rows whose {self.column} does not fit {type_}, with their keys: {{!r}}",
            remedy="Mend these rows, then resume",
        )

    # Statements

    def _proved(self, name: str, text: str, *, rule: DependentRule | None = None) -> tuple[Step, ...]:
        """A rule on the parked new column: added without a look at the rows, then proved for them."""
        gone = Action(
            table=self.table,
            locks=self._refers(rule),
            statements=(self._drop_constraint(name, rule=rule),),
        )
        add = Action(
            table=self.table,
            locks=self._refers(rule),
            statements=(self._add_constraint(name, text, rule=rule),),
            back=(gone,),
        )
        if rule is None:
            return add, self._validated(name)
        looks = (self._looked_for(rule),) if rule.valid and _condition(rule.new) is not None else ()
        return (*looks, add, self._validated(name, rule=rule, text=text)) if rule.valid else (add,)

    def _looked_for(self, rule: DependentRule) -> Action:
        """No row may break a check before it stands: it would fail each UPDATE of such a row, whatever that changes."""
        look = self._offenders(sql.SQL("NOT {}").format(sql.SQL(_condition(rule.new) or "")))
        return Action(
            table=self.table,
            statements=(Statement(sql=look, lock="ACCESS SHARE", note="scans the table; must find no row"),),
            scans=True,
            offenders=look,
            proves=(self.column,),
            looks_for=f"the check {rule.name} with their new values of {self.column}",
        )

    def _validated(
        self,
        name: str,
        *,
        rule: DependentRule | None = None,
        text: str = "",
        offenders: sql.Composed | None = None,
    ) -> Action:
        if rule is not None and (condition := _condition(text)) is not None:
            offenders = self._offenders(sql.SQL("NOT {}").format(sql.SQL(condition)))
        validate = sql.SQL("VALIDATE CONSTRAINT {}").format(sql.Identifier(name))
        return Action(
            table=self.table,
            statements=(self._alter(validate, lock="SHARE UPDATE EXCLUSIVE", note=_SCAN),),
            scans=True,
            offenders=offenders,
            # The lanes write the new column: they mend a NULL there. A rule about its values is a person's to mend.
            proves=(self._held.new_column,) if rule is None else (self.column,),
        )

    def _offenders(self, condition: sql.Composable) -> sql.Composed:
        return naming(self.table, self.facts.key, condition)

    def _add_constraint(self, name: str, text: str, *, rule: DependentRule | None = None) -> Statement:
        add = sql.SQL("ADD CONSTRAINT {} {} NOT VALID").format(sql.Identifier(name), sql.SQL(text))
        references = rule is not None and rule.references is not None
        return self._alter(add, lock="SHARE ROW EXCLUSIVE" if references else "ACCESS EXCLUSIVE")

    def _drop_constraint(self, name: str, *, rule: DependentRule | None = None) -> Statement:
        references = rule.references if rule is not None else None
        also = f"on {references} too; " if references is not None else ""
        return self._alter(sql.SQL("DROP CONSTRAINT IF EXISTS {}").format(sql.Identifier(name)), note=also + BRIEF)

    def _not_null_set(self) -> tuple[Statement, ...]:
        return (
            self._alter(sql.SQL("ALTER COLUMN {} SET NOT NULL").format(self._column), note=_PROVED + BRIEF),
            self._drop_constraint(self._not_null),
        )

    def _constraint_of(self, name: str, index: str, deferred: str) -> Statement:
        return self._alter(
            sql.SQL("ADD CONSTRAINT {} UNIQUE USING INDEX {}{}").format(
                sql.Identifier(name), sql.Identifier(index), sql.SQL(deferred)
            ),
            note="no scan: the index is there; " + BRIEF,
        )

    def _rename(self, column: str, to: str) -> Statement:
        return self._alter(sql.SQL("RENAME COLUMN {} TO {}").format(sql.Identifier(column), sql.Identifier(to)))

    def _rename_index(self, name: str, to: str) -> Statement:
        rename = sql.SQL("ALTER INDEX {} RENAME TO {}").format(
            sql.Identifier(self.table.schema, name), sql.Identifier(to)
        )
        return Statement(sql=rename, lock="none")

    def _drop_index(self, name: str) -> Statement:
        return Statement(
            sql=sql.SQL("DROP INDEX {}").format(sql.Identifier(self.table.schema, name)),
            lock="ACCESS EXCLUSIVE",
            note="values of a column that is not in use must not fail a statement",
        )

    def _statistics(self, schema: str, name: str, kinds: str, columns: str) -> Statement:
        create = sql.SQL("CREATE STATISTICS {}{} ON {} FROM {}").format(
            sql.Identifier(schema, name),
            sql.SQL(f" ({kinds})" if kinds else ""),
            sql.SQL(columns),  # as PostgreSQL wrote it
            self.table.identifier,
        )
        return Statement(sql=create, lock="SHARE UPDATE EXCLUSIVE")

    def _analyzed(self, columns: sql.Composable) -> Action:
        """Plans must not get worse at the switch for want of statistics."""
        analyze = sql.SQL("ANALYZE {}{}").format(self.table.identifier, columns)
        return Action(
            table=self.table,
            statements=(Statement(sql=analyze, lock="SHARE UPDATE EXCLUSIVE", note="reads a sample of the table"),),
            scans=True,
        )

    def _owned_sequence(self, sequence: str, *, widened: bool) -> Statement:
        alter = sql.SQL("ALTER SEQUENCE {}{} OWNED BY {}").format(
            sql.SQL(sequence),  # quoted by PostgreSQL
            sql.SQL(" AS bigint" if widened else ""),
            sql.Identifier(self.table.schema, self.table.name, self.column),
        )
        return Statement(sql=alter, lock="none", note="SHARE ROW EXCLUSIVE on the sequence")

    def _alter(self, what: sql.Composable, *, lock: str = "ACCESS EXCLUSIVE", note: str = BRIEF) -> Statement:
        return Statement(sql=sql.SQL("ALTER TABLE {} {}").format(self.table.identifier, what), lock=lock, note=note)

    # Names

    @property
    def _held(self) -> ColumnDependents:
        held = self.facts.column_dependents
        if held is None:
            msg = f"change_type of {self.table} has no facts of its column"
            raise ValueError(msg)
        return held

    @property
    def _column(self) -> sql.Identifier:
        return sql.Identifier(self.column)

    @property
    def _old_type(self) -> sql.SQL:
        collation = f" COLLATE {self._held.collation}" if self._held.collation else ""
        return sql.SQL(self._held.type + collation)  # as PostgreSQL wrote both

    @property
    def _trigger(self) -> SyncTrigger:
        return SyncTrigger(table=self.table, name=object_name("sync", self.migration, self.number))

    @property
    def _rollback_conflicts(self) -> RollbackConflicts:
        return RollbackConflicts(migration=self.migration, operation=self.number, key=self._key)

    @property
    def _key(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.facts.key)

    @property
    def _not_null(self) -> str:
        return object_name("backfilld_not_null", self.migration, self.number)

    def _rule_name(self, number: int) -> str:
        return f"{object_name('backfilld_rule', self.migration, self.number)}_{number}"

    def _statistics_name(self, number: int) -> str:
        return f"{object_name('backfilld_statistics', self.migration, self.number)}_{number}"

    @property
    def _locks(self) -> tuple[TableName, ...]:
        """All tables that the exchange touches, the views aside: locking a view would lock all that it reads."""
        held = self._held
        others = {policy.table for policy in held.policies} | {
            rule.references for rule in held.foreign_keys if rule.references is not None
        }
        return tuple(sorted({self.table, *others}, key=lambda table: (table.schema, table.name)))

    def _refers(self, rule: DependentRule | None) -> tuple[TableName, ...]:
        if rule is None or rule.references is None or rule.references == self.table:
            return ()
        return tuple(sorted({self.table, rule.references}, key=lambda table: (table.schema, table.name)))


def cast(column: str, type_: str) -> str:
    """A column as another type, which is format_type's own text. One with a limit would cut off what is too long."""
    return f"CAST({sql.Identifier(column).as_string()} AS {type_})"


def _condition(text: str) -> str | None:
    """The condition of a CHECK, in its parentheses; None for a foreign key, and for a check with a clause behind it."""
    return text.removeprefix("CHECK ") if text.startswith("CHECK ") and text.endswith(")") else None


def _operand(expression: str) -> sql.Composed:
    return sql.SQL("(\n{}\n)").format(sql.SQL(expression))  # PostgreSQL's own text, or checked by preflight


def _text(statement: str) -> sql.Composed:
    return sql.Composed([sql.SQL(statement)])  # PostgreSQL's own text


def _not_null(column: str) -> str:
    return f"CHECK ({sql.Identifier(column).as_string()} IS NOT NULL)"


def _drop_statistics(schema: str, name: str) -> Statement:
    drop = sql.SQL("DROP STATISTICS IF EXISTS {}").format(sql.Identifier(schema, name))
    return Statement(sql=drop, lock="none")


def _commented(what: sql.Composable, text: str) -> Statement:
    return Statement(sql=sql.SQL("COMMENT ON {} IS {}").format(what, sql.Literal(text)), lock="none")


def _granted(grant: Grant, relation: sql.Identifier, *, column: str | None = None) -> Statement:
    of_column = sql.SQL(" ({})").format(sql.Identifier(column)) if column is not None else sql.SQL("")
    statement = sql.SQL("GRANT {}{} ON {} TO {}{}").format(
        sql.SQL(grant.privilege),
        of_column,
        relation,
        sql.SQL(grant.grantee),  # quoted by PostgreSQL
        sql.SQL(" WITH GRANT OPTION" if grant.grantable else ""),
    )
    return Statement(sql=statement, lock="none")


def _altered(policy: DependentPolicy) -> Statement:
    parts = [sql.SQL("ALTER POLICY {} ON {}").format(sql.Identifier(policy.name), policy.table.identifier)]
    if policy.using is not None:
        parts.append(sql.SQL("USING {}").format(_operand(policy.using)))
    if policy.with_check is not None:
        parts.append(sql.SQL("WITH CHECK {}").format(_operand(policy.with_check)))
    return Statement(sql=sql.SQL(" ").join(parts), lock="ACCESS EXCLUSIVE", note=BRIEF)


def _viewed(view: DependentView) -> Iterable[Statement]:
    """The view as it was, with its owner, privileges and comments, whatever default privileges add to a new one."""
    name = sql.Identifier(view.schema, view.name)
    options = sql.SQL(" WITH ({})").format(sql.SQL(view.options)) if view.options else sql.SQL("")
    yield Statement(sql=sql.SQL("CREATE VIEW {}{} AS {}").format(name, options, sql.SQL(view.definition)), lock="none")
    yield Statement(sql=sql.SQL("ALTER VIEW {} OWNER TO {}").format(name, sql.SQL(view.owner)), lock="none")
    literal = sql.Literal(name.as_string())
    revoke = sql.SQL(
        "DO $revoke$ DECLARE one record; BEGIN FOR one IN SELECT DISTINCT CASE WHEN x.grantee = 0 THEN 'PUBLIC' "
        "ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS who "
        "FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) x WHERE c.oid = {view}::pg_catalog.regclass "
        "LOOP EXECUTE 'REVOKE ALL ON ' || {view} || ' FROM ' || one.who; END LOOP; END $revoke$"
    ).format(view=literal)
    yield Statement(sql=revoke, lock="none", note="what default privileges give to a new view")
    for grant in view.grants:
        yield _granted(grant, name)
    if view.comment is not None:
        yield _commented(sql.SQL("VIEW {}").format(name), view.comment)
    for column, text in view.column_comments:
        yield _commented(sql.SQL("COLUMN {}").format(sql.Identifier(view.schema, view.name, column)), text)


def _same_grants(view: DependentView) -> Guard:
    name = sql.Identifier(view.schema, view.name)
    had = sql.SQL(", ").join(
        sql.SQL("({}, {}, {})").format(
            sql.Literal(grant.privilege), sql.Literal(grant.grantee), sql.Literal(grant.grantable)
        )
        for grant in view.grants
    )
    query = sql.SQL(
        "SELECT coalesce(now.privilege || ' to ' || now.grantee, had.privilege || ' to ' || had.grantee) AS what FROM ("
        "SELECT x.privilege_type AS privilege, CASE WHEN x.grantee = 0 THEN 'PUBLIC' "
        "ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS grantee, x.is_grantable AS grantable "
        "FROM pg_catalog.pg_class c, pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) x "
        "WHERE c.oid = {view}::pg_catalog.regclass) now FULL JOIN (VALUES {had}) had (privilege, grantee, grantable) "
        "USING (privilege, grantee, grantable) WHERE now.privilege IS NULL OR had.privilege IS NULL LIMIT 1"
    ).format(view=sql.Literal(name.as_string()), had=had)
    return Guard(
        sql=query,
        problem=f"the view {name.as_string()} does not have the privileges that it had: {{!r}}",
        remedy="Tell its owner to grant them; nothing has happened",
    )
