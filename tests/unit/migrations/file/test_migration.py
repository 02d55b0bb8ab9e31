"""What a migration file may say, and what is said about one that is wrong."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import timedelta
from textwrap import dedent
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from paths import ROOT

from backfilld.migrations.errors import InvalidMigration
from backfilld.migrations.file import yaml_nodes
from backfilld.migrations.file.migration import (
    AddColumn,
    Backfill,
    ColumnSpec,
    Migration,
    RunSettings,
    json_schema,
    load,
    parse,
)
from backfilld.migrations.identifiers import NAME_BYTES, TableName
from backfilld.migrations.record.states import Phase

if TYPE_CHECKING:
    from pathlib import Path

    from fix_golden import Golden

REPOSITORY = ROOT
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.yaml"))

GOOD = """
name: jobs-revenue
operations:
  - add_column: {table: jobs, column: {name: new_field, type: text}, backfill: "upper(status)", not_null: true}
  - backfill: {table: Odd Schema.Order, set: {status: "lower(status)"}, where: "status <> lower(status)"}
settings: {lanes: 4, batch_seconds: 1, nice: 0.5, approve: [switch, contract], max_quarantined: 0}
"""


def test_a_file_becomes_a_migration() -> None:
    assert parse(GOOD) == Migration(
        name="jobs-revenue",
        operations=(
            AddColumn(
                table=TableName("public", "jobs"),
                column=ColumnSpec(name="new_field", type="text"),
                backfill="upper(status)",
                not_null=True,
            ),
            Backfill(
                table=TableName("Odd Schema", "Order"),
                assignments={"status": "lower(status)"},
                where="status <> lower(status)",
            ),
        ),
        settings=RunSettings(
            lanes=4, batch_seconds=1.0, nice=0.5, approve=(Phase.SWITCH, Phase.CONTRACT), max_quarantined=0
        ),
    )


def test_a_function_over_rows_becomes_a_backfill() -> None:
    (operation,) = parse(transform(reads="[a, Order]", where="c IS NULL")).operations
    assert operation == Backfill(
        table=TableName("public", "t"), transform="m:f", writes=("c",), reads=("a", "Order"), where="c IS NULL"
    )
    assert operation.written == ("c",)


@pytest.mark.parametrize(
    ("before", "after"), [("m:f", "m:g"), ("[c]", "[c, d]"), ("[a]", "[b]"), ("reads: [a]", "where: a")]
)
def test_the_checksum_covers_the_function_and_its_columns(before: str, after: str) -> None:
    text = transform(reads="[a]")
    assert parse(text.replace(before, after)).checksum != parse(text).checksum


def test_settings_have_defaults() -> None:
    migration = parse("{name: a, operations: [{backfill: {table: t, set: {c: '1'}}}]}")
    assert migration.settings == RunSettings(
        lanes=2, batch_seconds=0.5, nice=0.0, approve=(Phase.CONTRACT,), max_quarantined=100
    )


@pytest.mark.parametrize("document", [{}, {"lanes": 3, "approve": ["switch"]}])
def test_settings_stored_as_json_are_read_again(document: dict[str, Any]) -> None:
    settings = RunSettings.model_validate(document)
    assert RunSettings.model_validate(json.loads(settings.model_dump_json())) == settings


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("name: jobs-revenue", "name: Jobs_2.0-x"),
        ("name: jobs-revenue", f"name: {'a' * 63}"),
        ("name: new_field", f"name: {'ä' * 31}x"),
        ("lanes: 4", "lanes: 64"),
        ("batch_seconds: 1", "batch_seconds: 0.01"),
        ("batch_seconds: 1", "batch_seconds: 30"),
        ("nice: 0.5", "nice: 1e2"),
        ("max_quarantined: 0", "max_quarantined: 100000"),
        ("max_quarantined: 0", "give_way_ms: 0"),
        ("max_quarantined: 0", "give_way_ms: 60000"),
        ("max_quarantined: 0", "lock_timeout_ms: 10"),
        ("max_quarantined: 0", "lock_deadline_seconds: 60"),
        *(("max_quarantined: 0", f"cancel_blockers: {who}") for who in ("never", "idle", "queries", "all")),
        ("max_quarantined: 0", "cancel_after_seconds: 1"),
        ("max_quarantined: 0", "windows: [Mon-Fri 22:00-06:00 Europe/Berlin, 'Sat,Sun 00:00-24:00 UTC']"),
        ("[switch, contract]", "[]"),
        ("[switch, contract]", "[expand, backfill, verify, switch, contract]"),
        ("not_null: true", "not_null: false"),
        ('backfill: "upper', 'default: "upper'),
    ],
)
def test_the_limits_themselves_are_allowed(before: str, after: str) -> None:
    text = GOOD.replace(before, after, 1)
    assert text != GOOD
    assert schema_errors(parse(text).canonical()) == []


def test_fifty_operations_are_allowed() -> None:
    text = "name: a\noperations:\n" + "  - backfill: {table: t, set: {c: x}}\n" * 50
    assert len(parse(text).operations) == 50


def test_a_migration_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(GOOD).name = "other"  # type: ignore[misc] # the type checker says so too; this is for those without one


def test_quoted_words_and_numbers_are_text() -> None:
    migration = parse("{name: 'on', operations: [{backfill: {table: '1', set: {'no': '5'}, where: 'true'}}]}")
    assert migration.operations == (Backfill(table=TableName("public", "1"), assignments={"no": "5"}, where="true"),)
    assert migration.name == "on"


def test_an_expression_may_be_a_block_and_loses_only_the_blanks_around_it() -> None:
    text = """
    name: a
    operations:
      - backfill:
          table: t
          set:
            c: |
              case when b
              then ' x ' end
    """
    (operation,) = parse(dedent(text)).operations
    assert isinstance(operation, Backfill)
    assert operation.assignments == {"c": "case when b\nthen ' x ' end"}


# --- Round trips and the checksum


def test_the_canonical_form_survives_jsonb() -> None:
    """`jsonb` forgets the order of keys; nothing else may depend on it."""
    migration = parse(GOOD)
    stored = json.loads(json.dumps(migration.canonical(), sort_keys=True))
    assert Migration.from_canonical(stored) == migration
    assert Migration.from_canonical(stored).checksum == migration.checksum


def test_the_canonical_form_is_a_valid_file_with_every_setting() -> None:
    canonical = parse("{name: a, operations: [{backfill: {table: t, set: {c: '1'}}}]}").canonical()
    assert canonical == {
        "name": "a",
        "operations": [{"backfill": {"table": "t", "set": {"c": "1"}}}],
        "settings": {
            "lanes": 2,
            "batch_seconds": 0.5,
            "nice": 0.0,
            "wal_mb_per_second": 16.0,
            "walk": "auto",
            "approve": ["contract"],
            "max_quarantined": 100,
            "give_way_ms": 250,
            "lock_timeout_ms": 100,
            "lock_deadline_seconds": 1800.0,
            "cancel_blockers": "never",
            "cancel_after_seconds": 60.0,
            "allow_functions": [],
            "windows": [],
            "journal": True,
            "durable_batches": False,
            "retention_days": 7.0,
        },
    }
    assert not list(Draft202012Validator(json_schema()).iter_errors(canonical))


def test_a_damaged_stored_definition_is_named() -> None:
    with pytest.raises(InvalidMigration, match=r"stored definition.*operations\[0\]\.backfill\.set"):
        Migration.from_canonical({"name": "a", "operations": [{"backfill": {"table": "t", "set": None}}]})


BASE = "name: a\noperations:\n  - add_column: {table: t, column: {name: c, type: text}, backfill: x}\n"


@pytest.mark.parametrize(
    "same",
    [
        "# a comment\n" + BASE,
        "operations: [{add_column: {backfill: x, not_null: false, column: {type: text, name: c}, table: public.t}}]\nname: a",
        BASE.replace("backfill: x", "backfill: '  x '"),
        BASE + "settings: {lanes: 9, nice: 2}",
    ],
    ids=["comment", "layout, order, defaults written out", "blanks around SQL", "settings"],
)
def test_the_checksum_keeps_to_the_meaning(same: str) -> None:
    assert parse(same).checksum == parse(BASE).checksum


@pytest.mark.parametrize(
    ("before", "after"),
    [("name: a", "name: b"), ("table: t", "table: T"), ("backfill: x", "backfill: X"), ("c, ", "d, ")],
)
def test_the_checksum_changes_with_the_meaning(before: str, after: str) -> None:
    assert parse(BASE.replace(before, after, 1)).checksum != parse(BASE).checksum


def test_the_checksum_is_the_same_in_every_release() -> None:
    """It is pinned to runs in databases out there: if this fails, a file that ran is refused after an upgrade."""
    text = '{"name":"a","operations":[{"add_column":{"backfill":"x","column":{"name":"c","type":"text"},"table":"t"}}]}'
    assert parse(BASE).checksum == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def test_the_checksum_does_not_cover_what_is_checked_of_the_application() -> None:
    assert parse(BASE + "application: {statements: {window: 24h}}\n").checksum == parse(BASE).checksum


def test_personas_alone_ask_for_no_check_of_statements() -> None:
    personas = "personas: {ann: {role: authenticated}}"
    for keys, checked in (
        (personas, False),
        (personas + ", statements: {window: 5m}", True),
        ("on_regression: hold", True),
    ):
        written = parse(BASE + f"application: {{{keys}}}\n")
        read = Migration.from_canonical(json.loads(json.dumps(written.canonical())))
        assert [one.checked_application is not None for one in (written, read)] == [checked] * 2, keys
        assert read.application is not None


def test_what_is_checked_of_the_application_stays_with_the_run() -> None:
    written = parse(BASE + "application: {statements: {roles: [app], files: [q/*.sql], window: 7d}}\n")
    read = Migration.from_canonical(written.canonical())
    assert read.application is not None
    assert read == written
    assert read.application.statements.window_length == timedelta(days=7)
    assert "application" not in parse(BASE).canonical()


# --- Table names


@pytest.mark.parametrize(
    ("text", "schema", "name", "written"),
    [
        ("jobs", "public", "jobs", "jobs"),
        ("Order", "public", "Order", "Order"),
        ("public.jobs", "public", "jobs", "jobs"),
        ("Odd Schema.Order", "Odd Schema", "Order", "Odd Schema.Order"),
        ('"a.b".c', "a.b", "c", '"a.b".c'),
        ('a."b.c"', "a", "b.c", 'a."b.c"'),
        ('"say ""hi"""', "public", 'say "hi"', '"say ""hi"""'),
        ('"plain"', "public", "plain", "plain"),
        ('" padded "', "public", " padded ", '" padded "'),
        ("größe", "public", "größe", "größe"),
    ],
)
def test_table_names_are_exact(text: str, schema: str, name: str, written: str) -> None:
    table = TableName.parse(text)
    assert table == TableName(schema, name)
    assert str(table) == written


def test_the_identifier_is_quoted() -> None:
    assert TableName.parse('Odd Schema."say ""hi"""').identifier.as_string() == '"Odd Schema"."say ""hi"""'


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a.b.c", '""', '"a', 'a"b', '"a"b', '"a" .b', "a\0", "x" * 64])
def test_what_is_not_a_table_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\. (Write|Remove)"):
        TableName.parse(text)


part = st.text(min_size=1).filter(lambda text: "\0" not in text and len(text.encode()) <= NAME_BYTES)
tricky = st.text(alphabet='."a B', min_size=1, max_size=8)


@given(schema=part | tricky | st.just("public"), name=part | tricky)
def test_table_names_survive_being_written(schema: str, name: str) -> None:
    table = TableName(schema, name)
    assert TableName.parse(str(table)) == table


# --- Broken files


class Broken(NamedTuple):
    what: str
    text: str
    line: int
    key: str


def operation(body: str) -> str:
    """A file with one operation, whose own text starts on line 3."""
    return f"name: a\noperations:\n  - {body}\n"


def added(**changes: str) -> str:
    """A file with one `add_column`: table on line 4, column on 5 to 7, further keys from 8."""
    keys = {"table": "t", "column": "\n        name: c\n        type: text", **changes}
    return operation("add_column:\n" + "\n".join(f"      {key}: {value}" for key, value in keys.items()))


def transform(**changes: str) -> str:
    """A file with one function over rows: table on line 4, transform on 5, writes on 6, further keys from 7."""
    keys = {"table": "t", "transform": "m:f", "writes": "[c]", **changes}
    return operation("backfill:\n" + "\n".join(f"      {key}: {value}" for key, value in keys.items()))


def settings(*lines: str) -> str:
    """A file with settings from line 5."""
    return operation("backfill: {table: t, set: {c: '1'}}") + "settings:\n" + "\n".join(f"  {line}" for line in lines)


ADD = "operations[0].add_column"
FILL = "operations[0].backfill"
COLUMN = "{add_column: {table: t, column: {name: c, type: text}}}"

ADDED = "operations[0].add_column"
PARAMETER = "parameters: {t: {type: text, default: a}}\n"

REPLACED = "operations[0].replace_policies.policies"


def policies(some: str, *keys: str) -> str:
    """A file whose one operation gives a table these policies."""
    return operation(f"replace_policies: {{{', '.join(['table: t', f'policies: [{some}]', *keys])}}}")


BROKEN = [
    # The file as a whole
    Broken("empty", "", 1, ""),
    Broken("only a comment", "# later\n", 1, ""),
    Broken("only a document start", "---\n", 1, ""),
    Broken("a list", "- a\n", 1, ""),
    Broken("a word", "\nhello\n", 2, ""),
    Broken("two documents", BASE + "---\nname: b\n", 4, ""),
    Broken("bad syntax", "name: a\noperations: [\n", 3, ""),
    Broken("a tab", "name: a\noperations:\n\t- x\n", 3, ""),
    Broken("a colon in SQL", added(backfill="a: b: c"), 8, ""),
    Broken("a control character", "name: a\x07\n", 1, ""),
    Broken("an impossible escape", 'name: a\noperations: "\\UFFFFFFFF"\n', 2, ""),
    Broken("depth", "name: a\noperations: " + "[" * 30, 2, "operations" + "[0]" * 20),
    # What YAML may do and a migration file may not
    Broken("a key twice", "name: a\nname: b\n", 2, "name"),
    Broken("a column twice", operation("backfill:\n      table: t\n      set:\n        c: x\n        c: y"), 7, f"{FILL}.set.c"),
    Broken("an anchor", "name: &a b\n", 1, "name"),
    Broken("an alias", "name: *b\n", 1, "name"),
    Broken("a merge key", "name: a\nsettings:\n  <<: {lanes: 1}\n", 3, 'settings."<<"'),
    Broken("a tag", "name: !secret a\n", 1, "name"),
    Broken("a standard tag", "name: !!str 5\n", 1, "name"),
    Broken("a key that is a boolean", operation("backfill: {table: t, set: {off: x}}"), 3, f"{FILL}.set.off"),
    Broken("a key that is a number", "1: a\n", 1, "1"),
    Broken("a key that is a list", "? [a]\n: b\n", 1, ""),
    Broken("a missing value", "name:\noperations: []\n", 1, "name"),
    Broken("a null", added(default="null"), 8, f"{ADD}.default"),
    Broken("keys that should be indented", operation("add_column:\n    table: t"), 3, ADD),
    # The top level
    Broken("no name", "operations:\n  - " + COLUMN, 1, "name"),
    Broken("no operations", "# x\nname: a\n", 2, "operations"),
    Broken("an unknown key", BASE + "setings: {}\n", 4, "setings"),
    Broken("a key like nothing", BASE + "zzz: {}\n", 4, "zzz"),
    Broken("a key that colours the terminal", BASE + '"\\e[31m": x\n', 4, r'"\x1b[31m"'),
    Broken("a name that is a boolean", "name: no\n" + BASE[8:], 1, "name"),
    Broken("a name that is a number", "name: 2024\n" + BASE[8:], 1, "name"),
    Broken("a name of digits", "name: '42'\n" + BASE[8:], 1, "name"),
    Broken("a name with a blank", "name: a b\n" + BASE[8:], 1, "name"),
    Broken("a name too long", f"name: {'a' * 64}\n" + BASE[8:], 1, "name"),
    Broken("a name with a line break", 'name: "a\\n"\n' + BASE[8:], 1, "name"),
    Broken("a mapping as name", "name: {a: b}\n" + BASE[8:], 1, "name"),
    # Operations
    Broken("no entry", "name: a\noperations: []\n", 2, "operations"),
    Broken("too many", "name: a\noperations:\n" + "  - backfill: {table: t, set: {c: x}}\n" * 51, 2, "operations"),
    Broken("not a list", "name: a\noperations: " + COLUMN, 2, "operations"),
    Broken("not a mapping", operation("add_column"), 3, "operations[0]"),
    Broken("an empty entry", operation("{}"), 3, "operations[0]"),
    Broken("two in one entry", operation(f"{COLUMN[1:-1]}\n    backfill: {{table: u, set: {{c: x}}}}"), 3, "operations[0]"),
    Broken("a typing error", operation("add_colum: {table: t}"), 3, "operations[0].add_colum"),
    Broken("unheard of", operation("truncate: {table: t}"), 3, "operations[0].truncate"),
    *[
        Broken(f"{kind}, to come", operation(f"{kind}: {{table: t}}"), 3, f"operations[0].{kind}")
        for kind in ("rebuild_table", "change_primary_key", "split_column", "merge_columns")
    ],
    Broken("a body of text", operation("add_column: t"), 3, ADD),
    # add_column
    Broken("no type", operation("add_column:\n      table: t\n      column:\n        name: c"), 5, f"{ADD}.column.type"),
    Broken("column as text", added(column="c"), 5, f"{ADD}.column"),
    Broken("an unknown key of it", added(nullable="false"), 8, f"{ADD}.nullable"),
    Broken("a wrong case", added(Backfill="x"), 8, f"{ADD}.Backfill"),
    Broken("a required key misspelt", added().replace("table", "tabel"), 4, f"{ADD}.tabel"),
    Broken("an internal key", added(kind="add_column"), 8, f"{ADD}.kind"),
    Broken("NOT NULL from nothing", added(not_null="true"), 8, f"{ADD}.not_null"),
    Broken("a quoted boolean", added(not_null="'true'", backfill="x"), 8, f"{ADD}.not_null"),
    Broken("a number as boolean", added(not_null="1", backfill="x"), 8, f"{ADD}.not_null"),
    Broken("a number as SQL", added(default="0"), 8, f"{ADD}.default"),
    Broken("a boolean as SQL", added(default="off"), 8, f"{ADD}.default"),
    Broken("a list as SQL", added(backfill="[a]"), 8, f"{ADD}.backfill"),
    Broken("blank SQL", added(backfill="' '"), 8, f"{ADD}.backfill"),
    Broken("NUL in SQL", added(backfill='"a\\0b"'), 8, f"{ADD}.backfill"),
    Broken("half a character", added(backfill='"\\ud800"'), 8, f"{ADD}.backfill"),
    Broken("a blank type", added(column="{name: c, type: ''}"), 5, f"{ADD}.column.type"),
    Broken("an empty column name", added(column="{name: '', type: text}"), 5, f"{ADD}.column.name"),
    Broken("a long column name", added(column=f"{{name: {'ä' * 32}, type: text}}"), 5, f"{ADD}.column.name"),
    Broken("a table that is a boolean", added(table="on"), 4, f"{ADD}.table"),
    Broken("a table that is a list", added(table="[a, b]"), 4, f"{ADD}.table"),
    Broken("an empty table", added(table="''"), 4, f"{ADD}.table"),
    Broken("three parts", added(table="a.b.c"), 4, f"{ADD}.table"),
    Broken("NUL in a table", added(table='"a\\0"'), 4, f"{ADD}.table"),
    Broken("a long schema", added(table=f"{'s' * 64}.t"), 4, f"{ADD}.table"),
    # backfill
    Broken("nothing to set", operation("backfill:\n      table: t"), 3, f"{FILL}.set"),
    Broken("set is empty", operation("backfill:\n      table: t\n      set: {}"), 5, f"{FILL}.set"),
    Broken("set is text", operation("backfill:\n      table: t\n      set: c = 1"), 5, f"{FILL}.set"),
    Broken("set is a list", operation("backfill:\n      table: t\n      set: [c]"), 5, f"{FILL}.set"),
    Broken("set to a number", operation("backfill:\n      table: t\n      set:\n        c: 5"), 6, f"{FILL}.set.c"),
    Broken("set to nothing", operation("backfill:\n      table: t\n      set:\n        c: ''"), 6, f"{FILL}.set.c"),
    Broken("a column without a name", operation("backfill:\n      table: t\n      set:\n        '': x"), 6, f'{FILL}.set.""'),
    Broken("the name in the code", operation("backfill:\n      table: t\n      assignments: {c: x}"), 5, f"{FILL}.assignments"),
    Broken("where is a boolean", operation("backfill:\n      table: t\n      set: {c: x}\n      where: true"), 6, f"{FILL}.where"),
    Broken("where is empty", operation("backfill:\n      table: t\n      set: {c: x}\n      where: ''"), 6, f"{FILL}.where"),
    # backfill with a function
    Broken("both", transform(set="{c: x}"), 5, f"{FILL}.transform"),
    Broken("writes beside set", operation("backfill:\n      table: t\n      set: {c: x}\n      writes: [c]"), 6, f"{FILL}.writes"),
    Broken("reads beside set", operation("backfill:\n      table: t\n      set: {c: x}\n      reads: [c]"), 6, f"{FILL}.reads"),
    Broken("no function", operation("backfill:\n      table: t\n      writes: [c]"), 3, f"{FILL}.transform"),
    Broken("no writes", operation("backfill:\n      table: t\n      transform: m:f"), 3, f"{FILL}.writes"),
    Broken("a module alone", transform(transform="myapp.backfills"), 5, f"{FILL}.transform"),
    Broken("a path", transform(transform="../evil.py:f"), 5, f"{FILL}.transform"),
    Broken("a call", transform(transform="'os:system(1)'"), 5, f"{FILL}.transform"),
    Broken("a method", transform(transform="m:A.f"), 5, f"{FILL}.transform"),
    Broken("writes nothing", transform(writes="[]"), 6, f"{FILL}.writes"),
    Broken("writes twice", transform(writes="[c, c]"), 6, f"{FILL}.writes[1]"),
    Broken("writes as text", transform(writes="c"), 6, f"{FILL}.writes"),
    Broken("writes a number", transform(writes="[5]"), 6, f"{FILL}.writes[0]"),
    Broken("reads a mapping", transform(reads="{a: b}"), 7, f"{FILL}.reads"),
    # Between operations
    Broken("added, then transformed", f"name: a\noperations:\n  - {COLUMN}\n  - backfill:\n      table: t\n      transform: m:f\n      writes: [b, c]", 7, "operations[1].backfill.writes[1]"),
    Broken("added twice", f"name: a\noperations:\n  - {COLUMN}\n  - {COLUMN.replace('table: t', 'table: public.t')}", 4, "operations[1].add_column.column.name"),
    Broken("added, then filled", f"name: a\noperations:\n  - {COLUMN}\n  - backfill:\n      table: t\n      set: {{c: x}}", 6, "operations[1].backfill.set.c"),
    Broken("filled, then added", f"name: a\noperations:\n  - backfill: {{table: t, set: {{c: x}}}}\n  - {COLUMN}", 4, "operations[1].add_column.column.name"),
    # Settings
    Broken("a list of settings", BASE + "settings: [lanes]", 4, "settings"),
    Broken("unknown", settings("lane: 4"), 5, "settings.lane"),
    Broken("no lane", settings("nice: 1", "lanes: 0"), 6, "settings.lanes"),
    Broken("many lanes", settings("lanes: 65"), 5, "settings.lanes"),
    Broken("quoted lanes", settings("lanes: '4'"), 5, "settings.lanes"),
    Broken("half a lane", settings("lanes: 1.5"), 5, "settings.lanes"),
    Broken("lanes as a list", settings("lanes: [1]"), 5, "settings.lanes"),
    Broken("octal", settings("lanes: 010"), 5, "settings.lanes"),
    Broken("sexagesimal", settings("max_quarantined: 1:30"), 5, "settings.max_quarantined"),
    Broken("beyond all numbers", settings("lanes: " + "9" * 5000), 5, "settings.lanes"),
    Broken("lanes as boolean", settings("lanes: yes"), 5, "settings.lanes"),
    Broken("batches too short", settings("batch_seconds: 0.001"), 5, "settings.batch_seconds"),
    Broken("with a unit", settings("batch_seconds: 500ms"), 5, "settings.batch_seconds"),
    Broken("not a number", settings("nice: .nan"), 5, "settings.nice"),
    Broken("below zero", settings("nice: -1"), 5, "settings.nice"),
    Broken("unknown walk", settings("walk: sideways"), 5, "settings.walk"),
    Broken("no list", settings("approve: contract"), 5, "settings.approve"),
    Broken("unknown phase", settings("approve:", "  - contract", "  - deploy"), 7, "settings.approve[1]"),
    Broken("done", settings("approve: [done]"), 5, "settings.approve[0]"),
    Broken("a phase twice", settings("approve:", "  - contract", "  - contract"), 7, "settings.approve[1]"),
    Broken("no patience", settings("give_way_ms: -1"), 5, "settings.give_way_ms"),
    Broken("a long lock timeout", settings("lock_timeout_ms: 5000"), 5, "settings.lock_timeout_ms"),
    Broken("whom to cancel", settings("cancel_blockers: always"), 5, "settings.cancel_blockers"),
    Broken("patience in seconds", settings("give_way_ms: 0.25"), 5, "settings.give_way_ms"),
    Broken("one window, no list", settings("windows: daily 01:00-05:00 UTC"), 5, "settings.windows"),
    Broken("no window", settings("windows:", "  - daily 01:00-05:00 UTC", "  - nights"), 7, "settings.windows[1]"),
    Broken("a window without a zone", settings("windows: [Mon 01:00-05:00]"), 5, "settings.windows[0]"),
    Broken("a zone nobody lives in", settings("windows: [daily 01:00-05:00 Europe/Berln]"), 5, "settings.windows[0]"),
    Broken("a window of no time", settings("windows: [daily 01:00-01:00 UTC]"), 5, "settings.windows[0]"),
    Broken("a number as window", settings("windows: [5]"), 5, "settings.windows[0]"),
    Broken("many windows", settings(f"windows: [{', '.join(['daily 01:00-05:00 UTC'] * 21)}]"), 5, "settings.windows"),
    Broken("a number as phase", settings("approve: [5]"), 5, "settings.approve[0]"),
    # Parameters, and what comes before
    Broken("a parameter's name", "parameters: {Tenant: {type: text}}\n" + BASE, 1, "parameters.Tenant"),
    Broken("a parameter's type", "parameters: {t: {type: uuid}}\n" + BASE, 1, "parameters.t.type"),
    Broken("a parameter's key", "parameters: {t: {type: text, min: 1}}\n" + BASE, 1, "parameters.t.min"),
    Broken("a default of another type", "parameters: {t: {type: integer, default: a}}\n" + BASE, 1, "parameters.t.default"),
    Broken("a default that is a list", "parameters: {t: {type: text, default: [a]}}\n" + BASE, 1, "parameters.t.default"),
    Broken("a parameter that is not declared", BASE.replace("backfill: x", "backfill: '${t}'"), 3, ADDED + ".backfill"),
    Broken("a parameter in quotes", PARAMETER + BASE.replace("backfill: x", "backfill: \"'${t}'\""), 4, ADDED + ".backfill"),
    Broken("a parameter in a comment", PARAMETER + BASE.replace("backfill: x", 'backfill: "x /* ${t} */"'), 4, ADDED + ".backfill"),
    Broken("a parameter in a name", PARAMETER + BASE.replace("table: t", "table: '${t}'"), 4, ADDED + ".table"),
    Broken("a parameter in the name of a column", PARAMETER + BASE.replace("name: c", "name: '${t}'"), 4, ADDED + ".column.name"),
    Broken("after itself", BASE + "after: [a]\n", 4, "after[0]"),
    Broken("after one twice", BASE + "after: [b, b]\n", 4, "after[1]"),
    # The application
    Broken("what nobody checks", BASE + "application: {probes: []}\n", 4, "application.probes"),
    Broken("a window of no unit", BASE + "application: {statements: {window: '24'}}\n", 4, "application.statements.window"),
    Broken("files from elsewhere", BASE + "application: {statements: {files: [/etc/*]}}\n", 4, "application.statements.files[0]"),
    Broken("files from above", BASE + "application: {statements: {files: [a, ../b]}}\n", 4, "application.statements.files[1]"),
    Broken("files twice", BASE + "application: {statements: {files: [a, a]}}\n", 4, "application.statements.files[1]"),
    Broken("a role twice", BASE + "application: {statements: {roles: [a, a]}}\n", 4, "application.statements.roles[1]"),
    Broken("a probe of no URL", BASE + "application: {http: [{name: a, get: jobs}]}\n", 4, "application.http[0].get"),
    Broken("two probes of one name", BASE + "application: {http: [{name: a, get: $A/b}, {name: a, get: $A/c}]}\n", 4, "application.http[1].name"),
    Broken("a secret in a file", BASE + "application: {http: [{name: a, get: $A/b, headers: {Authorization: Bearer abc}}]}\n", 4, "application.http[0].headers.Authorization"),
    Broken("no header", BASE + "application: {http: [{name: a, get: $A/b, headers: {'X Y': z}}]}\n", 4, 'application.http[0].headers."X Y"'),
    Broken("faster", BASE + "application: {http: [{name: a, get: $A/b, slower_than: 0.5}]}\n", 4, "application.http[0].slower_than"),
    Broken("no address", BASE + "application: {http: [{name: a}]}\n", 4, "application.http[0]"),
    Broken("two addresses", BASE + "application: {http: [{name: a, get: $A/b, post: $A/b, safe: true}]}\n", 4, "application.http[0]"),
    Broken("a POST that may change something", BASE + "application: {http: [{name: a, post: $A/b}]}\n", 4, "application.http[0].post"),
    Broken("a body for GET", BASE + "application: {http: [{name: a, get: $A/b, body: {a: 1}}]}\n", 4, "application.http[0].body"),
    Broken("a safe GET", BASE + "application: {http: [{name: a, get: $A/b, safe: true}]}\n", 4, "application.http[0].safe"),
    Broken("a secret in a body", BASE + "application: {http: [{name: a, post: $A/b, safe: true, body: [{api_key: abc}]}]}\n", 4, "application.http[0].body[0].api_key"),
    Broken("a secret in a URL", BASE + "application: {http: [{name: a, get: '$A/b?apikey=abc'}]}\n", 4, "application.http[0].get"),
    Broken("as nobody", BASE + "application: {http: [{name: a, get: $A/b, as: ann}]}\n", 4, "application.http[0].as"),
    Broken("two tokens", BASE + "application: {personas: {a: {role: r}}, http: [{name: a, get: $A/b, as: a, headers: {authorization: $T}}]}\n", 4, "application.http[0].as"),
    Broken("a token in a file", BASE + "application: {personas: {a: {role: r, token: abc}}}\n", 4, "application.personas.a.token"),
    Broken("no program", BASE + "application: {commands: [{name: a, run: []}]}\n", 4, "application.commands[0].run"),
    Broken("types elsewhere", BASE + "application: {commands: [{name: a, run: [b], types_to: ../c.ts}]}\n", 4, "application.commands[0].types_to"),
    Broken("a check of no name", BASE + "application: {commands: [{name: '', run: [b]}]}\n", 4, "application.commands[0].name"),
    Broken("another answer", BASE + "application: {on_regression: stop}\n", 4, "application.on_regression"),
    Broken("a persona without a role", BASE + "application: {personas: {a: {claims: {sub: x}}}}\n", 4, "application.personas.a.role"),
    Broken("a persona's name", BASE + "application: {personas: {a b: {role: r}}}\n", 4, 'application.personas."a b"'),
    Broken("PostgreSQL's setting", BASE + "application: {personas: {a: {role: r, settings: {role: b}}}}\n", 4, "application.personas.a.settings.role"),
    Broken("our setting", BASE + "application: {personas: {a: {role: r, settings: {backfilld.batch: b}}}}\n", 4, 'application.personas.a.settings."backfilld.batch"'),
    # Policies
    Broken("no policy", policies(""), 3, REPLACED),
    Broken("a policy without a condition", policies("{name: p}"), 3, REPLACED + "[0]"),
    Broken("an INSERT without a condition", policies("{name: p, for: insert}"), 3, REPLACED + "[0]"),
    Broken("what is there, of an INSERT", policies("{name: p, for: insert, using: a}"), 3, REPLACED + "[0].using"),
    Broken("what is written, of a DELETE", policies("{name: p, for: delete, using: a, check: a}"), 3, REPLACED + "[0].check"),
    Broken("a policy for no command", policies("{name: p, for: truncate, using: a}"), 3, REPLACED + "[0].for"),
    Broken("a policy for nobody", policies("{name: p, to: [], using: a}"), 3, REPLACED + "[0].to"),
    Broken("a policy for one twice", policies("{name: p, to: [a, a], using: a}"), 3, REPLACED + "[0].to[1]"),
    Broken("two policies of one name", policies("{name: p, using: a}, {name: p, using: b}"), 3, REPLACED + "[1].name"),
    Broken("fewer than none", policies("{name: p, using: a}", "expect: {gained: -1}"), 3, "operations[0].replace_policies.expect.gained"),
    Broken("some", policies("{name: p, using: a}", "expect: {lost: some}"), 3, "operations[0].replace_policies.expect.lost"),
    Broken("force alone", policies("{name: p, using: a}", "force: true"), 3, "operations[0].replace_policies.force"),
    # SQL in one transaction or several
    Broken("SQL without a way back", operation("sql: {run: SELECT 1}"), 3, "operations[0].sql.rollback"),
    Broken("SQL without anything", operation("sql: {phase: switch}"), 3, "operations[0].sql.run"),
    Broken("no step of SQL", operation("sql: {steps: []}"), 3, "operations[0].sql.steps"),
    Broken("a step without a way back", operation("sql: {steps: [{run: SELECT 1}]}"), 3, "operations[0].sql.steps[0].rollback"),
    Broken(
        "steps and more",
        operation("sql: {run: SELECT 1, steps: [{run: SELECT 1, rollback: SELECT 1}]}"), 3, "operations[0].sql.run",
    ),
    # Several mistakes: the first in the file is told
    Broken("two in order", settings("lanes: 0", "nice: -1"), 5, "settings.lanes"),
    Broken("two, the later key first in the model", settings("nice: -1", "lanes: 0"), 5, "settings.nice"),
    Broken("two on one line", BASE + "settings: {nice: -1, lanes: 0}", 4, "settings.nice"),
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=[broken.what for broken in BROKEN])
def test_a_broken_file_is_told_where_what_and_how(broken: Broken) -> None:
    with pytest.raises(InvalidMigration) as caught:
        parse(broken.text, file="some.yaml")
    error = caught.value
    assert (error.file, error.line, error.key) == ("some.yaml", broken.line, broken.key)
    # One line for the terminal: `problem. remedy.`, in the project's words and not in pydantic's.
    assert not error.problem.endswith(".")
    assert error.remedy.endswith((".", "?"))
    assert str(error).isprintable()
    assert not re.search(r"[Ii]nput should|valid (string|integer|dictionary)|pydantic", str(error))


def test_what_is_said_of_each_is_in_a_file(golden: Golden) -> None:
    """The sentences, to be read and worded in one place."""
    said = []
    for broken in BROKEN:
        with pytest.raises(InvalidMigration) as caught:
            parse(broken.text, file="some.yaml")
        said.append(f"{broken.what}\n    {caught.value.problem}. {caught.value.remedy}\n")
    assert golden.holds("file/errors.txt", "".join(said)), "look at what `pytest --write-golden` writes, and commit it"


words = st.sampled_from([
    "name", "operations", "settings", "add_column", "backfill", "table", "column", "type", "set", "where", "default",
    "not_null", "lanes", "approve", "nice", "contract", "done", "no", "on", "0", "-1", "1e400", ".inf", "a.b", "'q'",
    '"', "{", "}", "[", "]", "- ", ": ", ", ", "\n", "  ", "&a ", "*a", "!t ", "? ", "|\n", "<<", "%YAML 9.9", "---", "#",
])  # fmt: skip


@given(st.text() | st.lists(words, max_size=40).map("".join))
def test_no_text_brings_any_other_error(text: str) -> None:
    try:
        migration = parse(text)
    except InvalidMigration as error:
        assert 1 <= error.line <= len(re.split(r"\r\n|[\n\r\x85\u2028\u2029]", text))  # noqa: PT017 - either end is right
    else:
        assert Migration.from_canonical(migration.canonical()) == migration


leaf = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["contract", "t"])
)
tree: st.SearchStrategy[Any] = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def holes(of: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The mapping with any of its values replaced by any other."""
    return st.fixed_dictionaries({}, optional={key: tree | st.just(value) for key, value in of.items()})


@effort(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(
    holes(
        {
            "name": "a",
            "settings": {"lanes": 1},
            "operations": [{"backfill": {"table": "t", "set": {"c": "1"}}}],
        }
    )
    | holes({"table": "t", "set": {"c": "1"}, "where": "x"}).map(
        lambda body: {"name": "a", "operations": [{"backfill": body}]}
    )
    | holes({"table": "t", "transform": "m:f", "writes": ["c"], "reads": ["d"]}).map(
        lambda body: {"name": "a", "operations": [{"backfill": body}]}
    )
    | holes({"table": "t", "column": {"name": "c", "type": "text"}, "backfill": "x", "not_null": True}).map(
        lambda body: {"name": "a", "operations": [{"add_column": body}]}
    )
    | holes(
        {
            "lanes": 1,
            "batch_seconds": 1.0,
            "nice": 0.0,
            "approve": ["switch"],
            "max_quarantined": 5,
            "give_way_ms": 100,
            "lock_timeout_ms": 50,
            "lock_deadline_seconds": 60.0,
            "cancel_blockers": "idle",
            "cancel_after_seconds": 5.0,
            "windows": ["daily 01:00-05:00 UTC"],
        }
    ).map(lambda body: {"name": "a", "operations": [{"backfill": {"table": "t", "set": {"c": "1"}}}], "settings": body})
)
def test_no_stored_definition_brings_any_other_error(stored: dict[str, Any]) -> None:
    """Every kind of error that the models can raise has words of its own."""
    try:
        migration = Migration.from_canonical(stored)
    except InvalidMigration as error:
        assert str(error).isprintable()  # noqa: PT017 - either end is right
    else:
        assert Migration.from_canonical(migration.canonical()) == migration


# --- Files on disk


def test_a_file_is_loaded_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load(file) == load(str(file)) == parse(GOOD)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidMigration, match=r"nowhere\.yaml:1: the file cannot be read: No such file"):
        load(tmp_path / "nowhere.yaml")


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidMigration, match="the file cannot be read: Is a directory"):
        load(tmp_path)


def test_a_path_no_system_accepts_is_refused() -> None:
    with pytest.raises(InvalidMigration, match="the file cannot be read"):
        load("a\0b.yaml")


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes("name: a\n# größe\n".encode("latin-1"))
    with pytest.raises(InvalidMigration, match=r"latin\.yaml:2: the file is not UTF-8 text"):
        load(file)


def test_a_file_beyond_reason_is_not_read_into_memory() -> None:
    with pytest.raises(InvalidMigration, match="larger than 1 MiB"):
        load("/dev/zero")


# --- The JSON Schema


def schema_errors(document: object) -> list[str]:
    return [error.message for error in Draft202012Validator(json_schema()).iter_errors(document)]


def test_the_schema_is_itself_valid_and_each_caller_gets_a_copy() -> None:
    Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    json_schema().clear()
    assert json_schema()


def objects(node: Any) -> list[dict[str, Any]]:
    """Every part of the schema that has properties."""
    if isinstance(node, list):
        return [found for item in node for found in objects(item)]
    if not isinstance(node, dict):
        return []
    own = [node] if node.get("type") == "object" and "properties" in node else []
    return own + [found for item in node.values() for found in objects(item)]


def test_every_key_is_described_and_no_other_is_allowed() -> None:
    found = objects(json_schema())
    keys = {key for node in found for key in node["properties"]}
    assert keys == {
        *("name", "operations", "settings", "add_column", "backfill", "table", "column", "type", "default", "not_null"),
        "computed",
        *("parameters", "description", "after", "steps", "delete_rows"),
        *("change_columns", "move_column", "on", "change_key", "values"),
        *("rebuild", "order", "tablespace", "cluster_by", "drop"),
        *("partition_by", "range", "every", "ahead", "list", "hash", "partitions"),
        *("application", "statements", "roles", "files", "window", "on_regression"),
        *("personas", "role", "claims", "settings"),
        *(
            "replace_policies",
            "policies",
            "for",
            "using",
            "restrictive",
            "keep_both",
            "expect",
            "gained",
            "lost",
            "enable",
        ),
        *("http", "get", "headers", "compare", "ignore", "slower_than", "allow_empty"),
        *("post", "body", "safe", "as", "token"),
        *("commands", "types_to", "schemas", "timeout_seconds"),
        *(
            "set",
            "transform",
            "writes",
            "reads",
            "where",
            "lanes",
            "batch_seconds",
            "nice",
            "wal_mb_per_second",
            "walk",
            "approve",
            "max_quarantined",
            "give_way_ms",
            "lock_timeout_ms",
            "lock_deadline_seconds",
            "cancel_blockers",
            "cancel_after_seconds",
            "allow_functions",
            "windows",
            "journal",
            "durable_batches",
            "backup",
            "require",
            "max_age",
            "tables",
            "copies",
            "retention_days",
        ),
        *("rename_column", "change_type", "set_not_null", "drop_column", "add_check", "add_foreign_key", "add_unique"),
        *("drop_not_null", "set_default", "drop_default", "drop_constraint", "rename_constraint", "set_comment"),
        *("add_primary_key", "rename_table", "drop_table", "enable_row_security", "create_table"),
        *("identity", "primary_key", "checks", "foreign_keys", "row_security"),
        *("constraint", "index", "comment", "force"),
        *("create_index", "drop_index", "sql", "from", "to", "up", "down", "check", "columns", "references"),
        *(
            "on_delete",
            "on_update",
            "expressions",
            "unique",
            "method",
            "include",
            "with",
            "run",
            "rollback",
            "phase",
            "allow",
        ),
        *(
            "load",
            "query",
            "s3",
            "database",
            "key",
            "on_conflict",
            "duplicates",
            "mode",
            "file",
            "format",
            "header",
            "fields",
            "delimiter",
            "null",
        ),
    }
    for node in found:
        assert node["additionalProperties"] is False
        assert all(inner.get("description") for inner in node["properties"].values())


@pytest.mark.parametrize("file", EXAMPLES, ids=[file.stem for file in EXAMPLES])
def test_the_examples_load_and_fit_the_schema(file: Path) -> None:
    assert load(file).name.replace("-", "_") == file.stem
    assert schema_errors(yaml_nodes.read(file.read_text(), file=file.name).data) == []


def test_the_examples_are_there() -> None:
    assert {file.name for file in EXAMPLES} >= {
        "jobs_new_field.yaml",
        "jobs_normalise_status.yaml",
        "pgbench_abalance_cents.yaml",
    }


#: Broken by rules that span more than one value, or count bytes: a JSON Schema cannot say them.
BEYOND_THE_SCHEMA = {
    *("NUL in SQL", "NUL in a table", "half a character", "a long column name", "a long schema", "three parts"),
    *("added twice", "added, then filled", "filled, then added", "a name with a line break", "added, then transformed"),
    *("a zone nobody lives in", "a window of no time"),
    *(
        "a default of another type",
        "a parameter that is not declared",
        "a parameter in quotes",
        "a parameter in a comment",
    ),
    *("a parameter in a name", "a parameter in the name of a column", "after itself"),
    *(
        "our setting",
        "a policy without a condition",
        "an INSERT without a condition",
        "two policies of one name",
        "force alone",
    ),
    *("what is there, of an INSERT", "what is written, of a DELETE"),
    *("files from above", "two probes of one name", "a secret in a file"),
    *("a secret in a body", "a secret in a URL", "as nobody", "two tokens"),
}
#: What the reader refuses before there is a document, or PyYAML's own loader reads in another way.
BEFORE_THE_SCHEMA = {
    *(
        "a key twice",
        "a column twice",
        "an anchor",
        "an alias",
        "a merge key",
        "a tag",
        "a standard tag",
        "two documents",
    ),
    *("octal", "sexagesimal", "a key that is a boolean", "a key that is a number", "a key that is a list", "depth"),
    *("not a number", "beyond all numbers", "a tab", "a colon in SQL", "a control character", "an impossible escape"),
    *("bad syntax", "empty", "only a comment", "only a document start"),
}


@pytest.mark.parametrize(
    "broken",
    [broken for broken in BROKEN if broken.what not in BEYOND_THE_SCHEMA | BEFORE_THE_SCHEMA],
    ids=lambda broken: broken.what,
)
def test_the_schema_finds_what_an_editor_can_find(broken: Broken) -> None:
    assert schema_errors(yaml.safe_load(broken.text))


def test_the_exceptions_name_broken_files() -> None:
    assert {broken.what for broken in BROKEN} >= BEYOND_THE_SCHEMA | BEFORE_THE_SCHEMA


# --- The reference


REFERENCE = (REPOSITORY / "docs" / "migration-files.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", REFERENCE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_files_in_the_reference_are_valid(block: str) -> None:
    assert parse(block).operations
    assert schema_errors(yaml.safe_load(block)) == []


OTHERS = {
    "replace_policies",
    *("rename_column", "change_type", "set_not_null", "drop_column", "add_check", "add_foreign_key", "add_unique"),
    *(
        "create_index",
        "drop_index",
        "delete_rows",
        "load",
        "change_columns",
        "move_column",
        "change_key",
        "rebuild",
        "sql",
    ),
    *("drop_not_null", "set_default", "drop_default", "drop_constraint", "rename_constraint", "set_comment"),
    *("add_primary_key", "rename_table", "drop_table", "enable_row_security", "create_table"),
}


def test_the_reference_has_a_row_for_every_key_with_its_default() -> None:
    rows = {
        row[0].strip("` "): row
        for row in re.findall(r"^\| (`[\w.]+`) \| (.*?) \| (.*?) \|", REFERENCE, flags=re.MULTILINE)
    }
    for name, node in json_schema()["$defs"]["RunSettings"]["properties"].items():
        default = node.get("default")
        shown = f"[{', '.join(default)}]" if isinstance(default, list) else str(default)
        assert rows[name][2] == f"`{shown}`"
    for node in objects(json_schema()):
        for key in set(node["properties"]) - {"add_column", "backfill", "type", *OTHERS}:
            assert key in rows
    assert {"column.name", "column.type", "backfill"} <= set(rows)


def test_the_error_in_the_reference_is_the_real_one() -> None:
    text = "name: a\noperations:\n  - add_column:\n      column: {name: c}\n      table: t\n"
    with pytest.raises(InvalidMigration) as caught:
        parse(text, file="jobs.yaml")
    assert str(caught.value) in REFERENCE
