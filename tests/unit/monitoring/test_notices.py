"""Notifications without a database: what the settings refuse, how a notice reads, and how a message leaves."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
from fix_notices import SECRET, Receiver, receiver, webhook
from typer.testing import CliRunner

from backfilld.migrations import settings
from backfilld.migrations.errors import InvalidSettings, UsageError
from backfilld.migrations.settings import Channel
from backfilld.monitoring import notices
from backfilld.monitoring.notices import NotTaken, TakenNever
from backfilld.monitoring.notices.wording import in_words
from backfilld.producers.cli import app
from backfilld.worker.side_tasks.notifier import BACKOFF, _delay_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fix_golden import Golden

TOKEN = "t0ken-that-nobody-may-see"  # noqa: S105 - the tests' own
FACTS: dict[str, Any] = {  # Any: JSON
    "run": 7,
    "name": "jobs-new-field",
    "target": "default",
    "database": "db.example.com/shop",
    "phase": "contract",
    "state": "waiting",
    "since": "2026-05-05T02:10:45+00:00",
    "at": "2026-05-05T02:10:46+00:00",
    "seconds": 1,
    "rows_done": 300000,
    "rows_total": 300000,
    "rows_quarantined": 0,
    "verified": True,
    "problem": None,
    "reminder": 0,
}


@pytest.fixture
def told() -> Iterator[Receiver]:
    with receiver() as one:
        yield one


# --- the settings ------------------------------------------------------------------------------------------------------


def refusal(monkeypatch: pytest.MonkeyPatch, *channels: dict[str, Any]) -> str:  # Any: JSON
    """What a worker says at its start about these channels."""
    monkeypatch.setenv("BACKFILLD_NOTIFICATIONS", json.dumps(channels))
    with pytest.raises(InvalidSettings) as refused:
        notices.open_channels(settings.load().notifications)
    return str(refused.value)


HOOK = {"name": "hook", "kind": "webhook", "url": f"https://example.com/{TOKEN}", "secret": SECRET}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "My Hook"}, "BACKFILLD_NOTIFICATIONS__0__NAME"),
        ({"kind": "pigeon"}, "BACKFILLD_NOTIFICATIONS__0__KIND"),
        ({"url": f"ftp://{TOKEN}/"}, "url of a webhook must be one of https://"),
        ({"url": f"https:///{TOKEN}"}, "with a host"),
        ({"url": f"https://host:{TOKEN}/"}, "url of a webhook"),
        ({"secret": "short"}, "BACKFILLD_NOTIFICATIONS__0__SECRET: must have 16 characters or more"),
        ({"secret": None}, "a channel of kind webhook needs a secret"),
        ({"kind": "apprise"}, "a channel of kind apprise has no secret"),
        ({"about": ["weather"]}, "BACKFILLD_NOTIFICATIONS__0__ABOUT__0"),
        ({"about": []}, "BACKFILLD_NOTIFICATIONS__0__ABOUT"),
        ({"held_minutes": 0}, "BACKFILLD_NOTIFICATIONS__0__HELD_MINUTES"),
        ({"remind_hours": -1}, "BACKFILLD_NOTIFICATIONS__0__REMIND_HOURS"),
        ({"timeout_seconds": 31}, "BACKFILLD_NOTIFICATIONS__0__TIMEOUT_SECONDS"),
        ({"tags": "x"}, "BACKFILLD_NOTIFICATIONS__0__TAGS"),
        ({"kind": "apprise", "secret": None, "url": f"pigeon://{TOKEN}"}, "BACKFILLD_NOTIFICATIONS__0__URL"),
        ({"kind": "apprise", "secret": None, "url": f"slack://{TOKEN}"}, "not one that apprise understands"),
        ({"kind": "apprise", "secret": None, "url": TOKEN}, "channel hook"),
    ],
)
def test_a_wrong_channel_is_refused_at_the_start_by_its_place_and_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, changed: dict[str, Any], said: str
) -> None:
    message = refusal(monkeypatch, HOOK | changed)
    assert said in message
    for text in (message, caplog.text):
        assert TOKEN not in text
        assert SECRET not in text


def test_channels_have_names_of_their_own_and_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "two channels have the name hook" in refusal(monkeypatch, HOOK, HOOK)
    assert "BACKFILLD_NOTIFICATIONS" in refusal(monkeypatch, *({**HOOK, "name": f"hook{n}"} for n in range(21)))


def test_what_is_no_json_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKFILLD_NOTIFICATIONS", f'[{{"url": "{TOKEN}"')
    with pytest.raises(InvalidSettings, match="BACKFILLD_NOTIFICATIONS: is not the JSON") as refused:
        settings.load()
    assert TOKEN not in str(refused.value)


def test_a_channel_in_the_file_is_read_and_its_secrets_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{key} = {json.dumps(value)}" for key, value in HOOK.items()]
    (tmp_path / "backfilld.toml").write_text("\n".join(["[[notifications]]", *lines]), encoding="utf-8")
    (channel,) = settings.load().notifications
    assert channel.url.get_secret_value() == HOOK["url"]
    assert channel.about == ("approval", "failed", "paused", "held", "completed", "rolled_back")
    for shown in (repr(channel), str(settings.load()), channel.model_dump_json()):
        assert TOKEN not in shown
        assert SECRET not in shown


def test_a_channel_tells_of_the_runs_it_names() -> None:
    channel = webhook("https://example.com", runs=["jobs-*", "orders"], about=["failed"])
    names = ["jobs-1", "orders", "orders-1"]
    assert [channel.wants("failed", name) for name in names] == [True, True, False]
    assert not channel.wants("held", "orders")


# --- the words ---------------------------------------------------------------------------------------------------------


def problem(error_class: str, sqlstate: str | None = None, relation: str | None = None) -> dict[str, Any]:  # Any: JSON
    return {"problem": {"class": error_class, "sqlstate": sqlstate, "relation": relation}}


def hold(cause: str, seconds: int = 960, signal: str | None = None, also: tuple[str, ...] = ()) -> dict[str, Any]:
    """Any: JSON."""
    return {"hold": {"cause": cause, "signal": signal, "seconds": seconds, "also": list(also)}}


#: What a notice is about, and what is known; the words are in golden/notices.txt. Any: JSON.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "approval with findings": ("approval", {"application": {"needed": 2, "unknown": 1}}),
    "approval": ("approval", {}),
    "approval, reminded": ("approval", {"phase": "switch", "reminder": 1, "seconds": 86400}),
    "approval, after an error": ("approval", problem("transient", "40P01")),
    "failed": ("failed", {"phase": "backfill", **problem("fatal", "42703", "public.jobs")}),
    "failed, reminded": ("failed", {"phase": "verify", **problem("fatal", "ZZ001"), "reminder": 2, "seconds": 180000}),
    **{f"paused, {name}": ("paused", problem(name)) for name in ("blocked", "quarantine", "violated", "residual")},
    **{f"held, {name}": ("held", hold(name)) for name in ("stop", "blind", "lock", "index")},
    "held, load": ("held", hold("load", signal="replica_lag_seconds")),
    "held, error": ("held", hold("error", seconds=59, also=("a", "b")) | problem("transient", "40P01")),
    "held, two runs": ("held", hold("stop", seconds=900, also=("a",)) | problem("transient", "40P01")),
    "quarantine": ("quarantine", {"rows_quarantined": 1}),
    "completed": ("completed", {}),
    "rolled back": ("rolled_back", {}),
    "cancelled": ("cancelled", {}),
    "more than were estimated": ("completed", {"rows_done": 116_784, "rows_total": 112_944}),
    "test": ("test", {}),
}


def worded(case: str) -> notices.Message:
    about, facts = CASES[case]
    return notices.word("id", about, FACTS | {"name": "jobs"} | facts if about != "test" else {})


def test_notices_read_as_the_golden_file_says(golden: Golden) -> None:
    shown = {case: worded(case).body for case in CASES}
    assert golden.holds_cases("notices.txt", shown), "look at what `pytest --write-golden` writes, and commit it"


@pytest.mark.parametrize("case", CASES)
def test_a_notice_names_the_run_and_why_where_there_is_a_reason(case: str) -> None:
    message, (about, known) = worded(case), CASES[case]
    assert message.subject.startswith("jobs" if about != "test" else "backfilld")
    assert (message.payload["reason"] is not None) is (about in {"failed", "paused", "held"} or "application" in known)
    assert (f"Why: {message.payload['reason']}" in message.body) is (message.payload["reason"] is not None)


@pytest.mark.parametrize(
    ("case", "severity", "sqlstate", "commands"),
    [
        ("approval", "warning", None, ("approve jobs --phase contract", "rollback jobs")),
        ("failed", "failure", "42703", ("explain jobs", "resume jobs", "rollback jobs")),
        ("failed, reminded", "failure", "ZZ001", ("explain jobs", "resume jobs", "rollback jobs")),
        ("paused, violated", "warning", None, ("explain jobs", "resume jobs")),
        ("held, error", "warning", "40P01", ("explain jobs",)),
        # A lane has met an error before, which is not why all runs are held.
        ("held, two runs", "warning", None, ("explain jobs",)),
        ("approval, after an error", "warning", None, ("approve jobs --phase contract", "rollback jobs")),
        ("quarantine", "warning", None, ("quarantine list jobs",)),
        ("completed", "success", None, ()),
        ("cancelled", "info", None, ()),
    ],
)
def test_a_notice_has_its_severity_its_sqlstate_and_what_to_type(
    case: str, severity: str, sqlstate: str | None, commands: tuple[str, ...]
) -> None:
    message = worded(case)
    assert (message.severity, message.payload["sqlstate"]) == (severity, sqlstate)
    assert message.payload["commands"] == [f"backfilld {command}" for command in commands]
    assert all(f"  backfilld {command}" in message.body for command in commands)


@pytest.mark.parametrize(("case", "others"), [("held, load", 0), ("held, two runs", 1), ("held, error", 2)])
def test_one_notice_tells_of_every_run_that_a_hold_stops(case: str, others: int) -> None:
    message = worded(case)
    assert ("Also held" in message.body) is bool(others)
    assert (f"{others} other run" in message.subject) is bool(others)
    assert ("other runs" in message.subject) is (others > 1)


def test_what_was_changed_is_never_said_to_be_of_less() -> None:
    assert "112,944" not in worded("more than were estimated").body


def test_what_is_no_sqlstate_is_not_repeated() -> None:
    problem = {"class": "ann@example.com", "sqlstate": "ann@example.com"}
    message = notices.word("id", "failed", FACTS | {"problem": problem})
    assert "ann@example.com" not in message.body


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "1 minute"), (900, "15 minutes"), (7199, "119 minutes"), (7200, "2 hours"), (172800, "2 days")],
)
def test_a_length_of_time_reads_as_people_say_it(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


# --- a message leaves --------------------------------------------------------------------------------------------------


def send(channel: Channel) -> None:
    notices.open_channels([channel])[0].way.send(notices.word("id-1", "approval", FACTS))


def test_a_webhook_is_signed_and_names_its_delivery(told: Receiver) -> None:
    send(webhook(told.url + "?a=b"))
    (request,) = told.requests
    assert request.path == "/hook?a=b"
    assert request.headers["Backfilld-Delivery"] == request.json["id"] == "id-1"
    assert request.json["commands"][0] == "backfilld approve jobs-new-field --phase contract"
    assert abs(int(request.headers["Backfilld-Timestamp"]) - time.time()) < 60
    assert "Authorization" not in request.headers


def test_user_and_password_of_a_webhooks_url_are_sent_as_its_authorization(told: Receiver) -> None:
    send(webhook(told.url.replace("//", "//ann:p%40ss@")))
    assert told.requests[0].headers["Authorization"] == "Basic YW5uOnBAc3M="


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
def test_an_answer_that_says_not_this_is_final(told: Receiver, status: int) -> None:
    told.statuses = [status]
    with pytest.raises(TakenNever, match=f"answers {status}"):
        send(webhook(told.url))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_an_answer_that_says_not_now_is_not(told: Receiver, status: int) -> None:
    told.statuses = [status]
    with pytest.raises(NotTaken, match=f"answers {status}"):
        send(webhook(told.url))


def test_a_redirect_is_not_followed(told: Receiver) -> None:
    told.statuses, told.headers = [307], {"Location": told.url}
    with pytest.raises(NotTaken, match="redirects are not followed"):
        send(webhook(told.url))
    assert len(told.requests) == 1


def test_a_wait_that_is_asked_for_is_read(told: Receiver) -> None:
    def dated(seconds: float) -> str:
        return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)

    for header, seconds in (("120", 120), (dated(1000), 1000), (dated(-1000), 0), ("soon", None)):
        told.statuses, told.headers = [429], {"Retry-After": header}
        with pytest.raises(NotTaken) as refused:
            send(webhook(told.url))
        assert refused.value.after_seconds == (None if seconds is None else pytest.approx(seconds, abs=60)), header


def test_waits_double_within_bounds_and_are_longer_where_that_is_asked_for() -> None:
    plain, asked = NotTaken("x"), NotTaken("x", after_seconds=100)
    assert [_delay_seconds(tries, plain, chance=0.5) for tries in (1, 2, 3, 30)] == [
        10,
        20,
        40,
        BACKOFF.longest_seconds,
    ]
    assert [_delay_seconds(1, plain, chance=chance) for chance in (0, 1)] == pytest.approx([8, 12])
    assert [_delay_seconds(tries, asked, chance=0.5) for tries in (1, 5)] == [100, 160]
    assert _delay_seconds(1, NotTaken("x", after_seconds=1e9), chance=0.5) == BACKOFF.longest_seconds


def test_a_webhook_that_hangs_or_drips_is_cut(told: Receiver) -> None:
    told.answering.clear()
    for told.drips in (False, True):
        started = time.monotonic()
        with pytest.raises(NotTaken, match=r"no answer within 0\.3 s"):
            send(webhook(told.url, timeout_seconds=0.3))
        assert time.monotonic() - started < 2


def test_why_a_webhook_cannot_be_reached_is_said_without_its_place() -> None:
    with pytest.raises(NotTaken) as refused:
        send(webhook(f"http://127.0.0.1:9/{TOKEN}"))
    assert str(refused.value) == "cannot be reached (Connection refused)"


def test_what_apprise_says_of_a_failure_is_told_without_its_secrets(
    told: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="apprise")
    told.statuses = [418]
    url = f"json://user:{TOKEN}@127.0.0.1:{told.port}/{TOKEN}/%74oken"
    with pytest.raises(NotTaken, match="error=418") as refused:
        send(Channel(name="one", kind="apprise", url=url))
    for text in (str(refused.value), caplog.text):
        assert TOKEN not in text


def test_braces_in_a_text_are_no_template(told: Receiver) -> None:
    channel = Channel(name="one", kind="apprise", url=f"json://127.0.0.1:{told.port}/")
    notices.open_channels([channel])[0].way.send(notices.word("id", "completed", FACTS | {"name": "{{ app_id }}<b>"}))
    assert told.requests[0].json["title"] == "{{ app_id }}<b> is completed"
    assert told.requests[0].json["type"] == "success"


def test_a_test_message_is_sent_to_one_channel_or_to_all_and_each_is_named(told: Receiver) -> None:
    channels = (webhook(told.url, name="well"), webhook("http://127.0.0.1:9/", name="away"))
    known = settings.Settings(notifications=channels)
    assert [(sent.channel, sent.error) for sent in notices.send_test(known)] == [
        ("well", None),
        ("away", "cannot be reached (Connection refused)"),
    ]
    assert [sent.channel for sent in notices.send_test(known, "well")] == ["well"]
    assert [request.json["about"] for request in told.requests] == ["test", "test"]
    with pytest.raises(UsageError, match="there is no channel x; there are: well, away"):
        notices.send_test(known, "x")
    with pytest.raises(UsageError, match="BACKFILLD_NOTIFICATIONS"):
        notices.send_test(settings.Settings())


def test_a_test_message_waits_no_longer_than_the_channels_limit(told: Receiver) -> None:
    told.answering.clear()
    known = settings.Settings(notifications=(webhook(told.url, timeout_seconds=0.1),))
    assert [sent.error for sent in notices.send_test(known)] == ["no answer within 0.1 s"]


# --- the verb ----------------------------------------------------------------------------------------------------------


def test_the_verb_tries_each_channel_and_names_it(told: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def notify(*arguments: str) -> tuple[int, str]:
        answer = CliRunner().invoke(app, ["notify", *arguments])
        return answer.exit_code, answer.stdout

    channels = [HOOK | {"name": "well", "url": told.url}, HOOK | {"name": "away", "url": f"http://127.0.0.1:9/{TOKEN}"}]
    monkeypatch.setenv("BACKFILLD_NOTIFICATIONS", json.dumps(channels))
    assert notify("--test", "well") == (0, "well: delivered\n")
    code, said = notify("--test", "--json")
    assert (code, json.loads(said)) == (
        1,
        {
            "sent": [
                {"channel": "well", "error": None},
                {"channel": "away", "error": "cannot be reached (Connection refused)"},
            ]
        },
    )
    assert notify("--test", "nobody")[0] == notify()[0] == 2
    monkeypatch.setenv("BACKFILLD_NOTIFICATIONS", json.dumps(channels[:1]))
    assert notify("--test") == (0, "well: delivered\n")
    assert [request.json["subject"] for request in told.requests] == ["backfilld can reach you here"] * 3
