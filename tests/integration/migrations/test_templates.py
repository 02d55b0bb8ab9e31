"""The statements that are made of templates: each template is used, says what it is for, and PostgreSQL accepts what comes of it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from paths import ROOT
from psycopg import sql

from backfilld.migrations.facts import Facts, Target
from backfilld.migrations.identifiers import TableName
from backfilld.migrations.postgres.definitions import KeyColumn
from backfilld.migrations.queries import queries, templates
from backfilld.migrations.record.model import Bounds, JournalShare
from backfilld.migrations.rollback import journal, undo
from backfilld.migrations.rollback.archive import Archive, restored
from backfilld.migrations.rollback.journal import Journal
from backfilld.migrations.rollback.undo import Place, Undo
from backfilld.migrations.walks import copy_sql, update_sql, verify_sql
from backfilld.migrations.walks.firing import Beside, TableCode, firing
from backfilld.migrations.walks.keys import KeyWalk
from backfilld.migrations.walks.next_batch import JournalSlice
from backfilld.migrations.walks.pages import PageBatchRange, PageWalk
from backfilld.migrations.walks.rewrite import Assignment, Copied, Rewrite
from backfilld.migrations.walks.update_sql import Update

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_runs import Engine

FILES = sorted(
    (f"backfilld.{'.'.join(file.relative_to(ROOT).parts[:-3])}", file.stem)
    for part in ("migrations", "monitoring", "worker", "producers")
    for file in ROOT.glob(f"{part}/**/sql/templates/*.sql")
)

#: Names that need quotes, a percent sign, braces: whatever a user may have called his table.
TABLE = TableName("public", 'odd %s {} "table')
WALK = KeyWalk(table=TABLE, key=(KeyColumn(name="Tenant", type="text"), KeyColumn(name="id", type="bigint")))
TARGETS = (Target(column="new %", type="character varying(20)", as_text=False, plain_type="character varying"),)
REWRITE = Rewrite(
    table=TABLE,
    facts=Facts(relation=str(TABLE), key=WALK.key, targets=TARGETS),
    assignments=(Assignment(target=TARGETS[0], expression="upper(old) -- 100 %"),),
    where="old IS NOT NULL",
    not_null=True,
)
RUN = 77
KEPT = Journal(run=RUN, operation=0, walk=WALK, targets=TARGETS)
ALSO_KEPT = Journal(run=RUN, operation=1, walk=WALK, targets=(Target(column="old", type="text"),))
ARCHIVE = Archive(run=RUN, operation=1, walk=WALK)
SOME = Bounds(after=("a", "1"), upto=("b", "2"))
STILL = sql.SQL("false")


def statements(version: int) -> Iterator[tuple[str, sql.Composed, list[Any]]]:  # Any: whatever psycopg can send
    """Every statement that a batch of any kind sends, over one range of keys."""
    name = sql.SQL(TABLE.identifier.as_string().replace("%", "%%"))
    condition, keys = WALK.within(SOME)
    update = Update(
        table=name, values=REWRITE.values, condition=condition, parameters=keys, needs_work=REWRITE.needs_work
    )
    given = update_sql.given(WALK, TARGETS, condition, keys, values=[["a"], ["1"], ["x"]])
    for what, one in (("expressions", update), ("values", given)):
        yield f"update to {what}", *one.query
        yield f"update to {what}, told", *one.told(STILL)
        yield (
            f"update to {what}, journaled before 18",
            *journal.written(one, [KEPT], still=STILL, pass_=1, version=140_000),
        )
        for code in (TableCode(fires=True), TableCode(fires=True, by_parent=True)):
            beside = journal.beside_firing([KEPT], pass_=1)
            yield f"update to {what}, {code}", *firing(one, WALK, TABLE, code, still=STILL, beside=beside)
        if version >= journal.RETURNS_OLD:
            yield (
                f"update to {what}, journaled",
                *journal.written(one, [KEPT, ALSO_KEPT], still=STILL, pass_=1, version=version),
            )
    yield "read", update_sql.read(WALK, ["id", "old"], condition, needs_work=REWRITE.needs_work), keys
    yield "keys", update_sql.keys(WALK, name, condition), keys
    yield "hold", *update_sql.hold(name, condition, keys)
    yield "without value", update_sql.without_value(name, "new %", condition), keys
    for carefully in (False, True):
        wanted = verify_sql.wanted(WALK, REWRITE.needs_work, carefully=carefully)
        for own in ([REWRITE.holds_own_value] * 2, []):
            yield "residual", verify_sql.count_residual(name, condition, wanted=wanted, own=own), [RUN, 0, *keys]
        yield "keys wanted", verify_sql.keys_wanted(WALK, name, condition, wanted=wanted), [*keys, RUN, 0, 10]
    for new in (("new %",), (), ("new %", "old")):
        yield "archive", ARCHIVE.copy(condition, old=("old", "new %") if len(new) > 1 else ("old",), new=new), keys
        yield from restoring(new, condition, keys)
    copied = replace(
        REWRITE, assignments=(), copies=Copied(table=TABLE, on=("Tenant", "id"), by=("Tenant", "id"), column="old")
    )
    yield "copy", *copy_sql.copy(copied, name, condition, keys)
    yield "unarchived", ARCHIVE.unarchived(condition), keys
    for share in (JournalShare(), JournalShare(parts=3, part=1)):
        for pass_ in (1, 2):
            back = Undo(journal=KEPT, share=share)
            covered = JournalSlice(batch=7, entry=0, last_entry=0, first=1, last=9, pass_=pass_)
            yield "next", *back.look(Place())
            yield "undo", *back.query(covered)
            yield "undo, firing", *back.firing(covered, TableCode(fires=True))
    yield "bound", *WALK.bound(SOME, 10)
    yield "count", *WALK.count(SOME)
    yield "last", *WALK.last()
    yield "tiles", *WALK.tiles(4, sample_percent=100)
    yield "tiles of a sample", *WALK.tiles(4, sample_percent=10)
    pages = PageWalk(relation=TABLE, alias="t")
    yield "look", *pages.look()
    condition, parameters = pages.within(PageBatchRange(first=1, last=9, above=7, upto=12))
    yield (
        "pages",
        update_sql.keys(KeyWalk(table=TableName("public", "t"), key=WALK.key), pages.table, condition),
        parameters,
    )


def restoring(
    new: tuple[str, ...], condition: sql.Composable, keys: list[Any]
) -> Iterator[tuple[str, sql.Composed, list[Any]]]:
    """A batch that restores."""
    value = restored(
        table=TABLE, type_="character varying(20)", new=new, fallback="old", place=2 if len(new) > 1 else None
    )
    rewrite = replace(REWRITE, assignments=(Assignment(target=TARGETS[0], expression=value),))
    update = Update(
        table=sql.SQL(TABLE.identifier.as_string().replace("%", "%%")),
        values=rewrite.values,
        condition=ARCHIVE.same,
        parameters=(),
        needs_work=rewrite.needs_work,
        source=ARCHIVE.source(condition),
        source_parameters=keys,
    )
    yield "restore", *update.query
    for code in (TableCode(fires=True), TableCode(fires=True, by_parent=True)):
        yield f"restore, {code}", *firing(update, WALK, TABLE, code, still=None, beside=Beside(), by_key=True)


def test_the_statements_of_a_batch_are_valid(engine: Engine) -> None:
    engine.connection.execute(
        sql.SQL(
            'CREATE TABLE {} ("Tenant" text, id bigint, old text, "new %" varchar(20), PRIMARY KEY ("Tenant", id))'
        ).format(TABLE.identifier)
    )
    journal.make(engine.connection, RUN, [KEPT, ALSO_KEPT])
    ARCHIVE.make(engine.connection)
    ARCHIVE.make(engine.connection)  # which is there
    for what, query, parameters in statements(engine.connection.info.server_version):
        try:
            engine.connection.execute(sql.SQL("EXPLAIN {}").format(query), parameters)
        except psycopg.Error as exc:
            pytest.fail(f"{what}: {exc}\n{query.as_string()}")
    assert undo.left(engine.connection, RUN, operation=0) == {"left": 0, "keys": []}
    assert undo.shares(engine.connection, RUN, operation=0, lanes=2, key=WALK.key) == ([], 0)


@pytest.mark.parametrize(("package", "file"), FILES)
def test_every_template_says_what_it_is_for_and_is_used(package: str, file: str) -> None:
    source = "".join(path.read_text() for path in ROOT.joinpath(*package.split(".")[1:]).glob("*.py"))
    assert templates(package, file)
    for name, text in queries(package, f"templates/{file}").items():
        assert text.startswith("--"), f"{file}.{name} has no purpose line"
        assert not re.search(r"SELECT \*", text), f"{file}.{name} lists no columns"
        assert f'"{name}"' in source, f"{file}.{name} is sent by nobody"
