"""Constraints. A `Rule` is one that holds for new values as soon as it is added, and is then proved for all rows.

A rule that is added NOT VALID already holds an UPDATE of an old row to it, so the application's statement would fail for a
value that it did not write. Where no walk has just looked at every row, a rule is therefore looked for before it is added.
When its scan meets a row that breaks it nevertheless, the coordinator takes the rule back before lanes walk again or a person
is asked: on the way forward and on the way back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.operations.base import Action, Guard, Statement, Step
from backfilld.migrations.operations.ddl import columns, grants_and_comments
from backfilld.migrations.operations.ddl.columns import alter_table
from backfilld.migrations.postgres.constraints import changed
from backfilld.migrations.postgres.locks import LockMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.facts import KeptRule
    from backfilld.migrations.postgres.definitions import KeyColumn

#: The referenced table in the query for orphans. A table may refer to itself, or to one of the same name in another schema.
_REFERENCED = "~referenced"
#: At most this many rows that break a rule are named: enough to see what is wrong with them.
NAMED_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A constraint that is added NOT VALID and then proved by a scan."""

    table: TableName
    name: str
    #: What it is called in messages.
    words: str
    #: What stands behind its name: CHECK (…), FOREIGN KEY (…) REFERENCES ….
    body: sql.Composable
    #: The columns whose values a lane could change so that a row meets it; empty when that cannot be told.
    columns: tuple[str, ...] = ()
    #: The lock that adding it takes.
    lock: LockMode = LockMode.ACCESS_EXCLUSIVE
    #: The other table that it is about, which adding and dropping it locks too.
    references: TableName | None = None
    #: A query for the keys of rows that break it, see `naming`; None where only PostgreSQL can tell.
    offenders: sql.Composed | None = None
    #: Whether there may be one of this name, left by a cancelled run or added by an earlier step.
    replaces: bool = False
    comment: str | None = None

    def steps(self, *, looks: bool) -> tuple[Step, ...]:
        """Look for rows that break it, where no walk has; add it; and prove it."""
        return (*((self.look,) if looks and self.offenders is not None else ()), self.added, self.proved)

    def again(self) -> tuple[Step, ...]:
        """Prove a rule that was added in the transaction before, on the way back; what disproves it takes it away first.

        It is added once more, in one transaction, since by then a row may have taken it away.
        """
        looks = (replace(self.look, back=(self.gone,)),) if self.offenders is not None else ()
        return (*looks, self.added, self.proved)

    @property
    def look(self) -> Action:
        """Look for rows that break the rule before any statement of the application can fail for it."""
        look = Statement(
            sql=self.offenders or sql.Composed([]),
            lock=LockMode.ACCESS_SHARE,
            scans=True,
            note="scans the table; must find no row",
        )
        return Action(
            table=self.table,
            statements=(look,),
            scans=True,
            offenders=self.offenders,
            proves=self.columns,
            looks_for=self.words,
            rule=self.name,
        )

    @property
    def added(self) -> Action:
        """Whatever is written from now on meets the rule."""
        before = (self.drop,) if self.replaces else ()
        comment = grants_and_comments.on_constraint(self.table, self.name, self.comment) if self.comment else None
        return Action(
            table=self.table,
            statements=(*before, self.add, *((comment,) if comment else ())),
            rule=self.name,
            back=(self.gone,),
        )

    @property
    def proved(self) -> Action:
        """All rows meet the rule."""
        return Action(
            table=self.table,
            statements=(
                alter_table(
                    self.table,
                    sql.SQL("VALIDATE CONSTRAINT {}").format(sql.Identifier(self.name)),
                    lock=LockMode.SHARE_UPDATE_EXCLUSIVE,
                    brief=False,
                    scans=True,
                    note="scans the table while reads and writes continue",
                ),
            ),
            scans=True,
            offenders=self.offenders,
            proves=self.columns,
            rule=self.name,
        )

    @property
    def gone(self) -> Action:
        """The rule does not hold any more."""
        return Action(table=self.table, statements=(self.drop,), frees=True)

    @property
    def add(self) -> Statement:
        """Add it without a look at the rows."""
        add = sql.SQL("ADD CONSTRAINT {} {} NOT VALID").format(sql.Identifier(self.name), self.body)
        return alter_table(self.table, add, lock=self.lock, also=self._also, scans=False, note="no scan")

    @property
    def drop(self) -> Statement:
        """Take it away, if it is there."""
        return drop(self.table, self.name, also=self._also)

    @property
    def _also(self) -> tuple[TableName, ...]:
        return (self.references,) if self.references not in {None, self.table} else ()


def drop(table: TableName, name: str, *, also: tuple[TableName, ...] = (), note: str = "") -> Statement:
    """A constraint goes, if it is there."""
    return alter_table(
        table, sql.SQL("DROP CONSTRAINT IF EXISTS {}").format(sql.Identifier(name)), also=also, note=note
    )


def rename(table: TableName, name: str, to: str) -> Statement:
    """A constraint gets another name."""
    return alter_table(table, sql.SQL("RENAME CONSTRAINT {} TO {}").format(sql.Identifier(name), sql.Identifier(to)))


def unique_using_index(table: TableName, name: str, *, index: str | None = None, deferred: str = "") -> Statement:
    """A UNIQUE constraint of an index that is there, under the constraint's name unless said otherwise."""
    add = sql.SQL("ADD CONSTRAINT {} UNIQUE USING INDEX {}{}").format(
        sql.Identifier(name), sql.Identifier(index or name), sql.SQL(deferred)
    )
    return alter_table(table, add, scans=False, note="no scan: the index proves it")


def primary_key_using_index(table: TableName, name: str, *, index: str | None = None, deferred: str = "") -> Statement:
    """The primary key of an index that is there, over columns that are NOT NULL; PostgreSQL scans for each that is not."""
    add = sql.SQL("ADD CONSTRAINT {} PRIMARY KEY USING INDEX {}{}").format(
        sql.Identifier(name), sql.Identifier(index or name), sql.SQL(deferred)
    )
    return alter_table(table, add, scans=False, note="no scan: the index and NOT NULL prove it")


def from_catalog(  # noqa: PLR0913 - what is known of one constraint; each part is named where it is called
    table: TableName,
    name: str,
    definition: str,
    *,
    key: Sequence[KeyColumn],
    columns: tuple[str, ...] = (),
    words: str = "",
    references: TableName | None = None,
    orphans: sql.Composable | None = None,
    comment: str | None = None,
    replaces: bool = False,
) -> Rule:
    """A CHECK constraint or a foreign key in PostgreSQL's own words; `orphans` is the condition of rows that break a foreign key."""
    is_check = definition.startswith("CHECK ")
    condition = condition_of(definition)
    broken = orphans if condition is None else sql.SQL("NOT {}").format(sql.SQL(condition))
    return Rule(
        table=table,
        name=name,
        words=words or f"the {'check' if is_check else 'foreign key'} {name}",
        body=sql.SQL(definition),
        columns=columns,
        lock=LockMode.ACCESS_EXCLUSIVE if is_check else LockMode.SHARE_ROW_EXCLUSIVE,
        references=references,
        offenders=naming(table, key, broken) if broken is not None else None,
        comment=comment,
        replaces=replaces,
    )


def kept(table: TableName, rule: KeptRule, *, key: Sequence[KeyColumn]) -> tuple[Step, ...]:
    """A CHECK or a foreign key that was dropped, again: proved for all rows, unless it was not before either."""
    references, orphans = None, None
    if rule.references:
        references = TableName.parse(rule.references)
    if references is not None and rule.equalities:
        orphans = orphaned(
            table, rule.columns, references=references, referenced=rule.referenced, equalities=rule.equalities
        )
    again = from_catalog(
        table,
        rule.name,
        # As pg_get_constraintdef wrote it, without the word that says it was not validated either.
        rule.definition.removesuffix(" NOT VALID"),
        key=key,
        columns=rule.columns,
        references=references,
        orphans=orphans,
        comment=rule.comment,
    )
    return again.steps(looks=True) if rule.valid else (again.added,)


def dropped(table: TableName, rule: KeptRule, *, back: tuple[Step, ...], note: str = "") -> Action:
    """A constraint goes, if it is still the one that was looked at."""
    references = TableName.parse(rule.references) if rule.references else table
    guard = Guard(
        sql=changed(table, rule.name, rule.definition),
        template="the constraint {!r} has changed since the run was enqueued, so it was not dropped",
        remedy="Cancel the run, and enqueue the migration again under another name",
    )
    gone = drop(table, rule.name, also=(references,) if references != table else (), note=note)
    return Action(table=table, statements=(gone,), requires=(guard,), back=back)


def condition_of(definition: str) -> str | None:
    """The condition of a CHECK, in its parentheses; None for a foreign key, and for a check with another clause behind it."""
    condition = definition.removesuffix(" NO INHERIT")
    return condition.removeprefix("CHECK ") if condition.startswith("CHECK ") and condition.endswith(")") else None


def not_null_check(table: TableName, column: str, *, name: str, key: Sequence[KeyColumn]) -> Rule:
    """That a column is not NULL, as a check: once it is proved, SET NOT NULL need not scan."""
    return Rule(
        table=table,
        name=name,
        words=f"NOT NULL of {column}",
        body=sql.SQL("CHECK ({} IS NOT NULL)").format(sql.Identifier(column)),
        columns=(column,),
        offenders=naming(table, key, sql.SQL("{} IS NULL").format(sql.Identifier(table.name, column))),
        replaces=True,
    )


def settled_not_null(table: TableName, column: str, *, proof: Rule) -> tuple[Statement, Statement]:
    """Make a column NOT NULL on the strength of its check, which goes."""
    return (columns.set_not_null(table, column), proof.drop)


def not_null_called_after(table: TableName, column: str, *, other: str) -> Statement:
    """The NOT NULL constraint that PostgreSQL keeps from 18 on gets the name that it would have as one of another column."""
    relation, name = table.identifier.as_string(), f"{table.name}_{other}_not_null"
    block = f"""
DECLARE made name;
BEGIN
  SELECT c.conname INTO made FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid
  WHERE c.conrelid = {sql.Literal(relation).as_string()}::pg_catalog.regclass AND c.contype = 'n' AND c.conkey = ARRAY[a.attnum]
    AND a.attname = {sql.Literal(column).as_string()};
  IF made IS NOT NULL AND pg_catalog.octet_length({sql.Literal(name).as_string()}) < 64 AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_constraint c
      WHERE c.conrelid = {sql.Literal(relation).as_string()}::pg_catalog.regclass AND c.conname = {sql.Literal(name).as_string()}) THEN
    EXECUTE pg_catalog.format({sql.Literal(f"ALTER TABLE {relation.replace('%', '%%')} RENAME CONSTRAINT %I TO %I").as_string()},
                              made, {sql.Literal(name).as_string()});
  END IF;
END"""  # noqa: S608 - names are quoted
    return Statement(sql=sql.SQL("DO {}").format(sql.Literal(block)), lock=LockMode.ACCESS_EXCLUSIVE, brief=True)


def not_null(table: TableName, column: str, *, proof: Rule) -> Action:
    """`settled_not_null` as a step, with its way back."""
    return Action(
        table=table,
        statements=settled_not_null(table, column, proof=proof),
        back=(Action(table=table, statements=(columns.drop_not_null(table, column),), frees=True),),
    )


def orphaned(
    table: TableName,
    columns: Sequence[str],
    *,
    references: TableName,
    referenced: Sequence[str],
    equalities: Sequence[str],
) -> sql.Composed:
    """The condition of a row that refers to nothing, as MATCH SIMPLE takes it: with a NULL among the columns it need not.

    `equalities` are the operators that PostgreSQL would compare by; a bare `=` is another one for a type of an extension.
    """
    own = [sql.Identifier(table.name, name) for name in columns]
    meets = [
        sql.SQL("{} {} {}").format(sql.Identifier(_REFERENCED, name), sql.SQL(operator), column)
        for name, operator, column in zip(referenced, equalities, own, strict=True)
    ]
    return sql.SQL("{} AND NOT EXISTS (SELECT FROM {} AS {} WHERE {})").format(
        sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(column) for column in own),
        references.identifier,
        sql.Identifier(_REFERENCED),
        sql.SQL(" AND ").join(meets),
    )


def naming(table: TableName, key: Sequence[KeyColumn], condition: sql.Composable) -> sql.Composed:
    """A query for the keys of a few rows that meet a condition, which knows the table by its bare name.

    Rows of a table without a key are named by where they are.
    """
    names = [column.name for column in key] or ["ctid"]
    texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(table.name, name)) for name in names)
    return sql.SQL("SELECT {} FROM {} WHERE {} LIMIT {}").format(
        texts, table.identifier, condition, sql.SQL(str(NAMED_ROWS))
    )
