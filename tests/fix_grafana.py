"""The dashboards as they are on disk, and what Grafana's schema has to say of them, as far as it can be had without Grafana.

The SDK is generated from that schema. It reads what it knows and passes over the rest, and takes any value for any field:
`losses` tells what it passed over, `misfits` which values are not of their type.
"""

from __future__ import annotations

import enum
import json
import types
import typing
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

GRAFANA = Path(__file__).parents[1] / "monitoring" / "grafana"
#: By the name of their file. Any: JSON.
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((GRAFANA / "dashboards").glob("*.json"))
}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of a dashboard, those of closed rows too. Any: JSON."""
    inside = [panel for row in dashboard["panels"] if row["type"] == "row" for panel in row["panels"]]
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"] + inside


def wrong(given: dict[str, Any], model: type, path: str) -> list[str]:
    """What is not as the schema has it, in a part that is this class of the SDK. Any: JSON."""
    register_default_plugins()
    return list(_of_model(given, model, path))


def losses(before: Any, after: Any, path: str) -> Iterator[str]:
    """What was there before and is not after. What is added is a default. Any: JSON."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key not in after:
                yield f"{path}.{key}: not in the schema"
            else:
                yield from losses(value, after[key], f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from losses(one, other, f"{path}[{number}]")
    elif before != after:
        yield f"{path}: {before!r} became {after!r}"


def misfits(value: Any, hint: Any, path: str) -> Iterator[str]:
    """Where a value is not what its type says. Any: values and types of all kinds."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        yield from _of_union(value, inside, path)
    elif origin in (list, dict):
        yield from _of_many(value, origin, inside[-1], path)
    elif hasattr(hint, "from_json"):
        yield from _of_model(value, hint, path)
    elif hasattr(value, "to_json"):
        # What the schema leaves to the kind of panel, or of query.
        yield from _of_model(value, type(value), path)
    elif not _is_plain(value, hint):
        yield f"{path}: {value!r} is no {getattr(hint, '__name__', hint)}"


def _is_plain(value: Any, hint: Any) -> bool:
    """Whether a text, a number or a word of a closed set is what it should be. Any: as above."""
    if hint in (object, Any):
        return True
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if issubclass(hint, enum.Enum):
        return value in [member.value for member in hint]
    if isinstance(value, bool) and hint is not bool:
        return False
    return isinstance(value, int | float if hint is float else hint)


def _of_union(value: Any, hints: tuple[Any, ...], path: str) -> Iterator[str]:
    """One of several types; when it is none of them, what is amiss for the first. Any: as above."""
    if value is None and type(None) in hints:
        return
    tried = [list(misfits(value, hint, path)) for hint in hints if hint is not type(None)]
    if all(tried):
        yield from tried[0]


def _of_many(value: Any, kind: Any, inside: Any, path: str) -> Iterator[str]:
    """Each of a list, or each value of a dict. Any: as above."""
    if not isinstance(value, kind):
        yield f"{path}: {value!r} is no {kind.__name__}"
        return
    for key in value if kind is dict else range(len(value)):
        yield from misfits(value[key], inside, f"{path}[{key}]")


def _of_model(value: Any, model: Any, path: str) -> Iterator[str]:
    """A class of the SDK, or what it has left as it was in JSON. Any: as above."""
    if isinstance(value, dict):
        read = model.from_json(value)
        yield from losses(value, json.loads(json.dumps(read, cls=JSONEncoder)), path)
        value = read
    if not isinstance(value, model):
        yield f"{path}: {value!r} is no {model.__name__}"
        return
    for name, hint in typing.get_type_hints(type(value)).items():
        if name in vars(value):
            yield from misfits(vars(value)[name], hint, f"{path}.{name}")
