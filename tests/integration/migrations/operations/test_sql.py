"""`sql`: what is refused of raw SQL and why, what a dry run sees of it, and that it runs and is taken back as one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from fix_runs import expect

from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine, lint, plan
from backfilld.migrations.record.states import Phase, State
from backfilld.producers import commands

if TYPE_CHECKING:
    from pathlib import Path

    from fix_runs import Engine

    from backfilld.migrations.planning.examine import Examination
    from backfilld.migrations.record.model import Run

MANY = lint.SMALL_ROWS + 1


@pytest.fixture(autouse=True)
def jobs(engine: Engine) -> None:
    """A table above the size at which a scan is felt, and one below it."""
    engine.execute(f"""
        CREATE TABLE jobs (id bigint PRIMARY KEY, status text, total integer);
        INSERT INTO jobs SELECT n, 'open', n FROM generate_series(1, {MANY}) n;
        CREATE TABLE few (id bigint PRIMARY KEY, note text);
        CREATE TABLE "Odd ""S"" 100%s" (id bigint PRIMARY KEY);
    """)


def migration(run: str, rollback: str = "SELECT 1", **more: Any) -> definition.Migration:
    """One `sql` operation. JSON is YAML too, so that a test's SQL needs no quoting."""
    operation = {"sql": {"run": run, "rollback": rollback, **more}}
    return definition.parse(json.dumps({"name": "raw", "operations": [operation], "settings": {"approve": []}}))


def examined(engine: Engine, run: str, rollback: str = "SELECT 1", **more: Any) -> Examination:
    return examine.examine(engine.connection, migration(run, rollback, **more))


#: What must not be done, or not so, and what is said of it: the problem, and the remedy.
REFUSED = {
    "transaction control": ("SELECT 1; COMMIT; SELECT 2", "(transaction-control)", "one transaction"),
    "rollback of all": ("ROLLBACK", "(transaction-control)", "Remove it"),
    "concurrently": ("CREATE INDEX CONCURRENTLY i ON public.few (id)", "(not-in-a-transaction)", "create_index"),
    "vacuum": ("VACUUM public.few", "(not-in-a-transaction)", "by hand"),
    "a setting": ("SET search_path = public", "(session-setting)", "SET LOCAL"),
    "a timeout": ("SET LOCAL lock_timeout = 0", "(session-setting)", "leave timeouts"),
    "rows over the wire": ("COPY public.few FROM STDIN", "(copy)", "INSERT"),
    "syntax": ("ALTER TABEL public.few ADD x integer", "syntax error at or near", "schema"),
    "a quote": ("SELECT 'a", "a quote is not closed", "Close it"),
    "nothing": ("-- nothing", "contains no statement", "Write one"),
    "no schema": ("ALTER TABLE few ADD x integer", "few has no schema", "carry their schema"),
    "no schema, in a query": ("UPDATE few SET note = ''", 'relation "few" does not exist', "carry their schema"),
    "no schema, quoted": ('DROP TABLE IF EXISTS "few"', '"few" has no schema', "carry their schema"),
    "cascade": ("DROP VIEW public.v CASCADE", "(drop-cascade)", "allow: [drop-cascade]"),
    "no row security": ("ALTER TABLE public.few DISABLE ROW LEVEL SECURITY", "(disable-row-level-security)", "policies"),
    "rows and DDL": (
        "ALTER TABLE public.few ADD x integer; UPDATE public.few SET x = 1", "(data-change-with-ddl)", "backfill",
    ),
    "DDL in DO": ("DO $$ BEGIN EXECUTE 'DROP TABLE x'; END $$", "(ddl-in-do)", "statements themselves"),
    "a type": ("ALTER TABLE public.jobs ALTER total TYPE bigint", "(changing-column-type)", "Use change_type"),
    "an index": ("CREATE INDEX i ON public.jobs (status)", "(require-concurrent-index-creation)", "Use create_index"),
    "a check": ("ALTER TABLE public.jobs ADD CONSTRAINT c CHECK (total > 0)", "(constraint-missing-not-valid)", "add_check"),
    "a name": ("ALTER TABLE public.few RENAME note TO notes", "(renaming-column)", "Use rename_column"),
    "a column": ("ALTER TABLE public.few DROP note", "(ban-drop-column)", "Use drop_column"),
}  # fmt: skip


def test_what_is_refused_says_why_and_what_to_do(engine: Engine) -> None:
    for name, (text, problem, remedy) in REFUSED.items():
        findings = [str(one) for one in examined(engine, text).findings]
        assert any(problem in one and remedy in one for one in findings), (name, findings)


#: What may be done, and what is warned of, if anything.
ACCEPTED = {
    "a view": ("CREATE VIEW public.v AS SELECT id FROM public.jobs", "DROP VIEW public.v", None),
    "a policy": ("CREATE POLICY p ON public.jobs USING (true)", "DROP POLICY p ON public.jobs", "(policy)"),
    "a trigger": (
        """CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN COMMIT; RETURN NEW; END';
        CREATE TRIGGER t BEFORE UPDATE ON public.jobs FOR EACH ROW EXECUTE FUNCTION public.f()""",
        "DROP TRIGGER t ON public.jobs; DROP FUNCTION public.f()",
        "(trigger)",
    ),
    "a small index": ("CREATE INDEX i ON public.few (note)", "DROP INDEX public.i", "(require-concurrent-index-creation)"),
    "rows": ("UPDATE public.few SET note = 'x' WHERE id = 1", "SELECT 1", "(data-change)"),
    "a statement with a percent sign": (
        """COMMENT ON TABLE public."Odd ""S"" 100%s" IS '100%'""",
        """COMMENT ON TABLE public."Odd ""S"" 100%s" IS NULL""",
        None,
    ),
    "a foreign key that cascades": (
        "CREATE TABLE public.parts (job bigint REFERENCES public.few ON DELETE CASCADE)", "DROP TABLE public.parts", None,
    ),
}  # fmt: skip


def test_what_is_accepted_is_not_held_up(engine: Engine) -> None:
    for name, (text, back, warned) in ACCEPTED.items():
        found = examined(engine, text, back)
        assert found.findings == [], name
        assert warned is None or any(warned in one for one in found.warnings), (name, found.warnings)
        assert not any("does not take everything back" in one for one in found.warnings), (name, found.warnings)


def test_what_was_looked_at_is_allowed_and_told_as_a_risk(engine: Engine) -> None:
    text = "ALTER TABLE public.few DROP note"
    change = migration(text, "ALTER TABLE public.few ADD note text", allow=["ban-drop-column"])
    found = examine.examine(engine.connection, change)
    assert found.findings == []
    (risk,) = [one for one in plan.make(change, found).risks if one.level == "high"]
    assert "ban-drop-column" in risk.reason


def test_nothing_allows_what_cannot_be_a_step(engine: Engine) -> None:
    found = examined(engine, "COMMIT", allow=["transaction-control", "ban-drop-colum"])
    assert found.findings
    assert "operations[0].sql.allow: transaction-control cannot be allowed" in found.warnings
    assert "operations[0].sql.allow: no statement breaks a rule called ban-drop-colum" in found.warnings


def test_a_warning_that_was_looked_at_is_not_given_again(engine: Engine) -> None:
    text, back = "CREATE POLICY p ON public.few USING (true)", "DROP POLICY p ON public.few"
    assert any("(policy)" in one for one in examined(engine, text, back).warnings)
    assert examined(engine, text, back, allow=["policy"]).warnings == []


def test_what_could_have_effects_of_its_own_is_never_rehearsed(engine: Engine) -> None:
    """A sequence that was asked for a number does not take it back."""
    engine.execute("CREATE SEQUENCE asked")
    for text in (
        "SELECT nextval('public.asked')",
        "DO $$ BEGIN PERFORM nextval('public.asked'); END $$",
        "CREATE TABLE public.made AS SELECT nextval('public.asked') AS n",
        "UPDATE public.few SET id = a.n FROM (SELECT nextval('public.asked') AS n) a",
        "INSERT INTO public.few VALUES (nextval('public.asked'))",
    ):
        found = examined(engine, text, "SELECT nextval('public.asked')")
        assert found.findings == [], text
        assert found.dry_run is not None
        assert all(not seen.measured for seen in found.dry_run.seen.values()), text
    assert engine.value("SELECT is_called FROM asked") is False


def test_a_rewrite_that_the_linter_does_not_know_is_seen_in_the_rehearsal(engine: Engine) -> None:
    """A domain with a check: squawk has nothing against the column, and PostgreSQL rewrites the table for it."""
    engine.execute("CREATE DOMAIN whole AS integer CHECK (value >= 0)")
    add, back = "ALTER TABLE public.jobs ADD n public.whole", "ALTER TABLE public.jobs DROP n"
    (finding,) = examined(engine, add, back).findings
    assert "rewrites its table under ACCESS EXCLUSIVE" in finding.problem
    assert "Use add_column" in finding.remedy
    assert examined(engine, add, back, allow=["long-lock"]).findings == []
    few = examined(engine, add.replace("jobs", "few"), back.replace("jobs", "few"))
    assert few.findings == []
    assert any("rewrites its table" in warning for warning in few.warnings)


def test_a_statement_that_cannot_work_is_refused_in_postgresqls_words(engine: Engine) -> None:
    (finding,) = examined(engine, "ALTER TABLE public.jobs ALTER nope DROP DEFAULT").findings
    assert 'column "nope" of relation "jobs" does not exist' in finding.problem


def test_a_way_back_that_leaves_something_is_told(engine: Engine) -> None:
    found = examined(
        engine, "ALTER TABLE public.jobs ADD a integer; CREATE VIEW public.v AS SELECT a FROM public.jobs",
        "DROP VIEW public.v",
    )  # fmt: skip
    (warning,) = [one for one in found.warnings if "operations[0].sql.rollback" in one]
    assert "column a integer" in warning
    found = examined(engine, "ALTER TABLE public.jobs ADD a integer", "ALTER TABLE public.jobs DROP b")
    assert any('column "b" of relation "jobs" does not exist' in one for one in found.warnings)


def test_the_rehearsal_leaves_no_trace_and_never_locks_the_table(engine: Engine) -> None:
    """Another session reads on in the middle of a transaction, and what it holds makes nobody wait."""
    before = engine.execute(
        "SELECT oid, relname, xmin::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    with engine.connect() as application:
        application.autocommit = False
        application.execute("UPDATE jobs SET total = 0 WHERE id = 1")
        found = examined(
            engine, "ALTER TABLE public.jobs ADD a integer; CREATE VIEW public.v AS SELECT a FROM public.jobs",
            "DROP VIEW public.v; ALTER TABLE public.jobs DROP a", allow=["ban-drop-column"],
        )  # fmt: skip
        application.rollback()
    assert found.findings == []
    assert found.dry_run is not None
    assert [seen.lock for seen in found.dry_run.seen.values()] == ["ACCESS EXCLUSIVE", "ACCESS SHARE"]
    after = engine.execute(
        "SELECT oid, relname, xmin::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    assert after == before
    assert engine.value("SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'") == 0


def test_what_is_not_copied_is_told_by_rule(engine: Engine) -> None:
    engine.execute("CREATE VIEW v AS SELECT id FROM jobs")
    found = examined(engine, "ALTER VIEW public.v RENAME TO w", "ALTER VIEW public.w RENAME TO v")
    assert found.dry_run is not None
    (seen,) = found.dry_run.seen.values()
    assert not seen.measured
    assert any("was not tried" in one for one in found.warnings)


def test_without_the_linter_nothing_is_refused_for_it_and_it_is_said(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    found = examined(engine, "ALTER TABLE public.few DROP note")
    assert found.findings == []
    assert any("checked by backfilld's own rules only" in one for one in found.warnings)


def test_a_linter_that_answers_nonsense_is_no_linter(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "squawk").write_text("#!/bin/sh\necho oops\nexit 1\n")
    (tmp_path / "squawk").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    assert any("the linter `squawk` failed" in one for one in examined(engine, "DROP TABLE public.few").warnings)


# --- running it --------------------------------------------------------------------------------------------------------

RAW = """
name: raw
operations:
  - add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)"}
  - sql:
      phase: %s
      run: |
        CREATE VIEW public.loud AS SELECT id, shout FROM public.jobs WHERE shout LIKE '%%' || ';' || '%%';
        COMMENT ON VIEW public.loud IS '100%%';
      rollback: DROP VIEW public.loud
settings: {approve: %s}
"""


def is_there(engine: Engine) -> bool:
    return engine.value("SELECT to_regclass('public.loud') IS NOT NULL") is True


@pytest.mark.parametrize("phase", ["switch", "contract"])
def test_it_runs_in_its_phase(engine: Engine, phase: str) -> None:
    run = engine.enqueue(RAW % (phase, f"[{phase}]"))
    now = engine.drive(run)
    expect(now, State.WAITING)
    assert not is_there(engine)
    commands.approve(engine.connection, run, phase, actor="ann")
    expect(engine.drive(run), State.COMPLETED)
    assert engine.value("SELECT obj_description('public.loud'::regclass)") == "100%"


@pytest.mark.parametrize("phase", [Phase.BACKFILL, Phase.VERIFY, Phase.SWITCH, Phase.CONTRACT])
def test_rollback_takes_it_back_from_every_phase(engine: Engine, phase: Phase) -> None:
    engine.execute("ALTER TABLE jobs ADD n integer")
    run = engine.enqueue(
        json.dumps({
            "name": "raw",
            "operations": [
                {"backfill": {"table": "jobs", "set": {"status": "upper(status)"}, "where": "status = lower(status)"}},
                {"sql": {"run": "CREATE VIEW public.loud AS SELECT n FROM public.jobs", "rollback": "DROP VIEW public.loud"}},
                {"sql": {"phase": "switch", "run": "COMMENT ON TABLE public.jobs IS 'switched'",
                         "rollback": "COMMENT ON TABLE public.jobs IS NULL"}},
            ],
            "settings": {"approve": ["contract"]},
        })
    )  # fmt: skip
    entered: set[Phase] = set()

    def there(run: Run) -> bool:
        entered.add(run.phase)
        return run.phase is phase

    engine.drive(run, until=there)
    assert is_there(engine)
    commands.rollback(engine.connection, run, actor="ann")
    expect(engine.drive(run), State.ROLLED_BACK)
    assert not is_there(engine)
    assert engine.value("SELECT obj_description('public.jobs'::regclass)") is None


def test_a_statement_that_fails_takes_the_others_with_it(engine: Engine) -> None:
    """They commit together or not at all, and the run says which failed."""
    run = engine.enqueue(
        json.dumps({"name": "raw", "operations": [{"sql": {
            "run": "CREATE VIEW public.loud AS SELECT id FROM public.jobs; SELECT 1 / (count(*) - count(*)) FROM public.jobs",
            "rollback": "DROP VIEW public.loud"}}]})
    )  # fmt: skip
    now = engine.drive(run)
    expect(now, State.FAILED)
    assert "division by zero" in str(now.error)
    assert not is_there(engine)
