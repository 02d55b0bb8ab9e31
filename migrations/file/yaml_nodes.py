"""YAML that remembers where each key stands, and refuses what two readers could read differently.

A migration file needs mappings, lists and plain values. Everything else YAML has (anchors, merge keys, tags, several
documents, numbers such as 0x10 or 1:30) is refused or stays text, so that the file means what it looks like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from backfilld.migrations.errors import InvalidMigration
from backfilld.migrations.identifiers import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

Path = tuple[str | int, ...]

#: The format needs 5; a limit keeps a file of brackets from exhausting the stack.
MAX_DEPTH = 20

_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NULLS = {"", "~", "null", "Null", "NULL"}
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Place:
    """Where a key (or the entry of a list) stands, and its value as written when that is a single word or text."""

    line: int
    column: int
    text: str | None = None


@dataclass(frozen=True)
class Document:
    """Plain data, and the place of every path in it."""

    data: Any  # whatever the YAML holds; the models check it
    places: dict[Path, Place]

    def place(self, path: Path) -> Place:
        """The place of the path, or of the nearest key above it: a missing key has no line of its own."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(line=1, column=1))


def read(text: str, *, file: str) -> Document:
    """Read one YAML document; raises `InvalidMigration` for the first thing that is wrong with it."""
    reader = _Reader(text, file=file)
    try:
        return reader.document()
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        problem, remedy = "the text contains a control character", "Remove it, or write it as an escape in quotes."
        raise InvalidMigration(file, line, "", problem, remedy) from exc
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise InvalidMigration(file, mark.line + 1 if mark else 1, "", *_syntax(exc)) from exc
    except (ValueError, OverflowError) as exc:  # PyYAML turns escapes and versions into numbers without a check
        problem = "an escape or a number here cannot be read"
        remedy = "Write the character itself in place of the escape."
        raise InvalidMigration(file, reader.line, "", problem, remedy) from exc


def _syntax(exc: yaml.MarkedYAMLError) -> tuple[str, str]:
    problem = f"the YAML cannot be read: {exc.problem}"
    if "\\t" in problem:
        return problem, "Indent with spaces, not with tabs."
    return problem, "Check the indentation, and put quotes around text with `: ` or ` #`, or that starts with a sign."


class _Reader:
    """Walks the parser's events, not PyYAML's nodes: those have lost anchors, and resolved tags, already."""

    def __init__(self, text: str, *, file: str) -> None:
        self.file = file
        self.line = 1
        self.places: dict[Path, Place] = {}
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)

    def document(self) -> Document:
        self.next()  # the start of the stream
        start = self.next()
        if isinstance(start, yaml.StreamEndEvent):
            raise self.empty()
        root = self.next()
        if isinstance(root, yaml.ScalarEvent) and not root.value and root.style is None and root.tag is None:
            raise self.empty()
        self.places[()] = self.place(root)
        data = self.value(root, ())
        self.next()  # the end of the document
        if not isinstance(self.next(), yaml.StreamEndEvent):
            raise self.wrong((), "the file holds more than one YAML document", "Keep one migration in each file.")
        return Document(data, self.places)

    def next(self) -> yaml.Event:
        event = next(self.events)
        self.line = self.place(event).line
        return event

    def value(self, event: yaml.Event, path: Path) -> Any:  # plain data of any shape
        self.refuse_cleverness(event, path)
        if len(path) > MAX_DEPTH:
            raise self.wrong(path, "the values are nested too deeply", "Write the keys the format has, and no more.")
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(path)
        assert isinstance(event, yaml.ScalarEvent)  # noqa: S101 - for mypy: the grammar has no fourth kind
        value = _plain(event)
        if value is None:
            raise self.wrong(
                path,
                "the value is missing" if not event.value else f"`{event.value}` is read by YAML as no value",
                "Write a value here, indented when it has lines of its own (text in quotes), or remove the key.",
            )
        return value

    def mapping(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            key = self.key(event, path)
            here = (*path, key)
            if key in found:
                first = self.places[here].line
                raise self.wrong(here, f"the key is given twice, first on line {first}", "Keep one of the two.")
            self.places[here] = self.place(event)
            value_event = self.next()
            if isinstance(value_event, yaml.ScalarEvent):
                self.places[here] = self.place(event, text=value_event.value)
            found[key] = self.value(value_event, here)
        return found

    def sequence(self, path: Path) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := self.next(), yaml.SequenceEndEvent):
            here = (*path, len(found))
            self.places[here] = self.place(event, text=event.value if isinstance(event, yaml.ScalarEvent) else None)
            found.append(self.value(event, here))
        return found

    def key(self, event: yaml.Event, path: Path) -> str:
        self.refuse_cleverness(event, path)
        if not isinstance(event, yaml.ScalarEvent):
            raise self.wrong(
                path, "a list or a mapping was found where a key is expected", "Write a plain word as key."
            )
        if event.value == "<<" and event.style is None:
            raise self.wrong((*path, "<<"), "merge keys are not supported", "Write the keys out in full.")
        # `on` is a key of ours, and no editor that knows YAML 1.2 would ask for quotes.
        if not isinstance(_plain(event), str) and event.value != "on":
            problem = f"the key `{shown(event.value)}` is not read by YAML as text"
            raise self.wrong((*path, event.value), problem, f'Quote it: "{shown(event.value)}".')
        return event.value

    def refuse_cleverness(self, event: yaml.Event, path: Path) -> None:
        remedy = "Write the value out in full, or in quotes if it is text."
        if isinstance(event, yaml.AliasEvent):
            raise self.wrong(path, f"the alias `*{shown(str(event.anchor))}` is not supported", remedy)
        assert isinstance(event, yaml.NodeEvent)  # noqa: S101 - for mypy: every caller is at the start of a value
        if event.anchor is not None:
            raise self.wrong(path, f"the anchor `&{shown(event.anchor)}` is not supported", remedy)
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise self.wrong(path, f"the tag `{shown(tag)}` is not supported", "Remove it, and quote the text.")

    @staticmethod
    def place(event: yaml.Event, *, text: str | None = None) -> Place:
        mark: Any = event.start_mark  # the stubs allow None, for events made by hand; the parser's have one
        return Place(line=mark.line + 1, column=mark.column + 1, text=text)

    def wrong(self, path: Path, problem: str, remedy: str) -> InvalidMigration:
        return InvalidMigration(self.file, self.line, dotted(path), problem, remedy)

    def empty(self) -> InvalidMigration:
        return InvalidMigration(self.file, 1, "", "the file is empty", "Start it with `name:` and `operations:`.")


def _plain(event: yaml.ScalarEvent) -> str | int | float | bool | None:
    """What the word means: YAML 1.1's booleans and plain decimal numbers; anything else, and all in quotes, is text."""
    text = event.value
    if event.style is not None:
        return text
    if text in _NULLS:
        return None
    if text.lower() in _BOOLEANS and text in {text.lower(), text.title(), text.upper()}:
        return _BOOLEANS[text.lower()]
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    return text


def dotted(path: Path) -> str:
    """The path as a message names it: `operations[0].backfill.set.status`."""
    parts = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            plain = re.fullmatch(r"\w[\w-]*", part) is not None
            parts.append(f".{part}" if plain else f'."{shown(part)}"')
    return "".join(parts).removeprefix(".")
