"""Counts what a persona may do with rows by two sets of policies, in the transaction of whoever asks. No policy is touched, and no row.

A lane asks it of each range of a table, and `plan` of some rows before anything is enqueued.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from backfilld.migrations.errors import Finding, Refused
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.policies.comparison import COMPARED, SEEN, Comparison, become, first_rows
from backfilld.migrations.policies.others import MOST_ROWS, reading, seen_of
from backfilld.migrations.policies.results import NOT_COUNTED, Counted
from backfilld.migrations.postgres.sqlstates import classify, in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backfilld.migrations.facts import OtherTable, UncountedTable
    from backfilld.migrations.postgres.connect import Connection
    from backfilld.migrations.postgres.policies import Persona, PolicySet
    from backfilld.migrations.record.states import Phase

    #: The sets that come into force, each with the phase in which it does.
    Stages = Sequence[tuple[Phase, PolicySet]]

#: What asking again later would answer the same: a row, a right or an expression of the rule is to blame.
LASTING = frozenset({"data", "fatal"})

#: What there is to do where a rule is not what PostgreSQL does.
CANNOT = (
    "Nothing was changed. Where roles or policies have changed since the migration was enqueued, roll it back and enqueue it again; "
    "policies that call functions which write, or whose answer changes from one call to the next, cannot be predicted"
)


@dataclass(frozen=True, kw_only=True)
class Range:
    """Some rows of a table, in a transaction that has made the function which gives them (`Comparison.rows`)."""

    connection: Connection
    comparison: Comparison
    #: A policy whose function writes fails, instead of writing what is rolled back afterwards.
    read_only: bool = False

    @property
    def relation(self) -> str:
        return str(self.comparison.table)

    def ask(
        self, persona: Persona, now: PolicySet | None, later: PolicySet | None, *, really: str
    ) -> list[dict[str, Any]]:
        """What the persona may do by the two sets. Raises psycopg.Error. Any: columns of `compared`."""
        made = self.comparison.rules(persona, now, later, seen=self.comparison.condition, really=really)
        return self._as_persona(persona, made, COMPARED)

    def reads(self, persona: Persona) -> bool:
        """Whether the persona's own SELECT of these rows succeeds."""
        if "select" not in persona.may:
            return False
        try:
            self._as_persona(persona, self.comparison.all_of_them(), SEEN)
        except psycopg.Error as exc:
            if classify(exc) not in LASTING:
                raise
            return False
        return True

    def _as_persona(self, persona: Persona, made: Iterable[sql.Composed], query: sql.Composed) -> list[dict[str, Any]]:
        with self.connection.transaction(force_rollback=True):
            for statement in (*made, *become(persona)):
                self.connection.execute(statement)
            if self.read_only:
                self.connection.execute("SET LOCAL transaction_read_only = on")
            return self.connection.execute(query).fetchall()


def count(rows: Range, persona: Persona, old: PolicySet, stages: Stages) -> list[Counted]:
    """What a persona may do with these rows now, and once each of the other sets is in force.

    First of all it is proved that the rules say what PostgreSQL does today. Raises Refused where they do not, and psycopg.Error.
    """
    return [one for phase, later in stages for one in _count(rows, persona, old, phase=phase, later=later)]


def _count(rows: Range, persona: Persona, old: PolicySet, *, phase: Phase, later: PolicySet) -> list[Counted]:
    now: PolicySet | None = old
    after: PolicySet | None = later
    errors: dict[str, Any] = {}
    try:
        told = rows.ask(persona, now, after, really="now")
    except psycopg.Error as exc:
        if classify(exc) not in LASTING:
            raise
        now, after, errors = _without_errors(rows, persona, old, later)
        told = rows.ask(persona, now, after, really="now") if now or after else []
    if now is not None:
        refuse_wrong(told, persona, rows.relation, "sees today")
    counted = [
        Counted.from_row({**row, **errors}, phase=phase, relation=rows.relation, persona=persona.name) for row in told
    ]
    if not counted and errors:
        return [Counted(phase=phase, relation=rows.relation, persona=persona.name, command="select", **errors)]
    return counted


def _without_errors(
    rows: Range, persona: Persona, old: PolicySet, later: PolicySet
) -> tuple[PolicySet | None, PolicySet | None, dict[str, Any]]:
    """Of the two sets, those that give no error for these rows, and the errors of the others.

    A persona whose statements fail today reaches no row. Where they succeed the rules are not what PostgreSQL does.
    """
    kept: list[PolicySet | None] = []
    errors: dict[str, Any] = {}
    for name, pair in (("error_now", (old, None)), ("error_then", (None, later))):
        try:
            rows.ask(persona, *pair, really="now")
            kept.append(pair[0] or pair[1])
        except psycopg.Error as exc:
            if classify(exc) not in LASTING:
                raise
            errors[name] = f"{exc.sqlstate}: {in_words(exc)}"
            kept.append(None)
    if "error_now" in errors and rows.reads(persona):
        problem = (
            f"{persona.name} reads {rows.relation} today, where the rule of its policies fails ({errors['error_now']})"
        )
        raise Refused([Finding("prediction", problem, CANNOT)])
    return kept[0], kept[1], errors


@dataclass(frozen=True, kw_only=True)
class Read:
    """The table whose policies change, as those of another table read it."""

    table: TableName
    #: With what they are to it.
    personas: Sequence[Persona]
    stages: Stages


def count_other(connection: Connection, other: OtherTable, read: Read, *, seconds: float) -> list[Counted]:
    """The same of another table whose policies read the one that changes.

    What takes longer than `seconds` for one persona, or fails, is told as an error of its statements then, so that a person looks.
    Raises Refused, and psycopg.Error for what is of another kind.
    """
    limit = sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(round(seconds * 1000)))
    readers = {one.name: one for one in read.personas}
    counted: list[Counted] = []
    for persona in other.personas:
        for phase, later in read.stages:
            made = (limit, *seen_of(read.table, readers[persona.name], later))
            counted += _count_other(connection, other, persona, phase=phase, made=made, table=read.table)
    return counted


def not_counted(other: UncountedTable, read: Read) -> list[Counted]:
    """The same of a table of which nobody can count it: a person is asked."""
    error = f"{NOT_COUNTED}{other.because}"
    return [
        Counted(phase=phase, relation=other.relation, persona=one.name, command="select", error_then=error)
        for one in read.personas
        if not one.bypasses
        for phase, _ in read.stages
    ]


def _count_other(  # noqa: PLR0913 - each is named where it is called
    connection: Connection,
    other: OtherTable,
    persona: Persona,
    *,
    phase: Phase,
    made: Iterable[sql.Composed],
    table: TableName,
) -> list[Counted]:
    ends, comparison, upto = first_rows(TableName.parse(other.relation), other.key, MOST_ROWS)
    statements = (
        *made,
        *ends,
        *comparison.rows(),
        *comparison.rules(persona, other.policies, reading(other.policies, table), seen=upto, really="now"),
        *become(persona),
    )
    try:
        with connection.transaction(force_rollback=True):
            for statement in statements:
                connection.execute(statement)
            told = connection.execute(COMPARED).fetchall()
    except psycopg.Error as exc:
        if classify(exc) not in LASTING and not isinstance(exc, psycopg.errors.QueryCanceled):
            raise
        error = f"{NOT_COUNTED}{exc.sqlstate}: {in_words(exc)}"
        return [Counted(phase=phase, relation=other.relation, persona=persona.name, command="select", error_then=error)]
    refuse_wrong(told, persona, other.relation, "sees today")
    return [Counted.from_row(row, phase=phase, relation=other.relation, persona=persona.name) for row in told]


def refuse_wrong(
    told: Sequence[dict[str, Any]], persona: Persona, table: str, when: str, *, remedy: str = CANNOT
) -> None:
    """Raises Refused for rows of which a rule says something else than PostgreSQL. Any: columns of `compared`."""
    wrong = sum(row["wrong"] for row in told)
    if wrong:
        keys = "; ".join(", ".join(key) for row in told for key in row["wrong_keys"][:5])
        problem = f"what {persona.name} {when} of {table} is not what its policies say: {wrong} rows differ ({keys})"
        raise Refused([Finding("prediction", problem, remedy)])
