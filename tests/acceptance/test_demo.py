"""`backfilld demo`: what it promises is true, it says so only when it is, and nothing of it stays."""

from __future__ import annotations

import io
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fix_postgres import missing_service
from paths import ROOT
from rich.console import Console

from backfilld.producers import demo
from backfilld.producers.demo import account, site, story
from backfilld.producers.demo.account import Checked, Paused, Struck, Told
from backfilld.producers.demo.application import Latency
from backfilld.producers.demo.screen import Screen
from backfilld.producers.demo.servers import EmbeddedPostgres, EmbeddedUnavailable, EmbeddedValkey, folder
from backfilld.producers.demo.site import own_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = ROOT / "examples"

DEMO = "from backfilld.producers.cli import main; main()"
#: Too little to be struck in the middle of; for being interrupted at the start it will do.
SMALL_DEMO = (
    f"from backfilld.producers.demo import site; site.LEAST_JOBS = site.MOST_JOBS = site.JOBS_AT_ONCE = 10_000; {DEMO}"
)

#: Ten times what it should take, for machines that do other things as well. The demo's own limit is in its account.
PATIENCE_SECONDS = 600
#: A server whose demo was killed has its watchdog to end it, which is patient for ten seconds.
LEAVING_SECONDS = 30


@dataclass(frozen=True)
class Place:
    """A folder for all temporary files, and a mark in the environment of every process that is started there."""

    folder: Path
    mark: str

    def start(self, program: str) -> subprocess.Popen[str]:
        # Nothing of this may matter: not the servers, not the settings that are wrong, not the file beside it.
        user = self.folder / "user"
        user.mkdir()
        (user / "backfilld.toml").write_text("nonsense = true\n")
        return subprocess.Popen(
            [sys.executable, "-c", program, "demo"],
            cwd=user,
            env={
                **os.environ,
                "BACKFILLD_DATABASE_URL": "postgresql://somebody@127.0.0.1:1/nowhere",
                "BACKFILLD_REDIS_URL": "redis://127.0.0.1:1/0",
                "BACKFILLD_HTTP_PORT": "not a port",
                "PGHOST": "127.0.0.2",
                "PGOPTIONS": "-c default_transaction_read_only=on",
                "TMPDIR": str(self.folder / "tmp"),
                "MARK_OF_THIS_TEST": self.mark,
                "PYTHONUTF8": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def left(self) -> list[str]:
        """What is still there: files, and processes with the mark (where the system shows their environment)."""
        found = [str(path) for path in (self.folder / "tmp").iterdir()]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:  # gone, or of somebody else
                continue
        return found

    def is_clean_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.left():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


@pytest.fixture
def installed() -> None:
    """The extra `embedded` is there."""
    try:
        EmbeddedPostgres()
        EmbeddedValkey()
    except EmbeddedUnavailable as error:
        missing_service(str(error))


@pytest.fixture
def place(installed: None) -> Iterator[Place]:
    """Not tmp_path, which pytest closes to other users: as root, PostgreSQL runs as another one."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o711)
    (folder / "tmp").mkdir(mode=0o711)
    yield Place(folder, secrets.token_hex(16))
    shutil.rmtree(folder)


@pytest.mark.timeout(PATIENCE_SECONDS + 60)
def test_every_fact_of_the_account_is_true_and_nothing_stays(place: Place) -> None:
    process = place.start(DEMO)
    try:
        output, complaints = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()

    assert process.returncode == 0, output + complaints
    assert complaints == ""
    assert place.left() == []
    facts = dict(re.findall(r"^✓  (.+?)  +(\S.*)$", output, re.MULTILINE))
    assert list(facts) == [fact.name for fact in account.judge(TOLD, left_behind=(), seconds=1.0)]
    assert int(facts["rows"].split()[0].replace(",", "")) >= 300_000
    assert re.fullmatch(r"[\d,]+ writes, 0 errors", facts["application"])
    assert facts["residual rows"].startswith("0,")
    assert "✗" not in output
    # It is shown in the README.
    assert len(output.splitlines()) <= 40
    assert max(map(len, output.splitlines())) <= 80


@pytest.mark.parametrize(
    ("step", "number", "code"),
    [
        ("PostgreSQL 18 and Valkey started", signal.SIGTERM, 128 + signal.SIGTERM),
        ("Enqueued", signal.SIGINT, 130),
        pytest.param("Enqueued", signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.soak),
    ],
)
@pytest.mark.timeout(PATIENCE_SECONDS)
def test_a_demo_that_is_interrupted_leaves_nothing(place: Place, step: str, number: signal.Signals, code: int) -> None:
    process = place.start(SMALL_DEMO)
    try:
        assert process.stdout is not None
        assert any(step in line for line in process.stdout)
        process.send_signal(number)
        process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()

    assert process.returncode == code
    assert place.is_clean_within(LEAVING_SECONDS), place.left()


TOLD = Told(
    jobs_before=400_000,
    growth=10,
    writes=2_000,
    latency=Latency(median=0.001, p99=0.02, longest=0.3),
    errors=(),
    paused=Paused(acknowledged_seconds=0.1, seconds=0.4, is_still=True),
    struck=Struck(lanes_lost=2, lanes_open=4, seconds=3.5),
    checked=Checked(
        state="completed",
        phase="done",
        verified=True,
        quarantined=0,
        rows_walked=400_010,
        backfill_seconds=20.0,
        jobs_after=400_010,
        residual_rows=0,
        words_typed=40,
        words_kept=40,
        not_null=True,
        objects_left=0,
    ),
    daemon_exit_code=0,
)


def test_an_account_of_true_facts_is_a_success() -> None:
    facts = account.judge(TOLD, left_behind=(), seconds=45.0)
    assert [fact.name for fact in facts if not fact.holds] == []
    assert account.exit_code(facts) == 0


@pytest.mark.parametrize(
    ("untrue", "changes"),
    [
        ("rows", {"checked": {"rows_walked": 299_999}}),
        ("pause", {"paused": {"seconds": 2.1}}),
        ("pause", {"paused": {"warnings": ("the workers could not be told",)}}),
        ("while paused", {"paused": {"is_still": False}}),
        ("recovery", {"struck": {"seconds": 15.1}}),
        ("recovery", {"struck": {"lanes_lost": 0}}),
        ("application", {"errors": ("deadlock detected",)}),
        ("nothing lost", {"growth": 11}),
        ("nothing lost", {"checked": {"jobs_after": 400_009}}),
        ("residual rows", {"checked": {"residual_rows": 1}}),
        ("own words", {"checked": {"words_kept": 39}}),
        ("own words", {"checked": {"words_typed": 0, "words_kept": 0}}),
        ("schema", {"checked": {"not_null": False}}),
        ("schema", {"checked": {"objects_left": 1}}),
        ("the record", {"checked": {"state": "waiting", "phase": "contract"}}),
        ("the record", {"checked": {"verified": False}}),
        ("the record", {"checked": {"quarantined": 1}}),
        ("left behind", {"daemon_exit_code": -9}),
        ("left behind", {"left_behind": ("process 4711",)}),
        ("all in all", {"seconds": 90.0}),
    ],
)
def test_one_fact_that_is_not_true_fails_the_demo(untrue: str, changes: dict[str, Any]) -> None:
    """Any: values of fields, some a field deeper."""
    told = TOLD
    for name, value in changes.items():
        if hasattr(told, name):
            told = replace(told, **{name: replace(getattr(told, name), **value) if isinstance(value, dict) else value})

    facts = account.judge(told, left_behind=changes.get("left_behind", ()), seconds=changes.get("seconds", 45.0))

    assert [fact.name for fact in facts if not fact.holds] == [untrue]
    assert account.exit_code(facts) == 1
    (cross,) = [line.plain for line in account.lines(facts) if line.plain.startswith("✗")]
    assert untrue in cross


def test_the_exit_code_is_that_of_the_account(
    installed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = replace(TOLD, checked=replace(TOLD.checked, residual_rows=7))
    monkeypatch.setattr(story.Story, "run", lambda _story: wrong)
    assert demo.run(Console(), Console(stderr=True)) == 1
    output, complaints = capsys.readouterr()
    assert "7, counted by plain SQL" in output
    assert "residual rows" in complaints


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folder, "find_spec", lambda _name: None)
    assert demo.run(Console(), Console(stderr=True)) == 2
    assert 'pip install "backfilld[embedded]"' in capsys.readouterr().err


def test_the_surroundings_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKFILLD_DATABASE_URL", "postgresql://here")
    before, there = dict(os.environ), Path.cwd()
    with own_environment() as folder:
        assert Path.cwd() == folder.resolve()
        assert not [name for name in os.environ if name.startswith(("BACKFILLD_", "PG"))]
    assert (dict(os.environ), Path.cwd()) == (before, there)
    assert not folder.exists()


def test_in_a_terminal_the_steps_stand_above_what_goes_on() -> None:
    output = io.StringIO()
    with Screen(Console(file=output, force_terminal=True, width=80)) as screen:
        screen.busy("building")
        screen.step("A schema")
    assert "building" in output.getvalue()
    assert "A schema" in output.getvalue()


def test_without_unicode_the_account_has_words() -> None:
    facts = account.judge(replace(TOLD, growth=11), left_behind=(), seconds=45.0)
    marks = {line.plain[:2] for line in account.lines(facts, ascii_only=True)}
    assert marks == {"ok", "NO"}


def test_the_file_is_the_example() -> None:
    shipped = Path(site.__file__).with_name(story.EXAMPLE)
    assert shipped.read_text() == (EXAMPLES / story.EXAMPLE).read_text()
