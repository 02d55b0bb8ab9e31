"""The batch of a load, the look at what it did, and what it writes into the journal."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from psycopg import sql

from backfilld.migrations.loading.loaded_rows import DIGEST, INSERTED
from backfilld.migrations.loading.loading import both, listed
from backfilld.migrations.queries import templates
from backfilld.migrations.rollback.journal import key_name
from backfilld.migrations.walks.firing import OURS, THEIRS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import LiteralString

    from backfilld.migrations.facts import LoadColumn
    from backfilld.migrations.loading.loaded_rows import LoadedRows
    from backfilld.migrations.loading.loading import Loading

_CHECK = templates(__package__, "check")
_UPSERT = templates(__package__, "upsert")


def set_aside(loading: Loading, run: sql.Composable) -> sql.Composed:
    """The parts of a statement by which lines that are judged leave the stage."""
    return _CHECK["set_aside"].format(
        stage=loading.stage.identifier, data=loading.data, run=run, operation=sql.Literal(loading.number)
    )


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
        kept=_journaled(journal, '"~told"', pass_=pass_),
        theirs=THEIRS,
        ours=OURS,
    )


#: RETURNING gives what a row was since this version.
WRITES_AT_ONCE = 180_000


def may_write_at_once(loading: Loading, version: int) -> bool:
    """Whether rows can be written without a look at each before."""
    there, missing = loading.refuses
    return version >= WRITES_AT_ONCE and bool(loading.written) and not (there or missing or loading.facts.fires)


def upsert_at_once(
    loading: Loading, condition: sql.Composable, *, journal: LoadedRows | None, pass_: int
) -> sql.Composed:
    """One batch, where `may_write_at_once`. Gives what `upsert` gives, but for what it judged."""
    columns = loading.columns
    before, after = partial(_of, "~before"), partial(_of, "~after")
    inserted = sql.SQL("{} IS NULL").format(before(loading.key[0].name))
    told = [sql.SQL("{} AS {}").format(inserted, INSERTED)]
    if journal is not None:
        # A row that was inserted has no old value, which RETURNING knows.
        told += _keys(loading, lambda number: after(columns[number].name))
        told += _kept(loading, lambda number: before(columns[number].name), journal.was)
        others = [after(name) for name in journal.others]
        digest = journal.digest([after(one.name) for _, one in loading.written], others, inserted=inserted)
        told.append(sql.SQL("{} AS {}").format(digest, DIGEST))
    return _UPSERT["upsert_at_once"].format(
        given=loading.values_of(condition),
        lines=loading.lines_of(condition),
        table=loading.table.identifier,
        columns=listed(sql.Identifier(one.name) for one in columns),
        overriding=sql.SQL("OVERRIDING SYSTEM VALUE" if loading.facts.overrides_identity else ""),
        key=listed(sql.Identifier(one.name) for one in loading.key),
        sets=listed(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(one.name)) for _, one in loading.written),
        updates=loading.updates(excluded=True),
        told=listed(told),
        kept=_journaled(journal, '"~written"', pass_=pass_),
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
    none = [
        sql.SQL("CAST(NULL AS {}) AS {}").format(sql.SQL(loading.form(one).element), journal.was(n))
        for n, (_, one) in enumerate(loading.written)
    ]
    now, others = [_is(number) for number, _ in loading.written], [_other(n) for n, _ in _others(loading)]

    def told(was: Iterable[sql.Composable], *, inserted: bool) -> sql.Composed:
        is_new = sql.Literal(inserted)
        found = journal.digest(now, others if inserted else (), inserted=is_new)
        digest = sql.SQL("{} AS {}").format(found, DIGEST)
        return listed([*_keys(loading, _is), *was, digest, sql.SQL("{} AS {}").format(is_new, INSERTED)])

    return {
        "told_updated": told(_kept(loading, _old, journal.was), inserted=False),
        "told_inserted": told(none, inserted=True),
    }


def _journaled(journal: LoadedRows | None, told: LiteralString, *, pass_: int) -> sql.Composed:
    if journal is None:
        return sql.Composed([])
    return sql.SQL(", {}").format(journal.kept(sql.SQL(told), pass_=pass_))


def _keys(loading: Loading, value: Callable[[int], sql.Composable]) -> list[sql.Composed]:
    return [
        sql.SQL("{} AS {}").format(loading.form(loading.columns[number]).kept(value(number)), key_name(n))
        for n, number in enumerate(loading.key_numbers)
    ]


def _kept(
    loading: Loading, value: Callable[[int], sql.Composable], name: Callable[[int], sql.Identifier]
) -> list[sql.Composed]:
    """Values of the columns that are written, as the journal keeps them."""
    return [
        sql.SQL("{} AS {}").format(loading.form(one).kept(value(number)), name(n))
        for n, (number, one) in enumerate(loading.written)
    ]


def _of(alias: str, name: str) -> sql.Identifier:
    return sql.Identifier(alias, name)


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
