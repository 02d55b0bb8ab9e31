"""What is wrong with a migration file, in plain words.

pydantic finds out what does not fit; the file's own JSON Schema says what would have fitted there.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from backfilld.migrations.errors import InvalidMigration
from backfilld.migrations.file.yaml_nodes import Document, Path, dotted
from backfilld.migrations.identifiers import Wrong, shown

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

#: Operations of the design that a file may not use yet; named, so that they are not reported as typing errors.
PLANNED = frozenset({"rebuild_table", "change_primary_key", "split_column", "merge_columns"})

Schema = dict[str, Any]  # JSON Schema is JSON: mappings of anything


def first_error(found: ValidationError, document: Document, *, file: str, schema: Schema) -> InvalidMigration:
    """The error that stands first in the file; one at a time, as each may be the cause of the next."""
    errors = [(_path(error, document), error) for error in found.errors(include_url=False)]
    # A key that is missing and one that is unknown in the same place: most likely it is there, misspelt.
    misspelt = {path[:-1] for path, error in errors if error["type"] == "extra_forbidden"}
    told = [(path, error) for path, error in errors if error["type"] != "missing" or path[:-1] not in misspelt]
    path, error = min(told, key=lambda pair: _position(document, pair[0]))
    problem, remedy = _words(error, path, document, schema)
    return InvalidMigration(file, document.place(path).line, dotted(path), problem, remedy)


def _path(error: ErrorDetails, document: Document) -> Path:
    path = tuple(error["loc"])
    if path not in document.places and path[-1:] == ("[key]",):  # pydantic's mark for the key of a dict, not its value
        path = path[:-1]
    wrong = error.get("ctx", {}).get("error")
    return (*path, *wrong.at) if isinstance(wrong, Wrong) else path


def _position(document: Document, path: Path) -> tuple[int, int]:
    place = document.place(path)
    return place.line, place.column


def _words(error: ErrorDetails, path: Path, document: Document, schema: Schema) -> tuple[str, str]:  # noqa: PLR0911 - a table, one return a row
    """Problem and remedy; the models raise these types of error and no others, which a test holds."""
    wrong = error.get("ctx", {}).get("error")
    if isinstance(wrong, Wrong):
        return wrong.problem, wrong.remedy
    node = _schema_at(schema, path)
    value = error["input"]
    written = document.place(path).text if path in document.places else None
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(path, _schema_at(schema, path[:-1]))
        case "missing":
            return _missing(path, node)
        case "string_type":
            return _not_text(value, written)
        case "bool_type":
            return f"{_called(value, written)} is not true or false", "Write true or false, without quotes."
        case "model_type" | "dict_type":
            keys = _listed(list(node.get("properties", {})))
            return (
                f"{_called(value, written)} was found where keys with values are expected",
                f"Write {keys or 'each as `column: expression`'}, indented below this key.",
            )
        case "tuple_type":
            return (
                f"{_called(value, written)} was found where a list is expected",
                "Write each entry on a line of its own behind a dash, or all of them as [a, b].",
            )
        case "literal_error":
            words = _listed(node["enum"])
            return f"{_called(value, written)} is not one of the allowed words", f"Write {words}."
        case "too_short":
            return "there is no column to set", "Write at least one `column: expression`."
        case _:
            return _not_a_number(node, value, written)


def _unknown_key(path: Path, parent: Schema) -> tuple[str, str]:
    key, valid = str(path[-1]), list(parent.get("properties", {}))
    an_operation = len(path) == 3 and path[0] == "operations"  # operations, its number, its kind
    if an_operation and key in PLANNED:
        return f"the operation `{key}` is not supported by this version", f"This version has {_listed(valid)}."
    problem = f"there is no {'operation' if an_operation else 'key'} `{shown(key)}` here"
    near = difflib.get_close_matches(key.lower(), valid, n=1, cutoff=0.7)  # 0.6 takes `nullable` for `table`
    if near:
        return problem, f"Did you mean `{near[0]}`?"
    also = "; indent the keys of an operation below its name" if an_operation else ""
    return problem, f"Write {_listed(valid)}{also}."


def _missing(path: Path, node: Schema) -> tuple[str, str]:
    above = f"under `{dotted(path[:-1])}`" if len(path) > 1 else "at the top level of the file"
    example = f", for example {node['examples'][0]}" if isinstance(node.get("examples", [None])[0], str) else ""
    return f"the key `{path[-1]}` is missing", f"Add `{path[-1]}:` {above}{example}."


def _not_text(value: object, written: str | None) -> tuple[str, str]:
    if value is None or isinstance(value, dict | list):
        return f"{_called(value, written)} was found where text is expected", "Write text, in quotes."
    kind = str(value).lower() if isinstance(value, bool) else "a number"
    word = shown(written if written is not None else str(value))
    return f"`{word}` is read by YAML as {kind}, not as text", f'Quote it: "{word}".'


def _not_a_number(node: Schema, value: object, written: str | None) -> tuple[str, str]:
    kind = "a whole number" if node["type"] == "integer" else "a number"
    return (
        f"{_called(value, written)} is not {kind} from {node['minimum']} to {node['maximum']}",
        f"Write {kind} in plain digits, without quotes, such as {node['default']}.",
    )


def _called(value: object, written: str | None) -> str:
    if value is None:  # not from a file, where a missing value is refused before; from a stored definition
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    word = f"`{shown(written if written is not None else str(value))}`"
    return f"the text {word}" if isinstance(value, str) else word


def _listed(keys: list[str]) -> str:
    *most, last = [f"`{key}`" for key in keys] or [""]
    return f"{', '.join(most)} or {last}" if most else last


def _schema_at(schema: Schema, path: Path) -> Schema:
    """The part of the JSON Schema that is about the path; empty where it has no opinion."""
    node = schema
    for part in path:
        below = (
            node.get("items", {})
            if isinstance(part, int)
            else node.get("properties", {}).get(part) or _of_any_key(node)
        )
        while "$ref" in below:
            below = {**schema["$defs"][below["$ref"].rpartition("/")[2]], **_without_ref(below)}
        node = below
    return node


def _of_any_key(node: Schema) -> Schema:
    """What the schema says of the values of a mapping whose keys are the user's own."""
    any_key: Schema | bool = next(
        iter(node.get("patternProperties", {}).values()), node.get("additionalProperties", {})
    )
    return any_key if isinstance(any_key, dict) else {}


def _without_ref(node: Schema) -> Schema:
    return {key: value for key, value in node.items() if key != "$ref"}
