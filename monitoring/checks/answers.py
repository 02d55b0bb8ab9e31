"""Asks an application's API, and says in what an answer differs from the one before the migration. Needs the extra `application`.

What differs between two answers of one moment is volatile, and is not compared. No value of an answer is in a finding: paths and types
are, as findings are on record and answers may hold people's data.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from backfilld.migrations import exchange
from backfilld.migrations.errors import Finding
from backfilld.monitoring.checks.targets import Forbidden

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from backfilld.migrations.file.application_checks import Probe
    from backfilld.migrations.file.personas import Persona
    from backfilld.monitoring.checks.targets import Targets

#: For one answer, connecting included.
_TIMEOUT_SECONDS = 10.0
#: A probe asks for a page of rows, not for a table.
_MOST_BYTES = 1_000_000
#: How often a probe is asked at each moment; the median of their times counts.
_TIMES = 5
#: A difference below this is the network's.
_FLOOR_MILLISECONDS = 100.0
#: As many differences of one answer are told.
_MOST_DIFFERENCES = 5


class Unanswered(Exception):
    """The API gave no answer that could be compared; its message says why."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a probe got at one moment. Any: JSON."""

    status: int
    body: Any
    #: The median of several.
    milliseconds: float
    #: Paths, as patterns, that differed between answers of the same moment.
    volatile: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        return {
            "status": self.status,
            "body": self.body,
            "milliseconds": round(self.milliseconds, 3),
            "volatile": list(self.volatile),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Answer:  # Any: JSON
        return cls(**{**stored, "volatile": tuple(stored["volatile"])})


def require_extra() -> None:
    """Raises Forbidden where what compares answers is not installed."""
    try:
        import deepdiff  # noqa: F401, PLC0415 - in the extra `application`
        import genson  # noqa: F401, PLC0415 - as above
        import jsonschema  # noqa: F401, PLC0415 - as above
    except ImportError as exc:
        raise Forbidden(
            Finding(
                "application_extra",
                "this worker cannot compare answers: its extra `application` is not installed",
                "pip install 'backfilld[application]' where the workers run, restart them, then resume",
            )
        ) from exc


def ask(probe: Probe, targets: Targets, *, persona: Persona | None = None) -> Answer:
    """Ask several times, with the token of who asks. Raises Forbidden and Unanswered."""
    require_extra()
    each = [_ask_once(probe, targets, persona) for _ in range(_TIMES)]
    first = each[0]
    volatile = {pattern for one in each[1:] for pattern in _differing(first.body, one.body, ())}
    return Answer(
        status=first.status,
        body=first.body,
        milliseconds=median(one.milliseconds for one in each),
        volatile=tuple(sorted(volatile)),
    )


def record(probe: Probe, targets: Targets, *, persona: Persona | None = None) -> Answer:
    """The answer that later ones are compared with. Raises Unanswered also for one that proves nothing: an error, or no rows."""
    answer = ask(probe, targets, persona=persona)
    if answer.status >= http.client.BAD_REQUEST:
        msg = f"it answers {answer.status} before anything was changed"
        raise Unanswered(msg)
    if _is_empty(answer.body) and not probe.allow_empty:
        msg = (
            "its answer is empty, which is equal to an empty answer after any change; ask for rows, or set allow_empty"
        )
        raise Unanswered(msg)
    return answer


def differences(probe: Probe, before: Answer, now: Answer) -> list[str]:
    """In what an answer is not what it was, in words; keys that came are no difference."""
    if now.status != before.status:
        return [f"it answers {now.status}, and {before.status} before"]
    ignored = [*map(_pattern, probe.ignore), *before.volatile, *now.volatile]
    # A body that is compared has its own shape too, so the shape alone is asked where values may differ.
    found = list(
        _shape_differences(before.body, now.body, ignored)
        if probe.compare == "shape"
        else _body_differences(before.body, now.body, ignored)
    )
    more = len(found) - _MOST_DIFFERENCES
    found = found[:_MOST_DIFFERENCES] + ([f"and {more} more"] if more > 0 else [])
    slower = now.milliseconds - before.milliseconds
    if slower > _FLOOR_MILLISECONDS and now.milliseconds > before.milliseconds * probe.slower_than:
        ratio = now.milliseconds / max(before.milliseconds, 0.001)
        found.append(
            f"it takes {now.milliseconds:.0f} ms, {ratio:.1f} times as long as before ({before.milliseconds:.0f} ms)"
        )
    return found


# --- asking ------------------------------------------------------------------------------------------------------------


def _ask_once(probe: Probe, targets: Targets, persona: Persona | None) -> Answer:
    url, headers, sent = targets.url(probe), targets.headers(probe, persona), targets.body(probe)
    late = threading.Event()
    began = time.perf_counter()
    try:
        with exchange.connected(url, timeout_seconds=_TIMEOUT_SECONDS, late=late) as client:
            client.request(probe.method, exchange.target(url), body=sent, headers=headers)
            with client.getresponse() as got:
                body = got.read(_MOST_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        why = f"no answer within {_TIMEOUT_SECONDS:g} s" if late.is_set() else _in_words(exc)
        raise Unanswered(f"{url.hostname} cannot be asked: {why}") from exc
    milliseconds = (time.perf_counter() - began) * 1000
    if late.is_set():
        raise Unanswered(f"{url.hostname} cannot be asked: no answer within {_TIMEOUT_SECONDS:g} s")
    if len(body) > _MOST_BYTES:
        raise Unanswered(f"it answers with more than {_MOST_BYTES} bytes: ask for fewer rows")
    try:
        return Answer(status=got.status, body=json.loads(body), milliseconds=milliseconds)
    except ValueError:
        if got.status >= http.client.BAD_REQUEST:
            return Answer(status=got.status, body=None, milliseconds=milliseconds)
        raise Unanswered(f"its answer ({got.status}) is not JSON") from None


def _in_words(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def _is_empty(body: Any) -> bool:  # Any: JSON
    if isinstance(body, dict):
        return all(_is_empty(one) for one in body.values())
    return body in (None, "", [])


# --- comparing ---------------------------------------------------------------------------------------------------------


def _pattern(path: str) -> str:
    """A pattern of the file, `**.updated_at` or `[*].id`, as one over paths like `.0.updated_at`."""
    steps = [one for one in re.split(r"[.\[\]]+", path) if one]
    each = {"**": r"(\.[^.]+)*", "*": r"\.[^.]+"}
    return "".join(each.get(step, rf"\.{re.escape(step)}") for step in steps)


def _path(steps: Sequence[object]) -> str:
    return "".join(f".{str(step).replace('.', '_')}" for step in steps)


def _is_ignored(steps: Sequence[object], ignored: Sequence[str]) -> bool:
    """Whether a path, or one above it, matches a pattern."""
    return any(
        re.fullmatch(pattern, _path(steps[:length])) for pattern in ignored for length in range(1, len(steps) + 1)
    )


def _differing(before: Any, now: Any, ignored: Sequence[str]) -> Iterator[str]:  # Any: JSON
    """The paths that differ, as patterns: of a list, in any of its rows."""
    for steps, _ in _compared(before, now, ignored):
        yield "".join(
            r"\.\d+" if isinstance(step, int) else rf"\.{re.escape(str(step).replace('.', '_'))}" for step in steps
        )


def _body_differences(before: Any, now: Any, ignored: Sequence[str]) -> Iterator[str]:  # Any: JSON
    for steps, problem in _compared(before, now, ignored):
        yield f"{_shown(steps)} {problem}"


def _compared(before: Any, now: Any, ignored: Sequence[str]) -> Iterator[tuple[list[object], str]]:  # Any: JSON
    """Where two answers differ, and how, by deepdiff. Keys that came are left out: whoever reads JSON passes over them."""
    from deepdiff import DeepDiff  # noqa: PLC0415 - in the extra `application`

    tree = DeepDiff(before, now, view="tree", ignore_numeric_type_changes=True, verbose_level=0)
    found = [
        (change.path(output_format="list"), _how(kind, change.t1, change.t2))
        for kind, changes in tree.items()
        for change in (changes if kind != "dictionary_item_added" else ())
    ]
    for steps, how in sorted(found, key=lambda one: _path(one[0])):
        if not _is_ignored(steps, ignored):
            yield steps, how


def _how(kind: str, before: Any, now: Any) -> str:  # Any: JSON
    match kind:
        case "type_changes":
            return f"was {_type(before)} and is {_type(now)}"
        case "dictionary_item_removed" | "iterable_item_removed":
            return "is gone"
        case "iterable_item_added":
            return "came"
        case _:
            return "has another value"


def _shape_differences(before: Any, now: Any, ignored: Sequence[str]) -> Iterator[str]:  # Any: JSON
    """Where an answer does not fit the JSON Schema of the one before."""
    from genson import SchemaBuilder  # noqa: PLC0415 - in the extra `application`
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - as above

    builder = SchemaBuilder()
    builder.add_object(before)
    seen: set[str] = set()
    for error in Draft202012Validator(_lenient(builder.to_schema())).iter_errors(now):
        steps = list(error.absolute_path)
        if error.validator == "required":
            missing = [name for name in error.validator_value if name not in error.instance]
            problems = [([*steps, name], "is gone") for name in missing]
        else:
            problems = [(steps, f"is {_type(error.instance)}, which it was not")]
        for where, problem in problems:
            shown = f"{_shown(where)} {problem}"
            if shown not in seen and not _is_ignored(where, ignored):
                seen.add(shown)
                yield shown


def _lenient(schema: Any) -> Any:  # Any: JSON Schema
    """What one answer cannot tell is left open: whether a number is whole, and of what is NULL, what else it may be."""
    if isinstance(schema, list):
        return [_lenient(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "null":
        return {}
    types = schema.get("type")
    lenient = {key: _lenient(value) for key, value in schema.items() if key != "type"}
    if types is not None:
        each = types if isinstance(types, list) else [types]
        lenient["type"] = sorted({"number" if one == "integer" else one for one in each})
    return lenient


def _type(value: Any) -> str:  # Any: JSON
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return "null" if value is None else names[type(value)]


def _shown(steps: Sequence[object]) -> str:
    """`[0].total`, or `the answer` for all of it."""
    if not steps:
        return "the answer"
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
