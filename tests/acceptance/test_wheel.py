"""What is shipped: looked into, and used by a stranger, whose folder is full of packages with the names of our own folders."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_daemon import environment, until
from packaging.requirements import Requirement
from paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

MIGRATION = """
name: jobs-shout
operations:
  - add_column: {table: jobs, column: {name: shout, type: text}, backfill: "upper(status)", not_null: true}
"""
BUILD = runpy.run_path(str(ROOT / "hatch_build.py"))
#: Where a package of an application's own would be in our way.
FOLDERS = ("migrations", "monitoring", "worker", "producers")


def built(kind: str, folder: Path, source: Path = ROOT) -> Path:
    """The one file that is built of a source tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("sdist", tmp_path_factory.mktemp("sdist"))


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as files:
        return set(files.namelist())


def test_the_wheel_is_one_package_with_all_that_it_reads_and_no_test(wheel: Path) -> None:
    found = names(wheel)
    assert {name.split("/")[0].removesuffix(".dist-info").split("-")[0] for name in found} == {"backfilld"}
    assert not [name for name in found if "test" in name.lower()]
    shipped = {f"backfilld/{file.relative_to(ROOT)}" for part in FOLDERS for file in (ROOT / part).rglob("*.*")}
    read = {name for name in shipped if name.endswith((".sql", ".json", ".yaml", ".yml", ".tcss"))}
    assert {name for name in read if "/prometheus/tests/" not in name} <= found
    assert "backfilld/py.typed" in found
    assert "backfilld/migrations/record/sql/schema/0001_control.sql" in found


def test_the_page_of_an_index_has_no_dead_link(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        (file,) = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        page = files.read(file).decode()
    assert "# backfilld" in page
    assert re.findall(r"\]\((?!https?://|#)", page) == []


@pytest.mark.parametrize(
    ("text", "with_address", "without"),
    [
        ("[way](docs/a.md#b)", "[way](https://git.example.com/b/blob/main/docs/a.md#b)", "way"),
        ("![look](docs/a.svg)", "![look](https://git.example.com/b/raw/main/docs/a.svg)", ""),
        ("[`x`](docs/a.md), [y](b/)", "[`x`](https://git.example.com/b/blob/main/docs/a.md), [y](https://git.example.com/b/blob/main/b/)", "`x`, y"),
        ("[out](https://example.com) [in](#here)", "[out](https://example.com) [in](#here)", "[out](https://example.com) [in](#here)"),
    ],
)  # fmt: skip
def test_links_of_the_readme_lead_to_the_repository(text: str, with_address: str, without: str) -> None:
    absolute = BUILD["absolute"]
    assert absolute(text, "https://git.example.com/b") == with_address
    assert absolute(text, "") == without


def test_the_links_of_the_project_are_of_pages_that_are_there() -> None:
    found = BUILD["urls"]("https://git.example.com/b")
    pages = [url.removeprefix("https://git.example.com/b/blob/main/") for url in found.values() if "/blob/" in url]
    assert len(pages) == 2
    assert all((ROOT / page).exists() for page in pages)
    assert BUILD["urls"]("") == {}


def test_the_sdist_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as files:
        files.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    assert not (unpacked / "tests").exists()
    assert (unpacked / "examples").is_dir()
    again = tmp_path / "dist"
    again.mkdir()
    assert names(built("wheel", again, unpacked)) == names(wheel)


class Stranger:
    """A user who has installed the wheel, without extras, and works in a folder of his application's."""

    def __init__(self, home: Path, wheel: Path) -> None:
        self.home = home
        self.folder = home / "application"
        self.folder.mkdir()
        for name in FOLDERS:
            (self.folder / name).mkdir()
            for file in ("__init__.py", "app.py", "supervisor.py", "child.py"):
                (self.folder / name / file).write_text(
                    f"raise SystemExit('{name}/{file} of the application was run')\n"
                )
        (self.folder / "backfilld.yaml").write_text(MIGRATION)
        self._user = _user()
        self._library = {"LD_LIBRARY_PATH": str(home / "python" / "lib")} if self._user else {}
        python = _copy_of_python(home) if self._user else sys.executable
        subprocess.run(
            [python, "-m", "venv", "--without-pip", home / "env"],
            env=os.environ | self._library, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.bin = home / "env" / "bin"
        self._install(wheel)
        home.chmod(0o755)
        if self._user:
            shutil.chown(self.folder, self._user)

    def _install(self, wheel: Path) -> None:
        """What `pip install backfilld-….whl` would, but for the network: dependencies come from the tests' environment."""
        (site,) = (self.home / "env").glob("lib/python3*/site-packages")
        for file in _files(_dependencies()):
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(file.locate()), target)  # with its time: what is compiled of it counts
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(self.bin / "python")]
        command = [*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
        subprocess.run(command, env=os.environ | self._library, check=True, stdin=subprocess.DEVNULL)

    def command(self, database_url: str, redis_url: str, *command: str) -> dict[str, Any]:
        """For subprocess. Any: its options."""
        kept = {"PATH", "LANG", "TZ"}
        variables = {
            name: value
            for name, value in environment(database_url, redis_url).items()
            if name in kept or name.startswith("BACKFILLD_")
        }
        variables |= {"HOME": str(self.folder), "TMPDIR": str(self.folder)} | self._library
        return {
            "args": [str(self.bin / command[0]), *command[1:]],
            "cwd": self.folder,
            "env": variables,
            "stdin": subprocess.DEVNULL,
            "user": self._user,
        }


def _user() -> str | None:
    """An ordinary user; None for ourselves, where we are one."""
    return "nobody" if os.geteuid() == 0 else None


def _copy_of_python(home: Path) -> Path:
    """This Python where the user can reach it: a virtual environment's may lie below /root. Gives the program."""
    copy, library = home / "python", Path(sysconfig.get_path("stdlib"))
    left_out = shutil.ignore_patterns("site-packages", "test", "tests", "idlelib", "config-*")
    shutil.copytree(library, copy / library.relative_to(sys.base_prefix), ignore=left_out)
    for shared in Path(sys.base_prefix, "lib").glob("libpython3*.so*"):
        shutil.copy(shared, copy / "lib")
    program = copy / "bin" / f"python3.{sys.version_info.minor}"
    program.parent.mkdir()
    shutil.copy(os.path.realpath(sys.executable), program)
    return program


def _dependencies() -> set[str]:
    """The distributions that `pip install backfilld` brings along, without any extra of ours."""
    found: set[str] = set()
    wanted = [("backfilld", "")]
    while wanted:
        name, extra = wanted.pop()
        for text in metadata.requires(name) or ():
            one = Requirement(text)
            if (one.marker is None or one.marker.evaluate({"extra": extra})) and one.name.lower() not in found:
                found.add(one.name.lower())
                wanted += [(one.name, part) for part in ("", *one.extras)]
    return found


def _files(distributions: set[str]) -> Iterator[metadata.PackagePath]:
    for name in distributions:
        for file in metadata.files(name) or ():
            if ".." not in file.parts and Path(str(file.locate())).exists():
                yield file


@pytest.fixture
def stranger(wheel: Path) -> Iterator[Stranger]:
    # Not tmp_path, which only we may enter.
    with tempfile.TemporaryDirectory(prefix="backfilld-stranger-", ignore_cleanup_errors=True) as folder:
        yield Stranger(Path(folder), wheel)


def test_a_stranger_does_the_main_job_from_a_folder_of_his_own(
    stranger: Stranger, empty_database_url: str, redis_url: str
) -> None:
    def run(*command: str) -> str:
        done = subprocess.run(
            **stranger.command(empty_database_url, redis_url, *command), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return str(done.stdout)

    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE jobs (id bigint PRIMARY KEY, status text NOT NULL)")
        connection.execute("INSERT INTO jobs SELECT n, 'open' FROM generate_series(1, 1000) n")
        run("backfilld", "init")
        with (stranger.folder / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                **stranger.command(empty_database_url, redis_url, "backfilld", "worker"), stdout=log, stderr=log
            )
        try:
            assert "verified" in run("backfilld", "enqueue", "backfilld.yaml", "--wait", "--timeout", "120")
            run("backfilld", "gate", "jobs-shout")
            assert '"verified": true' in run("python", "-m", "backfilld", "status", "jobs-shout", "--json")
            program = "from backfilld import Client; print(Client().status('jobs-shout').state)"
            assert run("python", "-c", program).strip() == "waiting"
            assert connection.execute("SELECT count(*) FROM jobs WHERE shout = 'OPEN'").fetchone() == (1000,)
        finally:
            worker.terminate()
            until("the daemon to end", lambda: worker.poll() is not None)
        assert worker.returncode == 0, (stranger.folder / "worker.log").read_text(encoding="utf-8")
