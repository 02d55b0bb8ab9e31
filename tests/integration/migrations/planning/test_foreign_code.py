"""What a role with fewer rights has run as the daemon's role is named before anything of it runs."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine, plan
from backfilld.migrations.planning.risks import Cause
from backfilld.migrations.postgres.connect import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfilld.migrations.postgres.connect import Connection

BACKFILL = """
name: m
operations:
- backfill:
    table: jobs
    set: {slug: "public.theirs(status)"}
    where: "slug <> (SELECT v.x FROM public.their_view v) AND status OPERATOR(public.~~>) 'x'"
"""

THEIRS = """
    CREATE TABLE called (by text);
    CREATE FUNCTION theirs(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN $1; END $$;
    CREATE FUNCTION their_check(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
    CREATE FUNCTION their_operator(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
    CREATE FUNCTION their_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.called VALUES (current_user); RETURN new; END $$;
    CREATE OPERATOR ~~> (LEFTARG = text, RIGHTARG = text, FUNCTION = their_operator);
    CREATE VIEW their_view AS SELECT 'x'::text AS x;
"""
OURS = """
    CREATE FUNCTION our_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
    CREATE DOMAIN checked AS text CHECK (public.their_check(value));
    CREATE TABLE jobs (id bigint PRIMARY KEY, status text CONSTRAINT of_theirs CHECK (public.their_check(status)), slug text,
                       more checked, made text DEFAULT public.theirs('x'));
    CREATE INDEX by_theirs ON jobs (public.theirs(status));
    CREATE POLICY only_theirs ON jobs USING (public.their_check(status));
    CREATE TRIGGER a_trigger BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION their_trigger();
    CREATE TRIGGER b_trigger BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION our_trigger();
    CREATE TRIGGER switched_off BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION their_trigger();
    ALTER TABLE jobs DISABLE TRIGGER switched_off;
    INSERT INTO jobs VALUES (1, 'a', 'b');
"""


@pytest.fixture
def ours(database_url: str) -> Iterator[Connection]:
    """As the daemon has it."""
    with connect(database_url) as connection:
        yield connection


@pytest.fixture
def lower(database_url: str) -> Iterator[str]:
    """A role that may do nothing but CREATE in public; what is on a table of ours belongs to it."""
    role = f"backfilld_test_lower_{secrets.token_hex(4)}"
    name = sql.Identifier(role)
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE ROLE {}; GRANT CREATE ON SCHEMA public TO {}; SET ROLE {}").format(name, name, name)
        )
        admin.execute(THEIRS)
        admin.execute("RESET ROLE")
        admin.execute(OURS)
        yield role
        admin.execute(sql.SQL("DROP OWNED BY {} CASCADE; DROP ROLE {}").format(name, name))


def test_code_of_a_lower_role_is_a_high_risk_and_named_with_its_owner(ours: Connection, lower: str) -> None:
    migration = definition.parse(BACKFILL)
    examination = examine.examine(ours, migration)
    assert {(one.kind, one.name, one.function.partition("(")[0], one.owner) for one in examination.foreign_code} == {
        ("constraint", "of_theirs", "public.their_check", lower),
        ("default", "made", "public.theirs", lower),
        ("domain", "checked_check", "public.their_check", lower),
        ("expression", "", "public.their_operator", lower),
        ("expression", "", "public.theirs", lower),
        ("index", "by_theirs", "public.theirs", lower),
        ("policy", "only_theirs", "public.their_check", lower),
        ("trigger", "a_trigger", "public.their_trigger", lower),
        ("view", "public.their_view", "", lower),
    }
    named = [risk for risk in plan.make(migration, examination).risks if risk.cause is Cause.FOREIGN_CODE]
    assert {risk.level for risk in named} == {"high"}
    assert len(named) == 9


def test_where_it_is_refused_none_of_it_has_run(ours: Connection, lower: str) -> None:
    found = examine.examine(ours, definition.parse(BACKFILL), refuses_foreign_code=True)
    assert {finding.check for finding in found.findings} == {"foreign_code"}
    assert any(lower in finding.problem and "a_trigger" in finding.problem for finding in found.findings)
    assert found.dry_run is None


def test_a_role_that_may_become_ours_and_a_superuser_are_trusted(
    ours: Connection, database_url: str, lower: str
) -> None:
    role = sql.Identifier(lower)
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(admin.info.user), role))
        assert examine.examine(ours, definition.parse(BACKFILL)).foreign_code == ()
        admin.execute(sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(admin.info.user), role))
        assert examine.examine(ours, definition.parse(BACKFILL)).foreign_code != ()
        admin.execute(sql.SQL("ALTER ROLE {} SUPERUSER").format(role))
        assert examine.examine(ours, definition.parse(BACKFILL)).foreign_code == ()
        admin.execute(sql.SQL("ALTER ROLE {} NOSUPERUSER").format(role))


def test_on_supabase_what_belongs_to_its_superuser_is_trusted(supabase_admin_url: str, supabase_url: str) -> None:
    """`postgres` is no superuser there, and `supabase_admin` is."""
    with psycopg.connect(supabase_admin_url, autocommit=True) as admin:
        admin.execute("CREATE FUNCTION public.theirs(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1'")
        admin.execute("GRANT CREATE ON SCHEMA public TO postgres")
    text = "{name: m, operations: [{backfill: {table: jobs, set: {slug: 'public.theirs(status)'}}}]}"
    with psycopg.connect(supabase_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("CREATE TABLE public.jobs (id bigint PRIMARY KEY, status text, slug text)")
        found = examine.examine(connection, definition.parse(text))
    assert found.findings == []
    assert found.foreign_code == ()
