"""What is predicted of policies is what PostgreSQL does, row by row: every persona, every command, one set of policies after another."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_rules import engine_at
from psycopg import sql

from backfilld.migrations.file import migration as definition
from backfilld.migrations.operations import Action, bind_one
from backfilld.migrations.operations.replace_policies.steps import ReplacePolicies
from backfilld.migrations.planning import examine
from backfilld.migrations.policies.comparison import COMPARED, Comparison, become
from backfilld.migrations.policies.rules import Command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fix_runs import Engine

    from backfilld.migrations.postgres.policies import Persona, PolicySet

ANN, BOB = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"

#: A table, another one that has policies of its own, and a function that does to each row whatever its caller may do.
SCHEMA = """
CREATE SCHEMA app;
CREATE TABLE app.members ("user" uuid, team integer, PRIMARY KEY ("user", team));
INSERT INTO app.members VALUES (%(ann)s, 1), (%(ann)s, 2), (%(bob)s, 3);
ALTER TABLE app.members ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON app.members FOR SELECT TO authenticated USING ("user" = auth.uid());
CREATE TABLE app."Order" (id integer, part text, owner uuid, team integer, "Status" text, PRIMARY KEY (id, part));
INSERT INTO app."Order" SELECT n, 'a, b', (ARRAY[%(ann)s, %(bob)s, NULL]::uuid[])[1 + n %% 3], nullif(n %% 5, 4),
    (ARRAY['draft', 'open', 'secret', NULL])[1 + n %% 4] FROM generate_series(1, 16) n;
GRANT USAGE ON SCHEMA app TO anon, authenticated, service_role;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO anon, authenticated, service_role;
CREATE FUNCTION app.every_order() RETURNS SETOF app."Order" LANGUAGE sql SECURITY DEFINER AS 'SELECT o.* FROM app."Order" o';
CREATE FUNCTION app.truth() RETURNS TABLE (command text, id integer) LANGUAGE plpgsql AS $$
DECLARE r app."Order"; n integer; refused text;
BEGIN
    FOR r IN SELECT o.* FROM app.every_order() o LOOP
        id := r.id;
        FOREACH command IN ARRAY ARRAY['select', 'insert', 'update', 'delete', 'upsert'] LOOP
            n := 0; refused := '';
            BEGIN
                CASE command
                    WHEN 'select' THEN PERFORM FROM app."Order" o WHERE o.id = r.id;
                    WHEN 'insert' THEN INSERT INTO app."Order" VALUES (r.id + 1000, r.part, r.owner, r.team, r."Status");
                    WHEN 'update' THEN UPDATE app."Order" o SET owner = o.owner WHERE o.id = r.id;
                    WHEN 'upsert' THEN
                        INSERT INTO app."Order" AS o VALUES (r.id, r.part, r.owner, r.team, r."Status")
                            ON CONFLICT ON CONSTRAINT "Order_pkey" DO UPDATE SET owner = excluded.owner;
                    ELSE DELETE FROM app."Order" o WHERE o.id = r.id;
                END CASE;
                GET DIAGNOSTICS n = ROW_COUNT;
                RAISE EXCEPTION 'undo' USING ERRCODE = 'XX999';
            EXCEPTION
                WHEN SQLSTATE 'XX999' THEN NULL;
                WHEN insufficient_privilege THEN refused := sqlerrm;
            END;
            IF command = 'update' AND n = 1 THEN
                RETURN NEXT; command := 'update_check'; RETURN NEXT; command := 'update';
            ELSIF n = 1 OR command = 'update' AND refused LIKE 'new row violates%%' THEN
                RETURN NEXT;
            END IF;
        END LOOP;
    END LOOP;
END $$;
"""

#: Each is put in the place of the one before it.
SETS: dict[str, list[dict[str, Any]]] = {
    "the owner's": [{"name": "own", "to": ["authenticated"], "using": "owner = auth.uid()"}],
    "everybody reads": [{"name": "read", "for": "select", "using": "true"}],
    "read and write apart": [
        {
            "name": "read",
            "for": "select",
            "to": ["authenticated"],
            "using": "owner = (SELECT auth.uid()) OR \"Status\" = 'open'",
        },
        {"name": "write", "for": "update", "to": ["authenticated"], "using": "owner IS NOT NULL", "check": "team = 1"},
    ],
    "restrictive alone": [{"name": "not secret", "restrictive": True, "using": "\"Status\" <> 'secret'"}],
    "restrictive and permissive": [
        {"name": "all", "using": "true", "check": "owner IS NULL"},
        {"name": "not secret", "restrictive": True, "using": "\"Status\" <> 'secret'"},
        {"name": "no team 3", "for": "update", "restrictive": True, "using": "team < 3", "check": "team <> 2"},
    ],
    "by role": [
        {"name": "anon", "for": "select", "to": ["anon"], "using": "\"Status\" = 'open'"},
        {"name": "own", "to": ["authenticated"], "using": "owner = auth.uid()"},
        {"name": "service", "to": ["service_role"], "using": "false"},
    ],
    "joined to a table with policies": [
        {"name": "team", "to": ["authenticated"], "using": "team IN (SELECT m.team FROM app.members m)"},
        {
            "name": "anon",
            "for": "select",
            "to": ["anon"],
            "using": 'EXISTS (SELECT FROM app.members m WHERE m.team = "Order".team)',
        },
    ],
    "insert and read": [
        {"name": "add", "for": "insert", "check": "\"Status\" = 'draft'"},
        {"name": "read", "for": "select", "to": ["authenticated", "anon"], "using": "team > 1"},
    ],
    "update of what cannot be read": [{"name": "write", "for": "update", "using": "true"}],
    "delete": [
        {"name": "read", "for": "select", "using": "team IS NOT NULL"},
        {
            "name": "gone",
            "for": "delete",
            "to": ["authenticated"],
            "using": "owner = auth.uid() AND \"Status\" = 'draft'",
        },
    ],
    "by claims": [
        {"name": "claims", "using": "team = (auth.jwt() -> 'app_metadata' ->> 'team')::integer"},
        {"name": "setting", "for": "select", "using": "current_setting('app.team', true) = team::text"},
    ],
    "like % and quotes": [
        {"name": 'odd "name" %', "using": "\"Status\" LIKE 'o%' OR \"Status\" = 'it''s' -- a comment"},
    ],
}

PERSONAS: dict[str, dict[str, Any]] = {
    "ann": {
        "role": "authenticated",
        "claims": {"sub": ANN, "app_metadata": {"team": 1}},
        "settings": {"app.team": "3"},
    },
    "bob": {"role": "authenticated", "claims": {"sub": BOB}},
    "without claims": {"role": "authenticated"},
    "anon": {"role": "anon"},
    "service": {"role": "service_role"},
    "owner": {"role": "postgres"},
}


@pytest.fixture
def project(supabase_url: str) -> Iterator[Engine]:
    with engine_at(supabase_url) as engine:
        text = psycopg.ClientCursor(engine.connection).mogrify(SCHEMA, {"ann": ANN, "bob": BOB})
        engine.connection.execute(text.encode())
        engine.execute(
            'GRANT SELECT, INSERT ON app."Order" TO service_role; REVOKE DELETE ON app."Order" FROM service_role'
        )
        yield engine


def migration(policies: list[dict[str, Any]], personas: Mapping[str, Any] = PERSONAS) -> definition.Migration:
    text = {
        "name": "policies",
        "application": {"personas": {name.replace(" ", "_"): one for name, one in personas.items()}},
        "operations": [{"replace_policies": {"table": "app.Order", "policies": policies, "enable": True}}],
    }
    return definition.parse(json.dumps(text))


def predicted(
    engine: Engine, one: ReplacePolicies, persona: Persona, now: PolicySet, later: PolicySet
) -> set[tuple[str, int]]:
    """The commands and rows that are said to succeed by the later set; what is said of the present one was right."""
    comparison = Comparison(table=one.table, key=one.facts.key, condition=sql.SQL("true"))
    allowed = set()
    for before in (now, None):  # by itself, all of its rows are gained
        with engine.connection.transaction(force_rollback=True):
            engine.connection.execute("SET LOCAL search_path = ''")
            made = (
                *comparison.rows(),
                *comparison.rules(persona, before, later, seen=comparison.condition, really="now"),
                *become(persona),
            )
            for statement in made:
                engine.connection.execute(statement)
            for row in engine.connection.execute(COMPARED).fetchall():
                if before is not None:
                    assert row["wrong"] == 0, (persona.name, row)
                else:
                    assert row["rows_then"] == len(row["gained_keys"])
                    allowed |= {(row["command"], int(key[0])) for key in row["gained_keys"]}
    return allowed


def truth(engine: Engine, persona: Persona) -> set[tuple[str, int]]:
    """The commands and rows that really succeed."""
    with engine.connection.transaction(force_rollback=True):
        for statement in become(persona):
            engine.connection.execute(statement)
        rows = engine.connection.execute("SELECT command, id FROM app.truth()").fetchall()
    return {(row["command"], row["id"]) for row in rows}


def test_what_is_predicted_is_what_postgresql_does(project: Engine) -> None:
    """Of the sets at least one lets each persona that policies are asked for do each command to some row, and not to another."""
    seen: dict[tuple[str, str], set[int]] = {}
    for name, policies in SETS.items():
        asked = migration(policies)
        found = examine.examine(project.connection, asked)
        assert not found.findings, (name, found.findings)
        one = bind_one(asked, 0, found.facts[0])
        assert isinstance(one, ReplacePolicies)
        said = {persona.name: predicted(project, one, persona, one.old, one.new) for persona in one.personas}
        switch = one.switch()[0]
        assert isinstance(switch, Action)
        for statement in switch.statements:
            project.connection.execute(statement.sql)
        for persona in one.personas:
            assert said[persona.name] == truth(project, persona), (name, persona.name)
            for command in Command:
                rows = sum(what == command for what, _ in said[persona.name])
                seen.setdefault((persona.name, command), set()).add(rows)
    assert len(SETS) == 12
    assert {who for who, _ in seen} == {"ann", "bob", "without_claims", "anon", "service", "owner"}
    assert all(
        any(0 < rows < 16 for rows in seen["ann", command])
        for command in ("select", "insert", "update", "delete", "upsert")
    )
    assert seen["service", "select"] == {16}
    assert seen["service", "delete"] == {0}, "it has no privilege, whatever the policies say"
