"""The types of a schema, in whichever language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from backfilld.producers.code.pydantic_models import pydantic_models
from backfilld.producers.code.typescript_types import typescript_types

if TYPE_CHECKING:
    from backfilld.migrations.planning.planned_schema import PlannedSchema


def text(schema: PlannedSchema, language: Literal["typescript", "python"]) -> str:
    """The text of the module of types."""
    return pydantic_models(schema) if language == "python" else typescript_types(schema)
