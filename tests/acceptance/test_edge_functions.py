"""Real supabase-js edge functions, in a real Deno, before an API: old code, and code that reads both schemas.

What `uses` and `check` say beforehand is what then happens to the functions, phase by phase. Deno and npm packages come from their
registries, so this is no part of `make test`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
from fix_daemon import until
from fix_postgres import missing_service
from fix_runs import Engine, expect
from pydantic import SecretStr
from typer.testing import CliRunner

from backfilld.migrations.record import audit
from backfilld.migrations.record.states import Phase, State
from backfilld.monitoring.checks.targets import Targets
from backfilld.producers.cli import app
from backfilld.worker.lanes.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_rest import Rest

pytestmark = pytest.mark.soak

TABLES = """
CREATE TABLE jobs (id bigint PRIMARY KEY, total int NOT NULL, details text NOT NULL, note text);
INSERT INTO jobs VALUES (1, 10, '{"a": 1}', 'x'), (2, 2, '{}', 'y'), (3, 30, '[1]', NULL);
"""

MIGRATION = """
name: jobs-change
operations:
  - rename_column: {table: jobs, from: total, to: revenue}
  - change_type: {table: jobs, column: details, type: jsonb}
  - drop_column: {table: jobs, column: note}
application:
  http:
    - {name: old code, get: $OLD}
    - {name: either schema, get: $EITHER}
  commands:
    - {name: edge functions, run: [DENO, check, --quiet, functions/old.ts], types_to: functions/database.ts}
  on_regression: warn
settings: {approve: []}
"""

OLD = """\
import { createClient } from "npm:@supabase/supabase-js@2.109.0";
import type { Database } from "./database.ts";

const db = createClient<Database>(Deno.env.get("SUPABASE_URL")!, "anon");

Deno.serve(async () => {
  const { data, error } = await db.from("jobs").select("id, total, details").gt("total", 5).order("id");
  if (error) return Response.json({ error: error.message }, { status: 500 });
  return Response.json(data.map((job) => ({ id: job.id, total: job.total + 1, details: job.details })));
});
"""

EITHER = """\
import { createClient } from "npm:@supabase/supabase-js@2.109.0";
import { askJobs, readJobs } from "./transition.ts";

const db = createClient(Deno.env.get("SUPABASE_URL")!, "anon");

Deno.serve(async () => {
  const { data, error } = await askJobs(({ table, columns }) =>
    db.from(table).select(`id, ${columns.revenue}, details`).gt(columns.revenue, 5).order("id")
  );
  if (error) return Response.json({ error: error.message }, { status: 500 });
  return Response.json((data as unknown as Record<string, unknown>[]).map(readJobs));
});
"""


def _deno() -> str:
    found = shutil.which("deno", path=str(Path(sys.executable).parent)) or shutil.which("deno")
    return found or missing_service("deno is not there: pip install deno")


@contextmanager
def _served(deno: str, file: Path, rest: Rest) -> Iterator[str]:
    """An edge function that serves; its URL."""
    with subprocess.Popen(
        [deno, "run", "-A", "--no-lock", str(file)],
        env={**os.environ, "SUPABASE_URL": rest.url, "DENO_SERVE_ADDRESS": "tcp:127.0.0.1:0", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(iter(process.stdout.readline, "")), daemon=True)  # type: ignore[union-attr] # asserted above
        reader.start()
        try:
            until("the function to serve", lambda: any("Listening on" in line for line in said), patience_seconds=120)
            (line,) = [line for line in said if "Listening on" in line]
            yield line.split("Listening on ")[1].split()[0].replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - what it says, not where we listen
        finally:
            process.terminate()


def test_edge_functions_do_what_was_said_beforehand(
    engine: Engine, rest: Rest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deno, functions = _deno(), tmp_path / "functions"
    monkeypatch.chdir(tmp_path)
    functions.mkdir()
    text = MIGRATION.replace("DENO", deno)
    (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
    (functions / "old.ts").write_text(OLD, encoding="utf-8")
    (functions / "either.ts").write_text(EITHER, encoding="utf-8")
    engine.execute(TABLES)

    def backfilld(*words: str) -> tuple[int, str]:
        answer = CliRunner().invoke(app, ["--database-url", engine.url, *words])
        return answer.exit_code, answer.stdout

    # Beforehand: the lines, the verdict of the compiler, and the module.
    assert backfilld("codegen", "m.yaml", "--lang", "typescript", "--write", "functions/transition.ts")[0] == 0
    assert backfilld("types", "m.yaml", "--at", "today", "--write", "functions/database.ts")[0] == 0
    _, printed = backfilld("uses", "m.yaml", "--in", "functions/old.ts", "--in", "functions/either.ts", "--json")
    used = json.loads(printed)
    lines = {(Path(one["file"]).name, one["line"], one["names"]) for one in used["certain"]}
    assert lines == {
        *(("old.ts", 7, name) for name in ("jobs.total", "jobs.details")),
        *(("old.ts", 9, name) for name in ("jobs.total", "jobs.details")),
    }
    code, printed = backfilld("check", "m.yaml", "--json")
    (verdict,) = json.loads(printed)["commands"]
    assert code == 1, printed
    assert (verdict["fails_today"], verdict["fails_from"]) == (False, "contract")
    assert any("column 'total' does not exist on 'jobs'" in line for line in verdict["runs"][-1]["lines"])

    # Then it happens.
    with _served(deno, functions / "old.ts", rest) as old, _served(deno, functions / "either.ts", rest) as either:
        stopping = threading.Event()
        stopping.set()
        targets = Targets(allowed=[old, either], values={"OLD": SecretStr(old), "EITHER": SecretStr(either)})
        runner = Runner(
            engine.pool, send=engine.sent.append, observe=engine.events.append, stopping=stopping, targets=targets
        )
        answers: dict[Phase, Any] = {}

        def look(now: Any) -> bool:
            if now.phase not in answers:
                with urlopen(either) as got:  # noqa: S310 - our own server
                    answers[now.phase] = json.load(got)
            return False

        run = engine.enqueue(text)
        expect(engine.drive(run, runner=runner, until=look), State.COMPLETED)
        with urlopen(either) as got:  # noqa: S310 - our own server
            answers[Phase.DONE] = json.load(got)

    found = {
        event["detail"]["moment"]: {one["problem"] for one in event["detail"]["findings"] if one["kind"] == "api"}
        for event in audit.story(engine.connection, run)
        if event["what"] == "application.checked"
    }
    begins = "the probe old code is not answered as before the run: "
    changed = "[0].details was a text and is an object; [1].details was a text and is a list"
    assert found["after_switch"] == found["before_contract"] == {begins + changed}
    assert found["after_contract"] == {begins + "it answers 500, and 200 before"}
    right = [{"id": 1, "revenue": 10, "details": {"a": 1}}, {"id": 3, "revenue": 30, "details": [1]}]
    assert answers == dict.fromkeys(Phase, right)
