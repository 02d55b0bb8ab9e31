"""The function of a sync trigger, which keeps two columns of a row saying the same. Pure: this file gives PL/pgSQL.

`Pair` is two columns that change places: the primary column, which is the old one until the switch and the new one from then on,
and its shadow. `column_function.py` computes a single column from the rest of the row; `sync_trigger.py` has the trigger itself.

Which of the two a statement meant follows from what changed, never from the role or the search_path. One side is the
primary: the old column until the switch, the new one from then on. The other is its shadow.

UPDATE      changed            what happens
            primary          the shadow is computed
            shadow             the primary is computed
            both               the shadow is computed: the primary wins
            neither            the shadow is computed, so that every row that is touched agrees; once `settled` nothing happens,
                               since a value that came through a conversion need not survive another one

INSERT      the side that was given wins; given both or neither, the primary does. A side was given if it holds
            a value       that is neither NULL nor its DEFAULT: surely
            NULL          though its DEFAULT is something else: yes, unless the other side holds a value
            its DEFAULT   no; a side without a DEFAULT has NULL for one
            A DEFAULT that cannot be asked again (a sequence, an identity, today's date) cannot be told from a value: a side
            that has one wins over nothing, and yields to any value of the other side.

Changed means another image: 1.0 and 1.00 differ, and so do two spellings of a json. A change to NULL is a change.
Nothing raises into the application. A shadow that cannot be computed becomes NULL; a primary keeps what it has, and so do both
where one of them, or a column that an expression reads, is not there any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfilld.migrations.identifiers import TableName

#: What a function begins with: a name that is a column's and a variable's is the column's.
PREAMBLE = "#variable_conflict use_column"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two columns that say the same."""

    #: Its name in the table at this moment.
    column: str
    #: Its type as format_type writes it.
    type: str
    #: SQL expression over the row that computes it; None where it is the other side's value as it stands.
    expression: str | None = None
    #: The name by which `expression` knows the other side; None for the name that it has at this moment.
    knows_other_as: str | None = None
    #: Its DEFAULT, where asking again gives the same: a constant.
    default: str | None = None
    #: It has a DEFAULT that cannot be asked again, or is an identity.
    fills_itself: bool = False


@dataclass(frozen=True, kw_only=True)
class RollbackConflicts:
    """Where rows are put down whose other side could not be computed: `backfilld.rollback_conflicts`."""

    migration: str
    operation: int
    #: The columns of the key that is walked, by their names at this moment.
    key: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two columns of a row that are to say the same."""

    table: TableName
    primary: Side
    shadow: Side
    #: An UPDATE of neither leaves both alone. For the time after the switch, when every row is known to be right.
    settled: bool = False
    #: With `settled`, while a walk by this key still gives the shadow its values: a row that gets another key may never be met.
    walked_by: tuple[str, ...] = ()
    rollback_conflicts: RollbackConflicts | None = None
    #: The migration, and the operation's number in it, where statements that write the shadow alone are put on record: they fail
    #: once it is gone.
    counts_shadow: tuple[str, int] | None = None

    def body(self) -> str:
        """The body of the trigger's function."""
        primary, shadow = self.primary, self.shadow
        settled = ""
        if self.settled:
            same = f"NOT backward AND NOT {changed(primary.column)}"
            if self.walked_by:
                moved = " OR ".join(changed(name) for name in self.walked_by)
                same += f" AND NOT (({moved}) AND {new_value(shadow.column)} IS NOT DISTINCT FROM NULL)"
            settled = f"\n    IF {same} THEN RETURN NEW; END IF;"
        counted = f"\n{count_statement(*self.counts_shadow)}" if self.counts_shadow is not None else ""
        return f"""{PREAMBLE}
DECLARE
  backward boolean;
BEGIN
  IF TG_OP = 'INSERT' THEN
    backward := {given(shadow)} > {given(primary)};
  ELSE
    backward := {changed(shadow.column)} AND NOT {changed(primary.column)};{settled}
  END IF;
  IF backward THEN{counted}
{self._computed(primary, shadow)}
  ELSE
{self._computed(shadow, primary)}
  END IF;
  RETURN NEW;
EXCEPTION WHEN syntax_error_or_access_rule_violation THEN
  -- Class 42: a column is not there any more, or is of another type. The application comes first; the run finds it out by itself.
  -- Not others: a value that breaks a rule of the other column's type is for the application to know.
  RETURN NEW;
END"""

    def _computed(self, side: Side, other: Side) -> str:
        if side.expression is None:
            return f"    {new_value(side.column)} := {new_value(other.column)};"
        known: dict[str, str] = {}
        if side.knows_other_as is not None and side.knows_other_as != other.column:
            known[side.knows_other_as] = other.column
        gone = [f"{new_value(side.column)} := NULL;"] if side is self.shadow else []
        return assignment(self.table, side.column, side.expression, names=known, otherwise=[*gone, *self._put_down()])

    def _put_down(self) -> list[str]:
        return put_down(self.rollback_conflicts) if self.rollback_conflicts is not None else []


def put_down(conflicts: RollbackConflicts) -> list[str]:
    """Put a row on record whose other side could not be computed."""
    key = ", ".join(f"{new_value(column)}::text" for column in conflicts.key)
    migration = sql.Literal(conflicts.migration).as_string()
    return [
        f"""BEGIN
        INSERT INTO backfilld.rollback_conflicts (run, operation, key, sqlstate, error)
        SELECT r.run, {conflicts.operation}, ARRAY[{key}], SQLSTATE, SQLERRM
        FROM backfilld.runs r WHERE r.name = {migration} ORDER BY r.run DESC LIMIT 1
        ON CONFLICT (run, operation, key) DO UPDATE
        SET sqlstate = excluded.sqlstate, error = excluded.error, seen_at = clock_timestamp();
      EXCEPTION WHEN others THEN
        NULL; -- on no account an error of the application's
      END;"""  # noqa: S608 - names and values are quoted
    ]


def assignment(
    table: TableName, column: str, expression: str, *, names: Mapping[str, str], otherwise: Sequence[str]
) -> str:
    """A column gets an expression over the new row; `otherwise` is done in place of an error.

    `names` are names in the expression that stand for another column. They are the nearest scope: a name that is found there
    is not looked up in the row, and one that is qualified by the table's name is looked up there alone.
    """
    if names:
        row = sql.Identifier(table.name).as_string()
        scope = ", ".join(f"{new_value(stands_for)} AS {_quoted(name)}" for name, stands_for in names.items())
        expression = f"SELECT (\n{expression}\n) FROM (SELECT {scope}) AS {row}"  # noqa: S608 - as in row_value
    instead = "\n      ".join(otherwise) or "NULL;"
    return f"""    BEGIN
      {new_value(column)} := {row_value(table, expression)};
    EXCEPTION WHEN others THEN
      -- The application comes first: its statement must not fail.
      {instead}
    END;"""


def count_statement(migration: str, operation: int) -> str:
    """Put on record that a statement came which fails after contract, at most about once a second.

    Rows are only added: no statement of the application's waits for another here.
    """
    name = sql.Literal(migration).as_string()
    return f"""    BEGIN
      INSERT INTO backfilld.omitted_inserts (run, operation)
      SELECT r.run, {operation}
      FROM (SELECT l.run FROM backfilld.runs l WHERE l.name = {name} ORDER BY l.run DESC LIMIT 1) r
      WHERE NOT EXISTS (SELECT FROM backfilld.omitted_inserts o WHERE o.run = r.run AND o.operation = {operation}
                        AND o.seen_at > clock_timestamp() - interval '1 s');
    EXCEPTION WHEN others THEN
      NULL; -- on no account an error of the application's
    END;"""  # noqa: S608 - names and values are quoted


def row_value(table: TableName, expression: str, *, row: str = "NEW") -> str:
    """An expression over the new row or the OLD one, which it knows by the table's name."""
    name = sql.Identifier(table.name).as_string()
    return f"(SELECT (\n{expression}\n) FROM (SELECT {row}.*) AS {name})"  # noqa: S608 - checked by preflight, names are quoted


def changed(column: str) -> str:
    """Whether a statement has given a column another value. By image: any type has one, and no operator is looked up."""
    old = sql.Identifier("old", column).as_string()
    return f"(ROW({old})::record OPERATOR(pg_catalog.*<>) ROW({new_value(column)})::record)"


def given(side: Side) -> str:
    """How surely a side was given by an INSERT: 0 for not at all, 1 for perhaps or a NULL in place of its DEFAULT, 2 for a value."""
    if side.fills_itself:
        return "1"
    value = new_value(side.column)
    # Not IS NULL, which is true for a row of NULLs.
    null = f"{value} IS NOT DISTINCT FROM NULL"
    if side.default is None:
        return f"CASE WHEN {null} THEN 0 ELSE 2 END"
    default = f"ROW(CAST((\n{side.default}\n) AS {side.type}))::record"
    # Cast too: a column of a domain is of another type than its domain's base.
    given = f"ROW(CAST({value} AS {side.type}))::record"
    return f"CASE WHEN {given} OPERATOR(pg_catalog.*=) {default} THEN 0 WHEN {null} THEN 1 ELSE 2 END"


def new_value(column: str) -> str:
    """A column of the row as it is to be."""
    return sql.Identifier("new", column).as_string()


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()
