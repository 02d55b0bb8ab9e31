"""Log lines: JSON where a machine reads them, colours where a person does; no password in either.

The lines of libraries go through the same renderer, as the event `NAME.message` with their words in `message`. Our own events are
worded in `observers`, not here.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TextIO

import structlog
from structlog.contextvars import bound_contextvars

from backfilld.monitoring.words import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from structlog.typing import EventDict, Processor, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]


class _Handler(logging.StreamHandler[TextIO]):
    """Our handler of the root logger, so that `configure` replaces it and no other."""


def configure(*, stream: TextIO | None = None, json: bool | None = None, level: Level = "info") -> None:
    """Set up logging for this process; called again, it replaces what it set up.

    `stream` is stderr when none is given; `json` is decided by whether the stream is a terminal.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    threshold = logging.getLevelNamesMapping()[level.upper()]
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]
    structlog.configure(
        processors=[*before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        # A logger that was used before this call, at import for one, must follow it.
        cache_logger_on_first_use=False,
    )
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, structlog.stdlib.add_logger_name, _named],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_pretty(colours=terminal) if json is False or (json is None and terminal) else _json()),
                # Last, over the finished line: a password may be in a message, a value within a value, or a traceback.
                _redacted,
            ],
        )
    )
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(threshold)
    # At debug dramatiq writes several lines per message, which say less than `batch.committed` does.
    logging.getLogger("dramatiq").setLevel(max(threshold, logging.INFO))


@contextmanager
def bound(*, run: int, lane: int | None = None) -> Iterator[None]:
    """Every line of this thread names the run and the lane until the block ends: threads are reused."""
    names = {"run": run} if lane is None else {"run": run, "lane": lane}
    with bound_contextvars(**names):
        yield


def _named(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """A line of a library: its words are no name that anybody could look for."""
    library = line["logger"].partition(".")[0]
    return {**line, "event": f"{library}.message", "message": line["event"]}


def _json() -> list[Processor]:
    # Not `dict_tracebacks`: it writes local variables, and connections and rows are among them.
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]


def _pretty(*, colours: bool) -> list[Processor]:
    # Not the default of rich: it shows local variables as well.
    return [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)]


def _redacted(_logger: WrappedLogger, _method: str, line: EventDict | str) -> str:
    # A renderer has run, so this is text; the type is that of any processor.
    return redact(str(line))
