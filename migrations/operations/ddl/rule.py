"""Rules about the data of a table: added so that they hold for whatever is written from then on, then proved for all rows.

A rule that is added NOT VALID already holds an UPDATE of an old row to it, and the application's statement would fail for what it
did not do. So where no walk has just looked at every row, rows that break the rule are looked for before it is added; and when
the scan meets one nevertheless, the rule is taken back before lanes walk again or a person is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.operations.base import Action, Statement, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.postgres.definitions import KeyColumn

BRIEF = "brief; gives way after lock_timeout, and tries again"
#: So many rows that break a rule are named: enough to see what is wrong with them.
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
    #: The columns it is about; empty when that cannot be told.
    columns: tuple[str, ...]
    #: The lock that adding it takes.
    lock: str
    #: Which rows break it, as a query for their keys; see `naming`.
    offenders: sql.Composed
    #: Whether one of this name is there already, left by a cancelled run.
    replaces: bool = False

    def steps(self, *, looks: bool) -> tuple[Step, ...]:
        """Look for rows that break it, where no walk has; add it; and prove it."""
        constraint = sql.Identifier(self.name)
        add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {} NOT VALID").format(
            self.table.identifier, constraint, self.body
        )
        validate = sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(self.table.identifier, constraint)
        before = (self.drop(),) if self.replaces else ()
        return (
            *((self._look(),) if looks else ()),
            Action(
                table=self.table,
                statements=(*before, Statement(sql=add, lock=self.lock, note="no scan; " + BRIEF)),
                back=(Action(table=self.table, statements=(self.drop(),)),),
            ),
            Action(
                table=self.table,
                statements=(
                    Statement(
                        sql=validate,
                        lock="SHARE UPDATE EXCLUSIVE",
                        note="scans the table while reads and writes go on",
                    ),
                ),
                scans=True,
                offenders=self.offenders,
                proves=self.columns,
            ),
        )

    def _look(self) -> Action:
        look = Statement(sql=self.offenders, lock="ACCESS SHARE", note="scans the table; must find no row")
        return Action(
            table=self.table,
            statements=(look,),
            scans=True,
            offenders=self.offenders,
            proves=self.columns,
            looks_for=self.words,
        )

    def drop(self) -> Statement:
        """Take it away, if it is there."""
        drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}").format(
            self.table.identifier, sql.Identifier(self.name)
        )
        return Statement(sql=drop, lock="ACCESS EXCLUSIVE", note=BRIEF)


def not_null_check(table: TableName, column: str, *, name: str, key: Sequence[KeyColumn]) -> Rule:
    """That a column is not NULL, as a check: once it is proved, SET NOT NULL need not scan."""
    return Rule(
        table=table,
        name=name,
        words=f"NOT NULL of {column}",
        body=sql.SQL("CHECK ({} IS NOT NULL)").format(sql.Identifier(column)),
        columns=(column,),
        lock="ACCESS EXCLUSIVE",
        offenders=naming(table, key, sql.SQL("{} IS NULL").format(sql.Identifier(table.name, column))),
        replaces=True,
    )


def not_null(table: TableName, column: str, *, proof: Rule) -> Action:
    """Make a column NOT NULL on the strength of its check, which goes."""
    alter = sql.SQL("ALTER TABLE {} ALTER COLUMN {} {}")
    names = (table.identifier, sql.Identifier(column))
    set_, drop = sql.SQL("SET NOT NULL"), sql.SQL("DROP NOT NULL")
    return Action(
        table=table,
        statements=(
            Statement(
                sql=alter.format(*names, set_),
                lock="ACCESS EXCLUSIVE",
                note="no scan: the validated check proves it; " + BRIEF,
            ),
            proof.drop(),
        ),
        back=(
            Action(
                table=table,
                statements=(Statement(sql=alter.format(*names, drop), lock="ACCESS EXCLUSIVE", note=BRIEF),),
            ),
        ),
    )


def naming(table: TableName, key: Sequence[KeyColumn], condition: sql.Composable) -> sql.Composed:
    """A query for the keys of a few rows that meet a condition, which knows the table by its bare name.

    Rows of a table without a key are named by where they are.
    """
    columns = [column.name for column in key] or ["ctid"]
    texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(table.name, name)) for name in columns)
    return sql.SQL("SELECT {} FROM {} WHERE {} LIMIT {}").format(
        texts, table.identifier, condition, sql.SQL(str(NAMED_ROWS))
    )
