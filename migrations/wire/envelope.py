"""A message as it lies in Redis, and nothing else: what does not look exactly as ours do is dropped unread.

Who can write to Redis can write anything there, of any size. Dramatiq would decode it, call a function with it, and put what
fails aside for a week.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, assert_never

import dramatiq

from backfilld.migrations.wire.messages import (
    ADVANCE_LANE,
    APPLY_CONTROL,
    CONTROL_QUEUE,
    CONTROL_VERBS,
    LANES_QUEUE,
    ControlMessage,
    LaneMessage,
)
from backfilld.migrations.wire.trouble import shown

#: Ours have about 300 bytes.
MOST_BYTES = 4096
#: Of a target, of who asked, of an id.
LONGEST_NAME = 200
#: As PostgreSQL's bigint ends.
_MOST = 2**63 - 1
_KEYS = frozenset({"queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp"})


class MalformedError(ValueError):
    """What lies in the queue is no message of ours."""


def packed(message: LaneMessage | ControlMessage) -> dramatiq.Message[None]:
    """The message as Dramatiq sends it."""
    match message:
        case LaneMessage():
            queue, actor = LANES_QUEUE, ADVANCE_LANE
        case ControlMessage():
            queue, actor = CONTROL_QUEUE, APPLY_CONTROL
        case _:
            assert_never(message)
    return dramatiq.Message(queue_name=queue, actor_name=actor, args=message.args, kwargs={}, options={})


def unpacked(data: bytes | None, queue: str) -> dramatiq.Message[None]:
    """The message that lies in a queue. Raises MalformedError, with a short reason."""
    if data is None:
        raise MalformedError("it has no body")
    if len(data) > MOST_BYTES:
        raise MalformedError(f"it has {len(data)} bytes")
    try:
        fields = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise MalformedError("it is not JSON") from None
    if not isinstance(fields, dict) or fields.keys() != _KEYS:
        raise MalformedError("it has other keys than a message")
    expected = {LANES_QUEUE: (ADVANCE_LANE, _LANE), CONTROL_QUEUE: (APPLY_CONTROL, _CONTROL)}.get(queue)
    if expected is None or (fields["queue_name"], fields["actor_name"]) != (queue, expected[0]):
        raise MalformedError("it is for another queue")
    if fields["kwargs"] != {} or not _is_number(fields["message_timestamp"]) or not _is_name(fields["message_id"]):
        raise MalformedError("it has other values than a message")
    options = fields["options"]
    # An `eta` or a `pipe_target` would be obeyed.
    if (
        not isinstance(options, dict)
        or options.keys() != {"redis_message_id"}
        or not _is_name(options["redis_message_id"])
    ):
        raise MalformedError("it has options")
    args = fields["args"]
    checks = expected[1]
    if not isinstance(args, list) or len(args) != len(checks):
        raise MalformedError("it has other arguments")
    if not all(check(value) for check, value in zip(checks, args, strict=True)):
        raise MalformedError("it has arguments of other types")
    cleaned = tuple(shown(value) if isinstance(value, str) else value for value in args)
    return dramatiq.Message(**{**fields, "args": cleaned})


def _refuse(constant: str) -> NoReturn:
    """NaN and Infinity, which JSON does not know."""
    raise ValueError(constant)


def _is_number(value: Any) -> bool:  # Any: JSON
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _is_name(value: Any) -> bool:  # Any: JSON
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME


def _is_verb(value: Any) -> bool:  # Any: JSON
    return isinstance(value, str) and value in CONTROL_VERBS


#: What each argument must be.
_LANE = (_is_name, _is_number, _is_number, _is_number)
_CONTROL = (_is_name, _is_number, _is_verb, _is_name)
