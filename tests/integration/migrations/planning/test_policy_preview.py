"""What a plan tells of other policies: who would gain or lose which rows, before anything is enqueued."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from fix_policies import ANN, OWN, PERSONAS, SCHEMA, TEAM, file
from fix_rules import engine_at
from typer.testing import CliRunner

from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine, policy_preview
from backfilld.producers import cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fix_runs import Engine

    from backfilld.migrations.planning.policy_preview import Preview
    from backfilld.migrations.policies.results import Counted


@pytest.fixture
def project(supabase_url: str) -> Iterator[Engine]:
    with engine_at(supabase_url) as engine:
        engine.execute(SCHEMA)
        yield engine


def preview(engine: Engine, text: str) -> Preview:
    migration = definition.parse(text)
    found = examine.examine(engine.connection, migration)
    assert not found.findings, found.findings
    (one,) = policy_preview.look(engine.connection, migration, found)
    return one


def of(found: Preview, persona: str, command: str, phase: str = "switch") -> Counted:
    (one,) = (told for told in found.counted if (told.persona, told.command, told.phase) == (persona, command, phase))
    return one


def test_a_person_sees_who_gains_what_before_it_is_enqueued(project: Engine, tmp_path: Path) -> None:
    """In words and as JSON; beside somebody whose lock lets nothing in but a SELECT; and nothing is left of it."""
    path = tmp_path / "policies.yaml"
    path.write_text(file(OWN, TEAM), encoding="utf-8")
    before = project.value("SELECT count(*) FROM pg_class")
    environment = {"BACKFILLD_DATABASE_URL": project.url, "COLUMNS": "200"}
    with project.connect() as other, other.transaction():
        other.execute('LOCK TABLE "Odd Schema"."Order" IN EXCLUSIVE MODE')
        shown = CliRunner().invoke(cli.app, ["plan", str(path)], env=environment)
        told = json.loads(CliRunner().invoke(cli.app, ["plan", "--json", str(path)], env=environment).stdout)
    assert shown.exit_code == 0, shown.output
    words = " ".join(shown.output.split())
    assert "who reaches which rows of Odd Schema.Order all 60 rows" in words
    assert 'ann select 24 36 gains 12 (such as (1, a, "b"), (4, a, "b"), (11, a, "b"),' in words
    assert (
        'not expected from switch on ann sees 12 rows of Odd Schema.Order that it could not before (such as (1, a, "b")'
        in words
    )
    assert "A person is asked before it comes into force." in words
    (found,) = told["policies"]
    assert (found["operation"], found["relation"], found["rows"], found["all_rows"]) == (
        0,
        "Odd Schema.Order",
        60,
        True,
    )
    (ann,) = (one for one in found["counted"] if (one["persona"], one["command"]) == ("ann", "select"))
    assert (ann["rows_now"], ann["rows_then"], ann["gained"], ann["lost"], len(ann["gained_keys"])) == (
        24,
        36,
        12,
        0,
        12,
    )
    assert project.value("SELECT count(*) FROM pg_class") == before


def test_of_a_large_table_a_sample_is_counted(project: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its pages, the same for the rules and for what is really seen; so it is no prefix of the key."""
    project.execute(
        f"INSERT INTO \"Odd Schema\".\"Order\" SELECT n, repeat('x', 900), '{ANN}', 1 FROM generate_series(100, 4099) n; "
        'ANALYZE "Odd Schema"."Order"'
    )
    monkeypatch.setattr(policy_preview, "MOST_ROWS", 1000)
    found = preview(project, file(TEAM))
    assert not found.all_rows
    assert 500 < found.rows < 1500
    assert not found.not_counted
    seen = of(found, "ann", "select")
    assert found.rows - 60 <= seen.rows_then == seen.rows_now + seen.gained - seen.lost <= found.rows
    assert of(found, "visitor", "select").rows_then == 0


def test_both_sets_are_told_apart_from_the_new_one_alone(project: Engine) -> None:
    found = preview(project, file(OWN, TEAM, keep_both=True))
    assert (of(found, "ann", "select").gained, of(found, "ann", "select", "contract").gained) == (6, 12)
    assert {words.split(" on ")[0] for words in found.unexpected} == {"from switch", "from contract"}


SLOW = {"name": "slow", "for": "select", "using": "pg_sleep(1) IS NULL OR team = 1"}
NOT_COUNTED: dict[str, tuple[str, str]] = {
    "takes long": (file(SLOW), "the rows of Odd Schema.Order for ann: it takes longer than 0.2 s; verify counts them"),
    "writes": (
        file({"name": "logs", "for": "select", "using": "app.log(team)"}),
        "cannot execute INSERT in a read-only transaction; verify counts them",
    ),
    "a column to come": (
        json.dumps(
            {
                **(adds := json.loads(file({"name": "open", "for": "select", "using": "is_open"}))),
                "operations": [
                    {"add_column": {"table": "Odd Schema.Order", "column": {"name": "is_open", "type": "boolean"}}},
                    *adds["operations"],
                ],
            }
        ),
        "the policies read a column that the file adds: verify counts",
    ),
}


def test_what_cannot_be_counted_is_said(project: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_preview, "SECONDS", 0.2)
    project.execute(
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC; CREATE TABLE app.calls (team integer); "
        "GRANT ALL ON app.calls TO PUBLIC; CREATE FUNCTION app.log(integer) RETURNS boolean LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO app.calls VALUES ($1); RETURN true; END'"
    )
    for name, (text, words) in NOT_COUNTED.items():
        found = preview(project, text)
        assert any(words in one for one in found.not_counted), (name, found.not_counted)
        assert not found.counted or name == "takes long", name
    monkeypatch.setattr(policy_preview, "SECONDS_IN_ALL", -1.0)
    late = preview(project, file(OWN))
    assert (late.rows, late.counted) == (0, ())
    assert "the time for a plan is over" in late.not_counted[0]


def test_a_rule_that_is_not_what_postgresql_does_is_said(project: Engine) -> None:
    """A policy whose answer changes from one call to the next; verify would find the same."""
    project.execute("CREATE SEQUENCE calls; GRANT ALL ON calls TO PUBLIC")
    project.execute(
        'DROP POLICY "no team 4" ON "Odd Schema"."Order"; CREATE POLICY drawn ON "Odd Schema"."Order" FOR SELECT USING (random() < 0.5)'
    )
    found = preview(project, file(OWN, personas={"visitor": PERSONAS["visitor"]}))
    (said,) = found.not_counted
    assert "what visitor sees today of Odd Schema.Order is not what its policies say" in said
    assert said.endswith("; verify would fail")


def test_rows_of_tables_whose_policies_read_this_one_are_counted_too(project: Engine) -> None:
    project.execute(
        """
        CREATE TABLE parts (part integer PRIMARY KEY, "order" bigint); INSERT INTO parts SELECT n, n FROM generate_series(1, 60) n;
        GRANT SELECT ON parts TO authenticated; ALTER TABLE parts ENABLE ROW LEVEL SECURITY;
        CREATE POLICY shared ON parts USING ("order" IN (SELECT id FROM "Odd Schema"."Order"))
        """
    )
    found = preview(project, file(OWN, TEAM))
    (one,) = (
        told for told in found.counted if (told.relation, told.persona, told.command) == ("parts", "ann", "select")
    )
    assert (one.rows_now, one.rows_then, one.gained) == (24, 36, 12)
    assert any("ann sees 12 rows of parts that it could not before" in words for words in found.unexpected)


def test_a_migration_without_policies_has_none(engine: Engine) -> None:
    engine.execute("CREATE TABLE jobs (id bigint PRIMARY KEY)")
    text: dict[str, Any] = {"name": "a", "operations": [{"set_comment": {"table": "jobs", "comment": "x"}}]}
    migration = definition.parse(json.dumps(text))
    found = examine.examine(engine.connection, migration)
    assert policy_preview.look(engine.connection, migration, found) == ()
