"""Log lines: one renderer for all, no credentials, and names that do not stick to a thread."""

from __future__ import annotations

import io
import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from backfilld.monitoring import logs, words

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where lines go; afterwards logging is as pytest had set it up."""
    root = logging.getLogger()
    handlers, level, dramatiq = list(root.handlers), root.level, logging.getLogger("dramatiq").level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("dramatiq").setLevel(dramatiq)
    structlog.reset_defaults()


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_is_json_off_a_terminal_with_an_aware_utc_timestamp(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    structlog.get_logger().info("batch.committed", rows=3)
    (line,) = _lines(stream)
    assert line["event"] == "batch.committed"
    assert line["level"] == "info"
    assert line["rows"] == 3
    at = datetime.fromisoformat(line["timestamp"])
    assert at.utcoffset() == datetime.now(UTC).utcoffset()


def test_a_line_is_for_people_on_a_terminal_unless_told_otherwise(stream: io.StringIO) -> None:
    terminal = _Terminal()
    logs.configure(stream=terminal)
    structlog.get_logger().info("phase.entered")
    assert "phase.entered" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")

    logs.configure(stream=stream, json=False)
    structlog.get_logger().info("phase.entered")
    assert not stream.getvalue().startswith("{")

    again = _Terminal()
    logs.configure(stream=again, json=True)
    structlog.get_logger().info("phase.entered")
    assert json.loads(again.getvalue())["event"] == "phase.entered"


@pytest.mark.parametrize("name", ["dramatiq.worker.Worker", "psycopg.pool", "anything"])
def test_stdlib_loggers_go_through_the_same_renderer_with_the_bound_names(stream: io.StringIO, name: str) -> None:
    logs.configure(stream=stream)
    with logs.bound(run=7, lane=2):
        logging.getLogger(name).warning("lost %s", "it")
    (line,) = _lines(stream)
    assert (line["event"], line["message"]) == (f"{name.partition('.')[0]}.message", "lost it")
    assert (line["level"], line["logger"]) == ("warning", name)
    assert (line["run"], line["lane"]) == (7, 2)


def test_names_are_unbound_at_the_end_also_when_the_block_fails(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    log = structlog.get_logger()

    with pytest.raises(ZeroDivisionError), logs.bound(run=1, lane=2):
        1 / 0  # noqa: B018 - raising is what it is for
    log.info("after")
    with logs.bound(run=1):
        with logs.bound(run=2, lane=5):
            log.info("inner")
        log.info("outer")

    after, inner, outer = _lines(stream)
    assert "run" not in after
    assert "lane" not in after
    assert (inner["run"], inner["lane"]) == (2, 5)
    assert outer["run"] == 1
    assert "lane" not in outer


def test_configuring_again_replaces_what_was_there_and_keeps_handlers_of_others(stream: io.StringIO) -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    first = io.StringIO()
    logs.configure(stream=first)
    early = structlog.get_logger("early")
    early.info("one")

    logs.configure(stream=stream, level="warning")
    early.info("two")
    early.warning("three")

    assert [line["event"] for line in _lines(first)] == ["one"]
    assert [line["event"] for line in _lines(stream)] == ["three"]
    assert other in logging.getLogger().handlers


def test_dramatiqs_line_per_message_is_left_out_at_debug(stream: io.StringIO) -> None:
    logs.configure(stream=stream, level="debug")
    logging.getLogger("dramatiq.broker.RedisBroker").debug("Enqueueing message")
    structlog.get_logger().debug("batch.committed")
    assert [line["event"] for line in _lines(stream)] == ["batch.committed"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("postgresql://app:hunter2@db:5432/app", "postgresql://app:***@db:5432/app"),
        ("redis://:hunter2@cache:6379/0", "redis://:***@cache:6379/0"),
        ("rediss://u:hunter2/#:@x@cache", "rediss://u:***@cache"),
        ("host=db password=hunter2 user=app", "host=db password=*** user=app"),
        (r"password='hunter2 \' x' user=app", "password=*** user=app"),
        (
            "postgresql://db/app?user=a&password=hunter2&sslmode=require",
            "postgresql://db/app?user=a&password=***&sslmode=require",
        ),
        ("postgresql://app@db:5432/app", "postgresql://app@db:5432/app"),
        ("redis://127.0.0.1:6379/0 and a@b.example", "redis://127.0.0.1:6379/0 and a@b.example"),
        ("at 12:30 somebody@example.org said", "at 12:30 somebody@example.org said"),
    ],
)
def test_passwords_are_redacted_and_the_rest_is_not(text: str, left: str) -> None:
    assert words.redact(text) == left


@pytest.mark.parametrize("json_lines", [True, False])
def test_no_line_holds_a_password_wherever_it_stands(stream: io.StringIO, *, json_lines: bool) -> None:
    """In the message, in a value, within a value, and in a traceback."""
    logs.configure(stream=stream, json=json_lines)
    url = "postgresql://app:hunter2@db/app"
    log = structlog.get_logger()
    log.info("to %s", url, url=url, deep={"list": [url]})
    logging.getLogger("psycopg.pool").warning("error connecting to %s", url)
    try:
        raise RuntimeError(url)  # noqa: TRY301 - its traceback is what is tested
    except RuntimeError:
        log.exception("failed")
    assert "RuntimeError" in stream.getvalue()
    assert stream.getvalue().count("***") >= 5
    assert "hunter2" not in stream.getvalue()
