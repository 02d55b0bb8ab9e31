"""The linter's own rules see what statements say, not what their strings and comments say; and each rule is documented."""

from __future__ import annotations

import pytest
from paths import ROOT

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
}


@pytest.mark.parametrize("text", TEXTS)
def test_rules_are_broken_by_code_alone(text: str) -> None:
    assert [remark.rule for remark in lint.own_remarks(split(text))] == TEXTS[text]


def test_each_rule_that_refuses_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    ours = {"data-change", "policy", "trigger", "publication", "several-tables"}
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
