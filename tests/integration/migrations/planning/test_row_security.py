"""What a plan says of raw SQL that opens or closes tables to whoever has few rights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg
import pytest
from fix_rules import engine_at

from backfilld.migrations.file import migration as definition
from backfilld.migrations.planning import examine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_runs import Engine

ON = 'ALTER TABLE public."Order" ENABLE ROW LEVEL SECURITY'
POLICY = 'CREATE POLICY mine ON public."Order" USING (true)'
MADE = "CREATE TABLE public.made (id bigint PRIMARY KEY)"
VIEW = 'CREATE VIEW public.seen {} AS SELECT o.id FROM public."Order" o'
FUNCTION = "CREATE FUNCTION {}.all_ids() RETURNS SETOF bigint LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$ SELECT 1::bigint $$"
REVOKED = "REVOKE EXECUTE ON FUNCTION public.all_ids() FROM PUBLIC, anon, authenticated"

#: Raw SQL, and the linter's numbers of what is said of it.
SAID: dict[str, tuple[str, set[str]]] = {
    "on without a policy": (ON, {"0008"}),
    "on with its policy": (f"{ON}; {POLICY}", set()),
    "a policy for another table": (f"{ON}; {MADE}; {POLICY.replace('Order', 'made')}", {"0008", "0013"}),
    "a table that the API shows": (MADE, {"0013"}),
    "a table that is closed": (f"{MADE}; ALTER TABLE public.made ENABLE ROW LEVEL SECURITY", {"0008"}),
    "a table elsewhere": (MADE.replace("public", "private"), set()),
    "a view of the owner's": (VIEW.format(""), {"0010"}),
    "a view as whoever asks": (VIEW.format("WITH (security_invoker = true)"), set()),
    "a view that says it is not": (VIEW.format("WITH (security_invoker = false)"), {"0010"}),
    "a function of the owner's": (FUNCTION.format("public"), {"0028, 0029"}),
    "a function that nobody may call": (f"{FUNCTION.format('public')}; {REVOKED}", set()),
    "a function elsewhere": (FUNCTION.format("private"), set()),
    "a function as whoever calls": (FUNCTION.format("public").replace("SECURITY DEFINER ", ""), set()),
}  # fmt: skip


@pytest.fixture
def project(supabase_url: str) -> Iterator[Engine]:
    with engine_at(supabase_url) as engine:
        engine.execute('CREATE TABLE "Order" (id bigint PRIMARY KEY); CREATE SCHEMA private')
        yield engine


def said(engine: Engine, *operations: object) -> list[str]:
    migration = definition.parse(json.dumps({"name": "raw", "operations": operations}))
    found = examine.examine(engine.connection, migration)
    assert not found.findings, found.findings
    return found.warnings


def raw(text: str) -> dict[str, object]:
    return {"sql": {"run": text, "rollback": "SELECT 1"}}


def numbers(warnings: list[str]) -> set[str]:
    return {
        number for number in ("0008", "0010", "0013", "0028, 0029") if any(f"[{number}]" in one for one in warnings)
    }


def test_what_is_opened_and_closed(project: Engine) -> None:
    version = project.connection.info.server_version // 10_000
    for name, (text, expected) in SAID.items():
        if version >= 15 or "security_invoker" not in text:
            assert numbers(said(project, raw(text))) == expected, name


def test_where_no_api_reaches_only_who_sees_nothing_is_told(engine: Engine) -> None:
    engine.execute('CREATE TABLE "Order" (id bigint PRIMARY KEY)')
    assert numbers(said(engine, raw(f"{MADE}; {ON}; {VIEW.format('')}"))) == {"0008"}


def test_policies_of_the_table_and_of_other_operations_count(project: Engine) -> None:
    new = {"table": "Order", "policies": [{"name": "new", "using": "true"}]}
    application = {"personas": {"visitor": {"role": "anon", "claims": {"aud": "x"}}}}
    both = {"name": "raw", "application": application, "operations": [raw(ON), {"replace_policies": new}]}
    found = examine.examine(project.connection, definition.parse(json.dumps(both)))
    assert numbers(found.warnings) == set()
    project.execute(POLICY)
    assert numbers(said(project, raw(ON))) == set()


def test_the_schemas_that_the_api_shows_are_those_of_its_role(project: Engine, supabase_admin_url: str) -> None:
    """As `ALTER ROLE authenticator SET` says it, here for this database alone."""
    shown = "private.made is in a schema that the API shows"
    database = project.value("SELECT quote_ident(current_database())")
    assert shown not in str(said(project, raw(MADE.replace("public", "private"))))
    with psycopg.connect(supabase_admin_url, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {database} SET pgrst.db_schemas = 'public, private'".encode())
    assert shown in str(said(project, raw(MADE.replace("public", "private"))))


def test_a_table_that_an_operation_makes_without_row_security(project: Engine) -> None:
    table = {"table": "made", "columns": [{"name": "id", "type": "bigint"}], "primary_key": ["id"]}
    assert numbers(said(project, {"create_table": table})) == {"0008"}
    assert numbers(said(project, {"create_table": {**table, "row_security": False}})) == {"0013"}


def test_a_view_past_row_security_that_is_turned_on(project: Engine) -> None:
    project.execute(f"{VIEW.format('')}; {POLICY}")
    assert numbers(said(project, {"enable_row_security": {"table": "Order"}})) == {"0010"}
