"""What is found out of the lines of a load before the first row is written.

Of single lines, by lanes: values that PostgreSQL cannot read, NULL, CHECK, missing parents, values that another row has. Of all of them,
in one statement each: several lines with one key, or with one value that must be unique. Which lines leave the stage, and why, is
told in `backfilld.load_lines`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.identifiers import TableName
from backfilld.migrations.loading.loading import both, listed
from backfilld.migrations.loading.upsert import set_aside
from backfilld.migrations.queries import templates

if TYPE_CHECKING:
    from backfilld.migrations.loading.loading import Loading

_TEMPLATES = templates(__package__, "check")

#: In so many rounds the lines come in the order of their keys, each with a part of the lines from all over the file. In a single one the
#: heap of a table whose rows are updated grew by 84 % more, and it was no quicker.
STRIPES = 8
#: What goes back in a stage that is nearly in order: one line in so many. A stage that is larger than this is not put in order.
IN_ORDER_SHARE, MOST_PUT_IN_ORDER_BYTES = 100, 2 * 1024**3
_COMPARED = frozenset(
    {
        "bigint", "integer", "smallint", "numeric", "uuid", "date", "timestamp with time zone", "timestamp without time zone", "text",
        "character varying",
    }
)  # fmt: skip

#: PostgreSQL tells of a value that it cannot read, without an error, since this version.
TELLS_BAD_INPUT = 160_000


def check(loading: Loading, condition: sql.Composable, *, run: int, looks: bool) -> sql.Composed:
    """One batch. Gives `walked`, `set_aside`, and of the others how many rows are `there` and how many of those would be updated,
    where it `looks`. Raises psycopg.Error where a value is an error.
    """
    looks = looks or any(loading.refuses)
    there = _TEMPLATES["found"].format(
        updates=loading.updates(),
        table=loading.table.identifier,
        same_key=loading.same_key("~given"),
    )
    return _TEMPLATES["check"].format(
        given=loading.from_stage(condition, checked=False),
        found=there if looks else _TEMPLATES["not_looked"],
        rules=sql.SQL(" ").join(_rules(loading)),
        set_aside=set_aside(loading, sql.Literal(run)),
    )


def bad_input(loading: Loading, condition: sql.Composable, *, run: int) -> sql.Composed | None:
    """Set lines aside whose values PostgreSQL cannot read, all at once; None where every value is an expression over fields."""
    if loading.definition.source.format == "ndjson":
        found = [("~record", "json", "")]
    else:
        found = [(f"~f_{one.field}", one.type, f"{one.name}: ") for one in loading.columns if one.field is not None]
    if not found:
        return None
    return _TEMPLATES["input"].format(
        stage=loading.stage.identifier,
        condition=condition,
        rules=sql.SQL(" ").join(
            _TEMPLATES["input_error"].format(
                value=sql.Identifier(name), type=sql.Literal(type_), column=sql.Literal(column)
            )
            for name, type_, column in found
        ),
        set_aside=set_aside(loading, sql.Literal(run)),
    )


def set_aside_one(loading: Loading, place: str, *, run: int, sqlstate: str, error: str) -> sql.Composed:
    """Set one line aside; gives its number."""
    return _TEMPLATES["set_aside_one"].format(
        stage=loading.stage.identifier,
        place=sql.Literal(place),
        data=loading.data,
        run=sql.Literal(run),
        operation=sql.Literal(loading.number),
        sqlstate=sql.Literal(sqlstate),
        error=sql.Literal(error),
    )


def places(loading: Loading, condition: sql.Composable) -> sql.Composed:
    """Where some lines are."""
    return _TEMPLATES["places"].format(stage=loading.stage.identifier, condition=condition)


def of_all_lines(loading: Loading) -> list[tuple[sql.Composed, str]]:
    """The statements over all lines, in their order, each with what it does. Each is done by who has the run's coordinator."""
    given = loading.from_stage(sql.SQL("true"))
    stage_name = sql.Literal(loading.stage.name)
    run = _TEMPLATES["run_of"].format(stage_name=stage_name)
    key = [f"~g_{number}" for number in loading.key_numbers]
    found: list[tuple[sql.Composed, str]] = []
    if loading.definition.duplicates == "quarantine":
        names = ", ".join(one.name for one in loading.key)
        statement = _several(loading, given, key, error=f"several lines have this {names}", all_=True, run=run)
        found.append((statement, "sets lines aside that have one key"))
    else:
        order = sql.SQL("DESC" if loading.definition.duplicates == "last" else "ASC")
        statement = _TEMPLATES["duplicates"].format(
            key=listed(map(sql.Identifier, key)),
            given=given,
            order=order,
            stage=loading.stage.identifier,
            stage_name=stage_name,
        )
        found.append((statement, f"of several lines with one key the {loading.definition.duplicates} counts"))
    for name, columns in loading.facts.uniques:
        numbers = [f"~g_{loading.numbers[column]}" for column in columns]
        error = f"another line has this {', '.join(columns)}, and {name} is unique"
        found.append(
            (
                _several(loading, given, numbers, error=error, all_=False, run=run),
                f"sets lines aside that {name} forbids",
            )
        )
    for column, sequence in loading.facts.sequences:
        statement = _TEMPLATES["raise_sequence"].format(
            sequence=sql.Literal(sequence),
            column=sql.Identifier(f"~g_{loading.numbers[column]}"),
            given=given,
            relation=sql.SQL(sequence),
        )
        found.append((statement, f"the sequence {sequence} does not give values again that lines have"))
    found.append(
        (
            _in_order(loading),
            f"lines come into the order of their keys, in {STRIPES} rounds, unless they are nearly in it",
        )
    )
    return found


def _in_order(loading: Loading) -> sql.Composed:
    """What a batch takes lies together in the table and in its index then: of small batches that saves a third of the work.

    Not of a page of the table all at once: what comes later finds the room that what came before has left there.
    """
    place, stage_ = loading.stage, loading.stage.identifier
    ordered = TableName(place.schema, f"{place.name}_in_order")
    types = [loading.columns[number].plain_type or loading.columns[number].type for number in loading.key_numbers]
    names = [name for _, name in loading.keys]
    descends = sql.SQL("ROW({}) OPERATOR(pg_catalog.<) ROW({})").format(
        listed(names), listed(sql.SQL("lag({}) OVER before").format(name) for name in names)
    )
    body = _TEMPLATES["in_order_body"].format(
        name=sql.Literal(stage_.as_string()),
        most=sql.Literal(MOST_PUT_IN_ORDER_BYTES),
        share=sql.Literal(IN_ORDER_SHARE),
        # Of a type of the user's nobody knows what its operator is called.
        descends=descends if _COMPARED.issuperset(types) else sql.SQL("true"),
        keys=listed(sql.SQL("{} AS {}").format(*one) for one in loading.keys),
        stage=stage_,
        fields=loading.fields,
        sorted=ordered.identifier,
        sorted_name=sql.Literal(ordered.identifier.as_string()),
        order=listed([sql.SQL('s."~line" % {}').format(sql.Literal(STRIPES)), *(value for value, _ in loading.keys)]),
        plain_name=sql.Identifier(place.name),
    )
    return _TEMPLATES["in_order"].format(body=sql.Literal(body.as_string()))


def disagreement(loading: Loading) -> sql.Composed:
    """A query that gives no row where every line is accounted for."""
    return _TEMPLATES["agree"].format(stage_name=sql.Literal(loading.stage.name))


def _several(  # noqa: PLR0913 - one statement; each part is named where it is called
    loading: Loading,
    given: sql.Composable,
    columns: list[str],
    *,
    error: str,
    all_: bool,
    run: sql.Composable,
) -> sql.Composed:
    return _TEMPLATES["several"].format(
        none_null=both(sql.SQL("{} IS NOT NULL").format(sql.Identifier(one)) for one in columns),
        all=sql.Literal(all_),
        columns=listed(map(sql.Identifier, columns)),
        error=sql.Literal(error),
        given=given,
        set_aside=set_aside(loading, run),
    )


def _rules(loading: Loading) -> list[sql.Composed]:
    """What a line must not do, each with the error that PostgreSQL would have for it."""
    keys = set(loading.key_numbers)
    columns, table = loading.columns, loading.table
    found = [
        (
            sql.SQL('"~given".{}').format(sql.Identifier(f"~cut_{number}")),
            "22001",
            f"{one.name}: value too long for type {one.type}",
        )
        for number, one in enumerate(columns)
        if loading.too_long(number) is not None
    ]
    found += [
        (
            sql.SQL("{} IS NULL").format(loading.given(number)),
            "23502",
            f"{one.name}: null value violates the not-null constraint",
        )
        for number, one in enumerate(columns)
        if one.not_null or number in keys
    ]
    values = listed(
        sql.SQL("{} AS {}").format(loading.given(number), sql.Identifier(one.name))
        for number, one in enumerate(columns)
    )
    for name, text in loading.facts.rules:
        broken = _TEMPLATES["expression"].format(
            expression=sql.SQL(f"\n{text}\n"), values=values, name=sql.Identifier(table.name)
        )
        found.append((broken, "23514", f"the line violates the check constraint {name}"))
    for parent in loading.facts.parents:
        numbers = [loading.numbers[column] for column in parent.columns]
        broken = _TEMPLATES["parent"].format(
            given=both(sql.SQL("{} IS NOT NULL").format(loading.given(number)) for number in numbers),
            relation=sql.SQL(parent.relation),
            same=both(
                sql.SQL("parent.{} = {}").format(sql.Identifier(column), loading.given(number))
                for column, number in zip(parent.referenced, numbers, strict=True)
            ),
        )
        found.append(
            (
                broken,
                "23503",
                f"the row that {', '.join(parent.columns)} refers to is not in {parent.relation} ({parent.name})",
            )
        )
    for name, unique in loading.facts.uniques:
        broken = _TEMPLATES["taken"].format(
            table=table.identifier,
            same=both(
                sql.SQL("{} = {}").format(loading.column(column), loading.given(loading.numbers[column]))
                for column in unique
            ),
            same_key=loading.same_key("~given"),
        )
        found.append((broken, "23505", f"another row has this {', '.join(unique)}, and {name} is unique"))
    there, missing = loading.refuses
    names = ", ".join(one.name for one in loading.key)
    found.append(
        (
            sql.SQL('{} AND found."~there"').format(sql.Literal(there)),
            "23505",
            f"a row with this {names} is there already",
        )
    )
    found.append(
        (sql.SQL('{} AND found."~there" IS NULL').format(sql.Literal(missing)), "02000", f"no row has this {names}")
    )
    return [
        _TEMPLATES["rule"].format(broken=broken, sqlstate=sql.Literal(sqlstate), error=sql.Literal(error))
        for broken, sqlstate, error in found
    ]
