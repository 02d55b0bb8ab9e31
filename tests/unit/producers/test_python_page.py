"""docs/python.md is the reference of the client: every method with its parameters, every exception with its exit code."""

from __future__ import annotations

import ast
import inspect
import re

from paths import ROOT

import backfilld
from backfilld import BackfilldError, Client

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
#: The code in the first column of each table.
ROWS = [row for row in re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE) if row[0].islower()]


def test_every_public_method_is_on_the_page_and_nothing_else() -> None:
    methods = {name for name in vars(Client) | vars_of_bases() if not name.startswith("_")}
    assert {row.partition("(")[0] for row in ROWS} == methods
    assert len(ROWS) == len(methods), "each once"


def vars_of_bases() -> dict[str, object]:
    return {name: value for base in Client.__mro__[1:-1] for name, value in vars(base).items()}


def test_every_method_is_shown_with_its_parameters_and_their_defaults() -> None:
    for row in ROWS:
        if "(" not in row:
            continue
        call = ast.parse(row, mode="eval").body
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Name)
        shown = [
            *((ast.unparse(one), inspect.Parameter.empty) for one in call.args),
            *((one.arg, ast.literal_eval(one.value)) for one in call.keywords),
        ]
        parameters = list(inspect.signature(getattr(Client, call.func.id)).parameters.values())[1:]
        assert shown == [(one.name, one.default) for one in parameters], row


def test_every_exception_is_exported_and_on_the_page_with_its_exit_code() -> None:
    exceptions = {
        name
        for name in backfilld.__all__
        if isinstance(one := getattr(backfilld, name), type) and issubclass(one, BackfilldError)
    }
    there = dict(re.findall(r"^\| `([A-Z]\w+)` \| (\d) \|", PAGE, re.MULTILINE))
    assert set(there) == exceptions
    assert {name: int(code) for name, code in there.items()} == {
        name: getattr(backfilld, name).exit_code for name in exceptions
    }


def test_no_exception_of_ours_is_left_out() -> None:
    from backfilld.migrations import errors  # noqa: PLC0415 - the test is about it
    from backfilld.producers import waiting  # noqa: PLC0415 - as above

    ours = {
        name
        for module in (errors, waiting)
        for name, one in vars(module).items()
        if isinstance(one, type) and issubclass(one, BackfilldError)
    }
    assert ours <= set(backfilld.__all__)


def test_what_is_not_there_is_no_attribute() -> None:
    assert not hasattr(backfilld, "nothing_of_this_name")
    assert backfilld.Progress.__name__ == "Progress"
