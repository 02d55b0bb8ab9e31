"""Parameters: which values they take, and that a value becomes one constant and nothing else."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from backfilld.migrations.errors import UsageError
from backfilld.migrations.file.migration import Migration, parse

if TYPE_CHECKING:
    from collections.abc import Mapping


def file(type_: str, where: str = "x = ${v}", **more: Any) -> str:
    declared = ", ".join([f"type: {type_}", *(f"{key}: {value}" for key, value in more.items())])
    return f"""
name: a
parameters:
  v: {{{declared}}}
operations:
  - backfill: {{table: t, set: {{c: "1"}}, where: "{where}"}}
"""


def where(text: str, given: Mapping[str, Any] | None = None) -> str:
    return parse(text, parameters=given).operations[0].model_dump()["where"]  # type: ignore[no-any-return] # of a dump


@pytest.mark.parametrize(
    ("type_", "given", "constant"),
    [
        ("text", "north", "'north'::text"),
        ("text", "it's", "'it''s'::text"),
        ("text", "", "''::text"),
        ("text", r"a\' OR true --", r"E'a\\'' OR true --'::text"),
        ("text", "${v}", "'${v}'::text"),
        ("integer", "42", "'42'::integer"),
        ("integer", -5, "'-5'::integer"),
        ("integer", "2147483648", "'2147483648'::bigint"),
        ("number", "1.50", "'1.50'::numeric"),
        ("number", Decimal("1E+3"), "'1000'::numeric"),
        ("number", 0.5, "'0.5'::numeric"),
        ("boolean", "true", "'true'::boolean"),
        ("boolean", False, "'false'::boolean"),
        ("date", "2026-01-31", "'2026-01-31'::date"),
        ("date", dt.date(2026, 1, 31), "'2026-01-31'::date"),
        ("timestamp", "2026-01-31 12:00", "'2026-01-31 12:00:00'::timestamp"),
        ("timestamp", dt.datetime(2026, 1, 31, tzinfo=dt.UTC), "'2026-01-31 00:00:00+00:00'::timestamptz"),
    ],
)
def test_a_value_is_a_constant_of_its_type(type_: str, given: Any, constant: str) -> None:
    assert where(file(type_), {"v": given}).removeprefix("x =").strip() == constant


@pytest.mark.parametrize(
    ("type_", "given"),
    [
        *[("integer", one) for one in ("", "1.5", "a", True, 1.0, "9223372036854775808", "1_000", "٣ ")],
        *[("number", one) for one in ("", "NaN", "Infinity", "a", True, "1e9999")],
        *[("boolean", one) for one in ("yes", "1", 1, "")],
        *[("date", one) for one in ("2026-13-01", "tomorrow", "", 5, dt.datetime(2026, 1, 1, tzinfo=dt.UTC))],
        *[("timestamp", one) for one in ("noon", 5, "")],
        *[("text", one) for one in (5, True, "a\0b")],
    ],
)
def test_a_value_of_another_type_is_refused_by_name(type_: str, given: Any) -> None:
    with pytest.raises(UsageError, match="the parameter v: "):
        parse(file(type_), parameters={"v": given})


def test_a_value_that_is_missing_or_unknown_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"v \(text: a word\) has no value: --set v=VALUE"):
        parse(file("text", description="a word"))
    with pytest.raises(UsageError, match="no parameter w: it has v"):
        parse(file("text"), parameters={"v": "a", "w": "b"})
    with pytest.raises(UsageError, match="no parameter v: it has none"):
        parse("{name: a, operations: [{backfill: {table: t, set: {c: '1'}}}]}", parameters={"v": "a"})


def test_a_constant_stands_apart_from_what_is_before_it() -> None:
    """`x'5'` is a constant of bits, `'a''b'` one string, and `a--5` ends in a comment."""
    assert where(file("integer", "a-${v} = x${v}"), {"v": -5}) == "a- '-5'::integer = x '-5'::integer"
    assert where(file("text", "'a'${v}"), {"v": "b"}) == "'a' 'b'::text"


def test_what_is_no_parameter_stays_as_it_is() -> None:
    text = "a::int[] @> ${v} AND b->>'${c}' = '$1' AND d = $$ ${e} $$"
    assert where(file("integer", text), {"v": 1}) == text.replace("${v}", "'1'::integer")


def test_the_values_are_kept_and_part_of_the_checksum() -> None:
    five, six = (parse(file("integer", default=5), parameters=given) for given in ({}, {"v": "6"}))
    assert five.checksum == parse(file("integer"), parameters={"v": 5}).checksum != six.checksum
    assert six.values == {"v": "6"}
    again = Migration.from_canonical(six.canonical())
    assert (again.checksum, again.values, again.operations) == (six.checksum, six.values, six.operations)
    assert six.with_parameters({"v": 5}).checksum == five.checksum


def test_a_description_is_a_comment() -> None:
    text = file("integer", default=5)
    assert parse(text).checksum == parse(file("integer", default=5, description="the tenant")).checksum
