"""The linter's own rules see what statements say, not what their strings and comments say; and each rule is documented."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

from backfilld.migrations.operations.registry import REGISTRY
from backfilld.migrations.operations.sql.steps import lock_of
from backfilld.migrations.planning import lint
from backfilld.migrations.postgres.statements import split

PAGE = ROOT / "docs" / "operations" / "sql.md"

#: Texts, and the rules of ours that they break.
TEXTS = {
    "SELECT 'commit'; -- commit": [],
    "CREATE FUNCTION a.f() RETURNS int LANGUAGE plpgsql AS 'BEGIN COMMIT; DROP TABLE a.t CASCADE; END'": [],
    "CREATE FUNCTION a.f() RETURNS int BEGIN ATOMIC SELECT 1; END": [],
    "ALTER TABLE a.t ADD FOREIGN KEY (x) REFERENCES a.u ON DELETE CASCADE NOT VALID": [],
    "ALTER TABLE a.t DROP CONSTRAINT c, ADD FOREIGN KEY (x) REFERENCES a.u ON UPDATE CASCADE": [],
    "ALTER TABLE a.t DROP CONSTRAINT c CASCADE": ["drop-cascade"],
    "DROP VIEW a.v cascade": ["drop-cascade"],
    "/* x */ commit": ["transaction-control"],
    "end": ["transaction-control"],
    "create unique index concurrently i on a.t (x)": ["not-in-a-transaction"],
    "ALTER TABLE a.t DETACH PARTITION a.p CONCURRENTLY": ["not-in-a-transaction"],
    "SET LOCAL work_mem = '1GB'": [],
    "SET CONSTRAINTS ALL DEFERRED": [],
    "SET work_mem = '1GB'": ["session-setting"],
    "set local role bob": ["session-setting"],
    "SET SESSION AUTHORIZATION bob": ["session-setting"],
    "UPDATE a.t SET x = 1": ["data-change"],
    "INSERT INTO a.t VALUES (1); ALTER TABLE a.t ADD x int": [],
    "INSERT INTO a.t SELECT 1; ALTER TABLE a.t ADD x int": ["data-change-with-ddl"],
    "WITH x AS (SELECT 1) DELETE FROM a.t": ["data-change"],
    "DO $$ BEGIN PERFORM 1; END $$": [],
    "DO $$ BEGIN EXECUTE 'x'; END $$": ["ddl-in-do"],
    "ALTER TABLE a.t ADD x int; ALTER TABLE a.u ADD x int": ["several-tables"],
    "ALTER TABLE a.t ADD x int; ALTER TABLE a.t ADD y int": [],
    "COPY a.t FROM STDIN": ["copy"],
    "ALTER TYPE a.e ADD VALUE 'x'": ["enum-value"],
    "ALTER PUBLICATION p ADD TABLE a.t": ["publication"],
    "DO $$ BEGIN UPDATE a.t SET x = 1; END $$": ["data-change-in-do"],
    "DO 'BEGIN DELETE FROM a.t; END'": ["data-change-in-do"],
    "DO LANGUAGE plpython3u $$\n# it's Python\nplpy.execute(sql)\n$$": ["ddl-in-do"],
    "DO $$ BEGIN PERFORM 1 FROM a.t FOR NO KEY UPDATE; /* UPDATE */ RAISE 'DROP'; END $$": [],
    "ALTER TABLE a.t ADD x json": ["json-column"],
    "ALTER TABLE a.t ADD COLUMN IF NOT EXISTS x pg_catalog.json[] NOT NULL": ["json-column"],
    "ALTER TABLE a.t ALTER COLUMN x SET DATA TYPE json USING x::json": ["json-column"],
    'CREATE TABLE a.t (id bigint, "X y" json)': ["json-column"],
    "CREATE TABLE a.t (id bigint, json jsonb, y text CHECK (y IS JSON), z text DEFAULT json '{}')": [],
    "CREATE FUNCTION a.f(x json) RETURNS json LANGUAGE sql AS 'SELECT x'": [],
    "CREATE INDEX i ON a.t (a, lower(b), coalesce(c, d), e DESC)": ["wide-index"],
    "CREATE INDEX i ON a.t USING gin (a, b, c) INCLUDE (d, e) WITH (fastupdate = off)": [],
    "CREATE UNIQUE INDEX i ON a.t (a, b, c, d)": [],
    "ALTER TYPE a.e RENAME VALUE 'x' TO 'y'": ["renaming-enum-value"],
    "ALTER SCHEMA a RENAME TO b": ["renaming-schema"],
    "CLUSTER a.t USING i": ["long-lock"],
    "ALTER TABLE a.t SET UNLOGGED": ["long-lock"],
}


@pytest.mark.parametrize("text", TEXTS)
def test_rules_are_broken_by_code_alone(text: str) -> None:
    assert [remark.rule for remark in lint.own_remarks(split(text))] == TEXTS[text]


def test_each_rule_that_refuses_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    ours = {"data-change", "wide-index", "policy", "trigger", "publication", "several-tables"}
    asked = {name for name, rule in lint.RULES.items() if rule.level != "warn"} | ours
    assert {name for name in asked if f"`{name}`" not in page} == set()


def test_locks_by_rule() -> None:
    for text, lock in {
        "alter table only a.t add x int": "ACCESS EXCLUSIVE",
        "ALTER TABLE a.t VALIDATE CONSTRAINT c": "SHARE UPDATE EXCLUSIVE",
        "CREATE TRIGGER x BEFORE UPDATE ON a.t EXECUTE FUNCTION a.f()": "SHARE ROW EXCLUSIVE",
        "CREATE INDEX i ON a.t (x)": "SHARE",
        "CREATE OR REPLACE VIEW a.v AS SELECT 1": "ACCESS SHARE",
        "GRANT SELECT ON a.t TO bob": "none",
        "CREATE FUNCTION a.f() RETURNS int LANGUAGE sql AS 'SELECT 1'": "none",
    }.items():
        assert lock_of(split(text)[0].bare) == lock, text


#: Statements that hold a lock for long, and how what to do in their place begins: going there, and in a rollback.
INSTEAD = {
    "ALTER TABLE a.t ADD CONSTRAINT c EXCLUDE USING gist (x WITH &&)": ("No version of PostgreSQL", "No version"),
    "ALTER TABLE a.t ADD PRIMARY KEY (x)": ("Use add_primary_key", "Use drop_constraint"),
    "ALTER TABLE a.t ADD x bigserial": ("Create a sequence", "Create a sequence"),
    "ALTER TABLE a.t ADD x int GENERATED BY DEFAULT AS IDENTITY": ("Create a sequence", "Create a sequence"),
    "ALTER TABLE a.t ADD x int GENERATED ALWAYS AS (y + 1) STORED": ("Use add_column with", "Use add_column with"),
    "CREATE UNIQUE INDEX i ON a.t (x)": ("Use create_index", "Use drop_index"),
    "ALTER TABLE a.t ADD FOREIGN KEY (x) REFERENCES a.u": ("Use add_foreign_key", "Use drop_constraint"),
    "ALTER TABLE a.t ADD CONSTRAINT c UNIQUE (x)": ("Use add_unique", "Use drop_constraint"),
    "ALTER TABLE a.t ADD CHECK (x > 0)": ("Use add_check", "Use drop_constraint"),
    "ALTER TABLE a.t ALTER x SET NOT NULL": ("Use set_not_null", "Use drop_not_null"),
    "ALTER TABLE a.t ALTER x SET DATA TYPE text": ("Use change_type", "Use change_type"),
    "ALTER TABLE a.t ADD x int DEFAULT random()": ("Use add_column,", "Use drop_column"),
    "TRUNCATE a.t": ("Use delete_rows", "Use delete_rows"),
    "VACUUM": ("", ""),
}


@pytest.mark.parametrize("text", INSTEAD)
def test_the_remedy_is_that_of_the_statement(text: str) -> None:
    (statement,) = split(text)
    for back, words in zip((False, True), INSTEAD[text], strict=True):
        assert lint.instead(statement, back=back).startswith(words)
        assert bool(words) == bool(lint.instead(statement, back=back))


def test_the_functions_that_a_statement_runs() -> None:
    for text, functions in {
        'SELECT a.f(1), "B c".d (2), lower(x) FROM a.t': (("a", "f"), ("B c", "d")),
        "CALL a.p()": (("a", "p"),),
        "DO $$ BEGIN PERFORM a.f(); END $$": (("a", "f"),),
        "CREATE TABLE a.u AS SELECT a.f()": (("a", "f"),),
        "CREATE TRIGGER x BEFORE UPDATE ON a.t EXECUTE FUNCTION a.f()": (),
        "ALTER TABLE a.t ADD CHECK (a.f(x))": (),
    }.items():
        assert lint.called(split(text)[0]) == functions, text


def test_remedies_name_operations_that_exist() -> None:
    """A word with an underscore in a remedy is an operation, or a key or a setting that is meant."""
    remedies = [rule.remedy for rule in lint.RULES.values()] + [text for _, *texts in lint._INSTEAD for text in texts]
    named = {word for remedy in remedies for word in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", remedy)}
    operations = {model.kind for model in REGISTRY}
    assert named - operations == {"not_null", "search_path", "session_replication_role"}
