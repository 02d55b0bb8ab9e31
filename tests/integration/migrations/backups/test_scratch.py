"""What is unpacked for a moment may be a whole server's rows: it is gone when its owner is, however that ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fix_daemon import until

from backfilld.migrations.backups import scratch

KILLED = """
import os, signal
from backfilld.migrations.backups import scratch
with scratch.folder_for(0) as (folder, _):
    (folder / "rows").write_text("of the application")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_scratch_folder_goes_with_its_owner() -> None:
    with scratch.folder_for(0) as (folder, _):
        (folder / "rows").touch()
    assert not folder.exists()

    killed = subprocess.run([sys.executable, "-c", KILLED], check=False, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    left = Path(killed.stdout.strip())
    assert left.name.startswith("backfilld-scratch-")
    until("the folder to go", lambda: not left.exists())
