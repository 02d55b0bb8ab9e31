"""What a persona may do with rows by two rules, and what it really sees: the statements that ask PostgreSQL, without touching a policy.

1. A function of our own, in pg_temp, gives the rows of a range with our rights, whoever calls it.
2. Another one has both rules as columns over these rows, joins what the persona really sees of the table, and counts. It is parsed
   under an empty search_path and runs with the rights of whoever calls it, so that a rule that reads other tables does so under the
   persona's own policies there.
3. The session takes the persona's role and settings, and calls it.

All of it happens in a savepoint that is rolled back: the functions, the role and the settings go with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.policies.results import EXAMPLES
from backfilld.migrations.policies.rules import Command, rule
from backfilld.migrations.queries import templates
from backfilld.migrations.walks.firing import THEIRS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backfilld.migrations.identifiers import TableName
    from backfilld.migrations.policies.rules import Rule
    from backfilld.migrations.postgres.definitions import KeyColumn
    from backfilld.migrations.postgres.policies import Persona, PolicySet

_SQL = templates(__package__, "comparison")

#: Rows of the table that the switch looks at as each persona while it holds the lock, the first by their key: some milliseconds.
UNDER_LOCK = 2000

#: Calls the comparison, for its counts.
COMPARED = _SQL["compared"].format()
#: Calls the comparison, for the keys of rows of which a rule says something else than PostgreSQL.
WRONG = _SQL["wrong"].format()
#: Counts the rows of them that a persona really sees.
SEEN = _SQL["seen"].format()
#: Counts the rows that are looked at.
GIVEN_ROWS = _SQL["given_rows"].format()
_NOTHING = sql.SQL("")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The statements about one range of a table's rows."""

    table: TableName
    key: tuple[KeyColumn, ...]
    #: Which rows, as a condition over the table by its name.
    condition: sql.Composable
    #: What else stands behind the condition where our own function reads the rows: an order, a limit.
    rest: sql.Composable = field(default_factory=lambda: _NOTHING)
    #: Which part of the table is read at all, wherever it is.
    sample: sql.Composable = field(default_factory=lambda: _NOTHING)

    def rows(self) -> tuple[sql.Composed, ...]:
        """Make the function that gives the rows to whoever asks."""
        body = _SQL["rows"].format(
            columns=sql.SQL("{}.*").format(self._name),
            table=self.table.identifier,
            name=self._name,
            sample=self.sample,
            condition=self.condition,
            rest=self.rest,
        )
        made = _SQL["every_row"].format(table=self.table.identifier, body=sql.Literal(body.as_string()))
        return made, _grant("backfilld_rows")

    def rules(
        self,
        persona: Persona,
        now: PolicySet | None,
        later: PolicySet | None,
        *,
        seen: sql.Composable | None,
        really: str,
    ) -> tuple[sql.Composed, ...]:
        """Make the function that compares, for one persona; a rule that is None lets no row through.

        `really` says which of the two is in force at this moment, `now` or `later`; `seen` which rows of the table it is held
        against, as a condition: None where it is not.
        """
        rules = {"now": _rule_of(now, persona), "later": _rule_of(later, persona)}
        columns: dict[str, sql.Identifier] = {}
        texts: list[sql.Composable] = []
        for one in rules.values():
            for condition in one.parts.values() if one is not None else ():
                text = condition.as_string()
                if text not in columns:  # most commands are asked the same
                    columns[text] = sql.Identifier(f"part_{len(columns)}")
                    texts.append(sql.SQL("coalesce({}, false) AS {}").format(condition, columns[text]))
        commands = [
            sql.SQL("({}, {}, {})").format(
                sql.Literal(str(command)), *(_told(one, command, columns) for one in rules.values())
            )
            for command in Command
        ]
        compares = seen is not None and persona.sees_key and "select" in persona.may
        made = _SQL["compare"].format(
            key=self._key,
            parts=sql.SQL(", ").join([*texts, sql.SQL("true AS there")]),
            name=self._name,
            commands=sql.SQL(", ").join(commands),
            examples=sql.Literal(EXAMPLES),
            wrong=sql.SQL("each.{} <> (really.key IS NOT NULL)").format(sql.SQL(really))
            if compares
            else sql.SQL("false"),
            really=_SQL["really"].format(
                key=self._key, table=self.table.identifier, name=self._name, sample=self.sample, condition=seen
            )
            if compares
            else _NOTHING,
        )
        return made, _grant("backfilld_compare")

    def all_of_them(self) -> tuple[sql.Composed, ...]:
        """Make the function that says how many of these rows whoever asks sees of the table."""
        made = _SQL["seen_rows"].format(
            table=self.table.identifier, name=self._name, sample=self.sample, condition=self.condition
        )
        return made, _grant("backfilld_seen")

    @property
    def _name(self) -> sql.Identifier:
        return sql.Identifier(self.table.name)

    @property
    def _key(self) -> sql.Composed:
        return sql.SQL(", ").join(
            sql.SQL("{}::text").format(sql.Identifier(self.table.name, column.name)) for column in self.key
        )


def become(persona: Persona) -> Iterable[sql.Composed]:
    """Take a persona's role and settings, until the savepoint is rolled back; everything else is as in the application's sessions."""
    for name, value in persona.settings:
        yield sql.SQL("SELECT pg_catalog.set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
    yield sql.Composed([THEIRS])
    yield sql.SQL("SET LOCAL row_security = on").format()
    yield sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(persona.role))


def first_rows(
    table: TableName, key: tuple[KeyColumn, ...], most: int = UNDER_LOCK
) -> tuple[tuple[sql.Composed, ...], Comparison, sql.Composed]:
    """The first `most` rows of a table: statements that put down where they end, and how they are told from the others."""
    columns = [sql.Identifier(table.name, column.name) for column in key]
    order = sql.SQL(", ").join(columns)
    rest = sql.SQL(" ORDER BY {} LIMIT {}").format(order, sql.Literal(most))
    ends = tuple(
        sql.SQL(
            "SELECT pg_catalog.set_config({}, (SELECT last.key FROM (SELECT {}::text AS key, {} FROM {} AS {}{}) AS last "
            "ORDER BY {} LIMIT 1), true)"
        ).format(
            sql.Literal(_end(number)),
            column,
            order,
            table.identifier,
            sql.Identifier(table.name),
            rest,
            sql.SQL(", ").join(sql.SQL("{} DESC").format(sql.Identifier("last", one.name)) for one in key),
        )
        for number, column in enumerate(columns)
    )
    values = [
        sql.SQL("nullif(current_setting({}), '')::{}").format(sql.Literal(_end(number)), sql.SQL(column.type))
        for number, column in enumerate(key)
    ]
    upto = sql.SQL("{} <= {}").format(_tuple(columns), _tuple(values))
    return ends, Comparison(table=table, key=key, condition=sql.SQL("true"), rest=rest), upto


def _end(number: int) -> str:
    return f"backfilld.last_{number}"


def _tuple(parts: list[sql.Composable] | list[sql.Identifier] | list[sql.Composed]) -> sql.Composable:
    return parts[0] if len(parts) == 1 else sql.SQL("({})").format(sql.SQL(", ").join(parts))


def _rule_of(set_: PolicySet | None, persona: Persona) -> Rule | None:
    return None if set_ is None else rule(set_, persona)


def _told(one: Rule | None, command: Command, columns: dict[str, sql.Identifier]) -> sql.Composable:
    """Whether a rule lets a command have the row, of the parts that are computed."""
    needs = one.needs[command] if one is not None else None
    if one is None or needs is None:
        return sql.SQL("false")
    return sql.SQL(" AND ").join(columns[one.parts[part].as_string()] for part in needs)


def _grant(function: str) -> sql.Composed:
    # What is made for everybody by itself may have been taken away by default privileges.
    return sql.SQL("GRANT EXECUTE ON FUNCTION pg_temp.{}() TO PUBLIC").format(sql.Identifier(function))
