"""Tests of policies: a table with names that have to be quoted, its policies, new ones, and as whom they are compared."""

from __future__ import annotations

import json
from typing import Any

ANN = "00000000-0000-4000-8000-00000000000a"
OWN = {"name": "own rows", "to": ["authenticated"], "using": "owner = (SELECT auth.uid())"}
TEAM = {"name": "team", "for": "select", "to": ["authenticated"], "using": "team = 1"}
PERSONAS = {
    "ann": {"role": "authenticated", "claims": {"sub": ANN}},
    "visitor": {"role": "anon", "claims": {"aud": "x"}},
}
SCHEMA = f"""
CREATE SCHEMA "Odd Schema";
GRANT USAGE ON SCHEMA "Odd Schema" TO anon, authenticated;
CREATE TABLE "Odd Schema"."Order" (id bigint, "Part %" text, owner uuid, team integer, PRIMARY KEY (id, "Part %"));
INSERT INTO "Odd Schema"."Order"
    SELECT n, 'a, "b"', CASE WHEN n % 2 = 0 THEN '{ANN}'::uuid END, n % 5 FROM generate_series(1, 60) n;
GRANT SELECT, INSERT, UPDATE, DELETE ON "Odd Schema"."Order" TO anon, authenticated;
ALTER TABLE "Odd Schema"."Order" ENABLE ROW LEVEL SECURITY;
CREATE POLICY "it's old" ON "Odd Schema"."Order" TO authenticated USING (owner = auth.uid());
COMMENT ON POLICY "it's old" ON "Odd Schema"."Order" IS 'since 2019';
CREATE POLICY "no team 4" ON "Odd Schema"."Order" AS RESTRICTIVE FOR SELECT USING (team <> 4);
"""


def file(
    *policies: dict[str, Any], personas: dict[str, Any] | None = None, approve: tuple[str, ...] = (), **keys: Any
) -> str:
    """A migration file. Any: its JSON."""
    operation = {"table": "Odd Schema.Order", "policies": list(policies), **keys}
    return json.dumps(
        {
            "name": "policies",
            "application": {"personas": PERSONAS if personas is None else personas},
            "operations": [{"replace_policies": operation}],
            "settings": {"approve": list(approve), "lanes": 2},
        }
    )
