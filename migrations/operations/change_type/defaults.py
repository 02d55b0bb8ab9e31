"""The DEFAULT of a column that gets another type: what `up` makes of the present one, in any session.

A DEFAULT is computed in the application's session, and `up` under settings of ours, in UTC above all. A cast that reads the
session's time zone would give rows another moment than batches and sync trigger do. So the new DEFAULT is a form of `up` that
PostgreSQL itself knows to depend on no setting, or one that gave the same value as `up` in sessions of every kind; else none.
Of several it is the one that a plain ALTER COLUMN … TYPE would leave, so that a dump of the schema says no more than it must.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres import dependents
from backfilld.migrations.postgres.connect import SEMANTICS, apply_settings
from backfilld.migrations.postgres.expression_probe import Rejected
from backfilld.migrations.postgres.lexer import with_operand
from backfilld.migrations.postgres.sqlstates import was_interrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from backfilld.migrations.planning.checks.findings import Case

#: Sessions in which a form must give what `up` does. In the first two the date is never the same one, whatever the hour.
_SESSIONS: tuple[dict[str, str], ...] = (
    {"TimeZone": "Etc/GMT+12"},
    {"TimeZone": "Etc/GMT-14"},
    {"TimeZone": "America/New_York", "DateStyle": "SQL, MDY", "IntervalStyle": "sql_standard"},
    {"TimeZone": "Asia/Tokyo", "DateStyle": "German, DMY", "extra_float_digits": "-1"},
)
#: Functions that give one value for as long as a transaction or a statement lasts, as `Analysis.unrepeatable` names them.
_SAME_IN_A_STATEMENT = {
    "now()",
    "transaction_timestamp()",
    "statement_timestamp()",
    "the clock or the session (CURRENT_…)",
}
#: Calls that a trial must not make: of functions that are not PostgreSQL's own, and of those that leave a trace.
_ACTS = re.compile(r"""[\w"]\.("[^"]*"|\w+)\(|\bnextval\(""")
#: A DEFAULT that takes its value from a sequence, as PostgreSQL writes it.
_NEXT = re.compile(r"nextval\('[^']*'::regclass\)")
_REMEDY = "Give the operation `default:` with the DEFAULT of the new type, or drop the column's DEFAULT first"


@dataclass(frozen=True, kw_only=True)
class OldDefault:
    """The DEFAULT that a column has, and the expression that gives values of the new type from those of the old."""

    case: Case
    column: str
    default: str
    old_type: str
    new_type: str
    up: str
    #: `up` is a cast to the new type.
    is_plain: bool
    #: The columns that `up` reads.
    reads: frozenset[str]

    def of_new_type(self) -> str:
        """The DEFAULT for the new type. Raises Rejected where no form of it is the same in every session."""
        if others := sorted(self.reads - {self.column}):
            raise Rejected("default", f"`up` reads {', '.join(others)}, which a DEFAULT cannot", _REMEDY)
        if self.is_plain and (plain := self._altered() or self._folded()) is not None:
            return plain
        form = self._cast if self.is_plain else self._as_up
        if not self._is_given_once(form):
            problem = f"`up` asks several times for {self.column}, and its DEFAULT gives another value each time"
            raise Rejected("default", problem, _REMEDY)
        if self.case.trial.is_constant(self.up, self.new_type) and self._is_free(form):
            return form(self.default)
        forms = (form, self._in_utc, self._date_in_utc)
        if not _ACTS.search(self.default):
            for one in forms:
                if self._is_free(one) and all(self._agrees(one, session) for session in _SESSIONS):
                    return one(self.default)
        problem = (
            f"the DEFAULT of {self.column} ({self.default}) would not give what `up` gives in every session: one of the two "
            "depends on a setting such as the time zone"
        )
        raise Rejected("default", problem, _REMEDY)

    # Forms of the DEFAULT: what they make of an operand.

    def _cast(self, value: str) -> str:
        return f"CAST(({value}) AS {self.new_type})"

    def _as_up(self, value: str) -> str:
        table = self.case.table.name
        return with_operand(self.up, (table.schema, table.name, self.column), value)

    def _in_utc(self, value: str) -> str:
        return self._cast(f"({value}) AT TIME ZONE 'UTC'")

    def _date_in_utc(self, value: str) -> str:
        return self._in_utc(f"CAST(({value}) AS timestamp)")

    # What plain DDL would leave

    def _altered(self) -> str | None:
        """The DEFAULT as ALTER COLUMN … TYPE converts it, where it does and means the same."""
        altered = self._stored(f"DEFAULT ({self.default})", type_=self.old_type, altered=self.new_type)
        if altered is None or (altered == self.default and _NEXT.fullmatch(altered)):
            return altered
        unrepeatable = self.case.trial.analyse(self.default, what="the default").unrepeatable
        if _ACTS.search(self.default) or not set(unrepeatable) <= _SAME_IN_A_STATEMENT:
            return None  # it cannot be asked twice
        return altered if all(self._agrees(lambda _: altered, session) for session in _SESSIONS) else None

    def _folded(self) -> str | None:
        """The value itself, where the DEFAULT is one and `up` makes the same of it in every session."""
        trial = self.case.trial
        if not (trial.is_constant(self.default, self.old_type) and trial.is_constant(self.up, self.new_type)):
            return None
        try:
            with self.case.connection.transaction(force_rollback=True):
                apply_settings(self.case.connection, SEMANTICS)
                value = self.case.connection.execute(
                    sql.SQL("SELECT CAST(CAST(({}) AS {}) AS text) AS value").format(
                        sql.SQL(self._cast(self.default)), sql.SQL(self.new_type)
                    )
                ).fetchone()
        except psycopg.Error as exc:
            if was_interrupted(exc):
                raise
            return None
        if value is None or value["value"] is None:
            return None
        literal = f"{sql.Literal(value['value']).as_string()}::{self.new_type}"
        folded = self._stored(f"DEFAULT {literal}", type_=self.new_type)
        agrees = folded is not None and all(self._agrees(lambda _: folded, session) for session in _SESSIONS)
        return folded if agrees else None

    def _stored(self, default: str, *, type_: str, altered: str | None = None) -> str | None:
        """A column's DEFAULT as PostgreSQL writes it, once the column has got another type; None where it does not convert it."""
        connection, table = self.case.connection, sql.Identifier("pg_temp", "~backfilld default")
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(
                    sql.SQL('CREATE TEMPORARY TABLE "~backfilld default" (value {} {})').format(
                        sql.SQL(type_), sql.SQL(default)
                    )
                )
                if altered is not None:
                    alter = sql.SQL("ALTER TABLE {} ALTER COLUMN value TYPE {}").format(table, sql.SQL(altered))
                    connection.execute(alter)
                stored = dependents.column(connection, TableName("pg_temp", "~backfilld default"), "value")
                return str(stored["default"])
        except psycopg.Error as exc:
            if was_interrupted(exc):
                raise
            return None

    # What must hold of a form

    def _is_given_once(self, form: Callable[[str], str]) -> bool:
        """Whether one value is enough: the expression asks for it once, or it is the same each time."""
        if form("\0").count("\0") == 1:
            return True
        unrepeatable = self.case.trial.analyse(self.default, what="the default").unrepeatable
        return set(unrepeatable) <= _SAME_IN_A_STATEMENT

    def _is_free(self, form: Callable[[str], str]) -> bool:
        """Whether PostgreSQL takes the expression, and it reads no column."""
        try:
            return not self.case.trial.analyse(form(self.default), what="the default").reads
        except Rejected:
            return False

    def _agrees(self, form: Callable[[str], str], session: dict[str, str]) -> bool:
        """Whether the form gives what `up` gives, of the value that the DEFAULT has in this session."""
        connection, row = self.case.connection, sql.Identifier(self.case.table.name.name)
        tried = sql.SQL(
            'CREATE TEMPORARY TABLE "~backfilld tried" AS SELECT tried.old, CAST(({form}) AS {type}) AS new '
            "FROM (SELECT CAST(({default}) AS {old_type}) AS old) AS tried"
        ).format(
            form=sql.SQL(form("tried.old")),
            type=sql.SQL(self.new_type),
            default=sql.SQL(self.default),
            old_type=sql.SQL(self.old_type),
        )
        compared = sql.SQL(
            "SELECT tried.new::text IS NOT DISTINCT FROM "
            "CAST((SELECT (\n{up}\n) FROM (SELECT tried.old AS {column}) AS {row}) AS {type})::text AS agrees "
            'FROM pg_temp."~backfilld tried" AS tried'
        ).format(up=sql.SQL(self.up), column=sql.Identifier(self.column), row=row, type=sql.SQL(self.new_type))
        with connection.transaction(force_rollback=True):
            try:
                apply_settings(connection, session)
                connection.execute(tried)
                apply_settings(connection, SEMANTICS)
                found = connection.execute(compared).fetchone()
            except psycopg.Error as exc:
                if was_interrupted(exc):
                    raise
                return False
        return bool(found and found["agrees"])
