"""Verbs about the application's code around a migration: uses, codegen, types, check."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations of these functions when it runs
from typing import TYPE_CHECKING, Annotated

import typer

from backfilld.migrations.file import migration as definition
from backfilld.monitoring.words import counted
from backfilld.producers import answers
from backfilld.producers.cli.options import FileArgument, Json, Set, parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.producers.code.finds import Use, Uses


def uses(
    file: FileArgument,
    *,
    where: Annotated[
        list[Path], typer.Option("--in", metavar="PATH", help="A file or folder of code. May be given several times.")
    ],
    fail: Annotated[bool, typer.Option("--fail", help="Exit 1 where a certain use is found, for pipelines.")] = False,
    values: Set = None,
    as_json: Json = False,
) -> None:
    """Find the lines of an application that name what a migration changes. Needs no database; needs the extra `application`.

    Example: backfilld uses migrations/jobs.yaml --in src --in supabase/functions
    """
    from backfilld.producers.code import uses as code_uses  # noqa: PLC0415 - for this verb alone

    found = code_uses.uses(definition.load(file, parameters(values)), where)
    answers.give(as_json=as_json, value=found.to_json, text=lambda: _uses(found))
    if fail and found.certain:
        raise typer.Exit(1)


def _uses(found: Uses) -> str:
    lines: list[str] = []
    for change in found.changes:
        certain = [one for one in found.certain if one.change == change]
        lines += [f"{change.subject} {change.in_words}", *_listed(certain), ""]
    if found.mentions:
        lines += ["the word alone, which may be about something else; look yourself:", *_listed(found.mentions), ""]
    if not found.changes:
        lines.append("this migration renames, retypes and drops nothing")
    for number in found.unknown:
        lines.append(f"operations[{number}] is SQL: what it changes is not known, and was not searched for")
    lines += [f"not read: {one.file}: {one.because}" for one in found.unread]
    lines.append(
        f"{counted(len(found.certain), 'certain use')} and {counted(len(found.mentions), 'mention')} "
        f"in {counted(found.files, 'file')}"
    )
    return "\n".join(lines)


def _listed(several: Sequence[Use]) -> list[str]:
    places = [f"{one.file}:{one.line}:{one.column}" for one in several]
    widest = max(map(len, places), default=0)
    return [
        f"  {where:<{widest}}  {one.how:<8}  {one.text[:100]}".rstrip()
        for where, one in zip(places, several, strict=True)
    ]
