"""The batch of a load, the look at what it did, and what it writes into the journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.loading.loading import both, listed
from backfilld.migrations.queries import templates
from backfilld.migrations.rollback.journal import Form, Journal, key_name
from backfilld.migrations.walks.firing import OURS, THEIRS

if TYPE_CHECKING:
    from collections.abc import Callable

    from backfilld.migrations.facts import LoadColumn
    from backfilld.migrations.loading.loading import Loading

_CHECK = templates(__package__, "check")
_UPSERT = templates(__package__, "upsert")

#: Whether a row of the journal was inserted, and what it had then in columns that are not loaded; in our statements.
INSERTED, OTHERS = sql.Identifier("~ins"), sql.Identifier("~others")
_BOOLEAN, _TEXT = Form(type="boolean", element="boolean"), Form(type="text", element="text")


@dataclass(frozen=True, kw_only=True)
class LoadedRows(Journal):
    """Where a run keeps what a load replaces and inserts: beside old and new values, which it was."""

    #: Columns that are not loaded are kept of inserted rows.
    keeps_others: bool

    @property
    def arrays(self) -> list[tuple[sql.Identifier, Form, sql.Identifier]]:
        more = [(sql.Identifier(f"inserted_{self.operation}"), _BOOLEAN, INSERTED)]
        if self.keeps_others:
            more.append((sql.Identifier(f"others_{self.operation}"), _TEXT, OTHERS))
        return [*super().arrays, *more]

    @property
    def differs(self) -> sql.Composable:
        return sql.SQL("true")


def set_aside(loading: Loading, run: sql.Composable) -> sql.Composed:
    """The parts of a statement by which lines that are judged leave the stage."""
    return _CHECK["set_aside"].format(stage=loading.stage.identifier, run=run, operation=sql.Literal(loading.number))


def upsert(
    loading: Loading, given: sql.Composable, *, run: int, journal: LoadedRows | None, pass_: int
) -> sql.Composed:
    """One batch. Gives `walked`; how many lines it judged to be `updates`, `inserts`, `same` and `set_aside`; and how many rows it
    `updated` and `inserted`. Afterwards the application's settings are in force.
    """
    written, columns = loading.written, loading.columns
    there, missing = loading.refuses
    key = ", ".join(one.name for one in loading.key)
    # Of a table that is nothing but its key no row differs.
    sets = written or [(number, columns[number]) for number in loading.key_numbers]
    return _UPSERT["upsert"].format(
        given=given,
        values=listed(loading.given(number) for number, _ in enumerate(columns)),
        olds=sql.SQL("").join(sql.SQL("found.{}, ").format(_old(number)) for number, _ in written),
        found=sql.SQL("").join(
            sql.SQL(", {} AS {}").format(loading.column(one.name), _old(number)) for number, one in written
        ),
        updates=loading.updates(),
        refuses_there=sql.Literal(there),
        refuses_missing=sql.Literal(missing),
        there_error=sql.Literal(f"a row with this {key} is there already"),
        missing_error=sql.Literal(f"no row has this {key}"),
        table=loading.table.identifier,
        same_key=loading.same_key("~given"),
        same_judged=loading.same_key("~judged"),
        set_aside=set_aside(loading, sql.Literal(run)),
        sets=listed(
            sql.SQL("{} = {}").format(sql.Identifier(one.name), loading.given(number, "~judged"))
            for number, one in sets
        ),
        as_seen=both(_as_seen(loading, number, one) for number, one in written) if written else sql.SQL("true"),
        columns=listed(sql.Identifier(one.name) for one in columns),
        overriding=sql.SQL("OVERRIDING SYSTEM VALUE" if loading.facts.overrides_identity else ""),
        inserts=listed(loading.given(number, "~judged") for number, _ in enumerate(columns)),
        key=listed(sql.Identifier(one.name) for one in loading.key),
        updated=listed([*_now(loading), *(sql.SQL('"~judged".{}').format(_old(number)) for number, _ in written)]),
        inserted=listed(
            [
                *_now(loading),
                *(sql.SQL("{} AS {}").format(loading.column(name), _other(n)) for n, name in _others(loading)),
            ]
        ),
        **_told(loading, journal),
        kept=sql.SQL(", {}").format(journal.kept(sql.SQL('"~told"'), pass_=pass_)) if journal else sql.SQL(""),
        theirs=THEIRS,
        ours=OURS,
    )


#: RETURNING gives what a row was since this version.
WRITES_AT_ONCE = 180_000


def may_write_at_once(loading: Loading, version: int) -> bool:
    """Whether rows can be written without a look at each before."""
    there, missing = loading.refuses
    return version >= WRITES_AT_ONCE and bool(loading.written) and not (there or missing or loading.facts.fires)


def upsert_at_once(loading: Loading, given: sql.Composable, *, journal: LoadedRows | None, pass_: int) -> sql.Composed:
    """One batch, where `may_write_at_once`. Gives what `upsert` gives."""
    columns, key = loading.columns, loading.key_numbers[0]
    told = _told(loading, journal)
    if journal is not None:
        # What is told of an inserted row: it has no old value, which RETURNING knows.
        parts = [
            *_keys(loading),
            *_kept(loading, _old, journal.was),
            *_kept(loading, _is, journal.now),
            sql.SQL('"~is_new" AS {}').format(INSERTED),
        ]
        if journal.keeps_others:
            row = listed(_other(n) for n, _ in _others(loading))
            parts.append(sql.SQL('CASE WHEN "~is_new" THEN ROW({})::text COLLATE "C" END AS {}').format(row, OTHERS))
        told = {"told_updated": listed(parts)}
    return _UPSERT["upsert_at_once"].format(
        given=given,
        table=loading.table.identifier,
        columns=listed(sql.Identifier(one.name) for one in columns),
        overriding=sql.SQL("OVERRIDING SYSTEM VALUE" if loading.facts.overrides_identity else ""),
        inserts=listed(loading.given(number) for number, _ in enumerate(columns)),
        key=listed(sql.Identifier(one.name) for one in loading.key),
        sets=listed(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(one.name)) for _, one in loading.written),
        updates=loading.updates(excluded=True),
        now=listed(
            sql.SQL('"~after".{} AS {}').format(sql.Identifier(one.name), _is(number))
            for number, one in enumerate(columns)
        ),
        olds=sql.SQL("").join(
            sql.SQL('"~before".{} AS {}, ').format(sql.Identifier(one.name), _old(number))
            for number, one in loading.written
        ),
        others=sql.SQL("").join(
            sql.SQL('"~after".{} AS {}, ').format(sql.Identifier(name), _other(n)) for n, name in _others(loading)
        ),
        first_key=sql.Identifier(columns[key].name),
        told=told["told_updated"],
        kept=sql.SQL(", {}").format(journal.kept(sql.SQL('"~told"'), pass_=pass_)) if journal else sql.SQL(""),
    )


def verify(loading: Loading, given: sql.Composable, *, run: int) -> sql.Composed:
    """A look at some lines. Gives `walked`, `residual` and `changed_since`."""
    return _UPSERT["verify"].format(
        given=given,
        differs=loading.updates(),
        name=sql.Identifier(loading.table.name),
        table=loading.table.identifier,
        same_key=loading.same_key("~given"),
        run=sql.Literal(run),
        operation=sql.Literal(loading.number),
    )


def _told(loading: Loading, journal: LoadedRows | None) -> dict[str, sql.Composable]:
    """What is told of rows that were updated, and of those that were inserted, as the journal keeps it."""
    if journal is None:
        return {"told_updated": sql.SQL("false AS inserted"), "told_inserted": sql.SQL("true AS inserted")}
    keys, now, was = _keys(loading), _kept(loading, _is, journal.now), _kept(loading, _old, journal.was)
    none = [
        sql.SQL("CAST(NULL AS {}) AS {}").format(sql.SQL(loading.form(one).element), journal.was(n))
        for n, (_, one) in enumerate(loading.written)
    ]
    others: list[sql.Composable] = []
    no_others: list[sql.Composable] = []
    if journal.keeps_others:
        row = listed(_other(n) for n, _ in _others(loading))
        others = [sql.SQL('ROW({})::text COLLATE "C" AS {}').format(row, OTHERS)]
        no_others = [sql.SQL("NULL::text AS {}").format(OTHERS)]
    updated = [*keys, *was, *now, sql.SQL("false AS {}").format(INSERTED), *no_others]
    inserted = [*keys, *none, *now, sql.SQL("true AS {}").format(INSERTED), *others]
    return {"told_updated": listed(updated), "told_inserted": listed(inserted)}


def _keys(loading: Loading) -> list[sql.Composed]:
    return [
        sql.SQL("{} AS {}").format(loading.form(loading.columns[number]).kept(_is(number)), key_name(n))
        for n, number in enumerate(loading.key_numbers)
    ]


def _kept(
    loading: Loading, value: Callable[[int], sql.Identifier], name: Callable[[int], sql.Identifier]
) -> list[sql.Composed]:
    """Values of the columns that are written, as the journal keeps them."""
    return [
        sql.SQL("{} AS {}").format(loading.form(one).kept(value(number)), name(n))
        for n, (number, one) in enumerate(loading.written)
    ]


def _as_seen(loading: Loading, number: int, one: LoadColumn) -> sql.Composed:
    """Whether a row still has in a column what was read of it."""
    seen = sql.SQL('"~judged".{}').format(_old(number))
    if one.as_text:
        return sql.SQL('{}::text COLLATE "C" IS NOT DISTINCT FROM {}::text COLLATE "C"').format(
            loading.column(one.name), seen
        )
    return sql.SQL("{} IS NOT DISTINCT FROM {}").format(loading.column(one.name), seen)


def _now(loading: Loading) -> list[sql.Composed]:
    return [
        sql.SQL("{} AS {}").format(loading.column(one.name), _is(number)) for number, one in enumerate(loading.columns)
    ]


def _others(loading: Loading) -> list[tuple[int, str]]:
    return list(enumerate(loading.facts.others))


def _old(number: int) -> sql.Identifier:
    return sql.Identifier(f"~old_{number}")


def _is(number: int) -> sql.Identifier:
    return sql.Identifier(f"~is_{number}")


def _other(number: int) -> sql.Identifier:
    return sql.Identifier(f"~other_{number}")
