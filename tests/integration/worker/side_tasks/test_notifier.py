"""Delivery: once where nothing goes wrong, again where it does, and nobody ever waits for a channel."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from typing import TYPE_CHECKING, Any, Literal

import pytest
from aiosmtpd.controller import Controller
from fix_daemon import Daemon, Record, backfilld, environment, until
from fix_notices import SECRET, Receiver, receiver, webhook
from paths import ROOT
from structlog.testing import capture_logs

from backfilld.migrations.file import migration as definition
from backfilld.migrations.record import notices as store
from backfilld.migrations.settings import Channel, Settings
from backfilld.migrations.telemetry import NoticeSent, SideTaskFailed
from backfilld.monitoring import metrics
from backfilld.monitoring.notices import channels as channels_
from backfilld.monitoring.observers import Observers
from backfilld.producers import enqueueing
from backfilld.worker.side_tasks import notifier as notifier_
from backfilld.worker.side_tasks.notifier import Notifier
from backfilld.worker.side_tasks.side_task import SideTask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage
    from pathlib import Path

    from fix_runs import Engine

    from backfilld.migrations.telemetry import Event

MIGRATION = 'name: {}\noperations: [{{backfill: {{table: counters, set: {{n: "n + 1"}}}}}}]'
PAGE = ROOT / "docs" / "notifications.md"


@pytest.fixture
def told() -> Iterator[Receiver]:
    with receiver() as one:
        yield one


@dataclass
class Desk:
    """A worker's notifier, moved by hand, and a run that has something to tell."""

    engine: Engine
    run: int
    events: list[Event] = field(default_factory=list)

    def notifier(self, *channels: Channel) -> Notifier:
        one = Notifier(channels, observe=self.events.append)
        one.run_once(self.engine.connection)
        return one

    def fails(self) -> None:
        """The run fails, which is news."""
        self.engine.execute(
            """UPDATE backfilld.runs SET state = 'failed', state_since = clock_timestamp(), error = '{"class": "fatal"}'"""
        )

    def outcomes(self, channel: str = "hook") -> list[str]:
        return [one.outcome for one in self.events if isinstance(one, NoticeSent) and one.channel == channel]

    def turn(self, notifier: Notifier) -> float:
        """One turn that looks as well; returns how long it took."""
        notifier._looked_at = float("-inf")
        started = time.monotonic()
        notifier.run_once(self.engine.connection)
        return time.monotonic() - started

    def drive(self, notifier: Notifier, outcomes: int, channel: str = "hook") -> list[str]:
        """Turn until a channel has so many outcomes."""
        until("an outcome", lambda: self.turn(notifier) and len(self.outcomes(channel)) >= outcomes)
        return self.outcomes(channel)

    def hurry(self) -> None:
        """Move the clock: every wait and every claim is over."""
        self.engine.execute("UPDATE backfilld.notices SET next_try_at = clock_timestamp() WHERE delivered_at IS NULL")

    @property
    def row(self) -> dict[str, Any]:  # Any: a row
        return self.row_of("hook")

    def row_of(self, channel: str) -> dict[str, Any]:  # Any: a row
        (row,) = self.engine.execute(
            "SELECT attempts, delivered_at IS NOT NULL AS delivered, failed_at IS NOT NULL AS failed, last_error, "
            "extract(epoch FROM next_try_at - clock_timestamp())::float8 AS wait FROM backfilld.notices WHERE channel = %s",
            channel,
        )
        return row


@pytest.fixture
def desk(engine: Engine) -> Desk:
    engine.execute("CREATE TABLE counters (id bigint PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    engine.execute("INSERT INTO counters (id) SELECT generate_series(1, 10)")
    return Desk(engine, engine.enqueue(MIGRATION.format("inc")))


# --- the webhook -------------------------------------------------------------------------------------------------------


def test_a_receiver_that_does_as_the_page_says_believes_a_delivery_and_no_other(desk: Desk, told: Receiver) -> None:
    """The block of the documentation, run against a message that came."""
    notifier = desk.notifier(webhook(told.url))
    desk.fails()
    assert desk.drive(notifier, 1) == ["delivered"]
    namespace: dict[str, Any] = {}  # Any: what the block defines
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(block, namespace)  # noqa: S102 - a page of our own
    verified, (request,) = namespace["verified"], told.requests

    assert verified(request.headers, request.body, SECRET)
    assert not verified(request.headers, request.body + b" ", SECRET)
    assert not verified(request.headers, request.body, SECRET + "x")
    later = request.headers | {"Backfilld-Timestamp": str(int(request.headers["Backfilld-Timestamp"]) + 1)}
    assert not verified(later, request.body, SECRET)
    assert not verified(request.headers, request.body, SECRET, tolerance_seconds=-1)

    page = PAGE.read_text(encoding="utf-8").partition("## The webhook")[2]
    assert {key for key in request.json if f"`{key}`" not in page} == set()
    assert request.json["subject"] == "inc has failed in expand"
    assert request.json["id"] == request.headers["Backfilld-Delivery"]


def test_what_was_not_taken_is_tried_again_and_delivered_once(desk: Desk, told: Receiver) -> None:
    told.statuses = [500, 503]
    notifier = desk.notifier(webhook(told.url))
    desk.fails()
    assert desk.drive(notifier, 1) == ["retried"]
    row = desk.row
    assert (row["attempts"], row["delivered"], row["last_error"]) == (1, False, "answers 500 Internal Server Error")
    assert 5 < row["wait"] <= 12
    desk.turn(notifier)
    assert len(told.requests) == 1, "not before its time"
    for outcomes in (2, 3):
        desk.hurry()
        desk.drive(notifier, outcomes)
    desk.hurry()
    desk.turn(notifier)
    assert desk.outcomes() == ["retried", "retried", "delivered"]
    assert len({request.headers["Backfilld-Delivery"] for request in told.requests}) == 1
    assert (desk.row["attempts"], desk.row["delivered"], desk.row["last_error"]) == (3, True, None)


def test_a_channel_that_says_when_is_asked_no_sooner(desk: Desk, told: Receiver) -> None:
    told.statuses, told.headers = [429], {"Retry-After": "600"}
    notifier = desk.notifier(webhook(told.url))
    desk.fails()
    desk.drive(notifier, 1)
    assert desk.row["wait"] > 500


def test_what_was_refused_has_failed_for_good_and_is_counted(desk: Desk, told: Receiver) -> None:
    told.statuses = [410]
    notifier = desk.notifier(webhook(told.url))
    desk.fails()
    assert desk.drive(notifier, 1) == ["failed"]
    desk.hurry()
    desk.turn(notifier)
    assert len(told.requests) == 1
    assert store.count(desk.engine.connection) == (0, 1)


def test_after_a_day_it_has_failed_for_good_though_nobody_knows_the_channel_any_more(
    desk: Desk, told: Receiver
) -> None:
    told.statuses = [500]
    notifier = desk.notifier(webhook(told.url), webhook(told.url, name="gone"))
    desk.fails()
    desk.drive(notifier, 1)
    desk.engine.execute(
        "UPDATE backfilld.notices SET delivered_at = NULL, next_try_at = clock_timestamp() + interval '1 h'"
    )
    desk.engine.execute("UPDATE backfilld.notices SET created_at = created_at - interval '25 hours'")
    other = desk.notifier(webhook(told.url, name="other"))
    desk.turn(other)
    assert (desk.outcomes()[-1], desk.outcomes("gone")[-1]) == ("failed", "failed")
    assert store.count(desk.engine.connection) == (0, 2)


def test_what_was_told_long_ago_is_removed(desk: Desk, told: Receiver) -> None:
    notifier = desk.notifier(webhook(told.url))
    desk.fails()
    desk.drive(notifier, 1)
    desk.engine.execute("UPDATE backfilld.runs SET state_since = state_since - interval '20 days'")
    desk.engine.execute(
        "UPDATE backfilld.notices SET since = since - interval '20 days', delivered_at = delivered_at - interval '20 days'"
    )
    notifier._forgot_at = float("-inf")
    desk.turn(notifier)
    assert [row for row in desk.engine.execute("SELECT ordinal FROM backfilld.notices") if row["ordinal"] == 0] == []


def test_each_outcome_is_counted() -> None:
    def counted() -> list[float | None]:
        name = "backfilld_notifications_total"
        return [metrics.REGISTRY.get_sample_value(name, {"outcome": outcome}) for outcome in outcomes]

    outcomes: tuple[Literal["delivered", "retried", "failed"], ...] = ("delivered", "retried", "failed")
    before, observe = counted(), Observers()
    for times, outcome in enumerate(outcomes, start=1):
        for _ in range(times):
            observe(NoticeSent(run=1, name="inc", about="failed", channel="hook", outcome=outcome, message="m"))
    assert [(after or 0) - (was or 0) for was, after in zip(before, counted(), strict=True)] == [1, 2, 3]


# --- nobody waits ------------------------------------------------------------------------------------------------------


def test_an_endpoint_that_hangs_delays_no_other_channel_and_no_turn(desk: Desk, told: Receiver) -> None:
    told.answering.clear()
    with receiver() as well:
        notifier = desk.notifier(webhook(told.url, timeout_seconds=2), webhook(well.url, name="well"))
        desk.fails()
        started = time.monotonic()
        slowest = desk.turn(notifier)
        assert desk.drive(notifier, 1, "well") == ["delivered"]
        assert not desk.outcomes()
        assert time.monotonic() - started < 2
        while not desk.outcomes():
            slowest = max(slowest, desk.turn(notifier))
            notifier.wait(1, threading.Event())
        assert desk.outcomes() == ["retried"]
        assert desk.row_of("hook")["last_error"] == "no answer within 2 s"
        assert slowest < 1


def test_a_library_that_never_comes_back_is_left_behind_and_its_late_success_counts(
    desk: Desk, told: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte that drips in starts the library's own limit anew; the delivery has one of its own."""
    monkeypatch.setattr(channels_, "GRACE_SECONDS", 0.2)
    told.answering.clear()
    told.drips = True
    channel = Channel(name="hook", kind="apprise", url=f"json://127.0.0.1:{told.port}/", timeout_seconds=0.2)
    notifier = desk.notifier(channel)
    way: Any = notifier._desks["hook"].outlet.way  # Any: apprise's, whose rest between two messages is left out
    way.pause_seconds = way._service.request_rate_per_sec = 0
    desk.fails()
    for outcomes in range(1, notifier_.MOST_LOST + 1):
        desk.hurry()
        assert desk.drive(notifier, outcomes)[-1] == "retried"
    desk.hurry()
    desk.turn(notifier)
    assert notifier.sending == 0, "so many hang that no more is sent"
    assert len(told.requests) == notifier_.MOST_LOST
    told.answering.set()
    desk.drive(notifier, notifier_.MOST_LOST + 1)
    assert "delivered" in desk.outcomes()
    assert desk.row["delivered"]


def test_the_loop_goes_on_and_stops_soon_while_an_endpoint_hangs(
    desk: Desk, told: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier_, "FAREWELL_SECONDS", 0.5)
    told.answering.clear()
    stopping, events = threading.Event(), desk.events
    notifier = desk.notifier(webhook(told.url, timeout_seconds=30))
    desk.fails()
    task = SideTask(
        "notifier",
        notifier.run_once,
        database_url=desk.engine.url,
        stopping=stopping,
        wait=lambda sending: notifier.wait(sending, stopping),
        observe=events.append,
    )
    task.start()
    until("the message to be under way", lambda: told.requests)
    first = task.last_tick
    until("more turns", lambda: task.last_tick > first)
    started = time.monotonic()
    stopping.set()
    task.join(10)
    assert not task.is_alive()
    assert time.monotonic() - started < notifier_.FAREWELL_SECONDS + 3
    assert not [event for event in events if isinstance(event, SideTaskFailed)]


def test_what_is_under_way_at_the_end_is_settled_and_what_came_last_is_told(desk: Desk, told: Receiver) -> None:
    stopping = threading.Event()
    notifier = desk.notifier(webhook(told.url))
    stopping.set()
    desk.fails()  # after the last look
    notifier.wait(0, stopping)
    assert desk.outcomes() == ["delivered"]
    assert desk.row["delivered"]


# --- once, though workers die ------------------------------------------------------------------------------------------


def test_two_notifiers_send_a_notice_once(desk: Desk, told: Receiver) -> None:
    notifiers = [desk.notifier(webhook(told.url)) for _ in range(2)]
    desk.fails()
    together = threading.Barrier(2)

    def work(notifier: Notifier) -> None:
        with desk.engine.connect() as connection:
            together.wait()
            for _ in range(20):
                notifier._looked_at = float("-inf")
                notifier.run_once(connection)

    workers = [threading.Thread(target=work, args=[notifier]) for notifier in notifiers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    until("the outcome", lambda: [desk.turn(one) for one in notifiers] and desk.outcomes())
    assert desk.outcomes() == ["delivered"]
    assert len(told.requests) == 1


def test_a_claim_that_nobody_settles_runs_out(desk: Desk, told: Receiver) -> None:
    """A worker that died with the message gone: it comes again, under the same id."""
    told.answering.clear()
    dead = desk.notifier(webhook(told.url))
    desk.fails()
    desk.turn(dead)
    until("the message", lambda: told.requests)
    told.answering.set()
    other = desk.notifier(webhook(told.url))
    desk.turn(other)
    assert len(told.requests) == 1, "claimed"
    assert desk.row["wait"] > 30
    desk.hurry()
    desk.drive(other, 1)
    assert [request.json["id"] for request in told.requests] == [told.requests[0].json["id"]] * 2


# --- mail --------------------------------------------------------------------------------------------------------------


@dataclass
class Mailbox:
    received: list[EmailMessage] = field(default_factory=list)

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name; Any: its envelope
        self.received.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 taken"


def test_a_mail_arrives_with_subject_and_text_once_its_server_is_there(desk: Desk) -> None:
    mailbox = Mailbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"mailto://127.0.0.1:{port}?from=backfilld@example.com&to=dba@example.com"
    channel = Channel(name="hook", kind="apprise", url=url)
    notifier = desk.notifier(channel)
    desk.fails()
    assert desk.drive(notifier, 1) == ["retried"]
    desk.hurry()
    desk.turn(notifier)
    assert notifier.sending == 0, "apprise would sleep for seconds before the next, within the time for it"
    assert "dba" not in str(desk.row["last_error"])
    server = Controller(mailbox, hostname="127.0.0.1", port=port)
    server.start()
    try:
        assert desk.drive(desk.notifier(channel), 2) == ["retried", "delivered"]
    finally:
        server.stop()
    (mail,) = mailbox.received
    assert (mail["Subject"], mail["To"]) == ("inc has failed in expand", "dba@example.com")
    text = mail.get_body(("plain",))
    assert text is not None
    assert "  backfilld explain inc" in text.get_content().splitlines()


# --- nothing secret ----------------------------------------------------------------------------------------------------


def test_secrets_are_in_no_event_no_row_and_no_error(desk: Desk, told: Receiver) -> None:
    token = "t0ken-that-nobody-may-see"  # noqa: S105 - the tests' own
    told.statuses = [500, 500, 500]
    channels = (
        webhook(f"{told.url}/{token}"),
        webhook(f"http://127.0.0.1:9/{token}", name="away"),
        Channel(name="apprise", kind="apprise", url=f"json://u:{token}@127.0.0.1:{told.port}/{token}"),
    )
    with capture_logs() as lines:
        notifier = Notifier(channels, observe=Observers())
        notifier.run_once(desk.engine.connection)
        desk.fails()
        until("all outcomes", lambda: desk.turn(notifier) and len(lines) >= 3)
    rows = desk.engine.execute("SELECT n::text FROM backfilld.notices n")
    for text in (str(lines), str(rows), repr(Settings(notifications=channels))):
        assert token not in text
        assert SECRET not in text


# --- with a daemon -----------------------------------------------------------------------------------------------------


@pytest.mark.soak  # what is told again is on record, as the tests above look
def test_a_daemon_tells_of_an_approval_again_after_its_death_and_then_of_the_end(
    database_url: str, redis_url: str, record: Record, told: Receiver, tmp_path: Path
) -> None:
    """Its control process is killed with the message gone and nothing written down; the next one sends it again."""
    record.connection.execute(
        "CREATE TABLE jobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, status text NOT NULL)"
    )
    record.connection.execute("INSERT INTO jobs (status) SELECT 'done' FROM generate_series(1, 200)")
    told.answering.clear()
    channel = {"name": "hook", "kind": "webhook", "url": told.url, "secret": SECRET}
    variables = {"BACKFILLD_NOTIFICATIONS": json.dumps([channel])}
    daemon = Daemon(database_url, redis_url, tmp_path / "daemon.log", processes=1, variables=variables).ready()
    try:
        until("the channel to be known", lambda: record.one("SELECT count(*) FROM backfilld.notice_channels"))
        migration = definition.parse((PAGE.parents[1] / "examples" / "jobs_new_field.yaml").read_text(encoding="utf-8"))
        enqueueing.enqueue(record.connection, migration, actor="test")
        until("the message", lambda: told.requests)
        os.kill(daemon.children("control")[0], signal.SIGKILL)
        record.connection.execute("UPDATE backfilld.notices SET next_try_at = clock_timestamp()")
        told.answering.set()
        until("the message again", lambda: record.one("SELECT count(delivered_at) FROM backfilld.notices"))
        first, again = told.about("approval")
        assert first == again
        assert first["subject"] == "jobs-new-field waits for approval of contract"

        (command, _) = first["commands"]
        assert backfilld(*command.split()[1:], database_url=database_url, redis_url=redis_url).returncode == 0
        until("the end", lambda: told.about("completed"))
        until("its line in the log", lambda: len(daemon.lines("notice.sent")) >= 2)
        assert daemon.metric('backfilld_notifications_total{outcome="delivered"}') == 2
    finally:
        daemon.stop()
    log = daemon.log.read_text(encoding="utf-8")
    assert SECRET not in log
    assert told.url not in log


def test_a_run_without_a_daemon_tells_of_its_own_end(
    database_url: str, record: Record, told: Receiver, tmp_path: Path
) -> None:
    record.connection.execute("CREATE TABLE counters (id bigint PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    record.connection.execute("INSERT INTO counters (id) SELECT generate_series(1, 10)")
    file = tmp_path / "inc.yaml"
    file.write_text(MIGRATION.format("inc"), encoding="utf-8")
    channel = {"name": "hook", "kind": "webhook", "url": told.url, "secret": SECRET}
    subprocess.run(
        [sys.executable, "-c", "from backfilld.producers.cli import main; main()", "run", str(file)],
        env=environment(database_url, None) | {"BACKFILLD_NOTIFICATIONS": json.dumps([channel])},
        stdin=subprocess.DEVNULL,
        check=True,
        capture_output=True,
    )
    assert [one["subject"] for one in told.about("completed")] == ["inc is completed"]
    assert record.one("SELECT delivered_at IS NOT NULL FROM backfilld.notices")


def test_a_daemon_does_not_start_with_a_channel_that_cannot_be_opened(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    channel = {"name": "ops", "kind": "apprise", "url": "pigeon://t0ken-that-nobody-may-see"}
    daemon = Daemon(
        database_url, redis_url, tmp_path / "daemon.log", variables={"BACKFILLD_NOTIFICATIONS": json.dumps([channel])}
    )
    until("the daemon to be gone", lambda: daemon.process.poll() is not None)
    assert daemon.stop() == 2
    (line,) = daemon.lines("daemon.refused")
    assert line["reason"].startswith("BACKFILLD_NOTIFICATIONS__0__URL: the url of channel ops")
    assert "t0ken" not in daemon.log.read_text(encoding="utf-8")
