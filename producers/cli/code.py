"""Verbs about the application's code around a migration: uses, codegen, types, check."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - typer reads the annotations of these functions when it runs
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backfilld.migrations.errors import UsageError
from backfilld.monitoring.words import counted
from backfilld.producers import answers
from backfilld.producers.cli.options import FileArgument, Json, Set, client, parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfilld.migrations.file.migration import Migration
    from backfilld.producers.checks import Checks
    from backfilld.producers.code.finds import Use, Uses


class Moment(StrEnum):
    """The moments of `types`."""

    TODAY = "today"
    EXPAND = "expand"
    SWITCH = "switch"
    CONTRACT = "contract"


class Language(StrEnum):
    """The languages that are written."""

    TYPESCRIPT = "typescript"
    PYTHON = "python"


Lang = Annotated[Language, typer.Option("--lang", help="The language to write.", show_choices=True)]
Write = Annotated[
    Path | None,
    typer.Option("--write", metavar="FILE", help="Write this file, in place of what is there. Default: print it."),
]


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

    found = code_uses.uses(_load(file, values), where)
    answers.give(as_json=as_json, value=found.to_json, text=lambda: _uses(found))
    if fail and found.certain:
        raise typer.Exit(1)


def codegen(  # noqa: PLR0913 - its options
    file: FileArgument,
    *,
    lang: Lang,
    remove_by: Annotated[
        datetime | None,
        typer.Option(
            "--remove-by",
            formats=["%Y-%m-%d"],
            metavar="DATE",
            help="The date by which the module is to be removed. Default: in 30 days.",
        ),
    ] = None,
    write: Write = None,
    values: Set = None,
    as_json: Json = False,
) -> None:
    """Write the module with which code reads either schema, for code that is deployed before the switch. Needs no database.

    Example: backfilld codegen migrations/jobs.yaml --lang typescript --write src/jobs_transition.ts
    """
    from backfilld.producers.code import codegen as generated  # noqa: PLC0415 - for this verb alone
    from backfilld.producers.code import python_module, typescript_module  # noqa: PLC0415 - as above

    migration = _load(file, values)
    made = generated.module(migration, remove_by=remove_by.date() if remove_by is not None else None)
    text = typescript_module.typescript(made) if lang is Language.TYPESCRIPT else python_module.python(made)
    for one in made.left_out:
        answers.warn(f"not covered: {one}", as_json=as_json)
    _put(text, write, as_json=as_json, more={"remove_by": str(made.remove_by), "left_out": list(made.left_out)})


def types(  # noqa: PLR0913 - its options
    context: typer.Context,
    file: FileArgument,
    *,
    at: Annotated[Moment, typer.Option("--at", help="Now, or once this phase is done.")],
    lang: Lang = Language.TYPESCRIPT,
    schema: Annotated[
        list[str] | None,
        typer.Option("--schema", metavar="SCHEMA", help="May be given several times. Default: public."),
    ] = None,
    write: Write = None,
    values: Set = None,
    as_json: Json = False,
) -> None:
    """Write the types of the schema that a migration plans: for supabase-js, or pydantic models. Changes nothing, and needs no Docker.

    Example: backfilld types migrations/jobs.yaml --at contract --write src/database.types.ts
    """
    from backfilld.producers.code import schema_types  # noqa: PLC0415 - for this verb alone

    found = client(context, as_json=as_json).planned_schemas(file, schema or ["public"], parameters(values))
    text = schema_types.text(found[at.value], lang.value)
    _put(text, write, as_json=as_json, more={"at": at.value})


def check(
    context: typer.Context,
    file: FileArgument,
    *,
    until: Annotated[
        Moment, typer.Option("--until", help="The last phase to check: the code may need a change before contract.")
    ] = Moment.CONTRACT,
    values: Set = None,
    as_json: Json = False,
) -> None:
    """Run the file's application.commands on this machine against the schema of each phase; exit 1 for a failure that today does not have.

    Example: backfilld check migrations/jobs.yaml --until switch
    """
    asked = client(context, as_json=as_json)
    tell = None if as_json else (lambda text: answers.say(f"running {text}"))
    found = asked.check_code(file, parameters(values), until=until.value, tell=tell)
    answers.give(as_json=as_json, value=found.to_json, text=lambda: _checks(found))
    if not found.is_on_record:
        answers.warn("the verdict is not on record: the database has no schema backfilld yet", as_json=as_json)
    if not found.passes:
        raise typer.Exit(1)


def _checks(found: Checks) -> str:
    from backfilld.migrations.application.code_verdict import SEES_NOTHING  # noqa: PLC0415 - for this verb alone

    lines = []
    for one in found.verdicts:
        if one.fails_from is None:
            lines.append(
                f"{one.name}: passes" + (", as it does today: it fails all the same" if one.fails_today else "")
            )
            if one.sees_types is False:
                lines.append(f"  it {SEES_NOTHING}")
            continue
        lines.append(f"{one.name}: fails from {one.fails_from} on")
        first = next(ran for ran in one.ran if ran.is_new)
        lines += [f"  {line}" for line in first.new_lines]
    return "\n".join(lines)


def _load(file: Path, values: list[str] | None) -> Migration:
    from backfilld.migrations.file import migration as definition  # noqa: PLC0415 - the models of all operations

    return definition.load(file, parameters(values))


def _put(text: str, write: Path | None, *, as_json: bool, more: dict[str, object]) -> None:
    """Print what was written, or put it into a file."""
    if write is not None:
        try:
            write.write_text(text, encoding="utf-8")
        except OSError as exc:
            msg = f"{write} cannot be written: {exc.strerror}"
            raise UsageError(msg) from exc
    if as_json:
        answers.print_json({"file": str(write) if write is not None else None, "text": text, **more})
    else:
        answers.say(f"wrote {write}" if write is not None else text)


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
