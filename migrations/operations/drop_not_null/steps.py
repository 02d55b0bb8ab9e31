"""Let a column be NULL.

expand    DROP NOT NULL, so that a backfill of the same file may write NULL, and an application that does can be deployed

No statement that works today fails for it. The way back proves NOT NULL as `set_not_null` does: it looks for rows that are NULL,
adds a check NOT VALID, validates it, and only then sets NOT NULL, which scans nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from backfilld.migrations.file import operations as file
from backfilld.migrations.operations.base import Action, Plain, Step, object_name
from backfilld.migrations.operations.ddl import columns
from backfilld.migrations.operations.ddl.constraints import not_null_check, settled_not_null


@dataclass(frozen=True, kw_only=True)
class DropNotNull(Plain[file.DropNotNull]):
    """A `drop_not_null` of a migration, bound to a database."""

    def expand(self) -> tuple[Step, ...]:
        table, column = self.table, self.definition.column
        name = object_name("backfilld_not_null", self.migration, self.number)
        proof = not_null_check(table, column, name=name, key=self.facts.key)
        again = Action(table=table, statements=settled_not_null(table, column, proof=proof))
        return (
            Action(
                table=table,
                statements=(columns.drop_not_null(table, column),),
                back=(*proof.steps(looks=True), again),
            ),
        )
